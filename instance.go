package mesh

import (
	"io"
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
	State      InstanceState
	Started    time.Time // of the last start
	ExitCode   int       // of the last exit
	OOM        bool      // the kernel killed it because memory ran out
}

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
}

// Check defines when an instance counts as healthy.
type Check struct {
	HTTP    bool          // must answer on Port; otherwise it must stay up for Settle
	Path    string        // the path to request; empty: "/"
	Strict  bool          // only 2xx and 3xx count, instead of anything but 5xx
	Timeout time.Duration // time to become healthy
	Settle  time.Duration // how long a service without HTTP must stay up
}

// OneOff is a container that runs one command and is then removed: run, release
// commands.
type OneOff struct {
	Stack   StackName
	Name    string // "run.1234", "release"
	Image   string // ID
	Process Process
	Env     map[string]Secret
	Subnet  netip.Prefix
	Labels  map[string]string
	TTY     bool
	Stdin   io.Reader         // nil: none
	Stdout  io.Writer         // with TTY, all output
	Stderr  io.Writer         // unused with TTY
	Size    WindowSize        // of the TTY
	Resize  <-chan WindowSize // with TTY; nil: never. The caller closes it.
}

// DetachedRun is a one-off command that runs, or ran, without a client. It is kept,
// ended or not, until its time is up.
type DetachedRun struct {
	Stack    StackName
	Name     string // "run.4211"
	ID       string // the container's
	By       KeyName
	Command  string // as written
	Started  time.Time
	Until    time.Time // when it is ended and removed
	Running  bool
	ExitCode int // once it has ended
	OOM      bool
}

// Exec is a further command in the container of a running instance.
type Exec struct {
	ID     string // the container's
	Name   string // "web.1"
	Words  []string
	TTY    bool
	Stdin  io.Reader         // nil: none
	Stdout io.Writer         // with TTY, all output
	Stderr io.Writer         // unused with TTY
	Size   WindowSize        // of the TTY
	Resize <-chan WindowSize // with TTY; nil: never. The caller closes it.
}

// WindowSize is the size of a terminal, in characters.
type WindowSize struct{ Width, Height int }

// InstanceEvent is an event of the engine: an instance that started or ended, or
// anything else that may have changed the running instances.
type InstanceEvent struct {
	Instance Instance
	Died     bool // it ended; without Died and Changed, it started
	ByHand   bool // with Died: somebody stopped, killed or removed it, or the engine shut down
	Changed  bool // the running instances may have changed: pause, disconnect, removal, rename
	Image    bool // with Changed: an image was removed, or lost a name; Instance is zero
	At       time.Time
}

// Traffic is the traffic of a service in the last minute.
type Traffic struct {
	Requests int
	Errors   int           // answered with 5xx
	P50, P95 time.Duration // half of the requests, and 95 of 100, took at most that long
}

// LogQuery selects log lines of a stack.
type LogQuery struct {
	Stack    StackName
	Source   string      // "app", the output of instances, or "router", a line per request; empty: app
	Service  ServiceName // empty: all
	Instance InstanceName
	Run      string    // a detached run, "run.4211", instead of instances
	Caught   func()    // called once, when the existing lines have been passed on and Follow continues; may be nil
	Lines    int       // the last lines; negative: all
	Since    time.Time // zero: from the beginning
	Follow   bool      // continue with new lines, including those of instances that start later, until the context ends
}

// LogLine is one line of a stack's log.
type LogLine struct {
	At     time.Time
	Source string // "app": an instance printed it; "router", "mesh"
	Name   string // "web.1"
	Text   string // without the line end
}

// Target is an instance as the router sees it. Targets with the same ID are the
// same: an address can later belong to another container.
type Target struct {
	ID   string
	Name InstanceName
	Addr netip.AddrPort
}

// Route is all HTTP traffic of a stack: its hosts and where they lead.
type Route struct {
	Stack   StackName
	Hosts   []Host
	Targets []Target   // of web, and of the services of Endpoints
	Down    DownReason // why web has no targets, if that is intended

	Endpoints []Endpoint                 // of Hosts: what services other than web get
	Idle      map[ServiceName]DownReason // Down of those services

	FirstByte time.Duration // how long an instance may take to begin an answer; 0: the router's default
	Redirects map[Host]Host // of Hosts: requests for the first are redirected to the second
	Page      string        // HTML for browsers in maintenance; empty: the router's own
}

// DownReason is the reason why a stack serves nothing, if that is intended.
type DownReason string

// The reasons. With NotDown and no targets, requests wait for one.
const (
	NotDown      DownReason = ""
	NotDeployed  DownReason = "not deployed"
	StoppedStack DownReason = "stopped"
	Maintenance  DownReason = "maintenance" // overrides all targets, of all services
)

// Condition is the condition of an instance, as people see it in ps. Only an Up
// instance gets traffic.
type Condition string

// The conditions. mesh repairs all but Up by itself.
const (
	Up          Condition = "up"
	Crashed     Condition = "crashed"     // it ended by itself, or for lack of memory
	Failing     Condition = "failing"     // it runs, or cannot start, and fails its check
	Halted      Condition = "halted"      // somebody stopped or killed it without mesh
	Paused      Condition = "paused"      // somebody paused its container
	Unreachable Condition = "unreachable" // its container is not in the network of its stack
	Missing     Condition = "missing"     // its container does not exist
	NoImage     Condition = "no image"    // neither its container nor the image for another one exists
	Unknown     Condition = "unknown"     // the engine does not answer, and mesh has not seen it run
)

// InstanceStatus is an instance as people see it in ps.
type InstanceStatus struct {
	Name     InstanceName
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

// Run is a one-off command that somebody runs in a stack.
type Run struct {
	Stack  StackName
	By     KeyName
	Line   string   // the command line, which the image's shell runs, like ssh
	Words  []string // the same, split, for images without a shell
	Env    map[string]Secret
	TTY    bool
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Size   WindowSize // of the TTY
	Resize <-chan WindowSize
}
