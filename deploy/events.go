package deploy

import (
	"context"
	"fmt"
	"sync"

	"mesh"
)

// notes are lines for the stacks' logs on their way to the store. They are written
// outside of Deployer.mu, and in the order in which they were made.
type notes struct {
	mu   sync.Mutex // of list
	list []note
	out  sync.Mutex // held by the one who writes
}

type note struct {
	stack mesh.StackName
	line  mesh.LogLine
}

// note makes a line of mesh's own in a stack's log, about an instance or about
// what name says. It may be called with Deployer.mu held; it is written in the
// background then.
func (d *Deployer) note(stack mesh.StackName, name, format string, args ...any) {
	d.notes.mu.Lock()
	defer d.notes.mu.Unlock()
	d.notes.list = append(d.notes.list, note{stack, mesh.LogLine{At: d.Now().UTC(), Source: "mesh", Name: name, Text: fmt.Sprintf(format, args...)}})
	if len(d.notes.list) == 1 {
		d.background(func(context.Context) { d.writeNotes() })
	}
}

// writeNotes writes what there is.
func (d *Deployer) writeNotes() {
	d.notes.out.Lock()
	defer d.notes.out.Unlock()
	d.notes.mu.Lock()
	list := d.notes.list
	d.notes.list = nil
	d.notes.mu.Unlock()
	for _, n := range list {
		if err := d.Store.AddEvent(n.stack, n.line); err != nil {
			d.Logger.Warn("event not recorded", "stack", n.stack, "err", err)
		}
	}
}
