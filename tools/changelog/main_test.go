package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestChangelog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	page := filepath.Join(dir, "CHANGELOG.md")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("CHANGELOG.md", "# Changelog\n\nWhat users notice.\n")
	for _, d := range []string{"first", "second"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("first/a.md", "Fix: mesh is mended\n")
	write("first/b.md", "New: `git push` deploys\n\nPush to it.\nThat is all.\n")
	write("second/c.md", "Change: another default\n\nSet it.\n")
	for _, args := range [][]string{{"v0.1.0", "2026-01-02", filepath.Join(dir, "first"), page}, {"v0.2.0", "2026-02-03", filepath.Join(dir, "second"), page}} {
		if err := run(args); err != nil {
			t.Fatal(err)
		}
	}
	const want = "# Changelog\n\nWhat users notice.\n\n" +
		"## v0.2.0 (2026-02-03)\n\n### Change\n\n- Another default\n\n  Set it.\n\n" +
		"## v0.1.0 (2026-01-02)\n\n### New\n\n- `git push` deploys\n\n  Push to it.\n  That is all.\n\n### Fix\n\n- mesh is mended\n"
	if got, _ := os.ReadFile(page); string(got) != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if err := run([]string{"v0.1.0", "2026-01-02", filepath.Join(dir, "first"), page}); err == nil {
		t.Error("a version is there twice")
	}
	write("second/d.md", "Something else\n")
	if err := run([]string{"v0.3.0", "2026-01-02", filepath.Join(dir, "second"), page}); err == nil {
		t.Error("a note without a kind was taken")
	}
}

// The unreleased notes can all be gathered.
func TestChangelog_UnreleasedNotes(t *testing.T) {
	t.Parallel()
	if _, err := read("../../docs/changes/unreleased"); err != nil {
		t.Error(err)
	}
}
