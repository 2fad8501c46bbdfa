package mesh_test

import (
	"errors"
	"strings"
	"testing"

	"mesh"
)

func TestCheckCommand(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                      "",
		"./server --port $PORT":                 "",
		"sh -c 'a\nb'":                          "",
		strings.Repeat("x", mesh.MaxCommand):    "",
		strings.Repeat("(", mesh.MaxCommand+1):  "bytes long, at most 16384 are allowed",
		"a\x00b":                                "contains a NUL byte",
		"caf\xe9":                               "is not valid UTF-8",
		strings.Repeat("$(", mesh.MaxCommand/2): "",
	} {
		err := mesh.CheckCommand(text)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

func TestCheckVar(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"":                             "",
		"grüße\n\t\"quotes\"":          "",
		strings.Repeat("x", 128<<10-3): "",
		strings.Repeat("x", 128<<10-2): "the kernel's limit for one config var is 131072",
		"hush\x00":                     "contains a NUL byte",
		"hush\xe9":                     "is not valid UTF-8",
	} {
		err := mesh.CheckVar("V", mesh.NewSecret(value))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", value, err, want)
		}
		var e *mesh.Error
		if errors.As(err, &e) && (e.Hint == "" || strings.Contains(e.Text+e.Hint, "hush")) {
			t.Errorf("%q, %q", e.Text, e.Hint)
		}
	}
	if err := mesh.CheckVar("PORT", mesh.NewSecret("1")); !errors.Is(err, mesh.Invalid) {
		t.Error(err)
	}
}
