package deploy

import (
	"mesh"
)

// damaged names the stacks that cannot be changed because a record of theirs is damaged.
// Of those that are whole no more can be read, or what they run cannot.
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

// hold lets a stack whose record cannot be read go on as it was: nothing of it is started
// or stopped, and its hosts lead to its web instances. Its own settings are not known: it
// has the defaults.
func (d *Deployer) hold(name mesh.StackName, running []mesh.Instance) {
	hosts, err := d.Store.DomainsOf(name)
	if err != nil {
		d.Logger.Warn("domains of a damaged stack not read", "stack", name, "err", err)
	}
	n := d.fleet.Hold(name, hosts, running)
	d.Logger.Error("a record of this stack is damaged: its instances keep running, with their last known routes", "stack", name, "instances", n)
}
