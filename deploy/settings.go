package deploy

import (
	"context"

	"mesh"
)

// SetSettings changes the build and check settings of a stack, for the next push.
func (d *Deployer) SetSettings(ctx context.Context, stack mesh.StackName, fn func(*mesh.Settings) error) (mesh.Stack, error) {
	st, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error {
		err := fn(&s.Settings)
		if p := s.Preview; err == nil && p != nil && (s.Settings.Branch != p.Branch || s.Settings.Previews != nil) {
			return mesh.Errorf(mesh.Invalid, "%s is a preview: its branch is %s, and it has no previews", s.Name, mesh.Clip(p.Branch, 60)).
				WithHint("change the stack that it belongs to: ssh mesh build:set -a %s …", p.Of)
		}
		return err
	})
	if err != nil {
		return st, err
	}
	d.refresh(ctx, stack)
	return st, d.putBranch(ctx, stack)
}
