package mesh

import (
	"context"
	"io"
)

// Request is one command line that a person or a program sent, and the streams of
// its session.
type Request struct {
	Key    Key
	User   string // the SSH user name, which may name a stack
	Line   string // the command line, quoted as a shell would
	Stdin  io.Reader
	Upload io.Reader // Stdin for a command that reads it completely: a read may fail after a long silence; nil: Stdin
	Stdout io.Writer
	Stderr io.Writer
	Flush  func(context.Context) // returns when the client has received everything written so far; nil: unknown
	Env    map[string]string     // EnvNoColor and EnvScreen

	TTY    bool
	Size   WindowSize
	Resize <-chan WindowSize // with TTY

	// Parted is called once the command changes nothing any more and only needs its
	// streams, so that another process may take over before it ends. It may be nil.
	Parted func()
}

// The variables that a client may set for a command.
const (
	// EnvNoColor asks for no colours (https://no-color.org).
	EnvNoColor = "NO_COLOR"
	// EnvScreen is set by the client if a person looks at its output: it is the
	// width of their terminal in characters.
	EnvScreen = "MESH_SCREEN"
)
