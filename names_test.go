package mesh_test

import (
	"errors"
	"strings"
	"testing"

	"mesh"
)

func TestParseStackName(t *testing.T) {
	t.Parallel()
	good := []string{"a", "blog", "b2", "my-app", "a-b-c", "a--b", strings.Repeat("a", 40)}
	for _, s := range good {
		if n, err := mesh.ParseStackName(s); err != nil || string(n) != s {
			t.Errorf("ParseStackName(%q) = %q, %v", s, n, err)
		}
		if n, err := mesh.ParseServiceName(s); err != nil || string(n) != s {
			t.Errorf("ParseServiceName(%q) = %q, %v", s, n, err)
		}
	}
	bad := []string{
		"", "-", "a-", "-a", "1a", "A", "aB", "a_b", "a.b", "a/b", "a b", "a\n", "\na", "é", "a\x00",
		strings.Repeat("a", 41), "..", "a/../b",
	}
	for _, s := range bad {
		_, err := mesh.ParseStackName(s)
		if !errors.Is(err, mesh.Invalid) {
			t.Errorf("ParseStackName(%q) = %v, want invalid", s, err)
		}
		if _, err := mesh.ParseServiceName(s); !errors.Is(err, mesh.Invalid) {
			t.Errorf("ParseServiceName(%q) = %v, want invalid", s, err)
		}
	}
	if _, err := mesh.ParseStackName("mesh"); !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), "reserved") {
		t.Errorf("mesh is reserved, got %v", err)
	}
	if _, err := mesh.ParseServiceName("mesh"); err != nil {
		t.Errorf("a service may be called mesh: %v", err)
	}
}

func TestParseKeyName(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"a", "laptop", "Ada", "ada@work", "a.b_c-d", "1", strings.Repeat("k", 64)} {
		if n, err := mesh.ParseKeyName(s); err != nil || string(n) != s {
			t.Errorf("ParseKeyName(%q) = %q, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "-a", "a-", ".", "a b", "a\n", "a/b", "ä", strings.Repeat("k", 65)} {
		if _, err := mesh.ParseKeyName(s); !errors.Is(err, mesh.Invalid) {
			t.Errorf("ParseKeyName(%q) = %v, want invalid", s, err)
		}
	}
}

func TestParseVarName(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"A", "_", "GREETING", "a1", "PORT_", "MESH", strings.Repeat("A", 128)} {
		if n, err := mesh.ParseVarName(s); err != nil || n != s {
			t.Errorf("ParseVarName(%q) = %q, %v", s, n, err)
		}
	}
	for s, says := range map[string]string{
		"PORT": "mesh chooses the port", "MESH_STACK": "MESH_", "MESH_": "MESH_",
		"": "not a config var name", "1A": "not a config var name", "A-B": "not a config var name", "A B": "not a config var name",
		"A=B": "not a config var name", "A\n": "not a config var name", strings.Repeat("A", 129): "not a config var name",
	} {
		if _, err := mesh.ParseVarName(s); !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("ParseVarName(%q) = %v, want invalid and %q", s, err, says)
		}
	}
}

func TestParseHost(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"example.com": "example.com", "WWW.Example.COM": "www.example.com", "example.com.": "example.com",
		"*.example.com": "*.example.com", "localhost": "localhost", "a_b.example": "a_b.example", "xn--bcher-kva.ch": "xn--bcher-kva.ch",
	} {
		if h, err := mesh.ParseHost(in); err != nil || string(h) != want {
			t.Errorf("ParseHost(%q) = %q, %v, want %q", in, h, err, want)
		}
	}
	for _, s := range []string{
		"", ".", "*", "*.", "a..b", ".a", "-a.com", "a-.com", "http://a.com", "a.com/x", "a.com:80", "127.0.0.1", "::1", "a b", "a\nb", "bücher.ch",
		"*.*.com", "a.*.com", strings.Repeat("a", 64) + ".com", strings.Repeat("a.", 130) + "com",
	} {
		if h, err := mesh.ParseHost(s); !errors.Is(err, mesh.Invalid) {
			t.Errorf("ParseHost(%q) = %q, %v, want invalid", s, h, err)
		}
	}
}

func TestParseNumbers(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{"1": 1, "v12": 12, "12": 12} {
		if n, err := mesh.ParseReleaseNumber(in); err != nil || int(n) != want {
			t.Errorf("ParseReleaseNumber(%q) = %d, %v", in, n, err)
		}
	}
	for _, s := range []string{"", "v", "v0", "0", "-1", "v-1", "+1", "v+1", "vv1", "1.0", "#1", "99999999999999999999"} {
		if n, err := mesh.ParseReleaseNumber(s); !errors.Is(err, mesh.Invalid) {
			t.Errorf("ParseReleaseNumber(%q) = %d, %v, want invalid", s, n, err)
		}
	}
	for in, want := range map[string]int{"1": 1, "#42": 42} {
		if n, err := mesh.ParseDeploymentNumber(in); err != nil || int(n) != want {
			t.Errorf("ParseDeploymentNumber(%q) = %d, %v", in, n, err)
		}
	}
	for _, s := range []string{"", "#", "#0", "0", "-1", "#-1", "+1", "#+1", "v1"} {
		if n, err := mesh.ParseDeploymentNumber(s); !errors.Is(err, mesh.Invalid) {
			t.Errorf("ParseDeploymentNumber(%q) = %d, %v, want invalid", s, n, err)
		}
	}
	if s := mesh.ReleaseNumber(0).String(); s != "-" {
		t.Errorf("no release prints as %q", s)
	}
	if s := mesh.ReleaseNumber(3).String() + mesh.DeploymentNumber(4).String(); s != "v3#4" {
		t.Errorf("numbers print as %q", s)
	}
}

func TestParseInstanceName(t *testing.T) {
	t.Parallel()
	if n, err := mesh.ParseInstanceName("my-worker.12"); err != nil || n.Service != "my-worker" || n.Slot != 12 || n.String() != "my-worker.12" {
		t.Errorf("got %v, %v", n, err)
	}
	for _, s := range []string{"", "web", "web.", "web.0", "web.-1", "web.+1", "web.x", ".1", "web.1.1", "Web.1"} {
		if n, err := mesh.ParseInstanceName(s); !errors.Is(err, mesh.Invalid) {
			t.Errorf("ParseInstanceName(%q) = %v, %v, want invalid", s, n, err)
		}
	}
}

func TestParseCommit(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("0123456789", 4)
	c, err := mesh.ParseCommit(id)
	if err != nil || c.Short() != "0123456" {
		t.Errorf("got %q, %v", c, err)
	}
	if s := mesh.Commit("").Short(); s != "" {
		t.Errorf("no commit is short for %q", s)
	}
	for _, s := range []string{"", id[:39], id + "0", strings.ToUpper("abcdef") + id[:34], id[:39] + "\n", "HEAD"} {
		if _, err := mesh.ParseCommit(s); !errors.Is(err, mesh.Invalid) {
			t.Errorf("ParseCommit(%q) = %v, want invalid", s, err)
		}
	}
}

func TestInstanceName_Compare(t *testing.T) {
	t.Parallel()
	order := []mesh.InstanceName{{"web", 1}, {"web", 2}, {"web", 10}, {"api", 1}, {"worker", 1}}
	for i, a := range order {
		for j, b := range order {
			if got := a.Compare(b); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%s compared with %s gives %d", a, b, got)
			}
		}
	}
}

func TestRefUpdate(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string][2]string{
		"refs/heads/main": {"main", ""}, "refs/heads/a/b": {"a/b", ""}, "refs/tags/v1": {"", "v1"},
		"refs/notes/x": {"", ""}, "refs/heads": {"", ""}, "heads/main": {"", ""}, "": {"", ""},
	} {
		r := mesh.RefUpdate{Ref: ref}
		if r.Branch() != want[0] || r.Tag() != want[1] {
			t.Errorf("%q: branch %q, tag %q", ref, r.Branch(), r.Tag())
		}
	}
}

func TestClip(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in   string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc…"}, {"äöü", 3, "ä…"}, {"", 0, ""}, {"x", 0, "…"}} {
		if got := mesh.Clip(tc.in, tc.n); got != tc.want {
			t.Errorf("Clip(%q, %d) = %q, want %q", tc.in, tc.n, got, tc.want)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"example.com", "*.a.b.", "A.B", "1.2.3.4", "a..b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := mesh.ParseHost(s)
		if err != nil {
			return
		}
		if again, err := mesh.ParseHost(string(h)); err != nil || again != h {
			t.Errorf("%q → %q → %q, %v", s, h, again, err)
		}
		if strings.ContainsAny(string(h), "/: \t\r\n\x00") || strings.ToLower(string(h)) != string(h) {
			t.Errorf("%q became %q", s, h)
		}
	})
}

func FuzzParseInstanceName(f *testing.F) {
	f.Add("web.1")
	f.Add("a-b.07")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := mesh.ParseInstanceName(s)
		if err != nil {
			return
		}
		if again, err := mesh.ParseInstanceName(n.String()); err != nil || again != n {
			t.Errorf("%q → %v → %v, %v", s, n, again, err)
		}
	})
}
