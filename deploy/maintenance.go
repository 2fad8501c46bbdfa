package deploy

import (
	"context"

	"mesh"
)

// SetMaintenance answers all requests of a stack with 503, or sends them to its
// instances again. The instances run on. It survives restarts. page is HTML that
// browsers get meanwhile; empty: mesh's own.
func (d *Deployer) SetMaintenance(ctx context.Context, stack mesh.StackName, on bool, page string) error {
	_, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error { s.Maintained, s.Page = on, page; return nil })
	if err != nil {
		return err
	}
	if on {
		d.note(stack, "maintenance", "is on: requests get 503")
	} else {
		d.note(stack, "maintenance", "is off")
	}
	d.refresh(ctx, stack)
	return nil
}
