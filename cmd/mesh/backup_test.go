package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/repos"
	"mesh/store"
)

// dataToBackUp is a new data directory that is open until the test ends.
func dataToBackUp(t *testing.T) *serverInfo {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	r, err := repos.Open(repos.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &serverInfo{info: mesh.ServerInfo{Data: dir, Version: "test"}, store: s, repos: r}
}

// aBackup creates a server's data directory and backs it up.
func aBackup(t *testing.T) []byte {
	t.Helper()
	data := dataToBackUp(t)
	if _, err := data.store.CreateStack(t.Context(), mesh.Stack{Name: "shop", Config: mesh.Config{"A": mesh.NewSecret("one")}}, nil); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		"repos/shop.git/HEAD": "ref: refs/heads/main\n", "logs/shop/deployment-1.log": "built\n", "events/shop.log": strings.Repeat("x", 700),
		"ready.json": "{}", "lost/x": "x", "somebody's": "x",
	} {
		path = filepath.Join(data.info.Data, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := data.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// refused checks that a restore fails with a sentence, and writes nothing.
func refused(t *testing.T, what string, data []byte) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	_, _, err := restore(bytes.NewReader(data), dir)
	var e *mesh.Error
	if !errors.As(err, &e) || e.Hint == "" {
		t.Errorf("%s: %v", what, err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: something was written", what)
	}
}

func TestRestore_NoFlippedBitIsBelieved(t *testing.T) {
	t.Parallel()
	whole := aBackup(t)
	if files, sound, err := verify(bytes.NewReader(whole)); err != nil || !sound || files < 5 {
		t.Fatalf("%d files, %v, %v", files, sound, err)
	}
	edge := 4096
	for at := 0; at < len(whole); at++ {
		if at > edge && at < len(whole)-edge && at%61 != 0 {
			continue
		}
		b := bytes.Clone(whole)
		b[at] ^= 1 << (at % 8)
		if _, _, err := verify(bytes.NewReader(b)); err == nil {
			t.Errorf("a bit of byte %d of %d was flipped, and nobody noticed", at, len(whole))
		}
	}
	for n := 0; n < len(whole)-1024; n += 509 {
		if _, _, err := verify(bytes.NewReader(whole[:n])); err == nil {
			t.Errorf("cut to %d of %d bytes, and nobody noticed", n, len(whole))
		}
	}
	b := bytes.Clone(whole)
	b[len(b)/2] ^= 4
	refused(t, "flipped", b)
	refused(t, "cut", whole[:len(whole)/2])
	refused(t, "cut in its last blocks", whole[:len(whole)-1024])
	refused(t, "with something behind it", append(bytes.Clone(whole), "more"...))
	refused(t, "empty", nil)
	refused(t, "no tar", bytes.Repeat([]byte("x"), 4096))

	dir := filepath.Join(t.TempDir(), "data")
	if _, warnings, err := restore(bytes.NewReader(whole), dir); err != nil || len(warnings) > 0 {
		t.Fatalf("%v, %v", warnings, err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "repos/shop.git/HEAD")); err != nil || string(data) != "ref: refs/heads/main\n" {
		t.Errorf("restored %q, %v", data, err)
	}
	for _, name := range []string{"lost", "ready.json", "somebody's"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was backed up", name)
		}
	}
}

// remade copies a backup, with another format and one more entry.
func remade(t *testing.T, whole []byte, format int, more *tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h *tar.Header, data []byte) {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	files := -1
	for r := tar.NewReader(bytes.NewReader(whole)); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == endName {
			break
		}
		if h.Name == manifestName {
			data = fmt.Appendf(nil, `{"format":%d}`, format)
			h.Size = int64(len(data))
		}
		if h.Typeflag == tar.TypeReg {
			files++
		}
		put(h, data)
	}
	if more != nil {
		if more.Typeflag == tar.TypeReg {
			files++
		}
		put(more, make([]byte, more.Size))
	}
	text := fmt.Sprint(files)
	put(&tar.Header{Name: endName, Size: int64(len(text)), Typeflag: tar.TypeReg}, []byte(text))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What was being created when the backup was made may be in use on this machine: a start does not
// discard it.
func TestRestore_AnAddonThatWasBeingCreated(t *testing.T) {
	t.Parallel()
	data := dataToBackUp(t)
	a := mesh.Addon{Name: "ledger", Kind: "postgres", Version: "15", Image: "postgres:15", State: mesh.AddonCreating, Volume: "mesh-1-ledger-a", Created: time.Unix(1, 0).UTC()}
	other := a
	other.Name, other.State, other.Volume, other.Pending = "store", mesh.AddonReady, "mesh-1-store-a", "mesh-1-store-b"
	for _, a := range []mesh.Addon{a, other} {
		if err := data.store.AddAddon(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := data.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	_, warnings, err := restore(bytes.NewReader(b.Bytes()), dir)
	if err != nil || len(warnings) != 2 || !strings.Contains(warnings[0], "the add-on ledger was being created") || !strings.Contains(warnings[1], "is in the volume mesh-1-store-b") {
		t.Fatalf("%q, %v", warnings, err)
	}
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Addon(t.Context(), "ledger"); err != nil || got.State != mesh.AddonReady || got.Volume != a.Volume {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := s.Addon(t.Context(), "store"); err != nil || got.Pending != "" || got.Volume != other.Volume {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRestore_EarlierFormat(t *testing.T) {
	t.Parallel()
	whole := aBackup(t)
	_, warnings, err := restore(bytes.NewReader(remade(t, whole, 1, nil)), filepath.Join(t.TempDir(), "data"))
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "no checksum") {
		t.Errorf("%v, %v", warnings, err)
	}
	refused(t, "without its checksum", remade(t, whole, 2, nil))
	refused(t, "of a later mesh", remade(t, whole, 3, nil))
	refused(t, "of format 0", remade(t, whole, 0, nil))
}

func TestRestore_RefusesEntriesThatLeadElsewhere(t *testing.T) {
	t.Parallel()
	whole := aBackup(t)
	for _, format := range []int{1, 2} {
		for _, h := range []*tar.Header{
			{Name: "../../evil-out", Size: 4, Typeflag: tar.TypeReg},
			{Name: "/etc/evil", Size: 4, Typeflag: tar.TypeReg},
			{Name: "repos/../../evil", Size: 4, Typeflag: tar.TypeReg},
			{Name: "../", Typeflag: tar.TypeDir},
			{Name: "repos/./x", Size: 4, Typeflag: tar.TypeReg},
			{Name: "repos/link", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink},
			{Name: "repos/hard", Linkname: "mesh.db", Typeflag: tar.TypeLink},
			{Name: "repos/pipe", Typeflag: tar.TypeFifo},
			{Name: "mesh.db", Size: 4, Typeflag: tar.TypeReg},
		} {
			refused(t, h.Name, remade(t, whole, format, h))
		}
	}
	refused(t, "what is not mesh's", remade(t, whole, 2, &tar.Header{Name: "authorized_keys", Size: 4, Typeflag: tar.TypeReg}))
}

type full struct{ room int }

func (f *full) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, errors.New("broken pipe")
	}
	return len(p), nil
}

func TestBackup_SaysThatItWasCutOff(t *testing.T) {
	t.Parallel()
	data := dataToBackUp(t)
	for _, room := range []int{0, 1000, 20_000} {
		_, err := data.Backup(t.Context(), &full{room})
		if !errors.Is(err, mesh.Cancelled) || !strings.Contains(err.Error(), "the backup was cut off") {
			t.Errorf("room for %d bytes: %v", room, err)
		}
	}
}
