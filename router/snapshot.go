package router

import (
	"slices"
	"strings"

	"mesh"
)

// Status describes a stack's traffic now.
type Status struct {
	Stack   mesh.StackName
	Hosts   []mesh.Host
	Down    mesh.DownReason
	Waiting int // requests that wait for an instance
	Targets []TargetStatus
	Totals  Totals

	Services map[mesh.ServiceName]ServiceStatus // that had requests, or have endpoints
}

// ServiceStatus describes a service's part of its stack's traffic.
type ServiceStatus struct {
	Waiting int
	Totals  Totals
}

// TargetStatus describes an instance's traffic now.
type TargetStatus struct {
	mesh.Target
	InFlight    int  // requests and upgraded connections
	Connections int  // open to the instance, including idle ones
	SetAside    bool // the last attempt to connect failed
}

// Snapshot returns the state of all stacks, by name. It is a copy; each figure was
// true at some moment during the call.
func (r *Router) Snapshot() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Status, 0, len(r.stacks))
	for _, e := range r.stacks {
		rt := e.cur.Load()
		s := Status{Stack: rt.Stack, Hosts: slices.Clone(rt.Hosts), Down: rt.Down, Waiting: e.waiting(), Services: map[mesh.ServiceName]ServiceStatus{}}
		services := e.services()
		for svc, totals := range e.totals() {
			s.Totals.merge(totals)
			s.Services[svc] = ServiceStatus{Waiting: int(services[svc].waiting.Load()), Totals: totals}
		}
		for _, t := range rt.targets {
			ep := t.ep.Load()
			s.Targets = append(s.Targets, TargetStatus{
				Target:   mesh.Target{ID: t.id, Name: ep.name, Addr: ep.addr},
				InFlight: int(t.inflight.load()), Connections: int(t.open.Load()), SetAside: t.aside.Load() != 0,
			})
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(string(a.Stack), string(b.Stack)) })
	return all
}

// Connections counts the clients' connections, without TLS and with it, but without
// upgraded ones.
func (r *Router) Connections() (plain, tls int) {
	r.fronts.Range(func(k, _ any) bool {
		if f := k.(*front); f.tls {
			tls += int(f.conns.load())
		} else {
			plain += int(f.conns.load())
		}
		return true
	})
	return plain, tls
}

// UnknownHosts counts the requests for hosts that belong to no stack.
func (r *Router) UnknownHosts() uint64 { return r.unknownHosts.Load() }
