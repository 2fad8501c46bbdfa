package deploy

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"mesh"
)

// maxConfig bounds a stack's config vars, names and values together: the kernel
// gives a process 2 MB for arguments and environment on most machines.
const maxConfig = 1 << 20

// SetConfig changes config vars as one batch: set first, then unset. When the
// stack runs, they become a new release, rolled out like a push, and nothing is
// changed when that fails. With recordOnly they wait for the next release. It
// returns the names that have changed.
func (d *Deployer) SetConfig(ctx context.Context, stack mesh.StackName, by mesh.KeyName, set mesh.Config, unset []string, recordOnly bool, out io.Writer) ([]string, error) {
	for name, v := range set {
		if err := mesh.CheckVar(name, v); err != nil {
			return nil, err
		}
	}
	change := func(old mesh.Config) (mesh.Config, []string, error) {
		cfg, changed := old.Clone(), []string{}
		for name, v := range set {
			if was, had := cfg[name]; !had || !was.Equal(v) {
				changed = append(changed, name)
			}
			cfg[name] = v
		}
		for _, name := range unset {
			if _, had := cfg[name]; !had {
				return nil, nil, mesh.Errorf(mesh.NotFound, "%s has no config var %s", stack, mesh.Clip(name, 60)).WithHint("list them with: ssh mesh config -a %s", stack)
			}
			delete(cfg, name)
			changed = append(changed, name)
		}
		size := 0
		for name, v := range cfg {
			size += len(name) + len(v.Reveal())
		}
		if size > maxConfig {
			return nil, nil, mesh.Errorf(mesh.Invalid, "the config vars of %s would take %d bytes; the limit is %d", stack, size, maxConfig).
				WithHint("keep large values in a file of the image or in a store of their own")
		}
		slices.Sort(changed)
		return cfg, changed, nil
	}
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return nil, err
	}
	_, changed, err := change(st.Config)
	// What is under way may change it before this has its turn.
	if err != nil || len(changed) == 0 && len(d.tickets(stack)) == 0 {
		return changed, err
	}
	record := func() error {
		_, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) (err error) {
			s.Config, changed, err = change(s.Config)
			return err
		})
		return err
	}
	if recordOnly || st.Current == 0 {
		return changed, record()
	}
	verb := "Set "
	if len(set) == 0 {
		verb = "Unset "
	}
	subject := verb + mesh.Clip(strings.Join(changed, ", "), 120)
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployConfig, By: by, Subject: subject}
	err = d.rerelease(ctx, dep, out, subject, func(_ context.Context, a *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		// The stack's vars, not the release's: what was recorded with --no-restart
		// comes into force now.
		cfg, ch, err := change(st.Config)
		if err != nil {
			return nil, err
		}
		changed = ch
		r.Config = cfg
		a.out.mask(st.Config, cfg)
		return func(s *mesh.Stack) {
			// Once more: something may have been recorded with --no-restart meanwhile.
			if again, _, err := change(s.Config); err == nil {
				s.Config = again
			} else {
				s.Config = cfg
			}
		}, nil
	})
	return changed, err
}

// rerelease makes a new release out of the current one. change alters it and
// returns what else is to change in the stack with it; a nil r.Services after it
// is a fault.
func (d *Deployer) rerelease(ctx context.Context, dep mesh.Deployment, out io.Writer, description string, change func(context.Context, *attempt, mesh.Stack, *mesh.Release) (func(*mesh.Stack), error)) error {
	return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
		st, err := d.Store.Stack(ctx, dep.Stack)
		if err != nil {
			return err
		}
		if st.Current == 0 {
			return notDeployed(dep.Stack)
		}
		free := dep.Kind == mesh.DeployScale || dep.By == self // what was released comes back
		if st.Lock != nil && !free {
			return locked(st)
		}
		cur, err := d.Store.Release(ctx, dep.Stack, st.Current)
		if err != nil {
			return err
		}
		if a.next, err = d.nextRelease(ctx, st.Name); err != nil {
			return err
		}
		a.out.mask(st.Config, cur.Config)
		r := d.release(a, st, cur.Image, cur.Commit, st.Config, cur.Services, formation(st, cur.Services), description)
		r.Source, r.Declared, r.Elsewhere = cur.Source, cur.Declared, cur.Elsewhere
		also, err := change(ctx, a, st, &r)
		if err != nil {
			return err
		}
		if err := d.ensureImage(ctx, a, st, &r); err != nil {
			return err
		}
		st.Declared = r.Declared.Settings // how it is checked
		run := r
		if st.Stopped {
			run.Formation = nil
		}
		anew := all // a release is what its instances were started with
		if dep.Kind == mesh.DeployScale {
			anew = none
		}
		st, err = d.roll(ctx, a, st, run, anew, func(ctx context.Context, _ mesh.Stack) (mesh.Stack, error) {
			return d.commit(ctx, a, &r, func(s *mesh.Stack) error {
				if s.Lock != nil && !free {
					return locked(*s) // since this began
				}
				s.Declared = r.Declared.Settings
				if also != nil {
					also(s)
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		d.tagRelease(context.WithoutCancel(ctx), st, r)
		a.done(st)
		return nil
	})
}

func notDeployed(stack mesh.StackName) error {
	return mesh.Errorf(mesh.Conflict, "%s has not been deployed yet", stack).WithHint("push to it first: git push mesh main")
}

// maxInstances of one service: more on one machine is a slip of the finger.
const maxInstances = 100

// Scale changes how many instances of services there are, all of them or none.
// Instances that stay are not restarted. Before the first release it records what
// is wanted.
func (d *Deployer) Scale(ctx context.Context, stack mesh.StackName, by mesh.KeyName, changes []mesh.Scale, out io.Writer) (mesh.Formation, error) {
	apply := func(f mesh.Formation, known map[mesh.ServiceName]mesh.Service) (mesh.Formation, error) {
		f = f.Clone()
		for _, c := range changes {
			if _, ok := known[c.Service]; known != nil && !ok {
				return nil, mesh.Errorf(mesh.NotFound, "%s has no service %q", stack, c.Service).WithHint("it has %s", strings.Join(names(known), ", "))
			}
			n := c.To
			if c.By {
				was, said := f[c.Service]
				if !said {
					was = 1
				}
				n += was
			}
			if n < 0 || n > maxInstances {
				return nil, mesh.Errorf(mesh.Invalid, "%s cannot have %d instances: from 0 to %d are possible", c.Service, n, maxInstances)
			}
			f[c.Service] = n
		}
		return f, nil
	}
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return nil, err
	}
	var result mesh.Formation
	if st.Current == 0 {
		_, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) (err error) {
			s.Formation, err = apply(s.Formation, nil)
			result = s.Formation
			return err
		})
		return result, err
	}
	cur, err := d.Store.Release(ctx, stack, st.Current)
	if err != nil {
		return nil, err
	}
	next, err := apply(formation(st, cur.Services), cur.Services)
	if err != nil {
		return nil, err
	}
	if formationEqual(next, cur.Formation) && len(d.tickets(stack)) == 0 {
		return next, nil
	}
	subject := "Scale " + formationText(next)
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployScale, By: by, Subject: subject}
	err = d.rerelease(ctx, dep, out, subject, func(_ context.Context, _ *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		f, err := apply(r.Formation, r.Services)
		if err != nil {
			return nil, err
		}
		// Scaling alone brings no recorded config into force.
		cur, err := d.Store.Release(ctx, stack, st.Current)
		if err != nil {
			return nil, err
		}
		r.Formation, r.Config, result = f, cur.Config, f
		return func(s *mesh.Stack) { s.Formation = f }, nil
	})
	return result, err
}

func noService(stack mesh.StackName, svc mesh.ServiceName, r mesh.Release) error {
	return mesh.Errorf(mesh.NotFound, "%s has no service %q", stack, svc).WithHint("it has %s", strings.Join(names(r.Services), ", "))
}

func names(m map[mesh.ServiceName]mesh.Service) []string {
	var out []string
	for n := range m {
		out = append(out, string(n))
	}
	slices.Sort(out)
	return out
}

func formationEqual(a, b mesh.Formation) bool {
	if len(a) != len(b) {
		return false
	}
	for k, n := range a {
		if m, ok := b[k]; !ok || m != n {
			return false
		}
	}
	return true
}

func formationText(f mesh.Formation) string {
	var parts []string
	for _, s := range f.Services() {
		parts = append(parts, fmt.Sprintf("%s=%d", s, f[s]))
	}
	return strings.Join(parts, " ")
}

// Restart replaces the instances of a service, or of all when it is empty, by new
// ones of the same release, without downtime.
func (d *Deployer) Restart(ctx context.Context, stack mesh.StackName, by mesh.KeyName, svc mesh.ServiceName, out io.Writer) error {
	subject := "Restart"
	anew := all
	if svc != "" {
		subject += " " + string(svc)
		anew = func(s mesh.ServiceName) bool { return s == svc }
	}
	return d.rerun(ctx, mesh.Deployment{Stack: stack, Kind: mesh.DeployRestart, By: by, Subject: subject}, out, anew, svc)
}

// Start starts a stack that was stopped.
func (d *Deployer) Start(ctx context.Context, stack mesh.StackName, by mesh.KeyName, out io.Writer) error {
	return d.rerun(ctx, mesh.Deployment{Stack: stack, Kind: mesh.DeployStart, By: by, Subject: "Start"}, out, none, "")
}

// rerun rolls the current release out again.
func (d *Deployer) rerun(ctx context.Context, dep mesh.Deployment, out io.Writer, anew func(mesh.ServiceName) bool, svc mesh.ServiceName) error {
	st, err := d.Store.Stack(ctx, dep.Stack)
	if err != nil {
		return err
	}
	if st.Current == 0 {
		return notDeployed(dep.Stack)
	}
	if svc != "" {
		r, err := d.Store.Release(ctx, dep.Stack, st.Current)
		if err != nil {
			return err
		}
		if _, ok := r.Services[svc]; !ok {
			return noService(dep.Stack, svc, r)
		}
	}
	if st.Stopped && dep.Kind == mesh.DeployRestart {
		return mesh.Errorf(mesh.Conflict, "%s is stopped", dep.Stack).WithHint("start it with: ssh mesh ps:start -a %s", dep.Stack)
	}
	return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
		st, err := d.Store.Stack(ctx, dep.Stack)
		if err != nil {
			return err
		}
		r, err := d.Store.Release(ctx, dep.Stack, st.Current)
		if err != nil {
			return err
		}
		if _, ok := r.Services[svc]; svc != "" && !ok {
			return noService(dep.Stack, svc, r)
		}
		a.out.mask(r.Config)
		made, anew := (*mesh.Release)(nil), anew
		if there, err := d.Builder.Present(ctx, r.Image.ID); err != nil {
			return err
		} else if !there {
			// A release is what its image is: with another image it is another release.
			if a.next, err = d.nextRelease(ctx, st.Name); err != nil {
				return err
			}
			next := d.release(a, st, r.Image, r.Commit, r.Config, r.Services, r.Formation, againText(r))
			next.Source, next.Declared, next.Elsewhere = r.Source, r.Declared, r.Elsewhere
			if err := d.ensureImage(ctx, a, st, &next); err != nil {
				return err
			}
			made, r, anew = &next, next, all
		}
		st.Stopped = false
		st, err = d.roll(ctx, a, st, r, anew, func(ctx context.Context, _ mesh.Stack) (mesh.Stack, error) {
			return d.commit(ctx, a, made, func(s *mesh.Stack) error { s.Stopped = false; return nil })
		})
		if err != nil {
			return err
		}
		if made != nil {
			d.tagRelease(context.WithoutCancel(ctx), st, r)
		}
		a.done(st)
		return nil
	})
}

// Stop takes a stack out of service: no routes lead to it, its instances are
// retired, and requests are told that it is stopped.
func (d *Deployer) Stop(ctx context.Context, stack mesh.StackName, by mesh.KeyName, out io.Writer) error {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	if st.Current == 0 {
		return notDeployed(stack)
	}
	if st.Stopped && len(d.tickets(stack)) == 0 {
		return nil
	}
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployStop, By: by, Subject: "Stop"}
	return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
		st, err := d.Store.Stack(ctx, stack)
		if err != nil {
			return err
		}
		r, err := d.Store.Release(ctx, stack, st.Current)
		if err != nil {
			return err
		}
		r.Formation = nil
		st, err = d.roll(ctx, a, st, r, none, func(ctx context.Context, _ mesh.Stack) (mesh.Stack, error) {
			return d.commit(ctx, a, nil, func(s *mesh.Stack) error { s.Stopped = true; return nil })
		})
		if err != nil {
			return err
		}
		a.out.say(fmt.Sprintf("=====> %s is stopped; start it with: ssh mesh ps:start -a %s", st.Name, st.Name))
		return nil
	})
}

// Rollback makes a new release with the image, config and commands of an earlier
// one, the one before the current when n is 0, and rolls it out without a build.
// How many instances there are stays as it is.
func (d *Deployer) Rollback(ctx context.Context, stack mesh.StackName, by mesh.KeyName, n mesh.ReleaseNumber, out io.Writer) error {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	if st.Current == 0 {
		return notDeployed(stack)
	}
	if n == 0 {
		if n = st.Current - 1; n == 0 {
			return mesh.Errorf(mesh.Conflict, "%s has no release before %s", stack, st.Current)
		}
	}
	if n == st.Current {
		return mesh.Errorf(mesh.Conflict, "%s is the current release of %s already", n, stack).WithHint("list them with: ssh mesh releases -a %s", stack)
	}
	target, err := d.Store.Release(ctx, stack, n)
	if err != nil {
		return err
	}
	subject := "Rollback to " + n.String()
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployRollback, By: by, Subject: subject}
	return d.rerelease(ctx, dep, out, subject, func(_ context.Context, a *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		a.out.mask(st.Config, target.Config)
		r.Image, r.Commit, r.Config, r.Services = target.Image, target.Commit, target.Config, target.Services
		r.Source, r.Declared, r.Elsewhere = target.Source, target.Declared, target.Elsewhere
		r.Formation = formation(st, target.Services)
		return func(s *mesh.Stack) { s.Config = target.Config }, nil
	})
}

// SetSettings changes the build and check settings of a stack, for the next push.
func (d *Deployer) SetSettings(ctx context.Context, stack mesh.StackName, fn func(*mesh.Settings) error) (mesh.Stack, error) {
	st, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error { return fn(&s.Settings) })
	if err != nil {
		return st, err
	}
	d.refresh(stack)
	return st, d.Repos.ResetBranch(ctx, stack)
}
