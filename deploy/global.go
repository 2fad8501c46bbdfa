package deploy

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"mesh"
)

// maxGlobal limits the total size of the config vars of all stacks, names and values. They
// come on top of maxConfig, and both stay below what a process can get.
const maxGlobal = 256 << 10

// errUnneeded ends a deployment that has nothing to release.
var errUnneeded = errors.New("nothing to release")

// SetGlobalConfig changes the config vars of all stacks: it removes all of them if clear is
// true, then sets, then unsets. Unless the change is RecordOnly, every deployed stack whose
// vars differ from those of its release gets a new one, one stack after the other, also
// those that an earlier change has not reached. A stack that fails, or is locked, does not
// keep the others. each gets the outcome of each stack as it comes. SetGlobalConfig returns
// the names that have changed.
func (d *Deployer) SetGlobalConfig(ctx context.Context, by mesh.KeyName, c mesh.ConfigChange, clear bool, out io.Writer, each func(mesh.Outcome)) (changed []string, err error) {
	for name, v := range c.Set {
		if err := mesh.CheckVar(name, v); err != nil {
			return nil, err
		}
	}
	global, err := d.Store.UpdateGlobalConfig(ctx, func(old mesh.Config, err error) (mesh.Config, error) {
		if err != nil && !clear {
			return nil, err
		}
		from := old
		if clear {
			from = nil
		}
		next, _, err := altered(c, from, func(name string) error {
			return mesh.Errorf(mesh.NotFound, "there is no config var %s of all stacks", mesh.Clip(name, 60)).WithHint("list them with: ssh mesh config --global")
		})
		if err != nil {
			return nil, err
		}
		if size := next.Size(); size > maxGlobal {
			return nil, mesh.Errorf(mesh.Invalid, "the config vars of all stacks would be %d bytes long; the limit is %d", size, maxGlobal).
				WithHint("set large values for the stacks that need them: ssh mesh config:set -a STACK NAME=- < file")
		}
		diff := old.Changes(next)
		changed = append(append(diff.Added, diff.Changed...), diff.Removed...)
		return next, nil
	})
	if err != nil {
		return nil, err
	}
	d.Logger.Info("config vars of all stacks changed", "names", strings.Join(changed, " "), "key", string(by))
	if c.RecordOnly {
		return changed, nil
	}
	subject := "Take the config vars of all stacks"
	switch {
	case len(changed) > 0 && len(c.Set) > 0:
		subject = "Set " + mesh.Clip(strings.Join(changed, ", "), 120) + " for all stacks"
	case len(changed) > 0:
		subject = "Unset " + mesh.Clip(strings.Join(changed, ", "), 120) + " for all stacks"
	}
	stacks, err := d.Store.Stacks(context.WithoutCancel(ctx)) // now: one that is created later has them anyway
	if err != nil {
		return changed, err
	}
	for _, damage := range d.Store.Damaged() {
		unread := !slices.ContainsFunc(stacks, func(st mesh.Stack) bool { return st.Name == damage.Stack })
		if damage.Whole && damage.Stack != "" && unread {
			each(mesh.Outcome{Stack: damage.Stack, Err: mesh.Errorf(mesh.Damaged, "%s is damaged", damage.What)})
		}
	}
	for _, st := range stacks {
		n, err := d.takeGlobal(ctx, st.Name, by, global, subject, out)
		if err != nil || n > 0 {
			each(mesh.Outcome{Stack: st.Name, Release: n, Err: err})
		}
	}
	return changed, nil
}

// takeGlobal makes a release of a stack whose current one has other config vars of all
// stacks, and returns its number, or 0 if it needs none.
func (d *Deployer) takeGlobal(ctx context.Context, name mesh.StackName, by mesh.KeyName, global mesh.Config, subject string, out io.Writer) (mesh.ReleaseNumber, error) {
	behind := func(st mesh.Stack, r mesh.Release, global mesh.Config) bool {
		return !r.Global.Without(st.Config).Equal(global.Without(st.Config))
	}
	// A deployment in progress may have read the old ones. Look for one before reading what
	// it has recorded.
	if len(d.lanes.tickets(name)) == 0 {
		st, err := d.Store.Stack(context.WithoutCancel(ctx), name)
		if errors.Is(err, mesh.NoStack) || err == nil && st.Current == 0 {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		r, err := d.Store.Release(context.WithoutCancel(ctx), st.Name, st.Current)
		if err != nil || !behind(st, r, global) {
			return 0, err
		}
		if st.Lock != nil {
			return 0, locked(st)
		}
		if ctx.Err() != nil {
			return 0, mesh.Errorf(mesh.Cancelled, "not begun: the client disconnected")
		}
	}
	needed := true
	dep := mesh.Deployment{Stack: name, Kind: mesh.DeployConfig, By: by, Subject: subject}
	err := d.rerelease(ctx, dep, out, subject, func(ctx context.Context, _ *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		cur, err := d.Store.Release(ctx, st.Name, st.Current)
		if err == nil && !behind(st, cur, r.Global) {
			needed, err = false, errUnneeded
		}
		return nil, err
	})
	if err != nil {
		// The first deployment, which was in progress, has failed: nothing is deployed.
		if now, serr := d.Store.Stack(context.WithoutCancel(ctx), name); errors.Is(err, mesh.NoStack) || serr == nil && now.Current == 0 {
			return 0, nil
		}
		return 0, err
	}
	if !needed {
		return 0, nil
	}
	now, err := d.Store.Stack(context.WithoutCancel(ctx), name)
	return now.Current, err
}
