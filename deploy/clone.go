package deploy

import (
	"context"
	"io"
	"maps"
	"slices"

	"mesh"
)

// Clone creates a stack with the settings, the services, the number of instances, the
// access rules, the alert rules, the jobs and, unless bare, the config vars of another one, and deploys the image
// that the other one runs: it is never open to more people. Domains, endpoints, add-ons, the lock and the repository stay behind. If that deployment
// fails, the new stack stays, with nothing deployed.
func (d *Deployer) Clone(ctx context.Context, from, to mesh.StackName, by mesh.KeyName, bare bool, out io.Writer) error {
	if from == to {
		return mesh.Errorf(mesh.Invalid, "%s cannot be cloned to itself", from).WithHint("choose a new name: ssh mesh stacks:clone NEW -a %s", from)
	}
	st, err := d.Store.Stack(ctx, from)
	if err != nil {
		return err
	}
	next := mesh.Stack{
		Name: to, CreatedBy: by, Config: st.Config.Clone(), Formation: st.Formation.Clone(), Settings: st.Settings,
		Services: maps.Clone(st.Services), ReleaseCommand: slices.Clone(st.ReleaseCommand),
		Access: st.Access.Clone(), Alerts: st.Alerts, Links: slices.Clone(st.Links),
		ProductionOnly: slices.Clone(st.ProductionOnly), PreviewConfig: st.PreviewConfig.Clone(),
	}
	vars, err := d.addonVars(ctx, st)
	if err != nil {
		return err
	}
	// The new stack is attached to nothing: its app would try to use the other's data.
	next.Config = next.Config.Without(vars)
	if bare {
		next.Config, next.PreviewConfig, next.Links, next.Services = nil, nil, nil, withConfigs(st.Services, nil)
	}
	if _, err := d.create(ctx, next); err != nil {
		return err
	}
	if err := d.cloneJobs(ctx, from, to, by); err != nil {
		return err
	}
	if st.Current == 0 {
		return nil
	}
	return d.Promote(ctx, from, to, by, out)
}
