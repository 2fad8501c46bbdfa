package deploy_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// uses is when stacks had requests, as far as a router knows.
type uses struct {
	mu   sync.Mutex
	last time.Time
	busy bool
}

func (u *uses) of(mesh.StackName) (time.Time, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last, u.busy
}

func (u *uses) set(last time.Time, busy bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last, u.busy = last, busy
}

// sleepy starts blog, which sleeps after half an hour.
func sleepy(t *testing.T, w *deploytest.World, settings ...string) (u *uses, d *deploy.Deployer, stop func()) {
	t.Helper()
	u = &uses{}
	w.Options.LastUse = u.of
	d, stop = w.Start()
	mustPush(t, w, d, twoServices)
	setBlog(t, d, append([]string{"sleep=30m"}, settings...)...)
	return u, d, stop
}

// services counts the containers of blog by service.
func services(w *deploytest.World) map[mesh.ServiceName]int {
	n := map[mesh.ServiceName]int{}
	for _, c := range w.Runner.Containers() {
		if c.State == mesh.InstanceRunning {
			n[c.Name.Service]++
		}
	}
	return n
}

func down(w *deploytest.World) mesh.DownReason {
	r, _ := w.Router.Route("blog")
	return r.Down
}

func TestSleep_AndWake(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		u, d, _ := sleepy(t, w)
		pass(29 * time.Minute)
		u.set(time.Now(), true) // a WebSocket, for an hour
		pass(time.Hour)
		if stack(t, w).Asleep != (time.Time{}) || services(w)["web"] != 1 {
			t.Errorf("asleep with an open connection: %v", services(w))
		}
		u.set(time.Now(), false)
		pass(29 * time.Minute)
		if !stack(t, w).Asleep.IsZero() {
			t.Error("asleep too early")
		}
		pass(2 * time.Minute)
		if n := services(w); stack(t, w).Asleep.IsZero() || n["web"] != 0 || n["worker"] != 1 || n["api"] != 1 || down(w) != mesh.Asleep {
			t.Errorf("after 31 minutes: %+v, %v, %q", stack(t, w).Asleep, n, down(w))
		}
		// A crowd wakes one formation.
		started := len(w.Runner.Containers())
		for range 50 {
			if !d.Wake("blog") {
				t.Error("it cannot be woken")
			}
		}
		pass(time.Second)
		if n := services(w); !stack(t, w).Asleep.IsZero() || n["web"] != 1 || down(w) != mesh.NotDown || len(w.Runner.Containers()) != started+1 {
			t.Errorf("woken: %v, %q", n, down(w))
		}
		sound(t, w)
		pass(31 * time.Minute)
		if stack(t, w).Asleep.IsZero() {
			t.Error("it does not sleep again")
		}
	})
}

func TestSleep_AllServices(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		_, d, _ := sleepy(t, w, "sleep-services=all")
		pass(31 * time.Minute)
		if n := services(w); len(n) != 0 {
			t.Errorf("asleep: %v", n)
		}
		d.Wake("blog")
		pass(time.Second)
		sound(t, w)
	})
}

// Sleep outlives a restart of mesh and of the machine, and images stay.
func TestSleep_Restart(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		_, _, stop := sleepy(t, w)
		pass(31 * time.Minute)
		stop()
		d, _ := w.Start()
		pass(time.Minute)
		if n := services(w); n["web"] != 0 || n["worker"] != 1 || down(w) != mesh.Asleep {
			t.Errorf("after a restart: %v, %q", n, down(w))
		}
		if gone, _, err := d.Collect(t.Context(), false); err != nil || len(gone) > 0 {
			t.Errorf("collected %v, %v", gone, err)
		}
		d.Wake("blog")
		pass(time.Second)
		sound(t, w)
	})
}

// Whatever is deployed is awake.
func TestSleep_IsEndedByDeployments(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, w *deploytest.World, d *deploy.Deployer) error{
		"a push": func(t *testing.T, w *deploytest.World, d *deploy.Deployer) error {
			_, err := push(t, w, d, twoServices)
			return err
		},
		"config": func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			_, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("b")}}, io.Discard)
			return err
		},
		"scale": func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			_, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 2}}, io.Discard)
			return err
		},
		"start": func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			return d.Start(t.Context(), "blog", "ci", io.Discard)
		},
		"restart": func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			return d.Restart(t.Context(), "blog", "ci", mesh.InstanceName{}, io.Discard)
		},
		"stop and start": func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			return errors.Join(d.Stop(t.Context(), "blog", "ci", io.Discard), d.Start(t.Context(), "blog", "ci", io.Discard))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				_, d, _ := sleepy(t, w)
				pass(31 * time.Minute)
				if stack(t, w).Asleep.IsZero() {
					t.Fatal("it does not sleep")
				}
				if err := do(t, w, d); err != nil {
					t.Fatal(err)
				}
				pass(time.Minute)
				if !stack(t, w).Asleep.IsZero() || down(w) != mesh.NotDown {
					t.Errorf("still asleep: %+v, %q", stack(t, w).Asleep, down(w))
				}
				sound(t, w)
			})
		})
	}
}

// A start that fails is told, and tried again with growing pauses.
func TestSleep_WakeFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		_, d, _ := sleepy(t, w)
		pass(31 * time.Minute)
		w.Runner.StartFunc = func(mesh.InstanceSpec) error { return failed(mesh.Failed, "no such program") }
		if !d.Wake("blog") {
			t.Error("the first try is refused")
		}
		pass(100 * time.Millisecond)
		if d.Wake("blog") {
			t.Error("it is tried again at once")
		}
		if n := services(w); n["web"] != 0 || stack(t, w).Asleep.IsZero() || down(w) != mesh.Asleep {
			t.Errorf("after a failure: %v, %q", n, down(w))
		}
		pass(2 * time.Second)
		w.Runner.StartFunc = nil
		if !d.Wake("blog") {
			t.Error("the next try is refused")
		}
		pass(time.Second)
		sound(t, w)
	})
}

// If the subnet is taken, what started in it is stopped before the next try.
func TestSleep_WakeInAnotherSubnet(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		_, d, _ := sleepy(t, w, "sleep-services=all")
		pass(31 * time.Minute)
		was := stack(t, w).Subnet
		var tries atomic.Int32
		w.Runner.StartFunc = func(s mesh.InstanceSpec) error {
			if tries.Add(1) == 2 {
				return failed(mesh.Conflict, "the subnet is taken")
			}
			return nil
		}
		d.Wake("blog")
		pass(time.Minute)
		if now := stack(t, w); now.Subnet == was || !now.Asleep.IsZero() {
			t.Errorf("in %s, asleep %s", now.Subnet, now.Asleep)
		}
		sound(t, w)
	})
}

func TestSleep_WakeDuringADeployment(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		_, d, _ := sleepy(t, w)
		pass(31 * time.Minute)
		hold := make(chan struct{})
		w.Builder.BuildFunc = func(context.Context, mesh.Build, io.Writer) error { <-hold; return nil }
		ended := make(chan error, 1)
		p := w.Commit("blog", twoServices)
		go func() { ended <- d.Push(t.Context(), p, io.Discard) }()
		pass(time.Minute)
		d.Wake("blog") // the build takes its time
		pass(time.Second)
		if n := services(w); n["web"] != 1 || down(w) != mesh.NotDown {
			t.Errorf("while a build goes on: %v, %q", n, down(w))
		}
		close(hold)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		sound(t, w)
	})
}
