package deploy

import (
	"context"
	"maps"
	"slices"
	"strings"

	"mesh"
)

// AddDomain routes a host name to a stack, on behalf of a key. If to, another host of
// the stack, is given, requests are redirected there.
func (d *Deployer) AddDomain(ctx context.Context, name mesh.StackName, host, to mesh.Host, key mesh.Key) error {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	if o, ok := d.owner(stacks, host); ok && d.host(o.Name) == host && key.May(mesh.AccessRead, o.Name) {
		return ownName(host, o.Name)
	}
	if err := d.mayHave(stacks, name, host, key); err != nil {
		return err
	}
	return d.changeDomains(ctx, name, func(st *mesh.Stack) error {
		if slices.Contains(st.Domains, host) {
			return mesh.Errorf(mesh.Conflict, "%s already belongs to %s", host, name)
		}
		if to != "" {
			switch {
			case strings.HasPrefix(string(host), "*"):
				return mesh.Errorf(mesh.Invalid, "a wildcard cannot be redirected").WithHint("redirect one host at a time")
			case strings.HasPrefix(string(to), "*"):
				return mesh.Errorf(mesh.Invalid, "%s is not a host that browsers can be redirected to", to).WithHint("name one host")
			case to != d.host(name) && !slices.Contains(st.Domains, to), st.Redirects[to] != "":
				return mesh.Errorf(mesh.Invalid, "%s is not a host of %s, or is itself a redirect", to, name).WithHint("add it first: ssh mesh domains:add -a %s %s", name, to)
			}
			if st.Redirects == nil {
				st.Redirects = map[mesh.Host]mesh.Host{}
			}
			st.Redirects[host] = to
		}
		st.Domains = append(st.Domains, host)
		slices.Sort(st.Domains)
		return nil
	})
}

// mayHave returns an error if a key may not give a host to a stack. Hosts at or below
// the base domain belong to the server: whoever has one gets the cookies of the whole
// domain, or requests meant for a stack that does not exist yet. A stack owns the hosts
// below its own name. An admin of the server may give away the others, except reserved
// ones.
func (d *Deployer) mayHave(stacks []mesh.Stack, stack mesh.StackName, host mesh.Host, key mesh.Key) error {
	below, ours := strings.CutSuffix("."+string(host), "."+d.Domain)
	if parent, wild := strings.CutPrefix(string(host), "*."); wild && strings.HasSuffix(d.Domain, "."+parent) && !key.May(mesh.AccessAdmin, "") {
		return mesh.Errorf(mesh.Denied, "%s covers the server's base domain %s", host, d.Domain).WithHint("name one host, or ask an admin to add it")
	}
	if !ours {
		return d.mayCover(stacks, stack, host, key)
	}
	labels := strings.Split(strings.TrimPrefix(below, "."), ".")
	switch label := labels[len(labels)-1]; {
	case mesh.Reserved(label):
		return mesh.Errorf(mesh.Denied, "%s is reserved for mesh", host).WithHint("choose a name below %s, or in another domain", d.host(stack))
	case label == string(stack) && len(labels) > 1:
		return nil
	}
	if !key.May(mesh.AccessAdmin, "") {
		return mesh.Errorf(mesh.Denied, "%s belongs to the server: its base domain is %s", host, d.Domain).
			WithHint("choose a name below %s, or in another domain; or ask an admin to add it", d.host(stack))
	}
	return nil
}

// mayCover returns an error if a key may not take a host out of the wildcard of another
// stack.
func (d *Deployer) mayCover(stacks []mesh.Stack, stack mesh.StackName, host mesh.Host, key mesh.Key) error {
	for _, parent, below := strings.Cut(string(host), "."); below; _, parent, below = strings.Cut(parent, ".") {
		wildcard := mesh.Host("*." + parent)
		for _, o := range stacks {
			if o.Name != stack && wildcard != host && slices.Contains(o.Domains, wildcard) && !key.May(mesh.AccessDeploy, o.Name) {
				return mesh.Errorf(mesh.Conflict, "%s belongs to another stack, which has %s", host, wildcard)
			}
		}
	}
	return nil
}

// owner returns the stack that a host leads to, by the stack's own name or by one of
// its domains.
func (d *Deployer) owner(stacks []mesh.Stack, host mesh.Host) (mesh.Stack, bool) {
	i := slices.IndexFunc(stacks, func(o mesh.Stack) bool { return d.host(o.Name) == host || slices.Contains(o.Domains, host) })
	if i < 0 {
		return mesh.Stack{}, false
	}
	return stacks[i], true
}

func ownName(host mesh.Host, stack mesh.StackName) error {
	return mesh.Errorf(mesh.Conflict, "%s is the name of the stack %s", host, stack)
}

// RemoveDomain takes a host name from a stack.
func (d *Deployer) RemoveDomain(ctx context.Context, name mesh.StackName, host mesh.Host) error {
	if host == d.host(name) {
		return mesh.Errorf(mesh.Conflict, "%s is the stack's own name and cannot be removed", host)
	}
	return d.changeDomains(ctx, name, func(st *mesh.Stack) error {
		i := slices.Index(st.Domains, host)
		if i < 0 {
			return mesh.Errorf(mesh.NotFound, "%s has no domain %s", name, host).WithHint("list them with: ssh mesh domains -a %s", name)
		}
		for from, to := range st.Redirects {
			if to == host {
				return redirected(name, from, host)
			}
		}
		if err := published(st, host); err != nil {
			return err
		}
		delete(st.Redirects, host)
		st.Domains = slices.Delete(st.Domains, i, i+1)
		return nil
	})
}

// SetDomains replaces the added hosts of a stack with others, at once, on behalf of a key,
// and returns what that changed. A host that stays keeps its redirect. What RemoveDomain
// refuses to remove keeps everything as it is.
func (d *Deployer) SetDomains(ctx context.Context, name mesh.StackName, hosts []mesh.Host, key mesh.Key) (added, removed []mesh.Host, err error) {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return nil, nil, err
	}
	own := d.host(name)
	hosts = slices.DeleteFunc(slices.Clone(hosts), func(h mesh.Host) bool { return h == own })
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	err = d.changeDomains(ctx, name, func(st *mesh.Stack) error {
		added, removed = nil, nil
		for _, h := range hosts {
			if slices.Contains(st.Domains, h) {
				continue
			}
			if o, ok := d.owner(stacks, h); ok && d.host(o.Name) == h && key.May(mesh.AccessRead, o.Name) {
				return ownName(h, o.Name)
			}
			if err := d.mayHave(stacks, name, h, key); err != nil {
				return err
			}
			added = append(added, h)
		}
		for _, h := range st.Domains {
			if slices.Contains(hosts, h) {
				continue
			}
			for from, to := range st.Redirects {
				if to == h && slices.Contains(hosts, from) {
					return redirected(name, from, h)
				}
			}
			if err := published(st, h); err != nil {
				return err
			}
			removed = append(removed, h)
		}
		st.Redirects = maps.Clone(st.Redirects)
		for _, h := range removed {
			delete(st.Redirects, h)
		}
		st.Domains = hosts
		return nil
	})
	return added, removed, err
}

func redirected(stack mesh.StackName, from, to mesh.Host) error {
	return mesh.Errorf(mesh.Conflict, "%s is redirected to %s", from, to).WithHint("remove the redirect first: ssh mesh domains:remove -a %s %s", stack, from)
}

// published returns an error if a service of the stack has an endpoint on a host.
func published(st *mesh.Stack, host mesh.Host) error {
	for _, e := range st.Endpoints {
		if e.Host == host {
			return mesh.Errorf(mesh.Conflict, "%s is published at %s", e.Service, e).
				WithHint("unpublish it first: ssh mesh svc:unpublish -a %s %s --endpoint %s", st.Name, e.Service, e)
		}
	}
	return nil
}

// changeDomains changes the routing of a stack's requests. It takes effect at once.
func (d *Deployer) changeDomains(ctx context.Context, name mesh.StackName, fn func(*mesh.Stack) error) error {
	if _, err := d.Store.UpdateStack(ctx, name, fn); err != nil {
		return err
	}
	d.refresh(ctx, name)
	return nil
}

// Domains returns the host names of a stack, the one below the base domain first.
func (d *Deployer) Domains(st mesh.Stack) []mesh.Host {
	return append([]mesh.Host{d.host(st.Name)}, st.Domains...)
}
