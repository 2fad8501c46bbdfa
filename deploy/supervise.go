package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"mesh"
)

// fleet is what runs of a stack: one member a slot of its current release.
// Guarded by Deployer.mu.
type fleet struct {
	since   time.Time // when it became what it is; a look at the engine begun before is out of date
	stack   mesh.Stack
	release mesh.Release
	members map[mesh.InstanceName]*member
	was     *fleet // of the stack's old name, until its instances retire
}

// member is the instance in a slot.
type member struct {
	instance mesh.Instance
	healthy  bool
	ails     mesh.Condition // what is wrong, when not healthy
	why      string         // more of that, for people
	since    time.Time      // of the present state
	crashes  int            // of the app's own, in a row
	fails    int            // tries in a row that failed for other reasons than the app
	next     time.Time      // of the next try, when not healthy
	busy     bool           // somebody is bringing it back
	wake     chan struct{}  // lets whoever is busy try at once
	recalled bool           // it was last seen so; the engine has not been asked
	ended    int            // looks in a row that found it ended, without an event that says so
}

// Restarting what crashes: after 1 s, doubling up to 5 min; an instance that was
// up for longer than the longest wait starts over. What was done by hand, or by an
// engine that restarts, is no crash: it is mended after 1 s, however often. While the
// engine does not answer it is asked every 5 s, and at once when it is back.
const (
	firstBackoff = time.Second
	maxBackoff   = 5 * time.Minute
	awayBackoff  = 5 * time.Second
)

func backoff(crashes int) time.Duration {
	wait := firstBackoff
	for range crashes - 1 {
		if wait *= 2; wait >= maxBackoff {
			return maxBackoff
		}
	}
	return wait
}

// install makes r what the stack runs, on the instances that it keeps, as far as
// they are still what they were, and those that were started for it, and switches
// the router to them, in one. It returns the instances that are no longer wanted.
func (d *Deployer) install(st mesh.Stack, r mesh.Release, keep, started []mesh.Instance) (old []mesh.Instance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.fleets[st.Name]
	fl := &fleet{since: d.Now(), stack: d.newestLocked(st), release: r, members: map[mesh.InstanceName]*member{}}
	for _, in := range keep {
		// What has become of it since, a crash or another container, is the member's.
		if was != nil && was.members[in.Name] != nil {
			fl.members[in.Name] = was.members[in.Name]
		} else {
			fl.members[in.Name] = &member{instance: in, healthy: true, since: d.Now()}
		}
	}
	for _, in := range started {
		fl.members[in.Name] = &member{instance: in, healthy: true, since: d.Now()}
	}
	if was != nil {
		for name, m := range was.members {
			if n := fl.members[name]; n == nil || n.instance.ID != m.instance.ID {
				old = append(old, m.instance)
			}
		}
	}
	if st.Was != "" {
		// Nobody tells the router of the old name any more: it has the same domains.
		fl.was = d.fleets[st.Was]
		delete(d.fleets, st.Was)
	}
	d.fleets[st.Name] = fl
	d.switchLocked(fl)
	// What died between its check and now was nobody's to restart.
	for _, m := range fl.members {
		if ev, dead := d.died[m.instance.ID]; dead {
			d.endedLocked(fl, m, ev)
		}
		delete(d.died, m.instance.ID)
		delete(d.starting, m.instance.ID)
	}
	byName(old)
	return old
}

// refresh tells the router what has been recorded of a stack since its last switch.
func (d *Deployer) refresh(stack mesh.StackName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if fl := d.fleets[stack]; fl != nil {
		fl.stack = d.newestLocked(fl.stack)
		d.switchLocked(fl)
	}
}

// newestLocked is the record of a stack as it is now. Whoever changes one tells the
// router afterwards, and not in the order of the changes: with what is newest, the
// last to do so tells it all of them.
func (d *Deployer) newestLocked(st mesh.Stack) mesh.Stack {
	newest, err := d.Store.Stack(context.Background(), st.Name)
	if err != nil {
		d.Logger.Warn("stack not read again for its routes", "stack", st.Name, "err", err)
		return st
	}
	return newest
}

// switchLocked tells the router what serves a stack now.
func (d *Deployer) switchLocked(fl *fleet) {
	route := mesh.Route{Stack: fl.stack.Name, Hosts: append([]mesh.Host{d.host(fl.stack.Name)}, fl.stack.Domains...), Redirects: fl.stack.Redirects, Page: fl.stack.Page, FirstByte: fl.stack.Effective().FirstByte}
	switch {
	case fl.stack.Maintained:
		route.Down = mesh.Maintenance
	case fl.stack.Current == 0:
		route.Down = mesh.NotDeployed
	case fl.stack.Stopped, fl.release.Formation[mesh.Web] == 0:
		route.Down = mesh.StoppedStack
	}
	route.Endpoints = fl.stack.Endpoints
	for _, e := range fl.stack.Endpoints {
		if route.Idle == nil {
			route.Idle = map[mesh.ServiceName]mesh.DownReason{}
		}
		switch {
		case fl.stack.Current == 0:
			route.Idle[e.Service] = mesh.NotDeployed
		case fl.stack.Stopped, fl.release.Formation[e.Service] == 0:
			route.Idle[e.Service] = mesh.StoppedStack
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(fl.members), mesh.InstanceName.Compare) {
		if m := fl.members[name]; m.healthy && (name.Service == mesh.Web || fl.stack.Published(name.Service)) {
			route.Targets = append(route.Targets, mesh.Target{ID: m.instance.ID, Name: name, Addr: m.instance.Addr})
		}
	}
	d.Router.Switch(route)
	select {
	case d.moved <- struct{}{}:
	default:
	}
}

// event takes what the engine reports.
func (d *Deployer) event(ev mesh.InstanceEvent) {
	if ev.Changed {
		d.lookSoon(ev.Image)
		return
	}
	if !ev.Died {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fl := d.fleets[ev.Instance.Stack]
	if fl != nil {
		if m := fl.members[ev.Instance.Name]; m != nil && m.instance.ID == ev.Instance.ID {
			if !ev.At.IsZero() && ev.At.Before(m.instance.Started) {
				return // the end of an earlier run of the same container
			}
			d.endedLocked(fl, m, ev)
			return
		}
	}
	if d.starting[ev.Instance.ID] {
		d.died[ev.Instance.ID] = ev
	}
}

// deathOf tells whether a container that is in no fleet has died.
func (d *Deployer) deathOf(id string) (mesh.InstanceEvent, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ev, ok := d.died[id]
	return ev, ok
}

// forget drops what is remembered of a container that is gone.
func (d *Deployer) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.died, id)
	delete(d.starting, id)
}

// endedLocked takes a member that has ended out of the routes and plans its return.
func (d *Deployer) endedLocked(fl *fleet, m *member, ev mesh.InstanceEvent) {
	m.instance.ExitCode, m.instance.OOM, m.instance.State = ev.Instance.ExitCode, ev.Instance.OOM, mesh.InstanceExited
	if ev.ByHand {
		d.ailsLocked(fl, m, mesh.Halted, fmt.Sprintf("stopped from outside, exit %d", m.instance.ExitCode), firstBackoff)
		return
	}
	now := d.Now()
	if m.healthy && now.Sub(m.since) > maxBackoff {
		m.crashes = 0
	}
	m.crashes++
	m.healthy, m.since, m.ails, m.why, m.fails, m.ended = false, now, mesh.Crashed, "", 0, 0
	wait := backoff(m.crashes)
	m.next = now.Add(wait)
	d.switchLocked(fl)
	oom := ""
	if m.instance.OOM {
		oom = ", out of memory"
	}
	d.note(fl.stack.Name, m.instance.Name.String(), "crashed (exit %d%s), %d×; the next try is in %s", m.instance.ExitCode, oom, m.crashes, wait)
	d.Logger.Warn("instance crashed", "stack", fl.stack.Name, "instance", m.instance.Name.String(),
		"exit", m.instance.ExitCode, "oom", m.instance.OOM, "crashes", m.crashes, "retry", wait)
	d.bringBack(fl, m, wait)
}

// ailsLocked takes a member out of the routes for a reason that is not the app's, and
// has it mended after wait.
func (d *Deployer) ailsLocked(fl *fleet, m *member, what mesh.Condition, why string, wait time.Duration) {
	now := d.Now()
	m.healthy, m.since, m.ails, m.why, m.ended = false, now, what, why, 0
	m.next = now.Add(wait)
	d.switchLocked(fl)
	d.note(fl.stack.Name, m.instance.Name.String(), "is %s: %s; mesh mends it", what, why)
	d.Logger.Warn("instance does not serve", "stack", fl.stack.Name, "instance", m.instance.Name.String(), "is", string(what), "why", why)
	d.bringBack(fl, m, wait)
}

// bringBack starts a member again after a while, in the background, for as long
// as it is wanted. Somebody who waits already to do that does it now when wait is 0.
// d.mu is held.
func (d *Deployer) bringBack(fl *fleet, m *member, wait time.Duration) {
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
	stack := fl.stack.Name
	d.background(func(ctx context.Context) {
		for {
			again := time.Duration(0)
			if pause(ctx, wait, m.wake) {
				again = d.revive(ctx, stack, m)
			}
			d.mu.Lock()
			// A crash after it was back has found it busy.
			if again == 0 && !m.healthy && d.isMemberLocked(stack, m) {
				again = max(m.next.Sub(d.Now()), 1)
			}
			if again == 0 || ctx.Err() != nil {
				m.busy = false
				d.mu.Unlock()
				return
			}
			d.mu.Unlock()
			wait = again
		}
	})
}

// pause waits until t has passed or somebody wakes it, or returns false when ctx ends
// first.
func pause(ctx context.Context, t time.Duration, wake <-chan struct{}) bool {
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

// isMemberLocked tells whether a member still fills a slot of its stack.
func (d *Deployer) isMemberLocked(stack mesh.StackName, m *member) bool {
	fl := d.fleets[stack]
	return fl != nil && fl.members[m.instance.Name] == m
}

// revive starts one instance again and puts it back into the routes. It returns
// how long to wait before another try, or 0 when it is back or not wanted.
func (d *Deployer) revive(ctx context.Context, stack mesh.StackName, m *member) time.Duration {
	d.mu.Lock()
	if !d.isMemberLocked(stack, m) {
		d.mu.Unlock()
		return 0
	}
	id, name, crashes := m.instance.ID, m.instance.Name, m.crashes
	c := check(d.fleets[stack].stack, name.Service)
	d.mu.Unlock()

	in, err := d.Runner.Revive(ctx, id)
	if errors.Is(err, mesh.NotFound) {
		in, err = d.replace(ctx, stack, m)
	}
	checking := err == nil
	if checking {
		_, err = d.Runner.Check(ctx, in, c, nil)
	}
	if ctx.Err() != nil {
		return 0
	}
	ails, failed := d.blame(ctx, stack, err, checking)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !d.isMemberLocked(stack, m):
		return 0
	case m.crashes != crashes: // it ended while this was under way, maybe after its check
		return max(m.next.Sub(d.Now()), 1)
	case err == nil:
		delete(d.died, in.ID)
		m.instance, m.healthy, m.since, m.ails, m.why, m.fails = in, true, d.Now(), "", "", 0
		d.switchLocked(d.fleets[stack])
		d.note(stack, name.String(), "is up again")
		d.Logger.Info("instance is back", "stack", stack, "instance", name.String())
		return 0
	}
	why := reason(err)
	if fl := d.fleets[stack]; ails == mesh.NoImage && d.lostLocked(stack, fl.release.Number, true) {
		d.note(stack, "image", "%s", d.losses[stack].text(d.Now()))
	}
	known := m.ails == ails && m.why == why
	var wait time.Duration
	if failed {
		m.crashes++
		wait = backoff(m.crashes)
	} else {
		m.fails++
		if wait = backoff(m.fails); ails == mesh.Unknown {
			wait = awayBackoff
		}
	}
	if m.ails != ails {
		m.since = d.Now()
	}
	m.ails, m.why, m.next = ails, why, d.Now().Add(wait)
	if failed || !known { // the same again is no news when it is not the app's
		d.note(stack, name.String(), "did not come back: %s", why)
		d.Logger.Warn("instance not brought back", "stack", stack, "instance", name.String(), "err", err)
	}
	return wait
}

// blame says what is wrong with an instance that could not be brought back, and
// whether that is the app's doing.
func (d *Deployer) blame(ctx context.Context, stack mesh.StackName, err error, checking bool) (ails mesh.Condition, app bool) {
	switch {
	case err == nil:
		return "", false
	case errors.Is(err, mesh.Unavailable) && d.Runner.Ping(ctx) != nil:
		return mesh.Unknown, false
	case !checking && errors.Is(err, mesh.NotFound):
		if ok, perr := d.currentImage(ctx, stack); perr == nil && !ok {
			return mesh.NoImage, false
		}
		return mesh.Missing, false
	case errors.Is(err, mesh.Unavailable):
		return mesh.Missing, false
	}
	return mesh.Failing, true
}

// currentImage tells whether the image of a stack's current release is there.
func (d *Deployer) currentImage(ctx context.Context, stack mesh.StackName) (bool, error) {
	d.mu.Lock()
	id := ""
	if fl := d.fleets[stack]; fl != nil {
		id = fl.release.Image.ID
	}
	d.mu.Unlock()
	if id == "" {
		return true, nil
	}
	return d.Builder.Present(ctx, id)
}

// reason is an error as people may see it in a line.
func reason(err error) string {
	var e *mesh.Error
	if errors.As(err, &e) {
		return e.Text
	}
	return "mesh itself failed; its log has the details"
}

// replace starts a new container for a member whose own cannot run any more.
func (d *Deployer) replace(ctx context.Context, stack mesh.StackName, m *member) (mesh.Instance, error) {
	d.mu.Lock()
	name, was := m.instance.Name, m.instance
	gone := mesh.Errorf(mesh.NotFound, "%s is not wanted any more", name)
	if !d.isMemberLocked(stack, m) {
		d.mu.Unlock()
		return mesh.Instance{}, gone
	}
	st, r, dep := d.fleets[stack].stack, d.fleets[stack].release, m.instance.Deployment
	d.mu.Unlock()
	want, err := specs(st, r, dep)
	if err != nil {
		return mesh.Instance{}, err
	}
	i := slices.IndexFunc(want, func(s mesh.InstanceSpec) bool { return s.Name == name })
	if i < 0 {
		return mesh.Instance{}, gone
	}
	in, err := d.Runner.Start(ctx, want[i])
	if err != nil {
		return in, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isMemberLocked(stack, m) {
		m.instance.ID, m.instance.Started = in.ID, in.Started // what dies from now on is this one
		if was.ID != noContainer {
			// Mostly gone already; one that has lost its network may still run.
			d.background(func(ctx context.Context) { d.stopAll(ctx, []mesh.Instance{was}, mesh.DefaultStopTimeout) })
		}
		return in, nil
	}
	d.background(func(ctx context.Context) { d.stopAll(ctx, []mesh.Instance{in}, 0) })
	return in, gone
}

// noContainer is the ID of a member that has none, as far as mesh knows.
const noContainer = "none"

// Status tells what runs of a stack.
func (d *Deployer) Status(stack mesh.StackName) []mesh.InstanceStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	fl := d.fleets[stack]
	if fl == nil {
		return nil
	}
	var out []mesh.InstanceStatus
	for _, name := range slices.SortedFunc(maps.Keys(fl.members), mesh.InstanceName.Compare) {
		m := fl.members[name]
		s := mesh.InstanceStatus{
			Name: name, Release: m.instance.Release, State: mesh.Up, Why: m.why, Since: m.since, Crashes: m.crashes,
			ExitCode: m.instance.ExitCode, OOM: m.instance.OOM, Next: m.next, Command: fl.release.Services[name.Service].Command,
		}
		if !m.healthy {
			s.State = m.ails
			if l := d.losses[stack]; l != nil && m.ails == mesh.NoImage {
				s.Why = l.text(d.Now())
			}
		}
		out = append(out, s)
	}
	return out
}
