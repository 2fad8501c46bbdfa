package deploy_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// queue holds deployments of a stack whose builds wait for the test.
type queue struct {
	t    *testing.T
	w    *deploytest.World
	d    *deploy.Deployer
	free chan struct{} // a build that may end
}

type pushed struct {
	out    *deploytest.Output
	err    chan error
	cancel context.CancelFunc
}

func newQueue(t *testing.T, w *deploytest.World) *queue {
	d, _ := w.Start()
	mustPush(t, w, d, app)
	q := &queue{t: t, w: w, d: d, free: make(chan struct{})}
	w.Builder.BuildFunc = func(ctx context.Context, _ mesh.Build, _ io.Writer) error {
		select {
		case <-q.free:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return q
}

// do starts a change in the background.
func (q *queue) do(change func(context.Context, io.Writer) error) *pushed {
	ctx, cancel := context.WithCancel(q.t.Context())
	p := &pushed{out: &deploytest.Output{}, err: make(chan error, 1), cancel: cancel}
	go func() { p.err <- change(ctx, p.out) }()
	synctest.Wait()
	return p
}

func (q *queue) push() *pushed {
	m := q.w.Commit("blog", app)
	return q.do(func(ctx context.Context, out io.Writer) error { return q.d.Push(ctx, m, out) })
}

func (q *queue) config(name string) *pushed {
	return q.do(func(ctx context.Context, out io.Writer) error {
		_, err := q.d.SetConfig(ctx, "blog", "ci", mesh.ConfigChange{Set: mesh.Config{name: mesh.NewSecret("x")}}, out)
		return err
	})
}

func (q *queue) waits(p *pushed) {
	q.t.Helper()
	synctest.Wait()
	select {
	case err := <-p.err:
		q.t.Errorf("it did not wait: %v\n%s", err, p.out)
		p.err <- err
	default:
	}
}

func (q *queue) ended(p *pushed) error {
	q.t.Helper()
	synctest.Wait()
	select {
	case err := <-p.err:
		return err
	default:
		q.t.Fatalf("it still waits:\n%s", p.out)
		return nil
	}
}

func TestLane_SecondPushWaitsAndSaysWhom(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		first, second := q.push(), q.push()
		q.waits(second)
		if out := second.out.String(); !strings.Contains(out, "waiting for deployment #2 (push of 0000002 by laptop)") || strings.Contains(out, "Building") {
			t.Errorf("said:\n%s", out)
		}
		q.free <- struct{}{}
		if err := q.ended(first); err != nil {
			t.Error(err)
		}
		q.waits(second)
		q.free <- struct{}{}
		if err := q.ended(second); err != nil || strings.Count(second.out.String(), "deployment #3\n") != 1 {
			t.Errorf("%v\n%s", err, second.out)
		}
		sound(t, w)
	})
}

func TestLane_ThirdPushReplacesTheWaitingSecond(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		first, second := q.push(), q.push()
		third := q.push()
		if err := q.ended(second); !errors.Is(err, mesh.Cancelled) || err.Error() != "replaced by a newer push, deployment #4" {
			t.Errorf("got %v", err)
		}
		if dep, err := w.Store.Deployment(t.Context(), "blog", 3); err != nil || dep.Status != mesh.StatusCancelled {
			t.Errorf("%+v, %v", dep, err)
		}
		q.waits(first)
		q.waits(third)
		close(q.free)
		if err := errors.Join(q.ended(first), q.ended(third)); err != nil {
			t.Error(err)
		}
		sound(t, w)
	})
}

func TestLane_ConfigIsNeverReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		all := []*pushed{q.push(), q.config("A"), q.config("B")}
		replaced := q.push()
		all = append(all, q.config("C"), q.push())
		if err := q.ended(replaced); !errors.Is(err, mesh.Cancelled) {
			t.Errorf("got %v", err)
		}
		for _, p := range all {
			q.waits(p)
		}
		close(q.free)
		for _, p := range all {
			if err := q.ended(p); err != nil {
				t.Errorf("%v\n%s", err, p.out)
			}
		}
		if c := stack(t, w).Config; len(c) != 3 {
			t.Errorf("config is %v", c.Names())
		}
		sound(t, w)
	})
}

// A cancel answers even if the cancelled deployment does not end.
func TestLane_CancelAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		w.Builder.BuildFunc = func(context.Context, mesh.Build, io.Writer) error {
			<-q.free
			return nil
		}
		deaf := q.push()
		if _, err := q.d.Cancel(t.Context(), "blog", 0, "boss"); !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "deployment #2 was cancelled and has not ended yet") {
			t.Errorf("got %v", err)
		}
		close(q.free)
		if err := q.ended(deaf); !errors.Is(err, mesh.Cancelled) {
			t.Errorf("got %v", err)
		}
		w.Builder.BuildFunc = nil
		mustPush(t, w, q.d, app)
		sound(t, w)
	})
}

func TestLane_CancelRunningAndWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		first, second := q.push(), q.config("A")
		if dep, err := q.d.Cancel(t.Context(), "blog", 3, "boss"); err != nil || dep.Status != mesh.StatusCancelled || dep.Reason != "cancelled by boss" {
			t.Errorf("the waiting one: %+v, %v", dep, err)
		}
		if err := q.ended(second); !errors.Is(err, mesh.Cancelled) {
			t.Errorf("got %v", err)
		}
		if dep, err := q.d.Cancel(t.Context(), "blog", 0, "boss"); err != nil || dep.Number != 2 || dep.Status != mesh.StatusCancelled {
			t.Errorf("the running one: %+v, %v", dep, err)
		}
		if err := q.ended(first); !errors.Is(err, mesh.Cancelled) || !strings.Contains(first.out.String(), "cancelled by boss") {
			t.Errorf("%v\n%s", err, first.out)
		}
		for _, n := range []mesh.DeploymentNumber{0, 2, 99} {
			if _, err := q.d.Cancel(t.Context(), "blog", n, "boss"); !errors.Is(err, mesh.NotFound) {
				t.Errorf("%s: %v", n, err)
			}
		}
		w.Repos.Move("blog", mesh.RepoState{Commit: release(t, w, 1).Commit})
		sound(t, w)
	})
}

func TestLane_HangingUpGivesThePlaceUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		first, second, third := q.push(), q.config("A"), q.config("B")
		second.cancel()
		if err := q.ended(second); !errors.Is(err, mesh.Cancelled) {
			t.Errorf("the waiting one: %v", err)
		}
		q.waits(third)
		first.cancel()
		if err := q.ended(first); !errors.Is(err, mesh.Cancelled) {
			t.Errorf("the running one: %v", err)
		}
		if err := q.ended(third); err != nil || !strings.Contains(third.out.String(), "waiting for deployment #2") {
			t.Errorf("the next: %v\n%s", err, third.out)
		}
		w.Repos.Move("blog", mesh.RepoState{Commit: release(t, w, 1).Commit})
		sound(t, w)
	})
}

func TestLane_StacksDoNotWaitForEachOther(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		first := q.push()
		if _, err := q.d.CreateStack(t.Context(), "shop", "ci"); err != nil {
			t.Fatal(err)
		}
		w.Builder.BuildFunc = nil
		if err := q.d.Push(t.Context(), w.Commit("shop", app), io.Discard); err != nil {
			t.Errorf("another stack: %v", err)
		}
		q.waits(first)
		close(q.free)
		if err := q.ended(first); err != nil {
			t.Error(err)
		}
	})
}

func TestFollow_GivesTheVerdictOfWhatIsOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		first := q.push()
		commit := w.Repos.Head("blog")
		follow := q.do(func(ctx context.Context, out io.Writer) error {
			found, err := q.d.Follow(ctx, "blog", "main", commit, out)
			if !found {
				t.Error("it was not found")
			}
			return err
		})
		q.waits(follow)
		done := q.d.Done("blog", 2)
		close(q.free)
		if err := errors.Join(q.ended(first), q.ended(follow)); err != nil || !strings.Contains(follow.out.String(), "=====> 0000002 is live") {
			t.Errorf("%v\n%s", err, follow.out)
		}
		<-done
		<-q.d.Done("blog", 2)
		if found, err := q.d.Follow(t.Context(), "blog", "main", commit, io.Discard); found || err != nil {
			t.Errorf("of what has ended: %v, %v", found, err)
		}
	})
}
