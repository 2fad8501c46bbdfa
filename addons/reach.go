package addons

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"

	"mesh"
	"mesh/engine"
)

// network returns the name of the network that all add-ons are in, and creates it if it is
// missing. Only mesh itself reaches them there: they do not reach each other, nor anything
// else.
func (s *Server) network(ctx context.Context) (string, error) {
	name := s.prefix() + "addons"
	_, err := s.cli.API(ctx).NetworkInspect(ctx, name, network.InspectOptions{})
	if err == nil || !errdefs.IsNotFound(err) {
		return name, err
	}
	labels := s.labels(mesh.Addon{})
	delete(labels, labelAddon)
	_, err = s.cli.API(ctx).NetworkCreate(ctx, name, network.CreateOptions{
		Driver: "bridge", Internal: true, Labels: labels, Options: map[string]string{"com.docker.network.bridge.enable_icc": "false"},
	})
	if errdefs.IsConflict(err) {
		err = nil // created meanwhile
	}
	if err == nil && s.OnNetwork != nil {
		err = s.OnNetwork(ctx)
	}
	return name, err
}

// stackNetworks returns the networks of all stacks.
func (s *Server) stackNetworks(ctx context.Context) ([]network.Summary, error) {
	return s.cli.API(ctx).NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(
		filters.Arg("label", engine.LabelServer+"="+s.Server), filters.Arg("label", engine.LabelStack))})
}

// join makes a container reachable from the stacks that are attached to its add-on, and
// from no others.
func (s *Server) join(ctx context.Context, c container.InspectResponse, a mesh.Addon) error {
	nets, err := s.stackNetworks(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, n := range nets {
		at := c.NetworkSettings.Networks[n.Name]
		wanted := slices.ContainsFunc(s.Attached(mesh.StackName(n.Labels[engine.LabelStack])), func(o mesh.Addon) bool { return o.Name == a.Name && o.Volume == a.Volume })
		switch {
		case wanted && (at == nil || at.NetworkID != "" && at.NetworkID != n.ID):
			faults = append(faults, s.connect(ctx, n.ID, c.ID, a.Name))
		case !wanted && at != nil:
			faults = append(faults, s.disconnect(ctx, n.ID, c.ID))
		}
	}
	return errors.Join(faults...)
}

func (s *Server) connect(ctx context.Context, net, id string, name mesh.AddonName) error {
	o := &network.EndpointSettings{Aliases: []string{name.Host()}}
	err := s.cli.API(ctx).NetworkConnect(ctx, net, id, o)
	if err != nil && strings.Contains(err.Error(), "already exists in network") {
		// What is left of an earlier connection, or one of a moment ago.
		if err := s.disconnect(ctx, net, id); err != nil {
			return err
		}
		err = s.cli.API(ctx).NetworkConnect(ctx, net, id, o)
	}
	if errdefs.IsNotFound(err) {
		return nil // the network has just been removed
	}
	return err
}

func (s *Server) disconnect(ctx context.Context, net, id string) error {
	err := s.cli.API(ctx).NetworkDisconnect(ctx, net, id, true)
	if errdefs.IsNotFound(err) || err != nil && strings.Contains(err.Error(), "is not connected") {
		return nil
	}
	return err
}

// Enter connects the add-ons that a stack is attached to with its network, before
// instances start in it. present reports whether a container is in it already.
func (s *Server) Enter(ctx context.Context, stack mesh.StackName, net string, present func(id string) bool) error {
	wanted := s.Attached(stack)
	if len(wanted) == 0 {
		return nil
	}
	found, err := s.containers(ctx, "")
	if err != nil {
		return s.fault(ctx, "find the add-ons of "+string(stack), err)
	}
	for _, c := range found {
		name := mesh.AddonName(c.Labels[labelAddon])
		serves := slices.ContainsFunc(wanted, func(a mesh.Addon) bool { return a.Name == name && a.Volume == c.Labels[labelVolume] })
		if !serves || present(c.ID) || inNetwork(c, net) {
			continue
		}
		if err := s.connect(ctx, net, c.ID, name); err != nil {
			return s.fault(ctx, fmt.Sprintf("let %s reach %s", stack, name), err)
		}
	}
	return nil
}

func inNetwork(c container.Summary, net string) bool {
	if c.NetworkSettings == nil {
		return false
	}
	for _, e := range c.NetworkSettings.Networks {
		if e.NetworkID == net {
			return true
		}
	}
	return false
}

// look inspects the container that serves the data of an add-on.
func (s *Server) look(ctx context.Context, a mesh.Addon) (in container.InspectResponse, there bool, err error) {
	c, there, err := s.find(ctx, a)
	if err == nil && there {
		in, err = s.cli.API(ctx).ContainerInspect(ctx, c.ID)
	}
	return in, there, err
}

// Reach makes an add-on reachable from the stacks that are attached to it, and from no
// others. It is not an error if it has no container.
func (s *Server) Reach(ctx context.Context, a mesh.Addon) error {
	in, there, err := s.look(ctx, a)
	if err == nil && there {
		err = s.join(ctx, in, a)
	}
	return s.fault(ctx, "connect add-on "+string(a.Name), err)
}

// Hide makes an add-on unreachable from all stacks.
func (s *Server) Hide(ctx context.Context, a mesh.Addon) error {
	in, there, err := s.look(ctx, a)
	if err != nil || !there {
		return s.fault(ctx, "disconnect add-on "+string(a.Name), err)
	}
	var faults []error
	for name, at := range in.NetworkSettings.Networks {
		if name != s.prefix()+"addons" {
			faults = append(faults, s.disconnect(ctx, at.NetworkID, in.ID))
		}
	}
	return s.fault(ctx, "disconnect add-on "+string(a.Name), errors.Join(faults...))
}

// Address returns where mesh itself reaches the server of an add-on.
func (s *Server) Address(ctx context.Context, a mesh.Addon) (netip.AddrPort, error) {
	k, err := s.of(a)
	if err != nil {
		return netip.AddrPort{}, err
	}
	c, there, err := s.find(ctx, a)
	if err != nil {
		return netip.AddrPort{}, s.fault(ctx, "find add-on "+string(a.Name), err)
	}
	at, ok := s.address(c, k)
	if !there || !ok {
		return netip.AddrPort{}, mesh.Errorf(mesh.Unavailable, "%s does not run", a.Name).WithHint("see what is wrong with: ssh mesh addons:info %s", a.Name)
	}
	return at, nil
}

func (s *Server) address(c container.Summary, k *kind) (netip.AddrPort, bool) {
	if c.NetworkSettings == nil || c.NetworkSettings.Networks[s.prefix()+"addons"] == nil {
		return netip.AddrPort{}, false
	}
	at, err := netip.ParseAddrPort(c.NetworkSettings.Networks[s.prefix()+"addons"].IPAddress + ":" + strconv.Itoa(k.Port))
	return at, err == nil
}
