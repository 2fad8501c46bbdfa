package deploy_test

import (
	"errors"
	"io"
	"sync"
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
)

// autocreate says for whom a push creates a stack; one that exists is not affected.
func TestAutoCreate(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		if _, err := d.CreateStack(t.Context(), "blog", "ci"); err != nil {
			t.Fatal(err)
		}
		deployer := mesh.Key{Name: "dev", Role: mesh.RoleDeploy}
		limited := mesh.Key{Name: "limited", Role: mesh.RoleAdmin, Stacks: []mesh.StackName{"new", "blog"}}
		for value, may := range map[mesh.AutoCreate][3]bool{"": {true, true, true}, mesh.AutoCreateAdmins: {true, false, false}, mesh.AutoCreateOff: {}} {
			if _, err := d.SetServer(t.Context(), "ci", func(s *mesh.ServerSettings) error { s.AutoCreate = value; return nil }); err != nil {
				t.Fatal(err)
			}
			for i, k := range []mesh.Key{admin, deployer, limited} {
				if err := d.AdmitPush(t.Context(), k, "new"); (err == nil) != may[i] || err != nil && !errors.Is(err, mesh.NoStack) {
					t.Errorf("%q, %s to a new stack: %v", value, k.Name, err)
				}
				if err := d.AdmitPush(t.Context(), k, "blog"); err != nil {
					t.Errorf("%q, %s to one that exists: %v", value, k.Name, err)
				}
			}
		}
	})
}

// The default stack is known at the start, and follows renames.
func TestDefaultStack(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		var mu sync.Mutex
		host := mesh.Host("?")
		w.Options.OnDefault = func(h mesh.Host) {
			mu.Lock()
			defer mu.Unlock()
			host = h
		}
		is := func() mesh.Host {
			mu.Lock()
			defer mu.Unlock()
			return host
		}
		d, stop := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.SetServer(t.Context(), "ci", func(s *mesh.ServerSettings) error { s.DefaultStack = "blog"; return nil }); err != nil || is() != "blog.localhost" {
			t.Errorf("%v, %q", err, is())
		}
		if _, err := d.SetServer(t.Context(), "ci", func(s *mesh.ServerSettings) error { s.DefaultStack = "nosuch"; return nil }); !errors.Is(err, mesh.NoStack) || is() != "blog.localhost" {
			t.Errorf("%v, %q", err, is())
		}
		if err := d.RenameStack(t.Context(), "blog", "shop", "ci", io.Discard); err != nil || is() != "shop.localhost" {
			t.Errorf("%v, %q", err, is())
		}
		stop()
		d, _ = w.Start()
		if is() != "shop.localhost" {
			t.Errorf("after a restart %q", is())
		}
		if err := d.DestroyStack(t.Context(), "shop", "ci"); err != nil || is() != "" {
			t.Errorf("%v, %q", err, is())
		}
	})
}
