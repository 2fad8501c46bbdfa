package store_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/store"
)

func TestVolumes(t *testing.T) {
	t.Parallel()
	dir, ctx := t.TempDir(), t.Context()
	want := mesh.Volume{
		Name: "uploads", Engine: "mesh-1-volume-uploads-b", Pending: "mesh-1-volume-uploads-c", Created: time.Unix(1e9, 0).UTC(), CreatedBy: "laptop",
		Kept: []mesh.KeptFiles{{Engine: "mesh-1-volume-uploads-a", Why: "replaced by an import", Until: time.Unix(2e9, 0).UTC()}},
	}
	closed(t, dir, func(s *store.Store) {
		if _, err := s.Volume(ctx, "uploads"); !errors.Is(err, mesh.NotFound) {
			t.Error(err)
		}
		if err := s.AddVolume(ctx, mesh.Volume{Name: "uploads", Engine: "x", Created: want.Created, CreatedBy: "laptop"}); err != nil {
			t.Fatal(err)
		}
		if err := s.AddVolume(ctx, want); !errors.Is(err, mesh.Conflict) {
			t.Error(err)
		}
		got := must(s.UpdateVolume(ctx, "uploads", func(v *mesh.Volume) error {
			v.Name, v.Engine, v.Pending, v.Kept = "other", want.Engine, want.Pending, want.Kept
			return nil
		}))(t)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v", got)
		}
		if _, err := s.UpdateVolume(ctx, "uploads", func(*mesh.Volume) error { return mesh.Errorf(mesh.Invalid, "no") }); !errors.Is(err, mesh.Invalid) {
			t.Error(err)
		}
		uses := []mesh.VolumeUse{{Volume: "uploads", Service: "web", Path: "/data"}, {Volume: "uploads", Service: "worker", Path: "/in", Shared: true}}
		create(t, s, mesh.Stack{Name: "blog", Volumes: uses})
		d := must(s.BeginDeployment(ctx, mesh.Deployment{Stack: "blog", Kind: mesh.DeployRename, Status: mesh.StatusRunning}))(t)
		if st := must(s.RenameStack(ctx, d, "shop", func(*mesh.Stack) error { return nil }))(t); !slices.Equal(st.Volumes, uses) {
			t.Errorf("after a rename: %+v", st.Volumes)
		}
	})
	closed(t, dir, func(s *store.Store) {
		if got := must(s.Volumes(ctx))(t); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%+v", got)
		}
		if err := errors.Join(s.DestroyStack(ctx, "shop"), s.RemoveVolume(ctx, "uploads")); err != nil {
			t.Error(err)
		}
		if err := s.RemoveVolume(ctx, "uploads"); !errors.Is(err, mesh.NotFound) {
			t.Error(err)
		}
		for i := range 100 {
			if err := s.AddVolume(ctx, mesh.Volume{Name: mesh.VolumeName(fmt.Sprintf("v%d", i)), Engine: "x"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.AddVolume(ctx, mesh.Volume{Name: "more", Engine: "x"}); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "100 volumes") {
			t.Error(err)
		}
	})
}

// A stack whose volume has a damaged record, or none, cannot be changed: its instances would
// get other files. It can be read, and stacks without volumes are as before.
func TestVolumes_Damage(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*testing.T, string){
		"a flipped bit": func(t *testing.T, dir string) {
			edit(t, dir, func(path []string, v []byte) []byte {
				if path[0] == "volumes" {
					v[len(v)/3] ^= 4
				}
				return v
			})
		},
		"another name": func(t *testing.T, dir string) { rekey(t, dir, []string{"volumes", "uploads"}, "uploadz") },
		"an unknown field": func(t *testing.T, dir string) {
			edit(t, dir, func(path []string, v []byte) []byte {
				if path[0] == "volumes" {
					return []byte(`{"v":1,"name":"uploads","engine":"x","new":1,"created":"2026-01-01T00:00:00Z"}`)
				}
				return v
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, ctx := t.TempDir(), t.Context()
			closed(t, dir, func(s *store.Store) {
				if err := s.AddVolume(ctx, mesh.Volume{Name: "uploads", Engine: "x"}); err != nil {
					t.Fatal(err)
				}
				create(t, s, mesh.Stack{Name: "blog", Volumes: []mesh.VolumeUse{{Volume: "uploads", Service: "web", Path: "/data"}}})
				create(t, s, mesh.Stack{Name: "shop"})
			})
			spoil(t, dir)
			s := must(store.Open(dir))(t)
			defer s.Close()
			var whole []string
			for _, d := range s.Damaged() {
				if d.Whole {
					whole = append(whole, string(d.Stack))
				}
				if !strings.Contains(d.What, "the volume upload") {
					t.Errorf("%+v", d)
				}
			}
			if !slices.Equal(whole, []string{"blog"}) {
				t.Errorf("stacks that cannot run as recorded: %v, of %+v", whole, s.Damaged())
			}
			if _, err := s.Volume(ctx, "uploads"); err == nil {
				t.Error("it was read")
			}
			noop := func(*mesh.Stack) error { return nil }
			if _, err := s.UpdateStack(ctx, "blog", noop); !errors.Is(err, mesh.Damaged) {
				t.Errorf("changed: %v", err)
			}
			if _, err := s.UpdateStack(ctx, "shop", noop); err != nil {
				t.Error(err)
			}
			if st, err := s.Stack(ctx, "blog"); err != nil || len(st.Volumes) != 1 {
				t.Errorf("%+v, %v", st, err)
			}
		})
	}
}
