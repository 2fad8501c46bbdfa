package mesh_test

import (
	"testing"

	"mesh"
)

func TestParseForgeURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		host, path string
		kind       mesh.ForgeKind
	}{
		"https://github.com/acme/blog":            {"github.com", "acme/blog", mesh.GitHub},
		"https://github.com/acme/blog.git":        {"github.com", "acme/blog", mesh.GitHub},
		"git@github.com:acme/blog.git":            {"github.com", "acme/blog", mesh.GitHub},
		"ssh://git@gitlab.example:2222/a/b/c.git": {"gitlab.example", "a/b/c", mesh.GitLab},
		"http://127.0.0.1:3000/acme/blog.git":     {"127.0.0.1:3000", "acme/blog", ""},
		"https://codeberg.org/x/y/":               {"codeberg.org", "x/y", mesh.Gitea},
	} {
		got, err := mesh.ParseForgeURL(in)
		f := mesh.Forge{URL: got}
		if host, path := f.WebURL(); err != nil || host != want.host || path != want.path || f.Known() != want.kind {
			t.Errorf("%q: %s %s %s, %v", in, host, path, f.Known(), err)
		}
	}
	for _, in := range []string{"", "/etc/passwd", "file:///etc", "github.com/acme/blog", "https://me:pw@github.com/a/b", "https://me@github.com/a/b", "https://github.com", "-oProxyCommand=x@h:y", "git@-h:y", "git@host:-x", "ext::sh -c x", "https://github.com/a b", "https://h/a?x=1"} {
		if got, err := mesh.ParseForgeURL(in); err == nil {
			t.Errorf("%q was taken as %q", in, got)
		}
	}
}

func TestForge_Pending(t *testing.T) {
	t.Parallel()
	f := mesh.Forge{}.With("a").With("b").With("a")
	if len(f.Pending) != 2 || len(f.Without("a").Pending) != 1 || len(f.Pending) != 2 {
		t.Errorf("%v", f.Pending)
	}
}
