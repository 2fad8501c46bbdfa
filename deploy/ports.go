package deploy

import (
	"cmp"
	"context"
	"io"
	"slices"
	"sync"

	"mesh"
)

// Ports opens TCP ports of the machine. Its methods may be called from several goroutines.
type Ports interface {
	// Allowed returns the ports that stacks may publish.
	Allowed() mesh.Ports
	// Hold opens a port for the next route that has it. It does nothing if the port is
	// open already. A port in use is a Conflict.
	Hold(port uint16) error
	// Release closes a port that Hold has opened, unless a route has taken it.
	Release(port uint16)
}

// noPorts are Ports of which none is allowed.
type noPorts struct{}

func (noPorts) Allowed() mesh.Ports { return nil }
func (noPorts) Hold(uint16) error   { return mesh.Errorf(mesh.Unavailable, "ports cannot be opened") }
func (noPorts) Release(uint16)      {}

// portClaims are the ports that are being published, each with its stack: what the records
// do not say yet. The zero value is ready.
type portClaims struct {
	mu sync.Mutex
	of map[uint16]mesh.StackName
}

// take claims a port that no record names, unless another stack has claimed it.
func (c *portClaims) take(port uint16, stack mesh.StackName) (free func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.of[port]; taken {
		return nil, false
	}
	if c.of == nil {
		c.of = map[uint16]mesh.StackName{}
	}
	c.of[port] = stack
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.of, port)
	}, true
}

// PublishPort passes the connections of a TCP port of the machine to a service other than
// web. The server's settings must allow the port, and no other stack may have it. If the
// service runs and had no port yet, it is replaced as in a rollout: its new instances must
// accept connections, and if they do not, nothing changes.
func (d *Deployer) PublishPort(ctx context.Context, stack mesh.StackName, key mesh.Key, p mesh.TCPPort, out io.Writer) error {
	if p.Service == mesh.Web {
		return mesh.Errorf(mesh.Invalid, "web cannot be published on a TCP port: it gets requests, with the access rules of the stack").
			WithHint("run what speaks TCP as another service, in a Procfile or with svc:update")
	}
	if err := d.portAllowed(p.Number); err != nil {
		return err
	}
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	free, ok := d.claims.take(p.Number, stack)
	if !ok {
		return mesh.Errorf(mesh.Conflict, "port %d is being published at the moment", p.Number).WithHint("try again, or choose another of the allowed ports: %s", d.Ports.Allowed())
	}
	defer free()
	if err := d.portFree(ctx, stack, p.Number); err != nil {
		return err
	}
	change := func(s *mesh.Stack) error { return addPort(s, p) }
	would := clonedEndpoints(st)
	if err := change(&would); err != nil {
		return err // before the port is opened
	}
	if err := d.Ports.Hold(p.Number); err != nil {
		return err
	}
	defer d.Ports.Release(p.Number) // if a route has it by then, this does nothing
	subject := "Publish " + string(p.Service) + " on port " + p.String()
	return d.publish(ctx, st, p.Service, key, subject, change, mesh.Stack.OnPort, out)
}

// portAllowed returns an error if the server's settings do not allow a port.
func (d *Deployer) portAllowed(n uint16) error {
	switch allowed := d.Ports.Allowed(); {
	case len(allowed) == 0:
		return mesh.Errorf(mesh.Denied, "this server allows no TCP ports").
			WithHint("an admin sets MESH_TCP_PORTS=%d, or a range such as 5000-5100, on the server and restarts mesh", n)
	case !allowed.Has(n):
		return mesh.Errorf(mesh.Denied, "this server does not allow port %d", n).
			WithHint("use one of %s; or an admin adds it to MESH_TCP_PORTS on the server and restarts mesh", allowed)
	}
	return nil
}

// portFree returns an error if another stack has a port. It does not say which one: the key
// may not see it.
func (d *Deployer) portFree(ctx context.Context, stack mesh.StackName, n uint16) error {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	for _, o := range stacks {
		if o.Name != stack && slices.ContainsFunc(o.Ports, func(p mesh.TCPPort) bool { return p.Number == n }) {
			return mesh.Errorf(mesh.Conflict, "port %d belongs to another stack", n).WithHint("choose another of the allowed ports: %s", d.Ports.Allowed())
		}
	}
	return nil
}

// addPort makes the change of PublishPort.
func addPort(s *mesh.Stack, p mesh.TCPPort) error {
	for _, o := range s.Ports {
		switch {
		case o.Number != p.Number:
		case o.Service == p.Service:
			return mesh.Errorf(mesh.Conflict, "%s is already published on port %d", p.Service, p.Number)
		default:
			return mesh.Errorf(mesh.Conflict, "port %d belongs to %s", p.Number, o.Service).
				WithHint("unpublish it first: ssh mesh svc:unpublish -a %s %s --tcp %s", s.Name, o.Service, o)
		}
	}
	s.Ports = append(s.Ports, p)
	slices.SortFunc(s.Ports, func(a, b mesh.TCPPort) int { return cmp.Compare(a.Number, b.Number) })
	return nil
}

// UnpublishPort closes a TCP port of a service. The instances keep running, and open
// connections continue.
func (d *Deployer) UnpublishPort(ctx context.Context, stack mesh.StackName, p mesh.TCPPort) error {
	return d.changeDomains(ctx, stack, func(s *mesh.Stack) error {
		i := slices.Index(s.Ports, p)
		if i < 0 {
			return mesh.Errorf(mesh.NotFound, "%s is not published on port %d", p.Service, p.Number).WithHint("list ports with: ssh mesh svc -a %s", stack)
		}
		s.Ports = slices.Delete(s.Ports, i, i+1)
		return nil
	})
}
