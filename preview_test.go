package mesh_test

import (
	"strings"
	"testing"
	"time"

	"mesh"
)

func TestPreviewNames(t *testing.T) {
	t.Parallel()
	long := mesh.StackName(strings.Repeat("a", 40))
	for _, c := range []struct {
		of     mesh.StackName
		branch string
		plain  mesh.StackName // empty: only one with a hash
	}{
		{"shop", "feat", "shop--feat"},
		{"shop", "feat/login", "shop--feat-login"},
		{"shop", "FEAT_Login!", "shop--feat-login"},
		{"shop", "feat-login", "shop--feat-login"},
		{"shop", "1234", "shop--1234"},
		{"shop", "é", ""},
		{"shop", "@", ""},
		{"shop", strings.Repeat("x", 34), "shop--" + mesh.StackName(strings.Repeat("x", 34))},
		{"shop", strings.Repeat("x", 35), ""},
		{"shop", strings.Repeat("x", 200), ""},
		{long, "feat", ""},
		{long[:29] + "-b", "feat", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa-b--feat"},
		{long[:29] + "-bcdefg", "feat", ""},
	} {
		names := mesh.PreviewNames(c.of, c.branch)
		if c.plain != "" && (len(names) != 2 || names[0] != c.plain) || c.plain == "" && len(names) != 1 {
			t.Errorf("%s, %q: %q, want %q first", c.of, c.branch, names, c.plain)
		}
		for _, n := range names {
			if _, err := mesh.ParseStackName(string(n)); err != nil || !strings.Contains(string(n), "--") {
				t.Errorf("%s, %q: %q: %v", c.of, c.branch, n, err)
			}
		}
	}
	// Branches that look the same, and stacks whose names are cut.
	seen := map[mesh.StackName]bool{}
	for _, n := range []mesh.StackName{
		last("shop", "feat/login"), last("shop", "feat-login"), last("shop", "FEAT-login"), last(long, "feat"), last(long[:39]+"b", "feat"),
	} {
		if seen[n] {
			t.Errorf("%s is the name of two previews", n)
		}
		seen[n] = true
	}
}

func last(of mesh.StackName, branch string) mesh.StackName {
	names := mesh.PreviewNames(of, branch)
	return names[len(names)-1]
}

func FuzzPreviewNames(f *testing.F) {
	f.Add("shop", "feat/login")
	f.Add("a-b", "ünï/@{x}")
	f.Fuzz(func(t *testing.T, of, branch string) {
		parent, err := mesh.ParseStackName(of)
		if err != nil {
			return
		}
		for _, n := range mesh.PreviewNames(parent, branch) {
			if _, err := mesh.ParseStackName(string(n)); err != nil || !strings.Contains(string(n), "--") {
				t.Errorf("%q, %q: %q: %v", of, branch, n, err)
			}
		}
	})
}

func TestSettings_Previews(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value, kept, yes, no string // of previews, and branches
	}{
		{"", "", "", "feat"},
		{"true", "true", "feat a/b é", ""},
		{"*", "true", "feat", ""},
		{"ON", "true", "feat", ""},
		{"false", "false", "", "feat true false"},
		{"feat/*, fix/*", "feat/*,fix/*", "feat/a feat/a/b fix/1", "feat main xfeat/a fix"},
		{"*/ui-?", "*/ui-?", "x/ui-1 a/b/ui-2", "ui-1 x/ui-12"},
		{"v[12]", "v[12]", "v1 v2", "v3"},
	} {
		var s mesh.Settings
		if err := s.Set("previews", c.value); err != nil || s.Get("previews") != c.kept {
			t.Errorf("%q: %q, %v, want %q", c.value, s.Get("previews"), err, c.kept)
		}
		for _, b := range strings.Fields(c.yes) {
			if !s.Previewed(b) {
				t.Errorf("previews=%s leaves out %s", c.value, b)
			}
		}
		for _, b := range strings.Fields(c.no) {
			if s.Previewed(b) {
				t.Errorf("previews=%s has %s", c.value, b)
			}
		}
	}
	for name, values := range map[string]string{
		"previews":     "true,feat/* feat[ ~x a:b",
		"previews-ttl": "1s 0 -1h 36500d soon",
		"previews-max": "0 -1 101 many",
	} {
		for _, v := range strings.Fields(values) {
			var s mesh.Settings
			if err := s.Set(name, v); err == nil {
				t.Errorf("%s=%s was taken as %q", name, v, s.Get(name))
			}
		}
	}
	var s mesh.Settings
	if s.PreviewsLive() != 7*24*time.Hour || s.PreviewsMost() != 10 {
		t.Errorf("by default %d for %s", s.PreviewsMost(), s.PreviewsLive())
	}
	if err := s.Set("previews-ttl", "1d12h"); err != nil || s.PreviewsLive() != 36*time.Hour || s.Get("previews-ttl") != "36h0m0s" {
		t.Errorf("%s, %q, %v", s.PreviewsLive(), s.Get("previews-ttl"), err)
	}
}

func TestCheckBranch(t *testing.T) {
	t.Parallel()
	for _, b := range []string{"main", "feat/login", "é", "-x", "a@b", "#1", "a'b\"c", "1.2", "x{y}", strings.Repeat("x", 250)} {
		if err := mesh.CheckBranch(b); err != nil {
			t.Errorf("%q: %v", b, err)
		}
	}
	for _, b := range []string{"", "a b", "a:refs/heads/main", "a..b", "a//b", "*", "x?", "x[", "x\\", "@", "a@{1}", "/a", "a/", ".a", "a/.b", "a.", "a.lock", "a\nb", strings.Repeat("x", 251)} {
		if err := mesh.CheckBranch(b); err == nil {
			t.Errorf("%q was taken", b)
		}
	}
}
