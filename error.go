package mesh

import (
	"errors"
	"fmt"
)

// Kind is the kind of an error, for code that must distinguish them. Each Kind is an
// error, so test for it with errors.Is(err, mesh.NoStack).
type Kind string

const (
	// Failed is work that was tried and did not succeed: a build, a check.
	Failed Kind = "failed"
	// Invalid is input that breaks a rule. Exit status 2.
	Invalid Kind = "invalid"
	// NoStack is a stack that does not exist or that the key may not see. Exit
	// status 20.
	NoStack Kind = "no such stack"
	// NotFound is any other thing that does not exist.
	NotFound Kind = "not found"
	// Conflict is a change that the current state forbids: something already exists,
	// is locked, or has changed meanwhile.
	Conflict Kind = "conflict"
	// Denied is something that the key may not do.
	Denied Kind = "denied"
	// Unavailable is something that mesh needs and cannot reach or has run out of:
	// the Docker Engine, disk.
	Unavailable Kind = "unavailable"
	// Damaged is a damaged record of mesh's own. Whatever depends on it is left
	// unchanged.
	Damaged Kind = "damaged"
	// Cancelled is work given up because the person who wanted it left or cancelled
	// it. Exit status 130.
	Cancelled Kind = "cancelled"
)

func (k Kind) Error() string { return string(k) }

// Error is a fault that a person can fix. Every other error is mesh's own and goes
// to its log.
type Error struct {
	Kind   Kind
	Text   string   // one line: what is wrong with the input, quoting it
	Hint   string   // what to type or change next; may be empty
	Output []string // evidence: the last lines of the culprit's output
	Err    error    // the cause, for the log; may be nil
}

// Errorf makes an Error without a hint. A %w in the format becomes its cause.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Text: err.Error(), Err: errors.Unwrap(err)}
}

// WithHint sets the hint and returns e.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

func (e *Error) Error() string { return e.Text }

// Unwrap makes both the kind and the cause visible to errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Kind, e.Err}
	}
	return []error{e.Kind}
}

// Reported is an error that its person has already seen in the output of a
// deployment: callers need not print it again.
type Reported struct{ Err error }

func (r *Reported) Error() string { return r.Err.Error() }

// Unwrap returns the error itself.
func (r *Reported) Unwrap() error { return r.Err }

// ExitCode is the exit status of a command that has failed and has explained why
// itself, for example one that ran in a container.
type ExitCode int

func (c ExitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

// ExitStatus returns the exit status of a command or a client for err: 0 for nil,
// the code of an ExitCode, and 1 for errors without their own status
// (docs/commands.md).
func ExitStatus(err error) int {
	var code ExitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, Invalid):
		return 2
	case errors.Is(err, NoStack):
		return 20
	case errors.Is(err, Cancelled):
		return 130
	}
	return 1
}
