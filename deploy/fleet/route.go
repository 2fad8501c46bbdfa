package fleet

import (
	"maps"
	"slices"
	"time"

	"mesh"
)

// markLocked makes unlock pass the route of a stack to the router.
func (f *Fleet) markLocked(stack mesh.StackName) {
	if f.dirty == nil {
		f.dirty = map[mesh.StackName]bool{}
	}
	f.dirty[stack] = true
}

// unlock releases the lock and passes the routes of all marked stacks to the router.
// Call it instead of mu.Unlock wherever a stack may have been marked: when it returns,
// requests follow the new routes.
func (f *Fleet) unlock() {
	dirty := f.dirty
	f.dirty = nil
	f.mu.Unlock()
	for _, stack := range slices.Sorted(maps.Keys(dirty)) {
		f.publish(stack)
	}
}

// publish passes the current route of a stack to the router. It makes the route once
// its turn has come, so the last call to the router always has the newest state. It
// does not hold mu during the call, so a slow router does not block readers.
func (f *Fleet) publish(stack mesh.StackName) {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.mu.Lock()
	held, known := f.held[stack]
	route := held.route
	if g := f.groups[stack]; g != nil {
		route, known = g.route(f.Host(stack), f.doorsLocked(stack)), true
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

// route returns the whole route of a stack: its hosts and doors, and the healthy members
// that they lead to.
func (g *group) route(host mesh.Host, doors []mesh.Door) mesh.Route {
	st := g.stack
	r := mesh.Route{
		Stack: st.Name, Hosts: append([]mesh.Host{host}, st.Domains...), Redirects: st.Redirects, Page: st.Page, Access: st.Access,
		FirstByte: st.Effective().FirstByte, Endpoints: st.Endpoints, Ports: st.Ports, Doors: doors, Down: g.down(mesh.Web),
	}
	r.Ignored = st.Effective().SleepIgnore
	if !st.Asleep.IsZero() {
		r.Wake = CheckOf(st, mesh.Web).Timeout + wakeSlack
	}
	r.Idle = map[mesh.ServiceName]mesh.DownReason{}
	if st.Maintained {
		r.Down, r.Idle[mesh.Web], r.Spared = mesh.Maintenance, r.Down, st.Spared
	}
	served := map[mesh.ServiceName]bool{mesh.Web: true}
	for _, e := range st.Endpoints {
		served[e.Service] = true
	}
	for _, d := range doors {
		served[d.Service] = true
	}
	for _, p := range st.Ports {
		served[p.Service] = true
	}
	for svc := range served {
		if why := g.down(svc); why != mesh.NotDown && svc != mesh.Web {
			r.Idle[svc] = why
		}
	}
	if g.trial != nil && !st.Stopped {
		r.Trial = g.trial
	}
	for _, m := range g.ordered() {
		if name := m.instance.Name; m.healthy && served[name.Service] {
			r.Targets = append(r.Targets, mesh.Target{ID: m.instance.ID, Name: name, Addr: m.instance.Addr})
		}
	}
	return r
}

// wakeSlack is what waking takes besides the check: the start of a container on a busy
// machine.
const wakeSlack = 30 * time.Second

// down returns why a service intentionally has no instances.
func (g *group) down(svc mesh.ServiceName) mesh.DownReason {
	switch {
	case g.stack.Current == 0:
		return mesh.NotDeployed
	case !g.stack.Stopped && !g.stack.Asleep.IsZero() && g.stack.Sleeps(svc):
		return mesh.Asleep
	case g.stack.Stopped, g.release.Formation[svc] == 0:
		return mesh.StoppedStack
	}
	return mesh.NotDown
}

// Update passes on a changed record of a stack. It does nothing if the fleet already has
// a later one.
func (f *Fleet) Update(st mesh.Stack) {
	f.mu.Lock()
	defer f.unlock()
	g := f.groups[st.Name]
	if g == nil || st.Revision <= g.stack.Revision {
		return
	}
	was := *g
	g.stack = st
	f.markLinkedLocked(&was, g)
	f.markLocked(st.Name)
}
