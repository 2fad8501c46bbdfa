package mesh

import (
	"net/netip"
	"time"
)

// Instance is one container of a service, as the engine reports it.
type Instance struct {
	ID         string // of the container
	Stack      StackName
	Name       InstanceName
	Release    ReleaseNumber    // the release whose rollout started it
	Deployment DeploymentNumber // the deployment that started it
	Spec       string           // InstanceSpec.Fingerprint of what it runs
	Addr       netip.AddrPort   // where it serves; zero unless it is running and in its stack's network
	Inside     netip.Addr       // its address in its stack's network; invalid as Addr is
	Node       NodeName         // where it runs; empty: on this machine, which is the only one
	Memory     int64            // its limits: see InstanceSpec
	CPUs       float64
	State      InstanceState
	Started    time.Time // of the last start
	ExitCode   int       // of the last exit
	OOM        bool      // the kernel killed it because memory ran out
}

// Shared reports whether it is in a network across nodes: it is then reached at its node, and
// not at its address in there.
func (in Instance) Shared() bool { return in.Inside.IsValid() && in.Addr.Addr() != in.Inside }

// InstanceState is the state of a container.
type InstanceState string

// The states of an instance.
const (
	InstanceCreated InstanceState = "created"
	InstanceRunning InstanceState = "running"
	InstancePaused  InstanceState = "paused" // it answers nothing
	InstanceExited  InstanceState = "exited"
)

// Process is what a container runs instead of the image's own ENTRYPOINT and CMD. In
// the zero Process both are nil: the image's own run, unchanged.
type Process struct {
	Entrypoint []string
	Cmd        []string
}

// InstanceSpec is everything that the runner needs to start an instance.
type InstanceSpec struct {
	Stack       StackName
	Name        InstanceName
	Release     ReleaseNumber
	Deployment  DeploymentNumber
	Fingerprint string // equal for specs that would run the same; stored as a label
	Image       string // ID
	Process     Process
	Env         map[string]Secret // complete: config vars and mesh's own
	Subnet      netip.Prefix      // of the stack's network, which is created if missing
	Memory      int64             // bytes; 0: no limit
	CPUs        float64           // cores; 0: no limit
	Mounts      []Mount           // volumes; they exist
	On          []string          // labels that its node must have: "zone=a"
}

// InstanceEvent is an event of the engine: an instance that started or ended, or
// anything else that may have changed the running instances.
type InstanceEvent struct {
	Instance Instance
	Died     bool // it ended; without Died and Changed, it started
	ByHand   bool // with Died: somebody stopped, killed or removed it, or the engine shut down
	Lost     bool // with Died: the machine that it ran on does not answer any more
	Changed  bool // the running instances may have changed: pause, disconnect, removal, rename
	Image    bool // with Changed: an image was removed, or lost a name; Instance is zero
	At       time.Time
}

// Condition is the condition of an instance, as people see it in ps. Only an Up
// instance gets traffic.
type Condition string

// The conditions. mesh repairs all but Up by itself.
const (
	Up          Condition = "up"
	Crashed     Condition = "crashed"     // it ended by itself, or for lack of memory
	Failing     Condition = "failing"     // it runs, or cannot start, and fails its check
	Halted      Condition = "halted"      // somebody stopped or killed it without mesh
	Paused      Condition = "paused"      // its container was paused
	Unreachable Condition = "unreachable" // its container is not in the network of its stack
	Missing     Condition = "missing"     // its container does not exist
	NoImage     Condition = "no image"    // neither its container nor the image for another one exists
	Unknown     Condition = "unknown"     // the engine does not answer, and mesh has not seen it run
)

// InstanceStatus is an instance as people see it in ps.
type InstanceStatus struct {
	Name     InstanceName
	ID       string // of the container
	Node     NodeName
	Release  ReleaseNumber
	State    Condition
	Why      string    // details of State, in a few words; may be empty
	Since    time.Time // of that state
	Crashes  int       // in a row
	ExitCode int       // of the last crash
	OOM      bool
	Next     time.Time // of the next try, if crashed
	Command  string    // as written; empty: the image's own
}
