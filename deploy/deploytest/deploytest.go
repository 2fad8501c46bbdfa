// Package deploytest provides what a deploy.Deployer works with, for tests: a Runner, a
// Builder, a Router and Repos that work in memory, and the real store in a folder of
// the test. Function fields make chosen calls fail or behave differently.
//
//	w := deploytest.New(t)
//	d, stop := w.Start()
//	err := d.Push(ctx, w.Commit("blog", map[string]string{"Procfile": "web: ./serve"}), &out)
package deploytest

import (
	"cmp"
	"context" //nolint:gosec // ids as git has them
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	"mesh"
	"mesh/deploy"
	"mesh/store"
)

// World is everything around a server. Use it in a synctest bubble, where time advances
// only when every goroutine is idle.
type World struct {
	T       *testing.T
	Store   *store.Store
	Runner  *Runner
	Builder *Builder
	Router  *Router
	Repos   *Repos
	Options deploy.Options // of the deployers that are started; a test may change them
}

// New returns an empty World. The store is checked at the end of the test.
func New(t *testing.T) *World {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &World{T: t, Store: s, Runner: NewRunner(), Builder: NewBuilder(), Router: NewRouter(), Repos: NewRepos()}
	t.Cleanup(func() {
		if err := errors.Join(w.Store.Check(), w.Store.Close()); err != nil {
			t.Errorf("the store is not consistent: %v", err)
		}
	})
	w.Runner.Images = w.Builder.has
	return w
}

// Deployer returns a deployer in this world that does not run yet.
func (w *World) Deployer() *deploy.Deployer {
	o := w.Options
	o.Store, o.Builder, o.Runner, o.Router, o.Repos, o.Domain = w.Store, w.Builder, w.Runner, w.Router, w.Repos, cmp.Or(o.Domain, "localhost")
	o.Logger = slog.New(slog.NewTextHandler(w.T.Output(), nil))
	d := deploy.New(o)
	w.Repos.Derive(d.RepoState)
	return d
}

// Start starts a deployer as a server does: it reconciles and supervises. stop ends it
// and waits; the end of the test stops it as well.
func (w *World) Start() (d *deploy.Deployer, stop func()) {
	w.T.Helper()
	d = w.Deployer()
	ctx, cancel := context.WithCancel(context.Background())
	if err := d.Reconcile(ctx); err != nil {
		w.T.Errorf("reconcile: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Run(ctx); err != nil {
			w.T.Errorf("run: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	w.T.Cleanup(stop)
	synctest.Wait()
	return d, stop
}

// Commit adds a commit to a stack's repository and moves the branch there, as a push
// does.
func (w *World) Commit(stack mesh.StackName, files map[string]string) mesh.Push {
	return w.Repos.Commit(stack, files)
}
