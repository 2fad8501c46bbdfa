package deploy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// A stack sleeps by a record of its own: Stack.Asleep. It is written before instances are
// retired, and taken back once new ones are healthy, so that the next start of mesh, or of
// the machine, finds the stack as it was. Whatever is deployed leaves the stack awake. A stack
// falls asleep in its turn in the lane; it is woken at once, because a build may take its
// time, and gives way if another release serves by then.

// LastUse returns when a stack last had a request, and whether it has one now.
type LastUse func(mesh.StackName) (last time.Time, busy bool)

// sleepers are the stacks that are being woken, and those that could not be. It may be used
// from several goroutines.
type sleepers struct {
	mu    sync.Mutex
	busy  map[mesh.StackName]bool
	fails map[mesh.StackName]int
	next  map[mesh.StackName]time.Time // no try before
}

// sleepTick is how often mesh looks for stacks without requests.
const sleepTick = 2 * time.Second

// keepAsleep puts stacks to sleep that have had no request for long enough, until ctx ends.
func (d *Deployer) keepAsleep(ctx context.Context) {
	if d.LastUse == nil {
		return
	}
	for fleet.Wait(ctx, sleepTick, nil) {
		for _, i := range d.fleet.Idlers() {
			last, busy := d.LastUse(i.Stack.Name)
			if !busy && d.Now().Sub(laterOf(last, i.Since)) >= i.Stack.SleepAfter() && len(d.lanes.tickets(i.Stack.Name)) == 0 {
				err := d.inTurn(ctx, i.Stack.Name, func(ctx context.Context) error { return d.sleep(ctx, i) })
				if err != nil && ctx.Err() == nil {
					d.Logger.Warn("stack not put to sleep", "stack", i.Stack.Name, "err", err)
				}
			}
		}
	}
}

var errAwake = errors.New("it is not to sleep any more")

// sleep stops the instances of a stack that nobody uses.
func (d *Deployer) sleep(ctx context.Context, i fleet.Idler) error {
	st, err := d.Store.UpdateStack(ctx, i.Stack.Name, func(s *mesh.Stack) error {
		if s.Current != i.Release || s.Stopped || !s.Asleep.IsZero() || s.SleepAfter() == 0 || s.Staged != nil {
			return errAwake
		}
		s.Asleep = d.Now().UTC()
		return nil
	})
	if errors.Is(err, errAwake) || errors.Is(err, mesh.NoStack) {
		return nil
	}
	if err != nil {
		return err
	}
	old, ok := d.fleet.Sleep(st, i.Release)
	if !ok { // a deployment has come in between, and has recorded that the stack is awake
		d.refresh(ctx, st.Name)
		return nil
	}
	d.note(st.Name, "sleep", "no request for %s: asleep until the next one", mesh.Brief(st.SleepAfter()))
	d.retire(st, old)
	return nil
}

// Wake starts the instances of a stack that sleeps, in the background. It does not block. It
// returns false if that failed a moment ago and is not tried again yet.
func (d *Deployer) Wake(stack mesh.StackName) bool {
	w := &d.sleepers
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case d.life.Err() != nil:
		return false // another process takes over
	case w.busy[stack]:
		return true
	case d.Now().Before(w.next[stack]):
		return false
	}
	if w.busy == nil {
		w.busy, w.fails, w.next = map[mesh.StackName]bool{}, map[mesh.StackName]int{}, map[mesh.StackName]time.Time{}
	}
	w.busy[stack] = true
	d.background(func(ctx context.Context) {
		err := d.wake(ctx, stack)
		w.mu.Lock()
		delete(w.busy, stack)
		if err == nil {
			delete(w.fails, stack)
			delete(w.next, stack)
		} else {
			w.fails[stack]++
			w.next[stack] = d.Now().Add(fleet.Backoff(w.fails[stack]))
		}
		w.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			d.note(stack, "sleep", "did not wake up: %s", fleet.Reason(err))
			d.Logger.Warn("stack did not wake up", "stack", stack, "err", err)
			d.fleet.Ended(stack) // whoever waits hears of it
		}
	})
	return true
}

// wake starts what sleeps of a stack, checks it, and sends it the requests.
func (d *Deployer) wake(ctx context.Context, stack mesh.StackName) error {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	if st.Asleep.IsZero() || st.Stopped || st.Current == 0 {
		d.refresh(ctx, stack)
		return nil
	}
	r, err := d.Store.Release(ctx, stack, st.Current)
	if err != nil {
		return err
	}
	mounts, err := d.mounts(ctx, st)
	if err != nil {
		return err
	}
	want, err := specs(st, r, r.Deployment, mounts)
	if err != nil {
		return err
	}
	if _, alone := apart(want); len(alone) > 0 {
		d.fleet.Left(ctx, stack) // the old ones may still have the volume
	}
	var start []mesh.InstanceSpec
	for _, s := range want {
		if st.Sleeps(s.Name.Service) {
			start = append(start, s)
		}
	}
	release, err := d.claimVolumes("used by "+string(stack)+", which wakes up", true, volumeNames(start)...)
	if err != nil {
		return err
	}
	defer release()
	began := d.Now()
	_, started, err := d.startIn(ctx, st, start, "", fleet.Progress{Healthy: func(mesh.InstanceName, string) {}, Detail: func(string) {}})
	stop := func() { d.fleet.StopAll(context.WithoutCancel(ctx), started, 0) }
	if err != nil {
		stop()
		if ok, perr := d.Builder.Present(ctx, r.Image.ID); perr == nil && !ok {
			d.lost(stack, r.Number)
			return fmt.Errorf("%w", d.goneError(ctx, r))
		}
		return err
	}
	next, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error {
		if s.Current != r.Number || s.Asleep.IsZero() || s.Stopped {
			return errAwake
		}
		s.Asleep = time.Time{}
		return nil
	})
	if err == nil && !d.fleet.Awaken(next, r, want, started) {
		err = errAwake
	}
	if err != nil {
		stop()
		if errors.Is(err, errAwake) { // another release serves
			d.refresh(ctx, stack)
			return nil
		}
		return err
	}
	d.note(stack, "sleep", "awake again, in %s", seconds(d.Now().Sub(began)))
	return nil
}
