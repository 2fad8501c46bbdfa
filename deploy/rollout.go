package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mesh"
)

// roll starts what r runs beside what runs now, commits, switches traffic, and
// retires what r leaves out. Instances that run the same already stay, except
// those of services that anew names. When anything fails before commit has
// succeeded, the new instances are gone again and nothing has changed. From
// commit on, the rollout is finished whether or not ctx ends. commit gets st with
// the subnet that the instances are in.
func (d *Deployer) roll(ctx context.Context, a *attempt, st mesh.Stack, r mesh.Release, anew func(mesh.ServiceName) bool, commit func(context.Context, mesh.Stack) (mesh.Stack, error)) (mesh.Stack, error) {
	want, err := specs(st, r, a.dep.Number)
	if err != nil {
		return st, err
	}
	was := st.Current
	keep, start := d.split(st.Name, want, anew)
	if len(start) > 0 {
		a.step("starting", "Starting %s", counts(start))
	}
	var started []mesh.Instance
	stopped := st.Stopped // as the caller wants it, which is not recorded yet
	st, err = d.withSubnet(ctx, st, func(st mesh.Stack) error {
		for i := range start {
			start[i].Subnet = st.Subnet
		}
		var err error
		started, err = d.startAll(ctx, a, st, start)
		if errors.Is(err, mesh.Conflict) {
			d.stopAll(context.WithoutCancel(ctx), started, 0)
			started = nil
		}
		return err
	})
	st.Stopped = stopped
	undo := func() {
		// Nobody has been served by them: no grace.
		d.stopAll(context.WithoutCancel(ctx), started, 0)
	}
	if err != nil {
		undo()
		return st, err
	}
	d.Reached(StepStarted, string(st.Name))
	for _, in := range started {
		if ev, dead := d.deathOf(in.ID); dead {
			undo()
			return st, mesh.Errorf(mesh.Failed, "%s became healthy and then ended with exit code %d", in.Name, ev.Instance.ExitCode).
				WithHint("look at what it printed: its memory limit, a connection that failed after the start")
		}
	}
	if ctx.Err() != nil {
		undo()
		return st, context.Cause(ctx)
	}
	ctx = context.WithoutCancel(ctx)
	if st, err = commit(ctx, st); err != nil {
		undo()
		return st, err
	}
	a.past = true
	d.Reached(StepCommitted, string(st.Name))
	old := d.install(st, r, keep, started)
	d.Reached(StepSwitched, string(st.Name))
	switch {
	case st.Stopped:
	case was == 0:
		a.step("switched", "Traffic switched to %s", st.Current)
	case was == st.Current:
		a.step("switched", "Traffic switched to the new instances of %s", st.Current)
	default:
		a.step("switched", "Traffic switched to %s (was %s)", st.Current, was)
	}
	d.retire(st, old)
	d.Reached(StepRetiring, string(st.Name))
	d.resetBranch(ctx, st.Name)
	return st, nil
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

// startAll starts instances and waits until all are healthy, all at once. It
// returns those it has started also when it fails; the first failure ends the
// others.
func (d *Deployer) startAll(ctx context.Context, a *attempt, st mesh.Stack, specs []mesh.InstanceSpec) ([]mesh.Instance, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		mu      sync.Mutex
		started []mesh.Instance
		first   error
		all     sync.WaitGroup
		began   = d.Now()
	)
	for _, spec := range specs {
		all.Go(func() {
			err := d.startOne(ctx, st, spec, func(in mesh.Instance) {
				d.mu.Lock()
				d.starting[in.ID] = true
				d.mu.Unlock()
				mu.Lock()
				defer mu.Unlock()
				started = append(started, in)
			}, func(saw string) {
				a.timed(began, "%s healthy: %s", spec.Name, saw)
			}, func(line string) { a.detail("%s", line) })
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	return started, first
}

func (d *Deployer) startOne(ctx context.Context, st mesh.Stack, spec mesh.InstanceSpec, started func(mesh.Instance), healthy, progress func(string)) error {
	in, err := d.Runner.Start(ctx, spec)
	if err != nil {
		return checkFailed(fmt.Errorf("start %s: %w", spec.Name, err))
	}
	started(in)
	saw, err := d.Runner.Check(ctx, in, check(st, spec.Name.Service), progress)
	if err != nil {
		return checkFailed(fmt.Errorf("check %s: %w", spec.Name, err))
	}
	healthy(saw)
	return nil
}

// checkFailed names the phase in front of a fault of the app's.
func checkFailed(err error) error { return phaseFailed("check failed", err) }

func phaseFailed(phase string, err error) error {
	var e *mesh.Error
	if !errors.As(err, &e) || e.Kind == mesh.Cancelled {
		return err
	}
	f := *e
	f.Text = phase + ": " + e.Text
	if e.Kind == mesh.Invalid {
		f.Kind = mesh.Failed // of what was pushed, not of what was typed
	}
	return &f
}

// stopAll ends instances and waits until they are gone.
func (d *Deployer) stopAll(ctx context.Context, ins []mesh.Instance, grace time.Duration) {
	var all sync.WaitGroup
	for _, in := range ins {
		all.Go(func() {
			if err := d.Runner.Stop(ctx, in.ID, grace); err != nil {
				d.Logger.Warn("instance not stopped", "stack", in.Stack, "instance", in.Name.String(), "err", err)
			}
			d.forget(in.ID)
		})
	}
	all.Wait()
}

// retire lets instances that no route has finish what they are serving, in the
// background, and stops them. What it returns waits for that, and tells whether
// ctx did not end first.
func (d *Deployer) retire(st mesh.Stack, ins []mesh.Instance) (retired func(context.Context) bool) {
	set := st.Effective()
	drain, upgraded := cmp.Or(set.Drain, mesh.DefaultDrain), cmp.Or(set.UpgradedDrain, mesh.DefaultDrain)
	releases := map[mesh.ReleaseNumber]mesh.Release{}
	done := make(chan struct{}, len(ins))
	for _, in := range ins {
		if _, read := releases[in.Release]; !read {
			// One that cannot be read says nothing of its own.
			releases[in.Release], _ = d.Store.Release(context.Background(), st.Name, in.Release)
		}
		grace := cmp.Or(releases[in.Release].Services[in.Name.Service].StopTimeout, set.StopTimeout, mesh.DefaultStopTimeout)
		gone := d.retires(in)
		d.background(func(ctx context.Context) {
			defer func() { done <- struct{}{} }()
			defer gone()
			dctx, cancel := context.WithTimeout(ctx, drain)
			defer cancel()
			if err := d.Router.Drain(dctx, in.ID, upgraded); err != nil && ctx.Err() == nil {
				d.Logger.Warn("requests cut off", "stack", in.Stack, "instance", in.Name.String(), "err", err)
			}
			if ctx.Err() != nil {
				return // the next start retires it
			}
			if err := d.Runner.Stop(ctx, in.ID, grace); err != nil && ctx.Err() == nil {
				d.Logger.Warn("instance not stopped", "stack", in.Stack, "instance", in.Name.String(), "err", err)
			}
			d.forget(in.ID)
		})
	}
	return func(ctx context.Context) bool {
		for range ins {
			<-done
		}
		return ctx.Err() == nil
	}
}

// split tells which of the wanted instances run already and which have to be
// started.
func (d *Deployer) split(stack mesh.StackName, want []mesh.InstanceSpec, anew func(mesh.ServiceName) bool) (keep []mesh.Instance, start []mesh.InstanceSpec) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fl := d.fleets[stack]
	for _, spec := range want {
		if fl != nil && !anew(spec.Name.Service) {
			m := fl.members[spec.Name]
			if m != nil && m.healthy && m.instance.Spec == spec.Fingerprint {
				keep = append(keep, m.instance)
				continue
			}
		}
		start = append(start, spec)
	}
	return keep, start
}

func none(mesh.ServiceName) bool { return false }

func all(mesh.ServiceName) bool { return true }

// byName orders instances for people.
func byName(ins []mesh.Instance) {
	slices.SortFunc(ins, func(a, b mesh.Instance) int { return a.Name.Compare(b.Name) })
}
