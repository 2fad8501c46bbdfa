package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// losses are the current releases whose image is missing, with the progress of making
// each image again. It may be used from several goroutines.
type losses struct {
	now  func() time.Time
	wake chan struct{} // holds a value when an image is to be made again

	mu sync.Mutex
	by map[mesh.StackName]*loss
}

func newLosses(now func() time.Time) losses {
	return losses{now: now, wake: make(chan struct{}, 1), by: map[mesh.StackName]*loss{}}
}

// loss is a current release whose image is missing.
type loss struct {
	release  mesh.ReleaseNumber
	down     bool      // instances need the image, so it is made again
	busy     bool      // it is being made
	fails    int       // failed tries in a row
	hopeless bool      // no source to make it from
	why      string    // why the last try failed, or what to do
	next     time.Time // of the next try
}

// Making images again: the next try comes after 10 s, doubling up to an hour, because
// each one is a deployment.
const (
	firstAgain = 10 * time.Second
	mostAgain  = time.Hour
)

// text describes a loss for people.
func (l *loss) text(now time.Time) string {
	switch {
	case l.busy:
		return "the image is missing; mesh is rebuilding it"
	case l.hopeless:
		return "the image is missing, and mesh cannot rebuild it: " + l.why
	case l.fails > 0:
		return fmt.Sprintf("the image is missing, and rebuilding it failed: %s; next attempt in %s", l.why, l.next.Sub(now).Round(time.Second))
	case l.down:
		return "the image is missing; mesh will rebuild it"
	}
	return "the image is missing; mesh rebuilds it when it is needed"
}

// text describes the missing image of a stack's current release. It returns "" if the
// image is present, as far as mesh has checked.
func (l *losses) text(stack mesh.StackName) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.by[stack]; x != nil {
		return x.text(l.now())
	}
	return ""
}

// lost notes that the image of a stack's current release is missing, and has it made
// again if instances need it (down). It returns a text for people, and whether that is
// news.
func (l *losses) lost(stack mesh.StackName, n mesh.ReleaseNumber, down bool) (text string, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.by[stack]
	if news = x == nil || x.release != n; news {
		x = &loss{release: n}
		l.by[stack] = x
	}
	if down && !x.down {
		news = true
		x.down, x.next = true, l.now()
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return x.text(l.now()), news
}

// found notes that the image of a stack's current release is present. It returns
// whether the image was missing, and whether instances needed it. It does not touch an
// image that is being made.
func (l *losses) found(stack mesh.StackName) (was, down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.by[stack]
	if x == nil || x.busy {
		return false, false
	}
	delete(l.by, stack)
	return true, x.down
}

// down reports whether a stack's current release does not serve because its image is
// missing. The deploy branch must not point to its commit then: people first try to
// push that commit again, and git must not call it up to date.
func (l *losses) down(stack mesh.StackName, n mesh.ReleaseNumber) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.by[stack]
	return x != nil && x.release == n && x.down
}

// begin marks the loss of a stack as being repaired. It returns nil if there is none.
func (l *losses) begin(stack mesh.StackName) *loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.by[stack]
	if x != nil {
		x.busy = true
	}
	return x
}

// end records how the repair of x has ended. If it failed for a reason of its own, end
// returns a text for people.
func (l *losses) end(stack mesh.StackName, x *loss, err error) (text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x.busy = false
	switch {
	case l.by[stack] != x:
		return ""
	case err == nil:
		delete(l.by, stack)
		return ""
	case errors.Is(err, errBusyStack), errors.Is(err, mesh.Unavailable):
		x.next, x.why = l.now().Add(firstAgain), fleet.Reason(err)
		return ""
	}
	x.fails++
	wait := min(firstAgain<<min(x.fails-1, 10), mostAgain)
	x.next, x.why = l.now().Add(wait), fleet.Reason(err)
	var e *mesh.Error
	if errors.As(err, &e) && e.Kind == mesh.NotFound {
		x.hopeless, x.why = true, cmp.Or(e.Hint, e.Text)
	}
	return x.text(l.now())
}

// next returns the stack whose image is to be made now, the one that has waited
// longest. If none is due, it returns how long to wait. current returns what a stack
// runs.
func (l *losses) next(current func(mesh.StackName) (n mesh.ReleaseNumber, stopped, ok bool)) (due mesh.StackName, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	wait = mostAgain
	var first time.Time
	for name, x := range l.by {
		n, stopped, ok := current(name)
		switch {
		case !ok || n != x.release:
			delete(l.by, name) // destroyed, or deployed again
			continue
		case stopped:
			x.down = false // its start makes the image
		}
		if !x.down || x.hopeless {
			continue
		}
		if left := x.next.Sub(now); left > 0 {
			wait = min(wait, left)
		} else if due == "" || x.next.Before(first) || x.next.Equal(first) && name < due {
			due, first = name, x.next
		}
	}
	return due, wait
}

// Loss describes the missing image of a stack's current release, for people. It returns
// "" if the image is present, as far as mesh has checked.
func (d *Deployer) Loss(stack mesh.StackName) string { return d.losses.text(stack) }

// lost is called by the fleet when instances cannot start because their image is
// missing.
func (d *Deployer) lost(stack mesh.StackName, n mesh.ReleaseNumber) {
	if text, news := d.losses.lost(stack, n, true); news {
		d.note(stack, "image", "%s", text)
	}
}

// lookImages checks whether the images of the current releases are present.
func (d *Deployer) lookImages(ctx context.Context) {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return
	}
	for _, st := range stacks {
		if st.Current == 0 || len(d.lanes.tickets(st.Name)) > 0 {
			continue
		}
		r, err := d.Store.Release(ctx, st.Name, st.Current)
		if err != nil {
			continue
		}
		ok, err := d.Builder.Present(ctx, r.Image.ID)
		if err != nil {
			return // the engine is away
		}
		if n, _, known := d.fleet.Current(st.Name); known && n == st.Current {
			d.noteImage(ctx, st.Name, n, ok)
		}
	}
}

// noteImage records whether the image of a stack's current release is present.
func (d *Deployer) noteImage(ctx context.Context, stack mesh.StackName, n mesh.ReleaseNumber, there bool) {
	if there {
		if was, down := d.losses.found(stack); was {
			d.fleet.Wake(stack, mesh.NoImage)
			if down {
				d.resetBranch(ctx, stack)
			}
		}
		return
	}
	if text, news := d.losses.lost(stack, n, false); news {
		d.note(stack, "image", "%s", text)
		d.Logger.Warn("the image of a release is missing", "stack", stack, "release", n.String())
		d.resetBranch(ctx, stack)
	}
}

// keepImages makes missing images again that instances need, until ctx ends. It makes
// one at a time across all stacks, because after a restore all of them are missing.
func (d *Deployer) keepImages(ctx context.Context) {
	for ctx.Err() == nil {
		stack, wait := d.losses.next(d.fleet.Current)
		if stack != "" {
			d.remake(ctx, stack)
			continue
		}
		if !fleet.Wait(ctx, wait, d.losses.wake) {
			return
		}
	}
}

// remake makes the image of a stack's current release again, as a new release.
func (d *Deployer) remake(ctx context.Context, stack mesh.StackName) {
	x := d.losses.begin(stack)
	if x == nil {
		return
	}
	d.resetBranch(ctx, stack)
	var err error
	if len(d.lanes.tickets(stack)) > 0 {
		err = errBusyStack // the deployment in progress may bring another release
	} else {
		err = d.restore(ctx, stack, self, nil)
	}
	if errors.Is(err, errImageBack) { // another stack's build made the same image, or someone loaded it
		d.losses.end(stack, x, nil)
		d.fleet.Wake(stack, mesh.NoImage)
		d.resetBranch(ctx, stack)
		return
	}
	if ctx.Err() != nil {
		return
	}
	if text := d.losses.end(stack, x, err); text != "" {
		d.note(stack, "image", "%s", text)
	}
}

// Status returns the instances of a stack, in order.
func (d *Deployer) Status(stack mesh.StackName) []mesh.InstanceStatus {
	list := d.fleet.Status(stack)
	for i := range list {
		if list[i].State == mesh.NoImage {
			list[i].Why = cmp.Or(d.losses.text(stack), list[i].Why)
		}
	}
	return list
}
