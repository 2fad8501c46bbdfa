// Package deploy is the one writer of mesh. Every change to a stack goes through a
// Deployer, one change per stack at a time, and either goes live or changes nothing.
//
// It turns pushes into builds, builds and config changes into releases, and releases
// into running instances behind the router. It restarts instances that crash. When the
// server starts, it makes containers, routes and refs match the store. It leaves
// building images, running containers, routing requests and keeping records to its
// Builder, Runner, Router, Repos and Store.
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

// Options holds what a Deployer works with. All fields before Domain are required.
type Options struct {
	Store   Store
	Builder Builder
	Runner  Runner
	Router  fleet.Router
	Repos   Repos
	Logger  *slog.Logger

	Domain       string                                       // base domain: the stack blog is at blog.<Domain>
	URL          func(mesh.Host) string                       // the URL of a host, for people; nil: http://host
	Now          func() time.Time                             // nil: time.Now
	Pool         netip.Prefix                                 // the pool of the stacks' networks; zero: DefaultPool
	DiskFree     func() (uint64, error)                       // free bytes in the data directory; nil: not checked
	HostNetworks func() []netip.Prefix                        // networks of the host that subnets must not overlap; nil: none
	OnEnded      func(mesh.Deployment)                        // called for each deployment that has ended; may be nil
	OnCrash      func(mesh.StackName, mesh.InstanceStatus)    // called when an instance has crashed, with a lock held: it does not block; may be nil
	OnBuilt      func(took time.Duration, err error)          // called for each build; may be nil
	Events       Events                                       // gets mesh's own lines in the stacks' logs; nil: they are dropped
	OnDefault    func(mesh.Host)                              // called with the host that gets requests for unknown hosts, or none, when it changes; may be nil
	OnKeys       func([]mesh.Key)                             // called with all keys after one was added or removed; may be nil
	EndSessions  func(signIn string)                          // called for each removed key with its SignIn, to end its sessions; may be nil
	Ports        Ports                                        // TCP ports of the machine; nil: none is allowed
	AddonServer  AddonServer                                  // the servers of add-ons; nil: there are none
	VolumeServer VolumeServer                                 // the files of volumes; nil: there are none
	NodeServer   NodeServer                                   // the membership of nodes; nil: there is one machine
	Memory       fleet.Memory                                 // where instances were last seen; nil: not kept
	Probe        func(context.Context, netip.AddrPort) error  // reports whether something listens there; nil: dials TCP
	Compare      func(mesh.StackName) (mesh.Comparison, bool) // the traffic of both sides of a canary; nil: not known
	Reporter     Reporter                                     // shows at forges how deployments fare; nil: nowhere
	LinkKey      []byte                                       // signs the links to staged releases
	LastUse      LastUse                                      // when a stack last had a request, and whether it has one; nil: not known, and none sleeps
	Backup       BackupOptions                                // how backups are made; empty: none
	Jobs         JobOptions                                   // how jobs run
	OnStep       func(step Step, s string)                    // called at each step of a rollout, for tests that stop there; may be nil
}

// Step is a point in a deployment at which a test may kill the server.
type Step string

// The steps, in order.
const (
	StepBegun     Step = "begun"     // the deployment is recorded
	StepBuilt     Step = "built"     // the image exists
	StepParked    Step = "parked"    // the old containers have ended that new ones must not overlap with
	StepTrying    Step = "trying"    // some clients get the new release
	StepStarted   Step = "started"   // the new containers run and are healthy
	StepCommitted Step = "committed" // the release is recorded, the router not switched yet
	StepSwitched  Step = "switched"  // traffic goes to the new instances
	StepRetiring  Step = "retiring"  // the old instances are being retired
)

// Deployer changes stacks. Its methods may be called from several goroutines.
type Deployer struct {
	Options

	life context.Context // of Run; background work ends with it
	end  context.CancelCauseFunc
	work sync.WaitGroup

	fleet    *fleet.Fleet
	lanes    lanes
	names    names
	losses   losses
	claims   portClaims
	canaries canaries
	staged   staged
	forges   forges
	sleepers sleepers
	lives    lives
	addons   addonWork
	volumes  volumeWork
	nodes    sync.Mutex // held during a change of the nodes

	addonFigures addonFigures

	backups backupRuns
	jobs    jobRuns

	unknown  atomic.Pointer[[]mesh.StackName] // stacks without a record that the engine has something of, as of the last Reconcile
	detached chan struct{}                    // holds a value after a detached run was started
}

// New returns a Deployer. It supervises nothing until Run is called.
func New(o Options) *Deployer {
	if o.Now == nil {
		o.Now = time.Now
	}
	if !o.Pool.IsValid() {
		o.Pool = DefaultPool
	}
	if o.URL == nil {
		o.URL = func(h mesh.Host) string { return "http://" + string(h) }
	}
	if o.OnEnded == nil {
		o.OnEnded = func(mesh.Deployment) {}
	}
	if o.OnCrash == nil {
		o.OnCrash = func(mesh.StackName, mesh.InstanceStatus) {}
	}
	if o.OnBuilt == nil {
		o.OnBuilt = func(time.Duration, error) {}
	}
	if o.Events == nil {
		o.Events = noEvents{}
	}
	if o.OnDefault == nil {
		o.OnDefault = func(mesh.Host) {}
	}
	if o.OnKeys == nil {
		o.OnKeys = func([]mesh.Key) {}
	}
	if o.Ports == nil {
		o.Ports = noPorts{}
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
	d.backups.began = o.Now()
	d.life, d.end = context.WithCancelCause(context.Background())
	d.fleet = fleet.New(fleet.Options{
		Runner: withFiles{o.Runner, d}, Router: o.Router, Logger: o.Logger, Now: o.Now, Memory: o.Memory, Probe: o.Probe,
		Host: d.host, Note: d.note, Background: d.background,
		Lost: d.lost, Crashed: o.OnCrash, LookImages: d.lookImages, Unsure: d.adoptLater,
		Present: func(ctx context.Context, id string) (bool, error) { return d.Builder.Present(ctx, id) },
	})
	return d
}

// Run watches the engine, restarts instances that crash, and adopts the changes after
// an outage of the engine, until ctx ends. It then waits for the background work, which
// no longer touches containers: instances not yet retired by then are retired at the
// next start.
func (d *Deployer) Run(ctx context.Context) error {
	d.background(d.expireRuns)
	d.background(d.expirePreviews)
	d.background(d.resumeForges)
	d.background(d.keepAsleep)
	d.background(d.fleet.Run)
	d.background(d.keepImages)
	d.background(d.expireAddons)
	d.background(d.keepAddons)
	d.background(d.expireVolumes)
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

// host returns the host name of a stack below the base domain.
func (d *Deployer) host(s mesh.StackName) mesh.Host {
	return mesh.Host(string(s) + "." + d.Domain)
}

// url returns the URL of a stack.
func (d *Deployer) url(s mesh.StackName) string { return d.URL(d.host(s)) }

// background runs work that outlives the call that started it, until Run ends.
func (d *Deployer) background(fn func(context.Context)) {
	d.work.Go(func() { fn(d.life) })
}
