package runner

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"

	"mesh"
	"mesh/engine"
)

// Shared is how the instances of one node are reached from others. Their stack's network is
// then an overlay, which reaches over all nodes of the swarm, and each publishes its port at
// an address of its node.
type Shared struct {
	// Addr is the address of the node. A port there is chosen by the engine at every start.
	Addr netip.Addr
	// Network makes a stack's network exist, and returns its name. nil: this Runner's engine
	// is a manager's, and makes it itself.
	Network func(ctx context.Context, stack mesh.StackName) (name string, err error)
	// DNS are the name servers for containers on this node; none: the engine's own.
	DNS []netip.Addr
}

// overlayDriver is the driver of networks across nodes.
const overlayDriver = "overlay"

// port is where every instance listens, as the engine writes it.
var port = nat.Port(strconv.Itoa(mesh.Port) + "/tcp")

// overlayName is the name of a stack's network across nodes. No stack's name begins with a
// hyphen, so no bridge is called so.
func (r *Runner) overlayName(stack mesh.StackName) string {
	return engine.Prefix(r.server) + "-" + string(stack)
}

// sharing returns how instances are shared; nil: they are not.
func (r *Runner) sharing() *Shared {
	if r.shared == nil {
		return nil
	}
	return r.shared()
}

// sharedNetwork is network for a node of several.
func (r *Runner) sharedNetwork(ctx context.Context, stack mesh.StackName, s *Shared) (stackNetwork, error) {
	if s.Network == nil {
		return r.overlay(ctx, stack, s)
	}
	name, err := s.Network(ctx, stack)
	return stackNetwork{name: name, dns: s.DNS, publish: s.Addr}, err
}

// overlay creates the stack's network across nodes if it is missing, and lets the stack's
// guests in. The swarm chooses its subnet.
func (r *Runner) overlay(ctx context.Context, stack mesh.StackName, s *Shared) (stackNetwork, error) {
	unlock, err := r.stacks.lock(ctx, stack)
	if err != nil {
		return stackNetwork{}, err
	}
	defer unlock()
	name := r.overlayName(stack)
	n, err := r.cli.API(ctx).NetworkInspect(ctx, name, network.InspectOptions{})
	if errdefs.IsNotFound(err) {
		mctx, cancel := cleanup(ctx)
		defer cancel()
		o := network.CreateOptions{Driver: overlayDriver, Attachable: true, Labels: r.label(map[string]string{labelStack: string(stack)})}
		if _, err = r.cli.API(mctx).NetworkCreate(mctx, name, o); err != nil && !errdefs.IsConflict(err) {
			return stackNetwork{}, fmt.Errorf("create network %s: %w", name, err)
		}
		n, err = r.cli.API(ctx).NetworkInspect(ctx, name, network.InspectOptions{})
	}
	if err != nil {
		return stackNetwork{}, fmt.Errorf("find network %s: %w", name, err)
	}
	return stackNetwork{name: name, dns: s.DNS, publish: s.Addr}, r.invite(ctx, stack, n)
}

// foreign reports whether a network belongs to a manager's engine, which removes it; the engine here
// forgets it some time after its last container.
func (r *Runner) foreign(n network.Summary) bool {
	s := r.sharing()
	return n.Driver == overlayDriver && s != nil && s.Network != nil
}

// Share makes the network of a stack across nodes exist, and returns its name. This engine
// must be a manager's.
func (r *Runner) Share(ctx context.Context, stack mesh.StackName) (name string, err error) {
	s := r.sharing()
	if s == nil || s.Network != nil {
		return "", fmt.Errorf("the engine at %s makes no networks for others", r.cli.Host())
	}
	n, err := r.overlay(ctx, stack, s)
	return n.name, r.fault(ctx, "share the network of "+string(stack), err)
}

// Tidy removes the networks of stacks that nothing is in any more, because the stack is in one
// across nodes now, or not any more. Networks that are in use are left alone.
func (r *Runner) Tidy(ctx context.Context) error {
	across := r.sharing() != nil
	found, err := r.cli.API(ctx).NetworkList(ctx, network.ListOptions{Filters: r.filter()})
	if err != nil {
		return r.fault(ctx, "list the networks", err)
	}
	for _, n := range found {
		stack := mesh.StackName(n.Labels[labelStack])
		if stack == "" || (n.Driver == overlayDriver) == across {
			continue
		}
		if err := r.tidy(ctx, stack, n.ID, across); err != nil {
			return r.fault(ctx, "remove network "+n.Name, err)
		}
	}
	return nil
}

func (r *Runner) tidy(ctx context.Context, stack mesh.StackName, id string, across bool) error {
	unlock, err := r.stacks.lock(ctx, stack)
	if err != nil {
		return err
	}
	defer unlock()
	used, err := r.containers(ctx, labelStack+"="+string(stack))
	if err != nil {
		return err
	}
	for _, c := range used {
		if c.NetworkSettings == nil {
			continue
		}
		for _, e := range c.NetworkSettings.Networks {
			if e.NetworkID == id {
				return nil
			}
		}
	}
	if across && r.names != nil {
		r.names.Close(stack)
	}
	return r.removeNetwork(ctx, id)
}

// invite lets the stack's guests into a network.
func (r *Runner) invite(ctx context.Context, stack mesh.StackName, n network.Inspect) error {
	if r.guests == nil {
		return nil
	}
	return r.guests.Enter(ctx, stack, n.ID, func(id string) bool { _, in := n.Containers[id]; return in })
}

// published sets a container's configuration so that it is reached from other nodes.
func published(c *container.Config, h *container.HostConfig, at netip.Addr) {
	if !at.IsValid() {
		return
	}
	c.ExposedPorts = nat.PortSet{port: {}}
	h.PortBindings = nat.PortMap{port: {{HostIP: at.String()}}} // no port: the engine chooses a free one
}

// attached returns what a container has in the network of its stack, and whether that is one
// across nodes; nil: it is in none.
func (r *Runner) attached(networks map[string]*network.EndpointSettings, stack mesh.StackName) (e *network.EndpointSettings, shared bool) {
	if e := networks[r.networkName(stack)]; e != nil {
		return e, false
	}
	e = networks[r.overlayName(stack)]
	return e, e != nil
}

// place fills in where an instance is reached, by its endpoint, and for a network across
// nodes by what its container has published.
func place(in *mesh.Instance, e *network.EndpointSettings, shared bool, binding func() (host string, port uint16)) {
	if e == nil {
		return
	}
	inside, err := netip.ParseAddr(e.IPAddress)
	if err != nil {
		return
	}
	if in.Inside = inside; !shared {
		in.Addr = netip.AddrPortFrom(inside, mesh.Port)
		return
	}
	host, number := binding()
	if at, err := netip.ParseAddr(host); err == nil && number > 0 {
		in.Addr = netip.AddrPortFrom(at, number)
	}
}

// boundPort finds the published port in what an inspected container has.
func boundPort(ports nat.PortMap) (host string, number uint16) {
	for _, b := range ports[port] {
		if n, err := strconv.ParseUint(b.HostPort, 10, 16); err == nil {
			return b.HostIP, uint16(n)
		}
	}
	return "", 0
}

// listedPort is boundPort for a container in a list.
func listedPort(ports []container.Port) (host string, number uint16) {
	for _, p := range ports {
		if p.PrivatePort == mesh.Port && p.Type == "tcp" && p.PublicPort > 0 {
			return p.IP, p.PublicPort
		}
	}
	return "", 0
}

// An engine that is not a manager removes a network across nodes with its last container there.
// One that starts in that moment does not find it (Docker 20.10); a little later, the engine
// asks the manager for it again.
const (
	networkTries = 10
	networkPause = 300 * time.Millisecond
)

// lostNetwork reports whether a container did not start because of that.
func lostNetwork(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "network") && (strings.Contains(text, "not found") || strings.Contains(text, "could not be found") || strings.Contains(text, "attaching to network failed"))
}

// inUse reports whether a network cannot be removed yet, because the swarm still knows of
// containers in it.
func inUse(err error) bool {
	return strings.Contains(err.Error(), "active endpoints") || strings.Contains(err.Error(), "is in use by")
}
