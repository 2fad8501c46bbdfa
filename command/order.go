package command

import (
	"context"
	"io"
	"sync"
)

// order keeps the two streams of a client without a terminal of ours in the order
// in which they were written: OpenSSH's client, when it has something for both,
// writes stdout first, so that a heading would come below its table.
type order struct {
	ctx   context.Context // of the command
	flush func(context.Context)

	mu    sync.Mutex
	later bool // something was written to stderr that may not have been shown yet
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
