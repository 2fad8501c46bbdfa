// Package deploytest has what a deploy.Deployer works with, for tests: a Runner,
// a Builder, a Router and Repos that work, in memory, and the real store on a
// folder of the test's. A function field bends what a test wants to go wrong.
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

// World is a server's surroundings. Use it in a synctest bubble: time stands
// still until all have nothing to do.
type World struct {
	T       *testing.T
	Store   *store.Store
	Runner  *Runner
	Builder *Builder
	Router  *Router
	Repos   *Repos
	Options deploy.Options // of the deployers that are started; fill in what a test wants
}

// New makes a world with nothing in it. The store is checked at the test's end.
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

// Deployer makes a deployer in this world that does not run yet.
func (w *World) Deployer() *deploy.Deployer {
	o := w.Options
	o.Store, o.Builder, o.Runner, o.Router, o.Repos, o.Domain = w.Store, w.Builder, w.Runner, w.Router, w.Repos, cmp.Or(o.Domain, "localhost")
	o.Logger = slog.New(slog.NewTextHandler(w.T.Output(), nil))
	d := deploy.New(o)
	w.Repos.Derive(d.RepoState)
	return d
}

// Start starts a deployer as a server does: it reconciles and supervises. stop
// ends it and waits; the end of the test stops it, too.
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

// Commit puts a commit into a stack's repository, as a push does that has moved
// the branch.
func (w *World) Commit(stack mesh.StackName, files map[string]string) mesh.Push {
	return w.Repos.Commit(stack, files)
}
