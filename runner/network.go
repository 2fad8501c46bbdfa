package runner

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"mesh"
	"mesh/engine"
)

func (r *Runner) networkName(stack mesh.StackName) string {
	return engine.Prefix(r.server) + string(stack)
}

// stackNetwork is what a container needs to be in the network of its stack.
type stackNetwork struct {
	name    string
	dns     []netip.Addr // none: the engine's own
	publish netip.Addr   // of the node, for instances; invalid: they publish nothing
}

// network creates the stack's network if it is missing, attaches mesh's own container to
// it, and makes names known in it. An existing network is not changed, whatever its
// subnet: instances use it.
func (r *Runner) network(ctx context.Context, stack mesh.StackName, subnet netip.Prefix) (stackNetwork, error) {
	if s := r.sharing(); s != nil {
		return r.sharedNetwork(ctx, stack, s)
	}
	unlock, err := r.stacks.lock(ctx, stack)
	if err != nil {
		return stackNetwork{}, err
	}
	defer unlock()
	name := r.networkName(stack)
	n, err := r.cli.API(ctx).NetworkInspect(ctx, name, network.InspectOptions{})
	if err == nil {
		return r.enter(ctx, stack, n)
	}
	if !errdefs.IsNotFound(err) {
		return stackNetwork{}, fmt.Errorf("find network %s: %w", name, err)
	}
	o := network.CreateOptions{Driver: "bridge", Labels: r.label(map[string]string{labelStack: string(stack)})}
	if subnet.IsValid() {
		// Our own subnet, not one from the engine's pools, which are used up after
		// 31 networks.
		o.IPAM = &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: subnet.String()}}}
	}
	// Not cancelled half-way: a network made after the client has gone would be
	// found the next time, but a failure then would go unnoticed.
	mctx, cancel := cleanup(ctx)
	defer cancel()
	made, err := r.cli.API(mctx).NetworkCreate(mctx, name, o)
	switch {
	case errdefs.IsConflict(err): // created meanwhile by another process
	case err != nil && strings.Contains(strings.ToLower(err.Error()), "pool overlaps"):
		return stackNetwork{}, &mesh.Error{
			Kind: mesh.Conflict, Text: fmt.Sprintf("the subnet %s of stack %q is used by another network on this machine", subnet, stack),
			Hint: "find it with: docker network ls; docker network inspect NAME", Err: err,
		}
	case err != nil:
		return stackNetwork{}, fmt.Errorf("create network %s: %w", name, err)
	}
	r.log.DebugContext(ctx, "network created", "stack", stack, "network", name, "id", made.ID)
	if n, err = r.cli.API(ctx).NetworkInspect(ctx, name, network.InspectOptions{}); err != nil {
		return stackNetwork{}, fmt.Errorf("find network %s: %w", name, err)
	}
	return r.enter(ctx, stack, n)
}

// enter attaches mesh's own container to a network, makes names known in it, and lets the
// stack's guests in.
func (r *Runner) enter(ctx context.Context, stack mesh.StackName, n network.Inspect) (stackNetwork, error) {
	at, from, err := r.join(ctx, n)
	out := stackNetwork{name: n.Name}
	if err == nil && r.names != nil && at.IsValid() {
		out.dns = r.names.Open(stack, at, from)
	}
	if err == nil {
		err = r.invite(ctx, stack, n)
	}
	return out, err
}

// Attach connects the container that mesh runs in to the networks of all stacks, so
// that mesh can reach their instances, unless mesh runs on the host, and makes names
// known in these networks. Call it at the start: mesh's own container may be a new
// one. Start and Revive do the same for their own stack.
func (r *Runner) Attach(ctx context.Context) error {
	found, err := r.cli.API(ctx).NetworkList(ctx, network.ListOptions{Filters: r.filter()})
	if err != nil {
		return r.fault(ctx, "list the networks", err)
	}
	for _, n := range found {
		if n, err = r.cli.API(ctx).NetworkInspect(ctx, n.ID, network.InspectOptions{}); errdefs.IsNotFound(err) {
			continue
		} else if stack := mesh.StackName(n.Labels[labelStack]); err == nil && n.Driver == overlayDriver {
			err = r.invite(ctx, stack, n)
		} else if err == nil && stack != "" {
			_, err = r.enter(ctx, stack, n)
		} else if err == nil {
			_, _, err = r.join(ctx, n) // the one of the add-ons
		}
		if err != nil && !errdefs.IsNotFound(err) { // it may just have been removed
			return r.fault(ctx, "attach to "+n.Name, err)
		}
	}
	return nil
}

// join connects mesh's own container to a network, once, and returns the address that
// mesh has in it, and the network's subnet: on the host that is the gateway's. In a
// container it is the last of the subnet, so that it stays the same when another
// container of mesh takes over.
func (r *Runner) join(ctx context.Context, n network.Inspect) (at netip.Addr, from netip.Prefix, err error) {
	if len(n.IPAM.Config) > 0 {
		from, _ = netip.ParsePrefix(n.IPAM.Config[0].Subnet) // the engine's own text; a zero prefix has no names
		if at, err = netip.ParseAddr(n.IPAM.Config[0].Gateway); err != nil && from.IsValid() {
			at = from.Masked().Addr().Next() // what the engine chooses when nobody does
		}
	}
	self, err := r.ownContainer(ctx)
	if err != nil || self == "" {
		return at, from, err
	}
	if e, in := n.Containers[self]; in {
		own, _ := netip.ParsePrefix(e.IPv4Address)
		return own.Addr(), from, nil
	}
	at = last(from)
	err = r.cli.API(ctx).NetworkConnect(ctx, n.ID, self, &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: at.String()}})
	if err != nil && !strings.Contains(err.Error(), "already exists in network") {
		// The address may be taken, or the network be from before mesh chose subnets.
		at = netip.Addr{}
		err = r.cli.API(ctx).NetworkConnect(ctx, n.ID, self, nil)
	}
	if err != nil && !strings.Contains(err.Error(), "already exists in network") {
		return at, from, fmt.Errorf("attach mesh's own container to %s: %w", n.Name, err)
	}
	return at, from, nil
}

// last returns the last address of a subnet that a container can have.
func last(p netip.Prefix) netip.Addr {
	if !p.IsValid() || !p.Addr().Is4() {
		return netip.Addr{}
	}
	b := p.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|(1<<(32-p.Bits())-1)-1)
	return netip.AddrFrom4(b)
}

// Contained reports whether mesh runs in a container of this engine.
func (r *Runner) Contained(ctx context.Context) (bool, error) {
	id, err := r.ownContainer(ctx)
	return id != "", r.fault(ctx, "find mesh's own container", err)
}

// ownContainer returns the ID of the container that mesh runs in, or "" on a host.
// It asks the engine, because a container of another engine (or Podman) looks the
// same from inside. If the engine is down, it asks again later.
func (r *Runner) ownContainer(ctx context.Context) (string, error) {
	r.selfMu.Lock()
	defer r.selfMu.Unlock()
	if r.selfDone {
		return r.self, nil
	}
	if _, err := os.Stat("/.dockerenv"); err != nil {
		r.selfDone = true
		return "", nil
	}
	for _, id := range ownIDs() {
		c, err := r.cli.API(ctx).ContainerInspect(ctx, id)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("find mesh's own container: %w", err)
		}
		if c.State.Running {
			r.self = c.ID
			break
		}
	}
	r.selfDone = true
	return r.self, nil
}

var mountedID = regexp.MustCompile(`/containers/([0-9a-f]{64})/`)

// mountedFrom returns the container that a mountinfo (proc_pid_mountinfo(5)) belongs to:
// the engine mounts its own resolv.conf and hosts there, from a folder named after the
// container. Where the engine itself runs, there are also mounts of every other container,
// at other places.
func mountedFrom(mountinfo []byte) (id string) {
	for line := range strings.Lines(string(mountinfo)) {
		f := strings.Fields(line) // the fourth is the root of the mount, the fifth its place
		if len(f) < 5 || f[4] != "/etc/resolv.conf" && f[4] != "/etc/hostname" && f[4] != "/etc/hosts" {
			continue
		}
		if m := mountedID.FindStringSubmatch(f[3]); m != nil {
			return m[1]
		}
	}
	return ""
}

// ownIDs guesses: from what the engine has mounted here, and from the host name, which is
// the short ID unless it was set.
func ownIDs() (ids []string) {
	if b, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		if id := mountedFrom(b); id != "" {
			ids = append(ids, id)
		}
	}
	if h, err := os.Hostname(); err == nil {
		ids = append(ids, h)
	}
	return ids
}

// Sweep removes this server's one-off containers. Call it at the start, when none
// can be in use.
func (r *Runner) Sweep(ctx context.Context) error {
	found, err := r.containers(ctx, labelKind+"="+kindOneOff)
	if err != nil {
		return err
	}
	return r.fault(ctx, "remove one-off containers", r.removeAll(ctx, found))
}

// Stacks returns the stacks that this server has containers or networks of.
func (r *Runner) Stacks(ctx context.Context) ([]mesh.StackName, error) {
	found, err := r.containers(ctx)
	if err != nil {
		return nil, err
	}
	nets, err := r.cli.API(ctx).NetworkList(ctx, network.ListOptions{Filters: r.filter()})
	if err != nil {
		return nil, r.fault(ctx, "list the networks", err)
	}
	seen := map[mesh.StackName]bool{}
	for _, c := range found {
		seen[mesh.StackName(c.Labels[labelStack])] = true
	}
	for _, n := range nets {
		if !r.foreign(n) {
			seen[mesh.StackName(n.Labels[labelStack])] = true
		}
	}
	delete(seen, "")
	return slices.Sorted(maps.Keys(seen)), nil
}

// RemoveStack kills and removes the containers of a stack, including one-off ones,
// and its network. It is not an error if they are already gone.
func (r *Runner) RemoveStack(ctx context.Context, stack mesh.StackName) error {
	unlock, err := r.stacks.lock(ctx, stack)
	if err != nil {
		return r.fault(ctx, "remove stack "+string(stack), err)
	}
	defer unlock()
	found, err := r.containers(ctx, labelStack+"="+string(stack))
	if err != nil {
		return err
	}
	if err := r.removeAll(ctx, found); err != nil {
		return r.fault(ctx, "remove the containers of "+string(stack), err)
	}
	nets, err := r.cli.API(ctx).NetworkList(ctx, network.ListOptions{Filters: r.filter(labelStack + "=" + string(stack))})
	if err != nil {
		return r.fault(ctx, "list the networks of "+string(stack), err)
	}
	if r.names != nil {
		r.names.Close(stack)
	}
	for _, n := range nets {
		if r.foreign(n) {
			continue
		}
		if err := r.removeNetwork(ctx, n.ID); err != nil {
			return r.fault(ctx, "remove network "+n.Name, err)
		}
	}
	return nil
}

// removeNetwork disconnects whatever is still in the network: mesh itself, or a
// container that somebody else connected. The engine needs a moment to release
// endpoints, hence the retries.
//
// Docker 20.10 may lose count of the endpoints when one container starts in a network
// while another one ends (seen after 40 rounds with three of each). It then keeps the
// network until it restarts, though nothing is connected to it. That is not an error:
// the network goes with the first Reconcile after that.
func (r *Runner) removeNetwork(ctx context.Context, id string) error {
	for try := 1; ; try++ {
		n, err := r.cli.API(ctx).NetworkInspect(ctx, id, network.InspectOptions{})
		if errdefs.IsNotFound(err) {
			return nil
		} else if err != nil {
			return err
		}
		for c := range n.Containers {
			if err := r.cli.API(ctx).NetworkDisconnect(ctx, id, c, true); err != nil {
				r.log.DebugContext(ctx, "disconnect", "network", n.Name, "container", c, "err", err)
			}
		}
		err = r.cli.API(ctx).NetworkRemove(ctx, id)
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		switch {
		case !inUse(err):
			return err
		case try == 20 && len(n.Containers) == 0:
			r.log.WarnContext(ctx, "the engine keeps an empty network until it restarts: it has lost count of what was connected", "network", n.Name)
			return nil
		case try == 20:
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func (r *Runner) removeAll(ctx context.Context, found []container.Summary) error {
	errs := make(chan error)
	for _, c := range found {
		go func() { errs <- r.remove(ctx, c.ID) }()
	}
	var all []error
	for range found {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
