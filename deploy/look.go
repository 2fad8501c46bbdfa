package deploy

import (
	"context"
	"errors"
	"time"

	"mesh"
)

// What runs is compared with what is recorded when the engine tells of a change, and
// every lookEvery besides, because an event can be missed: a look is one request to
// the engine, whatever the number of instances (20 ms with 50, see runner.Look). The
// events of a burst are gathered for lookGather, so that a rollout costs two looks and
// not two an instance.
const (
	lookEvery  = 20 * time.Second
	lookGather = 200 * time.Millisecond
	lookAgain  = time.Second // after an end that no event has told of yet

	// Images are asked for one by one, so seldom: when the engine tells that one went,
	// at the start, and every so often besides. A machine that removes images all the
	// time does not make it ask more often than imagesLeast.
	imagesEvery = 5 * time.Minute
	imagesLeast = 5 * time.Second
)

// lookSoon has what runs compared with what is recorded, in a moment.
func (d *Deployer) lookSoon(images bool) {
	if images {
		d.images.Store(true)
	}
	select {
	case d.changed <- struct{}{}:
	default: // it will look anyway
	}
}

// keepLooking looks until ctx ends.
func (d *Deployer) keepLooking(ctx context.Context) {
	wait, images := lookEvery, time.Time{}
	d.lookSoon(true)
	for {
		t := time.NewTimer(wait)
		select {
		case <-d.changed:
			if !sleep(ctx, lookGather) {
				t.Stop()
				return
			}
			select { // what came meanwhile is seen, too
			case <-d.changed:
			default:
			}
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
		if wait = lookEvery; d.look(ctx) {
			wait = lookAgain
		}
		ago := d.Now().Sub(images)
		switch {
		case ago > imagesEvery, d.images.Load() && ago >= imagesLeast:
			images = d.Now()
			d.images.Store(false)
			d.lookImages(ctx)
		case d.images.Load():
			wait = min(wait, imagesLeast-ago)
		}
	}
}

// look compares what runs with what is recorded, takes what does not serve out of the
// routes, and has it mended. It tells whether to look again soon.
func (d *Deployer) look(ctx context.Context) (again bool) {
	began := d.Now()
	there, err := d.Runner.Look(ctx)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, mesh.Unavailable) {
			d.Logger.Warn("what runs was not looked at", "err", err)
		}
		return false // an engine that comes back is told by Watch
	}
	by := make(map[string]mesh.Instance, len(there))
	for _, in := range there {
		by[in.ID] = in
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, fl := range d.fleets {
		if fl.since.After(began) {
			continue
		}
		unknown := false
		for _, m := range fl.members {
			in, found := by[m.instance.ID]
			switch {
			case m.busy || m.since.After(began):
			case !m.healthy || m.recalled:
				unknown = true // adopted while the engine was away
			default:
				again = d.compareLocked(fl, m, in, found) || again
			}
		}
		if unknown {
			d.adoptLater(fl.stack.Name)
		}
	}
	return again
}

// compareLocked mends a member that is not what the engine says.
func (d *Deployer) compareLocked(fl *fleet, m *member, in mesh.Instance, found bool) (again bool) {
	switch {
	case !found:
		d.ailsLocked(fl, m, mesh.Missing, "its container was removed", 0)
	case in.State == mesh.InstanceExited, in.State == mesh.InstanceCreated:
		// The event that says how it ended may be on its way: it is waited for once.
		if m.ended++; m.ended < 2 {
			return true
		}
		d.endedLocked(fl, m, mesh.InstanceEvent{Instance: in, Died: true, At: d.Now()})
	case in.State == mesh.InstancePaused, !in.Addr.IsValid():
		what, why := ailment(in)
		d.ailsLocked(fl, m, what, why, 0)
	case in.Addr != m.instance.Addr:
		d.note(fl.stack.Name, m.instance.Name.String(), "is at %s now, and was at %s", in.Addr, m.instance.Addr)
		m.instance.Addr = in.Addr
		d.switchLocked(fl)
	default:
		m.ended = 0
	}
	return false
}
