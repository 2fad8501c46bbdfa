package command

import (
	"context"
	"strings"

	"mesh"
)

// errInterrupted is a Ctrl-C on a terminal.
var errInterrupted = mesh.Errorf(mesh.Cancelled, "interrupted")

// interruptible ends ctx at a Ctrl-C. A terminal of ours is raw: the key arrives as
// a character (ETX) on stdin, and there is no line discipline that makes a signal
// of it. The reading goes on until the session ends.
func (c *call) interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		b := make([]byte, 64)
		for {
			n, err := c.Stdin.Read(b)
			if strings.ContainsRune(string(b[:n]), 3) {
				cancel(errInterrupted)
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}
