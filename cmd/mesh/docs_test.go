package main

import (
	"bytes"
	"io"
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

// TestDocs_Fresh fails if a page differs from the output of "make docs".
func TestDocs_Fresh(t *testing.T) {
	for page, print := range map[string]func(io.Writer){"commands.md": command.Document, "words.md": command.DocumentWords, "settings.md": documentSettings} {
		var want bytes.Buffer
		print(&want)
		if read(t, filepath.Join(top, "docs", page)) != want.String() {
			t.Errorf("docs/%s is stale: run make docs", page)
		}
	}
}

// TestDocs_EveryFlag fails if a flag of mesh serve has no environment variable, except
// the one that no server needs at every start.
func TestDocs_EveryFlag(t *testing.T) {
	var s settings
	flags := 0
	s.flags().VisitAll(func(f *pflag.Flag) {
		flags++
		if flagDocs[f.Name].variable == "" && f.Name != "start-over" {
			t.Errorf("--%s has no environment variable", f.Name)
		}
	})
	if flags != len(flagDocs) {
		t.Errorf("%d flags, and %d rows about them", flags, len(flagDocs))
	}
}

// TestDocs_EveryVerb fails if a verb of the scripts has no row in their README, or the
// README has a row for an unknown verb.
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

// TestDocs_Links fails when a relative link in the documentation points to a file
// or a heading that does not exist.
func TestDocs_Links(t *testing.T) {
	pages := []string{filepath.Join(top, "README.md"), filepath.Join(top, "CONTRIBUTING.md"), filepath.Join(top, "SECURITY.md")}
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
				t.Errorf("%s: %s does not exist", page, m[1])
				continue
			}
			if anchor != "" && !anchors(read(t, path))[anchor] {
				t.Errorf("%s: %s: %s has no such heading", page, m[1], path)
			}
		}
	}
}

// TestDocs_Moves fails when a command of the pages about moves is not in their transcript.
func TestDocs_Moves(t *testing.T) {
	script := strings.ReplaceAll(read(t, filepath.Join("testdata", "script", "moving.txtar")), "''", "'")
	command := regexp.MustCompile(`(?m)^ {4,}((?:heroku|dokku|git|ssh mesh|mesh) .*)$`)
	for _, page := range []string{"from-heroku.md", "from-dokku.md"} {
		found := command.FindAllStringSubmatch(read(t, filepath.Join(top, "docs", page)), -1)
		if len(found) < 10 {
			t.Errorf("%s: only %d commands were found", page, len(found))
		}
		for _, m := range found {
			if !strings.Contains(script, m[1]) {
				t.Errorf("%s: not in moving.txtar: %s", page, m[1])
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

// anchors returns the headings of a page as links name them.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		slug := notSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(m[1])), "")
		found[strings.ReplaceAll(slug, " ", "-")] = true
	}
	return found
}
