package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"mesh/command"
)

const top = "../.." // of the repository

// TestDocs_CommandsFresh fails when docs/commands.md is not what "make docs"
// prints.
func TestDocs_CommandsFresh(t *testing.T) {
	have, err := os.ReadFile(filepath.Join(top, "docs", "commands.md"))
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	command.Document(&want)
	if !bytes.Equal(have, want.Bytes()) {
		t.Error("docs/commands.md is stale: run make docs")
	}
}

// TestDocs_EverySetting fails when docs/operating.md has not every flag of mesh
// serve, in one row with its variable.
func TestDocs_EverySetting(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(top, "docs", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	var s settings
	s.flags().VisitAll(func(f *pflag.Flag) {
		row := "| `--" + f.Name + "` | `" + variables[f.Name] + "` |"
		if variables[f.Name] == "" { // what no server is started with twice
			row = "| `--" + f.Name + "` | none |"
		}
		if !strings.Contains(string(page), row) {
			t.Errorf("docs/operating.md has no row %q", row)
		}
	})
}

// TestDocs_EveryVerb fails when a verb of the scripts has no row in their README, or
// the README one that there is not.
func TestDocs_EveryVerb(t *testing.T) {
	page := read(t, filepath.Join("testdata", "script", "README.md"))
	rows := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)").FindAllStringSubmatch(page, -1) {
		rows[m[1]] = true
	}
	for name := range verbs {
		if !rows[name] {
			t.Errorf("no row for the verb %s", name)
		}
	}
	for name := range rows {
		if verbs[name] == nil {
			t.Errorf("there is no verb %s", name)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```")
	notSlug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestDocs_Links fails when a relative link in the documentation leads nowhere,
// or to a heading that is not there.
func TestDocs_Links(t *testing.T) {
	pages := []string{filepath.Join(top, "README.md")}
	err := filepath.WalkDir(filepath.Join(top, "docs"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		text := read(t, page)
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			path := page
			if to != "" {
				path = filepath.Join(filepath.Dir(page), to)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %s leads nowhere", page, m[1])
				continue
			}
			if anchor != "" && !anchors(read(t, path))[anchor] {
				t.Errorf("%s: %s: %s has no such heading", page, m[1], path)
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// anchors are the headings of a page as links name them.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		slug := notSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(m[1])), "")
		found[strings.ReplaceAll(slug, " ", "-")] = true
	}
	return found
}
