package deploy

import (
	"context"

	"mesh"
)

// AddDrain records where log lines are sent to.
func (d *Deployer) AddDrain(ctx context.Context, drain mesh.Drain) error {
	drain.Added = d.Now().UTC()
	if err := d.Store.AddDrain(ctx, drain); err != nil {
		return err
	}
	d.Logger.Info("drain added", "drain", drain.ID, "stack", drain.Stack, "to", drain.Shown, "key", string(drain.AddedBy))
	return nil
}

// RemoveDrain ends the sending of log lines.
func (d *Deployer) RemoveDrain(ctx context.Context, id string, by mesh.KeyName) error {
	if err := d.Store.RemoveDrain(ctx, id); err != nil {
		return err
	}
	d.Logger.Info("drain removed", "drain", id, "key", string(by))
	return nil
}
