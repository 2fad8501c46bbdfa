package deploy

import (
	"context"
	"io"

	"mesh"
)

// Rollback makes a new release with the image, config and commands of an earlier one, and
// the config vars of all stacks as they are now: those are the server's, not the release's,
// and an old value may be a password that has been changed since. It rolls the release out
// without a build. If n is 0, that is the newest one that differs in any of these: a change
// of scale is nothing to go back from. The number of instances stays the same.
func (d *Deployer) Rollback(ctx context.Context, stack mesh.StackName, by mesh.KeyName, n mesh.ReleaseNumber, out io.Writer) error {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	if st.Current == 0 {
		return notDeployed(stack)
	}
	if n == 0 {
		all, err := d.Store.Releases(ctx, stack, 0)
		if err != nil {
			return err
		}
		if n = mesh.Before(all, st.Current); n == 0 {
			return mesh.Errorf(mesh.Conflict, "%s has no release before %s that differs from it", stack, st.Current).WithHint("list them with: ssh mesh releases -a %s", stack)
		}
	}
	if st.Staged != nil && n == st.Staged.Release {
		return mesh.Errorf(mesh.Conflict, "%s of %s has never been current: it waits for switch", n, stack).WithHint("ssh mesh switch -a %s %s", stack, n)
	}
	if n == st.Current {
		return mesh.Errorf(mesh.Conflict, "%s is already the current release of %s", n, stack).WithHint("list them with: ssh mesh releases -a %s", stack)
	}
	target, err := d.Store.Release(ctx, stack, n)
	if err != nil {
		return err
	}
	subject := "Rollback to " + n.String()
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployRollback, By: by, Subject: subject}
	return d.rerelease(ctx, dep, out, subject, func(ctx context.Context, a *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		// Add-ons are not rolled back, and their passwords may have changed since.
		vars, err := d.addonVars(ctx, st)
		if err != nil {
			return nil, err
		}
		target.Config = vars.Over(target.Config)
		a.out.mask(st.Configs(), target.Configs(), r.Configs())
		r.Image, r.Commit, r.Config, r.Services = target.Image, target.Commit, target.Config, target.Services
		r.Source, r.Declared, r.Elsewhere = target.Source, target.Declared, target.Elsewhere
		r.Formation = formation(st, target.Services)
		a.step("rolling back", "Rolling back to %s of %s", n, stack)
		a.tellChanges(ctx, st, *r)
		if d := target.Global.Without(target.Config).Changes(r.Global.Without(target.Config)); !d.Empty() {
			a.detail("the config vars of all stacks stay as they are now, which compared to %s %s", n, d)
		}
		return func(s *mesh.Stack) {
			s.Config, s.Services = target.Config, withConfigs(s.Services, target.Services)
		}, nil
	})
}

// withConfigs returns the settings of services with the config vars that a release has,
// and no others.
func withConfigs(settings map[mesh.ServiceName]mesh.ServiceSettings, of map[mesh.ServiceName]mesh.Service) map[mesh.ServiceName]mesh.ServiceSettings {
	out := map[mesh.ServiceName]mesh.ServiceSettings{}
	for name, set := range settings {
		had := len(set.Config) > 0
		if set.Config = of[name].Config; !had || !set.IsZero() {
			out[name] = set
		}
	}
	for name, s := range of {
		if set, ok := out[name]; !ok && len(s.Config) > 0 {
			set.Config = s.Config
			out[name] = set
		}
	}
	return out
}

// tellChanges prints how a release differs from the current one, before it starts.
func (a *attempt) tellChanges(ctx context.Context, st mesh.Stack, next mesh.Release) {
	if st.Current == 0 {
		return
	}
	was, err := a.d.Store.Release(ctx, st.Name, st.Current)
	if err != nil {
		return // the rollout does not need it
	}
	for _, l := range was.Changes(next) {
		a.detail("%s", l)
	}
}
