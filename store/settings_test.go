package store_test

import (
	"errors"
	"testing"

	"mesh"
	"mesh/store"
)

func TestServerSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	set := func(want mesh.ServerSettings) {
		t.Helper()
		closed(t, dir, func(s *store.Store) {
			if got := must(s.ServerSettings(t.Context()))(t); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
	set(mesh.ServerSettings{})
	closed(t, dir, func(s *store.Store) {
		create(t, s, mesh.Stack{Name: "blog"})
		for _, err := range []error{mesh.NoStack, mesh.Invalid} {
			_, got := s.UpdateServerSettings(t.Context(), func(v *mesh.ServerSettings) error {
				v.DefaultStack, v.AutoCreate = "nosuch", mesh.AutoCreateOff
				if err == mesh.Invalid { //nolint:errorlint // a constant
					return mesh.Errorf(mesh.Invalid, "no")
				}
				return nil
			})
			if !errors.Is(got, err) {
				t.Errorf("%v, want %v", got, err)
			}
		}
		must(s.UpdateServerSettings(t.Context(), func(v *mesh.ServerSettings) error {
			v.DefaultStack, v.AutoCreate = "blog", mesh.AutoCreateAdmins
			return nil
		}))(t)
	})
	set(mesh.ServerSettings{AutoCreate: mesh.AutoCreateAdmins, DefaultStack: "blog"})
	closed(t, dir, func(s *store.Store) {
		d := must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog", Kind: mesh.DeployRename, Status: mesh.StatusRunning}))(t)
		must(s.RenameStack(t.Context(), d, "shop", func(*mesh.Stack) error { return nil }))(t)
	})
	set(mesh.ServerSettings{AutoCreate: mesh.AutoCreateAdmins, DefaultStack: "shop"})
	closed(t, dir, func(s *store.Store) {
		if err := s.DestroyStack(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
	})
	set(mesh.ServerSettings{AutoCreate: mesh.AutoCreateAdmins})
}
