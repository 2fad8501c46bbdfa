package deploy_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/deploy/deploytest"
)

// A server that starts while the engine is away routes to where instances were last
// seen, if they answer and can belong to no other stack, and asks the engine as soon as
// it is back.
func TestRecall_ServesWhileTheEngineIsAway(t *testing.T) {
	for name, c := range map[string]struct {
		bend   func(*mesh.Instance)
		silent bool
		want   string
	}{
		"as it was":            {nil, false, "c1"},
		"nothing listens":      {nil, true, ""},
		"another stack's":      {func(in *mesh.Instance) { in.Addr = netip.MustParseAddrPort("10.213.255.2:8080") }, false, ""},
		"of another release":   {func(in *mesh.Instance) { in.Spec = "other" }, false, ""},
		"of no deployment":     {func(in *mesh.Instance) { in.Deployment = 99 }, false, ""},
		"of a stack that left": {func(in *mesh.Instance) { in.Stack = "left" }, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				memory := &deploytest.Memory{}
				w.Options.Memory = memory
				w.Options.Probe = func(context.Context, netip.AddrPort) error {
					if c.silent {
						return errors.New("refused")
					}
					return nil
				}
				d, stop := w.Start()
				mustPush(t, w, d, app)
				pass(2 * time.Second)
				stop()
				last, _ := memory.Load()
				if len(last) != 1 || last[0].ID != "c1" {
					t.Fatalf("remembered: %+v", last)
				}
				if c.bend != nil {
					c.bend(&last[0])
					_ = memory.Save(last)
				}
				w.Router = deploytest.NewRouter()
				w.Runner.Away = true
				d = w.Deployer()
				_ = d.Reconcile(t.Context())
				if got := w.Router.Targets("blog"); got != c.want {
					t.Errorf("traffic to %q", got)
				}
				s := d.Status("blog")[0]
				if up := c.want != ""; (s.State == mesh.Up) != up || !strings.Contains(s.Why, "the Docker Engine does not answer") {
					t.Errorf("ps says %+v", s)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- d.Run(ctx) }()
				pass(time.Minute)
				w.Runner.SetAway(false)
				pass(time.Second)
				sound(t, w)
				if s := d.Status("blog")[0]; s.State != mesh.Up || s.Why != "" || w.Runner.Names() != "web.1@c1" {
					t.Errorf("ps says %+v of %s", s, w.Runner.Names())
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The remembered instances turn out to be missing when the engine is back.
func TestRecall_IsCheckedWhenTheEngineIsBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		w.Options.Memory, w.Options.Probe = &deploytest.Memory{}, func(context.Context, netip.AddrPort) error { return nil }
		d, stop := w.Start()
		mustPush(t, w, d, app)
		pass(2 * time.Second)
		stop()
		w.Router = deploytest.NewRouter()
		w.Runner.Away = true
		d = w.Deployer()
		_ = d.Reconcile(t.Context())
		w.Runner.Vanish("c1")
		w.Runner.Away = false // without an event: the next look finds it
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		pass(5 * time.Second)
		sound(t, w)
		if w.Runner.Names() != "web.1@c2" {
			t.Errorf("got %s", w.Runner.Names())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A crash loop does not write without end.
func TestMemory_CrashLoopWritesSeldom(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		memory := &deploytest.Memory{}
		w.Options.Memory = memory
		d, _ := w.Start()
		mustPush(t, w, d, app)
		pass(2 * time.Second)
		before := memory.Saves()
		for range 100 {
			w.Runner.Bend("c1", false, func(in *mesh.Instance) { in.Started = time.Now() })
			w.Runner.Kill("c1")
			pass(100 * time.Millisecond)
		}
		if n := memory.Saves() - before; n > 12 {
			t.Errorf("%d saves in 10 s", n)
		}
		pass(5 * time.Second)
		sound(t, w)
	})
}
