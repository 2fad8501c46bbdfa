package mesh_test

import (
	"slices"
	"strings"
	"testing"

	"mesh"
)

func TestConfig_Changes(t *testing.T) {
	t.Parallel()
	secret := func(pairs ...string) mesh.Config {
		c := mesh.Config{}
		for i := 0; i < len(pairs); i += 2 {
			c[pairs[i]] = mesh.NewSecret(pairs[i+1])
		}
		return c
	}
	d := secret("A", "1", "B", "1", "C", "1").Changes(secret("B", "1", "C", "2", "E", "", "D", "1"))
	if got := d.String(); got != "adds D, E; changes C; removes A" || d.Empty() {
		t.Error(got)
	}
	for _, same := range []mesh.Config{nil, {}, secret("A", "1")} {
		if d := same.Changes(same.Clone()); !d.Empty() || d.String() != "" {
			t.Errorf("%v", d)
		}
	}
}

// What differs is told without values; the same release differs in nothing.
func TestRelease_Changes(t *testing.T) {
	t.Parallel()
	was := mesh.Release{
		Commit: mesh.Commit(strings.Repeat("a", 40)), Image: mesh.Image{ID: "sha256:a"}, Config: mesh.Config{"A": mesh.NewSecret("old-secret")},
		Services:  map[mesh.ServiceName]mesh.Service{"web": {Command: "./web"}, "worker": {}, "old": {}},
		Formation: mesh.Formation{"web": 1, "worker": 1},
	}
	next := mesh.Release{
		Source: "the image redis:7", Image: mesh.Image{ID: "sha256:b"}, Config: mesh.Config{"A": mesh.NewSecret("new-secret")},
		Services:  map[mesh.ServiceName]mesh.Service{"web": {Command: "./serve"}, "worker": {}, "new": {Command: "./new"}},
		Formation: mesh.Formation{"web": 3, "worker": 1},
	}
	want := []string{
		"image    the image redis:7 instead of aaaaaaa", "config   changes A", "service  adds new: ./new", "service  removes old", "command  of web: ./serve instead of ./web", "scale    web=3 instead of 1",
	}
	if got := was.Changes(next); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := was.Changes(was); len(got) != 0 {
		t.Errorf("the same: %q", got)
	}
}

// A rollback without a number skips releases that differ only in the number of instances.
func TestBefore(t *testing.T) {
	t.Parallel()
	release := func(n mesh.ReleaseNumber, image string, scale int, memory int64) mesh.Release {
		return mesh.Release{Number: n, Image: mesh.Image{ID: image}, Services: map[mesh.ServiceName]mesh.Service{"web": {Memory: memory}}, Formation: mesh.Formation{"web": scale}}
	}
	all := []mesh.Release{release(5, "b", 3, 0), release(4, "b", 1, 0), release(3, "b", 1, 64<<20), release(2, "a", 1, 0), release(1, "a", 1, 0)}
	for current, want := range map[mesh.ReleaseNumber]mesh.ReleaseNumber{5: 3, 4: 3, 3: 2, 2: 0, 1: 0, 9: 0} {
		if got := mesh.Before(all, current); got != want {
			t.Errorf("before %s: %s, want %s", current, got, want)
		}
	}
	if len(all[0].Formation) != 1 || all[1].Formation["web"] != 1 {
		t.Error("the releases were changed")
	}
	if got := all[2].Changes(all[1]); !slices.Equal(got, []string{"limits   of web: no memory limit, no CPU limit instead of memory 64 MB, no CPU limit"}) {
		t.Errorf("got %q", got)
	}
}
