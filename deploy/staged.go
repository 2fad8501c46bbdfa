package deploy

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// A staged release runs beside the current one, without traffic: web's instances have been
// checked, and whoever has the link reaches them. switch makes it current with these
// instances. It is recorded, and outlives a restart of mesh. Any other release takes its
// place away, because it would bring back what was current before.

// staged are the running instances of staged releases. It may be used from several
// goroutines.
type staged struct {
	mu sync.Mutex
	by map[mesh.StackName]stagedRun
}

type stagedRun struct {
	mesh.Staged
	instances []mesh.Instance
}

func (s *staged) put(stack mesh.StackName, run stagedRun) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[mesh.StackName]stagedRun{}
	}
	s.by[stack] = run
}

// take returns what runs of a stack's staged release, and forgets it.
func (s *staged) take(stack mesh.StackName) []mesh.Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	run := s.by[stack]
	delete(s.by, stack)
	return run.instances
}

func (s *staged) of(stack mesh.StackName) []mesh.Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.by[stack].instances)
}

// over returns the stacks whose staged releases have waited for long enough.
func (s *staged) over(now time.Time) (out []mesh.StackName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, run := range s.by {
		if !now.Before(run.Until) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// stagedHost is the host that leads to a staged release.
func (d *Deployer) stagedHost(stack mesh.StackName, n mesh.ReleaseNumber) mesh.Host {
	return mesh.Host(fmt.Sprintf("%s--%s", n, d.host(stack)))
}

// pass is what the link to a staged release carries: nobody can guess it, and it is valid
// for this one alone.
func (d *Deployer) pass(stack mesh.StackName, s mesh.Staged) string {
	mac := hmac.New(sha256.New, d.LinkKey)
	_, _ = fmt.Fprintf(mac, "%s\x00%d\x00%d\x00%d", stack, s.Release, s.Deployment, s.Until.UnixNano())
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// StagedLink returns the link to the staged release of a stack. It returns NotFound if there
// is none.
func (d *Deployer) StagedLink(st mesh.Stack) (string, error) {
	if st.Staged == nil {
		return "", noStaged(st.Name)
	}
	return d.URL(d.stagedHost(st.Name, st.Staged.Release)) + "/?mesh-pass=" + d.pass(st.Name, *st.Staged), nil
}

func noStaged(stack mesh.StackName) error {
	return mesh.Errorf(mesh.NotFound, "no release of %s waits for switch", stack).WithHint("stage one: git push -o no-switch mesh BRANCH")
}

// mayStage returns an error if no release of a stack can wait beside the current one. web
// says that the release runs it.
func mayStage(st mesh.Stack, web bool) error {
	why := ""
	switch {
	case st.Current == 0:
		why = "nothing is deployed yet"
	case st.Stopped:
		why = "it is stopped"
	case !web:
		why = "it runs no web"
	case oneWriterWeb(st):
		why = "web has a volume with one writer, so that its releases cannot run side by side"
	default:
		return nil
	}
	return mesh.Errorf(mesh.Failed, "a release of %s cannot wait beside the current one: %s", st.Name, why).WithHint("push without no-switch")
}

// oneWriterWeb reports whether the releases of a stack's web cannot run side by side.
func oneWriterWeb(st mesh.Stack) bool {
	return slices.ContainsFunc(st.Volumes, func(u mesh.VolumeUse) bool { return u.Service == mesh.Web && !u.Shared })
}

// stage starts the web of a release beside the current one, checks it, and records it.
func (d *Deployer) stage(ctx context.Context, a *attempt, st mesh.Stack, r mesh.Release, keep func(*mesh.Stack)) error {
	if err := mayStage(st, r.Formation[mesh.Web] > 0); err != nil {
		return err
	}
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	if o, taken := d.owner(stacks, d.stagedHost(st.Name, r.Number)); taken {
		return mesh.Errorf(mesh.Conflict, "the host of %s of %s belongs to the stack %s", r.Number, st.Name, o.Name).WithHint("push without no-switch: git push mesh %s", st.Settings.Branch)
	}
	mounts, err := d.mounts(ctx, st)
	if err != nil {
		return err
	}
	all, err := specs(st, r, a.dep.Number, mounts)
	if err != nil {
		return err
	}
	want, _ := webOf(all)
	a.step("starting", "Starting %s beside %s", counts(want), st.Current)
	st, started, err := d.startAll(ctx, a, st, want)
	undo := func() { d.fleet.StopAll(context.WithoutCancel(ctx), started, 0) }
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		undo()
		return err
	}
	d.OnStep(StepStarted, string(st.Name))
	now := d.Now().UTC()
	s := mesh.Staged{Release: r.Number, Deployment: a.dep.Number, By: a.dep.By, Since: now, Until: now.Add(mesh.StagedTime)}
	ctx = context.WithoutCancel(ctx)
	a.dep.Ended, a.dep.Release = now, r.Number
	next, err := d.Store.Stage(ctx, a.dep, &r, func(o *mesh.Stack) error {
		if o.Lock != nil {
			return locked(*o)
		}
		if keep != nil {
			keep(o)
		}
		o.Staged = &s
		return nil
	})
	if err != nil {
		a.dep.Release = 0
		undo()
		return err
	}
	a.past, a.dep.Status = true, mesh.StatusStaged
	d.Logger.Info("release staged", "stack", st.Name, "release", r.Number.String(), "deployment", int(a.dep.Number), "key", string(a.dep.By))
	old := d.staged.take(st.Name) // of an earlier one
	d.show(next, started)
	d.retire(next, old)
	d.refresh(ctx, st.Name)
	d.tagRelease(ctx, next, r)
	link, err := d.StagedLink(next)
	if err != nil {
		return err
	}
	a.detail("%s still gets all requests; switch to %s with: ssh mesh switch -a %s %[2]s", next.Current, r.Number, st.Name)
	a.detail("it waits until %s", s.Until.Format(time.RFC3339))
	a.out.say("=====> " + link)
	return nil
}

// show lets whoever has the link reach the instances of a stack's staged release.
func (d *Deployer) show(st mesh.Stack, instances []mesh.Instance) {
	s := *st.Staged
	d.staged.put(st.Name, stagedRun{s, instances})
	t := &mesh.Trial{Release: s.Release, Host: d.stagedHost(st.Name, s.Release), Pass: mesh.NewSecret(d.pass(st.Name, s))}
	for _, in := range instances {
		if in.Name.Service == mesh.Web && in.Addr.IsValid() {
			t.Targets = append(t.Targets, mesh.Target{ID: in.ID, Name: in.Name, Addr: in.Addr})
		}
	}
	d.fleet.Try(st.Name, t)
}

// endTrial ends the trial of a canary: the link to a staged release works again.
func (d *Deployer) endTrial(st mesh.Stack) {
	if st.Staged != nil {
		d.show(st, d.staged.of(st.Name))
		return
	}
	d.fleet.Try(st.Name, nil)
}

// adoptStaged takes over what runs of the staged release of a stack, and returns the
// others.
func (d *Deployer) adoptStaged(st mesh.Stack, running []mesh.Instance) (others []mesh.Instance) {
	if st.Staged == nil {
		return running
	}
	var ours []mesh.Instance
	for _, in := range running {
		if in.Deployment == st.Staged.Deployment && in.Release == st.Staged.Release {
			ours = append(ours, in)
		} else {
			others = append(others, in)
		}
	}
	d.show(st, slices.DeleteFunc(slices.Clone(ours), func(in mesh.Instance) bool { return in.State != mesh.InstanceRunning }))
	return others
}

// Switch makes the staged release of a stack current, with the instances that it has.
func (d *Deployer) Switch(ctx context.Context, stack mesh.StackName, n mesh.ReleaseNumber, by mesh.KeyName, out io.Writer) error {
	is := func(st mesh.Stack) error {
		switch {
		case st.Staged == nil:
			return noStaged(stack)
		case st.Staged.Release != n:
			return mesh.Errorf(mesh.NotFound, "%s of %s does not wait for switch: %s does", n, stack, st.Staged.Release).WithHint("ssh mesh switch -a %s %s", stack, st.Staged.Release)
		case st.Lock != nil:
			return locked(st)
		}
		return nil
	}
	st, err := d.Store.Stack(ctx, stack)
	if err == nil {
		err = is(st)
	}
	if err != nil {
		return err
	}
	r, err := d.Store.Release(ctx, stack, n)
	if err != nil {
		return err
	}
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeploySwitch, By: by, Commit: r.Commit, Subject: "Switch to " + n.String()}
	return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
		st, err := d.Store.Stack(ctx, stack)
		if err == nil {
			err = is(st)
		}
		if err != nil {
			return err
		}
		a.next = n
		a.out.mask(st.Configs(), r.Configs())
		if err := d.ensureImage(ctx, a, st, &r); err != nil {
			return err
		}
		was, err := d.Store.Release(ctx, stack, st.Current)
		if err != nil {
			return err
		}
		st.Declared, st.Stopped = r.Declared.Settings, false
		ready := d.wellStaged(ctx, st)
		next, err := d.roll(ctx, a, rollout{stack: st, release: r, ready: ready, anew: all, commit: func(ctx context.Context, _ mesh.Stack) (mesh.Stack, error) {
			return d.commit(ctx, a, &r, func(s *mesh.Stack) error {
				if s.Lock != nil {
					return locked(*s)
				}
				s.Declared, s.Stopped = r.Declared.Settings, false
				keepStaged(s, r, was)
				return nil
			})
		}})
		if err != nil {
			return err
		}
		a.done(next)
		return nil
	})
}

// keepStaged records with a switch what the tree had added to a release beside the one that was current.
// What was recorded since without a release (config:set --no-restart) stays.
func keepStaged(s *mesh.Stack, r, was mesh.Release) {
	s.Config = s.Config.Over(r.Config.Without(was.Config))
	now := formation(*s, r.Services)
	for name, n := range r.Formation {
		if now[name] != n {
			s.Formation = s.Formation.Clone()
			if s.Formation == nil {
				s.Formation = mesh.Formation{}
			}
			s.Formation[name] = n
		}
	}
}

// wellTime limits how long an instance of a staged release may take to prove that it is
// still well.
const wellTime = 5 * time.Second

// wellStaged returns the instances of a staged release that still answer.
func (d *Deployer) wellStaged(ctx context.Context, st mesh.Stack) (well []mesh.Instance) {
	for _, in := range d.staged.of(st.Name) {
		c := fleet.CheckOf(st, in.Name.Service)
		c.Timeout = min(c.Timeout, wellTime)
		if _, err := d.Runner.Check(ctx, in, c, nil); err == nil {
			well = append(well, in)
		}
	}
	return well
}

// DiscardStaged removes the staged release of a stack. It returns NotFound if there is none.
func (d *Deployer) DiscardStaged(ctx context.Context, stack mesh.StackName) (mesh.ReleaseNumber, error) {
	if err := d.canaries.refuse(stack); err != nil {
		return 0, err
	}
	var n mesh.ReleaseNumber
	st, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error {
		if s.Staged == nil {
			return noStaged(stack)
		}
		n, s.Staged = s.Staged.Release, nil
		return nil
	})
	if err != nil {
		return 0, err
	}
	d.unstage(st)
	d.refresh(ctx, stack)
	return n, nil
}

// unstage retires the instances of a staged release that is recorded no more.
func (d *Deployer) unstage(st mesh.Stack) {
	if old := d.staged.take(st.Name); len(old) > 0 {
		d.fleet.Try(st.Name, nil)
		d.retire(st, old)
	}
}

// expireStaged removes staged releases that have waited for a day.
func (d *Deployer) expireStaged(ctx context.Context) (err error) {
	for _, name := range d.staged.over(d.Now()) {
		if len(d.lanes.tickets(name)) > 0 {
			continue // perhaps it is being switched to
		}
		n, derr := d.DiscardStaged(ctx, name)
		if derr == nil {
			d.note(name, noteDeploy, "%s is gone: nobody switched to it for %s", n, mesh.Brief(mesh.StagedTime))
		}
		if !errors.Is(derr, mesh.NotFound) && !errors.Is(derr, mesh.NoStack) {
			err = errors.Join(err, derr)
		}
	}
	return err
}
