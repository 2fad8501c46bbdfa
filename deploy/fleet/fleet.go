// Package fleet knows which instances of each stack run and where its traffic goes, and
// keeps the two consistent: an instance that ends leaves the routes and is restarted,
// and one that is started and healthy gets traffic.
//
// It starts, checks, supervises and retires instances, and passes every change to the
// router. It does not decide what should run, and has no store: package deploy decides
// and records, and calls Create, Install, Adopt, Update and Drop.
//
//	f := fleet.New(fleet.Options{…})
//	go f.Run(ctx)                                 // looks at the engine until ctx ends
//	keep, start := f.Split("shop", specs, anew)   // what runs already
//	started, err := f.StartAll(ctx, st, start, …) // beside it, and checked
//	old := f.Install(st, release, specs, keep, started) // the switch
//	f.Retire(old, exit)
package fleet

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mesh"
)

// Runner is what a Fleet needs of the engine. Its methods may be called from several
// goroutines.
type Runner interface {
	// Start creates and starts one container, and returns it with its address. It
	// creates the stack's network first if that is missing. If Start fails or ctx ends,
	// nothing is left. A subnet that is taken is a Conflict.
	Start(ctx context.Context, spec mesh.InstanceSpec) (mesh.Instance, error)
	// Check waits until the instance is healthy. It returns what it saw, in a few words
	// ("GET / 200"), or a *mesh.Error that says why the instance is not healthy, with
	// its last log lines as output. Check calls progress, which may be nil, with lines
	// to show meanwhile.
	Check(ctx context.Context, in mesh.Instance, c mesh.Check, progress func(string)) (string, error)
	// Stop sends SIGTERM, waits, sends SIGKILL, and removes the container with its
	// anonymous volumes. A missing container is not an error.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Halt ends an instance as Stop does, and keeps its container for Revive.
	Halt(ctx context.Context, id string, grace time.Duration) error
	// Revive makes a container run and be reachable again that has exited, is paused,
	// or has lost its network, and returns its new state: its address may have changed.
	// The error is NotFound if another container must replace it.
	Revive(ctx context.Context, id string) (mesh.Instance, error)
	// Look returns the instances of all stacks, in any state, at a cost that does not
	// grow with their number. Started and OOM may be missing.
	Look(ctx context.Context) ([]mesh.Instance, error)
	// Ping reports whether the engine answers.
	Ping(ctx context.Context) error
}

// Router sends traffic to instances. Switch and Remove are called one at a time, and
// no method waits for a request.
type Router interface {
	// Switch replaces the route of a stack with r. Requests that arrive after it has
	// returned use only r. Hosts that r leaves out lead nowhere.
	Switch(r mesh.Route)
	// Remove removes the route of a stack.
	Remove(stack mesh.StackName)
	// Drain returns when no request or upgraded connection is left on the target, which
	// is in no route any more. At ctx's deadline it ends the remaining requests, and
	// after the given time the upgraded connections; if ctx ends in another way, it
	// ends all. It returns an error if it had to end any.
	Drain(ctx context.Context, targetID string, upgraded time.Duration) error
	// Lost ends what is in progress on a target whose machine does not answer any more. It
	// does not block.
	Lost(targetID string)
}

// Options holds what a Fleet works with. All fields but Memory and Probe are required.
// Functions are called without a lock of the Fleet held, unless their comments say
// otherwise.
type Options struct {
	Runner Runner
	Router Router
	Logger *slog.Logger
	Now    func() time.Time
	Memory Memory                                      // where instances were last seen; nil: not kept
	Probe  func(context.Context, netip.AddrPort) error // reports whether something listens there; nil: dials TCP

	// Host returns the host name of a stack below the base domain. It is called with a
	// lock held.
	Host func(mesh.StackName) mesh.Host
	// Note adds a line to a stack's log, about an instance. It does not block, and is
	// called with a lock held.
	Note func(stack mesh.StackName, about, format string, args ...any)
	// Background runs work that outlives the call that started it. It does not block,
	// and is called with a lock held. The context ends with the server.
	Background func(func(context.Context))
	// Present reports whether an image is in the engine.
	Present func(ctx context.Context, imageID string) (bool, error)
	// Lost is called when instances of a release cannot start because its image is
	// missing.
	Lost func(stack mesh.StackName, n mesh.ReleaseNumber)
	// Crashed is called when an instance has crashed, with its new state. It does not
	// block, and is called with a lock held.
	Crashed func(mesh.StackName, mesh.InstanceStatus)
	// LookImages compares the images with those that the releases need. It is called
	// when the engine has removed an image, and every few minutes.
	LookImages func(ctx context.Context)
	// Unsure is called for a stack that was adopted while the engine was away and must
	// be adopted again. It does not block, and is called with a lock held.
	Unsure func(stack mesh.StackName)
}

// Fleet holds the running instances of all stacks. Its methods may be called from
// several goroutines.
type Fleet struct {
	Options

	turn sync.Mutex // held around calls of the router, which come one at a time; lock it before mu

	mu     sync.Mutex
	groups map[mesh.StackName]*group
	held   map[mesh.StackName]heldStack
	// Containers that were started but are in no group yet, each with the event of its
	// end, or nil while it runs.
	starting map[string]*mesh.InstanceEvent
	leaving  map[string]leaving      // containers being retired
	dirty    map[mesh.StackName]bool // stacks whose route the router must get; see unlock

	moved   chan struct{} // holds a value after an instance came, left or changed its address
	changed chan struct{} // holds a value when the engine may run something else than is known here
	images  atomic.Bool   // with changed: look at the images as well
}

// heldStack is a stack whose record cannot be read: its route, and the instances that
// the route leads to.
type heldStack struct {
	route     mesh.Route
	instances []mesh.Instance
}

// group holds the running instances of one stack, one member for each slot of its
// current release. It is guarded by Fleet.mu.
type group struct {
	since   time.Time // when it was last changed; a look at the engine that began before is out of date
	stack   mesh.Stack
	release mesh.Release
	members map[mesh.InstanceName]*member
	lent    []mesh.Link // by Lend
	trial   *mesh.Trial // by Try
	was     *group      // of the stack's old name, until its instances retire
}

// member is the instance in a slot.
type member struct {
	spec     mesh.InstanceSpec // what a replacement container runs
	instance mesh.Instance
	healthy  bool
	ails     mesh.Condition // what is wrong, when not healthy
	why      string         // details, for people
	since    time.Time      // of the present state
	crashes  int            // crashes of the app in a row
	fails    int            // tries in a row that failed for reasons other than the app
	next     time.Time      // of the next try, if not healthy
	busy     bool           // a goroutine is bringing it back
	wake     chan struct{}  // makes that goroutine try at once
	parked   bool           // ended by Park: nobody brings it back
	recalled bool           // last seen in this state; the engine has not confirmed it
	ended    int            // looks in a row that found it ended, without an event
}

// New returns an empty Fleet. Background work begins with the first change; Run looks
// at the engine.
func New(o Options) *Fleet {
	if o.Probe == nil {
		o.Probe = connect
	}
	return &Fleet{
		Options: o, groups: map[mesh.StackName]*group{}, held: map[mesh.StackName]heldStack{},
		starting: map[string]*mesh.InstanceEvent{}, leaving: map[string]leaving{},
		moved: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
}

// Run compares what runs with what is recorded, and saves where it is, until ctx ends.
func (f *Fleet) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { f.keepLooking(ctx) })
	all.Go(func() { f.keepMemory(ctx) })
	all.Wait()
}

// Create adds a stack of which nothing runs yet.
func (f *Fleet) Create(st mesh.Stack) {
	f.mu.Lock()
	defer f.unlock()
	f.putLocked(&group{stack: st, members: map[mesh.InstanceName]*member{}})
}

// putLocked makes g the group of its stack.
func (f *Fleet) putLocked(g *group) {
	name := g.stack.Name
	delete(f.held, name)
	f.markLinkedLocked(f.groups[name], g)
	f.groups[name] = g
	f.markLocked(name)
}

// Drop removes a stack: no host leads to it any more. The caller takes care of its
// instances.
func (f *Fleet) Drop(stack mesh.StackName) {
	f.mu.Lock()
	defer f.unlock()
	f.markLinkedLocked(f.groups[stack], nil)
	delete(f.groups, stack)
	delete(f.held, stack)
	f.markLocked(stack)
}

// Has reports whether the fleet knows a stack.
func (f *Fleet) Has(stack mesh.StackName) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.groups[stack] != nil
}

// Current returns the release that a stack runs, and whether it is stopped. ok is false
// if the fleet does not know the stack.
func (f *Fleet) Current(stack mesh.StackName) (n mesh.ReleaseNumber, stopped, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.groups[stack]
	if g == nil {
		return 0, false, false
	}
	return g.release.Number, g.stack.Stopped, true
}

// Find returns a running instance of a stack and its release.
func (f *Fleet) Find(stack mesh.StackName, name mesh.InstanceName) (mesh.Instance, mesh.Release, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.groups[stack]
	if g == nil || g.members[name] == nil || !g.members[name].healthy {
		return mesh.Instance{}, mesh.Release{}, false
	}
	return g.members[name].instance, g.release, true
}

// Ask checks a running instance as a new one is checked, for at most limit, and changes
// nothing. It returns what it saw, or a *mesh.Error that says what is wrong.
func (f *Fleet) Ask(ctx context.Context, stack mesh.StackName, name mesh.InstanceName, limit time.Duration) (string, error) {
	f.mu.Lock()
	g := f.groups[stack]
	if g == nil || g.members[name] == nil || !g.members[name].healthy {
		f.mu.Unlock()
		return "", mesh.Errorf(mesh.NotFound, "%s of %s is not running", name, stack)
	}
	in, c := g.members[name].instance, CheckOf(g.stack, name.Service)
	f.mu.Unlock()
	c.Timeout, c.Settle = min(c.Timeout, limit), min(c.Settle, limit)
	return f.Runner.Check(ctx, in, c, nil)
}

// Status returns the instances of a stack, in order.
func (f *Fleet) Status(stack mesh.StackName) []mesh.InstanceStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.groups[stack]
	if g == nil {
		return nil
	}
	var out []mesh.InstanceStatus
	for _, m := range g.ordered() {
		out = append(out, g.status(m))
	}
	return out
}

// Members returns the instances of a stack for which whose returns true, in any condition,
// in order.
func (f *Fleet) Members(stack mesh.StackName, whose func(mesh.InstanceSpec) bool) (out []mesh.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.groups[stack]; g != nil {
		for _, m := range g.ordered() {
			if whose(m.spec) {
				out = append(out, m.instance)
			}
		}
	}
	return out
}

// status describes a member.
func (g *group) status(m *member) mesh.InstanceStatus {
	s := mesh.InstanceStatus{
		Name: m.instance.Name, ID: m.instance.ID, Node: m.instance.Node, Release: m.instance.Release, State: mesh.Up, Why: m.why, Since: m.since, Crashes: m.crashes,
		ExitCode: m.instance.ExitCode, OOM: m.instance.OOM, Next: m.next, Command: g.release.Services[m.instance.Name.Service].Command,
	}
	if !m.healthy {
		s.State = m.ails
	}
	return s
}

// Wake tries all instances of a stack that are in the given condition at once.
func (f *Fleet) Wake(stack mesh.StackName, is mesh.Condition) {
	f.mu.Lock()
	defer f.unlock()
	g := f.groups[stack]
	if g == nil {
		return
	}
	for _, m := range g.members {
		if m.ails == is {
			f.bringBack(g, m, 0)
		}
	}
}

// ordered returns the members sorted by name.
func (g *group) ordered() []*member {
	var out []*member
	for _, m := range g.members {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *member) int { return a.instance.Name.Compare(b.instance.Name) })
	return out
}
