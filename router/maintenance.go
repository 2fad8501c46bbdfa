package router

import (
	"net/netip"
	"slices"
)

// spared reports whether maintenance does not concern the client of the request: the
// stack serves it as always, from the instances that it has.
func (q *request) spared(rt *route) bool { return len(rt.Spared) > 0 && rt.spares(q.peer.addr()) }

// spares reports whether maintenance does not concern a client.
func (rt *route) spares(client netip.Addr) bool {
	return slices.ContainsFunc(rt.Spared, func(p netip.Prefix) bool { return p.Contains(client) })
}
