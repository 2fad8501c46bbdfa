package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"mesh"
)

// Reconcile makes containers, routes and refs match the store. Call it before anything
// listens, and when the engine is back after an outage. It adopts unchanged the
// instances that run and should run, starts missing ones in the background, and stops
// and removes what a stack no longer wants and what destroyed stacks have left. It does
// not touch what belongs to no recorded stack, but reports it: the record may be what
// is missing. If the engine does not answer, Reconcile corrects the refs and returns
// the engine's error.
func (d *Deployer) Reconcile(ctx context.Context) error {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	d.tellDefault(ctx)
	damaged, whole := d.damaged()
	all := []error{d.finishRecords(ctx, stacks, damaged)}
	running, err := d.Runner.List(ctx)
	if err != nil {
		return errors.Join(append(all, d.adoptRecalled(ctx, stacks, whole), err)...)
	}
	all = append(all, d.adoptAll(ctx, stacks, running, whole))
	there, destroyed, err := d.leftBehind(ctx)
	if err != nil {
		return errors.Join(append(all, err)...)
	}
	var unknown []mesh.StackName
	for _, name := range there {
		if _, err := d.Store.Stack(ctx, name); !errors.Is(err, mesh.NoStack) || d.names.isRenaming(name) {
			continue
		}
		switch {
		case slices.ContainsFunc(stacks, func(s mesh.Stack) bool { return s.Was == name }):
			// its images belong to another stack now
		case slices.Contains(destroyed, name):
			d.Logger.Info("removing what a destroyed stack has left", "stack", name)
			d.removeStack(ctx, name)
		default:
			d.Logger.Warn("the engine has containers, networks or images of an unknown stack; leaving them alone", "stack", name)
			unknown = append(unknown, name)
			if len(whole) > 0 { // it may belong to a damaged record
				d.hold(ctx, name, running)
			}
		}
	}
	d.unknown.Store(&unknown)
	all = append(all, d.reconcileAddons(ctx), d.reconcileVolumes(ctx))
	return errors.Join(all...)
}

// finishRecords completes what a killed server left unfinished in the store and in the
// repositories: renames, open deployments, the deploy branch.
func (d *Deployer) finishRecords(ctx context.Context, stacks []mesh.Stack, damaged map[mesh.StackName]bool) error {
	var all []error
	for i, st := range stacks {
		if damaged[st.Name] {
			continue
		}
		if st.Was != "" && !d.names.isRenaming(st.Was) {
			var err error
			if stacks[i], err = d.finishRename(ctx, st); err != nil {
				all = append(all, err)
			}
		}
		if d.fleet.Has(st.Name) {
			continue // its open deployments are running
		}
		if err := d.closeRecords(ctx, st); err != nil {
			all = append(all, fmt.Errorf("close the records of %s: %w", st.Name, err))
		}
	}
	return errors.Join(all...)
}

// adoptAll adopts the stacks with their running instances. A stack in whole is held,
// because its record cannot be read.
func (d *Deployer) adoptAll(ctx context.Context, stacks []mesh.Stack, running []mesh.Instance, whole map[mesh.StackName]bool) error {
	by := map[mesh.StackName][]mesh.Instance{}
	for _, in := range running {
		by[in.Stack] = append(by[in.Stack], in)
	}
	for name := range whole {
		d.hold(ctx, name, running)
	}
	var all []error
	for _, st := range stacks {
		switch {
		case whole[st.Name]:
		case d.fleet.Has(st.Name):
			// The stack read above may be out of date: take the lane first, then read
			// it again.
			d.adoptLater(st.Name)
		default:
			if err := d.adopt(ctx, st, by[st.Name], true); err != nil {
				all = append(all, fmt.Errorf("adopt %s: %w", st.Name, err))
			}
		}
	}
	return errors.Join(all...)
}

// adoptRecalled adopts the stacks while the engine is away, with the instances that
// were last seen and still answer. Routes that wait are better than none, and routes
// that work are better than both: instances may serve without their engine.
func (d *Deployer) adoptRecalled(ctx context.Context, stacks []mesh.Stack, whole map[mesh.StackName]bool) error {
	recalled := d.fleet.Recall(ctx, stacks, whole)
	for name := range whole {
		d.hold(ctx, name, recalled[name])
	}
	var all []error
	for _, st := range stacks {
		if d.fleet.Has(st.Name) || whole[st.Name] {
			continue
		}
		if err := d.adopt(ctx, st, recalled[st.Name], false); err != nil {
			all = append(all, fmt.Errorf("adopt %s: %w", st.Name, err))
		}
	}
	return errors.Join(all...)
}

// leftBehind returns the stacks that the engine has something of, and the destroyed
// stacks that may have left something. A server that was killed during stacks:destroy
// may have removed everything but the images.
func (d *Deployer) leftBehind(ctx context.Context) (there, destroyed []mesh.StackName, err error) {
	if there, err = d.Runner.Stacks(ctx); err != nil {
		return nil, nil, err
	}
	images, err := d.Builder.Stacks(ctx)
	if err != nil {
		return nil, nil, err
	}
	if destroyed, err = d.Store.Destroyed(ctx); err != nil {
		return nil, nil, err
	}
	there = slices.Concat(there, images, destroyed)
	slices.Sort(there)
	return slices.Compact(there), destroyed, nil
}

// closeRecords ends the deployments that a killed server left open, and moves the
// deploy branch back to the deployed commit.
func (d *Deployer) closeRecords(ctx context.Context, st mesh.Stack) error {
	open := map[mesh.DeploymentNumber]bool{}
	for _, t := range d.lanes.tickets(st.Name) {
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
		dep.Status, dep.Reason, dep.Ended = mesh.StatusFailed, "mesh was stopped in the meantime", d.Now().UTC()
		if err := d.Store.UpdateDeployment(ctx, dep); err != nil {
			return err
		}
	}
	if len(open) > 0 {
		return nil
	}
	err = d.Repos.ResetBranch(ctx, st.Repository())
	if st.Preview != nil && errors.Is(err, mesh.NoStack) {
		return nil // the stack that it belongs to is gone, and so is it soon
	}
	return err
}

// adopt takes over the instances of a stack that run what its current release wants,
// and retires the others. If the engine is away (known is false), running holds the
// instances that were last seen and answer. The others may exist as well, so nothing is
// started or stopped.
func (d *Deployer) adopt(ctx context.Context, st mesh.Stack, running []mesh.Instance, known bool) error {
	var r mesh.Release
	if st.Current > 0 {
		var err error
		if r, err = d.Store.Release(ctx, st.Name, st.Current); err != nil {
			return err
		}
	}
	whole := r.Formation
	if r.Formation = st.Awake(r.Formation); st.Stopped {
		r.Formation = nil
	}
	mounts, err := d.mounts(ctx, st)
	if err != nil {
		return err
	}
	want, err := specs(st, r, 0, mounts)
	if err != nil {
		return err
	}
	others := running
	found := d.wanted(ctx, st, want, running)
	if !st.Stopped {
		r.Formation = whole // what sleeps belongs to it
	}
	d.fleet.Adopt(st, r, want, found, known)
	if st.Staged != nil && known {
		others = d.adoptStaged(st, running)
	}
	d.refresh(ctx, st.Name) // the fleet had no group for changes recorded since st was read
	if some, _ := d.damaged(); !known || some[st.Name] {
		return nil // an unreadable record may want the other instances
	}
	d.retire(st, slices.DeleteFunc(slices.Clone(others), func(in mesh.Instance) bool { return found[in.Name].ID == in.ID }))
	return nil
}

// wanted chooses the instance for each slot: one that runs what is wanted and was
// started by a deployment that went live; of several, the newest.
func (d *Deployer) wanted(ctx context.Context, st mesh.Stack, want []mesh.InstanceSpec, running []mesh.Instance) map[mesh.InstanceName]mesh.Instance {
	live := map[mesh.DeploymentNumber]bool{}
	best := map[mesh.InstanceName]mesh.Instance{}
	spec := map[mesh.InstanceName]mesh.InstanceSpec{}
	for _, s := range want {
		spec[s.Name] = s
	}
	serves := map[string]bool{} // of two, the one that was chosen before: a node may be back with what was replaced
	for _, in := range d.fleet.Members(st.Name, func(mesh.InstanceSpec) bool { return true }) {
		serves[in.ID] = true
	}
	rank := func(in mesh.Instance) int {
		n := 0
		if in.State == mesh.InstanceRunning {
			n += 2
		}
		if serves[in.ID] {
			n++
		}
		return n
	}
	for _, in := range running {
		s, ok := spec[in.Name]
		if !ok || s.Fingerprint != in.Spec || in.Release > st.Current {
			continue
		}
		if _, known := live[in.Deployment]; !known {
			live[in.Deployment] = d.wentLive(ctx, st, in.Deployment)
		}
		old, ok := best[in.Name]
		better := !ok || in.Deployment > old.Deployment || in.Deployment == old.Deployment && rank(in) > rank(old)
		if live[in.Deployment] && better {
			best[in.Name] = in
		}
	}
	return best
}

// wentLive reports whether the instances that a deployment started may serve. A
// deployment that is no longer recorded is among the oldest, and its instances have run
// since. Instances of a deployment with a damaged record are left alone.
func (d *Deployer) wentLive(ctx context.Context, st mesh.Stack, n mesh.DeploymentNumber) bool {
	dep, err := d.Store.Deployment(ctx, st.Name, n)
	switch {
	case errors.Is(err, mesh.NotFound):
		return n < st.LastNumber
	case errors.Is(err, mesh.Damaged):
		return true
	}
	if err == nil && dep.Status == mesh.StatusStaged {
		r, rerr := d.Store.Release(ctx, st.Name, dep.Release)
		return rerr == nil && !r.Staged // it was switched to
	}
	return err == nil && dep.Status == mesh.StatusLive
}

// inTurn runs fn in a stack's lane, without a deployment.
func (d *Deployer) inTurn(ctx context.Context, name mesh.StackName, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &ticket{deployment: mesh.Deployment{Stack: name}, turn: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	defer close(t.done)
	leave, err := d.lanes.queue(ctx, t, func(mesh.Deployment) {})
	if err != nil {
		return err
	}
	defer leave()
	return fn(ctx)
}

// adoptLater adopts a stack in its turn, when no deployment of it runs.
func (d *Deployer) adoptLater(name mesh.StackName) {
	d.background(func(ctx context.Context) {
		_ = d.inTurn(ctx, name, func(ctx context.Context) error {
			st, err := d.Store.Stack(ctx, name)
			if err != nil {
				return nil //nolint:nilerr // destroyed meanwhile
			}
			running, err := d.Runner.List(ctx)
			if err == nil {
				err = d.adopt(ctx, st, slices.DeleteFunc(running, func(in mesh.Instance) bool { return in.Stack != name }), true)
			}
			if err != nil && ctx.Err() == nil {
				d.Logger.Error("stack not adopted", "stack", name, "err", err)
			}
			return nil
		})
	})
}

// refresh passes the current record of a stack to the fleet. Call it after every change
// to a record. Of several records the latest counts, whatever their order.
func (d *Deployer) refresh(ctx context.Context, stack mesh.StackName) {
	switch st, err := d.Store.Stack(context.WithoutCancel(ctx), stack); {
	case err == nil:
		d.fleet.Update(st)
	case !errors.Is(err, mesh.NoStack):
		d.Logger.Warn("stack not read again for its routes", "stack", stack, "err", err)
	}
}
