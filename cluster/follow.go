package cluster

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"mesh"
)

const (
	lookEvery  = time.Second      // at the nodes
	answerTime = time.Second      // for a ping
	mostMissed = 3                // pings, before a node is not used although its instances answer
	patience   = 10 * time.Second // for nodes that have not been seen since mesh has started
)

// Run follows the nodes until ctx ends: it uses those whose agents are connected, and takes
// those for dead that answer nowhere any more.
func (c *Cluster) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	defer c.release()
	for {
		c.refresh(ctx)
		select {
		case <-tick.C:
			c.ping(ctx)
		case <-c.changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Settle waits until each node is used that was used before, or has had its time: call it
// before anything is decided about what runs.
func (c *Cluster) Settle(ctx context.Context) {
	if !c.On() {
		return
	}
	limit := time.After(patience)
	for c.refresh(ctx); c.awaited(); c.refresh(ctx) {
		select {
		case <-c.changed:
		case <-time.After(100 * time.Millisecond):
		case <-limit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// awaited reports whether a node that is ready has no agent yet.
func (c *Cluster) awaited() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m.node.Ready && !m.up && m.node.Fault == "" {
			return true
		}
	}
	return len(c.members) == 0
}

// release ends what follows the members.
func (c *Cluster) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m.end != nil {
			m.end()
			m.end = nil
		}
	}
}

// refresh makes the members those that there are now.
func (c *Cluster) refresh(ctx context.Context) {
	c.looking.Lock()
	defer c.looking.Unlock()
	if c.Nodes == nil {
		return
	}
	if !c.On() {
		c.disband()
		return
	}
	all, err := c.Nodes.List(ctx)
	if err != nil {
		if ctx.Err() == nil {
			if !c.blind {
				c.Logger.Warn("the nodes are not known; those of before are used", "err", err)
			}
			c.blind = true
			c.judge(ctx)
		}
		return
	}
	c.blind = false
	agents := c.Reach.Agents()
	c.mu.Lock()
	if c.began.IsZero() {
		c.began = c.Now()
	}
	there := map[string]bool{}
	var come []*member
	for _, n := range all {
		there[n.ID] = true
		if n.Name == "" {
			continue // it has just joined, and has not described itself yet
		}
		m := c.members[n.ID]
		if m == nil {
			m = &member{name: n.Name, self: n.Self, seen: map[string]mesh.Instance{}, pending: map[*mesh.InstanceSpec]bool{}}
			if m.Machine = c.Local; !n.Self {
				m.Machine = c.Reach.Machine(n)
			}
			c.members[n.ID] = m
		}
		n.Agent = agents[n.ID]
		n.Fault = c.unfit(n)
		m.node = n
		usable := n.Self || !n.Agent.IsZero() && n.Fault == ""
		switch {
		case usable && !m.up && !m.asked:
			m.asked = true
			come = append(come, m)
		case !usable && m.up:
			c.leaveLocked(m)
		}
	}
	for id, m := range c.members {
		if !there[id] { // it was removed from the swarm
			if m.up {
				c.leaveLocked(m)
			}
			m.node.Ready = false
		}
	}
	c.mu.Unlock()
	for _, m := range come {
		if m.self {
			c.enter(ctx, m)
		} else {
			go c.enter(context.WithoutCancel(ctx), m) // a node that does not answer holds nobody up
		}
	}
	c.judge(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, m := range c.members {
		if !there[id] && m.dead {
			for cid := range m.seen {
				delete(c.where, cid)
			}
			delete(c.members, id)
		}
	}
}

// Refresh looks at the nodes now.
func (c *Cluster) Refresh(ctx context.Context) error {
	c.refresh(ctx)
	return ctx.Err()
}

// unfit says why nothing can run on a node; "": it can.
func (c *Cluster) unfit(n mesh.Node) string {
	if c.Arch != "" && n.Arch != "" && n.Arch != c.Arch {
		return "its processor is " + n.Arch + ", and images are built for " + c.Arch
	}
	return ""
}

// disband forgets all members: there is one machine.
func (c *Cluster) disband() {
	c.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.members)
	clear(c.where)
	c.began = time.Time{}
}

// enter begins to use a node. If that fails, a later refresh tries again.
func (c *Cluster) enter(ctx context.Context, m *member) {
	c.mu.Lock()
	n := m.node
	c.mu.Unlock()
	var err error
	if !n.Self {
		err = c.Reach.Prepare(ctx, n)
	}
	if err != nil && ctx.Err() == nil {
		c.Logger.Warn("a node cannot be used yet", "node", string(n.Name), "err", err)
	}
	c.mu.Lock()
	m.asked = false
	if err != nil || c.members[n.ID] != m {
		c.mu.Unlock()
		return
	}
	mctx, end := context.WithCancel(context.WithoutCancel(ctx))
	m.up, m.dead, m.away, m.missed, m.end = true, false, time.Time{}, 0, end
	c.mu.Unlock()
	c.Changed()
	if n.Self {
		return // Watch and Outputs have its own
	}
	c.Logger.Info("node used", "node", string(n.Name), "address", n.Addr.String())
	c.follow(mctx, m, n.Name)
	c.tellLost() // it may have come back with instances that are not needed, or are
}

// leaveLocked stops using a node.
func (c *Cluster) leaveLocked(m *member) {
	m.up, m.away = false, c.Now()
	if m.end != nil {
		m.end()
		m.end = nil
	}
	c.Logger.Warn("node not used: its agent is away", "node", string(m.name))
}

// follow passes on the events and the output of a member until ctx ends.
func (c *Cluster) follow(ctx context.Context, m *member, name mesh.NodeName) {
	go func() {
		_ = m.Watch(ctx, func(e mesh.InstanceEvent) {
			if e.Instance.ID != "" {
				all := []mesh.Instance{e.Instance}
				if !e.Died {
					c.remember(m, all, false)
				}
				e.Instance = all[0]
				e.Instance.Node = name
			}
			c.tell(e)
		}, c.tellLost)
	}()
	c.mu.Lock()
	o := c.outputs
	c.mu.Unlock()
	if o != nil {
		o.follow(ctx, m)
	}
}

// Watch calls fn for the events of all nodes: see deploy.Runner.
func (c *Cluster) Watch(ctx context.Context, fn func(mesh.InstanceEvent), lost func()) error {
	c.watch.Lock()
	c.fn, c.lost = fn, lost
	c.watch.Unlock()
	defer func() {
		c.watch.Lock()
		defer c.watch.Unlock()
		c.fn, c.lost = nil, nil
	}()
	return c.Local.Watch(ctx, c.tell, c.tellLost)
}

// tell passes on an event.
func (c *Cluster) tell(e mesh.InstanceEvent) {
	c.watch.Lock()
	defer c.watch.Unlock()
	if c.fn != nil {
		c.fn(e)
	}
}

// tellLost says that events may have been missed.
func (c *Cluster) tellLost() {
	c.watch.Lock()
	defer c.watch.Unlock()
	if c.lost != nil {
		c.lost()
	}
}

// ping asks the nodes whether they are there. A connection that was cut says nothing for long. One
// that does not answer, and whose instances do not either, is not used any more, and dead.
func (c *Cluster) ping(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m.up && !m.self && !m.asked {
			m.asked = true
			go c.pingOne(ctx, m)
		}
	}
}

func (c *Cluster) pingOne(ctx context.Context, m *member) {
	pctx, cancel := context.WithTimeout(ctx, answerTime)
	err := m.Ping(pctx)
	cancel()
	alone := err != nil && ctx.Err() == nil && !c.answers(ctx, m)
	if err == nil {
		c.mu.Lock()
		n := m.node
		c.mu.Unlock()
		c.Reach.Tend(ctx, n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m.asked = false
	if err == nil {
		m.missed = 0
		return
	}
	if m.missed++; m.up && ctx.Err() == nil && (alone || m.missed >= mostMissed) {
		c.leaveLocked(m)
		c.Changed()
	}
}

// judge decides about the members that are away: a node that neither the swarm nor a client
// reaches is dead, and its instances have ended. One whose agent alone is missing keeps them.
func (c *Cluster) judge(ctx context.Context) {
	c.mu.Lock()
	var doubtful []*member
	for _, m := range c.members {
		if !m.up && !m.dead && !m.away.IsZero() {
			doubtful = append(doubtful, m)
		}
	}
	c.mu.Unlock()
	for _, m := range doubtful {
		if !c.answers(ctx, m) && ctx.Err() == nil {
			c.bury(m)
		}
	}
}

// answers reports whether a node that is away still serves.
func (c *Cluster) answers(ctx context.Context, m *member) bool {
	c.mu.Lock()
	ready := m.node.Ready
	var at []netip.AddrPort
	for _, in := range m.seen {
		if in.State == mesh.InstanceRunning && in.Addr.IsValid() {
			at = append(at, in.Addr)
		}
	}
	c.mu.Unlock()
	if len(at) == 0 {
		return ready // there is nothing to lose: the swarm decides
	}
	var wg sync.WaitGroup
	answered := make(chan struct{}, len(at))
	for _, a := range at {
		wg.Go(func() {
			if c.Probe(ctx, a) == nil {
				answered <- struct{}{}
			}
		})
	}
	wg.Wait()
	return len(answered) > 0
}

// bury takes a node for dead: what ran on it has ended.
func (c *Cluster) bury(m *member) {
	c.mu.Lock()
	if m.up {
		c.mu.Unlock()
		return
	}
	m.dead = true
	name := m.name
	var ended []mesh.InstanceEvent
	for _, in := range m.seen {
		if in.State == mesh.InstanceRunning || in.State == mesh.InstancePaused {
			in.State, in.Addr = mesh.InstanceExited, netip.AddrPort{}
			ended = append(ended, mesh.InstanceEvent{Instance: in, Died: true, ByHand: true, Lost: true, At: c.Now()})
		}
	}
	c.mu.Unlock()
	c.Logger.Warn("node dead: its instances are replaced", "node", string(name), "instances", len(ended))
	for _, e := range ended {
		c.tell(e)
	}
}

// Members returns the nodes as they are used, this machine first, with the number of their
// instances.
func (c *Cluster) Members() (nodes []mesh.Node, instances map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	instances = map[string]int{}
	for id, m := range c.members {
		n := m.node
		if n.Fault == "" && !m.up {
			switch {
			case !n.Ready:
				n.Fault = "it does not answer"
			default:
				n.Fault = "its agent is not connected"
			}
		}
		nodes = append(nodes, n)
		if m.dead {
			continue
		}
		for _, in := range m.seen {
			if in.State == mesh.InstanceRunning {
				instances[id]++
			}
		}
	}
	return nodes, instances
}
