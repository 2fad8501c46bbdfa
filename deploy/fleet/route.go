package fleet

import (
	"maps"
	"slices"

	"mesh"
)

// markLocked has the router told of a stack when the lock is given up with unlock.
func (f *Fleet) markLocked(stack mesh.StackName) {
	if f.dirty == nil {
		f.dirty = map[mesh.StackName]bool{}
	}
	f.dirty[stack] = true
}

// unlock gives the lock up and tells the router of every stack that was marked. Whoever
// may have marked one calls it instead of mu.Unlock, so when it returns, requests go
// where they should.
func (f *Fleet) unlock() {
	dirty := f.dirty
	f.dirty = nil
	f.mu.Unlock()
	for _, stack := range slices.Sorted(maps.Keys(dirty)) {
		f.publish(stack)
	}
}

// publish tells the router where the requests of a stack go now. The route is made
// after the turn has come, so the last call to the router always has the newest state;
// mu is not held meanwhile, so a router that takes its time keeps nobody else waiting
// who only asks.
func (f *Fleet) publish(stack mesh.StackName) {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.mu.Lock()
	route, known := f.held[stack], true
	if g := f.groups[stack]; g != nil {
		route = g.route(f.Host(stack))
	} else {
		_, known = f.held[stack]
	}
	f.mu.Unlock()
	if known {
		f.Router.Switch(route)
	} else {
		f.Router.Remove(stack)
	}
	select {
	case f.moved <- struct{}{}:
	default:
	}
}

// route is all the traffic of a stack: its hosts, and the healthy members that they
// lead to.
func (g *group) route(host mesh.Host) mesh.Route {
	st := g.stack
	r := mesh.Route{
		Stack: st.Name, Hosts: append([]mesh.Host{host}, st.Domains...), Redirects: st.Redirects, Page: st.Page,
		FirstByte: st.Effective().FirstByte, Endpoints: st.Endpoints, Down: g.down(mesh.Web),
	}
	if st.Maintained {
		r.Down = mesh.Maintenance
	}
	for _, e := range st.Endpoints {
		if r.Idle == nil {
			r.Idle = map[mesh.ServiceName]mesh.DownReason{}
		}
		if why := g.down(e.Service); why != mesh.NotDown {
			r.Idle[e.Service] = why
		}
	}
	for _, m := range g.ordered() {
		if name := m.instance.Name; m.healthy && (name.Service == mesh.Web || st.Published(name.Service)) {
			r.Targets = append(r.Targets, mesh.Target{ID: m.instance.ID, Name: name, Addr: m.instance.Addr})
		}
	}
	return r
}

// down is why a service has no instances, when that is on purpose.
func (g *group) down(svc mesh.ServiceName) mesh.DownReason {
	switch {
	case g.stack.Current == 0:
		return mesh.NotDeployed
	case g.stack.Stopped, g.release.Formation[svc] == 0:
		return mesh.StoppedStack
	}
	return mesh.NotDown
}

// Update takes what is recorded of a stack. Records may come in any order: the one of
// the latest transaction counts.
func (f *Fleet) Update(st mesh.Stack) {
	f.mu.Lock()
	defer f.unlock()
	g := f.groups[st.Name]
	if g == nil || st.Revision <= g.stack.Revision {
		return
	}
	g.stack = st
	f.markLocked(st.Name)
}

// newer is the later of two records of a stack.
func newer(a, b mesh.Stack) mesh.Stack {
	if a.Name == b.Name && b.Revision > a.Revision {
		return b
	}
	return a
}
