package fleet

import (
	"time"

	"mesh"
)

// Idler is a stack that may sleep, and what it runs.
type Idler struct {
	Stack   mesh.Stack
	Release mesh.ReleaseNumber
	Since   time.Time // its instances are what they are since then
}

// Idlers returns the stacks that are awake and sleep after a time without requests: those
// whose web runs and is well.
func (f *Fleet) Idlers() (out []Idler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.groups {
		st := g.stack
		if st.SleepAfter() == 0 || st.Stopped || !st.Asleep.IsZero() || g.trial != nil || g.release.Formation[mesh.Web] == 0 {
			continue
		}
		well, since := true, g.since
		for _, m := range g.members {
			if m.instance.Name.Service == mesh.Web {
				well = well && m.healthy && !m.busy && !m.parked
				if m.since.After(since) {
					since = m.since
				}
			}
		}
		if well {
			out = append(out, Idler{st, g.release.Number, since})
		}
	}
	return out
}

// Sleep takes the instances of services that sleep out of the routes and of supervision, and
// returns them; st is the record that says so. It returns false, and does nothing, if the
// stack runs another release by now.
func (f *Fleet) Sleep(st mesh.Stack, n mesh.ReleaseNumber) (old []mesh.Instance, ok bool) {
	f.mu.Lock()
	defer f.unlock()
	g := f.groups[st.Name]
	if g == nil || g.release.Number != n {
		return nil, false
	}
	for _, m := range g.ordered() {
		if st.Sleeps(m.instance.Name.Service) {
			old = append(old, m.instance)
			delete(g.members, m.instance.Name)
		}
	}
	f.adoptLocked(g, st)
	return old, true
}

// Awaken adds the instances that were started for a stack that sleeps, and sends it its
// requests; st is the record that says that it is awake. It returns false, and does nothing,
// if the stack runs another release by now.
func (f *Fleet) Awaken(st mesh.Stack, r mesh.Release, want []mesh.InstanceSpec, started []mesh.Instance) bool {
	f.mu.Lock()
	defer f.unlock()
	g := f.groups[st.Name]
	if g == nil || g.release.Number != r.Number || g.stack.Asleep.IsZero() {
		return false
	}
	g.since, g.release = f.Now(), r
	for _, in := range started {
		g.members[in.Name] = &member{instance: in, healthy: true, since: g.since}
	}
	for _, spec := range want {
		if m := g.members[spec.Name]; m != nil {
			m.spec = spec
		}
	}
	f.adoptLocked(g, st)
	for _, m := range g.members {
		if ev := f.starting[m.instance.ID]; ev != nil {
			f.endedLocked(g, m, *ev)
		}
		delete(f.starting, m.instance.ID)
	}
	return true
}

// adoptLocked takes over a record, unless a later one is known, and publishes the route.
func (f *Fleet) adoptLocked(g *group, st mesh.Stack) {
	if st.Revision > g.stack.Revision {
		g.stack = st
	}
	f.markLinkedLocked(g, g)
	f.markLocked(st.Name)
}

// Ended publishes the route of a stack again, so that requests that wait for it look once
// more.
func (f *Fleet) Ended(stack mesh.StackName) {
	f.mu.Lock()
	defer f.unlock()
	f.markLocked(stack)
}
