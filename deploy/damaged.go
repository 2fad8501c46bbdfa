package deploy

import (
	"slices"

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
// or stopped, and its hosts lead to its web instances: those that were last seen to
// serve, else those of the newest deployment. Its own settings are not known: it has the
// defaults.
func (d *Deployer) hold(name mesh.StackName, running []mesh.Instance) {
	hosts, err := d.Store.DomainsOf(name)
	if err != nil {
		d.Logger.Warn("domains of a damaged stack not read", "stack", name, "err", err)
	}
	seen := map[string]bool{}
	if d.Memory != nil {
		last, err := d.Memory.Load()
		if err != nil {
			d.Logger.Warn("where instances were is not known", "err", err)
		}
		for _, in := range last {
			seen[in.ID] = true
		}
	}
	web := slices.DeleteFunc(slices.Clone(running), func(in mesh.Instance) bool {
		return in.Stack != name || in.Name.Service != mesh.Web || in.State != mesh.InstanceRunning || !in.Addr.IsValid()
	})
	known := func(in mesh.Instance) bool { return seen[in.ID] }
	if slices.ContainsFunc(web, known) {
		web = slices.DeleteFunc(web, func(in mesh.Instance) bool { return !known(in) })
	} else {
		var newest mesh.DeploymentNumber
		for _, in := range web {
			newest = max(newest, in.Deployment)
		}
		web = slices.DeleteFunc(web, func(in mesh.Instance) bool { return in.Deployment != newest })
	}
	route := mesh.Route{Stack: name, Hosts: append([]mesh.Host{d.host(name)}, hosts...)}
	for _, in := range web {
		route.Targets = append(route.Targets, mesh.Target{ID: in.ID, Name: in.Name, Addr: in.Addr})
	}
	slices.SortFunc(route.Targets, func(a, b mesh.Target) int { return a.Name.Compare(b.Name) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[name] = web
	delete(d.fleets, name)
	d.Router.Switch(route)
	d.Logger.Error("a record of this stack is damaged: its instances are left alone and routed as last seen", "stack", name, "instances", len(web))
}
