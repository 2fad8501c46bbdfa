package deploy

import (
	"context"
	"fmt"
	"io"

	"mesh"
)

// Restart replaces instances with new ones of the same release, without downtime: what
// is an instance, all of a service if it has no slot, and all of the stack if it is zero.
func (d *Deployer) Restart(ctx context.Context, stack mesh.StackName, by mesh.KeyName, what mesh.InstanceName, out io.Writer) error {
	subject := "Restart"
	switch {
	case what.Slot > 0:
		subject += " " + what.String()
	case what.Service != "":
		subject += " " + string(what.Service)
	}
	anew := func(in mesh.InstanceName) bool {
		return (what.Service == "" || in.Service == what.Service) && (what.Slot == 0 || in.Slot == what.Slot)
	}
	return d.rerun(ctx, mesh.Deployment{Stack: stack, Kind: mesh.DeployRestart, By: by, Subject: subject}, out, anew, what)
}

// Start starts a stopped stack.
func (d *Deployer) Start(ctx context.Context, stack mesh.StackName, by mesh.KeyName, out io.Writer) error {
	return d.rerun(ctx, mesh.Deployment{Stack: stack, Kind: mesh.DeployStart, By: by, Subject: "Start"}, out, none, mesh.InstanceName{})
}

// rerun rolls out the current release again. It must have what, as in Restart.
func (d *Deployer) rerun(ctx context.Context, dep mesh.Deployment, out io.Writer, anew func(mesh.InstanceName) bool, what mesh.InstanceName) error {
	st, err := d.Store.Stack(ctx, dep.Stack)
	if err != nil {
		return err
	}
	if st.Current == 0 {
		return notDeployed(dep.Stack)
	}
	if what.Service != "" {
		r, err := d.Store.Release(ctx, dep.Stack, st.Current)
		if err != nil {
			return err
		}
		if err := has(dep.Stack, r, what); err != nil {
			return err
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
		if err := has(dep.Stack, r, what); err != nil {
			return err
		}
		a.out.mask(r.Configs())
		made, anew := (*mesh.Release)(nil), anew
		if there, err := d.Builder.Present(ctx, r.Image.ID); err != nil {
			return err
		} else if !there {
			// A different image makes a different release.
			if a.next, err = d.nextRelease(ctx, st.Name); err != nil {
				return err
			}
			next := r
			next.Description = againText(r)
			next = d.newRelease(a, next)
			if err := d.ensureImage(ctx, a, st, &next); err != nil {
				return err
			}
			made, r, anew = &next, next, all
		}
		st.Stopped = false
		st, err = d.roll(ctx, a, rollout{stack: st, release: r, anew: anew, commit: func(ctx context.Context, _ mesh.Stack) (mesh.Stack, error) {
			return d.commit(ctx, a, made, func(s *mesh.Stack) error { s.Stopped = false; return nil })
		}})
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

// has returns an error if a release does not have what is to be restarted.
func has(stack mesh.StackName, r mesh.Release, what mesh.InstanceName) error {
	if _, ok := r.Services[what.Service]; what.Service != "" && !ok {
		return noService(stack, what.Service, r)
	}
	if n := r.Formation[what.Service]; what.Slot > n {
		return mesh.Errorf(mesh.NotFound, "%s has no instance %s: %s is scaled to %d", stack, what, what.Service, n).WithHint("see what runs with: ssh mesh ps -a %s", stack)
	}
	return nil
}

// Stop takes a stack out of service: it removes the routes, retires the instances, and
// answers requests with a note that the stack is stopped.
func (d *Deployer) Stop(ctx context.Context, stack mesh.StackName, by mesh.KeyName, out io.Writer) error {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	if st.Current == 0 {
		return notDeployed(stack)
	}
	if st.Stopped && len(d.lanes.tickets(stack)) == 0 {
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
		st, err = d.roll(ctx, a, rollout{stack: st, release: r, anew: none, commit: func(ctx context.Context, _ mesh.Stack) (mesh.Stack, error) {
			return d.commit(ctx, a, nil, func(s *mesh.Stack) error { s.Stopped = true; return nil })
		}})
		if err != nil {
			return err
		}
		a.out.say(fmt.Sprintf("=====> %s is stopped; start it with: ssh mesh ps:start -a %s", st.Name, st.Name))
		return nil
	})
}
