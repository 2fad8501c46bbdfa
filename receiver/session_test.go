package receiver

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"mesh"
)

func TestGitLine(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"git-receive-pack 'blog'":          {"receive-pack", "blog"},
		"git-receive-pack '/blog'":         {"receive-pack", "blog"},
		"git-receive-pack '/blog.git'":     {"receive-pack", "blog"},
		"git-receive-pack '/blog.git/'":    {"receive-pack", "blog"},
		"git-receive-pack 'blog/'":         {"receive-pack", "blog"},
		"git-receive-pack '~/blog'":        {"receive-pack", "blog"},
		"git-receive-pack '/~/blog.git'":   {"receive-pack", "blog"},
		"git-upload-pack '/my-app-2'":      {"upload-pack", "my-app-2"},
		"git upload-pack '/blog'":          {"upload-pack", "blog"},
		"git-receive-pack '/a.git.git'":    nil,
		"git-receive-pack '/.git'":         nil,
		"git-receive-pack ''":              nil,
		"git-receive-pack '/'":             nil,
		"git-receive-pack blog":            nil,
		"git-receive-pack 'a/b'":           nil,
		"git-receive-pack '../blog'":       nil,
		"git-receive-pack '/..'":           nil,
		"git-receive-pack '/../../etc'":    nil,
		"git-receive-pack '-blog'":         nil,
		"git-receive-pack '--help'":        nil,
		"git-receive-pack '~root/blog'":    nil,
		"git-receive-pack 'Blog'":          nil,
		"git-receive-pack 'blog' ":         nil,
		"git-receive-pack 'blog'; id":      nil,
		"git-receive-pack 'blog'\nid":      nil,
		"git-receive-pack 'blog\n'":        nil,
		"git-receive-pack 'bl''og'":        nil,
		"git-receive-pack 'a'\\''b'":       nil,
		"git-receive-pack --x 'blog'":      nil,
		"git-upload-archive '/blog'":       nil,
		"git-shell":                        nil,
		" git-receive-pack 'blog'":         nil,
		"git-receive-pack '/blog\x00'":     nil,
		"git-receive-pack '//blog'":        nil,
		"git-receive-pack \"blog\"":        nil,
		"git-lfs-authenticate blog upload": nil,
	} {
		m := gitLine.FindStringSubmatch(line)
		if want == nil && m != nil || want != nil && (m == nil || !slices.Equal(m[1:], want)) {
			t.Errorf("%q matches %q, want %q", line, m, want)
		}
	}
}

// FuzzGitLine: whatever matches is a plain label that cannot leave its folder or
// look like an option.
func FuzzGitLine(f *testing.F) {
	for _, s := range []string{"git-receive-pack '/blog.git'", "git upload-pack '~/a-b'", "git-receive-pack '../x'", "git-upload-pack '/~/x/'"} {
		f.Add(s)
	}
	label := regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	f.Fuzz(func(t *testing.T, s string) {
		m := gitLine.FindStringSubmatch(s)
		if m == nil {
			return
		}
		if m[1] != "receive-pack" && m[1] != "upload-pack" || !label.MatchString(m[2]) || strings.ContainsAny(m[2], "/.") || m[2][0] == '-' {
			t.Errorf("%q matches %q", s, m)
		}
		if n, err := mesh.ParseStackName(m[2]); err == nil && string(n) != m[2] {
			t.Errorf("%q names %q", s, n)
		}
	})
}

func TestTerminalEnv(t *testing.T) {
	t.Parallel()
	got := terminalEnv([]string{"NO_COLOR=1", "GIT_CONFIG_COUNT=1", "LD_PRELOAD=x", "PATH=y", "NO_COLOR2=1", "bad"})
	if len(got) != 1 || got["NO_COLOR"] != "1" {
		t.Errorf("got %v", got)
	}
}

func TestWindowSize(t *testing.T) {
	t.Parallel()
	if w := windowSize(1<<31, 5); w != (mesh.WindowSize{Width: 10_000, Height: 5}) {
		t.Errorf("got %v", w)
	}
	if _, ok := parsePTY([]byte("x")); ok {
		t.Error("a pty-req of one byte")
	}
}
