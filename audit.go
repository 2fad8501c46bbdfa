package mesh

import "time"

// AuditEntry is one thing that somebody has done, or tried to do. It never contains
// the value of a config var.
type AuditEntry struct {
	At     time.Time
	By     KeyName
	Stack  StackName // empty: the server
	Action string    // "config:set GREETING", "push 1a2b3c4"
	Result string    // "ok", or the error in one line
}
