package deploy

import (
	"context"

	"mesh"
)

// SetMaintenance answers all requests of a stack with 503, or routes them to its
// instances again. The instances keep running, and the setting survives restarts. page
// is HTML for browsers; empty means mesh's own page.
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
