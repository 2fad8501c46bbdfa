// Package deploy is the one writer of mesh: whatever changes a stack goes through
// a Deployer, one change at a time per stack, and is live or has changed nothing.
//
// It turns pushes into builds, builds and config changes into releases, and
// releases into running instances behind the router; it restarts what crashes,
// and when the server starts it makes containers, routes and refs equal to the
// store. How images are built, containers run, requests routed and records kept
// is left to what it is given: Builder, Runner, Router, Repos and Store.
//
//	d := deploy.New(deploy.Options{…})
//	d.Reconcile(ctx)      // before anything listens
//	go d.Run(ctx)         // supervises until ctx ends
//	err := d.Push(ctx, mesh.Push{Stack: "blog", …}, out)
package deploy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"mesh"
)

// Options is what a Deployer works with. All but the settings at the end must be
// given.
type Options struct {
	Store   Store
	Builder Builder
	Runner  Runner
	Router  Router
	Repos   Repos
	Logger  *slog.Logger

	Domain   string                                      // base domain: the stack blog is at blog.<Domain>
	URL      func(mesh.Host) string                      // how people reach a host; nil: http://host
	Now      func() time.Time                            // nil: time.Now
	Pool     netip.Prefix                                // the stacks' networks are cut from it; zero: 10.213.0.0/16
	DiskFree func() (uint64, error)                      // bytes free in the data directory; nil: not checked
	Taken    func() []netip.Prefix                       // networks of the host that subnets must not meet; nil: none
	Ended    func(mesh.Deployment)                       // told of each deployment that has ended; nil: nobody is
	Built    func(took time.Duration, err error)         // told of each build; nil: nobody is
	Events   Events                                      // nil: nothing is told to the stacks' logs
	ShutOut  func(fingerprint string)                    // told of each key that has been removed, to end its sessions; nil: nobody
	Memory   Memory                                      // where instances were last seen; nil: that is not kept
	Probe    func(context.Context, netip.AddrPort) error // tells whether something listens there; nil: by a TCP connection
	Reached  func(step Step, s string)                   // told of each step of a rollout, for tests that stop there; nil: nobody
}

// Step is a point in a deployment at which the server may be killed in a test.
type Step string

// The steps, in order.
const (
	StepBegun     Step = "begun"     // the deployment is recorded
	StepBuilt     Step = "built"     // the image is there
	StepStarted   Step = "started"   // the new containers run and are healthy
	StepCommitted Step = "committed" // the release is recorded, the router not yet switched
	StepSwitched  Step = "switched"  // traffic goes to the new instances
	StepRetiring  Step = "retiring"  // the old instances are on their way out
)

// minFree is how much room there must be before a push is taken: a full disk in
// the middle of one helps nobody.
const minFree = 256 << 20

// Deployer changes stacks. Its methods may be called from several goroutines.
type Deployer struct {
	Options

	life context.Context // of Run; background work ends with it
	end  context.CancelCauseFunc
	work sync.WaitGroup

	mu     sync.Mutex
	lanes  map[mesh.StackName]*lane
	fleets map[mesh.StackName]*fleet
	// Containers that are started and in no fleet yet, and which of them have died.
	starting map[string]bool
	// Stacks whose record is gone and whose remains are being removed: their names
	// are not free yet.
	destroying map[mesh.StackName]bool
	held       map[mesh.StackName][]mesh.Instance // of stacks that cannot be read: where their requests go
	unknown    []mesh.StackName                   // what the engine has of no stack, as of the last Reconcile
	// The old and the new names of stacks that are being renamed: no deployment may
	// begin there.
	renaming map[mesh.StackName]bool

	detached chan struct{} // holds one when a detached run has been started
	moved    chan struct{} // holds one when an instance was seen to come, to go, or at another address
	changed  chan struct{} // holds one when what runs may be another thing than what is known
	images   atomic.Bool   // with changed: the images, too
	remakes  chan struct{} // holds one when an image is to be made again
	losses   map[mesh.StackName]*loss
	lives    map[mesh.StackName]life // of those that somebody follows
	died     map[string]mesh.InstanceEvent
	retiring map[string]chan struct{} // by container: closed when it is gone
}

// New returns a Deployer that supervises nothing yet.
func New(o Options) *Deployer {
	if o.Now == nil {
		o.Now = time.Now
	}
	if !o.Pool.IsValid() {
		o.Pool = netip.MustParsePrefix("10.213.0.0/16")
	}
	if o.URL == nil {
		o.URL = func(h mesh.Host) string { return "http://" + string(h) }
	}
	if o.Ended == nil {
		o.Ended = func(mesh.Deployment) {}
	}
	if o.Built == nil {
		o.Built = func(time.Duration, error) {}
	}
	if o.Events == nil {
		o.Events = noEvents{}
	}
	if o.ShutOut == nil {
		o.ShutOut = func(string) {}
	}
	if o.Probe == nil {
		o.Probe = connect
	}
	if o.Reached == nil {
		o.Reached = func(Step, string) {}
	}
	d := &Deployer{Options: o, lanes: map[mesh.StackName]*lane{}, fleets: map[mesh.StackName]*fleet{}, starting: map[string]bool{}, destroying: map[mesh.StackName]bool{}, held: map[mesh.StackName][]mesh.Instance{}, renaming: map[mesh.StackName]bool{}, died: map[string]mesh.InstanceEvent{}, retiring: map[string]chan struct{}{}}
	d.detached, d.changed = make(chan struct{}, 1), make(chan struct{}, 1)
	d.moved = make(chan struct{}, 1)
	d.remakes, d.losses, d.lives = make(chan struct{}, 1), map[mesh.StackName]*loss{}, map[mesh.StackName]life{}
	d.life, d.end = context.WithCancelCause(context.Background())
	return d
}

// Run watches the engine, restarts what crashes and adopts what an engine that
// was away has changed, until ctx ends. It then waits for the background work,
// which leaves containers alone: what has not been retired by then is retired at
// the next start.
func (d *Deployer) Run(ctx context.Context) error {
	d.background(d.expireRuns)
	d.background(d.keepLooking)
	d.background(d.keepImages)
	d.background(d.keepMemory)
	err := d.Runner.Watch(ctx, d.event, func() {
		if err := d.Reconcile(ctx); err != nil && ctx.Err() == nil {
			d.Logger.Error("not reconciled after the engine was away", "err", err)
		}
	})
	d.end(mesh.Errorf(mesh.Cancelled, "mesh was stopped").WithHint("push again"))
	d.work.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// host is the name that a stack has by itself.
func (d *Deployer) host(s mesh.StackName) mesh.Host {
	return mesh.Host(string(s) + "." + d.Domain)
}

// url is where people find a stack.
func (d *Deployer) url(s mesh.StackName) string { return d.URL(d.host(s)) }

// AdmitPush tells whether a key may push to a stack, which need not exist, and
// whether a push could succeed at all, before anything is received.
func (d *Deployer) AdmitPush(ctx context.Context, key mesh.Key, stack mesh.StackName) error {
	st, err := d.Store.Stack(ctx, stack)
	exists := err == nil
	if key.May(mesh.AccessDeploy, stack) {
		if err := d.free(stack); err != nil {
			return err
		}
	}
	if err != nil && !errors.Is(err, mesh.NoStack) {
		return err
	}
	switch {
	case exists && !key.May(mesh.AccessRead, stack), !exists && !key.May(mesh.AccessDeploy, stack):
		return mesh.Errorf(mesh.NoStack, "no stack is named %q", stack).WithHint("list those that your key may see with: ssh mesh stacks")
	case !key.May(mesh.AccessDeploy, stack):
		return mesh.Errorf(mesh.Denied, "the key %q may read %s but not push to it", key.Name, stack).WithHint("ask an admin for the deploy role")
	}
	if st.Lock != nil {
		return locked(st)
	}
	if d.DiskFree != nil {
		if free, err := d.DiskFree(); err == nil && free < minFree {
			return mesh.Errorf(mesh.Unavailable, "the server's disk is full: %d MB free, a push needs %d MB", free>>20, minFree>>20).
				WithHint("make room on the server, for example with: docker system prune")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return d.Runner.Ping(ctx)
}

// AdmitRef tells whether a ref may move: the deploy branch and tags may.
func (d *Deployer) AdmitRef(ctx context.Context, key mesh.Key, stack mesh.StackName, ref mesh.RefUpdate) error {
	if !key.May(mesh.AccessDeploy, stack) {
		return mesh.Errorf(mesh.Denied, "the key %q may not push to %s", key.Name, stack)
	}
	if ref.Tag() != "" {
		return nil
	}
	if ref.Branch() == "" {
		return mesh.Errorf(mesh.Invalid, "only branches and tags can be pushed, not %s", mesh.Clip(ref.Ref, 80))
	}
	st, err := d.Store.Stack(ctx, stack)
	if err != nil && !errors.Is(err, mesh.NoStack) {
		return err
	}
	branch := st.Settings.Branch
	switch {
	case branch != "" && ref.Branch() != branch && ref.New == "":
		return mesh.Errorf(mesh.NotFound, "there is no branch %s here", mesh.Clip(ref.Branch(), 60))
	case ref.New == "":
		return mesh.Errorf(mesh.Denied, "the deploy branch cannot be deleted").WithHint("to remove the stack: ssh mesh stacks:destroy -a %s --confirm %s", stack, stack)
	case branch != "" && ref.Branch() != branch:
		return mesh.Errorf(mesh.Denied, "%s deploys %s only: git push mesh %s:%s", stack, branch, mesh.Clip(ref.Branch(), 60), branch).
			WithHint("or change the deploy branch: ssh mesh build:set -a %s branch=%s", stack, mesh.Clip(ref.Branch(), 60))
	}
	return nil
}

// RepoState says what the deploy branch of a stack has to point to: the commit of
// the current release. When the current release has no commit in the stack's own
// repository (it was promoted, uploaded, or is a prebuilt image), or its image is
// lost, the branch must be absent. git then always sends a push, also of the commit
// that was deployed last: git calls a branch that stands at that commit already
// "Everything up-to-date", and mesh would never hear of the push. A commit of mesh's
// own on the branch would not do: a plain push would not be a fast-forward, and git
// refuses that before it asks the server.
func (d *Deployer) RepoState(ctx context.Context, stack mesh.StackName) (mesh.RepoState, error) {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return mesh.RepoState{}, err
	}
	state := mesh.RepoState{Branch: st.Settings.Branch}
	if st.Current == 0 {
		return state, nil
	}
	r, err := d.Store.Release(ctx, stack, st.Current)
	if err != nil {
		return mesh.RepoState{}, err
	}
	if r.Here() && !d.unavailable(stack, r.Number) {
		state.Commit = r.Commit
	}
	return state, nil
}

// background runs work that outlives the call that asked for it, until Run ends.
func (d *Deployer) background(fn func(context.Context)) {
	d.work.Go(func() { fn(d.life) })
}

// sleep waits, or returns false when ctx ends first.
func sleep(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
