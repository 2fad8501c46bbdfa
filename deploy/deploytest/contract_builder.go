package deploytest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"mesh"
	"mesh/deploy"
)

// Workshop is a Builder under test, and what the suite needs to use it.
type Workshop struct {
	Builder deploy.Builder
	Stack   mesh.StackName // used by nobody else
	Other   mesh.StackName // the same
	Good    mesh.Tree      // has a Dockerfile that builds
	Bad     mesh.Tree      // has a Dockerfile with a step that fails and prints why
	// Request returns a build of Stack, tagged mesh/<stack>:<tag>.
	Request func(tree mesh.Tree, tag string) mesh.Build
}

// TestBuilder is the contract of deploy.Builder.
func TestBuilder(t *testing.T, w Workshop) {
	t.Helper()
	b, ctx := w.Builder, t.Context()
	t.Cleanup(func() {
		for _, stack := range []mesh.StackName{w.Stack, w.Other} {
			if err := b.Collect(context.Background(), stack, nil); err != nil {
				t.Errorf("collect %s: %v", stack, err)
			}
		}
	})
	build := func(ctx context.Context, tree mesh.Tree, tag string) (mesh.Image, string, error) {
		var out strings.Builder
		img, err := b.Build(ctx, w.Request(tree, tag), &out)
		return img, out.String(), err
	}
	present := func(id string, want bool) {
		t.Helper()
		if got, err := b.Present(ctx, id); err != nil || got != want {
			t.Errorf("%s is present: %v, %v", id, got, err)
		}
	}
	img, out, err := build(ctx, w.Good, "one")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if img.ID == "" || img.Ref != "mesh/"+string(w.Stack)+":one" || !strings.HasPrefix(out, "-----> ") || !strings.HasSuffix(out, "\n") {
		t.Errorf("image %+v, output %q", img, out)
	}
	present(img.ID, true)
	present("sha256:"+strings.Repeat("0", 64), false)

	var failed *mesh.Error
	if _, _, err := build(ctx, w.Bad, "bad"); !errors.As(err, &failed) || failed.Kind != mesh.Failed || failed.Text == "" || strings.Contains(failed.Text, "\n") {
		t.Errorf("a build that fails: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := build(gone, w.Good, "gone"); err == nil {
		t.Error("built for a caller that is gone")
	}
	if text, managed, err := b.Dockerfile(w.Good, mesh.Settings{}); err != nil || managed || text == "" {
		t.Errorf("its Dockerfile: %q, %v, %v", text, managed, err)
	}
	stacks := func() []mesh.StackName {
		t.Helper()
		all, err := b.Stacks(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	// Images follow the name of their stack. A second call finds nothing to do.
	for range 2 {
		if err := b.Rename(ctx, w.Stack, w.Other); err != nil {
			t.Fatal(err)
		}
		if all := stacks(); slices.Contains(all, w.Stack) || !slices.Contains(all, w.Other) {
			t.Errorf("after the rename: %v", all)
		}
	}
	// Only kept images stay. A dry run reports the others without removing them.
	keep := func(_ mesh.StackName, id string) bool { return id != img.ID }
	dry, err := b.Sweep(ctx, keep, true)
	if err != nil || !slices.ContainsFunc(dry, func(g mesh.Garbage) bool { return g.ID == img.ID && g.Stack == w.Other }) {
		t.Errorf("would sweep %+v, %v", dry, err)
	}
	present(img.ID, true)
	if err := b.Collect(ctx, w.Other, map[string]bool{img.ID: true}); err != nil {
		t.Error(err)
	}
	present(img.ID, true)
	for range 2 {
		if err := b.Collect(ctx, w.Other, nil); err != nil {
			t.Error(err)
		}
	}
	present(img.ID, false)
	if all := stacks(); slices.Contains(all, w.Other) {
		t.Errorf("nothing is left of it, and it is named: %v", all)
	}
	if err := b.Tag(ctx, img.ID, "mesh/"+string(w.Stack)+":v1"); err == nil {
		t.Error("named an image that is gone")
	}
}
