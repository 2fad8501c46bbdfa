package builder_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"

	"mesh"
)

func leftoverImages(t *testing.T, server string) (ids []string) {
	t.Helper()
	found, err := cli.ImageList(t.Context(), image.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "mesh.server="+server))})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range found {
		ids = append(ids, i.ID)
	}
	return ids
}

func TestCollect(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	made := func(content, tag string) mesh.Image {
		req := b.req(tree{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": content})
		req.Tags = []string{"mesh/" + string(b.stack) + ":" + tag}
		img, _ := b.must(req)
		return img
	}
	kept, old, used, foreign := made("1", "one"), made("2", "two"), made("3", "three"), made("4", "four")
	moved := made("5", "two") // takes old's only tag
	for img, ref := range map[string]string{kept.ID: "mesh/" + string(b.stack) + ":v1", foreign.ID: "mesh-test/" + run + ":foreign"} {
		if err := b.Tag(t.Context(), img, ref); err != nil {
			t.Fatal(err)
		}
	}
	c, err := cli.ContainerCreate(t.Context(), &container.Config{Image: used.ID, Cmd: []string{"x"}, Labels: map[string]string{testLabel: run}}, nil, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Collect(t.Context(), b.stack, map[string]bool{kept.ID: true}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []struct {
		name string
		img  mesh.Image
		want bool
	}{
		{"kept", kept, true},
		{"without a tag", old, false},
		{"used by a container", used, true},
		{"not kept", moved, false},
		{"tagged by others", foreign, true},
	} {
		if got, err := b.Present(t.Context(), w.img.ID); err != nil || got != w.want {
			t.Errorf("%s: present %v, %v", w.name, got, err)
		}
	}
	if err := b.Tag(t.Context(), moved.ID, "mesh/x:1"); !errors.Is(err, mesh.NotFound) {
		t.Errorf("tag of a missing image: %v", err)
	}
	if err := cli.ContainerRemove(context.Background(), c.ID, container.RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if _, err := cli.ImageRemove(context.Background(), "mesh-test/"+run+":foreign", image.RemoveOptions{}); err != nil {
		t.Error(err)
	}
}

// The names of images tell which stacks have images. Those of another server, or
// with only a label, do not count.
func TestStacks(t *testing.T) {
	t.Parallel()
	b, other := newBench(t), newBench(t)
	for _, o := range []*bench{b, other} {
		req := o.req(tree{"Dockerfile": "FROM scratch\nLABEL mesh.stack=elsewhere\nCOPY a /\n", "a": o.server})
		req.Tags = []string{"mesh/" + string(o.stack) + ":one"}
		img, _ := o.must(req)
		if err := o.Tag(t.Context(), img.ID, "mesh-test/"+run+"-"+o.server+":x"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_, _ = cli.ImageRemove(context.Background(), "mesh-test/"+run+"-"+o.server+":x", image.RemoveOptions{})
		})
	}
	got, err := b.Stacks(t.Context())
	if err != nil || len(got) != 1 || got[0] != b.stack {
		t.Errorf("got %v, %v; want %s", got, err, b.stack)
	}
}

// A deployment collects in the background what "gc" removes at the same time.
func TestCollect_ManyAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 3 {
		img, _ := b.must(b.fresh(tree{"Dockerfile": from(fmt.Sprintf("RUN echo %d > /n", i))}))
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := b.Collect(t.Context(), b.stack, nil); err != nil {
					t.Error(err)
				}
			})
			all.Go(func() {
				if _, err := b.Sweep(t.Context(), func(mesh.StackName, string) bool { return false }, false); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if there, err := b.Present(t.Context(), img.ID); err != nil || there {
			t.Errorf("the image is there: %v, %v", there, err)
		}
	}
}
