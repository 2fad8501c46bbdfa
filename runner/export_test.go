package runner

import (
	"context"
	"io/fs"
	"net/netip"
)

// ParseListeners reads /proc/net/tcp.
var ParseListeners = parseListeners

// Describe lists addresses.
var Describe = describe

// Span prints a duration.
var Span = span

// ExecListeners looks with a process in the container.
func ExecListeners(ctx context.Context, r *Runner, id string) ([]netip.AddrPort, bool) {
	table, ok := r.execTable(ctx, id)
	return parseListeners(table), ok
}

// Judge explains what is wrong with a program.
func Judge(program string, mode fs.FileMode, head []byte, has func(string) bool) string {
	return judge(program, programFile{mode: mode, size: int64(len(head)), head: head}, has).text
}

// MountedFrom finds the container that a mountinfo belongs to.
var MountedFrom = mountedFrom
