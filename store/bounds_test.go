package store_test

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"mesh"
	"mesh/store"
)

func configs(t *testing.T, dir string) (n int) {
	t.Helper()
	edit(t, dir, func(path []string, v []byte) []byte {
		if len(path) > 2 && path[2] == "configs" {
			n++
		}
		return v
	})
	return n
}

// A thousand config:set --no-restart left a thousand versions of the config vars,
// with every old secret in them.
func TestBounds_ConfigsGoWithTheirReleases(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closed(t, dir, func(s *store.Store) {
		create(t, s, mesh.Stack{Name: "blog", Config: mesh.Config{}})
		set := func(n int) mesh.Config {
			return must(s.UpdateStack(t.Context(), "blog", func(st *mesh.Stack) error {
				st.Config = mesh.Config{"N": mesh.NewSecret(fmt.Sprint(n))}
				st.Services = map[mesh.ServiceName]mesh.ServiceSettings{"web": {Config: mesh.Config{"OWN": mesh.NewSecret(fmt.Sprint(n))}}}
				return nil
			}))(t).Config
		}
		for n := range 30 {
			set(n)
		}
		r := release(1)
		r.Config, r.Global = set(100), nil
		r.Services["web"] = mesh.Service{Config: mesh.Config{"OWN": mesh.NewSecret("100")}}
		delete(r.Services, "worker")
		d := must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog", Status: mesh.StatusRunning}))(t)
		must(s.Commit(t.Context(), d, &r, nil))(t)
		for n := range 30 {
			set(n)
		}
		if got := must(s.Release(t.Context(), "blog", 1))(t).Config["N"].Reveal(); got != "100" {
			t.Errorf("the release has %q", got)
		}
		if got := must(s.Stack(t.Context(), "blog"))(t).Config["N"].Reveal(); got != "29" {
			t.Errorf("the stack has %q", got)
		}
		if a, b := must(s.Release(t.Context(), "blog", 1))(t).Services["web"].Config["OWN"].Reveal(), must(s.Stack(t.Context(), "blog"))(t).Services["web"].Config["OWN"].Reveal(); a != "100" || b != "29" {
			t.Errorf("of web: the release has %q, the stack %q", a, b)
		}
	})
	if n := configs(t, dir); n != 4 {
		t.Errorf("%d versions of the config vars are kept, want those of the release and those of the stack, and of a service each", n)
	}
}

func TestBounds_ReleasesAndDeployments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closed(t, dir, func(s *store.Store) {
		create(t, s, mesh.Stack{Name: "blog", Config: mesh.Config{}})
		begin := func() mesh.Deployment {
			return must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog", Status: mesh.StatusRunning}))(t)
		}
		end := func(d mesh.Deployment) {
			d.Status = mesh.StatusFailed
			if err := s.UpdateDeployment(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
		out := func(n mesh.DeploymentNumber) {
			w := must(s.Output("blog", n))(t)
			_, _ = io.WriteString(w, "x\n")
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		open := begin() // its turn has not come yet
		out(open.Number)
		for n := range 205 {
			r := release(mesh.ReleaseNumber(n + 1))
			r.Config = mesh.Config{"N": mesh.NewSecret(fmt.Sprint(n))}
			d := begin()
			if n < 3 {
				out(d.Number)
			}
			must(s.Commit(t.Context(), d, &r, func(st *mesh.Stack) error { st.Config = r.Config; return nil }))(t)
		}
		rs := must(s.Releases(t.Context(), "blog", 0))(t)
		if len(rs) != 200 || rs[0].Number != 205 || rs[199].Number != 6 || rs[199].Config["N"].Reveal() != "5" {
			t.Errorf("%d releases, %s to %s", len(rs), rs[len(rs)-1].Number, rs[0].Number)
		}
		for range 800 {
			end(begin())
		}
		ds := must(s.Deployments(t.Context(), "blog", 0))(t)
		if len(ds) != 1001 || ds[0].Number != 1006 || ds[999].Number != 7 || ds[1000].Number != open.Number {
			t.Errorf("%d deployments, the last are %+v", len(ds), ds[len(ds)-2:])
		}
		left := must(filepath.Glob(filepath.Join(dir, "logs", "blog", "*")))(t)
		if !slices.ContainsFunc(left, func(p string) bool { return filepath.Base(p) == "deployment-1.log" }) {
			t.Errorf("the output of a deployment that has not ended is gone: %v", left)
		}
		end(open)
		begin()
		if left := must(filepath.Glob(filepath.Join(dir, "logs", "blog", "*")))(t); len(left) != 0 {
			t.Errorf("the output of removed deployments is still there: %v", left)
		}
	})
	if n := configs(t, dir); n != 2*200+1 { // its own, those of a service, and those of all stacks, which are the same
		t.Errorf("%d configs for 200 releases", n)
	}
}
