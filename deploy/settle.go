package deploy

import "context"

// WaitIdle returns when no deployment runs or waits, no backup runs and no instance is being retired,
// or with ctx's cause if ctx ends first. It refuses nothing: the caller must see to it
// that nothing begins meanwhile. It is for a server that hands its store to another
// process. The other process would take unfinished work, even requests that drain here,
// for its own to repair.
func (d *Deployer) WaitIdle(ctx context.Context) error {
	for {
		under := d.underWay()
		if under == nil {
			return nil
		}
		select {
		case <-under:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// underWay returns a channel that is closed when something that WaitIdle waits for has
// ended, or nil if there is nothing.
func (d *Deployer) underWay() <-chan struct{} {
	if end := d.lanes.busy(); end != nil {
		return end
	}
	if end := d.backups.busy(); end != nil {
		return end
	}
	return d.fleet.Leaving()
}
