package fleet

import (
	"slices"
	"time"

	"mesh"
)

// Split separates the wanted instances of a stack into those that already run and those
// that must be started. A slot for which anew returns true always gets a
// new instance.
func (f *Fleet) Split(stack mesh.StackName, want []mesh.InstanceSpec, anew func(mesh.InstanceName) bool) (keep []mesh.Instance, start []mesh.InstanceSpec) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.groups[stack]
	for _, spec := range want {
		if g != nil && !anew(spec.Name) {
			m := g.members[spec.Name]
			if m != nil && m.healthy && m.instance.Spec == spec.Fingerprint {
				keep = append(keep, m.instance)
				continue
			}
		}
		start = append(start, spec)
	}
	return keep, start
}

// Install makes r the running release of the stack, on the instances that it keeps, if
// they are still the same, and those that were started for it, and switches the router
// to them, all at once. want has the specs of both. Install returns the instances that
// are no longer wanted.
func (f *Fleet) Install(st mesh.Stack, r mesh.Release, want []mesh.InstanceSpec, keep, started []mesh.Instance) (old []mesh.Instance) {
	f.mu.Lock()
	defer f.unlock()
	g, was := f.succeedLocked(st, r)
	for _, in := range keep {
		// The member knows what has happened to it since, such as a crash or a new
		// container.
		if was != nil && was.members[in.Name] != nil {
			g.members[in.Name] = was.members[in.Name]
		} else {
			g.members[in.Name] = &member{instance: in, healthy: true, since: g.since}
		}
	}
	for _, in := range started {
		g.members[in.Name] = &member{instance: in, healthy: true, since: g.since}
	}
	for _, spec := range want {
		if m := g.members[spec.Name]; m != nil {
			m.spec = spec
		}
	}
	if was != nil {
		for name, m := range was.members {
			if n := g.members[name]; n == nil || n.instance.ID != m.instance.ID {
				old = append(old, m.instance)
			}
		}
	}
	if st.Was != "" {
		// The router keeps the routes of the old name until Renamed: they share the
		// domains.
		g.was = f.groups[st.Was]
		delete(f.groups, st.Was)
	}
	f.putLocked(g)
	// Nobody restarted the instances that died between their check and now.
	for _, m := range g.members {
		if ev := f.starting[m.instance.ID]; ev != nil {
			f.endedLocked(g, m, *ev)
		}
		delete(f.starting, m.instance.ID)
	}
	slices.SortFunc(old, func(a, b mesh.Instance) int { return a.Name.Compare(b.Name) })
	return old
}

// succeedLocked returns a group without members for a stack that runs r now, and the one
// that it takes over from, if any. Of two records of the stack the later one counts.
func (f *Fleet) succeedLocked(st mesh.Stack, r mesh.Release) (g, was *group) {
	if was = f.groups[st.Name]; was != nil && was.stack.Revision > st.Revision {
		st = was.stack
	}
	g = &group{since: f.Now(), stack: st, release: r, members: map[mesh.InstanceName]*member{}}
	if was != nil {
		g.lent = was.lent
	}
	return g, was
}

// Renamed drops the old name of a stack that was given to Install, and returns the
// instances that ran under it.
func (f *Fleet) Renamed(from, to mesh.StackName) (old []mesh.Instance) {
	f.mu.Lock()
	defer f.unlock()
	if g := f.groups[to]; g != nil && g.was != nil {
		for _, m := range g.was.ordered() {
			old = append(old, m.instance)
		}
		was := g.was
		g.was = nil
		f.markLinkedLocked(was, g)
	}
	f.markLocked(from)
	return old
}

// engineAway is why the state of an instance is unknown.
const engineAway = "the Docker Engine does not answer"

// noContainer is the ID of a member without a container, as far as mesh knows.
const noContainer = "none"

// Adopt takes over the instances found of a stack when the server starts or the engine
// is back. found holds, by name, the instances that run what is wanted. The others of
// want are started in the background. If the engine is away (known is false), found
// holds the instances that were last seen and answer, and nothing is started: the
// others may run as well.
func (f *Fleet) Adopt(st mesh.Stack, r mesh.Release, want []mesh.InstanceSpec, found map[mesh.InstanceName]mesh.Instance, known bool) {
	f.mu.Lock()
	defer f.unlock()
	g, was := f.succeedLocked(st, r)
	for _, spec := range want {
		var before *member
		if was != nil {
			before = was.members[spec.Name]
		}
		in, there := found[spec.Name]
		m := adopted(before, spec, in, there, known, g.since)
		if m.instance.ID == "" {
			m.instance = mesh.Instance{ID: noContainer, Stack: st.Name, Name: spec.Name, Release: st.Current, Deployment: r.Deployment, Spec: spec.Fingerprint}
		}
		g.members[spec.Name] = m
	}
	f.putLocked(g)
	for _, m := range g.members {
		if !m.healthy && known {
			f.bringBack(g, m, 0)
		}
	}
}

// adopted returns the member of a slot, with the instance that was found in it, if any.
func adopted(before *member, spec mesh.InstanceSpec, in mesh.Instance, there, known bool, now time.Time) *member {
	m := &member{instance: in, since: now}
	if before != nil && (!there || before.instance.ID == in.ID) {
		m = before // keeps the goroutine that is bringing it back
		if there {
			m.instance = in
		}
		// The engine was away. Instances it ended then did not crash, and earlier
		// crashes may have had the same cause: the back-off starts over.
		m.crashes, m.fails, m.ended = 0, 0, 0
	}
	m.spec = spec
	switch {
	case !there:
		m.healthy, m.ails, m.why = false, mesh.Missing, "its container does not exist"
		if !known {
			m.ails, m.why = mesh.Unknown, engineAway
		}
	case in.State == mesh.InstanceRunning && in.Addr.IsValid():
		if m.since = in.Started; m.since.IsZero() {
			m.since = now
		}
		if m.healthy, m.ails, m.why, m.recalled = true, "", "", !known; m.recalled {
			m.why = "as last seen; " + engineAway
		}
	default:
		m.healthy = false
		m.ails, m.why = ailment(in)
	}
	if !m.healthy {
		m.next = now
	}
	return m
}

// Hold keeps a stack running whose record cannot be read. Its hosts lead to its web
// instances: those last seen to serve, else those of the newest deployment. None of its
// instances are started or stopped. rules decide who reaches them. Hold returns how many
// the hosts lead to.
func (f *Fleet) Hold(stack mesh.StackName, hosts []mesh.Host, rules mesh.AccessRules, running []mesh.Instance) int {
	seen := map[string]bool{}
	for _, in := range f.remembered() {
		seen[in.ID] = true
	}
	web := slices.DeleteFunc(slices.Clone(running), func(in mesh.Instance) bool {
		return in.Stack != stack || in.Name.Service != mesh.Web || in.State != mesh.InstanceRunning || !in.Addr.IsValid()
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
	route := mesh.Route{Stack: stack, Hosts: append([]mesh.Host{f.Host(stack)}, hosts...), Access: rules}
	for _, in := range web {
		route.Targets = append(route.Targets, mesh.Target{ID: in.ID, Name: in.Name, Addr: in.Addr})
	}
	slices.SortFunc(route.Targets, func(a, b mesh.Target) int { return a.Name.Compare(b.Name) })
	f.mu.Lock()
	defer f.unlock()
	f.markLinkedLocked(f.groups[stack], nil)
	delete(f.groups, stack)
	f.held[stack] = heldStack{route, web}
	f.markLocked(stack)
	return len(web)
}
