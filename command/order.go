package command

import (
	"context"
	"io"
	"sync"
)

// order keeps stdout and stderr in the order in which they were written, for a client
// without a terminal from mesh. If OpenSSH's client has something for both, it writes
// stdout first, so a heading would appear below its table.
type order struct {
	ctx   context.Context // of the command
	flush func(context.Context)

	mu    sync.Mutex
	later bool // stderr may have output that is not shown yet
}

type ordered struct {
	io.Writer
	order  *order
	stderr bool
}

func (w ordered) Write(p []byte) (int, error) {
	w.order.mu.Lock()
	defer w.order.mu.Unlock()
	if w.order.later && !w.stderr {
		w.order.flush(w.order.ctx)
	}
	w.order.later = w.stderr
	return w.Writer.Write(p)
}
