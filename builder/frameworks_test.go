//go:build !race

package builder_test

import (
	"flag"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

var slow = flag.Bool("slow", false, "build the applications of testdata/frameworks/slow as well")

// Each archive of testdata/frameworks is a small application of a framework or a
// package manager, without a Dockerfile. It builds, runs without privileges, answers
// on $PORT and stops on SIGTERM; a rebuild after an edit installs nothing again. The
// lines at the top list the base images (image), settings (set), the expected output
// (prints), the answer to GET / (answer) and to another path (also), the file to
// edit (edit) and the step that must then be CACHED (cached).
//
// Those in the folder slow take a minute each and are only built with -slow: make
// examples.
func TestBuild_Frameworks(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("testdata/frameworks/*.txtar")
	if *slow {
		more, _ := filepath.Glob("testdata/frameworks/slow/*.txtar")
		archives = append(archives, more...)
	}
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			says := map[string][]string{}
			for l := range strings.SplitSeq(strings.TrimSpace(string(a.Comment)), "\n") {
				k, v, _ := strings.Cut(l, ": ")
				says[k] = append(says[k], v)
			}
			files := tree{}
			for _, f := range a.Files {
				files[f.Name] = string(f.Data)
			}
			bases(t, strings.Fields(says["image"][0])...)
			b := newBench(t)
			req := b.req(files)
			for _, s := range says["set"] {
				name, v, _ := strings.Cut(s, "=")
				if err := req.Settings.Set(name, v); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			img, out := b.must(req)
			t.Logf("first build %s, %d MB", time.Since(began).Round(10*time.Millisecond), img.Size/1e6)
			for _, want := range says["prints"] {
				if !strings.Contains(out, want) {
					t.Errorf("the output lacks %q", want)
				}
			}
			if user := userOf(t, img.ID); user == "" || user == "root" || user == "0" {
				t.Errorf("it runs as %q", user)
			}
			serves(t, img, says["answer"][0], says["also"]...)

			edited := says["edit"][0]
			if files[edited] == "" {
				t.Fatalf("no file %q", edited)
			}
			files[edited] += "\n"
			began = time.Now()
			_, out = b.must(req)
			t.Logf("after an edit %s", time.Since(began).Round(10*time.Millisecond))
			for _, step := range says["cached"] {
				if !wasCached(out, step) {
					t.Errorf("%q ran again", step)
				}
			}
		})
	}
}

// wasCached reports whether a step of a build was not run again.
func wasCached(out, step string) bool {
	for l := range strings.SplitSeq(out, "\n") {
		if strings.Contains(l, step) && strings.HasSuffix(l, "CACHED") {
			return true
		}
	}
	return false
}
