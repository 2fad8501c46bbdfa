package deploy

import (
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

// hold keeps a stack running whose record cannot be read: none of its instances are
// started or stopped, and its hosts lead to its web instances. Its settings are
// unknown, so it gets the defaults.
func (d *Deployer) hold(name mesh.StackName, running []mesh.Instance) {
	hosts, err := d.Store.DomainsOf(name)
	if err != nil {
		d.Logger.Warn("domains of a damaged stack not read", "stack", name, "err", err)
	}
	n := d.fleet.Hold(name, hosts, running)
	d.Logger.Error("a record of this stack is damaged: its instances keep running, with their last known routes", "stack", name, "instances", n)
}
