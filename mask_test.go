package mesh_test

import (
	"slices"
	"strings"
	"testing"

	"mesh"
)

func TestConfig_Hidden(t *testing.T) {
	t.Parallel()
	c := mesh.Config{
		"GREETING": mesh.NewSecret("hello there"), "SHORT": mesh.NewSecret("hello"), "PIN_KEY": mesh.NewSecret("1234"), "MODE": mesh.NewSecret("production"),
		"PASSWORD": mesh.NewSecret("plainword"), "AUTHOR": mesh.NewSecret("anna"), "PEM": mesh.NewSecret("BEGIN KEY\r\n  abcdefgh  \n\nx\n"), "EMPTY_TOKEN": mesh.NewSecret(""),
	}
	got := c.Hidden(nil)
	slices.Sort(got)
	want := []string{"1234", "BEGIN KEY", "abcdefgh", "hello there", "plainword", "production"}
	if !slices.Equal(got, want) {
		t.Errorf("hidden %q, want %q", got, want)
	}
	word := func(part string) bool { return !strings.ContainsAny(part, " 0123456789") }
	got = c.Hidden(word)
	slices.Sort(got)
	if want := []string{"1234", "BEGIN KEY", "hello there", "plainword"}; !slices.Equal(got, want) {
		t.Errorf("without words %q, want %q", got, want)
	}
}

func TestNewMasker(t *testing.T) {
	t.Parallel()
	m := mesh.NewMasker([]string{"pass", "password", "pass"}, "mesh.")
	if got, want := m.Replace("a password, a pass, mesh.X"), "a "+mesh.Mask+", a "+mesh.Mask+", X"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := mesh.NewMasker(nil).Replace("nothing to hide"); got != "nothing to hide" {
		t.Errorf("got %q", got)
	}
}
