package mesh_test

import (
	"errors"
	"strings"
	"testing"

	"mesh"
)

func TestCheckText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"web: ./run é\n", ""},
		{"\ufeffweb: x\r\n", ""},
		{"# caf\xe9\n  # caf\xe9\nweb: x\n", ""},
		{"web: x\nworker: caf\xe9\n", `F:2: "worker: caf\xe9" is not valid UTF-8`},
		{"\xff\xfew\x00e\x00b\x00", "F is UTF-16"},
		{"\xfe\xff\x00w", "F is UTF-16"},
		{"a\nw\x00e\x00", "F:2 contains a NUL byte"},
	} {
		err := mesh.CheckText("F", []byte(c.text))
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, mesh.Invalid) || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	if err := mesh.CheckNoUTF16("F", []byte("caf\xe9\n")); err != nil {
		t.Error(err)
	}
}
