package deploy

import (
	"context"
	"errors"
	"io"

	"mesh"
)

// rerelease makes a new release from the current one. change alters it and returns a
// function that makes further changes to the stack, which may be called more than once, or
// nil. If its error is errUnneeded, the deployment ends without a release. If r.Services is
// nil afterwards, that is a bug.
func (d *Deployer) rerelease(ctx context.Context, dep mesh.Deployment, out io.Writer, description string, change func(context.Context, *attempt, mesh.Stack, *mesh.Release) (func(*mesh.Stack), error)) error {
	return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
		st, err := d.Store.Stack(ctx, dep.Stack)
		if err != nil {
			return err
		}
		if st.Current == 0 {
			return notDeployed(dep.Stack)
		}
		free := dep.Kind == mesh.DeployScale || dep.By == self // these only bring back what was released
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
		global, err := d.Store.GlobalConfig(ctx)
		if err != nil && dep.Kind != mesh.DeployScale && dep.By != self { // these keep the release's
			return err
		}
		r := cur
		r.Global = global
		a.out.mask(st.Configs(), cur.Configs(), r.Configs())
		r.Description, r.Config, r.Formation = description, st.Config, formation(st, cur.Services)
		r = d.newRelease(a, r)
		also, err := change(ctx, a, st, &r)
		if errors.Is(err, errUnneeded) {
			a.dep.Status, a.dep.Ended = mesh.StatusSkipped, d.Now().UTC()
			a.out.say("=====> Nothing to do: " + st.Current.String() + " has them already")
			return d.Store.UpdateDeployment(ctx, a.dep)
		}
		if err != nil {
			return err
		}
		if err := d.ensureImage(ctx, a, st, &r); err != nil {
			return err
		}
		st.Declared = r.Declared.Settings // the checks depend on it
		if also != nil {
			next := st
			also(&next)
			st.Volumes = next.Volumes // the new instances have them
		}
		run := r
		if st.Stopped {
			run.Formation = nil
		}
		anew := all // instances have the release they were started with
		if dep.Kind == mesh.DeployScale {
			anew = none
		}
		st, err = d.roll(ctx, a, rollout{stack: st, release: run, anew: anew, commit: func(ctx context.Context, _ mesh.Stack) (mesh.Stack, error) {
			return d.commit(ctx, a, &r, func(s *mesh.Stack) error {
				if s.Lock != nil && !free {
					return locked(*s) // it was locked after this began
				}
				s.Declared = r.Declared.Settings
				if also != nil {
					also(s)
				}
				return nil
			})
		}})
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
