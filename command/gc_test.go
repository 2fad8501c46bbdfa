package command_test

import (
	"slices"
	"strings"
	"testing"
)

func TestGC(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	r := do(t, f, "gc --dry-run")
	if r.status != 0 || !strings.Contains(r.out, "blog   0123456789ab  84 MB\nshop   fedcba987654  5.0 MB  mesh/shop:v1\n2 images of at most 89 MB, and 3000 MB of build cache, would be removed\n") {
		t.Errorf("got %d, %q", r.status, r.out)
	}
	if r := do(t, f, "gc"); r.status != 0 || !strings.HasSuffix(r.out, "of build cache, removed\n") {
		t.Errorf("got %q", r.out)
	}
	if !slices.Equal(f.did, []string{"collect dry=true", "collect dry=false"}) {
		t.Errorf("did %v", f.did)
	}
	if r := do(t, f, "gc --json --dry-run"); !strings.Contains(r.out, `"removed": false`) || !strings.Contains(r.out, `"names": []`) {
		t.Errorf("got %s", r.out)
	}
}

func TestBuildCache(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	if r := do(t, f, "build:cache"); r.out != "1.0 MB of 20.0 GB\n" {
		t.Errorf("got %q, %s", r.out, r.err)
	}
	if r := do(t, f, "build:cache --clear"); r.out != "12 MB freed\n" {
		t.Errorf("got %q, %s", r.out, r.err)
	}
	if r := do(t, f, "ps:rebuild --no-cache"); r.status != 0 || !slices.Contains(f.did, "rebuild blog by laptop true") {
		t.Errorf("did %v, %s", f.did, r.err)
	}
}
