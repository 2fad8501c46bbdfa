package deploy

import (
	"fmt"
	"strings"

	"mesh"
)

// Events are the lines of mesh's own in the stacks' logs.
type Events interface {
	// Event keeps a line. It does not wait, and may be called under a lock.
	Event(stack mesh.StackName, l mesh.LogLine)
	// Rename lets what is kept of a stack follow its name. It may be called again.
	Rename(from, to mesh.StackName)
}

// note puts a line into a stack's log, about an instance or about what name says.
func (d *Deployer) note(stack mesh.StackName, name, format string, args ...any) {
	text := strings.NewReplacer("\n", " ", "\r", " ").Replace(fmt.Sprintf(format, args...))
	d.Events.Event(stack, mesh.LogLine{At: d.Now().UTC(), Source: "mesh", Name: name, Text: text})
}

// noEvents keeps nothing.
type noEvents struct{}

func (noEvents) Event(mesh.StackName, mesh.LogLine) {}
func (noEvents) Rename(_, _ mesh.StackName)         {}
