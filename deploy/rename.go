package deploy

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"mesh"
)

// RenameStack renames a stack. Its host below the base domain, its remote, its network,
// its images and the keys limited to it follow. It first starts and checks instances of
// the new name beside the old ones, so that the stack's own domains lose no request.
// Afterwards the old name is free.
func (d *Deployer) RenameStack(ctx context.Context, name, to mesh.StackName, by mesh.KeyName, out io.Writer) error {
	if name == to {
		return mesh.Errorf(mesh.Invalid, "%s already has this name", name)
	}
	st, err := d.Store.Stack(ctx, name)
	if err != nil {
		return err
	}
	if st.Staged != nil {
		return mesh.Errorf(mesh.Conflict, "%s of %s waits for switch, at a host with this name", st.Staged.Release, name).WithHint("ssh mesh switch -a %s %s; or: ssh mesh switch:discard -a %[1]s", name, st.Staged.Release)
	}
	if st.Preview != nil {
		return mesh.Errorf(mesh.Invalid, "%s is a preview, which has its name from a branch", name).WithHint("for a stack of its own: ssh mesh stacks:clone %s -a %s", to, name)
	}
	if st.Lock != nil {
		return locked(st)
	}
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	for _, o := range stacks {
		switch {
		case o.Name == to:
			return mesh.Errorf(mesh.Conflict, "a stack named %q already exists", to).WithHint("choose another name")
		case o.Was == to:
			return renaming(to)
		case o.Preview != nil && o.Preview.Of == name && len(d.lanes.tickets(o.Name)) > 0:
			return mesh.Errorf(mesh.Conflict, "%s is under way", describe(d.lanes.tickets(o.Name)[0].deployment)).WithHint("try again when it has ended")
		}
	}
	if o, ok := d.owner(stacks, d.host(to)); ok {
		return mesh.Errorf(mesh.Conflict, "the name %s is a domain of the stack %s", d.host(to), o.Name).
			WithHint("remove it there first: ssh mesh domains:remove -a %s %s", o.Name, d.host(to))
	}
	if n, err := d.Runner.OneOffs(ctx, name); err != nil {
		return err
	} else if n > 0 {
		return mesh.Errorf(mesh.Conflict, "%d one-off commands of %s are still running and would be stopped", n, name).WithHint("wait for them")
	}
	runs, err := d.Runs(ctx, name)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(runs, func(r mesh.DetachedRun) bool { return r.Running }); i >= 0 {
		return mesh.Errorf(mesh.Conflict, "%s of %s is still running and would be stopped", runs[i].Name, name).
			WithHint("wait for it, or stop it: ssh mesh run:stop -a %s %s", name, runs[i].Name)
	}
	if err := d.names.beginRename(name, to, &d.lanes); err != nil {
		return err
	}
	defer d.names.endRename(to)
	left := false
	defer func() {
		if !left {
			d.names.endRename(name)
		}
	}()
	subnet, err := d.subnet(stacks) // both networks exist side by side for a while
	if err != nil {
		return err
	}
	dep := mesh.Deployment{Stack: name, Kind: mesh.DeployRename, By: by, Subject: fmt.Sprintf("Rename to %s", to)}
	return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
		// Read the stack again: another deployment may have had its turn since.
		st, err := d.Store.Stack(ctx, name)
		if err != nil {
			return err
		}
		if st.Lock != nil {
			return locked(st)
		}
		if err := d.Store.Provisional(ctx, to); err != nil {
			return err
		}
		moved := st
		moved.Name, moved.Was, moved.Subnet = to, name, subnet
		// The new instances need its add-ons before the rename is recorded, the old ones
		// until they have ended.
		back, backOld := d.lend(to, st.Reaches()...), d.lend(name, st.Reaches()...)
		defer back()
		old, err := d.rename(ctx, a, st, moved)
		if err != nil {
			backOld()
		}
		if err == nil {
			left = true // the old name is taken until nothing is left of it
			d.background(func(ctx context.Context) {
				defer d.names.endRename(name)
				defer backOld()
				if old(ctx) {
					d.removeStack(ctx, name) // the network, and anything that failed to move
				}
			})
		}
		return err
	})
}

// rename makes the change. The returned function waits until the old instances have
// retired.
func (d *Deployer) rename(ctx context.Context, a *attempt, st, moved mesh.Stack) (retired func(context.Context) bool, err error) {
	var r mesh.Release
	if st.Current > 0 {
		if r, err = d.Store.Release(ctx, st.Name, st.Current); err != nil {
			return nil, err
		}
		a.out.mask(r.Configs())
		if err := d.imagePresent(ctx, r); err != nil {
			return nil, err
		}
	}
	r.Stack = moved.Name
	if st.Stopped {
		r.Formation = nil
	}
	next, err := d.roll(ctx, a, rollout{stack: moved, release: r, anew: all, commit: func(ctx context.Context, moved mesh.Stack) (mesh.Stack, error) {
		a.dep.Ended = d.Now().UTC()
		next, err := d.Store.RenameStack(ctx, a.dep, moved.Name, func(s *mesh.Stack) error {
			if s.Lock != nil {
				return locked(*s) // it was locked after this began
			}
			if s.Current != st.Current {
				return mesh.Errorf(mesh.Conflict, "%s became current in the meantime", s.Current).WithHint("try again")
			}
			s.Subnet, s.Asleep = moved.Subnet, time.Time{}
			s.Redirects = maps.Clone(s.Redirects)
			for from, target := range s.Redirects {
				if target == d.host(st.Name) {
					s.Redirects[from] = d.host(moved.Name)
				}
			}
			for i, e := range s.Endpoints {
				if e.Host == d.host(st.Name) {
					s.Endpoints[i].Host = d.host(moved.Name)
				}
			}
			slices.SortFunc(s.Endpoints, mesh.Endpoint.Compare)
			return nil
		})
		if err == nil {
			a.dep.Stack, a.dep.Status = moved.Name, mesh.StatusLive
			d.refreshUsers(ctx, moved.Name) // before its routes, which have the links to it
		}
		return next, err
	}})
	if err != nil {
		if a.dep.Status != mesh.StatusLive {
			d.removeStack(context.WithoutCancel(ctx), moved.Name) // its network; nobody else can have used that name
		}
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	d.Logger.Info("stack renamed", "stack", next.Name, "was", st.Name, "key", string(a.dep.By))
	d.lives.end(st.Name, mesh.Errorf(mesh.NoStack, "%s was renamed to %s by %s", st.Name, next.Name, a.dep.By).
		WithHint("continue with: ssh mesh logs -a %s -t", next.Name))
	d.tellDefault(ctx)
	d.Events.Rename(st.Name, next.Name) // before its routes, and with them its logs
	retired = d.retire(next, d.fleet.Renamed(st.Name, next.Name))
	if next, err = d.finishRename(ctx, next); err != nil {
		d.Logger.Warn("rename not finished; the next start finishes it", "stack", next.Name, "err", err)
		retired = func(context.Context) bool { return false } // its images still have the old name
	}
	a.detail("update your remote: git remote set-url mesh …/%s", next.Name)
	a.done(next)
	return retired, nil
}

// finishRename moves what a renamed stack has outside the store. It continues where a
// killed server stopped.
func (d *Deployer) finishRename(ctx context.Context, st mesh.Stack) (mesh.Stack, error) {
	d.Events.Rename(st.Was, st.Name) // again, if a killed server left it unfinished
	err := d.Repos.Rename(ctx, st.Was, st.Name)
	if err == nil {
		err = d.Builder.Rename(ctx, st.Was, st.Name)
	}
	if err != nil {
		return st, fmt.Errorf("rename %s to %s: %w", st.Was, st.Name, err)
	}
	done, err := d.Store.FinishRename(ctx, st.Name)
	if err != nil {
		return st, fmt.Errorf("rename %s to %s: %w", st.Was, st.Name, err)
	}
	d.resetBranch(ctx, st.Name)
	d.refresh(ctx, st.Name)
	if done.Forge != nil {
		d.lookAtForge(st.Name) // who looked at its branches has left with the old name
	}
	return done, nil
}
