package deploy

import (
	"context"

	"mesh"
)

// Settle returns when no deployment runs or waits and no instance is on its way
// out, or with ctx's cause when that ends first. It refuses nothing: that nothing
// begins meanwhile is for the caller to see to. It is for a server that hands its
// store to another process: what is left undone then, the other takes for its own
// to mend, requests that drain here included.
func (d *Deployer) Settle(ctx context.Context) error {
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

// underWay gives the end of something that Settle waits for; nil: there is nothing.
func (d *Deployer) underWay() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lanes {
		if l.running != nil {
			return l.running.done
		}
	}
	for _, gone := range d.retiring {
		return gone
	}
	return nil
}

// retires notes that an instance is on its way out, until the returned function
// is called.
func (d *Deployer) retires(in mesh.Instance) (gone func()) {
	ch := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retiring[in.ID] = ch
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.retiring[in.ID] == ch {
			delete(d.retiring, in.ID)
		}
		close(ch)
	}
}
