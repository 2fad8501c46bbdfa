package fleet

import (
	"net/netip"
	"slices"
	"strings"

	"mesh"
)

// Resolve returns what a name means to the instances of a stack: "worker" and
// "blog-worker" are the healthy instances of a service of blog's current release, "blog"
// is its web, and a link has the name that it was given. A service goes before a link.
func (f *Fleet) Resolve(stack mesh.StackName, name string) (r mesh.Resolution, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.networkLocked(stack)
	if g == nil {
		return r, false
	}
	if svc, ok := g.named(name); ok {
		return mesh.Resolution{Addrs: g.addresses(svc)}, true
	}
	for _, l := range g.links() {
		if l.As == name {
			return mesh.Resolution{Link: true}, true
		}
	}
	return r, false
}

// networkLocked returns the group whose instances are in the network of a stack. While a
// stack is renamed, the old name's network has the old instances.
func (f *Fleet) networkLocked(stack mesh.StackName) *group {
	if g := f.groups[stack]; g != nil {
		return g
	}
	for _, g := range f.groups {
		if g.was != nil && g.was.stack.Name == stack {
			return g.was
		}
	}
	return nil
}

// named returns the service of the current release that a name means.
func (g *group) named(name string) (mesh.ServiceName, bool) {
	stack := string(g.stack.Name)
	for _, svc := range []mesh.ServiceName{mesh.ServiceName(name), mesh.ServiceName(strings.TrimPrefix(name, stack+"-"))} {
		if _, ok := g.release.Services[svc]; ok {
			return svc, true
		}
	}
	if _, ok := g.release.Services[mesh.Web]; ok && name == stack {
		return mesh.Web, true
	}
	return "", false
}

// addresses returns those of the healthy members of a service.
func (g *group) addresses(svc mesh.ServiceName) (out []netip.Addr) {
	for _, m := range g.ordered() {
		if m.healthy && m.instance.Name.Service == svc && m.instance.Addr.IsValid() {
			at := m.instance.Inside
			if !at.IsValid() {
				at = m.instance.Addr.Addr()
			}
			out = append(out, at)
		}
	}
	return out
}

// links returns the links of a stack, with those lent to it.
func (g *group) links() []mesh.Link {
	return append(slices.Clone(g.stack.Links), g.lent...)
}

// Lend gives a stack a link that is not recorded yet, so that instances can use it from
// their start. It lasts until the returned function is called.
func (f *Fleet) Lend(stack mesh.StackName, l mesh.Link) (back func()) {
	change := func(fn func([]mesh.Link) []mesh.Link) {
		f.mu.Lock()
		defer f.unlock()
		if g := f.groups[stack]; g != nil {
			g.lent = fn(g.lent)
			f.markLocked(l.To)
		}
	}
	change(func(all []mesh.Link) []mesh.Link { return append(slices.Clone(all), l) })
	return func() {
		change(func(all []mesh.Link) []mesh.Link {
			return slices.DeleteFunc(slices.Clone(all), func(o mesh.Link) bool { return o == l })
		})
	}
}

// doorsLocked returns the links that lead to a stack.
func (f *Fleet) doorsLocked(to mesh.StackName) (out []mesh.Door) {
	for _, g := range f.groups {
		for g := g; g != nil; g = g.was {
			for _, l := range g.links() {
				if l.To == to {
					out = append(out, mesh.Door{From: g.stack.Name, As: l.As, Service: l.Service})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b mesh.Door) int {
		return strings.Compare(string(a.From)+"/"+a.As, string(b.From)+"/"+b.As)
	})
	return out
}

// markLinkedLocked marks the stacks that two groups, which may be nil, have different
// links to.
func (f *Fleet) markLinkedLocked(a, b *group) {
	var all [2][]mesh.Link
	for i, g := range []*group{a, b} {
		if g != nil {
			all[i] = g.links()
		}
	}
	if a != nil && b != nil && a.stack.Name == b.stack.Name && slices.Equal(all[0], all[1]) {
		return
	}
	for _, links := range all {
		for _, l := range links {
			if f.groups[l.To] != nil {
				f.markLocked(l.To)
			}
		}
	}
}
