package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

func TestSupervise_CrashBacksOffAndReturns(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		began := time.Now()
		var tries []time.Duration
		w.Runner.ReviveFunc = func(mesh.Instance) error {
			tries = append(tries, time.Since(began))
			return nil
		}
		w.Runner.CheckFunc = func(_ context.Context, in mesh.Instance) (string, error) {
			if len(tries) > 10 {
				return "", nil
			}
			w.Runner.Crash(in.ID, 137)
			synctest.Wait()
			return "", failed(mesh.Failed, "it ended")
		}
		w.Runner.Crash("c1", 137)
		synctest.Wait()
		if w.Router.Targets("blog") != "" {
			t.Error("a crashed instance has traffic")
		}
		if got := d.Status("blog")[0]; got.State != "crashed" || got.ExitCode != 137 || got.Crashes != 1 || !got.Next.Equal(began.Add(time.Second)) {
			t.Errorf("got %+v", got)
		}
		pass(time.Hour)
		var waits []time.Duration
		for i, at := range tries {
			if i == 0 {
				waits = append(waits, at)
			} else {
				waits = append(waits, at-tries[i-1])
			}
		}
		if got := fmt.Sprint(waits); got != "[1s 2s 4s 8s 16s 32s 1m4s 2m8s 4m16s 5m0s 5m0s]" {
			t.Errorf("tries came after %s", got)
		}
		if got := d.Status("blog")[0]; got.State != "up" || w.Router.Targets("blog") != "c1" {
			t.Errorf("got %+v", got)
		}
		sound(t, w)
		// It has been up for longer than the longest wait: it starts over.
		tries, began = make([]time.Duration, 11), time.Now()
		w.Runner.Crash("c1", 1)
		synctest.Wait()
		if got := d.Status("blog")[0]; got.Crashes != 1 || got.Next.Sub(began) != time.Second {
			t.Errorf("got %+v", got)
		}
		pass(2 * time.Second)
		sound(t, w)
	})
}

func TestSupervise_VanishedContainerIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Runner.Vanish("c1")
		pass(2 * time.Second)
		if w.Runner.Names() != "web.1@c2" {
			t.Errorf("got %s", w.Runner.Names())
		}
		sound(t, w)
	})
}

// The container that replaces a vanished one is unhealthy at first.
func TestSupervise_ReplacementThatIsIllIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		checks := 0
		w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) {
			if checks++; checks < 4 {
				return "", failed(mesh.Failed, "ill")
			}
			return "well", nil
		}
		w.Runner.Vanish("c1")
		pass(time.Minute)
		if checks != 4 {
			t.Errorf("%d checks", checks)
		}
		sound(t, w)
	})
}

func TestSupervise_CrashOfWhatIsScaledAwayIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 2}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		// web.2 vanishes, and is scaled away during its restart.
		w.Runner.ReviveFunc = nil
		w.Runner.Vanish("c2")
		synctest.Wait()
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 1}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		sound(t, w)
	})
}

// A slot is removed between the look for its container and the creation of another.
func TestSupervise_SlotGoesWhileItIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 2}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		w.Runner.ReviveFunc = func(in mesh.Instance) error {
			w.Runner.ReviveFunc = nil
			w.Runner.Vanish(in.ID)
			if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 1}}, io.Discard); err != nil {
				t.Error(err)
			}
			return nil
		}
		w.Runner.Crash("c2", 1)
		pass(time.Minute)
		sound(t, w)
	})
}

// An instance that a rollout keeps is replaced while the rollout checks others.
func TestSupervise_KeptInstanceIsReplacedDuringARollout(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Runner.CheckFunc = func(_ context.Context, in mesh.Instance) (string, error) {
			if in.Name.Slot == 2 {
				w.Runner.Vanish("c1")
				pass(time.Minute)
			}
			return "well", nil
		}
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 2}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		sound(t, w)
	})
}

// An instance that dies right after its check does not count as healthy.
func TestSupervise_DiesRightAfterItsCheck(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		checks := 0
		w.Runner.CheckFunc = func(_ context.Context, in mesh.Instance) (string, error) {
			if checks++; checks == 1 {
				w.Runner.Crash(in.ID, 1)
				synctest.Wait()
			}
			return "well", nil
		}
		w.Runner.Crash("c1", 1)
		pass(1500 * time.Millisecond)
		if w.Router.Targets("blog") != "" {
			t.Errorf("traffic goes to %s, which is dead", w.Router.Targets("blog"))
		}
		pass(10 * time.Second)
		sound(t, w)
	})
}

func TestSupervise_EngineAwayKeepsRoutes(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Runner.SetAway(true)
		if err := d.Reconcile(t.Context()); !errors.Is(err, mesh.Unavailable) || w.Router.Targets("blog") != "c1" {
			t.Errorf("%v, traffic to %q", err, w.Router.Targets("blog"))
		}
		if err := d.AdmitPush(t.Context(), mesh.Key{Role: mesh.RoleAdmin}, "blog"); !errors.Is(err, mesh.Unavailable) {
			t.Errorf("a push is admitted: %v", err)
		}
		w.Runner.CrashUnseen("c1")
		w.Runner.SetAway(false)
		pass(time.Minute)
		sound(t, w)
	})
}

func TestReconcile_AdoptsRunning(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work"})
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("x")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		before := w.Runner.Names()
		stop()
		if w.Runner.Names() != before {
			t.Errorf("stopping changed %s to %s", before, w.Runner.Names())
		}
		w.Router = deploytest.NewRouter()
		d, _ = w.Start()
		if w.Runner.Names() != before {
			t.Errorf("%s became %s", before, w.Runner.Names())
		}
		sound(t, w)
		for _, s := range d.Status("blog") {
			if s.State != "up" {
				t.Errorf("got %+v", s)
			}
		}
	})
}

// restarted pushes, ends the server, changes the world, starts a server and lets a
// minute pass.
func restarted(t *testing.T, w *deploytest.World, between func()) *deploy.Deployer {
	t.Helper()
	d, stop := w.Start()
	mustPush(t, w, d, app)
	stop()
	between()
	w.Router = deploytest.NewRouter()
	d, _ = w.Start()
	pass(time.Minute)
	return d
}

func TestReconcile_RestartsExited(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		restarted(t, w, func() { w.Runner.CrashUnseen("c1") })
		sound(t, w)
		if w.Runner.Names() != "web.1@c1" {
			t.Errorf("got %s", w.Runner.Names())
		}
	})
}

func TestReconcile_ReplacesMissing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		restarted(t, w, func() { w.Runner.Vanish("c1") })
		sound(t, w)
		if w.Runner.Names() != "web.1@c2" {
			t.Errorf("got %s", w.Runner.Names())
		}
	})
}

func TestReconcile_RemovesForeign(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		restarted(t, w, func() {
			c, _ := w.Runner.Get("c1")
			other := c.Spec
			other.Fingerprint = "another spec"
			w.Runner.Put(other, mesh.InstanceRunning)
			slot := c.Spec
			slot.Name.Slot = 2
			w.Runner.Put(slot, mesh.InstanceRunning)
			twin := c.Spec
			w.Runner.Put(twin, mesh.InstanceExited)
			later := c.Spec
			later.Deployment = 99
			w.Runner.Put(later, mesh.InstanceRunning)
			gone := c.Spec
			gone.Stack = "gone"
			if _, err := w.Store.CreateStack(t.Context(), mesh.Stack{Name: "gone"}, nil); err != nil {
				t.Fatal(err)
			}
			if err := w.Store.DestroyStack(t.Context(), "gone"); err != nil {
				t.Fatal(err)
			}
			w.Runner.Put(gone, mesh.InstanceRunning)
		})
		sound(t, w)
		if w.Runner.Names() != "web.1@c1" {
			t.Errorf("got %s", w.Runner.Names())
		}
		if left, err := w.Store.Destroyed(t.Context()); err != nil || len(left) != 0 {
			t.Errorf("still noted as destroyed: %v, %v", left, err)
		}
	})
}

// The record may be what is missing: an older backup, another mesh.db. The instances of
// a stack that nobody has destroyed are left alone and reported.
func TestReconcile_LeavesWhatIsNotRecordedAlone(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d := restarted(t, w, func() {
			c, _ := w.Runner.Get("c1")
			other := c.Spec
			other.Stack = "unheard-of"
			w.Runner.Put(other, mesh.InstanceRunning)
		})
		pass(time.Minute)
		if n := len(w.Runner.Containers()); n != 2 {
			t.Errorf("%d containers are left of 2: %s", n, w.Runner.Names())
		}
		if !slices.ContainsFunc(d.Findings(t.Context()), func(f mesh.Finding) bool {
			return !f.OK && strings.Contains(f.What, "unheard-of") && strings.Contains(f.Mend, "stacks:destroy -a unheard-of")
		}) {
			t.Errorf("the doctor says %+v", d.Findings(t.Context()))
		}
		// The command in the hint removes it.
		if _, err := d.CreateStack(t.Context(), "unheard-of", "x"); err != nil {
			t.Fatal(err)
		}
		if err := d.DestroyStack(t.Context(), "unheard-of", "x"); err != nil {
			t.Fatal(err)
		}
		if w.Runner.Names() != "web.1@c1" {
			t.Errorf("left: %s", w.Runner.Names())
		}
	})
}

func TestReconcile_EngineAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, app)
		stop()
		w.Commit("blog", app) // a push that a killed server had accepted
		w.Router = deploytest.NewRouter()
		w.Runner.SetAway(true)
		d = w.Deployer()
		if err := d.Reconcile(t.Context()); !errors.Is(err, mesh.Unavailable) {
			t.Errorf("got %v", err)
		}
		if r, ok := w.Router.Route("blog"); !ok || r.Down != mesh.NotDown || len(r.Targets) != 0 {
			t.Errorf("requests do not wait: %+v", r)
		}
		if w.Repos.Head("blog") != release(t, w, 1).Commit {
			t.Error("the deploy branch is not put back")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		pass(time.Minute)
		w.Runner.SetAway(false)
		pass(time.Minute)
		sound(t, w)
		if w.Runner.Names() != "web.1@c1" {
			t.Errorf("got %s", w.Runner.Names())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// killed is the panic value with which a test ends a server in the middle.
type killed struct{}

// TestReconcile_InterruptedDeployment kills the server at every step of every kind of
// deployment, starts another one, and checks that something serves, nothing is left
// over, and the refs are correct.
func TestReconcile_InterruptedDeployment(t *testing.T) {
	kinds := map[string]struct {
		first bool // of the stack: there is nothing to return to
		do    func(*testing.T, *deploytest.World, *deploy.Deployer) error
	}{
		"first push": {true, func(t *testing.T, w *deploytest.World, d *deploy.Deployer) error {
			return d.Push(t.Context(), w.Commit("blog", app), io.Discard)
		}},
		"push": {false, func(t *testing.T, w *deploytest.World, d *deploy.Deployer) error {
			return d.Push(t.Context(), w.Commit("blog", map[string]string{"Procfile": "web: ./two\nworker: ./work"}), io.Discard)
		}},
		"config": {false, func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			_, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("x")}}, io.Discard)
			return err
		}},
		"scale up": {false, func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			_, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 4}}, io.Discard)
			return err
		}},
		"scale down": {false, func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			_, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 1}}, io.Discard)
			return err
		}},
		"restart": {false, func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			return d.Restart(t.Context(), "blog", "ci", mesh.InstanceName{}, io.Discard)
		}},
		"rollback": {false, func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			return d.Rollback(t.Context(), "blog", "ci", 1, io.Discard)
		}},
		"stop": {false, func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			return d.Stop(t.Context(), "blog", "ci", io.Discard)
		}},
		"publish": {false, func(t *testing.T, _ *deploytest.World, d *deploy.Deployer) error {
			return publish(t, d, "blog", "worker", "https://work.example.com/", io.Discard)
		}},
	}
	for name, kind := range kinds {
		for _, step := range []deploy.Step{deploy.StepBegun, deploy.StepBuilt, deploy.StepStarted, deploy.StepCommitted, deploy.StepSwitched, deploy.StepRetiring} {
			if step == deploy.StepBuilt && !strings.Contains(name, "push") {
				continue
			}
			t.Run(name+" "+string(step), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *deploytest.World) {
					armed := false
					w.Options.OnStep = func(s deploy.Step, _ string) {
						if armed && s == step {
							panic(killed{})
						}
					}
					d, stop := w.Start()
					if !kind.first {
						mustPush(t, w, d, app)
						if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 2}}, io.Discard); err != nil {
							t.Fatal(err)
						}
						mustPush(t, w, d, map[string]string{"Procfile": "web: ./other\nworker: ./work"})
					}
					armed = true
					died := func() (died bool) {
						defer func() {
							if r := recover(); r != nil {
								if _, ok := r.(killed); !ok {
									panic(r)
								}
								died = true
							}
						}()
						if err := kind.do(t, w, d); err != nil {
							t.Errorf("got %v", err)
						}
						return false
					}()
					if !died {
						t.Fatal("the step was not reached")
					}
					stop()
					armed = false
					before := stack(t, w)
					w.Router = deploytest.NewRouter()
					d, _ = w.Start()
					pass(time.Minute)
					if w.Repos.Left() > 0 {
						t.Error("a tree is open")
					}
					sound(t, w)
					after := stack(t, w)
					committed := step == deploy.StepCommitted || step == deploy.StepSwitched || step == deploy.StepRetiring
					if dep := last(t, w); (dep.Status == mesh.StatusLive) != committed || !committed && dep.Reason != "mesh was stopped in the meantime" {
						t.Errorf("deployment %+v", dep)
					}
					if after.Current != before.Current || !after.Stopped && after.Current > 0 && w.Router.Targets("blog") == "" {
						t.Errorf("%s became %s, traffic to %q", before.Current, after.Current, w.Router.Targets("blog"))
					}
					if kind.first && !committed {
						w.Repos.Move("blog", mesh.RepoState{})
					}
					if name == "publish" && after.Published("worker") != committed {
						t.Errorf("endpoints %v", after.Endpoints)
					}
					// And it works again.
					mustPush(t, w, d, app)
					sound(t, w)
				})
			})
		}
	}
}
