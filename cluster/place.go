package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"mesh"
)

// Start starts an instance on the node that suits best. If that one turns out not to answer, it
// tries the others.
func (c *Cluster) Start(ctx context.Context, spec mesh.InstanceSpec) (mesh.Instance, error) {
	if len(c.ready()) == 0 {
		return c.Local.Start(ctx, spec)
	}
	tried := map[*member]error{}
	for {
		m, err := c.choose(&spec, tried)
		if err != nil {
			return mesh.Instance{}, err
		}
		in, err := c.startOn(ctx, m, spec)
		c.mu.Lock()
		delete(m.pending, &spec)
		c.mu.Unlock()
		if err == nil {
			return in, nil
		}
		if m.self || !errors.Is(err, mesh.Unavailable) || ctx.Err() != nil {
			return in, onNode(m, err)
		}
		c.Logger.Warn("an instance does not start on a node; trying another", "node", string(m.name), "instance", spec.Name.String(), "err", err)
		tried[m] = err
	}
}

func (c *Cluster) startOn(ctx context.Context, m *member, spec mesh.InstanceSpec) (mesh.Instance, error) {
	if !m.self {
		c.mu.Lock()
		n := m.node
		c.mu.Unlock()
		image, err := c.Reach.Bring(ctx, n, spec.Stack, spec.Image)
		if err != nil {
			return mesh.Instance{}, err
		}
		spec.Image = image
	}
	in, err := m.Start(ctx, spec)
	if err != nil {
		return in, err
	}
	all := []mesh.Instance{in}
	c.remember(m, all, false)
	return all[0], nil
}

// onNode names the node in an error.
func onNode(m *member, err error) error {
	var e *mesh.Error
	if m.self || !errors.As(err, &e) {
		return err
	}
	named := *e
	named.Text += fmt.Sprintf(" (on %s)", m.name)
	return &named
}

// choose returns the node for an instance, and counts it there until it is deleted from
// pending. Nodes in tried are left out.
func (c *Cluster) choose(spec *mesh.InstanceSpec, tried map[*member]error) (*member, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	type candidate struct {
		m    *member
		same int     // instances of the service that will stay
		full float64 // of its memory, reserved
		all  int
	}
	slots := c.slotsLocked(spec)
	var fit []candidate
	var why []string
	for _, m := range c.members {
		reason := c.refuses(m, spec)
		if err := tried[m]; reason == "" && err != nil {
			reason = "does not answer"
		}
		if reason != "" {
			why = append(why, fmt.Sprintf("%s %s", m.name, reason))
			continue
		}
		cand := candidate{m: m, all: len(m.seen) + len(m.pending)}
		if memory, _ := m.reserved(); m.node.Memory > 0 {
			cand.full = float64(memory) / float64(m.node.Memory)
		}
		for _, at := range slots {
			if at == m {
				cand.same++
			}
		}
		fit = append(fit, cand)
	}
	if len(fit) == 0 {
		slices.Sort(why)
		return nil, mesh.Errorf(mesh.Failed, "%s cannot be placed: %s", spec.Name, strings.Join(why, "; ")).
			WithHint("see the nodes: ssh mesh nodes; add one: ssh mesh nodes:join")
	}
	best := slices.MinFunc(fit, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.same, b.same), cmp.Compare(a.full, b.full), cmp.Compare(a.all, b.all), cmp.Compare(a.m.name, b.m.name))
	})
	best.m.pending[spec] = true
	return best.m, nil
}

// slotsLocked returns who has the other instances of a service: of those that a rollout replaces,
// the new ones, as far as they have begun to start.
func (c *Cluster) slotsLocked(spec *mesh.InstanceSpec) map[int]*member {
	at, newest := map[int]*member{}, map[int]mesh.DeploymentNumber{}
	for _, m := range c.members {
		for _, in := range m.seen {
			slot := in.Name.Slot
			if in.Stack == spec.Stack && in.Name.Service == spec.Name.Service && slot != spec.Name.Slot && in.State != mesh.InstanceExited && !m.dead &&
				(at[slot] == nil || in.Deployment > newest[slot]) {
				at[slot], newest[slot] = m, in.Deployment
			}
		}
	}
	for _, m := range c.members {
		for p := range m.pending {
			if p.Stack == spec.Stack && p.Name.Service == spec.Name.Service && p.Name.Slot != spec.Name.Slot {
				at[p.Name.Slot] = m
			}
		}
	}
	return at
}

// refuses says why an instance cannot be on a node, as the end of a sentence that begins with
// the node; "": it can.
func (c *Cluster) refuses(m *member, spec *mesh.InstanceSpec) string {
	if len(spec.Mounts) > 0 && !m.self {
		return "does not have its volumes"
	}
	if c.Alone() {
		if m.self {
			return ""
		}
		return "is to leave"
	}
	switch {
	case m.node.Drained && len(spec.Mounts) == 0:
		return "is drained"
	case m.node.Fault != "":
		return "is not used: " + m.node.Fault
	case !m.up:
		return "is away"
	}
	for _, want := range spec.On {
		k, v, _ := strings.Cut(want, "=")
		if m.node.Label(k) != v {
			return "has no label " + want
		}
	}
	memory, cpus := m.reserved()
	if free := m.node.Memory - memory; spec.Memory > 0 && m.node.Memory > 0 && free < spec.Memory {
		return fmt.Sprintf("has %s of memory free of the %s that are needed", units.BytesSize(float64(max(free, 0))), units.BytesSize(float64(spec.Memory)))
	}
	if free := m.node.CPUs - cpus; spec.CPUs > 0 && m.node.CPUs > 0 && free < spec.CPUs {
		return fmt.Sprintf("has %.2g cores free of the %.2g that are needed", max(free, 0), spec.CPUs)
	}
	return ""
}

// reserved returns what the instances of a node may use at most, of those with limits.
func (m *member) reserved() (memory int64, cpus float64) {
	for _, in := range m.seen {
		if in.State != mesh.InstanceExited {
			memory, cpus = memory+in.Memory, cpus+in.CPUs
		}
	}
	for p := range m.pending {
		memory, cpus = memory+p.Memory, cpus+p.CPUs
	}
	return memory, cpus
}
