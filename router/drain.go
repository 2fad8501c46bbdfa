package router

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// ErrRouted is returned by Drain for a target that a route still has: it would get
// new requests forever.
var ErrRouted = errors.New("a route still has the target")

// Drain returns when no request and no upgraded connection is left on the target
// with this ID, which no route may have any more. At ctx's deadline it ends the
// remaining requests, and after the given time the upgraded connections; either may
// come later than the other. If ctx ends for another reason, it ends all. It then
// returns ctx's error or that of a deadline. In any case the target is dropped and
// its idle connections are closed. For an unknown ID there is nothing to wait for.
// Drain is exact: once the Switch that left the target out has returned, no request
// can begin on it, so the last one that Drain has seen end was the last.
func (r *Router) Drain(ctx context.Context, targetID string, upgraded time.Duration) error {
	r.mu.Lock()
	t := r.targets[targetID]
	routed := t != nil && t.routes > 0
	r.mu.Unlock()
	switch {
	case t == nil:
		return nil
	case routed:
		return ErrRouted
	}
	t.retire()
	err := r.drain(ctx, t, upgraded)
	r.mu.Lock()
	r.forget(t)
	r.mu.Unlock()
	return err
}

// Lost ends what is in progress on the target with this ID, whose machine does not answer any
// more: nothing else would end it before its time limit. Requests that may be repeated
// (RFC 9110, section 9.2.2) and have no answer yet are sent to another target. It does not block.
func (r *Router) Lost(targetID string) {
	r.mu.Lock()
	t := r.targets[targetID]
	r.mu.Unlock()
	if t != nil {
		t.lose()
	}
}

func (r *Router) drain(ctx context.Context, t *target, upgraded time.Duration) (cut error) {
	base := context.WithoutCancel(ctx)
	limit, cancel := context.WithTimeout(base, upgraded)
	defer cancel()
	instance := t.ep.Load().name.String()
	requests, tunnels := ctx, limit // base when they are over
	for requests != base || tunnels != base {
		either, stop := context.WithCancel(requests)
		release := context.AfterFunc(tunnels, stop)
		err := t.inflight.wait(either)
		release()
		stop()
		if err == nil {
			return cut
		}
		over := requests != base && requests.Err() != nil
		if over {
			requests = base
			left := t.inflight.load() - t.tunnels()
			t.cut(errCut)
			if left > 0 {
				cut = ctx.Err()
				r.log.Warn("requests cut: the instance had to stop", "instance", instance, "requests", left)
			}
		}
		if tunnels != base && (tunnels.Err() != nil || over && !errors.Is(ctx.Err(), context.DeadlineExceeded)) {
			tunnels = base
			if n := t.cutTunnels(errCut); n > 0 {
				cut = cmp.Or(limit.Err(), ctx.Err())
				r.log.Info("upgraded connections cut: the instance had to stop", "instance", instance, "connections", n)
			}
		}
	}
	return cut
}

// forget drops a target that no route has. Call it with r.mu held.
func (r *Router) forget(t *target) {
	if t.routes == 0 && r.targets[t.id] == t {
		delete(r.targets, t.id)
		t.retire()
	}
}
