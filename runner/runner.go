// Package runner turns images into running instances: containers of the Docker
// Engine, each with its own address in its stack's private network.
//
// It starts, checks, stops, lists and watches them, runs one-off commands and reads
// logs. Others decide what should run, when, and what gets traffic. They also decide
// what to restart: containers have no restart policy, and a caller that watches
// calls Revive.
//
// Containers are identified by labels alone, and the Runner keeps nothing in memory
// that the engine does not have: a new process on the same engine with the same
// server id sees the same instances.
//
//	r := runner.New(cli, runner.Options{Server: id})
//	in, err := r.Start(ctx, spec)
//	seen, err := r.Check(ctx, in, mesh.Check{HTTP: true}, nil) // "GET / 200"
package runner

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"golang.org/x/sync/errgroup"

	"mesh"
	"mesh/engine"
)

// The labels of everything that a Runner makes. Every list asks for labelServer.
const (
	labelServer     = engine.LabelServer
	labelStack      = engine.LabelStack
	labelService    = "mesh.service"
	labelSlot       = "mesh.slot"
	labelRelease    = "mesh.release"
	labelDeployment = "mesh.deployment"
	labelSpec       = engine.LabelSpec
	labelKind       = engine.LabelKind
	labelName       = "mesh.name"
	labelMemory     = "mesh.memory" // the limits of an instance, which the engine's list lacks
	labelCPUs       = "mesh.cpus"
	labelTerminal   = "mesh.terminal" // a one-off command in a terminal

	kindInstance = "instance"
	kindOneOff   = "oneoff"
)

// cleanupTimeout limits the work that is done after the caller's context has ended.
const cleanupTimeout = time.Minute

// Options are what New needs besides the client.
type Options struct {
	// Server distinguishes the containers of this server from those of others on the
	// same engine. It must not be empty, and must not change over the life of the
	// data.
	Server string
	// Labels are put on every container and network, besides the Runner's own.
	Labels map[string]string
	// Collector keeps the output of containers; nil: nobody does.
	Collector Collector
	// Names answers DNS queries in the stacks' networks; nil: only the engine does.
	Names Names
	// Guests join the networks of stacks; nil: there are none.
	Guests Guests
	// Self is the ID of the container that mesh itself runs in, which is attached to
	// each stack's network. Empty: found out when first needed.
	Self string
	// Shared returns how instances are reached from other nodes; nil, or if it returns nil:
	// they are in a bridge network of this machine. It may return something else later: what
	// runs stays as it is.
	Shared func() *Shared
	// Groups is where the control groups of containers are; empty: /sys/fs/cgroup.
	Groups string
	// Logger gets details that people are not shown; nil: slog.Default().
	Logger *slog.Logger
	// Now is the clock; nil: time.Now. Waiting does not use it.
	Now func() time.Time
}

// Names makes names known in the networks of stacks. Its methods may be called from
// several goroutines.
type Names interface {
	// Open makes them known in the network of a stack, in which mesh has the address at,
	// and returns the name servers for containers there; none: those of the engine.
	// Calls for a network that is already open must be cheap.
	Open(stack mesh.StackName, at netip.Addr, from netip.Prefix) []netip.Addr
	// Close is called when the network is about to be removed.
	Close(stack mesh.StackName)
}

// Guests are containers that others run and that instances reach: add-ons.
type Guests interface {
	// Enter connects those that a stack may reach with its network, before instances
	// start in it. present reports whether a container is in it already. Calls for a
	// stack without guests must be cheap.
	Enter(ctx context.Context, stack mesh.StackName, network string, present func(id string) bool) error
}

// Runner runs instances in a Docker Engine. It may be used from several
// goroutines.
type Runner struct {
	cli       *engine.Client
	server    string
	labels    map[string]string
	log       *slog.Logger
	now       func() time.Time
	names     Names
	guests    Guests
	collector Collector
	shared    func() *Shared
	groups    groups
	stacks    keyedLock[mesh.StackName] // guards the creation and removal of a stack's network
	writers   keyedLock[string]         // guards the start of what has a volume for itself, by the engine's volume

	selfMu   sync.Mutex // guards self and selfDone
	self     string
	selfDone bool

	limitsMu sync.Mutex
	limits   map[string]int64 // of containers, by ID
}

// New returns a Runner. It does not talk to the engine.
func New(cli *engine.Client, o Options) *Runner {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Runner{
		cli: cli, server: o.Server, labels: o.Labels, log: o.Logger, now: o.Now, names: o.Names, guests: o.Guests, collector: o.Collector, shared: o.Shared,
		self: o.Self, selfDone: o.Self != "", groups: groups{root: o.Groups},
	}
}

// Ping returns an error of kind Unavailable if the engine does not answer.
func (r *Runner) Ping(ctx context.Context) error {
	if _, err := r.cli.API(ctx).Ping(ctx); err != nil {
		return r.fault(ctx, "ping the engine", err)
	}
	return nil
}

// List returns the instances of all stacks of this server, in any state, ordered by
// stack and name.
func (r *Runner) List(ctx context.Context) ([]mesh.Instance, error) {
	found, err := r.containers(ctx, labelKind+"="+kindInstance)
	if err != nil {
		return nil, err
	}
	return r.inspectAll(ctx, found)
}

// Look returns the instances of all stacks as the engine lists them, with one
// request, or two if mesh runs in a container. It sets ID, labels, state, address
// and exit code, but not Started and OOM. It is cheap enough to call often: with 50
// running containers it took 20 ms on two busy cores (BenchmarkLook), a thousandth
// of them at one call every 20 s, where List sends 51 requests. If mesh runs in a
// container that was disconnected from a stack's network, Look connects it again.
func (r *Runner) Look(ctx context.Context) ([]mesh.Instance, error) {
	found, err := r.containers(ctx, labelKind+"="+kindInstance)
	if err != nil {
		return nil, err
	}
	networks := map[mesh.StackName]bool{}
	list := make([]mesh.Instance, 0, len(found))
	for _, c := range found {
		in := labelled(c.ID, c.Labels)
		switch c.State {
		case container.StateRunning, container.StateRestarting, container.StatePaused:
			if in.State = mesh.InstanceRunning; c.State == container.StatePaused {
				in.State = mesh.InstancePaused
			}
			if c.NetworkSettings == nil {
				break
			}
			e, shared := r.attached(c.NetworkSettings.Networks, in.Stack)
			networks[in.Stack] = networks[in.Stack] || e != nil && !shared
			place(&in, e, shared, func() (string, uint16) { return listedPort(c.Ports) })
		case container.StateCreated:
			in.State = mesh.InstanceCreated
		default:
			in.State = mesh.InstanceExited
			// "Exited (137) 3 minutes ago": the list has the code nowhere else.
			_, _ = fmt.Sscanf(c.Status, "Exited (%d)", &in.ExitCode)
		}
		list = append(list, in)
	}
	if err := r.rejoin(ctx, networks); err != nil {
		return nil, r.fault(ctx, "join the stacks' networks", err)
	}
	return list, nil
}

// rejoin attaches mesh's own container, if it runs in one, to the networks that it
// was disconnected from.
func (r *Runner) rejoin(ctx context.Context, stacks map[mesh.StackName]bool) error {
	self, err := r.ownContainer(ctx)
	if err != nil || self == "" {
		return err
	}
	me, err := r.cli.API(ctx).ContainerInspect(ctx, self)
	if err != nil {
		return err
	}
	for stack, bridged := range stacks {
		if !bridged {
			continue
		}
		if _, in := me.NetworkSettings.Networks[r.networkName(stack)]; in {
			continue
		}
		n, err := r.cli.API(ctx).NetworkInspect(ctx, r.networkName(stack), network.InspectOptions{})
		if err == nil {
			_, err = r.enter(ctx, stack, n)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// inspectAll leaves out containers that have gone meanwhile.
func (r *Runner) inspectAll(ctx context.Context, found []container.Summary) ([]mesh.Instance, error) {
	list := make([]mesh.Instance, len(found))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, c := range found {
		g.Go(func() error {
			in, err := r.inspect(gctx, c.ID)
			if errdefs.IsNotFound(err) {
				return nil
			}
			list[i] = in
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, r.fault(ctx, "list the instances", err)
	}
	list = slices.DeleteFunc(list, func(in mesh.Instance) bool { return in.ID == "" })
	slices.SortFunc(list, func(a, b mesh.Instance) int {
		return cmp.Or(cmp.Compare(a.Stack, b.Stack), a.Name.Compare(b.Name), a.Started.Compare(b.Started))
	})
	return list, nil
}

// containers lists this server's containers with these labels.
func (r *Runner) containers(ctx context.Context, labels ...string) ([]container.Summary, error) {
	found, err := r.cli.API(ctx).ContainerList(ctx, container.ListOptions{All: true, Filters: r.filter(labels...)})
	if err != nil {
		return nil, r.fault(ctx, "list the containers", err)
	}
	return found, nil
}

func (r *Runner) filter(labels ...string) filters.Args {
	f := filters.NewArgs(filters.Arg("label", labelServer+"="+r.server))
	for _, l := range labels {
		f.Add("label", l)
	}
	return f
}

// label merges the Runner's own labels with the given ones.
func (r *Runner) label(own map[string]string) map[string]string {
	all := map[string]string{}
	for k, v := range r.labels {
		all[k] = v
	}
	for k, v := range own {
		all[k] = v
	}
	all[labelServer] = r.server
	return all
}

// inspect returns the engine's errors unchanged.
func (r *Runner) inspect(ctx context.Context, id string) (mesh.Instance, error) {
	c, err := r.cli.API(ctx).ContainerInspect(ctx, id)
	if err != nil {
		return mesh.Instance{}, err
	}
	return r.instance(c), nil
}

func (r *Runner) instance(c container.InspectResponse) mesh.Instance {
	in := labelled(c.ID, c.Config.Labels)
	in.ExitCode, in.OOM = c.State.ExitCode, c.State.OOMKilled
	in.Started, _ = time.Parse(time.RFC3339Nano, c.State.StartedAt)
	switch {
	case c.State.Running || c.State.Paused || c.State.Restarting:
		if in.State = mesh.InstanceRunning; c.State.Paused {
			in.State = mesh.InstancePaused
		}
		// The fields beside Networks are gone from API 1.52 on.
		e, shared := r.attached(c.NetworkSettings.Networks, in.Stack)
		place(&in, e, shared, func() (string, uint16) { return boundPort(c.NetworkSettings.Ports) })
	case c.State.Status == "created":
		in.State, in.Started = mesh.InstanceCreated, time.Time{}
	default:
		in.State = mesh.InstanceExited
	}
	return in
}

// labelled is the instance that the labels describe.
func labelled(id string, l map[string]string) mesh.Instance {
	number := func(k string) int { n, _ := strconv.Atoi(l[k]); return n }
	memory, _ := strconv.ParseInt(l[labelMemory], 10, 64)
	cpus, _ := strconv.ParseFloat(l[labelCPUs], 64)
	return mesh.Instance{
		Memory: memory, CPUs: cpus,
		ID: id, Stack: mesh.StackName(l[labelStack]),
		Name:       mesh.InstanceName{Service: mesh.ServiceName(l[labelService]), Slot: number(labelSlot)},
		Release:    mesh.ReleaseNumber(number(labelRelease)),
		Deployment: mesh.DeploymentNumber(number(labelDeployment)),
		Spec:       l[labelSpec],
	}
}

// random ends a container's name: the old and the new web.1 exist side by side for a
// moment.
func random() string { return strings.ToLower(rand.Text()[:8]) }

// cleanup is a context for undoing things after ctx may have ended.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
}

// fault is engine.Fault.
func (r *Runner) fault(ctx context.Context, doing string, err error) error {
	return engine.Fault(ctx, r.cli.Host(), doing, err)
}

// keyedLock is one lock for each key. The zero value is ready.
type keyedLock[K comparable] struct {
	mu   sync.Mutex
	held map[K]chan struct{}
}

// lock waits for the lock of a key and returns the function that releases it.
func (l *keyedLock[K]) lock(ctx context.Context, key K) (func(), error) {
	for {
		l.mu.Lock()
		wait, taken := l.held[key]
		if !taken {
			if l.held == nil {
				l.held = map[K]chan struct{}{}
			}
			done := make(chan struct{})
			l.held[key] = done
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, key)
				l.mu.Unlock()
				close(done)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
