package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"mesh"
)

// Reconcile makes containers, routes and refs equal to the store. It is called
// before anything listens, and when an engine that was away is back. What runs
// and is wanted is adopted as it is; what is wanted and does not run is started in the
// background; what a stack no longer wants, and what destroyed stacks have left, is
// stopped and removed. What nothing is known of is left alone, and told: what is missing
// may be the record. With an engine
// that does not answer it puts the refs right, and returns the engine's error.
func (d *Deployer) Reconcile(ctx context.Context) error {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	damaged, whole := d.damaged()
	var all []error
	for i, st := range stacks {
		if damaged[st.Name] {
			continue
		}
		if st.Was != "" && !d.isRenaming(st.Was) {
			if stacks[i], err = d.finishRename(ctx, st); err != nil {
				all = append(all, err)
			}
		}
		if d.hasFleet(st.Name) {
			continue // the deployments that are open there are alive
		}
		if err := d.settleRecords(ctx, st); err != nil {
			all = append(all, fmt.Errorf("settle the records of %s: %w", st.Name, err))
		}
	}
	running, err := d.Runner.List(ctx)
	if err != nil {
		recalled := d.recall(ctx, stacks, whole)
		for name := range whole {
			d.hold(name, recalled[name])
		}
		for _, st := range stacks {
			// Routes that wait beat routes that do not exist, and routes that are there
			// beat both: the instances may well serve without their engine.
			if d.hasFleet(st.Name) || whole[st.Name] {
				continue
			}
			if aerr := d.adopt(ctx, st, recalled[st.Name], false); aerr != nil {
				all = append(all, fmt.Errorf("adopt %s: %w", st.Name, aerr))
			}
		}
		return errors.Join(append(all, err)...)
	}
	by := map[mesh.StackName][]mesh.Instance{}
	for _, in := range running {
		by[in.Stack] = append(by[in.Stack], in)
	}
	for name := range whole {
		d.hold(name, running)
	}
	for _, st := range stacks {
		if whole[st.Name] {
			continue
		}
		if d.hasFleet(st.Name) {
			// What was read above may be old by now: the lane is taken first, and all
			// read again.
			d.adoptLater(st.Name)
			continue
		}
		if err := d.adopt(ctx, st, by[st.Name], true); err != nil {
			all = append(all, fmt.Errorf("adopt %s: %w", st.Name, err))
		}
	}
	there, err := d.Runner.Stacks(ctx)
	if err == nil {
		// A server that was killed in the middle of a stacks:destroy may have removed all
		// but the images.
		var images []mesh.StackName
		images, err = d.Builder.Stacks(ctx)
		there = append(there, images...)
	}
	if err != nil {
		return errors.Join(append(all, err)...)
	}
	destroyed, err := d.Store.Destroyed(ctx)
	if err != nil {
		return errors.Join(append(all, err)...)
	}
	there = append(there, destroyed...)
	slices.Sort(there)
	there = slices.Compact(there)
	var unknown []mesh.StackName
	for _, name := range there {
		if _, err := d.Store.Stack(ctx, name); !errors.Is(err, mesh.NoStack) || d.isRenaming(name) {
			continue
		}
		switch {
		case slices.ContainsFunc(stacks, func(s mesh.Stack) bool { return s.Was == name }):
			// its images are another stack's now
		case slices.Contains(destroyed, name):
			d.Logger.Info("removing what a destroyed stack has left", "stack", name)
			d.removeStack(ctx, name)
		default:
			d.Logger.Warn("the engine has containers, networks or images of a stack that is not recorded: they are left alone", "stack", name)
			unknown = append(unknown, name)
			if len(whole) > 0 { // it may be what a damaged record was of
				d.hold(name, running)
			}
		}
	}
	d.mu.Lock()
	d.unknown = unknown
	d.mu.Unlock()
	return errors.Join(all...)
}

// settleRecords ends the deployments that a killed server left open, and puts the
// deploy branch back to what is deployed.
func (d *Deployer) settleRecords(ctx context.Context, st mesh.Stack) error {
	open := map[mesh.DeploymentNumber]bool{}
	for _, t := range d.tickets(st.Name) {
		open[t.deployment.Number] = true
	}
	deps, err := d.Store.Deployments(ctx, st.Name, 100)
	if err != nil {
		return err
	}
	for _, dep := range deps {
		if dep.Status.Final() || open[dep.Number] {
			continue
		}
		dep.Status, dep.Reason, dep.Ended = mesh.StatusFailed, "mesh was stopped meanwhile", d.Now().UTC()
		if err := d.Store.UpdateDeployment(ctx, dep); err != nil {
			return err
		}
	}
	if len(open) > 0 {
		return nil
	}
	return d.Repos.ResetBranch(ctx, st.Name)
}

// adopt takes over the instances of a stack that run what its current release
// wants, and retires the others. When what runs is not known, because the engine is
// away, running is what was last seen and answers: the others may be there, too, and
// nothing is started or stopped.
func (d *Deployer) adopt(ctx context.Context, st mesh.Stack, running []mesh.Instance, known bool) error {
	var r mesh.Release
	if st.Current > 0 {
		var err error
		if r, err = d.Store.Release(ctx, st.Name, st.Current); err != nil {
			return err
		}
	}
	if st.Stopped {
		r.Formation = nil
	}
	want, err := specs(st, r, 0)
	if err != nil {
		return err
	}
	live := map[mesh.DeploymentNumber]bool{}
	best := map[mesh.InstanceName]mesh.Instance{}
	spec := map[mesh.InstanceName]mesh.InstanceSpec{}
	for _, s := range want {
		spec[s.Name] = s
	}
	for _, in := range running {
		s, ok := spec[in.Name]
		if !ok || s.Fingerprint != in.Spec || in.Release > st.Current {
			continue
		}
		if _, known := live[in.Deployment]; !known {
			dep, err := d.Store.Deployment(ctx, st.Name, in.Deployment)
			// One that is not recorded any more is among the oldest, and what it started
			// has run since.
			old := errors.Is(err, mesh.NotFound) && in.Deployment < st.LastNumber
			old = old || errors.Is(err, mesh.Damaged) // what it started is left alone
			live[in.Deployment] = old || err == nil && dep.Status == mesh.StatusLive
		}
		old, ok := best[in.Name]
		better := !ok || in.Deployment > old.Deployment ||
			in.Deployment == old.Deployment && in.State == mesh.InstanceRunning && old.State != mesh.InstanceRunning
		if live[in.Deployment] && better {
			best[in.Name] = in
		}
	}

	d.mu.Lock()
	was := d.fleets[st.Name]
	now := d.Now()
	fl := &fleet{since: now, stack: d.newestLocked(st), release: r, members: map[mesh.InstanceName]*member{}}
	for _, s := range want {
		in, found := best[s.Name]
		m := &member{instance: in, since: now}
		if was != nil {
			if o := was.members[s.Name]; o != nil && (!found || o.instance.ID == in.ID) {
				m = o // keeps who is bringing it back
				if found {
					m.instance = in
				}
				// The engine was away. What it ended then is no crash, and what crashed before
				// may have done so for want of it: the back-off starts over.
				m.crashes, m.fails, m.ended = 0, 0, 0
			}
		}
		switch {
		case !found:
			if m.instance.ID == "" {
				m.instance = mesh.Instance{ID: noContainer, Stack: st.Name, Name: s.Name, Release: st.Current, Deployment: r.Deployment, Spec: s.Fingerprint}
			}
			m.healthy, m.ails, m.why = false, mesh.Missing, "it has no container"
			if !known {
				m.ails, m.why = mesh.Unknown, engineAway
			}
		case in.State == mesh.InstanceRunning && in.Addr.IsValid():
			if m.since = in.Started; m.since.IsZero() {
				m.since = now
			}
			if m.healthy, m.ails, m.why, m.recalled = true, "", "", !known; m.recalled {
				m.why = "as last seen; " + engineAway
			}
		default:
			m.healthy = false
			m.ails, m.why = ailment(in)
		}
		if !m.healthy {
			m.next = now
		}
		fl.members[s.Name] = m
	}
	d.fleets[st.Name] = fl
	d.switchLocked(fl)
	for _, m := range fl.members {
		if !m.healthy && known {
			d.bringBack(fl, m, 0)
		}
	}
	d.mu.Unlock()

	if some, _ := d.damaged(); !known || some[st.Name] {
		return nil // what else runs may be wanted by what cannot be read
	}
	var old []mesh.Instance
	for _, in := range running {
		if best[in.Name].ID != in.ID {
			old = append(old, in)
		}
	}
	d.retire(st, old)
	return nil
}

// engineAway is why nothing is known of an instance.
const engineAway = "the Docker Engine does not answer"

// ailment says what is wrong with an instance that does not serve.
func ailment(in mesh.Instance) (mesh.Condition, string) {
	switch in.State {
	case mesh.InstanceRunning:
		return mesh.Unreachable, "its container is not in the network of its stack"
	case mesh.InstancePaused:
		return mesh.Paused, "somebody paused its container"
	case mesh.InstanceCreated, mesh.InstanceExited:
	}
	return mesh.Halted, "its container does not run"
}

// adoptLater adopts a stack in its turn, when no deployment is at work there.
func (d *Deployer) adoptLater(name mesh.StackName) {
	d.background(func(ctx context.Context) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		t := &ticket{deployment: mesh.Deployment{Stack: name}, turn: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
		defer close(t.done)
		leave, err := d.enter(ctx, t, func(mesh.Deployment) {})
		if err != nil {
			return
		}
		defer leave()
		st, err := d.Store.Stack(ctx, name)
		if err != nil {
			return // destroyed meanwhile
		}
		running, err := d.Runner.List(ctx)
		if err == nil {
			err = d.adopt(ctx, st, slices.DeleteFunc(running, func(in mesh.Instance) bool { return in.Stack != name }), true)
		}
		if err != nil && ctx.Err() == nil {
			d.Logger.Error("stack not adopted", "stack", name, "err", err)
		}
	})
}

func (d *Deployer) hasFleet(name mesh.StackName) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fleets[name] != nil
}
