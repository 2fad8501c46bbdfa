package receiver

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"mesh"
)

// errStalled ends a session whose transfer has stalled: ssh may still be alive and
// answer while its input hangs.
var errStalled = mesh.Errorf(mesh.Cancelled, "nothing was transferred for too long").WithHint("try again; if it stalls again, check your network and disk")

// watch ends a context when a transfer stalls. It may be used from several goroutines.
type watch struct {
	after time.Duration
	timer *time.Timer

	mu    sync.Mutex
	ended bool
}

// newWatch returns a context that ends when nothing was transferred for the given time.
// Calling done stops the watch.
func newWatch(ctx context.Context, after time.Duration) (context.Context, *watch) {
	c, cancel := context.WithCancelCause(ctx)
	w := &watch{after: after}
	w.timer = time.AfterFunc(after, func() { cancel(errStalled) })
	context.AfterFunc(ctx, w.done)
	return c, w
}

// moved records that something was transferred.
func (w *watch) moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.timer.Reset(w.after)
	}
}

// done ends the watch, but not its context: the transfer is complete.
func (w *watch) done() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}

// reader counts bytes read from r. EOF ends the watch.
func (w *watch) reader(r io.Reader) io.Reader { return watchedReader{r, w} }

// writer counts bytes written to out.
func (w *watch) writer(out io.Writer) io.Writer { return watchedWriter{out, w} }

type watchedReader struct {
	io.Reader
	w *watch
}

func (r watchedReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil {
		r.w.done()
	} else {
		r.w.moved()
	}
	return n, err
}

type watchedWriter struct {
	io.Writer
	w *watch
}

func (o watchedWriter) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if err == nil {
		o.w.moved()
	}
	return n, err
}

// idleReader returns an error if a read takes longer than the given time.
type idleReader struct {
	*io.PipeReader
	after time.Duration
}

func (r idleReader) Read(b []byte) (int, error) {
	var late atomic.Bool
	t := time.AfterFunc(r.after, func() { late.Store(true); _ = r.Close() })
	defer t.Stop()
	n, err := r.PipeReader.Read(b)
	if err != nil && late.Load() {
		return n, errStalled
	}
	return n, err
}
