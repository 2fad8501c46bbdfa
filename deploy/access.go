package deploy

import (
	"context"

	"mesh"
)

// SetAccess changes the access rules of a stack with fn. They are in force at once,
// without a release; requests and upgraded connections in progress are not interrupted.
func (d *Deployer) SetAccess(ctx context.Context, stack mesh.StackName, fn func(*mesh.AccessRules) error) error {
	err := d.changeDomains(ctx, stack, func(s *mesh.Stack) error { return fn(&s.Access) })
	if err == nil {
		d.note(stack, "access", "rules changed")
	}
	return err
}
