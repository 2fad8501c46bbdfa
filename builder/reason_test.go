//go:build !race

package builder_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"mesh"
)

// A reason that a hundred lines of usage have pushed away is shown last, with the command
// that mends it.
func TestBuild_ReasonScrolledAway(t *testing.T) {
	t.Parallel()
	bases(t, "debian", "node")
	b := newBench(t)
	_, _, err := b.build(b.req(tree{
		"package.json":      `{"name":"x","version":"1.0.0","engines":{"node":"20"},"scripts":{"start":"node a.js"},"dependencies":{"is-number":"7.0.0"}}`,
		"package-lock.json": `{"name":"x","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{"":{"name":"x","version":"1.0.0"}}}`,
		"a.js":              "",
	}))
	var e *mesh.Error
	if !errors.As(err, &e) || len(e.Output) < 5 || len(e.Output) > 30 {
		t.Fatalf("error %v, output %q", err, e.Output)
	}
	if last := e.Output[len(e.Output)-1]; last != "npm error Missing: is-number@7.0.0 from lock file" {
		t.Errorf("the last line is %q", last)
	}
	if !slices.Contains(e.Output, "… and further up:") || e.Hint != "bring the lock file up to date: run npm install, and commit package-lock.json" {
		t.Errorf("hint %q, output %q", e.Hint, e.Output)
	}
}

// A front end without a page is a failed build, not a site that answers 403.
func TestBuild_SiteWithoutIndex(t *testing.T) {
	t.Parallel()
	bases(t, "nginx", "node")
	b := newBench(t)
	_, _, err := b.build(b.req(tree{
		"package.json":      `{"name":"x","engines":{"node":"20"},"scripts":{"build":"mkdir -p dist/server && touch dist/server/server.js"},"devDependencies":{"vite":"file:vite"}}`,
		"vite/package.json": `{"name":"vite","version":"5.0.0"}`,
	}))
	var e *mesh.Error
	if !errors.As(err, &e) || e.Text != "the build made no dist/index.html" || !strings.Contains(e.Hint, "output=DIR") || !slices.Contains(e.Output, "server") {
		t.Fatalf("error %v, hint %q, output %q", err, e.Hint, e.Output)
	}
}
