package deploy_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// figures are what a router counts of both sides of a trial.
type figures struct {
	mu sync.Mutex
	c  mesh.Comparison
}

func (f *figures) compare(mesh.StackName) (mesh.Comparison, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.c, true
}

// answered adds answers to both sides.
func (f *figures) answered(old, good, bad uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.c.Old.Status[2] += old
	f.c.New.Status[2] += good
	f.c.New.Status[5] += bad
}

// trying pushes a release with a canary of 10%, then 50%, for 5 minutes each, and returns
// when it has begun.
func trying(t *testing.T, w *deploytest.World) (f *figures, d *deploy.Deployer, out *deploytest.Output, ended chan error) {
	t.Helper()
	f = &figures{}
	w.Options.Compare = f.compare
	d, _ = w.Start()
	mustPush(t, w, d, twoServices)
	setBlog(t, d, "canary=10%,50%", "canary-step=5m")
	out, ended = &deploytest.Output{}, make(chan error, 1)
	p := w.Commit("blog", twoServices)
	go func() { ended <- d.Push(t.Context(), p, out) }()
	synctest.Wait()
	return f, d, out, ended
}

// trial describes the trial of blog's route: "v2 10% web.1".
func trial(w *deploytest.World) string {
	r, _ := w.Router.Route("blog")
	if r.Trial == nil {
		return ""
	}
	s := r.Trial.Release.String() + " " + mesh.Percent(r.Trial.Share)
	for _, t := range r.Trial.Targets {
		s += " " + t.Name.String()
	}
	return s
}

func TestCanary_StepsUpAndTakesAll(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		f, d, out, ended := trying(t, w)
		if got := trial(w); got != "v2 10% web.1" || stack(t, w).Current != 1 {
			t.Errorf("it begins with %q, %s", got, stack(t, w).Current)
		}
		if n := len(strings.Fields(w.Runner.Names())); n != 4 { // web, api, worker, and the new web
			t.Errorf("%d instances run: %s", n, w.Runner.Names())
		}
		f.answered(900, 100, 0)
		pass(4 * time.Minute)
		if s, err := d.Canary(t.Context(), "blog"); err != nil || s.Step != 0 || s.Share() != 0.1 || s.Total.New.Requests() != 100 {
			t.Errorf("%+v, %v", s, err)
		}
		pass(2 * time.Minute)
		if got := trial(w); got != "v2 50% web.1" {
			t.Errorf("the second step is %q", got)
		}
		pass(5 * time.Minute)
		if err := <-ended; err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		pass(time.Minute)
		if got := trial(w); got != "" || stack(t, w).Current != 2 {
			t.Errorf("it ends with %q, %s", got, stack(t, w).Current)
		}
		for _, want := range []string{"10% of the clients get v2 for 5m", "50% of the clients get v2 for 5m", "v2: 100 requests, 0% 5xx", "Traffic switched to v2 (was v1)"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the output has no %q:\n%s", want, out)
			}
		}
		if _, err := d.Canary(t.Context(), "blog"); !errors.Is(err, mesh.NotFound) {
			t.Errorf("afterwards: %v", err)
		}
		sound(t, w)
	})
}

func TestCanary_IsTakenBack(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *deploytest.World, f *figures, d *deploy.Deployer) error
		want string
	}{
		"errors": {func(_ *deploytest.World, f *figures, _ *deploy.Deployer) error { f.answered(900, 90, 10); return nil }, "it answers 10% of 100 requests with 5xx, the old one 0%"},
		"a crash": {func(w *deploytest.World, _ *figures, _ *deploy.Deployer) error {
			r, _ := w.Router.Route("blog")
			w.Runner.Crash(r.Trial.Targets[0].ID, 3)
			return nil
		}, "web.1 of the new release ended with exit code 3"},
		"a person": {func(_ *deploytest.World, _ *figures, d *deploy.Deployer) error {
			_, err := d.DecideCanary(context.Background(), "blog", false, "mate", io.Discard)
			return err
		}, "v2 was taken back by mate"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				f, d, out, ended := trying(t, w)
				pass(time.Minute)
				if err := c.do(w, f, d); err != nil {
					t.Fatal(err)
				}
				pass(2 * time.Second)
				err := <-ended
				if err == nil || !strings.Contains(err.Error(), c.want) || trial(w) != "" || stack(t, w).Current != 1 {
					t.Errorf("%v, %q, %s\n%s", err, trial(w), stack(t, w).Current, out)
				}
				pass(time.Minute)
				w.Repos.Move("blog", mesh.RepoState{Branch: "main", Commit: release(t, w, 1).Commit})
				sound(t, w)
				// The next one is not judged by these figures.
				if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("b")}}, io.Discard); err != nil {
					t.Errorf("a change afterwards: %v", err)
				}
			})
		})
	}
}

func TestCanary_PromotedByHand(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		_, d, _, ended := trying(t, w)
		pass(time.Second)
		if err := d.MayHandOver(); !errors.Is(err, mesh.Conflict) {
			t.Errorf("an upgrade meanwhile: %v", err)
		}
		// Whatever changes the stack is refused, with who and since when.
		_, cerr := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("b")}}, io.Discard)
		_, perr := push(t, w, d, app)
		_, serr := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 2}}, io.Discard)
		for what, err := range map[string]error{"config": cerr, "push": perr, "scale": serr} {
			if !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "v2 of blog is on trial with 10% of the clients, by laptop since 2000-01-01T") {
				t.Errorf("%s: %v", what, err)
			}
		}
		s, err := d.DecideCanary(t.Context(), "blog", true, "mate", io.Discard)
		if err != nil || s.Release != 2 || stack(t, w).Current != 2 {
			t.Errorf("%+v, %v", s, err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := d.DecideCanary(t.Context(), "blog", true, "mate", io.Discard); !errors.Is(err, mesh.NotFound) {
			t.Errorf("twice: %v", err)
		}
	})
}

// A server that is killed in the middle goes back to the old release.
func TestCanary_Restart(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		f := &figures{}
		w.Options.Compare = f.compare
		d, stop := w.Start()
		mustPush(t, w, d, twoServices)
		setBlog(t, d, "canary=10%")
		p := w.Commit("blog", twoServices)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Push(ctx, p, io.Discard) }()
		pass(time.Minute)
		stop()
		cancel()
		<-ended
		_, _ = w.Start()
		pass(2 * time.Minute)
		if got := trial(w); got != "" || stack(t, w).Current != 1 {
			t.Errorf("after the restart: %q, %s", got, stack(t, w).Current)
		}
		sound(t, w)
	})
}

func TestCanary_WhereThereIsNothingToCompare(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		if _, err := d.CreateStack(t.Context(), "blog", "ci"); err != nil {
			t.Fatal(err)
		}
		setBlog(t, d, "canary=10%")
		out, err := push(t, w, d, app)
		if err != nil || !strings.Contains(out, "without a canary: nothing is deployed yet") {
			t.Errorf("the first push: %v\n%s", err, out)
		}
		if err := d.Stop(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		if out, err = push(t, w, d, app); err != nil || !strings.Contains(out, "without a canary: it is stopped") {
			t.Errorf("a stopped stack: %v\n%s", err, out)
		}
		p := w.Commit("blog", map[string]string{"Procfile": "worker: ./work"})
		p.Canary = "10"
		if err := d.Push(t.Context(), p, io.Discard); err == nil || !strings.Contains(err.Error(), "not possible: it has no web") {
			t.Errorf("asked for, without web: %v", err)
		}
		p = w.Commit("blog", app)
		p.Canary = "off"
		if err := d.Push(t.Context(), p, io.Discard); err != nil {
			t.Errorf("turned off: %v", err)
		}
		if out, err = push(t, w, d, map[string]string{"Procfile": "worker: ./work"}); err != nil || !strings.Contains(out, "without a canary: it has no web") {
			t.Errorf("by the setting, without web: %v\n%s", err, out)
		}
	})
}
