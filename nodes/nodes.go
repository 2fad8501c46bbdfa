// Package nodes is the membership of machines: the swarm that this machine's engine is in, its
// nodes, and the service that runs mesh's agent on each of them.
//
// It starts no instances, which is for packages runner and cluster, and does not speak with the
// agents, which is for package agent.
//
//	s := nodes.New(cli, nodes.Options{Server: id})
//	err := s.Enable(ctx, addr)
//	all, err := s.List(ctx)
package nodes

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/swarm"

	"mesh"
	"mesh/engine"
)

// Swarm is the swarm of one engine, seen by its manager. It may be used from several
// goroutines, and keeps nothing in memory.
type Swarm struct {
	Options
	cli *engine.Client
}

// Options are what New needs besides the client.
type Options struct {
	// Server is the ID of the mesh server. A swarm belongs to one.
	Server string
	// Pool is what a swarm that mesh makes takes its networks from; invalid: DefaultPool.
	Pool netip.Prefix
	// Logger gets what people are not shown; nil: slog.Default().
	Logger *slog.Logger
}

// DefaultPool is what a swarm that mesh makes takes its networks from. The engine's own pool,
// 10.0.0.0/8, often contains the addresses of the nodes.
var DefaultPool = netip.MustParsePrefix("10.200.0.0/14")

// heartbeat is how often nodes report. The engine's 5 s would notice a dead node only after 11 s;
// with 1 s it takes 3 to 4 (measured: shared/facts/docker.md, D).
const heartbeat = time.Second

// The labels of a swarm that a server uses.
const (
	labelOwner = "mesh.owner"
	labelHome  = "mesh.home" // the node that the server runs on
	labelMade  = "mesh.made" // mesh has made it, and may leave it
)

// drainLabel is on a node on which no instances are placed. It is not the engine's own
// availability, which would end the agent there as well.
const drainLabel = "mesh.drained"

// New returns a Swarm. It does not talk to the engine.
func New(cli *engine.Client, o Options) *Swarm {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if !o.Pool.IsValid() {
		o.Pool = DefaultPool
	}
	return &Swarm{Options: o, cli: cli}
}

// Look returns what this machine's engine is in a swarm.
func (s *Swarm) Look(ctx context.Context) (mesh.Swarm, error) {
	info, err := s.cli.API(ctx).Info(ctx)
	if err != nil {
		return mesh.Swarm{}, s.fault(ctx, "look at the swarm", err)
	}
	is := info.Swarm
	if is.LocalNodeState == swarm.LocalNodeStateInactive || is.LocalNodeState == "" {
		return mesh.Swarm{}, nil
	}
	out := mesh.Swarm{Node: is.NodeID, Manager: is.ControlAvailable}
	out.Addr, _ = netip.ParseAddr(is.NodeAddr) // the engine's own text
	switch {
	case is.LocalNodeState == swarm.LocalNodeStateLocked:
		return out, mesh.Errorf(mesh.Unavailable, "the swarm is locked").WithHint("unlock it on the server: docker swarm unlock")
	case !is.ControlAvailable && is.Error != "":
		return out, mesh.Errorf(mesh.Unavailable, "the swarm does not work: %s", mesh.Clip(mesh.Visible(is.Error), 200)).WithHint("see on the server: docker info")
	case !is.ControlAvailable:
		return out, nil
	}
	sw, err := s.cli.API(ctx).SwarmInspect(ctx)
	if err != nil {
		return out, s.fault(ctx, "look at the swarm", err)
	}
	out.ID, out.Owner, out.Home, out.Made = sw.ID, sw.Spec.Labels[labelOwner], sw.Spec.Labels[labelHome], sw.Spec.Labels[labelMade] != ""
	out.Ours = out.Owner == s.Server
	return out, nil
}

// Enable makes this engine the manager of a swarm whose nodes reach it at addr, or takes the
// swarm that it manages already, and records there that this server uses it. It may be called
// again.
func (s *Swarm) Enable(ctx context.Context, addr netip.Addr) (mesh.Swarm, error) {
	is, err := s.Look(ctx)
	if err != nil {
		return is, err
	}
	switch {
	case is.Node == "":
		if err := s.create(ctx, addr); err != nil {
			return is, err
		}
	case !is.Manager:
		return is, mesh.Errorf(mesh.Conflict, "this machine's engine is a worker of a swarm, and mesh needs a manager").
			WithHint("on a manager of that swarm: docker node promote NODE; or on this machine: docker swarm leave")
	case is.Owner != "" && is.Owner != s.Server:
		return is, mesh.Errorf(mesh.Conflict, "this machine's swarm is used by another mesh server").
			WithHint("run on that one: ssh mesh nodes:disable; if it is gone for good, leave the swarm on this machine: docker swarm leave --force")
	case is.Addr != addr && addr.IsValid():
		return is, mesh.Errorf(mesh.Conflict, "this machine is in a swarm already, with the address %s", is.Addr).
			WithHint("leave out --advertise-addr; to change it, leave the swarm first: docker swarm leave --force")
	}
	return s.Claim(ctx)
}

// Claim records that this server uses the swarm, and from this machine.
func (s *Swarm) Claim(ctx context.Context) (mesh.Swarm, error) {
	is, err := s.Look(ctx)
	if err != nil {
		return is, err
	}
	return s.claim(ctx, s.Server, is.Node)
}

// create makes a swarm of this engine alone.
func (s *Swarm) create(ctx context.Context, addr netip.Addr) error {
	history := int64(2)
	_, err := s.cli.API(ctx).SwarmInit(ctx, swarm.InitRequest{
		ListenAddr: addr.String() + ":2377", AdvertiseAddr: addr.String(), DefaultAddrPool: []string{s.Pool.String()}, SubnetSize: 24,
		Spec: swarm.Spec{
			Annotations:   swarm.Annotations{Name: "default", Labels: map[string]string{labelOwner: s.Server, labelMade: "yes"}},
			Orchestration: swarm.OrchestrationConfig{TaskHistoryRetentionLimit: &history},
			Dispatcher:    swarm.DispatcherConfig{HeartbeatPeriod: heartbeat},
		},
	})
	if err == nil {
		return nil
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "address already in use"):
		return mesh.Errorf(mesh.Conflict, "another program uses port 2377 of this machine, which a swarm needs: %w", err).WithHint("find it with: ss -ltnp 'sport = :2377'")
	case strings.Contains(text, "advertise address"), strings.Contains(text, "cannot assign requested address"):
		return mesh.Errorf(mesh.Invalid, "%s is not an address of this machine", addr).WithHint("list them with: ip -brief address")
	}
	return s.fault(ctx, "make a swarm", err)
}

// claim records whose the swarm is, and from which node; "": nobody's.
func (s *Swarm) claim(ctx context.Context, owner, home string) (mesh.Swarm, error) {
	err := s.untilCurrent(ctx, func() error {
		sw, err := s.cli.API(ctx).SwarmInspect(ctx)
		if err != nil {
			return err
		}
		if sw.Spec.Labels[labelOwner] == owner && sw.Spec.Labels[labelHome] == home && (owner == "" || sw.Spec.Dispatcher.HeartbeatPeriod <= heartbeat) {
			return nil
		}
		spec := sw.Spec
		if spec.Labels = maps.Clone(spec.Labels); spec.Labels == nil {
			spec.Labels = map[string]string{}
		}
		if spec.Labels[labelOwner], spec.Labels[labelHome] = owner, home; owner == "" {
			delete(spec.Labels, labelOwner)
			delete(spec.Labels, labelHome)
		} else {
			spec.Dispatcher.HeartbeatPeriod = heartbeat
		}
		return s.cli.API(ctx).SwarmUpdate(ctx, sw.Version, spec, swarm.UpdateFlags{})
	})
	if err != nil {
		return mesh.Swarm{}, s.fault(ctx, "change the swarm", err)
	}
	return s.Look(ctx)
}

// untilCurrent calls fn, which reads something of the swarm and changes it, again while somebody
// else changes it between the two: the swarm itself does in its first moments.
func (s *Swarm) untilCurrent(ctx context.Context, fn func() error) error {
	for i := 0; ; i++ {
		err := fn()
		if err == nil || i == 30 || !strings.Contains(err.Error(), "out of sequence") {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Disable gives the swarm up. If mesh has made it and no other node is left, the engine
// leaves it.
func (s *Swarm) Disable(ctx context.Context) error {
	is, err := s.Look(ctx)
	if err != nil || is.Node == "" || is.Owner != s.Server {
		return err
	}
	all, err := s.List(ctx)
	if err != nil {
		return err
	}
	if is.Made && len(all) == 1 {
		return s.fault(ctx, "leave the swarm", s.cli.API(ctx).SwarmLeave(ctx, true))
	}
	_, err = s.claim(ctx, "", "")
	return err
}

// Tokens returns what a machine needs to join as a worker: a secret, and the address of this
// manager.
func (s *Swarm) Tokens(ctx context.Context) (worker, addr string, err error) {
	is, err := s.Look(ctx)
	if err != nil {
		return "", "", err
	}
	sw, err := s.cli.API(ctx).SwarmInspect(ctx)
	if err != nil {
		return "", "", s.fault(ctx, "look at the swarm", err)
	}
	return sw.JoinTokens.Worker, netip.AddrPortFrom(is.Addr, 2377).String(), nil
}

// List returns the nodes, this machine first and then by name.
func (s *Swarm) List(ctx context.Context) ([]mesh.Node, error) {
	info, err := s.cli.API(ctx).Info(ctx)
	if err != nil {
		return nil, s.fault(ctx, "list the nodes", err)
	}
	found, err := s.cli.API(ctx).NodeList(ctx, swarm.NodeListOptions{})
	if err != nil {
		return nil, s.fault(ctx, "list the nodes", err)
	}
	out := make([]mesh.Node, 0, len(found))
	for _, n := range found {
		out = append(out, node(n, info.Swarm.NodeID))
	}
	slices.SortFunc(out, func(a, b mesh.Node) int {
		return cmp.Or(-cmp.Compare(number(a.Self), number(b.Self)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// node describes a node; self is the ID of this machine.
func node(n swarm.Node, self string) mesh.Node {
	out := mesh.Node{
		ID: n.ID, Name: mesh.NodeName(n.Description.Hostname), Self: n.ID == self, Manager: n.Spec.Role == swarm.NodeRoleManager,
		Ready: n.Status.State == swarm.NodeStateReady, Engine: n.Description.Engine.EngineVersion, Arch: n.Description.Platform.Architecture,
		CPUs: float64(n.Description.Resources.NanoCPUs) / 1e9, Memory: n.Description.Resources.MemoryBytes, Labels: map[string]string{},
	}
	for k, v := range n.Spec.Labels {
		if k == drainLabel {
			out.Drained = true
		} else {
			out.Labels[k] = v
		}
	}
	out.Drained = out.Drained || n.Spec.Availability == swarm.NodeAvailabilityDrain
	out.Addr, _ = netip.ParseAddr(n.Status.Addr) // the engine's own text
	if m := n.ManagerStatus; m != nil {
		out.Leader = m.Leader
		if at, err := netip.ParseAddrPort(m.Addr); err == nil && (!out.Addr.IsValid() || out.Addr.IsUnspecified()) {
			out.Addr = at.Addr()
		}
	}
	return out
}

// change changes what the swarm has of a node.
func (s *Swarm) change(ctx context.Context, id string, fn func(*swarm.NodeSpec)) error {
	err := s.untilCurrent(ctx, func() error {
		n, _, err := s.cli.API(ctx).NodeInspectWithRaw(ctx, id)
		if err != nil {
			return err
		}
		spec := n.Spec
		if spec.Labels = maps.Clone(spec.Labels); spec.Labels == nil {
			spec.Labels = map[string]string{}
		}
		fn(&spec)
		return s.cli.API(ctx).NodeUpdate(ctx, id, n.Version, spec)
	})
	return s.fault(ctx, "change node "+id, err)
}

// SetDrained records whether instances are placed on a node.
func (s *Swarm) SetDrained(ctx context.Context, id string, drained bool) error {
	return s.change(ctx, id, func(n *swarm.NodeSpec) {
		if drained {
			n.Labels[drainLabel] = "yes"
			return
		}
		delete(n.Labels, drainLabel)
		if n.Availability == swarm.NodeAvailabilityDrain {
			n.Availability = swarm.NodeAvailabilityActive
		}
	})
}

// SetLabels sets labels of a node, and removes those without a value.
func (s *Swarm) SetLabels(ctx context.Context, id string, labels map[string]string) error {
	return s.change(ctx, id, func(n *swarm.NodeSpec) {
		for k, v := range labels {
			if v == "" {
				delete(n.Labels, k)
			} else {
				n.Labels[k] = v
			}
		}
	})
}

// Remove makes the swarm forget a node. One that is ready is told to leave only by whoever
// uses its engine; here it is removed by force.
func (s *Swarm) Remove(ctx context.Context, id string) error {
	err := s.cli.API(ctx).NodeRemove(ctx, id, swarm.NodeRemoveOptions{Force: true})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil && strings.Contains(err.Error(), "is a cluster manager") {
		return mesh.Errorf(mesh.Conflict, "the node is a manager of the swarm: %w", err).WithHint("make it a worker first, on the server: docker node demote NODE")
	}
	return s.fault(ctx, "remove node "+id, err)
}

func (s *Swarm) fault(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "does not have a leader"), strings.Contains(err.Error(), "deadline exceeded") && ctx.Err() == nil && strings.Contains(err.Error(), "rpc error"):
		return mesh.Errorf(mesh.Unavailable, "%s: the swarm has no quorum: most of its managers are away", doing).
			WithHint("bring them back; if they are gone for good, on the server: docker swarm init --force-new-cluster")
	case strings.Contains(err.Error(), "not a swarm manager"):
		return mesh.Errorf(mesh.Conflict, "%s: this machine's engine is not a manager of a swarm", doing).WithHint("ssh mesh nodes:enable")
	}
	return engine.Fault(ctx, s.cli.Host(), doing, err)
}
