package deploy_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"mesh/deploy/deploytest"
)

func TestSettle_WaitsForDeploymentsAndForWhatTheyRetire(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		first, second := q.push(), q.push()
		settled := make(chan error, 1)
		go func() { settled <- q.d.WaitIdle(t.Context()) }()
		waits := func(what string) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-settled:
				t.Fatalf("settled %s: %v", what, err)
			default:
			}
		}
		waits("while one deployment runs and one waits")
		drain := make(chan struct{})
		w.Router.DrainFunc = func(ctx context.Context, _ string) error { <-drain; return nil }
		q.free <- struct{}{}
		if err := q.ended(first); err != nil {
			t.Fatal(err)
		}
		waits("while a deployment waits")
		q.free <- struct{}{}
		if err := q.ended(second); err != nil {
			t.Fatal(err)
		}
		waits("while old instances drain")
		close(drain)
		if err := <-settled; err != nil {
			t.Error(err)
		}
		sound(t, w)
	})
}

func TestSettle_EndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		p := q.push()
		why := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, why)
		defer cancel()
		if err := q.d.WaitIdle(ctx); !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
		q.free <- struct{}{}
		if err := q.ended(p); err != nil {
			t.Error(err)
		}
	})
}
