package router

import (
	"net/netip"
	"slices"
)

// spared reports whether maintenance does not concern the client of the request: the
// stack serves it as always, from the instances that it has.
func (q *request) spared(rt *route) bool {
	if len(rt.Spared) == 0 {
		return false
	}
	client := q.peer.addr()
	return slices.ContainsFunc(rt.Spared, func(p netip.Prefix) bool { return p.Contains(client) })
}
