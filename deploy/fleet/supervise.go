package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mesh"
)

// A crashed instance is restarted after 1 s, doubling up to 5 min; one that was up for
// longer than the longest wait starts over. What a person or a restarting engine ended
// is not a crash: it is restarted after 1 s, however often. While the engine does not
// answer, it is asked every 5 s, and at once when it is back.
const (
	firstBackoff = time.Second
	maxBackoff   = 5 * time.Minute
	awayBackoff  = 5 * time.Second
)

// Backoff returns how long to wait after that many failures in a row: 1 s, 2 s, 4 s, …
// 5 min.
func Backoff(failures int) time.Duration {
	wait := firstBackoff
	for range failures - 1 {
		if wait *= 2; wait >= maxBackoff {
			return maxBackoff
		}
	}
	return wait
}

// Event handles an event from the engine. It is called by one goroutine at a time.
func (f *Fleet) Event(ev mesh.InstanceEvent) {
	if ev.Changed {
		f.lookSoon(ev.Image)
		return
	}
	if !ev.Died {
		return
	}
	if ev.Lost {
		defer f.Router.Lost(ev.Instance.ID) // once new requests go elsewhere
	}
	f.mu.Lock()
	defer f.unlock()
	if g := f.groups[ev.Instance.Stack]; g != nil {
		if m := g.members[ev.Instance.Name]; m != nil && m.instance.ID == ev.Instance.ID {
			if !ev.At.IsZero() && ev.At.Before(m.instance.Started) {
				return // the end of an earlier run of the same container
			}
			f.endedLocked(g, m, ev)
			return
		}
	}
	if _, starting := f.starting[ev.Instance.ID]; starting {
		f.starting[ev.Instance.ID] = &ev
	}
}

// Died reports whether a container that StartAll started, and that belongs to no
// release yet, has ended since.
func (f *Fleet) Died(id string) (mesh.InstanceEvent, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ev := f.starting[id]; ev != nil {
		return *ev, true
	}
	return mesh.InstanceEvent{}, false
}

// forget drops the record of a removed container.
func (f *Fleet) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.starting, id)
}

// endedLocked takes an ended member out of the routes and plans its restart.
func (f *Fleet) endedLocked(g *group, m *member, ev mesh.InstanceEvent) {
	if m.parked {
		return
	}
	m.instance.ExitCode, m.instance.OOM, m.instance.State = ev.Instance.ExitCode, ev.Instance.OOM, mesh.InstanceExited
	if ev.Lost {
		f.ailsLocked(g, m, mesh.Missing, fmt.Sprintf("its machine %s does not answer", ev.Instance.Node), firstBackoff)
		return
	}
	if ev.ByHand {
		f.ailsLocked(g, m, mesh.Halted, fmt.Sprintf("stopped from outside, exit %d", m.instance.ExitCode), firstBackoff)
		return
	}
	now := f.Now()
	if m.healthy && now.Sub(m.since) > maxBackoff {
		m.crashes = 0
	}
	m.crashes++
	m.healthy, m.since, m.ails, m.why, m.fails, m.ended = false, now, mesh.Crashed, "", 0, 0
	wait := Backoff(m.crashes)
	m.next = now.Add(wait)
	f.markLocked(g.stack.Name)
	oom := ""
	if m.instance.OOM {
		oom = ", out of memory"
	}
	f.Note(g.stack.Name, m.instance.Name.String(), "crashed (exit %d%s), %d×; next attempt in %s", m.instance.ExitCode, oom, m.crashes, wait)
	f.Logger.Warn("instance crashed", "stack", g.stack.Name, "instance", m.instance.Name.String(),
		"exit", m.instance.ExitCode, "oom", m.instance.OOM, "crashes", m.crashes, "retry", wait)
	f.Crashed(g.stack.Name, g.status(m))
	f.bringBack(g, m, wait)
}

// ailsLocked takes a member out of the routes for a reason other than the app, and has
// it repaired after wait.
func (f *Fleet) ailsLocked(g *group, m *member, what mesh.Condition, why string, wait time.Duration) {
	if m.parked {
		return
	}
	now := f.Now()
	m.healthy, m.since, m.ails, m.why, m.ended = false, now, what, why, 0
	m.next = now.Add(wait)
	f.markLocked(g.stack.Name)
	f.Note(g.stack.Name, m.instance.Name.String(), "is %s: %s; mesh is fixing it", what, why)
	f.Logger.Warn("instance does not serve", "stack", g.stack.Name, "instance", m.instance.Name.String(), "is", string(what), "why", why)
	f.bringBack(g, m, wait)
}

// bringBack starts a member again after a wait, in the background, as long as it is
// wanted. If a goroutine already waits to do that and wait is 0, it tries at once. The
// caller holds f.mu.
func (f *Fleet) bringBack(g *group, m *member, wait time.Duration) {
	if m.parked {
		return
	}
	if m.busy {
		if wait == 0 {
			select {
			case m.wake <- struct{}{}:
			default:
			}
		}
		return
	}
	m.busy, m.wake = true, make(chan struct{}, 1)
	stack := g.stack.Name
	f.Background(func(ctx context.Context) {
		for {
			again := time.Duration(0)
			if Wait(ctx, wait, m.wake) {
				again = f.revive(ctx, stack, m)
			}
			f.mu.Lock()
			// It may have crashed again after it was back, while it was busy.
			if again == 0 && !m.healthy && !m.parked && f.isMemberLocked(stack, m) {
				again = max(m.next.Sub(f.Now()), 1)
			}
			if again == 0 || ctx.Err() != nil {
				m.busy = false
				f.mu.Unlock()
				return
			}
			f.mu.Unlock()
			wait = again
		}
	})
}

// Wait waits until t, or until wake, which may be nil, receives a value. It returns
// false if ctx ends first.
func Wait(ctx context.Context, t time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// isMemberLocked reports whether a member still fills a slot of its stack.
func (f *Fleet) isMemberLocked(stack mesh.StackName, m *member) bool {
	g := f.groups[stack]
	return g != nil && g.members[m.instance.Name] == m
}

func (f *Fleet) isMember(stack mesh.StackName, m *member) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.isMemberLocked(stack, m)
}

// revive starts one instance again and puts it back into the routes. It returns how
// long to wait before the next try, or 0 if the instance is back or not wanted.
func (f *Fleet) revive(ctx context.Context, stack mesh.StackName, m *member) time.Duration {
	f.mu.Lock()
	if m.parked || !f.isMemberLocked(stack, m) {
		f.mu.Unlock()
		return 0
	}
	id, name, since := m.instance.ID, m.instance.Name, m.since
	release, c := f.groups[stack].release, CheckOf(f.groups[stack].stack, name.Service)
	f.mu.Unlock()

	in, err := f.Runner.Revive(ctx, id)
	if errors.Is(err, mesh.NotFound) {
		in, err = f.replace(ctx, stack, m)
	}
	checking := err == nil
	if checking {
		_, err = f.Runner.Check(ctx, in, c, nil)
	}
	if ctx.Err() != nil {
		return 0
	}
	ails, failed := f.blame(ctx, release, err, checking)
	if ails == mesh.NoImage && f.isMember(stack, m) {
		f.Lost(stack, release.Number)
	}
	f.mu.Lock()
	defer f.unlock()
	switch {
	case m.parked, !f.isMemberLocked(stack, m):
		return 0
	case !m.since.Equal(since): // it ended meanwhile, whoever did it, perhaps after its check
		return max(m.next.Sub(f.Now()), 1)
	case err == nil:
		m.instance, m.healthy, m.since, m.ails, m.why, m.fails = in, true, f.Now(), "", "", 0
		f.markLocked(stack)
		f.Note(stack, name.String(), "is running again")
		f.Logger.Info("instance is back", "stack", stack, "instance", name.String())
		return 0
	}
	return f.stillDownLocked(stack, m, ails, failed, err)
}

// stillDownLocked records a failed try and returns how long to wait before the next.
func (f *Fleet) stillDownLocked(stack mesh.StackName, m *member, ails mesh.Condition, failed bool, err error) (wait time.Duration) {
	why := Reason(err)
	known := m.ails == ails && m.why == why
	if failed {
		m.crashes++
		wait = Backoff(m.crashes)
	} else {
		m.fails++
		if wait = Backoff(m.fails); ails == mesh.Unknown {
			wait = awayBackoff
		}
	}
	if m.ails != ails {
		m.since = f.Now()
	}
	m.ails, m.why, m.next = ails, why, f.Now().Add(wait)
	if failed || !known { // a repeated failure is only news if the app caused it
		f.Note(stack, m.instance.Name.String(), "did not come back: %s", why)
		f.Logger.Warn("instance not brought back", "stack", stack, "instance", m.instance.Name.String(), "err", err)
	}
	return wait
}

// blame returns what is wrong with an instance that could not be brought back, and
// whether the app caused it.
func (f *Fleet) blame(ctx context.Context, r mesh.Release, err error, checking bool) (ails mesh.Condition, app bool) {
	switch {
	case err == nil:
		return "", false
	case errors.Is(err, mesh.Unavailable) && f.Runner.Ping(ctx) != nil:
		return mesh.Unknown, false
	case !checking && errors.Is(err, mesh.NotFound):
		if ok, perr := f.Present(ctx, r.Image.ID); perr == nil && !ok {
			return mesh.NoImage, false
		}
		return mesh.Missing, false
	case errors.Is(err, mesh.Unavailable):
		return mesh.Missing, false
	}
	return mesh.Failing, true
}

// Reason returns an error as one line for people.
func Reason(err error) string {
	var e *mesh.Error
	if errors.As(err, &e) {
		return e.Text
	}
	return "internal error; see the server's log"
}

// replace starts a new container for a member whose own container cannot run again.
func (f *Fleet) replace(ctx context.Context, stack mesh.StackName, m *member) (mesh.Instance, error) {
	f.mu.Lock()
	spec, was := m.spec, m.instance
	gone := mesh.Errorf(mesh.NotFound, "%s is no longer needed", was.Name)
	if m.parked || !f.isMemberLocked(stack, m) {
		f.mu.Unlock()
		return mesh.Instance{}, gone
	}
	g := f.groups[stack]
	spec.Subnet, spec.Release, spec.Deployment = g.stack.Subnet, g.release.Number, was.Deployment
	f.mu.Unlock()
	if was.ID != noContainer && slices.ContainsFunc(spec.Mounts, func(m mesh.Mount) bool { return !m.Shared }) {
		if err := f.Runner.Stop(ctx, was.ID, mesh.DefaultStopTimeout); err != nil { // it may still run, without its network
			return was, err
		}
	}
	in, err := f.Runner.Start(ctx, spec)
	if err != nil {
		return in, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isMemberLocked(stack, m) && !m.parked {
		m.instance.ID, m.instance.Started = in.ID, in.Started // from now on, events of the new container count
		if was.ID != noContainer {
			// It is usually removed already, but one that has lost its network may
			// still run.
			f.Background(func(ctx context.Context) { f.StopAll(ctx, []mesh.Instance{was}, mesh.DefaultStopTimeout) })
		}
		return in, nil
	}
	f.Background(func(ctx context.Context) { f.StopAll(ctx, []mesh.Instance{in}, 0) })
	return in, gone
}
