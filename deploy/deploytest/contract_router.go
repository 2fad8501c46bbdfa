package deploytest

import (
	"context"
	"testing"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// Traffic is a Router under test, and what the suite needs to use it.
type Traffic struct {
	Router fleet.Router
	// Targets are two existing instances.
	Targets [2]mesh.Target
	// Ask sends a request to a host and returns the ID of the target that answered, or
	// the reason why none did: "unknown host", or a mesh.DownReason.
	Ask func(host mesh.Host) string
}

// TestRouter is the contract of fleet.Router.
func TestRouter(t *testing.T, w Traffic) {
	t.Helper()
	a, b := w.Targets[0], w.Targets[1]
	asked := func(host mesh.Host, want string) {
		t.Helper()
		if got := w.Ask(host); got != want {
			t.Errorf("%s is answered by %q, want %q", host, got, want)
		}
	}
	route := func(to mesh.Target, hosts ...mesh.Host) mesh.Route {
		return mesh.Route{Stack: "shop", Hosts: hosts, Targets: []mesh.Target{to}}
	}
	asked("shop.test", "unknown host")
	w.Router.Switch(route(a, "shop.test", "www.test"))
	asked("shop.test", a.ID)
	asked("www.test", a.ID)
	// Once Switch has returned, the old target gets no requests.
	w.Router.Switch(route(b, "shop.test"))
	asked("shop.test", b.ID)
	asked("www.test", "unknown host")
	// A target with no route and no requests drains at once. A second call does too.
	for range 2 {
		if err := w.Router.Drain(t.Context(), a.ID, time.Hour); err != nil {
			t.Errorf("drain: %v", err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Router.Drain(gone, "nobody", 0); err != nil {
		t.Errorf("drain of a target that never was: %v", err)
	}
	// A target whose machine is lost is not asked any more once Switch says so; it may come back.
	w.Router.Lost(a.ID)
	w.Router.Lost("nobody")
	asked("shop.test", b.ID)
	for _, down := range []mesh.DownReason{mesh.NotDeployed, mesh.StoppedStack, mesh.Maintenance} {
		r := route(b, "shop.test")
		if r.Down = down; down != mesh.Maintenance {
			r.Targets = nil
		}
		w.Router.Switch(r)
		asked("shop.test", string(down))
	}
	w.Router.Switch(route(a, "shop.test"))
	asked("shop.test", a.ID)
	for range 2 {
		w.Router.Remove("shop")
		asked("shop.test", "unknown host")
	}
}
