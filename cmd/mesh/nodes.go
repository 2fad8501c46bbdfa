package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	registrytypes "github.com/docker/docker/api/types/registry"
	"golang.org/x/sync/singleflight"

	"mesh"
	"mesh/agent"
	"mesh/builder"
	"mesh/cluster"
	"mesh/engine"
	"mesh/names"
	"mesh/nodes"
	"mesh/registry"
	"mesh/runner"
)

// machines reaches the engines of the other nodes: cluster.Reach, and deploy.NodeServer. It
// belongs to a control. What it has open lives as long as the process, in wires.
type machines struct {
	c     *control
	swarm *nodes.Swarm
	// elsewhere is where nodes fetch images from, if the operator has named a registry; nil: mesh's own.
	elsewhere *registry.Elsewhere
	on        atomic.Pointer[mesh.Cluster] // nil: one machine
	retire    atomic.Bool                  // new instances start on this machine alone
	dns       atomic.Pointer[[]netip.Addr] // for containers on this machine
	home      atomic.Bool                  // this is the machine that the server belongs on

	fresh     atomic.Bool // the agents are those of this version
	deploying sync.Mutex  // held by deployAgents

	mu      sync.Mutex
	by      map[string]*machine // by the nodes' IDs
	renewed time.Time           // when the agents were last started, or should have been
	looked  time.Time           // when it was last looked whether the server has moved
}

// machine is another node.
type machine struct {
	engine *engine.Client
	run    *runner.Runner
	builds *builder.Builder
	whose  *whose

	fetching singleflight.Group // of images, by their IDs here

	mu        sync.Mutex
	node      mesh.Node
	dns       []netip.Addr
	listens   time.Time // since when the agent is connected that accepts names
	collected time.Time // when images that nobody needs were last removed
	failing   time.Time // since when none does; zero: one does
	told      bool      // that was logged
}

// wires are the connections of agents, which outlive a control.
type wires struct {
	mu       sync.Mutex
	hub      *agent.Hub
	listener net.Listener
	registry *registry.Registry
	end      context.CancelFunc // of accepting
	closed   chan struct{}      // closed by close
	log      *slog.Logger
	of       atomic.Pointer[machines] // of the control that serves
}

func newMachines(c *control) *machines {
	m := &machines{c: c, swarm: nodes.New(c.engine, nodes.Options{Server: c.store.Server(), Logger: c.log}), by: map[string]*machine{}}
	if at := c.settings.Registry; at != "" {
		m.elsewhere = registry.NewElsewhere(c.engine, at, registryAuth(credentials(c.store)), c.log)
	}
	if rec, err := c.store.Cluster(context.Background()); err != nil { // it does not wait
		c.log.Error("the record of the nodes cannot be read: only this machine is used", "err", err)
	} else if rec.On() {
		m.on.Store(&rec)
	}
	c.wires.of.Store(m)
	return m
}

// registryAuth returns what engines sign in to a host with, in the form of the engine's API;
// empty: nothing.
func registryAuth(find builder.Credentials) func(ctx context.Context, host string) (string, error) {
	return func(ctx context.Context, host string) (string, error) {
		r, err := find(ctx, host)
		if err != nil || r.Host == "" {
			return "", err
		}
		return registrytypes.EncodeAuthConfig(registrytypes.AuthConfig{Username: r.User, Password: r.Password.Reveal(), ServerAddress: r.Host})
	}
}

// begin uses the nodes that the record has, before anything is decided about what runs. It
// returns a Conflict if the server has moved to another machine.
func (m *machines) begin(ctx context.Context) error {
	if m.on.Load() == nil {
		return nil
	}
	if err := m.settleHome(ctx); errors.Is(err, mesh.Conflict) {
		return err
	} else if err != nil {
		m.c.log.Error("the other nodes cannot be used yet", "err", err) // Agents tries again
	}
	if m.home.Load() {
		if err := m.c.wires.open(ctx, m.c, *m.on.Load()); err != nil {
			m.c.log.Error("the other nodes cannot be used yet", "err", err) // as above
		}
	}
	m.openNames(ctx)
	m.c.cluster.Settle(ctx)
	m.renewAgents()
	return nil
}

// renewEvery is how long after an attempt to start the agents of this version the next one is.
const renewEvery = 15 * time.Second

// renewAgents starts the agents of this version, with the address of this machine, in the
// background, unless they run or that was tried a short time ago. Those of before serve until then.
func (m *machines) renewAgents() {
	m.mu.Lock()
	due := m.home.Load() && !m.fresh.Load() && time.Since(m.renewed) > renewEvery
	if due {
		m.renewed = time.Now()
	}
	m.mu.Unlock()
	if !due {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), renewEvery)
		defer cancel()
		rec := m.on.Load()
		if rec == nil {
			return
		}
		if err := m.deployAgents(ctx, *rec); err != nil {
			m.c.log.Warn("the agents are not those of this version", "err", err)
		}
	}()
}

// settleHome finds out whether the server belongs on this machine. A data directory that has come
// from another one, by mesh standby or a backup, takes the nodes with it, and what that machine
// still has is refused there. It returns a Conflict on that other machine.
func (m *machines) settleHome(ctx context.Context) error {
	rec := m.on.Load()
	if rec == nil {
		return nil // the nodes were disabled meanwhile
	}
	is, err := m.swarm.Look(ctx)
	if err != nil {
		return err
	}
	switch {
	case !is.Manager || !is.Ours:
		return mesh.Errorf(mesh.Unavailable, "this machine's engine is not a manager of the swarm that the nodes are in").
			WithHint("join that swarm, and make this machine a manager: docker node promote NODE; to go on with this machine alone: ssh mesh nodes:disable")
	case is.Addr == rec.Addr && is.Home != "" && is.Home != is.Node:
		return hasMoved(is)
	case is.Addr == rec.Addr && is.Home == is.Node:
		m.home.Store(true)
		return nil
	}
	if _, err := m.swarm.Claim(ctx); err != nil {
		return err
	}
	was := rec.Addr
	now, err := m.c.store.UpdateCluster(ctx, func(c *mesh.Cluster) error {
		if !c.On() {
			return mesh.Errorf(mesh.NotFound, "the nodes were disabled meanwhile")
		}
		c.Addr = is.Addr
		return nil
	})
	if err != nil {
		return err
	}
	if was != is.Addr {
		m.c.log.Info("the nodes reach this machine instead of another one", "address", is.Addr.String(), "before", was.String())
	}
	m.on.Store(&now)
	m.home.Store(true)
	return nil
}

// hasMoved is the error on a machine that the server has left.
func hasMoved(is mesh.Swarm) error {
	return mesh.Errorf(mesh.Conflict, "this server has moved to another machine of the swarm, node %s: two of them would damage each other's work", mesh.Clip(is.Home, 12)).
		WithHint("on this machine: systemctl disable --now mesh")
}

// homeEvery is how often a running server looks whether it has moved.
const homeEvery = 10 * time.Second

// watchHome ends this server, in the background, if it has moved to another machine while this one
// was cut off.
func (m *machines) watchHome() {
	m.mu.Lock()
	due := m.home.Load() && time.Since(m.looked) > homeEvery
	if due {
		m.looked = time.Now()
	}
	m.mu.Unlock()
	if !due {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), homeEvery)
		defer cancel()
		if is, err := m.swarm.Look(ctx); err == nil && is.Ours && is.Home != "" && is.Home != is.Node && m.c.wires.of.Load() == m {
			m.c.fail(hasMoved(is))
		}
	}()
}

// isOn is cluster.Options.On.
func (m *machines) isOn() bool { return m.on.Load() != nil }

// arch is this machine's, as engines call it: images are built for it.
func arch() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

// shared is runner.Options.Shared of this machine.
func (m *machines) shared() *runner.Shared {
	rec := m.on.Load()
	if rec == nil || m.retire.Load() {
		return nil
	}
	s := &runner.Shared{Addr: rec.Addr}
	if dns := m.dns.Load(); dns != nil {
		s.DNS = *dns
	}
	return s
}

// Machine implements cluster.Reach.
func (m *machines) Machine(n mesh.Node) cluster.Machine { return m.machine(n).run }

func (m *machines) machine(n mesh.Node) *machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.by[n.ID]; old != nil {
		old.mu.Lock()
		defer old.mu.Unlock()
		old.node = n
		return old
	}
	x := &machine{node: n}
	id := n.ID
	// The address is plain: it cannot fail.
	x.engine, _ = engine.Through(hostOf(n), func(ctx context.Context) (net.Conn, error) { return m.c.wires.dial(ctx, id) }, m.c.program.engine)
	x.whose = newWhose(x.engine)
	x.builds = builder.New(x.engine, m.c.settings.builder(m.c.store, m.c.log))
	x.run = runner.New(x.engine, runner.Options{
		Server: m.c.store.Server(), Logger: m.c.log, Labels: m.c.labels, Collector: m.c.collector, Groups: "/nonexistent",
		Shared: func() *runner.Shared {
			x.mu.Lock()
			defer x.mu.Unlock()
			return &runner.Shared{Addr: x.node.Addr, DNS: x.dns, Network: m.c.runner.Share}
		},
	})
	m.by[n.ID] = x
	return x
}

// runners returns what runs instances on the other nodes that can be used.
func (m *machines) runners() (out []*runner.Runner) {
	agents := m.c.wires.agents()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, x := range m.by {
		if _, ok := agents[id]; ok {
			out = append(out, x.run)
		}
	}
	return out
}

// hostOf is how messages call the engine of a node.
func hostOf(n mesh.Node) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '-'
	}, string(n.Name))
	return cmp.Or(name, n.ID)
}

// Agents implements cluster.Reach.
func (m *machines) Agents() map[string]time.Time {
	if m.on.Load() != nil && m.c.wires.of.Load() == m && !m.openAgain() {
		return nil
	}
	out := map[string]time.Time{}
	for id, a := range m.c.wires.agents() {
		out[id] = a.Since
	}
	return out
}

// openAgain lets agents in if that was not possible before: the engine was away, or a process
// that ends had the port.
func (m *machines) openAgain() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if !m.home.Load() {
		if err := m.settleHome(ctx); err != nil {
			if errors.Is(err, mesh.Conflict) {
				m.c.fail(err)
			}
			return false
		}
	}
	m.renewAgents()
	m.watchHome()
	rec := m.on.Load()
	return rec != nil && m.c.wires.open(ctx, m.c, *rec) == nil
}

// Prepare implements cluster.Reach.
func (m *machines) Prepare(ctx context.Context, n mesh.Node) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	x := m.machine(n)
	pctx, end := context.WithTimeout(ctx, 3*time.Second)
	defer end()
	if err := x.run.Ping(pctx); err != nil {
		return err
	}
	if err := m.bringAgent(ctx, x.engine); err != nil {
		m.c.log.Warn("a node does not have the agent of this version yet", "node", string(n.Name), "err", err)
	}
	m.listenOn(ctx, x, n)
	m.collectOn(x, n)
	return nil
}

// collectEvery is how often images are removed from a node that this machine does not have any
// more. Those here are collected with the releases.
const collectEvery = time.Hour

// collectOn removes images from a node in the background, if that is due.
func (m *machines) collectOn(x *machine, n mesh.Node) {
	x.mu.Lock()
	due := time.Since(x.collected) >= collectEvery
	if due {
		x.collected = time.Now()
	}
	x.mu.Unlock()
	if !due {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := m.collect(ctx, x); err != nil {
			m.c.log.Warn("images on a node were not collected", "node", string(n.Name), "err", err)
		}
	}()
}

func (m *machines) collect(ctx context.Context, x *machine) error {
	all, err := x.engine.API(ctx).ImageList(ctx, image.ListOptions{})
	if err != nil {
		return engine.Fault(ctx, x.engine.Host(), "list the images", err)
	}
	for _, i := range all {
		j := slices.IndexFunc(i.RepoDigests, func(d string) bool { return strings.Contains(d, "/"+registry.Repository+"@") })
		if j < 0 {
			continue
		}
		id := i.ID
		if reg := m.c.wires.images(); reg != nil {
			id = cmp.Or(reg.Source(i.RepoDigests[j]), id)
		}
		if m.elsewhere != nil {
			id = cmp.Or(m.elsewhere.Source(i.RepoDigests[j]), id)
		}
		if _, err := m.c.engine.API(ctx).ImageInspect(ctx, id); !errdefs.IsNotFound(err) {
			continue // it is here, or nobody knows
		}
		_, err := x.engine.API(ctx).ImageRemove(ctx, i.ID, image.RemoveOptions{PruneChildren: true})
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) { // a container may still use it
			return engine.Fault(ctx, x.engine.Host(), "remove an image", err)
		}
	}
	return nil
}

// Tend implements cluster.Reach: an agent that has taken the place of another one must accept
// names and links as well, once that one has gone.
func (m *machines) Tend(ctx context.Context, n mesh.Node) {
	a, ok := m.c.wires.agents()[n.ID]
	x := m.machine(n)
	x.mu.Lock()
	done := !ok || x.listens.Equal(a.Since)
	x.mu.Unlock()
	if !done {
		m.listenOn(ctx, x, n)
	}
	m.collectOn(x, n)
}

// listenOn makes names known on a node.
func (m *machines) listenOn(ctx context.Context, x *machine, n mesh.Node) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	a := m.c.wires.agents()[n.ID]
	at, err := gateway(ctx, x.engine)
	if err == nil {
		err = m.c.wires.listen(ctx, n.ID, at)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err == nil {
		x.dns, x.listens, x.told, x.failing = []netip.Addr{at}, a.Since, false, time.Time{}
		return
	}
	if x.failing.IsZero() { // the agent of before may still be there for a moment
		x.failing = time.Now()
	}
	if !x.told && time.Since(x.failing) > 15*time.Second {
		m.c.log.Warn("names of services and links do not work on a node", "node", string(n.Name), "err", err)
		x.told = true
	}
}

// gatewayBridge is what connects containers of networks across nodes with their own node.
const gatewayBridge = "docker_gwbridge"

// gateway returns the address of a node in that bridge.
func gateway(ctx context.Context, e *engine.Client) (netip.Addr, error) {
	n, err := e.API(ctx).NetworkInspect(ctx, gatewayBridge, network.InspectOptions{})
	if errdefs.IsNotFound(err) { // the engine makes it, so, with the first container that needs it
		_, err = e.API(ctx).NetworkCreate(ctx, gatewayBridge, network.CreateOptions{Driver: "bridge", Options: map[string]string{
			"com.docker.network.bridge.name": gatewayBridge, "com.docker.network.bridge.enable_icc": "false", "com.docker.network.bridge.enable_ip_masquerade": "true",
		}})
		if err == nil || errdefs.IsConflict(err) {
			n, err = e.API(ctx).NetworkInspect(ctx, gatewayBridge, network.InspectOptions{})
		}
	}
	if err != nil {
		return netip.Addr{}, engine.Fault(ctx, e.Host(), "find "+gatewayBridge, err)
	}
	for _, c := range n.IPAM.Config {
		if at, err := netip.ParseAddr(c.Gateway); err == nil && at.Is4() {
			return at, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no gateway", gatewayBridge)
}

// Bring implements cluster.Reach.
func (m *machines) Bring(ctx context.Context, n mesh.Node, _ mesh.StackName, imageID string) (string, error) {
	x := m.machine(n)
	if _, err := x.engine.API(ctx).ImageInspect(ctx, imageID); err == nil {
		return imageID, nil
	} else if !errdefs.IsNotFound(err) {
		return "", engine.Fault(ctx, x.engine.Host(), "find an image", err)
	}
	// Once for all instances that start there: their deployment shares the wait.
	got := x.fetching.DoChan(imageID, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
		defer cancel()
		ref, err := m.fetch(ctx, x, n, imageID)
		if err != nil {
			return "", err
		}
		i, err := x.engine.API(ctx).ImageInspect(ctx, ref)
		return i.ID, engine.Fault(ctx, x.engine.Host(), "find an image", err)
	})
	select {
	case r := <-got:
		return r.Val.(string), r.Err //nolint:forcetypeassert // as above
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// fetchTime limits how long a node fetches an image, also when nobody waits for it any more.
const fetchTime = 15 * time.Minute

// fetch has a node fetch an image, and returns its name there.
func (m *machines) fetch(ctx context.Context, x *machine, n mesh.Node, imageID string) (ref string, err error) {
	for again := false; ; again = true {
		var pull func() error
		var forget func(string)
		if e := m.elsewhere; e != nil {
			if ref, err = e.Offer(ctx, imageID); err != nil {
				return "", err
			}
			auth, err := e.Login(ctx)
			if err != nil {
				return "", err
			}
			pull, forget = func() error { return registry.Pull(ctx, x.engine, ref, auth) }, e.Forget
		} else {
			a, ok := m.c.wires.agents()[n.ID]
			reg := m.c.wires.images()
			if !ok || reg == nil {
				return "", mesh.Errorf(mesh.Unavailable, "the agent of %s is not connected", n.Name)
			}
			name, err := reg.Offer(ctx, imageID)
			if err != nil {
				return "", err
			}
			ref = a.Registry + "/" + name
			pull, forget = func() error { return registry.Pull(ctx, x.engine, ref, reg.Login(n.ID)) }, reg.Forget
		}
		err = pull()
		switch {
		case err == nil:
			return ref, nil
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case !again: // somebody may have removed it there
			forget(imageID)
		case m.elsewhere != nil:
			return "", mesh.Errorf(mesh.Unavailable, "%s cannot fetch the image from %s: %w", n.Name, m.elsewhere.Host(), err).
				WithHint("see that %s reaches %s, and has free disk space", n.Name, m.elsewhere.Host())
		default:
			return "", mesh.Errorf(mesh.Unavailable, "%s cannot fetch the image from mesh: %w", n.Name, err).WithHint("see that it has free disk space, and that its agent is connected: ssh mesh nodes")
		}
	}
}

// Look implements deploy.NodeServer, as do the following.
func (m *machines) Look(ctx context.Context) (mesh.Swarm, error) { return m.swarm.Look(ctx) }

// Default returns the only address of this machine that others could reach.
func (m *machines) Default() netip.Addr {
	var found []netip.Addr
	all, _ := net.Interfaces()
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 || i.Flags&net.FlagUp == 0 || strings.HasPrefix(i.Name, "docker") || strings.HasPrefix(i.Name, "br-") || strings.HasPrefix(i.Name, "veth") {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLinkLocalUnicast() {
				found = append(found, p.Addr())
			}
		}
	}
	if len(found) != 1 {
		return netip.Addr{}
	}
	return found[0]
}

// Enable makes a swarm, or takes the one that there is.
func (m *machines) Enable(ctx context.Context, addr netip.Addr) (mesh.Swarm, error) {
	if _, err := m.agentImage(); err != nil {
		return mesh.Swarm{}, err
	}
	if in, err := m.c.runner.Contained(ctx); err != nil {
		return mesh.Swarm{}, err
	} else if in {
		return mesh.Swarm{}, mesh.Errorf(mesh.Conflict, "mesh runs in a container, and needs the machine's own network for this").
			WithHint("install mesh on the machine: docs/operating.md, Install; the data directory is the same")
	}
	if host := m.c.engine.Host(); !strings.HasPrefix(host, "unix:") {
		return mesh.Swarm{}, mesh.Errorf(mesh.Conflict, "the Docker Engine is at %s, and must be on the machine of mesh for this", host)
	}
	return m.swarm.Enable(ctx, addr)
}

// Disable gives the swarm up.
func (m *machines) Disable(ctx context.Context) error { return m.swarm.Disable(ctx) }

// Invitation returns where a machine fetches what it needs to join, and the pin of the
// certificate there.
func (m *machines) Invitation(rec mesh.Cluster) (at, pin string, err error) {
	a, err := agent.ParseAuthority(rec.Authority, rec.AuthorityKey)
	if err != nil {
		return "", "", err
	}
	return m.c.settings.nodesAddr(rec.Addr), a.Pin(), nil
}

// pin is that of Invitation.
func (m *machines) pin() string {
	rec := m.on.Load()
	if rec == nil {
		return ""
	}
	_, pin, _ := m.Invitation(*rec) // it was parsed when agents were let in
	return pin
}

// Authority makes what signs the certificates of the agents.
func (m *machines) Authority() (cert []byte, key mesh.Secret, err error) { return agent.NewAuthority() }

// Open lets agents in, starts them on all nodes, and uses them.
func (m *machines) Open(ctx context.Context, rec mesh.Cluster) error {
	if err := m.c.wires.open(ctx, m.c, rec); err != nil {
		return err
	}
	m.retire.Store(false)
	m.on.Store(&rec)
	m.home.Store(true)
	m.openNames(ctx)
	m.c.cluster.Changed()
	if err := m.deployAgents(ctx, rec); err != nil {
		return err
	}
	m.c.cluster.Settle(ctx)
	return nil
}

// openNames makes names known to containers on this machine.
func (m *machines) openNames(ctx context.Context) {
	at, err := gateway(ctx, m.c.engine)
	if err != nil {
		m.c.log.Warn("names of services and links do not work on this machine", "err", err)
		return
	}
	dns := m.c.names.OpenShared(at, newWhose(m.c.engine).stack)
	m.dns.Store(&dns)
}

// deployAgents starts the agents, or those of this version instead.
func (m *machines) deployAgents(ctx context.Context, rec mesh.Cluster) error {
	m.deploying.Lock() // nodes:enable and renewAgents would make the same secret and service twice
	defer m.deploying.Unlock()
	img, err := m.agentImage()
	if err != nil {
		return err
	}
	authority, err := agent.ParseAuthority(rec.Authority, rec.AuthorityKey)
	if err != nil {
		return err
	}
	pass, err := authority.Pass()
	if err != nil {
		return err
	}
	// Here none runs, but the server may move to another machine one day.
	if err := m.bringAgent(ctx, m.c.engine); err != nil {
		m.c.log.Warn("this machine does not have the agent's image", "err", err)
	}
	err = m.swarm.Deploy(ctx, nodes.AgentSpec{Image: img.name, Servers: []string{m.c.settings.nodesAddr(rec.Addr)}, Pass: pass})
	m.fresh.Store(err == nil)
	return err
}

// Retreat has new instances start on this machine alone, in its own networks.
func (m *machines) Retreat(mesh.Cluster) {
	m.retire.Store(true)
	m.c.cluster.Changed()
}

// Shut ends the agents, and lets none in any more.
func (m *machines) Shut(ctx context.Context) error {
	if err := m.swarm.Withdraw(ctx); err != nil {
		return err
	}
	m.c.names.CloseShared()
	m.on.Store(nil)
	m.retire.Store(false)
	m.c.wires.close()
	m.mu.Lock()
	clear(m.by)
	m.mu.Unlock()
	m.c.cluster.Changed()
	return nil
}

// Nodes returns the nodes as they are now.
func (m *machines) Nodes(ctx context.Context) ([]mesh.Node, map[string]int, error) {
	all, err := m.swarm.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	used, instances := m.c.cluster.Members()
	for i := range all {
		if j := slices.IndexFunc(used, func(n mesh.Node) bool { return n.ID == all[i].ID }); j >= 0 {
			all[i].Agent, all[i].Fault = used[j].Agent, used[j].Fault
		} else if all[i].Fault = "it has just joined"; all[i].Self {
			all[i].Fault = ""
		}
	}
	return all, instances, nil
}

// SetDrained says whether instances are placed on a node.
func (m *machines) SetDrained(ctx context.Context, id string, drained bool) error {
	if err := m.swarm.SetDrained(ctx, id, drained); err != nil {
		return err
	}
	return m.c.cluster.Refresh(ctx)
}

// SetLabels sets labels of a node.
func (m *machines) SetLabels(ctx context.Context, id string, labels map[string]string) error {
	if err := m.swarm.SetLabels(ctx, id, labels); err != nil {
		return err
	}
	return m.c.cluster.Refresh(ctx)
}

// Leave makes a node's engine leave the swarm.
func (m *machines) Leave(ctx context.Context, id string) error {
	m.mu.Lock()
	x := m.by[id]
	m.mu.Unlock()
	if x == nil {
		return nil
	}
	// The agent ends with it, often before it has passed on the answer.
	lctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err := x.engine.API(lctx).SwarmLeave(lctx, true)
	if err != nil && (engine.Away(err) || errors.Is(engine.Fault(ctx, "", "", err), mesh.Unavailable) || lctx.Err() != nil) && ctx.Err() == nil {
		return nil
	}
	return engine.Fault(ctx, x.engine.Host(), "leave the swarm", err)
}

// Remove makes the swarm forget a node.
func (m *machines) Remove(ctx context.Context, id string) error {
	var err error
	for range 50 { // a node that has left is still up for a moment
		if err = m.swarm.Remove(ctx, id); err == nil || !strings.Contains(err.Error(), "is not down") {
			break
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	m.mu.Lock()
	delete(m.by, id)
	m.mu.Unlock()
	return errors.Join(err, m.c.cluster.Refresh(ctx))
}

// Tokens returns what a machine needs to join.
func (m *machines) Tokens(ctx context.Context) (token, addr string, err error) {
	return m.swarm.Tokens(ctx)
}

// Tidy removes networks of stacks that nothing is in any more.
func (m *machines) Tidy(ctx context.Context) error { return m.c.runner.Tidy(ctx) }

// whose finds out whose containers are that reach their node over the gateway bridge.
type whose struct {
	engine *engine.Client

	mu    sync.Mutex
	asked time.Time
	by    map[netip.Addr]mesh.StackName
}

func newWhose(e *engine.Client) *whose { return &whose{engine: e} }

// whoseEvery is how long an answer of the engine counts: an address may belong to another
// container soon after.
const whoseEvery = time.Second

// stack is names.Whose.
func (w *whose) stack(ctx context.Context, from netip.Addr) (mesh.StackName, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.asked) > whoseEvery || w.by[from] == "" && time.Since(w.asked) > 50*time.Millisecond {
		if by, err := w.ask(ctx); err == nil {
			w.by, w.asked = by, time.Now()
		}
	}
	s := w.by[from]
	return s, s != ""
}

func (w *whose) ask(ctx context.Context) (map[netip.Addr]mesh.StackName, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	n, err := w.engine.API(ctx).NetworkInspect(ctx, gatewayBridge, network.InspectOptions{})
	if err != nil {
		return nil, err
	}
	all, err := w.engine.API(ctx).ContainerList(ctx, container.ListOptions{})
	if err != nil {
		return nil, err
	}
	stacks := make(map[string]mesh.StackName, len(all))
	for _, c := range all {
		stacks[c.ID] = mesh.StackName(c.Labels[engine.LabelStack])
	}
	by := map[netip.Addr]mesh.StackName{}
	for id, e := range n.Containers {
		if p, err := netip.ParsePrefix(e.IPv4Address); err == nil && stacks[id] != "" {
			by[p.Addr()] = stacks[id]
		}
	}
	return by, nil
}

// open accepts agents, unless it does already.
func (w *wires) open(ctx context.Context, c *control, rec mesh.Cluster) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hub != nil {
		return nil
	}
	authority, err := agent.ParseAuthority(rec.Authority, rec.AuthorityKey)
	if err != nil {
		return err
	}
	hub, err := agent.NewHub(agent.HubOptions{Authority: authority, Logger: c.log, Handlers: w.handlers(c.server), OnChange: func() {
		if m := w.of.Load(); m != nil && m.c.cluster != nil {
			m.c.cluster.Changed()
		}
	}})
	if err != nil {
		return err
	}
	at := c.settings.nodesAddr(rec.Addr)
	var l net.Listener
	if f := c.handover.socket(nodesSocket); f != nil {
		l, err = net.FileListener(f)
		_ = f.Close()
	} else {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", at)
	}
	if err != nil {
		return mesh.Errorf(mesh.Conflict, "agents of other nodes cannot be accepted at %s: %w", at, err).WithHint("choose another port with MESH_NODES_PORT, and start mesh again")
	}
	reg, err := registry.Open(ctx, c.engine, registry.Options{Dir: filepath.Join(c.settings.Data, "layers"), Logger: c.log})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	w.hub, w.listener, w.registry, w.log, w.closed = hub, l, reg, c.log, make(chan struct{})
	go w.clean(reg, w.closed)
	return w.acceptLocked()
}

// clean removes layers that nobody needs, every hour.
func (w *wires) clean(reg *registry.Registry, closed <-chan struct{}) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := reg.Clean(time.Now()); err != nil {
				w.log.Warn("the registry was not cleaned", "err", err)
			}
		case <-closed:
			return
		}
	}
}

// nodesSocket is the name of the listener for agents in a handover.
const nodesSocket = "nodes"

// acceptLocked accepts agents from a share of the listener, which stays open for the process
// that takes over.
func (w *wires) acceptLocked() error {
	l, err := share(w.listener)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(context.Background())
	w.end = end
	hub, log := w.hub, w.log
	go func() {
		if err := hub.Serve(ctx, l); err != nil {
			log.Error("agents are not accepted any more", "err", err)
		}
	}()
	return nil
}

// socket returns the listener, for the process that takes over.
func (w *wires) socket() []names.Socket {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, ok := w.listener.(*net.TCPListener)
	if !ok {
		return nil
	}
	f, err := l.File()
	if err != nil {
		w.log.Warn("the listener for agents is not passed on", "err", err)
		return nil
	}
	return []names.Socket{{Name: nodesSocket, File: f}}
}

// release lets go of the listener, which another process has by now.
func (w *wires) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listener != nil {
		_ = w.listener.Close()
	}
}

// resume accepts agents again after retire.
func (w *wires) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hub == nil {
		return
	}
	w.hub.Resume()
	if err := w.acceptLocked(); err != nil {
		w.log.Error("agents are not accepted any more", "err", err)
	}
}

// handlers serve what agents ask for, with the control that serves then.
func (w *wires) handlers(sv *server) agent.Handlers {
	find := func(ctx context.Context, node string, from netip.Addr) (*machine, mesh.StackName, bool) {
		m := w.of.Load()
		if m == nil {
			return nil, "", false
		}
		m.mu.Lock()
		x := m.by[node]
		m.mu.Unlock()
		if x == nil {
			return nil, "", false
		}
		s, ok := x.whose.stack(ctx, from)
		return x, s, ok
	}
	return agent.Handlers{
		Join: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if j := sv.join.Load(); j != nil {
				j.ServeHTTP(w, r)
				return
			}
			http.Error(w, "error: mesh is starting", http.StatusServiceUnavailable)
		}),
		Registry: func(ctx context.Context, _ string, c net.Conn) {
			if r := w.images(); r != nil {
				r.ServeConn(ctx, c)
			}
		},
		Names: func(ctx context.Context, node string, from netip.Addr, c net.Conn) {
			x, stack, ok := find(ctx, node, from)
			if !ok {
				return
			}
			x.mu.Lock()
			dns := x.dns
			x.mu.Unlock()
			if len(dns) > 0 {
				sv.names.AnswerConn(ctx, stack, dns[0], c)
			}
		},
		Links: func(ctx context.Context, node string, from netip.Addr, c net.Conn) {
			if _, stack, ok := find(ctx, node, from); ok {
				waited := newWaited(c)
				sv.names.Link(stack, waited)
				waited.wait()
			}
		},
	}
}

// waited is a connection whose end can be waited for.
type waited struct {
	net.Conn
	once sync.Once
	done chan struct{}
}

func newWaited(c net.Conn) *waited { return &waited{Conn: c, done: make(chan struct{})} }

func (w *waited) Close() error {
	w.once.Do(func() { close(w.done) })
	return w.Conn.Close()
}

func (w *waited) wait() { <-w.done }

func (w *wires) agents() map[string]agent.Connected {
	w.mu.Lock()
	hub := w.hub
	w.mu.Unlock()
	if hub == nil {
		return nil
	}
	return hub.Nodes()
}

func (w *wires) images() *registry.Registry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.registry
}

func (w *wires) dial(ctx context.Context, node string) (net.Conn, error) {
	w.mu.Lock()
	hub := w.hub
	w.mu.Unlock()
	if hub == nil {
		return nil, mesh.Errorf(mesh.Unavailable, "agents are not accepted")
	}
	return hub.Dial(ctx, node)
}

func (w *wires) listen(ctx context.Context, node string, at netip.Addr) error {
	w.mu.Lock()
	hub := w.hub
	w.mu.Unlock()
	if hub == nil {
		return mesh.Errorf(mesh.Unavailable, "agents are not accepted")
	}
	return hub.Listen(ctx, node, at)
}

// retire has the agents connect to the process that takes over. What uses their present
// connections goes on.
func (w *wires) retire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hub != nil {
		w.end()
		w.hub.Retire()
	}
}

// close ends all connections.
func (w *wires) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hub == nil {
		return
	}
	w.end()
	close(w.closed)
	w.hub.Close()
	_ = w.listener.Close()
	_ = w.registry.Close()
	w.hub, w.listener, w.registry = nil, nil, nil
}

// nodesAddr is where mesh accepts agents.
func (s settings) nodesAddr(at netip.Addr) string {
	return net.JoinHostPort(at.String(), strconv.Itoa(s.NodesPort))
}
