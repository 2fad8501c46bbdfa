// Package fleet knows what runs of each stack and where its traffic goes, and keeps
// the two equal: an instance that ends leaves the routes and is brought back, one that
// is started and healthy gets traffic.
//
// It starts, checks, supervises and retires instances, and tells the router of every
// change. What should run, and why, is decided and recorded by deploy: a Fleet is told
// (Create, Install, Adopt, Update, Drop) and has no store.
//
//	f := fleet.New(fleet.Options{…})
//	go f.Run(ctx)                                 // looks at the engine until ctx ends
//	keep, start := f.Split("shop", specs, anew)   // what runs already
//	started, err := f.StartAll(ctx, start, …)     // beside it, and checked
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
	// Start creates and starts one container, making the stack's network first
	// when it is missing, and returns it with its address. Nothing is left when it
	// fails or ctx ends. A subnet that is taken is a Conflict.
	Start(ctx context.Context, spec mesh.InstanceSpec) (mesh.Instance, error)
	// Check waits until the instance is healthy. It returns what it saw, in a few
	// words ("GET / 200"), or a *mesh.Error that says why the instance is not, with
	// its last log lines as output. progress, which may be nil, is called with a
	// line when there is something to say meanwhile.
	Check(ctx context.Context, in mesh.Instance, c mesh.Check, progress func(string)) (string, error)
	// Stop sends SIGTERM, waits, sends SIGKILL, and removes the container with its
	// anonymous volumes. A container that is gone already is no error.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Revive makes a container run and be reachable again that has exited, is paused, or
	// is not in its stack's network, and returns it as it is then: its address may be a
	// new one. The error is NotFound when another one has to take its place.
	Revive(ctx context.Context, id string) (mesh.Instance, error)
	// Look returns the instances of all stacks, in whatever state, at a cost that does
	// not grow with their number. Started and OOM may be missing.
	Look(ctx context.Context) ([]mesh.Instance, error)
	// Ping tells whether the engine answers.
	Ping(ctx context.Context) error
}

// Router sends traffic to instances. Switch and Remove are called one at a time, and
// no method waits for a request.
type Router interface {
	// Switch makes r all the traffic that the stack gets. Requests that come after
	// it has returned see r only. Hosts that r leaves out lead nowhere.
	Switch(r mesh.Route)
	// Remove forgets the stack.
	Remove(stack mesh.StackName)
	// Drain returns when no request or upgraded connection is left on the target,
	// which no route has any more. At ctx's deadline it ends the requests that are
	// left, and after the given time the upgraded connections; when ctx ends
	// otherwise, all. It returns an error when it had to.
	Drain(ctx context.Context, targetID string, upgraded time.Duration) error
}

// Options is what a Fleet works with. All but Memory and Probe must be set. Functions
// are called without a lock of the Fleet held, unless they say otherwise.
type Options struct {
	Runner Runner
	Router Router
	Logger *slog.Logger
	Now    func() time.Time
	Memory Memory                                      // where instances were last seen; nil: that is not kept
	Probe  func(context.Context, netip.AddrPort) error // tells whether something listens there; nil: by a TCP connection

	// Host returns the name that a stack has by itself. It is called with a lock held.
	Host func(mesh.StackName) mesh.Host
	// Note puts a line into a stack's log, about an instance. It does not wait, and is
	// called with a lock held.
	Note func(stack mesh.StackName, about, format string, args ...any)
	// Background runs work that outlives the call that asked for it. It does not wait,
	// and is called with a lock held. The context ends with the server.
	Background func(func(context.Context))
	// Present tells whether an image is in the engine.
	Present func(ctx context.Context, imageID string) (bool, error)
	// Lost is told that instances of a release cannot start because its image is gone.
	Lost func(stack mesh.StackName, n mesh.ReleaseNumber)
	// LookImages compares the images with what the releases need. It is called when the
	// engine has removed one, and every few minutes.
	LookImages func(ctx context.Context)
	// Unsure is told of a stack that was adopted while the engine was away: it must be
	// adopted again. It does not wait, and is called with a lock held.
	Unsure func(stack mesh.StackName)
}

// Fleet is what runs of all stacks. Its methods may be called from several goroutines.
type Fleet struct {
	Options

	turn sync.Mutex // held around calls of the router, which come one at a time; before mu

	mu     sync.Mutex
	groups map[mesh.StackName]*group
	held   map[mesh.StackName]mesh.Route // of stacks whose record cannot be read
	kept   map[mesh.StackName][]mesh.Instance
	// Containers that are started and in no group yet, and which of them have died.
	starting map[string]bool
	died     map[string]mesh.InstanceEvent
	leaving  map[string]chan struct{} // by container, on their way out: closed when it is gone
	dirty    map[mesh.StackName]bool  // what the router has to be told of; see unlock

	moved   chan struct{} // holds one when an instance was seen to come, to go, or at another address
	changed chan struct{} // holds one when what runs may be another thing than what is known
	images  atomic.Bool   // with changed: the images, too
}

// group is what runs of one stack: one member a slot of its current release. It is
// guarded by Fleet.mu.
type group struct {
	since   time.Time // when it became what it is; a look at the engine begun before is out of date
	stack   mesh.Stack
	release mesh.Release
	members map[mesh.InstanceName]*member
	was     *group // of the stack's old name, until its instances retire
}

// member is the instance in a slot.
type member struct {
	spec     mesh.InstanceSpec // what a container that takes its place runs
	instance mesh.Instance
	healthy  bool
	ails     mesh.Condition // what is wrong, when not healthy
	why      string         // more of that, for people
	since    time.Time      // of the present state
	crashes  int            // of the app's own, in a row
	fails    int            // tries in a row that failed for other reasons than the app
	next     time.Time      // of the next try, when not healthy
	busy     bool           // somebody is bringing it back
	wake     chan struct{}  // lets whoever is busy try at once
	recalled bool           // it was last seen so; the engine has not been asked
	ended    int            // looks in a row that found it ended, without an event that says so
}

// New returns a Fleet in which nothing runs. Background work begins with its first
// change, looks at the engine with Run.
func New(o Options) *Fleet {
	if o.Probe == nil {
		o.Probe = connect
	}
	return &Fleet{
		Options: o, groups: map[mesh.StackName]*group{}, held: map[mesh.StackName]mesh.Route{}, kept: map[mesh.StackName][]mesh.Instance{},
		starting: map[string]bool{}, died: map[string]mesh.InstanceEvent{}, leaving: map[string]chan struct{}{},
		moved: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
}

// Run looks at what runs and saves where it is, until ctx ends.
func (f *Fleet) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { f.keepLooking(ctx) })
	all.Go(func() { f.keepMemory(ctx) })
	all.Wait()
}

// Create takes in a stack of which nothing runs yet.
func (f *Fleet) Create(st mesh.Stack) {
	f.mu.Lock()
	defer f.unlock()
	f.putLocked(&group{stack: st, members: map[mesh.InstanceName]*member{}})
}

// putLocked makes g what runs of its stack.
func (f *Fleet) putLocked(g *group) {
	name := g.stack.Name
	delete(f.held, name)
	delete(f.kept, name)
	f.groups[name] = g
	f.markLocked(name)
}

// Drop forgets a stack: no host leads to it any more. Its instances are left to the
// caller.
func (f *Fleet) Drop(stack mesh.StackName) {
	f.mu.Lock()
	defer f.unlock()
	delete(f.groups, stack)
	delete(f.held, stack)
	delete(f.kept, stack)
	f.markLocked(stack)
}

// Has tells whether anything is known of what a stack runs.
func (f *Fleet) Has(stack mesh.StackName) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.groups[stack] != nil
}

// Current returns the release that a stack runs, and whether it is stopped. ok is false
// when nothing is known of it.
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

// Status returns what runs of a stack, in order.
func (f *Fleet) Status(stack mesh.StackName) []mesh.InstanceStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.groups[stack]
	if g == nil {
		return nil
	}
	var out []mesh.InstanceStatus
	for _, m := range g.ordered() {
		s := mesh.InstanceStatus{
			Name: m.instance.Name, Release: m.instance.Release, State: mesh.Up, Why: m.why, Since: m.since, Crashes: m.crashes,
			ExitCode: m.instance.ExitCode, OOM: m.instance.OOM, Next: m.next, Command: g.release.Services[m.instance.Name.Service].Command,
		}
		if !m.healthy {
			s.State = m.ails
		}
		out = append(out, s)
	}
	return out
}

// Wake has all instances of a stack that are in the given condition tried at once.
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

// ordered are the members by name.
func (g *group) ordered() []*member {
	var out []*member
	for _, m := range g.members {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *member) int { return a.instance.Name.Compare(b.instance.Name) })
	return out
}
