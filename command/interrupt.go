package command

import (
	"context"
	"strings"

	"mesh"
)

// errInterrupted is the cause after a Ctrl-C on a terminal.
var errInterrupted = mesh.Errorf(mesh.Cancelled, "interrupted")

// interruptible returns a context that ends at a Ctrl-C. mesh's terminals are raw: the
// key arrives as a character (ETX) on stdin, and no line discipline turns it into a
// signal. The reading goes on until the session ends.
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
