package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"mesh"
	"mesh/deploy/fleet"
)

// rollout is the input of roll.
type rollout struct {
	stack   mesh.Stack
	release mesh.Release                                          // to run; with no formation, nothing runs
	ready   []mesh.Instance                                       // of the release, and well: they need no start
	canary  *canaryPlan                                           // tries it on some clients before it is recorded; nil: no
	anew    func(mesh.InstanceName) bool                          // slots that get a new instance in any case
	commit  func(context.Context, mesh.Stack) (mesh.Stack, error) // records it; gets the stack with the subnet of the instances
}

// roll starts the new instances of the release beside the running ones, commits,
// switches traffic, and retires the instances that the release leaves out. Instances
// that already run the same thing stay. If anything fails before commit has succeeded,
// roll removes the new instances, and nothing has changed. From commit on, it finishes
// the rollout even if ctx ends.
func (d *Deployer) roll(ctx context.Context, a *attempt, o rollout) (mesh.Stack, error) {
	st, r := o.stack, o.release
	mounts, err := d.mounts(ctx, st)
	if err != nil {
		return st, err
	}
	want, err := specs(st, r, a.dep.Number, mounts)
	if err == nil {
		err = oneWriter(st, r.Formation)
	}
	if err != nil {
		return st, err
	}
	release, err := d.claimVolumes("used by a deployment of "+string(st.Name), true, volumeNames(want)...)
	if err != nil {
		return st, err
	}
	defer release()
	was := st.Current
	keep, start := d.fleet.Split(st.Name, want, o.anew)
	var ready []mesh.Instance
	ready, start = prepared(o.ready, start)
	if len(start) > 0 {
		a.step("starting", "Starting %s", counts(start))
	}
	stopped := st.Stopped // not recorded yet: another subnet makes startAll read the record
	overlap, next := apart(start)
	var later []mesh.InstanceSpec
	if o.canary != nil { // nothing but web: the others of two releases would work at the same time
		overlap, later = webOf(overlap)
	}
	st, started, err := d.startAll(ctx, a, st, overlap)
	served := false
	if err == nil && o.canary != nil {
		served = true
		err = d.canary(ctx, a, st, r, o.canary, started)
	}
	if err == nil && len(later) > 0 {
		var more []mesh.Instance
		st, more, err = d.startAll(ctx, a, st, later)
		started = append(started, more...)
	}
	var away interval
	if err == nil && len(next) > 0 {
		if away, err = d.park(ctx, a, st, aloneIn(next)); err == nil {
			d.OnStep(StepParked, string(st.Name))
			var more []mesh.Instance
			st, more, err = d.startAll(ctx, a, st, next)
			started = append(started, more...)
		}
	}
	st.Stopped = stopped
	undo := func() {
		if served {
			d.endTrial(st)
			d.retire(st, started)
		} else {
			// They have served nobody, so they need no grace period.
			d.fleet.StopAll(context.WithoutCancel(ctx), started, 0)
		}
		d.unpark(context.WithoutCancel(ctx), a, st, away)
	}
	if err != nil {
		undo()
		return st, err
	}
	d.OnStep(StepStarted, string(st.Name))
	for _, in := range started {
		if ev, dead := d.fleet.Died(in.ID); dead {
			undo()
			return st, mesh.Errorf(mesh.Failed, "%s became healthy and then ended with exit code %d", in.Name, ev.Instance.ExitCode).
				WithHint("check its output, its memory limit, and connections that it opens after the start")
		}
	}
	if ctx.Err() != nil {
		undo()
		return st, context.Cause(ctx)
	}
	ctx = context.WithoutCancel(ctx)
	if st, err = o.commit(ctx, st); err != nil {
		undo()
		return st, err
	}
	a.past = true
	d.OnStep(StepCommitted, string(st.Name))
	old := d.fleet.Install(st, r, want, keep, append(ready, started...))
	if st.Staged == nil { // it is now current, or the new release made it obsolete
		unused := d.staged.take(st.Name)
		old = append(old, slices.DeleteFunc(unused, func(in mesh.Instance) bool {
			return slices.ContainsFunc(ready, func(o mesh.Instance) bool { return o.ID == in.ID })
		})...)
	} else {
		d.show(st, d.staged.of(st.Name)) // Install ends it
	}
	d.OnStep(StepSwitched, string(st.Name))
	a.switched(st, r, was)
	if len(away.parked) > 0 {
		a.timed(away.began, "%s was away", counts(next))
	}
	d.retire(st, old)
	d.OnStep(StepRetiring, string(st.Name))
	d.resetBranch(ctx, st.Name)
	return st, nil
}

// prepared separates instances that need no start from those that do.
func prepared(ready []mesh.Instance, start []mesh.InstanceSpec) (have []mesh.Instance, rest []mesh.InstanceSpec) {
	for _, s := range start {
		i := slices.IndexFunc(ready, func(in mesh.Instance) bool { return in.Name == s.Name && in.Spec == s.Fingerprint })
		if i < 0 {
			rest = append(rest, s)
		} else {
			have = append(have, ready[i])
		}
	}
	return have, rest
}

// webOf separates the instances of web from others.
func webOf(specs []mesh.InstanceSpec) (web, others []mesh.InstanceSpec) {
	for _, s := range specs {
		if s.Name.Service == mesh.Web {
			web = append(web, s)
		} else {
			others = append(others, s)
		}
	}
	return web, others
}

// apart separates instances that may run beside the old ones from those that have a volume
// for themselves.
func apart(specs []mesh.InstanceSpec) (overlap, alone []mesh.InstanceSpec) {
	for _, s := range specs {
		if slices.ContainsFunc(s.Mounts, func(m mesh.Mount) bool { return !m.Shared }) {
			alone = append(alone, s)
		} else {
			overlap = append(overlap, s)
		}
	}
	return overlap, alone
}

// switched prints which release gets the requests now.
func (a *attempt) switched(st mesh.Stack, r mesh.Release, was mesh.ReleaseNumber) {
	_, web := r.Services[mesh.Web]
	switch {
	case st.Stopped:
	case web && r.Formation[mesh.Web] == 0:
		a.step("switched", "No instance of web: requests get 503 until ps:scale starts one")
	case was == 0:
		a.step("switched", "Traffic switched to %s", st.Current)
	case was == st.Current:
		a.step("switched", "Traffic switched to the new instances of %s", st.Current)
	default:
		a.step("switched", "Traffic switched to %s (was %s)", st.Current, was)
	}
}

// startAll starts instances beside the running ones and waits until they are healthy.
// If the stack's network turns out to be taken, it uses another one, which the returned
// stack has. It returns the started instances even if it fails.
func (d *Deployer) startAll(ctx context.Context, a *attempt, st mesh.Stack, specs []mesh.InstanceSpec) (mesh.Stack, []mesh.Instance, error) {
	began := d.Now()
	return d.startIn(ctx, st, specs, "check failed", fleet.Progress{
		Healthy: func(name mesh.InstanceName, saw string) { a.timed(began, "%s healthy: %s", name, saw) },
		Detail:  func(line string) { a.detail("%s", line) },
	})
}

// startIn starts instances in the subnet of a stack, or in another one if that is taken. It
// returns the stack with the subnet, and what runs, also with an error. phase goes in front
// of an error that the app caused; empty: nothing does.
func (d *Deployer) startIn(ctx context.Context, st mesh.Stack, specs []mesh.InstanceSpec, phase string, p fleet.Progress) (_ mesh.Stack, started []mesh.Instance, err error) {
	st, err = d.withSubnet(ctx, st, func(st mesh.Stack) (err error) {
		for i := range specs {
			specs[i].Subnet = st.Subnet
		}
		started, err = d.fleet.StartAll(ctx, st, specs, p)
		if errors.Is(err, mesh.Conflict) { // they are in a subnet that the stack will not keep
			d.fleet.StopAll(context.WithoutCancel(ctx), started, 0)
			started = nil
		}
		if phase != "" {
			err = phaseFailed(phase, err)
		}
		return err
	})
	return st, started, err
}

// counts is "web×2 worker×1".
func counts(specs []mesh.InstanceSpec) string {
	f := mesh.Formation{}
	for _, s := range specs {
		f[s.Name.Service]++
	}
	var parts []string
	for _, svc := range f.Services() {
		parts = append(parts, fmt.Sprintf("%s×%d", svc, f[svc]))
	}
	return strings.Join(parts, " ")
}

// phaseFailed puts the phase in front of an error that the app caused.
func phaseFailed(phase string, err error) error {
	var e *mesh.Error
	if !errors.As(err, &e) || e.Kind == mesh.Cancelled {
		return err
	}
	f := *e
	f.Text = phase + ": " + e.Text
	if e.Kind == mesh.Invalid {
		f.Kind = mesh.Failed // the fault is in the app, not in the command
	}
	return &f
}

// retire retires instances without a route in the background, each with the times of
// its own release.
func (d *Deployer) retire(st mesh.Stack, ins []mesh.Instance) (retired func(context.Context) bool) {
	return d.fleet.Retire(ins, d.exit(st))
}

// exit returns how much time an instance of a stack gets to end. It is for one goroutine.
func (d *Deployer) exit(st mesh.Stack) func(mesh.Instance) fleet.Exit {
	set := st.Effective()
	releases := map[mesh.ReleaseNumber]mesh.Release{}
	return func(in mesh.Instance) fleet.Exit {
		if _, read := releases[in.Release]; !read {
			// An unreadable release has no stop timeout.
			releases[in.Release], _ = d.Store.Release(context.Background(), st.Name, in.Release)
		}
		own := releases[in.Release].Services[in.Name.Service].StopTimeout
		return fleet.Exit{
			Drain: cmp.Or(set.Drain, mesh.DefaultDrain), Upgraded: cmp.Or(set.UpgradedDrain, mesh.DefaultDrain),
			Grace: cmp.Or(own, set.StopTimeout, mesh.DefaultStopTimeout),
		}
	}
}

func none(mesh.InstanceName) bool { return false }

func all(mesh.InstanceName) bool { return true }
