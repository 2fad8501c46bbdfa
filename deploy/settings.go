package deploy

import (
	"context"

	"mesh"
)

// SetSettings changes the build and check settings of a stack, for the next push.
func (d *Deployer) SetSettings(ctx context.Context, stack mesh.StackName, fn func(*mesh.Settings) error) (mesh.Stack, error) {
	st, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error { return fn(&s.Settings) })
	if err != nil {
		return st, err
	}
	d.refresh(ctx, stack)
	return st, d.Repos.ResetBranch(ctx, stack)
}
