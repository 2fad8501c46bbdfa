package deploy

import (
	"context"
	"net/netip"

	"mesh"
)

// damaged returns the stacks that cannot be changed because one of their records is
// damaged. For those in whole, the stack record itself or its current release cannot be
// read.
func (d *Deployer) damaged() (some, whole map[mesh.StackName]bool) {
	some, whole = map[mesh.StackName]bool{}, map[mesh.StackName]bool{}
	for _, x := range d.Store.Damaged() {
		if x.Stack == "" {
			continue
		}
		some[x.Stack] = true
		whole[x.Stack] = whole[x.Stack] || x.Whole
	}
	return some, whole
}

// heldRules returns the access rules of a stack that is held. If they cannot be read and
// some people were kept out, everybody is: the others are unknown.
func (d *Deployer) heldRules(ctx context.Context, name mesh.StackName) mesh.AccessRules {
	if st, err := d.Store.Stack(ctx, name); err == nil {
		return st.Access
	}
	guarded, err := d.Store.Guarded(name)
	if err == nil && !guarded {
		return mesh.AccessRules{}
	}
	d.Logger.Error("the access rules of this stack cannot be read: all requests are refused", "stack", name, "err", err)
	return mesh.AccessRules{Deny: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
}

// hold keeps a stack running whose record cannot be read: none of its instances are
// started or stopped, and its hosts lead to its web instances. Its settings are
// unknown, so it gets the defaults, but requests that were refused stay refused.
func (d *Deployer) hold(ctx context.Context, name mesh.StackName, running []mesh.Instance) {
	hosts, err := d.Store.DomainsOf(name)
	if err != nil {
		d.Logger.Warn("domains of a damaged stack not read", "stack", name, "err", err)
	}
	n := d.fleet.Hold(name, hosts, d.heldRules(ctx, name), running)
	d.Logger.Error("a record of this stack is damaged: its instances keep running, with their last known routes", "stack", name, "instances", n)
}
