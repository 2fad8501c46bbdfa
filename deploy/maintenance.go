package deploy

import (
	"context"
	"net/netip"
	"strings"

	"mesh"
)

// SetMaintenance answers all requests of a stack with 503, except those of the clients in
// spared, or routes all of them to its instances again. It takes effect at once, without a
// release. The instances keep running, and the setting survives restarts. page is HTML for
// browsers; empty means mesh's own page.
func (d *Deployer) SetMaintenance(ctx context.Context, stack mesh.StackName, on bool, page string, spared []netip.Prefix) error {
	if !on {
		page, spared = "", nil
	}
	err := d.changeDomains(ctx, stack, func(s *mesh.Stack) error {
		s.Maintained, s.Page, s.Spared = on, page, spared
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case !on:
		d.note(stack, "maintenance", "is off")
	case len(spared) > 0:
		list := make([]string, len(spared))
		for i, p := range spared {
			list[i] = p.String()
		}
		d.note(stack, "maintenance", "is on: requests get 503, except from %s", strings.Join(list, ", "))
	default:
		d.note(stack, "maintenance", "is on: requests get 503")
	}
	return nil
}
