package deploytest

import (
	"context" //nolint:gosec // ids as git has them
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mesh"
)

// Router records the routes it gets.
type Router struct {
	DrainFunc func(ctx context.Context, id string) error // instead of returning at once

	mu       sync.Mutex
	routes   map[mesh.StackName]mesh.Route
	switches []mesh.Route
	drained  []string
	lost     []string
}

// NewRouter returns a router with no routes.
func NewRouter() *Router { return &Router{routes: map[mesh.StackName]mesh.Route{}} }

// Switch records a route.
func (r *Router) Switch(route mesh.Route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.routes[route.Stack] = route
	r.switches = append(r.switches, route)
}

// Remove removes the route of a stack.
func (r *Router) Remove(stack mesh.StackName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.routes, stack)
}

// Lost records a target whose machine is gone.
func (r *Router) Lost(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = append(r.lost, id)
}

// LostTargets returns the targets whose machines are gone.
func (r *Router) LostTargets() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lost)
}

// Drain returns at once: there are no requests.
func (r *Router) Drain(ctx context.Context, id string, _ time.Duration) error {
	r.mu.Lock()
	r.drained = append(r.drained, id)
	for _, route := range r.routes {
		for _, t := range route.Targets {
			if t.ID == id {
				r.mu.Unlock()
				return fmt.Errorf("drain %s: it still has a route", id)
			}
		}
	}
	r.mu.Unlock()
	if r.DrainFunc != nil {
		return r.DrainFunc(ctx, id)
	}
	return nil
}

// Route returns the current route of a stack.
func (r *Router) Route(stack mesh.StackName) (mesh.Route, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	route, ok := r.routes[stack]
	return route, ok
}

// Targets returns the targets of a stack, as "c1 c2".
func (r *Router) Targets(stack mesh.StackName) string {
	route, _ := r.Route(stack)
	var out []string
	for _, t := range route.Targets {
		out = append(out, t.ID)
	}
	return strings.Join(out, " ")
}

// Switches returns every route that was switched to.
func (r *Router) Switches() []mesh.Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.switches)
}

// Drained returns the targets that were drained.
func (r *Router) Drained() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.drained)
}

// Ask returns the ID of the target that gets a request to a host, or the reason why
// none does.
func (r *Router) Ask(host mesh.Host) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, route := range r.routes {
		switch {
		case !slices.Contains(route.Hosts, host):
		case route.Down != mesh.NotDown:
			return string(route.Down)
		case len(route.Targets) > 0:
			return route.Targets[0].ID
		default:
			return "no instance"
		}
	}
	return "unknown host"
}
