package mesh

import (
	"io"
	"net/netip"
	"time"
)

// Run is a one-off command that somebody runs in a stack.
type Run struct {
	Stack  StackName
	By     KeyName
	Line   string   // the command line, which the image's shell runs, like ssh
	Words  []string // the same, split, for images without a shell
	Env    map[string]Secret
	As     ServiceName // whose limits and config vars it gets; empty: none
	TTY    bool
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Size   WindowSize // of the TTY
	Resize <-chan WindowSize
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
	Memory  int64   // bytes; 0: no limit
	CPUs    float64 // cores; 0: no limit
	Mounts  []Mount // volumes; they exist
	Labels  map[string]string
	TTY     bool
	Stdin   io.Reader         // nil: none
	Stdout  io.Writer         // with TTY, all output
	Stderr  io.Writer         // unused with TTY
	Size    WindowSize        // of the TTY
	Resize  <-chan WindowSize // with TTY; nil: never. The caller closes it.
}

// OutputSource is a container whose output is kept in the log of its stack: an instance,
// a release command, a one-off command without a terminal.
type OutputSource struct {
	ID      string // the container's
	Stack   StackName
	Name    string        // "web.1", "run.4211", "release"
	Release ReleaseNumber // of an instance; otherwise 0
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
	Ended    time.Time   // zero while it runs
	Unborn   bool        // its container exists and was never started
	Job      ServiceName // whose run it is, for one of a job; empty: none
	JobRun   int         // its number
}

// Exec is a further command in the container of a running instance.
type Exec struct {
	ID     string // the container's
	Name   string // "web.1"
	Words  []string
	Root   bool   // as root, not as the image's user
	User   string // as this user; empty: the image's
	Env    map[string]Secret
	TTY    bool
	Stdin  io.Reader         // nil: none
	Stdout io.Writer         // with TTY, all output
	Stderr io.Writer         // unused with TTY
	Size   WindowSize        // of the TTY
	Resize <-chan WindowSize // with TTY; nil: never. The caller closes it.
}

// WindowSize is the size of a terminal, in characters.
type WindowSize struct{ Width, Height int }
