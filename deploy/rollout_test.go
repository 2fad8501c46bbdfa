package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
	"mesh/deploy/fleet"
)

var (
	_ deploy.Runner  = (*deploytest.Runner)(nil)
	_ deploy.Builder = (*deploytest.Builder)(nil)
	_ fleet.Router   = (*deploytest.Router)(nil)
	_ deploy.Repos   = (*deploytest.Repos)(nil)
)

// bubble runs a test in a separate world with its own clock.
func bubble(t *testing.T, fn func(t *testing.T, w *deploytest.World)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { fn(t, deploytest.New(t)) })
}

var app = map[string]string{"Dockerfile": "FROM scratch\n"}

// push pushes a commit and waits until everything has settled.
func push(t *testing.T, w *deploytest.World, d *deploy.Deployer, files map[string]string) (out string, err error) {
	t.Helper()
	var o deploytest.Output
	err = d.Push(t.Context(), w.Commit("blog", files), &o)
	synctest.Wait()
	return o.String(), err
}

func mustPush(t *testing.T, w *deploytest.World, d *deploy.Deployer, files map[string]string) {
	t.Helper()
	if out, err := push(t, w, d, files); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func stack(t *testing.T, w *deploytest.World) mesh.Stack {
	t.Helper()
	st, err := w.Store.Stack(t.Context(), "blog")
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func release(t *testing.T, w *deploytest.World, n mesh.ReleaseNumber) mesh.Release {
	t.Helper()
	r, err := w.Store.Release(t.Context(), "blog", n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// last returns the last deployment.
func last(t *testing.T, w *deploytest.World) mesh.Deployment {
	t.Helper()
	ds, err := w.Store.Deployments(t.Context(), "blog", 1)
	if err != nil || len(ds) == 0 {
		t.Fatal(ds, err)
	}
	return ds[0]
}

// sound checks what must be true whenever nothing is in progress: exactly the recorded
// instances run, traffic goes to them, and refs match.
func sound(t *testing.T, w *deploytest.World) {
	t.Helper()
	soundStack(t, w, "blog")
}

func soundStack(t *testing.T, w *deploytest.World, name mesh.StackName) {
	t.Helper()
	synctest.Wait()
	st, err := w.Store.Stack(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	var r mesh.Release
	if st.Current > 0 {
		if r, err = w.Store.Release(t.Context(), name, st.Current); err != nil {
			t.Fatal(err)
		}
		if !st.Stopped {
			for svc, n := range r.Formation {
				for i := range n {
					want[mesh.InstanceName{Service: svc, Slot: i + 1}.String()] = true
				}
			}
		}
	}
	targets := strings.Fields(w.Router.Targets(name))
	for _, c := range w.Runner.Containers() {
		if c.Stack != name {
			continue
		}
		if !want[c.Name.String()] || c.State != mesh.InstanceRunning || c.Spec.Image != r.Image.ID {
			t.Errorf("%s (%s, %s, %s) runs and is not wanted", c.Name, c.ID, c.State, c.Spec.Image)
		}
		delete(want, c.Name.String())
		if c.Name.Service == mesh.Web || st.Published(c.Name.Service) {
			i := slices.Index(targets, c.ID)
			if i < 0 {
				t.Errorf("%s (%s) gets no traffic", c.Name, c.ID)
				continue
			}
			targets = slices.Delete(targets, i, i+1)
		}
	}
	if len(want) > 0 || len(targets) > 0 {
		t.Errorf("wanted and missing: %v; traffic to %v, which is nowhere", want, targets)
	}
	// If a branch points to a commit that does not run, a push of it does nothing.
	head, served := w.Repos.Head(name), r.Commit
	if st.Preview != nil {
		head = w.Repos.Heads(st.Preview.Of)[st.Preview.Branch]
	}
	if !r.Here() {
		served = ""
	}
	if st.Current > 0 && head != served {
		t.Errorf("the deploy branch is at %q, deployed is %q", head, served)
	}
	route, ok := w.Router.Route(name)
	if !ok || (route.Down == mesh.NotDeployed) != (st.Current == 0) || (route.Down == mesh.StoppedStack) != (st.Stopped || st.Current > 0 && r.Formation[mesh.Web] == 0) {
		t.Errorf("the route is %+v", route)
	}
	ds, err := w.Store.Deployments(t.Context(), name, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range ds {
		if !d.Status.Final() || d.Ended.IsZero() {
			t.Errorf("deployment %s is %s, ended %s", d.Number, d.Status, d.Ended)
		}
	}
	if n := w.Repos.Left(); n != 0 {
		t.Errorf("%d trees are open", n)
	}
}

// pass advances the time in the bubble.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func failed(kind mesh.Kind, text string) error { return mesh.Errorf(kind, "%s", text) }

func TestRollout_PushIsLive(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		out, err := push(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work\nrelease: ./migrate"})
		if err != nil {
			t.Fatal(err)
		}
		sound(t, w)
		st := stack(t, w)
		if st.Current != 1 || st.Settings.Branch != "main" || w.Runner.Names() != "web.1@c1 worker.1@c2" && w.Runner.Names() != "web.1@c2 worker.1@c1" {
			t.Errorf("%+v, %s", st, w.Runner.Names())
		}
		pos := 0
		for _, line := range []string{
			"-----> blog: 0000001 \"Commit 0000001\" pushed by laptop", "deployment #1\n", "-----> Building with ./Dockerfile\n", "       #1 building\n", "mesh/blog:0000001  1.0 MB",
			"-----> Release command: ./migrate\n", "-----> Starting web×1 worker×1\n", "healthy: GET / 200", "-----> Traffic switched to v1\n", "=====> http://blog.localhost  v1  0.0s\n",
		} {
			i := strings.Index(out[pos:], line)
			if i < 0 {
				t.Errorf("%q is not said after %d in:\n%s", line, pos, out)
				continue
			}
			pos += i
		}
		record, err := w.Store.ReadOutput("blog", 1)
		if err != nil {
			t.Fatal(err)
		}
		if data, _ := io.ReadAll(record); string(data) != out {
			t.Errorf("recorded is %q", data)
		}
		if dep := last(t, w); dep.Status != mesh.StatusLive || dep.Release != 1 || dep.Commit == "" {
			t.Errorf("got %+v", dep)
		}
		if w.Builder.Tagged("mesh/blog:v1") != release(t, w, 1).Image.ID {
			t.Error("the image is not called v1")
		}
	})
}

func TestRollout_NewReleaseReplacesTheOld(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Router.DrainFunc = func(context.Context, string) error {
			if c, ok := w.Runner.Get("c1"); !ok || c.State != mesh.InstanceRunning {
				t.Error("the old instance went before its requests had ended")
			}
			return nil
		}
		mustPush(t, w, d, app)
		sound(t, w)
		if w.Runner.Names() != "web.1@c2" || fmt.Sprint(w.Router.Drained()) != "[c1]" {
			t.Errorf("%s, drained %v", w.Runner.Names(), w.Router.Drained())
		}
		for _, r := range w.Router.Switches()[1:] {
			if len(r.Targets) != 1 {
				t.Errorf("at some time %d instances had the traffic", len(r.Targets))
			}
		}
	})
}

func TestRollout_FailedBuildChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Builder.BuildFunc = func(context.Context, mesh.Build, io.Writer) error {
			return &mesh.Error{Kind: mesh.Failed, Text: "'RUN false' exited 1", Output: []string{"oh no"}, Hint: "mend it"}
		}
		out, err := push(t, w, d, app)
		var reported *mesh.Reported
		if !errors.As(err, &reported) || !errors.Is(err, mesh.Failed) || err.Error() != "build failed: 'RUN false' exited 1" {
			t.Errorf("got %v", err)
		}
		for _, want := range []string{"         oh no\n", " !     build failed: 'RUN false' exited 1\n       mend it\n       Nothing has changed: v1 is still serving at http://blog.localhost\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not said in:\n%s", want, out)
			}
		}
		if dep := last(t, w); dep.Status != mesh.StatusFailed || dep.Reason != "build failed: 'RUN false' exited 1" || dep.Ended.IsZero() {
			t.Errorf("got %+v", dep)
		}
		w.Repos.Move("blog", mesh.RepoState{Commit: release(t, w, 1).Commit}) // the receiver's part
		sound(t, w)
		// The same push with a build that works is live.
		w.Builder.BuildFunc = nil
		mustPush(t, w, d, app)
		sound(t, w)
	})
}

// unchanged pushes a commit that must fail and leave v1 unchanged.
func unchanged(t *testing.T, w *deploytest.World, d *deploy.Deployer, files map[string]string, says string) {
	t.Helper()
	before := w.Runner.Names()
	switches := len(w.Router.Switches())
	out, err := push(t, w, d, files)
	if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(out, " !     ") {
		t.Errorf("got %v, want %q\n%s", err, says, out)
	}
	if got := w.Runner.Names(); got != before || stack(t, w).Current != 1 || len(w.Router.Switches()) != switches {
		t.Errorf("%s became %s, release %s, %d switches", before, got, stack(t, w).Current, len(w.Router.Switches())-switches)
	}
	w.Repos.Move("blog", mesh.RepoState{Commit: release(t, w, 1).Commit})
	sound(t, w)
}

func TestRollout_FailedCheckKeepsOldRelease(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) {
			return "", &mesh.Error{Kind: mesh.Failed, Text: "web.1 answers 503", Output: []string{"log tail"}}
		}
		unchanged(t, w, d, app, "check failed: web.1 answers 503")
	})
}

func TestRollout_FailedStartKeepsOldRelease(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Runner.StartFunc = func(mesh.InstanceSpec) error { return failed(mesh.Failed, "no such file") }
		unchanged(t, w, d, app, "check failed: no such file")
		w.Runner.StartFunc = func(mesh.InstanceSpec) error { return errors.New("socket hung up") }
		unchanged(t, w, d, app, "start web.1: socket hung up")
	})
}

func TestRollout_FailedReleaseCommandKeepsOldRelease(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Runner.OneOffFunc = func(_ context.Context, o mesh.OneOff) (int, error) {
			_, _ = io.WriteString(o.Stdout, "migrating\nboom")
			return 3, nil
		}
		unchanged(t, w, d, map[string]string{"Procfile": "web: ./serve\nrelease: ./migrate"}, `release command failed: "./migrate" exited 3`)
		w.Runner.OneOffFunc = func(ctx context.Context, _ mesh.OneOff) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		unchanged(t, w, d, map[string]string{"Procfile": "web: ./serve\nrelease: ./migrate"}, "took longer than 1h0m0s")
	})
}

func TestRollout_CommandThatCannotRunIsToldBeforeAnythingStarts(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Builder.Shape = func(i *mesh.Image) { i.Shell = false }
		w.Runner.StartFunc = func(mesh.InstanceSpec) error { t.Error("something was started"); return nil }
		unchanged(t, w, d, map[string]string{"Procfile": "web: a && b"}, "needs a shell")
		unchanged(t, w, d, map[string]string{"Procfile": "web a"}, "Procfile:1")
	})
}

func TestRollout_OneOfManyFailsStopsAll(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.Scale(t.Context(), "blog", "laptop", []mesh.Scale{{Service: "web", To: 5}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		before, current := w.Runner.Names(), stack(t, w).Current
		w.Runner.CheckFunc = func(ctx context.Context, in mesh.Instance) (string, error) {
			if in.Name.Slot == 3 {
				return "", failed(mesh.Failed, "web.3 is ill")
			}
			<-ctx.Done() // the others are still at it
			return "", ctx.Err()
		}
		began := time.Now()
		_, err := push(t, w, d, app)
		if err == nil || err.Error() != "check failed: web.3 is ill" || time.Since(began) > time.Second {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
		if w.Runner.Names() != before || stack(t, w).Current != current {
			t.Errorf("%s became %s", before, w.Runner.Names())
		}
	})
}

func TestRollout_DiesBetweenCheckAndSwitch(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		// After the check and before the release is recorded: the push is refused.
		at := deploy.StepStarted
		w.Options.OnStep = func(s deploy.Step, _ string) {
			if cs := w.Runner.Containers(); s == at && len(cs) > 1 {
				w.Runner.Crash(cs[1].ID, 9)
				synctest.Wait()
			}
		}
		d, _ := w.Start()
		mustPush(t, w, d, app)
		unchanged(t, w, d, app, "became healthy and then ended with exit code 9")
		// After that: it is live, and restarts as after every crash.
		at = deploy.StepCommitted
		if out, err := push(t, w, d, app); err != nil {
			t.Fatal(err, out)
		}
		if got := d.Status("blog"); len(got) != 1 || got[0].State != "crashed" || got[0].ExitCode != 9 || w.Router.Targets("blog") != "" {
			t.Errorf("got %+v, traffic to %s", got, w.Router.Targets("blog"))
		}
		pass(2 * time.Second)
		sound(t, w)
	})
}

// Route changes recorded while a deployment has recorded its release but not switched
// yet take effect, even several at once.
func TestRollout_ChangesOfRoutesMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		var d *deploy.Deployer
		domains := 0
		change := func() {
			domains++
			host := mesh.Host(fmt.Sprintf("n%d.example.com", domains))
			if err := errors.Join(d.AddDomain(t.Context(), "blog", host, "", admin), d.SetMaintenance(t.Context(), "blog", domains%2 == 1, "", nil)); err != nil {
				t.Error(err)
			}
		}
		w.Options.OnStep = func(s deploy.Step, _ string) {
			if d != nil && s == deploy.StepCommitted {
				change()
			}
		}
		d, _ = w.Start()
		for range 2 {
			mustPush(t, w, d, app)
			r, _ := w.Router.Route("blog")
			if want := []mesh.DownReason{mesh.NotDown, mesh.Maintenance}[domains%2]; len(r.Hosts) != 1+domains || r.Down != want {
				t.Errorf("%d domains were added, and the router has %v, %v", domains, r.Hosts, r.Down)
			}
		}
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if err := d.AddDomain(t.Context(), "blog", mesh.Host(fmt.Sprintf("at-once-%d.example.com", i)), "", admin); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if r, _ := w.Router.Route("blog"); len(r.Hosts) != 1+domains+20 {
			t.Errorf("the router has %v", r.Hosts)
		}
	})
}

// cancelledAt pushes app twice, and cancels the second push when it reaches a step.
func cancelledAt(t *testing.T, w *deploytest.World, step deploy.Step) (string, error) {
	t.Helper()
	var cancel context.CancelFunc
	w.Options.OnStep = func(s deploy.Step, _ string) {
		if s == step && cancel != nil {
			cancel()
		}
	}
	d, _ := w.Start()
	mustPush(t, w, d, app)
	ctx, c := context.WithCancel(t.Context())
	defer c()
	cancel = c
	var out deploytest.Output
	err := d.Push(ctx, w.Commit("blog", app), &out)
	return out.String(), err
}

func TestRollout_CancelBeforeCommitUndoes(t *testing.T) {
	for _, step := range []deploy.Step{deploy.StepBegun, deploy.StepBuilt, deploy.StepStarted} {
		t.Run(string(step), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				out, err := cancelledAt(t, w, step)
				if !errors.Is(err, mesh.Cancelled) || mesh.ExitStatus(err) != 130 || !strings.Contains(out, "v1 is still serving") {
					t.Errorf("got %v\n%s", err, out)
				}
				if dep := last(t, w); dep.Status != mesh.StatusCancelled {
					t.Errorf("got %+v", dep)
				}
				w.Repos.Move("blog", mesh.RepoState{Commit: release(t, w, 1).Commit})
				sound(t, w)
				if w.Runner.Names() != "web.1@c1" {
					t.Errorf("got %s", w.Runner.Names())
				}
			})
		})
	}
}

func TestRollout_CancelAfterCommitFinishes(t *testing.T) {
	for _, step := range []deploy.Step{deploy.StepCommitted, deploy.StepSwitched, deploy.StepRetiring} {
		t.Run(string(step), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				if out, err := cancelledAt(t, w, step); err != nil {
					t.Errorf("got %v\n%s", err, out)
				}
				sound(t, w)
				if dep := last(t, w); dep.Status != mesh.StatusLive || stack(t, w).Current != 2 {
					t.Errorf("got %+v", dep)
				}
			})
		})
	}
}

func TestRollout_DryRunChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		p := w.Commit("blog", app)
		p.DryRun = true
		if err := d.Push(t.Context(), p, io.Discard); err != nil {
			t.Fatal(err)
		}
		w.Repos.Move("blog", mesh.RepoState{Commit: release(t, w, 1).Commit})
		sound(t, w)
		if dep := last(t, w); dep.Status != mesh.StatusDryRun || stack(t, w).Current != 1 {
			t.Errorf("got %+v", dep)
		}
	})
}

func TestRollout_DetachGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		p := w.Commit("blog", app)
		p.Detach = true
		ctx, cancel := context.WithCancel(t.Context())
		var out deploytest.Output
		if err := d.Push(ctx, p, &out); err != nil || !strings.Contains(out.String(), "in the background") {
			t.Errorf("%v, %s", err, out.String())
		}
		cancel()
		sound(t, w)
		if stack(t, w).Current != 1 {
			t.Error("it is not live")
		}
	})
}

func TestRollout_SubnetThatIsTakenIsChangedAndHealthyOnesStay(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		tries := 0
		w.Runner.StartFunc = func(s mesh.InstanceSpec) error {
			if tries++; tries <= 3 {
				return failed(mesh.Conflict, "the network "+s.Subnet.String()+" is taken")
			}
			return nil
		}
		mustPush(t, w, d, app)
		sound(t, w)
		if c := w.Runner.Containers()[0]; c.Spec.Subnet != stack(t, w).Subnet || tries != 4 {
			t.Errorf("%v, recorded %v, %d tries", c.Spec.Subnet, stack(t, w).Subnet, tries)
		}
	})
}

func TestSetConfig_IsOneReleaseOfTheSameImage(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		var out deploytest.Output
		set := mesh.Config{"A": mesh.NewSecret("one-secret-value"), "B": mesh.NewSecret("2")}
		changed, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: set}, &out)
		if err != nil || fmt.Sprint(changed) != "[A B]" || strings.Contains(out.String(), "one-secret-value") {
			t.Fatalf("%v, %v\n%s", changed, err, out.String())
		}
		sound(t, w)
		r := release(t, w, 2)
		if !r.Config.Equal(set) || r.Image.ID != release(t, w, 1).Image.ID || r.Description != "Set A, B" || r.By != "ci" || len(w.Builder.Builds()) != 1 {
			t.Errorf("got %+v", r)
		}
		if e := w.Runner.Containers()[0].Spec.Env; e["A"].Reveal() != "one-secret-value" || e["MESH_RELEASE"].Reveal() != "v2" || e["PORT"].Reveal() != "8080" {
			t.Errorf("got %v", e)
		}
		if changed, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: set}, &out); err != nil || len(changed) != 0 || stack(t, w).Current != 2 {
			t.Errorf("the same again: %v, %v, %s", changed, err, stack(t, w).Current)
		}
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Unset: []string{"A", "NOPE"}}, &out); !errors.Is(err, mesh.NotFound) || stack(t, w).Current != 2 {
			t.Errorf("half a batch: %v", err)
		}
		if changed, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Unset: []string{"A"}}, &out); err != nil || fmt.Sprint(changed) != "[A]" || len(stack(t, w).Config) != 1 {
			t.Errorf("unset: %v, %v", changed, err)
		}
		sound(t, w)
	})
}

func TestSetConfig_FailedChecksChangeNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Runner.CheckFunc = func(context.Context, mesh.Instance) (string, error) { return "", failed(mesh.Failed, "ill") }
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("x")}}, io.Discard); err == nil {
			t.Error("no error")
		}
		sound(t, w)
		if st := stack(t, w); len(st.Config) != 0 || st.Current != 1 {
			t.Errorf("got %+v", st)
		}
	})
}

func TestSetConfig_RecordOnlyWaitsForTheNextRelease(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("x")}, RecordOnly: true}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if w.Runner.Names() != "web.1@c1" || stack(t, w).Current != 1 {
			t.Errorf("something was restarted: %s", w.Runner.Names())
		}
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 2}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if r := release(t, w, 2); len(r.Config) != 0 {
			t.Errorf("scaling brought %v into force", r.Config)
		}
		mustPush(t, w, d, app)
		if r := release(t, w, 3); r.Config["A"].Reveal() != "x" {
			t.Errorf("the push did not bring it into force: %v", r.Config)
		}
		sound(t, w)
	})
}

func TestSetConfig_Limits(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		if _, err := d.CreateStack(t.Context(), "blog", "ci"); err != nil {
			t.Fatal(err)
		}
		for name, v := range map[string]string{"PORT": "1", "A-B": "x", "A": "a\x00b", "BIG": strings.Repeat("x", 1<<20)} {
			if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{name: mesh.NewSecret(v)}}, io.Discard); !errors.Is(err, mesh.Invalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("1")}}, io.Discard); err != nil || len(stack(t, w).Config) != 1 {
			t.Errorf("before the first push: %v", err)
		}
		sound(t, w)
	})
}

func TestScale_KeepsInstances(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work"})
		before := w.Runner.Containers()
		scale := func(c ...mesh.Scale) mesh.Formation {
			t.Helper()
			f, err := d.Scale(t.Context(), "blog", "ci", c, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			sound(t, w)
			return f
		}
		if f := scale(mesh.Scale{Service: "web", To: 2, Relative: true}, mesh.Scale{Service: "worker", To: 0}); f["web"] != 3 || f["worker"] != 0 {
			t.Errorf("got %v", f)
		}
		for _, c := range before {
			if _, there := w.Runner.Get(c.ID); there != (c.Name.Service == "web") {
				t.Errorf("%s (%s) is there: %v", c.Name, c.ID, there)
			}
		}
		kept := w.Runner.Names()
		if f := scale(mesh.Scale{Service: "web", To: 3}); f["web"] != 3 || w.Runner.Names() != kept {
			t.Errorf("%v, %s became %s", f, kept, w.Runner.Names())
		}
		scale(mesh.Scale{Service: "web", To: -2, Relative: true})
		if cs := w.Runner.Containers(); len(cs) != 1 || cs[0].Name.Slot != 1 {
			t.Errorf("left are %s", w.Runner.Names())
		}
		scale(mesh.Scale{Service: "web", To: 0})
		for _, c := range [][]mesh.Scale{{{Service: "web", To: -1, Relative: true}}, {{Service: "web", To: 101}}, {{Service: "web", To: 1}, {Service: "nope", To: 1}}} {
			if _, err := d.Scale(t.Context(), "blog", "ci", c, io.Discard); err == nil {
				t.Errorf("%v was done", c)
			}
		}
		sound(t, w)
		// The next push keeps to it.
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work"})
		if len(w.Runner.Containers()) != 0 {
			t.Errorf("a push started %s", w.Runner.Names())
		}
		sound(t, w)
	})
}

func TestRollback_IsTheOldImageAndConfigAsANewRelease(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		if err := d.Rollback(t.Context(), "blog", "ci", 0, io.Discard); !errors.Is(err, mesh.NoStack) {
			t.Errorf("no stack: %v", err)
		}
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./one"})
		if err := d.Rollback(t.Context(), "blog", "ci", 0, io.Discard); !errors.Is(err, mesh.Conflict) {
			t.Errorf("before v1: %v", err)
		}
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("x")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./two"})
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 2}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.Rollback(t.Context(), "blog", "ci", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		sound(t, w)
		r, one := release(t, w, 5), release(t, w, 1)
		if r.Image.ID != one.Image.ID || r.Commit != one.Commit || len(r.Config) != 0 || r.Services["web"].Command != "./one" || r.Formation["web"] != 2 || r.Description != "Rollback to v1" {
			t.Errorf("got %+v", r)
		}
		if len(w.Builder.Builds()) != 2 || len(stack(t, w).Config) != 0 {
			t.Errorf("%d builds, config %v", len(w.Builder.Builds()), stack(t, w).Config)
		}
		for n, kind := range map[mesh.ReleaseNumber]mesh.Kind{5: mesh.Conflict, 99: mesh.NotFound} {
			if err := d.Rollback(t.Context(), "blog", "ci", n, io.Discard); !errors.Is(err, kind) {
				t.Errorf("to %s: %v", n, err)
			}
		}
	})
}

func TestRollback_ImageGone(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		for range 8 {
			mustPush(t, w, d, app)
		}
		if n := w.Builder.Images(); n != 6 {
			t.Errorf("%d images are kept", n)
		}
		builds := len(w.Builder.Builds())
		if err := d.Rollback(t.Context(), "blog", "ci", 1, io.Discard); err != nil {
			t.Errorf("to one whose image is gone: %v", err)
		}
		sound(t, w)
		if n := len(w.Builder.Builds()); n != builds+1 || release(t, w, 9).Commit != release(t, w, 1).Commit {
			t.Errorf("%d builds, %+v", n-builds, release(t, w, 9))
		}
		if err := d.Rollback(t.Context(), "blog", "ci", 5, io.Discard); err != nil {
			t.Errorf("to one that is kept: %v", err)
		}
		sound(t, w)
	})
}

func TestStopAndStart(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, app)
		if err := d.Stop(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		sound(t, w)
		if len(w.Runner.Containers()) != 0 {
			t.Errorf("%s runs", w.Runner.Names())
		}
		if err := d.Restart(t.Context(), "blog", "ci", mesh.InstanceName{}, io.Discard); !errors.Is(err, mesh.Conflict) {
			t.Errorf("restart: %v", err)
		}
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("x")}}, io.Discard); err != nil || len(w.Runner.Containers()) != 0 {
			t.Errorf("config of a stopped stack: %v, %s", err, w.Runner.Names())
		}
		stop()
		d, _ = w.Start() // a stopped stack stays stopped
		sound(t, w)
		if err := d.Start(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		sound(t, w)
		if c := w.Runner.Containers(); len(c) != 1 || c[0].Spec.Env["A"].Reveal() != "x" {
			t.Errorf("got %s", w.Runner.Names())
		}
		// And a push starts it, too.
		if err := d.Stop(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		mustPush(t, w, d, app)
		sound(t, w)
	})
}

func TestRestart_OneService(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work"})
		before := map[string]string{}
		for _, c := range w.Runner.Containers() {
			before[c.Name.String()] = c.ID
		}
		if err := d.Restart(t.Context(), "blog", "ci", mesh.InstanceName{Service: "worker"}, io.Discard); err != nil {
			t.Fatal(err)
		}
		sound(t, w)
		for _, c := range w.Runner.Containers() {
			if (before[c.Name.String()] == c.ID) != (c.Name.Service == "web") {
				t.Errorf("%s was %s and is %s", c.Name, before[c.Name.String()], c.ID)
			}
		}
		if err := d.Restart(t.Context(), "blog", "ci", mesh.InstanceName{Service: "nope"}, io.Discard); !errors.Is(err, mesh.NotFound) || stack(t, w).Current != 1 {
			t.Errorf("got %v", err)
		}
	})
}

func TestDestroyStack_LeavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		hold := make(chan struct{})
		w.Builder.BuildFunc = func(ctx context.Context, _ mesh.Build, _ io.Writer) error {
			close(hold)
			<-ctx.Done()
			return ctx.Err()
		}
		pushed := make(chan error, 1)
		p := w.Commit("blog", app)
		go func() { pushed <- d.Push(t.Context(), p, io.Discard) }()
		<-hold
		if err := d.DestroyStack(t.Context(), "blog", "boss"); err != nil {
			t.Fatal(err)
		}
		if err := <-pushed; !errors.Is(err, mesh.Cancelled) || !strings.Contains(err.Error(), "destroyed by boss") {
			t.Errorf("the push ended by %v", err)
		}
		synctest.Wait()
		if _, ok := w.Router.Route("blog"); ok || w.Runner.Names() != "" || w.Builder.Images() != 0 || w.Repos.Head("blog") != "" || d.Status("blog") != nil {
			t.Errorf("left: %s, %d images, head %s", w.Runner.Names(), w.Builder.Images(), w.Repos.Head("blog"))
		}
		if _, err := w.Store.Stack(t.Context(), "blog"); !errors.Is(err, mesh.NoStack) {
			t.Errorf("got %v", err)
		}
	})
}
