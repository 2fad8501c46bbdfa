package deploy

import (
	"context"
	"io"
	"slices"

	"mesh"
)

// Publish routes part of a host's requests to a service other than web. A host that
// belongs to no stack becomes a host of this stack. If the service runs and was not
// published yet, it is replaced as in a rollout: its new instances must answer HTTP,
// and if they do not, nothing changes. It acts on behalf of a key, which must be allowed
// to add the host.
func (d *Deployer) Publish(ctx context.Context, stack mesh.StackName, key mesh.Key, e mesh.Endpoint, out io.Writer) error {
	if e.Service == mesh.Web {
		return mesh.Errorf(mesh.Invalid, "web cannot be published: it already gets all other requests").WithHint("add a host for it with: ssh mesh domains:add -a %s %s", stack, e.Host)
	}
	change := func(s *mesh.Stack) error { return d.addEndpoint(s, e) }
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	if err := d.mayAdd(ctx, st, e.Host, key); err != nil {
		return err
	}
	return d.publish(ctx, st, e.Service, key, "Publish "+string(e.Service)+" at "+e.String(), change, mesh.Stack.Published, out)
}

// publish records a change that makes a service reachable. If the service runs and was
// not reachable yet in this way, it is replaced as in a rollout, so that its new instances
// are checked for it.
func (d *Deployer) publish(ctx context.Context, st mesh.Stack, svc mesh.ServiceName, key mesh.Key, subject string,
	change func(*mesh.Stack) error, reachable func(mesh.Stack, mesh.ServiceName) bool, out io.Writer,
) error {
	stack := st.Name
	would := clonedEndpoints(st)
	if err := change(&would); err != nil {
		return err
	}
	if st.Current == 0 {
		return d.changeDomains(ctx, stack, change)
	}
	r, err := d.Store.Release(ctx, stack, st.Current)
	if err != nil {
		return err
	}
	if _, ok := r.Services[svc]; !ok {
		return noService(stack, svc, r)
	}
	if (st.Stopped || reachable(st, svc)) && len(d.lanes.tickets(stack)) == 0 {
		return d.changeDomains(ctx, stack, change) // nothing to start
	}
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployServices, By: key.Name, Subject: subject}
	return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
		st, err := d.Store.Stack(ctx, stack)
		if err != nil {
			return err
		}
		r, err := d.Store.Release(ctx, stack, st.Current)
		if err != nil {
			return err
		}
		if _, ok := r.Services[svc]; !ok {
			return noService(stack, svc, r) // it was removed after this check began
		}
		a.out.mask(r.Configs())
		if err := d.imagePresent(ctx, r); err != nil {
			return err
		}
		if st.Stopped {
			r.Formation = nil
		}
		st = clonedEndpoints(st)
		if err := change(&st); err != nil {
			return err
		}
		anew := func(in mesh.InstanceName) bool { return in.Service == svc }
		st, err = d.roll(ctx, a, rollout{stack: st, release: r, anew: anew, commit: func(ctx context.Context, _ mesh.Stack) (mesh.Stack, error) {
			return d.commit(ctx, a, nil, change)
		}})
		if err != nil {
			return err
		}
		a.done(st)
		return nil
	})
}

// clonedEndpoints returns a copy of st that addEndpoint and addPort may change.
func clonedEndpoints(st mesh.Stack) mesh.Stack {
	st.Domains, st.Endpoints, st.Ports = slices.Clone(st.Domains), slices.Clone(st.Endpoints), slices.Clone(st.Ports)
	return st
}

// addEndpoint makes the change of Publish.
func (d *Deployer) addEndpoint(s *mesh.Stack, e mesh.Endpoint) error {
	for i, o := range s.Endpoints {
		switch {
		case !o.Same(e):
		case o.Service == e.Service && o.Strip != e.Strip:
			s.Endpoints[i].Strip = e.Strip
			return nil
		case o.Service == e.Service:
			return mesh.Errorf(mesh.Conflict, "%s is already published at %s", e.Service, e)
		default:
			return mesh.Errorf(mesh.Conflict, "%s is the endpoint of %s", e, o.Service).
				WithHint("unpublish it first: ssh mesh svc:unpublish -a %s %s --endpoint %s", s.Name, o.Service, e)
		}
	}
	if to := s.Redirects[e.Host]; to != "" {
		return mesh.Errorf(mesh.Conflict, "%s is redirected to %s, so no service gets its requests", e.Host, to).
			WithHint("publish at %s, or remove the redirect: ssh mesh domains:remove -a %s %s", to, s.Name, e.Host)
	}
	if e.Host != d.host(s.Name) && !slices.Contains(s.Domains, e.Host) {
		s.Domains = append(s.Domains, e.Host)
		slices.Sort(s.Domains)
	}
	s.Endpoints = append(s.Endpoints, e)
	slices.SortFunc(s.Endpoints, mesh.Endpoint.Compare)
	return nil
}

// mayAdd returns an error if a host belongs to another stack, or if the key may not give
// it to the stack, before anything is started for it.
func (d *Deployer) mayAdd(ctx context.Context, st mesh.Stack, host mesh.Host, key mesh.Key) error {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	switch o, ok := d.owner(stacks, host); {
	case !ok:
		return d.mayHave(stacks, st.Name, host, key)
	case o.Name == st.Name:
		return nil
	case d.host(o.Name) == host && key.May(mesh.AccessRead, o.Name):
		return ownName(host, o.Name)
	}
	return mesh.Errorf(mesh.Conflict, "the domain %s belongs to another stack", host).WithHint("remove it there first: ssh mesh domains:remove -a STACK %s", host)
}

// Unpublish removes an endpoint from a service, or all of them and all TCP ports if at is
// nil, and returns those removed. The instances keep running; web gets the requests, and
// the stack keeps the hosts. Open connections continue.
func (d *Deployer) Unpublish(ctx context.Context, stack mesh.StackName, service mesh.ServiceName, at *mesh.Endpoint) (taken []mesh.Endpoint, ports []mesh.TCPPort, err error) {
	err = d.changeDomains(ctx, stack, func(s *mesh.Stack) error {
		taken, ports = nil, nil
		s.Endpoints = slices.DeleteFunc(s.Endpoints, func(e mesh.Endpoint) bool {
			hit := e.Service == service && (at == nil || at.Same(e))
			if hit {
				taken = append(taken, e)
			}
			return hit
		})
		s.Ports = slices.DeleteFunc(s.Ports, func(p mesh.TCPPort) bool {
			hit := p.Service == service && at == nil
			if hit {
				ports = append(ports, p)
			}
			return hit
		})
		switch {
		case len(taken)+len(ports) > 0:
			return nil
		case at != nil:
			return mesh.Errorf(mesh.NotFound, "%s is not published at %s", service, *at).WithHint("list endpoints with: ssh mesh svc -a %s", stack)
		}
		return mesh.Errorf(mesh.NotFound, "%s is not published", service).WithHint("list endpoints with: ssh mesh svc -a %s", stack)
	})
	return taken, ports, err
}
