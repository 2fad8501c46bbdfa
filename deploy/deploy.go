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
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// Options is what a Deployer works with. All but the settings at the end must be
// given.
type Options struct {
	Store   Store
	Builder Builder
	Runner  Runner
	Router  fleet.Router
	Repos   Repos
	Logger  *slog.Logger

	Domain       string                                      // base domain: the stack blog is at blog.<Domain>
	URL          func(mesh.Host) string                      // how people reach a host; nil: http://host
	Now          func() time.Time                            // nil: time.Now
	Pool         netip.Prefix                                // the stacks' networks are cut from it; zero: 10.213.0.0/16
	DiskFree     func() (uint64, error)                      // bytes free in the data directory; nil: not checked
	HostNetworks func() []netip.Prefix                       // networks of the host that subnets must not meet; nil: none
	OnEnded      func(mesh.Deployment)                       // told of each deployment that has ended; nil: nobody is
	OnBuilt      func(took time.Duration, err error)         // told of each build; nil: nobody is
	Events       Events                                      // nil: nothing is told to the stacks' logs
	EndSessions  func(fingerprint string)                    // told of each key that has been removed, to end its sessions; nil: nobody
	Memory       fleet.Memory                                // where instances were last seen; nil: that is not kept
	Probe        func(context.Context, netip.AddrPort) error // tells whether something listens there; nil: by a TCP connection
	OnStep       func(step Step, s string)                   // told of each step of a rollout, for tests that stop there; nil: nobody
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

// Deployer changes stacks. Its methods may be called from several goroutines.
type Deployer struct {
	Options

	life context.Context // of Run; background work ends with it
	end  context.CancelCauseFunc
	work sync.WaitGroup

	fleet  *fleet.Fleet
	lanes  lanes
	names  names
	losses losses
	lives  lives

	unknown  atomic.Pointer[[]mesh.StackName] // what the engine has of no stack, as of the last Reconcile
	detached chan struct{}                    // holds one when a detached run has been started
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
	if o.OnEnded == nil {
		o.OnEnded = func(mesh.Deployment) {}
	}
	if o.OnBuilt == nil {
		o.OnBuilt = func(time.Duration, error) {}
	}
	if o.Events == nil {
		o.Events = noEvents{}
	}
	if o.EndSessions == nil {
		o.EndSessions = func(string) {}
	}
	if o.OnStep == nil {
		o.OnStep = func(Step, string) {}
	}
	d := &Deployer{
		Options: o, lanes: lanes{by: map[mesh.StackName]*lane{}}, names: newNames(),
		losses: newLosses(o.Now), detached: make(chan struct{}, 1),
	}
	d.life, d.end = context.WithCancelCause(context.Background())
	d.fleet = fleet.New(fleet.Options{
		Runner: o.Runner, Router: o.Router, Logger: o.Logger, Now: o.Now, Memory: o.Memory, Probe: o.Probe,
		Host: d.host, Note: d.note, Background: d.background,
		Lost: d.lost, LookImages: d.lookImages, Unsure: d.adoptLater,
		Present: func(ctx context.Context, id string) (bool, error) { return d.Builder.Present(ctx, id) },
	})
	return d
}

// Run watches the engine, restarts what crashes and adopts what an engine that
// was away has changed, until ctx ends. It then waits for the background work,
// which leaves containers alone: what has not been retired by then is retired at
// the next start.
func (d *Deployer) Run(ctx context.Context) error {
	d.background(d.expireRuns)
	d.background(d.fleet.Run)
	d.background(d.keepImages)
	err := d.Runner.Watch(ctx, d.fleet.Event, func() {
		if err := d.Reconcile(ctx); err != nil && ctx.Err() == nil {
			d.Logger.Error("reconciling failed after the engine came back", "err", err)
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

// background runs work that outlives the call that asked for it, until Run ends.
func (d *Deployer) background(fn func(context.Context)) {
	d.work.Go(func() { fn(d.life) })
}
