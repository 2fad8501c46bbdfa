package fleet_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/deploy/deploytest"
	"mesh/deploy/fleet"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, 1_000_000: 5 * time.Minute} {
		if got := fleet.Backoff(failures); got != want {
			t.Errorf("after %d failures: %s, want %s", failures, got, want)
		}
	}
}

// world is a fleet with a runner and a router in memory.
type world struct {
	*fleet.Fleet
	runner *deploytest.Runner
	router *slowRouter
}

// slowRouter does not return from Switch before the gate is open.
type slowRouter struct {
	*deploytest.Router
	mu   sync.Mutex
	gate chan struct{}
}

func (r *slowRouter) Switch(route mesh.Route) {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		<-gate
	}
	r.Router.Switch(route)
}

// hold keeps calls of Switch from returning until open is called.
func (r *slowRouter) hold() (open func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gate := make(chan struct{})
	r.gate = gate
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.gate = nil
		close(gate)
	}
}

// bubble runs fn with a fleet whose background work ends before the bubble does.
func bubble(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		w := &world{runner: deploytest.NewRunner(), router: &slowRouter{Router: deploytest.NewRouter()}}
		w.Fleet = fleet.New(fleet.Options{
			Runner: w.runner, Router: w.router, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: time.Now,
			Host:       func(s mesh.StackName) mesh.Host { return mesh.Host(s + ".localhost") },
			Note:       func(mesh.StackName, string, string, ...any) {},
			Background: func(do func(context.Context)) { work.Go(func() { do(ctx) }) },
			Present:    func(context.Context, string) (bool, error) { return true, nil },
			Lost:       func(mesh.StackName, mesh.ReleaseNumber) {},
			Crashed:    func(mesh.StackName, mesh.InstanceStatus) {},
			LookImages: func(context.Context) {}, Unsure: func(mesh.StackName) {},
		})
		defer work.Wait()
		defer cancel()
		fn(t, w)
	})
}

func blog(revision uint64, domains ...mesh.Host) mesh.Stack {
	return mesh.Stack{Name: "blog", Revision: revision, Current: 1, Domains: domains}
}

var release = mesh.Release{Stack: "blog", Number: 1, Formation: mesh.Formation{"web": 1}}

// start starts web.1 and installs it.
func (w *world) start(t *testing.T) []mesh.Instance {
	t.Helper()
	specs := []mesh.InstanceSpec{{Stack: "blog", Name: mesh.InstanceName{Service: "web", Slot: 1}, Release: 1, Fingerprint: "a", Image: "sha256:a"}}
	started, err := w.StartAll(t.Context(), blog(1), specs, fleet.Progress{Healthy: func(mesh.InstanceName, string) {}, Detail: func(string) {}})
	if err != nil {
		t.Fatal(err)
	}
	w.Install(blog(1), release, specs, nil, started)
	return started
}

// Records arrive in any order; the latest one makes the routes.
func TestUpdate_TheLatestRecordCounts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.Create(mesh.Stack{Name: "blog"})
		w.start(t)
		w.Update(blog(9, "new.example"))
		w.Update(blog(8, "old.example"))
		r, _ := w.router.Route("blog")
		if len(r.Hosts) != 2 || r.Hosts[1] != "new.example" || len(r.Targets) != 1 {
			t.Errorf("routes %+v", r)
		}
		// A release that was recorded before the domain keeps the domain.
		w.Install(blog(7), release, nil, nil, nil)
		if r, _ := w.router.Route("blog"); len(r.Hosts) != 2 || r.Hosts[1] != "new.example" {
			t.Errorf("routes after a release %+v", r)
		}
		w.Update(mesh.Stack{Name: "shop", Revision: 99})
		if _, known := w.router.Route("shop"); known {
			t.Error("a record of a stack of which nothing is known has made routes")
		}
	})
}

// A slow router does not block readers, and has the newest state in the end.
func TestRouter_ASlowOneHoldsNobodyUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.Create(mesh.Stack{Name: "blog"})
		in := w.start(t)[0]
		open := w.router.hold()
		var calls sync.WaitGroup
		calls.Go(func() { w.Update(blog(2, "two.example")) })
		synctest.Wait() // it is in Switch
		if s := w.Status("blog"); len(s) != 1 || s[0].State != mesh.Up {
			t.Errorf("status %+v", s)
		}
		if _, _, ok := w.Find("blog", in.Name); !ok {
			t.Error("a running instance is not found")
		}
		// These arrive while the first one is in Switch, or after it: both are correct.
		calls.Go(func() { w.Update(blog(3, "three.example")) })
		calls.Go(func() { w.Event(mesh.InstanceEvent{Instance: in, Died: true, At: time.Now()}) })
		open()
		calls.Wait()
		r, _ := w.router.Route("blog")
		if len(r.Targets) != 0 || len(r.Hosts) != 2 || r.Hosts[1] != "three.example" {
			t.Errorf("routes %+v", r)
		}
		if s := w.Status("blog"); len(s) != 1 || s[0].State != mesh.Crashed {
			t.Errorf("status %+v", s)
		}
	})
}

// An instance that ends between its check and the switch never gets a request.
func TestInstall_WhatHasDiedIsNotRouted(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.Create(mesh.Stack{Name: "blog"})
		specs := []mesh.InstanceSpec{{Stack: "blog", Name: mesh.InstanceName{Service: "web", Slot: 1}, Release: 1, Fingerprint: "a", Image: "sha256:a"}}
		started, err := w.StartAll(t.Context(), blog(1), specs, fleet.Progress{Healthy: func(mesh.InstanceName, string) {}, Detail: func(string) {}})
		if err != nil {
			t.Fatal(err)
		}
		w.Event(mesh.InstanceEvent{Instance: started[0], Died: true, At: time.Now()})
		if _, dead := w.Died(started[0].ID); !dead {
			t.Error("its end was missed")
		}
		before := len(w.router.Switches())
		w.Install(blog(1), release, specs, nil, started)
		for _, r := range w.router.Switches()[before:] {
			if len(r.Targets) > 0 {
				t.Errorf("routed to %v", r.Targets)
			}
		}
	})
}

// What is in progress on a machine that is gone ends, once new requests go elsewhere.
func TestEvent_TheMachineIsLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.Create(mesh.Stack{Name: "blog"})
		in := w.start(t)[0]
		w.Event(mesh.InstanceEvent{Instance: in, Died: true, ByHand: true, At: time.Now()})
		if lost := w.router.LostTargets(); len(lost) > 0 {
			t.Errorf("lost when it was stopped: %v", lost)
		}
		in = w.start(t)[0]
		in.Node = "two"
		open := w.router.hold()
		done := make(chan struct{})
		go func() {
			w.Event(mesh.InstanceEvent{Instance: in, Died: true, ByHand: true, Lost: true, At: time.Now()})
			close(done)
		}()
		synctest.Wait()
		if lost := w.router.LostTargets(); len(lost) > 0 {
			t.Errorf("lost before the switch: %v", lost)
		}
		if s := w.Status("blog"); len(s) != 1 || s[0].State != mesh.Missing || s[0].Why != "its machine two does not answer" {
			t.Errorf("%+v", s)
		}
		open()
		<-done
		if lost := w.router.LostTargets(); !slices.Equal(lost, []string{in.ID}) {
			t.Errorf("lost %v", lost)
		}
	})
}

// A dropped stack leads nowhere, and a late record does not bring it back.
func TestDrop(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.Create(mesh.Stack{Name: "blog"})
		w.start(t)
		w.Drop("blog")
		w.Update(blog(5))
		if _, known := w.router.Route("blog"); known || w.Has("blog") || w.Status("blog") != nil {
			t.Error("something is left of it")
		}
	})
}
