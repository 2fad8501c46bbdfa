package deploy

import (
	"fmt"
	"strings"

	"mesh"
)

// Events keeps mesh's own lines in the stacks' logs.
type Events interface {
	// Event keeps a line. It does not block, and may be called with a lock held.
	Event(stack mesh.StackName, l mesh.LogLine)
	// Rename moves the kept lines of a stack to its new name. It may be called again.
	Rename(from, to mesh.StackName)
}

// note adds a line to a stack's log, about an instance or another source.
func (d *Deployer) note(stack mesh.StackName, name, format string, args ...any) {
	text := strings.NewReplacer("\n", " ", "\r", " ").Replace(fmt.Sprintf(format, args...))
	d.Events.Event(stack, mesh.LogLine{At: d.Now().UTC(), Source: "mesh", Name: name, Text: text})
}

// noEvents drops all lines.
type noEvents struct{}

func (noEvents) Event(mesh.StackName, mesh.LogLine) {}
func (noEvents) Rename(_, _ mesh.StackName)         {}
