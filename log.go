package mesh

import (
	"time"
)

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
