package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// put writes files into a folder.
func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func output(t *testing.T, args ...string) string {
	t.Helper()
	var b strings.Builder
	if err := run(&b, args); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRun_PrintsOneLineAnApplicationAndCounts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, map[string]string{
		"go/go.mod": "module shop\n", "go/main.go": "package main\n",
		"own/Dockerfile": "FROM scratch\n", "none/README.md": "", ".git/config": "",
	})
	got := output(t, dir)
	for _, want := range []string{
		filepath.Join(dir, "go") + "    Go; starts shop\n",
		filepath.Join(dir, "own") + "   Dockerfile\n",
		filepath.Join(dir, "none") + "  refused: there is no Dockerfile",
		"# 3 applications: 1 built, 1 with their own Dockerfile, 1 refused with a hint, 0 refused without\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the output lacks %q:\n%s", want, got)
		}
	}
}

func TestRun_ComparesWithASavedRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, map[string]string{"a/README.md": "", "b/index.html": ""})
	before := filepath.Join(t.TempDir(), "before")
	if err := os.WriteFile(before, []byte(output(t, dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	put(t, dir, map[string]string{"a/go.mod": "module shop\n", "a/main.go": "package main\n"})
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte(filepath.Join(dir, "a")+"\n"+filepath.Join(dir, "b")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := output(t, "--compare", before, list)
	if !strings.HasPrefix(got, filepath.Join(dir, "a")+"\n  was: refused: ") || !strings.Contains(got, "\n  now: Go; starts shop\n# 1 changed\n") || strings.Contains(got, "Static") {
		t.Errorf("got:\n%s", got)
	}
}
