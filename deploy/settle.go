package deploy

import (
	"context"
)

// WaitIdle returns when no deployment runs or waits and no instance is on its way
// out, or with ctx's cause when that ends first. It refuses nothing: that nothing
// begins meanwhile is for the caller to see to. It is for a server that hands its
// store to another process: what is left undone then, the other takes for its own
// to mend, requests that drain here included.
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

// underWay returns the end of something that WaitIdle waits for; nil: there is nothing.
func (d *Deployer) underWay() <-chan struct{} {
	if end := d.lanes.busy(); end != nil {
		return end
	}
	return d.fleet.Leaving()
}
