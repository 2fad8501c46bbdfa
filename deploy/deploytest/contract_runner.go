package deploytest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
	"mesh/deploy"
)

// Engine is a Runner under test, and what the suite needs to use it.
type Engine struct {
	Runner deploy.Runner
	Spec   mesh.InstanceSpec // of an instance that answers HTTP; nobody else uses its Stack
	Exit   func(code int) mesh.Process
	Crash  func(id string) // makes the process of a container that runs Spec exit by itself, with code 7
	Kill   func(id string) // ends a container as docker kill does
}

// TestRunner is the contract of deploy.Runner.
func TestRunner(t *testing.T, e Engine) {
	t.Helper()
	r, ctx := e.Runner, t.Context()
	t.Cleanup(func() {
		if err := r.RemoveStack(context.Background(), e.Spec.Stack); err != nil {
			t.Errorf("remove the stack: %v", err)
		}
	})
	ours := func(list []mesh.Instance, err error) []mesh.Instance {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(list, func(in mesh.Instance) bool { return in.Stack != e.Spec.Stack })
	}
	list := func() []mesh.Instance { t.Helper(); return ours(r.List(ctx)) }
	events := e.watch(t)
	events.wait(t, e)

	t.Run("what cannot start leaves nothing", func(t *testing.T) {
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := r.Start(gone, e.Spec); err == nil {
			t.Error("started for a caller that is gone")
		}
		spec := e.Spec
		spec.Image = "sha256:" + strings.Repeat("0", 64)
		if _, err := r.Start(ctx, spec); !errors.Is(err, mesh.NotFound) {
			t.Errorf("without its image: %v", err)
		}
		if left := list(); len(left) > 0 {
			t.Errorf("left: %+v", left)
		}
	})

	in, err := r.Start(ctx, e.Spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a started instance is what was asked for", func(t *testing.T) {
		if in.ID == "" || in.Stack != e.Spec.Stack || in.Name != e.Spec.Name || in.Release != e.Spec.Release || in.Deployment != e.Spec.Deployment ||
			in.Spec != e.Spec.Fingerprint || in.State != mesh.InstanceRunning || !in.Addr.IsValid() || !in.Shared() && !e.Spec.Subnet.Contains(in.Addr.Addr()) || in.Started.IsZero() {
			t.Errorf("got %+v", in)
		}
		if saw, err := r.Check(ctx, in, mesh.Check{HTTP: true, Timeout: time.Minute}, nil); err != nil || saw == "" {
			t.Errorf("checked: %q, %v", saw, err)
		}
		if l := list(); len(l) != 1 || l[0].ID != in.ID || l[0].Addr != in.Addr || l[0].State != mesh.InstanceRunning {
			t.Errorf("listed: %+v", l)
		}
		if l := ours(r.Look(ctx)); len(l) != 1 || l[0].ID != in.ID || l[0].Addr != in.Addr || l[0].Name != in.Name || l[0].Spec != in.Spec {
			t.Errorf("looked at: %+v", l)
		}
		if stacks, err := r.Stacks(ctx); err != nil || !slices.Contains(stacks, e.Spec.Stack) {
			t.Errorf("stacks %v, %v", stacks, err)
		}
	})
	t.Run("a crash is told, and the instance can be revived", func(t *testing.T) {
		e.Crash(in.ID)
		ev := events.died(t, in.ID)
		if ev.ByHand || ev.Instance.ExitCode != 7 || ev.Instance.Stack != in.Stack || ev.Instance.Name != in.Name || ev.At.IsZero() {
			t.Errorf("told: %+v", ev)
		}
		var failed *mesh.Error
		if _, err := r.Check(ctx, in, mesh.Check{HTTP: true, Timeout: time.Minute}, nil); !errors.As(err, &failed) || !errors.Is(err, mesh.Failed) {
			t.Errorf("checked after its end: %v", err)
		}
		again, err := r.Revive(ctx, in.ID)
		if err != nil || again.ID != in.ID || again.State != mesh.InstanceRunning || !again.Addr.IsValid() {
			t.Errorf("revived: %+v, %v", again, err)
		}
	})
	t.Run("a kill by hand is no crash", func(t *testing.T) {
		e.Kill(in.ID)
		if ev := events.died(t, in.ID); !ev.ByHand {
			t.Errorf("told: %+v", ev)
		}
	})
	t.Run("a halted instance can be revived", func(t *testing.T) {
		if _, err := r.Revive(ctx, in.ID); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := r.Halt(ctx, in.ID, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if ev := events.died(t, in.ID); !ev.ByHand {
			t.Errorf("told: %+v", ev)
		}
		if l := list(); len(l) != 1 || l[0].ID != in.ID || l[0].State != mesh.InstanceExited {
			t.Errorf("listed: %+v", l)
		}
		again, err := r.Revive(ctx, in.ID)
		if err != nil || again.ID != in.ID || again.State != mesh.InstanceRunning {
			t.Errorf("revived: %+v, %v", again, err)
		}
	})
	t.Run("a stopped instance is gone", func(t *testing.T) {
		for range 2 {
			if err := r.Stop(ctx, in.ID, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if left := list(); len(left) > 0 {
			t.Errorf("left: %+v", left)
		}
		if _, err := r.Revive(ctx, in.ID); !errors.Is(err, mesh.NotFound) {
			t.Errorf("revived: %v", err)
		}
		if err := r.Halt(ctx, in.ID, time.Second); err != nil {
			t.Errorf("halted: %v", err)
		}
	})
	t.Run("one-off commands", func(t *testing.T) { e.oneOffs(t) })
	t.Run("a removed stack has nothing left", func(t *testing.T) {
		if _, err := r.Start(ctx, e.Spec); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := r.RemoveStack(ctx, e.Spec.Stack); err != nil {
				t.Fatal(err)
			}
		}
		stacks, err := r.Stacks(ctx)
		if err != nil || slices.Contains(stacks, e.Spec.Stack) || len(list()) > 0 {
			t.Errorf("stacks %v, instances %+v, %v", stacks, list(), err)
		}
	})
	if err := r.Ping(ctx); err != nil {
		t.Errorf("ping: %v", err)
	}
}

// oneOffs runs commands to completion, and detached.
func (e Engine) oneOffs(t *testing.T) {
	ctx, r := t.Context(), e.Runner
	o := mesh.OneOff{Stack: e.Spec.Stack, Name: "run", Image: e.Spec.Image, Process: e.Exit(4), Subnet: e.Spec.Subnet, Stdout: io.Discard, Stderr: io.Discard}
	if code, err := r.RunOneOff(ctx, o); err != nil || code != 4 {
		t.Errorf("ended with %d, %v", code, err)
	}
	if n, err := r.OneOffs(ctx, e.Spec.Stack); err != nil || n != 0 {
		t.Errorf("%d one-offs are left, %v", n, err)
	}
	o.Name, o.Stdout, o.Stderr, o.Process = "run.1234", nil, nil, e.Spec.Process
	run, err := r.Detach(ctx, o, mesh.DetachedRun{Stack: o.Stack, Name: o.Name, By: "laptop", Command: "serve", Until: time.Now().Add(time.Hour), Job: "tidy", JobRun: 1234})
	if err != nil {
		t.Fatal(err)
	}
	runs, err := r.Detached(ctx, e.Spec.Stack)
	if err != nil || len(runs) != 1 || runs[0].Name != o.Name || runs[0].ID != run.ID || !runs[0].Running || runs[0].By != "laptop" || runs[0].Command != "serve" ||
		runs[0].Job != "tidy" || runs[0].JobRun != 1234 || !runs[0].Ended.IsZero() || runs[0].Unborn {
		t.Errorf("detached %+v, %v", runs, err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	if err := r.AwaitRun(short, run.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a run that goes on: %v", err)
	}
	cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.AwaitRun(ctx, run.ID) }()
	if in, err := r.List(ctx); err != nil || slices.ContainsFunc(in, func(in mesh.Instance) bool { return in.ID == run.ID }) {
		t.Errorf("a detached run is listed as an instance: %v", err)
	}
	if err := errors.Join(r.Halt(ctx, run.ID, time.Second), <-ended); err != nil {
		t.Error(err)
	}
	if runs, err := r.Detached(ctx, e.Spec.Stack); err != nil || len(runs) != 1 || runs[0].Running || runs[0].Ended.Before(runs[0].Started) || runs[0].Unborn {
		t.Errorf("halted: %+v, %v", runs, err)
	}
	if err := errors.Join(r.Stop(ctx, run.ID, time.Second), r.AwaitRun(ctx, run.ID)); err != nil {
		t.Error(err)
	}
	if runs, err := r.Detached(ctx, e.Spec.Stack); err != nil || len(runs) != 0 {
		t.Errorf("left: %+v, %v", runs, err)
	}
}

// events are the events that the engine has reported.
type events struct {
	mu  sync.Mutex
	all []mesh.InstanceEvent
}

// watch gathers events until the test ends.
func (e Engine) watch(t *testing.T) *events {
	t.Helper()
	got := &events{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Runner.Watch(ctx, func(ev mesh.InstanceEvent) {
			got.mu.Lock()
			defer got.mu.Unlock()
			got.all = append(got.all, ev)
		}, func() {})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return got
}

// wait returns once the engine is being watched.
func (g *events) wait(t *testing.T, e Engine) {
	t.Helper()
	soon(t, "a start is told of", func() bool {
		in, err := e.Runner.Start(t.Context(), e.Spec)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := e.Runner.Stop(t.Context(), in.ID, 0); err != nil {
				t.Error(err)
			}
		}()
		g.mu.Lock()
		defer g.mu.Unlock()
		return slices.ContainsFunc(g.all, func(ev mesh.InstanceEvent) bool { return !ev.Died && !ev.Changed })
	})
}

// died waits for a container to die, and drops its event.
func (g *events) died(t *testing.T, id string) (ev mesh.InstanceEvent) {
	t.Helper()
	soon(t, "the engine tells that "+id+" has ended", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		i := slices.IndexFunc(g.all, func(ev mesh.InstanceEvent) bool { return ev.Died && ev.Instance.ID == id })
		if i < 0 {
			return false
		}
		ev = g.all[i]
		g.all = slices.Delete(g.all, i, i+1)
		return true
	})
	return ev
}
