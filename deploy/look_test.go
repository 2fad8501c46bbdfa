package deploy_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/deploy/deploytest"
)

// Any change to a container behind mesh's back takes it out of the routes within
// seconds, is reported correctly, and is repaired, with or without an event.
func TestLook_MendsWhatIsBent(t *testing.T) {
	for name, c := range map[string]struct {
		bend func(*mesh.Instance)
		is   mesh.Condition
	}{
		"paused":       {func(in *mesh.Instance) { in.State = mesh.InstancePaused }, mesh.Paused},
		"disconnected": {func(in *mesh.Instance) { in.Addr = netip.AddrPort{} }, mesh.Unreachable},
		"ended":        {func(in *mesh.Instance) { in.State, in.ExitCode = mesh.InstanceExited, 3 }, mesh.Crashed},
	} {
		for _, seen := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", event ", seen), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *deploytest.World) {
					d, _ := w.Start()
					mustPush(t, w, d, app)
					hold := make(chan struct{})
					w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) { <-hold; return "well", nil }
					w.Runner.Bend("c1", seen, c.bend)
					within := 2 * time.Second
					if !seen {
						within = 22 * time.Second
					}
					pass(within)
					if got := w.Router.Targets("blog"); got != "" {
						t.Errorf("traffic goes to %s", got)
					}
					if got := d.Status("blog")[0]; got.State != c.is {
						t.Errorf("ps says %+v", got)
					}
					if f := d.Findings(t.Context()); len(f) != 1 || f[0].OK || !strings.Contains(f[0].What, "blog: web.1") {
						t.Errorf("doctor says %+v", f)
					}
					close(hold)
					pass(2 * time.Second)
					sound(t, w)
					if got := d.Status("blog")[0]; got.State != mesh.Up || w.Router.Targets("blog") != "c1" {
						t.Errorf("%+v, traffic to %s", got, w.Router.Targets("blog"))
					}
				})
			})
		}
	}
}

func TestLook_AnotherAddressIsRoutedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		at := netip.MustParseAddrPort("10.9.9.9:8080")
		w.Runner.Bend("c1", true, func(in *mesh.Instance) { in.Addr = at })
		pass(time.Second)
		if r, _ := w.Router.Route("blog"); len(r.Targets) != 1 || r.Targets[0].Addr != at {
			t.Errorf("got %+v", r.Targets)
		}
		sound(t, w)
		if got := d.Status("blog")[0]; got.State != mesh.Up {
			t.Errorf("got %+v", got)
		}
	})
}

// A running container that cannot come back is replaced and removed.
func TestLook_WhatCannotReturnIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Runner.ReviveFunc = func(mesh.Instance) error { return failed(mesh.NotFound, "it has lost its network") }
		w.Runner.Bend("c1", true, func(in *mesh.Instance) { in.Addr = netip.AddrPort{} })
		pass(time.Minute)
		sound(t, w)
		if w.Runner.Names() != "web.1@c2" {
			t.Errorf("got %s", w.Runner.Names())
		}
	})
}

// A container stopped by hand did not crash, and its wait does not grow.
func TestSupervise_ByHandIsNoCrash(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		for range 8 {
			w.Runner.Kill("c1")
			synctest.Wait()
			if got := d.Status("blog")[0]; got.State != mesh.Halted || got.Crashes != 0 || w.Router.Targets("blog") != "" {
				t.Fatalf("got %+v, traffic to %q", got, w.Router.Targets("blog"))
			}
			pass(1100 * time.Millisecond)
			sound(t, w)
		}
		w.Runner.Crash("c1", 1)
		synctest.Wait()
		if got := d.Status("blog")[0]; got.State != mesh.Crashed || got.Crashes != 1 {
			t.Errorf("an end of its own: %+v", got)
		}
	})
}

// One that is stopped during its check, or right after it, did not crash either, and gets no
// traffic.
func TestSupervise_ByHandDuringItsCheck(t *testing.T) {
	for name, verdict := range map[string]error{"the check fails": failed(mesh.Failed, "web.1 exited with code 137"), "the check has passed": nil} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				d, _ := w.Start()
				mustPush(t, w, d, app)
				w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) {
					w.Runner.CheckFunc = nil
					w.Runner.Kill("c1")
					pass(100 * time.Millisecond)
					return "", verdict
				}
				w.Runner.Kill("c1")
				pass(1500 * time.Millisecond)
				if got := d.Status("blog")[0]; got.State != mesh.Halted || got.Crashes != 0 || w.Router.Targets("blog") != "" {
					t.Errorf("after its check: %+v, traffic to %q", got, w.Router.Targets("blog"))
				}
				pass(time.Second)
				sound(t, w)
				if got := d.Status("blog")[0]; got.State != mesh.Up || got.Crashes != 0 {
					t.Errorf("after that: %+v", got)
				}
			})
		})
	}
}

// Seven restarts of the engine in five minutes leave a healthy app up a second after
// the last one.
func TestSupervise_EngineRestartsAreNoCrashes(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		for range 7 {
			w.Runner.Kill("c1")
			w.Runner.SetAway(true)
			pass(40 * time.Second)
			if got := d.Status("blog")[0]; got.State != mesh.Unknown || got.Crashes != 0 {
				t.Fatalf("while the engine is away: %+v", got)
			}
			w.Runner.SetAway(false)
			pass(time.Second)
			sound(t, w)
			if got := d.Status("blog")[0]; got.State != mesh.Up || got.Crashes != 0 {
				t.Fatalf("after it: %+v", got)
			}
		}
	})
}

// The engine comes back between the first look at it and the first event: nothing
// reports that it was away.
func TestLook_EngineThatWasAwayAtTheStart(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, app)
		stop()
		w.Router = deploytest.NewRouter()
		w.Runner.Away = true
		d = w.Deployer()
		_ = d.Reconcile(t.Context())
		if got := d.Status("blog")[0]; got.State != mesh.Unknown || got.Why != "the Docker Engine does not answer" {
			t.Errorf("got %+v", got)
		}
		w.Runner.Away = false
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		pass(25 * time.Second)
		sound(t, w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
