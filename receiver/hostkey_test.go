package receiver

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"mesh"
)

func TestHostKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	// An incomplete file from a killed server does no harm.
	if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := HostKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := HostKey(path); err != nil || !bytes.Equal(again.PublicKey().Marshal(), first.PublicKey().Marshal()) {
		t.Errorf("another key the second time: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || first.PublicKey().Type() != "ssh-ed25519" {
		t.Errorf("%v, %v, %s", info, err, first.PublicKey().Type())
	}
	for _, bad := range []string{"", "garbage", "-----BEGIN OPENSSH PRIVATE KEY-----\n-----END OPENSSH PRIVATE KEY-----\n"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := HostKey(path); !errors.Is(err, mesh.Unavailable) {
			t.Errorf("with %q: %v", bad, err)
		}
		if have, _ := os.ReadFile(path); string(have) != bad {
			t.Errorf("%q was replaced by another key", bad)
		}
	}
	if _, err := HostKey(filepath.Join(path, "below", "a-file")); err == nil {
		t.Error("a path that cannot be")
	}
}
