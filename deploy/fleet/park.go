package fleet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"mesh"
)

// Parked is an instance that Park has ended.
type Parked struct {
	Instance mesh.Instance
	member   *member
	healthy  bool // before
}

// Park ends the instances of the stacks for which whose returns true, before those that take
// their places start, and keeps their containers. It takes them out of the routes, so that
// requests wait, lets them finish what they are serving, and returns once they have ended.
// Nobody brings them back before Unpark, which the caller must call unless it installs
// others, also if Park fails.
func (f *Fleet) Park(ctx context.Context, stacks []mesh.StackName, whose func(mesh.InstanceSpec) bool, exit func(mesh.Instance) Exit) ([]Parked, error) {
	f.mu.Lock()
	var out []Parked
	for _, stack := range stacks {
		g := f.groups[stack]
		if g == nil {
			continue
		}
		for _, m := range g.ordered() {
			if m.parked || !whose(m.spec) {
				continue
			}
			out = append(out, Parked{m.instance, m, m.healthy})
			m.parked, m.healthy, m.since = true, false, f.Now()
			m.ails, m.why = mesh.Halted, "ended until the new instance runs: its volume has one writer"
			f.markLocked(stack)
			f.Note(stack, m.instance.Name.String(), "ends before the new one starts: its volume has one writer")
		}
	}
	f.unlock()
	var all sync.WaitGroup
	errs := make([]error, len(out))
	for i, p := range out {
		how := exit(p.Instance)
		all.Go(func() { errs[i] = f.park(ctx, p, how) })
	}
	all.Wait()
	return out, errors.Join(errs...)
}

// parkedAgain is how often Park looks whether a goroutine that was bringing an instance back
// has noticed.
const parkedAgain = 20 * time.Millisecond

func (f *Fleet) park(ctx context.Context, p Parked, how Exit) error {
	dctx, cancel := context.WithTimeout(ctx, how.Drain)
	defer cancel()
	if err := f.Router.Drain(dctx, p.Instance.ID, how.Upgraded); err != nil && ctx.Err() == nil {
		f.Logger.Warn("requests cut off", "stack", p.Instance.Stack, "instance", p.Instance.Name.String(), "err", err)
	}
	for {
		f.mu.Lock()
		id, busy := p.member.instance.ID, p.member.busy
		if busy { // it does not wait any longer
			select {
			case p.member.wake <- struct{}{}:
			default:
			}
		}
		f.mu.Unlock()
		if id != noContainer {
			if err := f.Runner.Halt(ctx, id, how.Grace); err != nil {
				return err
			}
		}
		if !busy {
			return nil // nobody has started it since
		}
		if !Wait(ctx, parkedAgain, nil) {
			return context.Cause(ctx)
		}
	}
}

// Unpark brings parked instances back in the background, and waits until those that were
// healthy are, for at most limit. It reports whether they are. Those that are no longer
// wanted stay as they are.
func (f *Fleet) Unpark(ctx context.Context, parked []Parked, limit time.Duration) bool {
	f.mu.Lock()
	for _, p := range parked {
		m := p.member
		m.parked, m.next = false, f.Now()
		for _, g := range f.groups {
			if g.members[m.instance.Name] == m {
				f.bringBack(g, m, 0)
			}
		}
	}
	f.unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		f.mu.Lock()
		away := slices.ContainsFunc(parked, func(p Parked) bool {
			return p.healthy && !p.member.healthy && f.isMemberLocked(p.Instance.Stack, p.member)
		})
		f.mu.Unlock()
		if !away {
			return true
		}
		if !Wait(ctx, parkedAgain, nil) {
			return false
		}
	}
}
