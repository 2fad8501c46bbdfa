package fleet

import (
	"context"
	"errors"
	"time"

	"mesh"
)

// The fleet compares what runs with what is recorded when the engine reports a change,
// and also every lookEvery, because an event can be missed. A look is one request to
// the engine, whatever the number of instances (20 ms with 50, see runner.Look). Events
// within lookGather are handled together, so a rollout costs two looks instead of two
// per instance.
const (
	lookEvery  = 20 * time.Second
	lookGather = 200 * time.Millisecond
	lookAgain  = time.Second // after an end that no event has reported yet

	// Images are checked one by one, so seldom: when the engine reports that one was
	// removed, at the start, and at intervals. imagesLeast limits the rate on a machine
	// that removes images all the time.
	imagesEvery = 5 * time.Minute
	imagesLeast = 5 * time.Second
)

// lookSoon requests a look in a moment.
func (f *Fleet) lookSoon(images bool) {
	if images {
		f.images.Store(true)
	}
	select {
	case f.changed <- struct{}{}:
	default: // a look is coming anyway
	}
}

// keepLooking looks until ctx ends.
func (f *Fleet) keepLooking(ctx context.Context) {
	wait, images := lookEvery, time.Time{}
	f.lookSoon(true)
	for {
		t := time.NewTimer(wait)
		select {
		case <-f.changed:
			if !Wait(ctx, lookGather, nil) {
				t.Stop()
				return
			}
			select { // this look covers what came meanwhile
			case <-f.changed:
			default:
			}
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
		if wait = lookEvery; f.look(ctx) {
			wait = lookAgain
		}
		ago := f.Now().Sub(images)
		switch {
		case ago > imagesEvery, f.images.Load() && ago >= imagesLeast:
			images = f.Now()
			f.images.Store(false)
			f.LookImages(ctx)
		case f.images.Load():
			wait = min(wait, imagesLeast-ago)
		}
	}
}

// look compares what runs with what is recorded, takes instances that do not serve out
// of the routes, and has them repaired. It reports whether to look again soon.
func (f *Fleet) look(ctx context.Context) (again bool) {
	began := f.Now()
	there, err := f.Runner.Look(ctx)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, mesh.Unavailable) {
			f.Logger.Warn("instances not compared with the record", "err", err)
		}
		return false // Watch reports when the engine is back
	}
	by := make(map[string]mesh.Instance, len(there))
	for _, in := range there {
		by[in.ID] = in
	}
	f.mu.Lock()
	defer f.unlock()
	for _, g := range f.groups {
		if g.since.After(began) {
			continue
		}
		unknown := false
		for _, m := range g.members {
			in, found := by[m.instance.ID]
			switch {
			case m.busy || m.parked || m.since.After(began):
			case !m.healthy || m.recalled:
				unknown = true // adopted while the engine was away
			default:
				again = f.compareLocked(g, m, in, found) || again
			}
		}
		if unknown {
			f.Unsure(g.stack.Name)
		}
	}
	return again
}

// compareLocked repairs a member that differs from what the engine reports.
func (f *Fleet) compareLocked(g *group, m *member, in mesh.Instance, found bool) (again bool) {
	switch {
	case !found:
		f.ailsLocked(g, m, mesh.Missing, "its container was removed", 0)
	case in.State == mesh.InstanceExited, in.State == mesh.InstanceCreated:
		// The event that says how it ended may still come: wait for it once.
		if m.ended++; m.ended < 2 {
			return true
		}
		f.endedLocked(g, m, mesh.InstanceEvent{Instance: in, Died: true, At: f.Now()})
	case in.State == mesh.InstancePaused, !in.Addr.IsValid():
		what, why := ailment(in)
		f.ailsLocked(g, m, what, why, 0)
	case in.Addr != m.instance.Addr:
		f.Note(g.stack.Name, m.instance.Name.String(), "moved to %s from %s", in.Addr, m.instance.Addr)
		m.instance.Addr, m.instance.Inside = in.Addr, in.Inside
		f.markLocked(g.stack.Name)
	default:
		m.ended = 0
	}
	return false
}

// ailment returns why an instance does not serve.
func ailment(in mesh.Instance) (mesh.Condition, string) {
	switch in.State {
	case mesh.InstanceRunning:
		return mesh.Unreachable, "its container is not in the network of its stack"
	case mesh.InstancePaused:
		return mesh.Paused, "its container was paused"
	case mesh.InstanceCreated, mesh.InstanceExited:
	}
	return mesh.Halted, "its container is not running"
}
