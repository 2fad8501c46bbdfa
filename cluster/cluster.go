// Package cluster runs instances on several nodes as package runner does on one: it decides
// which node gets an instance, and passes everything else on to the node that has it.
//
// While there is one machine, it only passes on. It keeps in memory which node has what, and
// learns it anew from the nodes' engines; nothing is recorded.
//
//	c := cluster.New(cluster.Options{Local: run, Nodes: swarm, Reach: machines})
//	in, err := c.Start(ctx, spec) // somewhere
//	err = c.Run(ctx)              // follows the nodes until ctx ends
package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mesh"
)

// Machine runs instances on one node. Its methods are those of the interfaces that package
// deploy, logs and metrics have for the one machine.
type Machine interface {
	Start(ctx context.Context, spec mesh.InstanceSpec) (mesh.Instance, error)
	Check(ctx context.Context, in mesh.Instance, c mesh.Check, progress func(string)) (string, error)
	Stop(ctx context.Context, id string, grace time.Duration) error
	Halt(ctx context.Context, id string, grace time.Duration) error
	Revive(ctx context.Context, id string) (mesh.Instance, error)
	Look(ctx context.Context) ([]mesh.Instance, error)
	List(ctx context.Context) ([]mesh.Instance, error)
	Ping(ctx context.Context) error
	Watch(ctx context.Context, fn func(mesh.InstanceEvent), lost func()) error

	RunOneOff(ctx context.Context, o mesh.OneOff) (int, error)
	Detach(ctx context.Context, o mesh.OneOff, run mesh.DetachedRun) (mesh.DetachedRun, error)
	Detached(ctx context.Context, stack mesh.StackName) ([]mesh.DetachedRun, error)
	AwaitRun(ctx context.Context, id string) error
	Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error
	OneOffs(ctx context.Context, stack mesh.StackName) (int, error)
	Exec(ctx context.Context, e mesh.Exec) (int, error)

	StatFile(ctx context.Context, id, file string) (mesh.File, error)
	ListFiles(ctx context.Context, id, folder string) ([]mesh.File, error)
	CopyOut(ctx context.Context, id, file string, w io.Writer) error
	CopyIn(ctx context.Context, id, folder string, content io.Reader) error

	Stacks(ctx context.Context) ([]mesh.StackName, error)
	RemoveStack(ctx context.Context, stack mesh.StackName) error
	Sweep(ctx context.Context) error
	Attach(ctx context.Context) error

	Outputs(ctx context.Context, found func(mesh.OutputSource), listed func(ids map[string]bool)) error
	Output(ctx context.Context, id string, n int, follow bool, fn func(at time.Time, stream byte, text []byte) error) error
	Secrets(ctx context.Context, src mesh.OutputSource) ([]string, error)
	Usage(ctx context.Context, ids []string) (map[string]mesh.Usage, error)
	Disk(ctx context.Context) (map[string]int64, error)
}

// Nodes lists the nodes.
type Nodes interface {
	List(ctx context.Context) ([]mesh.Node, error)
}

// Reach connects to other nodes.
type Reach interface {
	// Machine returns what runs instances on a node. It may be kept as long as the node
	// exists.
	Machine(n mesh.Node) Machine
	// Agents returns since when the engines of which nodes can be used, by the nodes' IDs.
	Agents() map[string]time.Time
	// Bring makes an image exist on a node, and returns what the node's engine calls it.
	Bring(ctx context.Context, n mesh.Node, stack mesh.StackName, imageID string) (string, error)
	// Prepare is called when a node can be used, before anything runs there.
	Prepare(ctx context.Context, n mesh.Node) error
	// Tend is called every second while a node is used. It must be cheap if there is nothing
	// to do: its agent may be another one by now.
	Tend(ctx context.Context, n mesh.Node)
}

// Options are what New needs. Without Nodes there is only this machine.
type Options struct {
	Local Machine
	Nodes Nodes
	Reach Reach
	On    func() bool // whether the server has nodes; nil: it never has
	// Alone reports whether new instances start on this machine, although there are nodes; nil:
	// they do not.
	Alone  func() bool
	Arch   string // of images, as the engine says: "x86_64"
	Logger *slog.Logger
	Now    func() time.Time
	// Probe returns an error if nothing accepts connections at an address; nil: it dials.
	Probe func(ctx context.Context, at netip.AddrPort) error
}

// Cluster is a Machine of several nodes. It may be used from several goroutines.
type Cluster struct {
	Options

	looking sync.Mutex // one look at the nodes at a time; guards blind
	blind   bool       // the last look has failed
	mu      sync.Mutex
	members map[string]*member // by the nodes' IDs; none while it is off
	where   map[string]*member // by the IDs of containers
	began   time.Time          // when it was first on in this process

	watch   sync.Mutex // one event at a time
	fn      func(mesh.InstanceEvent)
	lost    func()
	outputs *outputs
	changed chan struct{}
}

// member is a node.
type member struct {
	Machine
	name mesh.NodeName
	self bool

	// The rest is guarded by Cluster.mu.
	node    mesh.Node
	up      bool                     // its engine is used
	away    time.Time                // since when it is not; zero: it is up, or was never
	dead    bool                     // what ran on it is taken for gone
	seen    map[string]mesh.Instance // what ran on it, by ID
	pending map[*mesh.InstanceSpec]bool
	end     context.CancelFunc // of what follows it; nil: nothing does
	asked   bool               // a question to it is on its way: its first, or a ping
	missed  int                // pings without an answer, in a row
}

// New returns a Cluster. It does nothing until Run.
func New(o Options) *Cluster {
	if o.On == nil {
		o.On = func() bool { return false }
	}
	if o.Alone == nil {
		o.Alone = func() bool { return false }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Probe == nil {
		o.Probe = dial
	}
	return &Cluster{Options: o, members: map[string]*member{}, where: map[string]*member{}, changed: make(chan struct{}, 1)}
}

func dial(ctx context.Context, at netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	return c.Close()
}

// Changed says that something may have changed about the nodes. It does not block.
func (c *Cluster) Changed() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// of returns who has a container, and whether that is known: if not, it is this machine.
func (c *Cluster) of(id string) Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.where[id]; m != nil {
		return m
	}
	return c.Local
}

// ready returns the members that are used, this machine first.
func (c *Cluster) ready() []*member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readyLocked()
}

// absent returns the nodes that cannot be used now.
func (c *Cluster) absent() (names []mesh.NodeName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if !m.up && !m.self {
			names = append(names, m.name)
		}
	}
	return names
}

func (c *Cluster) readyLocked() (out []*member) {
	for _, m := range c.members {
		if m.up {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *member) int {
		switch {
		case a.self:
			return -1
		case b.self:
			return 1
		}
		return strings.Compare(string(a.name), string(b.name))
	})
	return out
}

// remember notes what runs on a member, and names it in the instances.
func (c *Cluster) remember(m *member, all []mesh.Instance, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if whole {
		for id := range m.seen {
			delete(c.where, id)
		}
		m.seen = make(map[string]mesh.Instance, len(all))
	}
	name := m.name
	if c.Alone() && m.self {
		name = "" // it is about to be the only machine
	}
	for i := range all {
		all[i].Node = name
		m.seen[all[i].ID] = all[i]
		c.where[all[i].ID] = m
	}
}

// forget drops a container.
func (c *Cluster) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.where[id]; m != nil {
		delete(m.seen, id)
		delete(c.where, id)
	}
}

// Look returns the instances of all nodes. Those of a node that is away for a moment are as
// they were last seen; those of one that is taken for dead are not there.
func (c *Cluster) Look(ctx context.Context) ([]mesh.Instance, error) {
	return c.gather(ctx, func(m Machine) ([]mesh.Instance, error) { return m.Look(ctx) })
}

// List is Look with everything that there is to know of the instances.
func (c *Cluster) List(ctx context.Context) ([]mesh.Instance, error) {
	return c.gather(ctx, func(m Machine) ([]mesh.Instance, error) { return m.List(ctx) })
}

func (c *Cluster) gather(ctx context.Context, list func(Machine) ([]mesh.Instance, error)) ([]mesh.Instance, error) {
	members := c.ready()
	if len(members) == 0 {
		return list(c.Local)
	}
	found := make([][]mesh.Instance, len(members))
	var g errgroup.Group
	for i, m := range members {
		g.Go(func() error {
			all, err := list(m.Machine)
			switch {
			case err == nil:
				c.remember(m, all, true)
				found[i] = all
			case m.self || ctx.Err() != nil:
				return err
			default: // it is about to be noticed
				c.Logger.Warn("a node does not answer", "node", string(m.name), "err", err)
				found[i] = c.lastSeen(m)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := slices.Concat(found...)
	c.mu.Lock()
	var absent []*member
	for _, m := range c.members {
		if !m.up && !m.dead {
			absent = append(absent, m)
		}
	}
	c.mu.Unlock()
	for _, m := range absent {
		out = append(out, c.lastSeen(m)...)
	}
	return out, nil
}

func (c *Cluster) lastSeen(m *member) []mesh.Instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(m.seen))
}

// Ping reports on this machine's engine: without it nothing is managed.
func (c *Cluster) Ping(ctx context.Context) error { return c.Local.Ping(ctx) }

// Check checks an instance from this machine, and asks the node that it runs on why it fails.
func (c *Cluster) Check(ctx context.Context, in mesh.Instance, how mesh.Check, progress func(string)) (string, error) {
	return c.of(in.ID).Check(ctx, in, how, progress)
}

// Stop stops an instance. Of a node that is dead, there is nothing to stop: what comes back
// with it is stopped then.
func (c *Cluster) Stop(ctx context.Context, id string, grace time.Duration) error {
	if c.isDead(id) {
		return nil
	}
	err := c.of(id).Stop(ctx, id, grace)
	if err == nil {
		c.forget(id)
	} else if c.isDead(id) {
		return nil
	}
	return err
}

// Halt is Stop that keeps the container.
func (c *Cluster) Halt(ctx context.Context, id string, grace time.Duration) error {
	if c.isDead(id) {
		return nil
	}
	return c.of(id).Halt(ctx, id, grace)
}

func (c *Cluster) isDead(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.where[id]
	return m != nil && m.dead
}

// Revive makes an instance run again. The error is NotFound if its node is dead, or is to have
// none any more: another one must replace it.
func (c *Cluster) Revive(ctx context.Context, id string) (mesh.Instance, error) {
	c.mu.Lock()
	m := c.where[id]
	lost := m != nil && (m.dead || m.node.Drained)
	c.mu.Unlock()
	if lost {
		return mesh.Instance{}, mesh.Errorf(mesh.NotFound, "the node %s is not used", m.name)
	}
	in, err := c.of(id).Revive(ctx, id)
	if err == nil && m != nil {
		all := []mesh.Instance{in}
		c.remember(m, all, false)
		in = all[0]
	}
	return in, err
}

// Exec runs a command in the container of an instance, wherever that is.
func (c *Cluster) Exec(ctx context.Context, e mesh.Exec) (int, error) { return c.of(e.ID).Exec(ctx, e) }

// StatFile describes a file of an instance.
func (c *Cluster) StatFile(ctx context.Context, id, file string) (mesh.File, error) {
	return c.of(id).StatFile(ctx, id, file)
}

// ListFiles lists a folder of an instance.
func (c *Cluster) ListFiles(ctx context.Context, id, folder string) ([]mesh.File, error) {
	return c.of(id).ListFiles(ctx, id, folder)
}

// CopyOut writes a file or folder of an instance as tar.
func (c *Cluster) CopyOut(ctx context.Context, id, file string, w io.Writer) error {
	return c.of(id).CopyOut(ctx, id, file, w)
}

// CopyIn unpacks a tar into a folder of an instance.
func (c *Cluster) CopyIn(ctx context.Context, id, folder string, content io.Reader) error {
	return c.of(id).CopyIn(ctx, id, folder, content)
}

// One-off commands and detached runs are on this machine: it has all images, and the volumes.

// RunOneOff runs a command on this machine.
func (c *Cluster) RunOneOff(ctx context.Context, o mesh.OneOff) (int, error) {
	return c.Local.RunOneOff(ctx, o)
}

// Detach starts a command on this machine.
func (c *Cluster) Detach(ctx context.Context, o mesh.OneOff, run mesh.DetachedRun) (mesh.DetachedRun, error) {
	return c.Local.Detach(ctx, o, run)
}

// Detached returns the detached runs of a stack.
func (c *Cluster) Detached(ctx context.Context, stack mesh.StackName) ([]mesh.DetachedRun, error) {
	return c.Local.Detached(ctx, stack)
}

// AwaitRun waits for the end of a detached run.
func (c *Cluster) AwaitRun(ctx context.Context, id string) error { return c.Local.AwaitRun(ctx, id) }

// Logs returns what a detached run has printed.
func (c *Cluster) Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	return c.Local.Logs(ctx, q, fn)
}

// OneOffs counts the one-off commands of a stack.
func (c *Cluster) OneOffs(ctx context.Context, stack mesh.StackName) (int, error) {
	return c.Local.OneOffs(ctx, stack)
}

// Sweep removes one-off containers.
func (c *Cluster) Sweep(ctx context.Context) error { return c.Local.Sweep(ctx) }

// Attach connects mesh's own container with the networks of this machine.
func (c *Cluster) Attach(ctx context.Context) error { return c.Local.Attach(ctx) }

// Stacks returns the stacks that the nodes have something of.
func (c *Cluster) Stacks(ctx context.Context) ([]mesh.StackName, error) {
	all, err := c.Local.Stacks(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range c.ready() {
		if m.self {
			continue
		}
		more, err := m.Stacks(ctx)
		if err != nil {
			c.Logger.Warn("the stacks on a node are not known", "node", string(m.name), "err", err)
		}
		all = append(all, more...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// RemoveStack removes everything that the nodes have of a stack, this machine last: it has the
// network. The error is Unavailable while a node is away that may have something of it.
func (c *Cluster) RemoveStack(ctx context.Context, stack mesh.StackName) error {
	var g errgroup.Group
	for _, name := range c.absent() {
		g.Go(func() error {
			return mesh.Errorf(mesh.Unavailable, "node %s is away, and may have something of %s", name, stack)
		})
	}
	for _, m := range c.ready() {
		if !m.self {
			g.Go(func() error { return m.RemoveStack(ctx, stack) })
		}
	}
	return errors.Join(g.Wait(), c.Local.RemoveStack(ctx, stack))
}

// Output reads the output of a container.
func (c *Cluster) Output(ctx context.Context, id string, n int, follow bool, fn func(at time.Time, stream byte, text []byte) error) error {
	return c.of(id).Output(ctx, id, n, follow, fn)
}

// Secrets returns what must not be kept of a container's output.
func (c *Cluster) Secrets(ctx context.Context, src mesh.OutputSource) ([]string, error) {
	return c.of(src.ID).Secrets(ctx, src)
}

// Usage returns what containers use, wherever they are. What it has of some is returned beside
// the error of others.
func (c *Cluster) Usage(ctx context.Context, ids []string) (map[string]mesh.Usage, error) {
	by := map[Machine][]string{}
	for _, id := range ids {
		m := c.of(id)
		by[m] = append(by[m], id)
	}
	var mu sync.Mutex
	out := map[string]mesh.Usage{}
	var g errgroup.Group
	for m, some := range by {
		g.Go(func() error {
			got, err := m.Usage(ctx, some)
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(out, got)
			return err
		})
	}
	err := g.Wait()
	return out, err
}

// Disk returns what containers have written.
func (c *Cluster) Disk(ctx context.Context) (map[string]int64, error) {
	out, err := c.Local.Disk(ctx)
	if err != nil {
		return out, err
	}
	for _, m := range c.ready() {
		if m.self {
			continue
		}
		more, merr := m.Disk(ctx)
		if merr != nil {
			c.Logger.Debug("the disk use on a node is not known", "node", string(m.name), "err", merr)
		}
		maps.Copy(out, more)
	}
	return out, nil
}
