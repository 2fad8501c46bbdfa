package mesh

import (
	"io"
	"net/netip"
	"time"
)

// Instance is one container of a service, as the engine reports it.
type Instance struct {
	ID         string // the container's
	Stack      StackName
	Name       InstanceName
	Release    ReleaseNumber    // whose rollout started it
	Deployment DeploymentNumber // that started it
	Spec       string           // InstanceSpec.Fingerprint of what it runs
	Addr       netip.AddrPort   // where it serves; zero unless running and in its stack's network
	State      InstanceState
	Started    time.Time // of the last start
	ExitCode   int       // of the last exit
	OOM        bool      // the last exit was the kernel's doing, out of memory
}

// InstanceState is what a container does.
type InstanceState string

// The states of an instance.
const (
	InstanceCreated InstanceState = "created"
	InstanceRunning InstanceState = "running"
	InstancePaused  InstanceState = "paused" // it answers nothing
	InstanceExited  InstanceState = "exited"
)

// Process is what a container runs instead of the image's own ENTRYPOINT and
// CMD. In the zero Process both are nil: the image's own run, untouched.
type Process struct {
	Entrypoint []string
	Cmd        []string
}

// InstanceSpec is all that the runner needs to start an instance.
type InstanceSpec struct {
	Stack       StackName
	Name        InstanceName
	Release     ReleaseNumber
	Deployment  DeploymentNumber
	Fingerprint string // equal for specs that would run the same thing; kept as a label
	Image       string // ID
	Process     Process
	Env         map[string]Secret // complete: config vars and mesh's own
	Subnet      netip.Prefix      // of the stack's network, which is made when missing
	Memory      int64             // bytes; 0: no limit
	CPUs        float64           // cores; 0: no limit
}

// Check says when an instance counts as healthy.
type Check struct {
	HTTP    bool          // must answer on Port; otherwise it must stay up for Settle
	Path    string        // what to ask for; empty: "/"
	Strict  bool          // only 2xx and 3xx count, instead of anything but 5xx
	Timeout time.Duration // for becoming healthy
	Settle  time.Duration // how long a service without HTTP must stay up
}

// OneOff is a container that runs one command and goes: run, release commands.
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

// DetachedRun is a one-off command that runs, or has run, with nobody connected.
// It is kept, ended or not, until its time is up.
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

// WindowSize is a terminal's, in characters.
type WindowSize struct{ Width, Height int }

// InstanceEvent is something that the engine saw: an instance that started or ended,
// or anything else that may have changed what runs.
type InstanceEvent struct {
	Instance Instance
	Died     bool // it ended; without it and without Changed, it started
	ByHand   bool // with Died: somebody stopped, killed or removed it, or the engine shut down
	Changed  bool // what runs may be another thing now: pause, disconnect, removal, rename
	Image    bool // with Changed: an image was removed, or lost a name; Instance is zero
	At       time.Time
}

// Traffic is what a service had to do in the last minute.
type Traffic struct {
	Requests int
	Errors   int           // that were answered with 5xx
	P50, P95 time.Duration // half of the requests, and 95 of 100, took that long at most
}

// LogQuery selects log lines of a stack.
type LogQuery struct {
	Stack    StackName
	Source   string      // "app", what instances print, or "router", a line a request; empty: app
	Service  ServiceName // empty: all
	Instance InstanceName
	Run      string    // a detached run, "run.4211", instead of instances
	Caught   func()    // called once, when what there was has been given and Follow goes on; may be nil
	Lines    int       // the last so many; negative: all
	Since    time.Time // zero: from the beginning
	Follow   bool      // go on with what comes, from instances started later too, until the context ends
}

// LogLine is one line of a stack's log.
type LogLine struct {
	At     time.Time
	Source string // "app": an instance printed it; "router", "mesh"
	Name   string // "web.1"
	Text   string // without the line end
}

// Target is an instance as the router knows it. Targets are the same when their
// IDs are: an address can be given to another container later.
type Target struct {
	ID   string
	Name InstanceName
	Addr netip.AddrPort
}

// Route is all the HTTP traffic of a stack: its hosts and where they lead.
type Route struct {
	Stack   StackName
	Hosts   []Host
	Targets []Target   // of web, and of the services of Endpoints
	Down    DownReason // why web has no targets, when that is on purpose

	Endpoints []Endpoint                 // of Hosts: what services other than web get
	Idle      map[ServiceName]DownReason // Down of those services

	FirstByte time.Duration // how long an instance may take to begin an answer; 0: the router's default
	Redirects map[Host]Host // of Hosts: requests for the one are told to go to the other
	Page      string        // HTML for browsers in maintenance; empty: the router's own
}

// DownReason says why a stack serves nothing, when it is no accident.
type DownReason string

// The reasons. With NotDown and no targets, requests wait for one.
const (
	NotDown      DownReason = ""
	NotDeployed  DownReason = "not deployed"
	StoppedStack DownReason = "stopped"
	Maintenance  DownReason = "maintenance" // wins over whatever targets there are, of all services
)

// Condition is how an instance does, as people see it in ps. Only what is Up gets
// traffic.
type Condition string

// The conditions. All but Up are on their way back: mesh mends them by itself.
const (
	Up          Condition = "up"
	Crashed     Condition = "crashed"     // it ended by itself, or for want of memory
	Failing     Condition = "failing"     // it runs, or cannot start, and fails its check
	Halted      Condition = "halted"      // somebody stopped or killed it behind mesh's back
	Paused      Condition = "paused"      // somebody paused its container
	Unreachable Condition = "unreachable" // its container is not in the network of its stack
	Missing     Condition = "missing"     // its container does not exist
	NoImage     Condition = "no image"    // its container does not exist, nor the image for another one
	Unknown     Condition = "unknown"     // the engine does not answer, and mesh has not seen it run
)

// InstanceStatus is an instance as people see it in ps.
type InstanceStatus struct {
	Name     InstanceName
	Release  ReleaseNumber
	State    Condition
	Why      string    // more of State, in a few words; may be empty
	Since    time.Time // of that state
	Crashes  int       // in a row
	ExitCode int       // of the last crash
	OOM      bool
	Next     time.Time // of the next try, when crashed
	Command  string    // as written; empty: the image's own
}

// Run is a one-off command that somebody runs in a stack.
type Run struct {
	Stack  StackName
	By     KeyName
	Line   string   // the command line, which the image's shell runs, as ssh does
	Words  []string // the same, split, for images without a shell
	Env    map[string]Secret
	TTY    bool
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Size   WindowSize // of the TTY
	Resize <-chan WindowSize
}
