package runner

import (
	"bufio"
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"mesh"
	"mesh/engine"
)

// Logs calls fn with the log lines of a stack's instances, merged by time, one at a
// time. With q.Follow it continues with new lines, including those of instances that
// start later, until ctx ends; it then returns nil. If fn returns an error, Logs
// ends and returns it. The output of removed containers is gone.
func (r *Runner) Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	fctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &follower{r: r, q: q, fn: fn, fail: cancel, tails: map[string]*tail{}}
	if q.Follow && q.Run != "" {
		return r.fault(ctx, "read the logs", f.followRun(fctx))
	}
	if !q.Follow {
		_, err := f.history(fctx)
		return r.fault(ctx, "read the logs", err)
	}
	err := f.follow(fctx)
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = context.Cause(fctx)
	}
	return r.fault(ctx, "read the logs", err)
}

// follower is one call of Logs.
type follower struct {
	r    *Runner
	q    mesh.LogQuery
	fail context.CancelCauseFunc
	wg   sync.WaitGroup

	fnMu sync.Mutex // one call of fn at a time
	fn   func(mesh.LogLine) error

	mu    sync.Mutex // guards tails and what they point to
	tails map[string]*tail
}

// tail is how far a container's log has been read.
type tail struct {
	last    time.Time // of the last line passed on
	skip    bool      // do not show earlier output
	running bool      // a goroutine reads it
	again   bool      // it was started again meanwhile
}

func (f *follower) emit(l mesh.LogLine) error {
	f.fnMu.Lock()
	defer f.fnMu.Unlock()
	return f.fn(l)
}

// instances are those of the query.
func (f *follower) instances(ctx context.Context) ([]mesh.Instance, error) {
	labels := []string{labelKind + "=" + kindInstance, labelStack + "=" + string(f.q.Stack)}
	if f.q.Run != "" {
		labels = []string{labelKind + "=" + kindDetached, labelStack + "=" + string(f.q.Stack), labelName + "=" + f.q.Run}
	}
	found, err := f.r.containers(ctx, labels...)
	if err != nil {
		return nil, err
	}
	var list []mesh.Instance
	for _, c := range found {
		in := labelled(c.ID, c.Labels)
		in.State = mesh.InstanceExited
		if c.State == container.StateRunning || c.State == container.StatePaused {
			in.State = mesh.InstanceRunning
		}
		if f.wants(in) {
			list = append(list, in)
		}
	}
	return list, nil
}

func (f *follower) wants(in mesh.Instance) bool {
	if f.q.Run != "" {
		return true // the requested labels select them
	}
	return in.Stack == f.q.Stack && (f.q.Service == "" || in.Name.Service == f.q.Service) &&
		(f.q.Instance == mesh.InstanceName{} || in.Name == f.q.Instance)
}

// follow subscribes before it reads the existing lines, so that no instance is
// missed. Events wait meanwhile: lines come in order.
func (f *follower) follow(ctx context.Context) error {
	defer f.wg.Wait()
	caught := sync.OnceFunc(func() {
		if f.q.Caught != nil {
			f.q.Caught()
		}
	})
	return f.r.watch(ctx, false, func(e mesh.InstanceEvent) {
		if !e.Died && f.wants(e.Instance) {
			f.read(ctx, e.Instance)
		}
	}, func(first bool) {
		list, err := f.instances(ctx)
		if err == nil && len(f.tails) == 0 {
			if list, err = f.history(ctx); err == nil {
				caught()
			}
		}
		if err != nil {
			if ctx.Err() == nil && first {
				f.fail(err)
			}
			return
		}
		for _, in := range list {
			if in.State == mesh.InstanceRunning {
				f.read(ctx, in)
			}
		}
	})
}

// followRun passes on the output of a detached run until it ends: it is never
// started again.
func (f *follower) followRun(ctx context.Context) error {
	list, err := f.history(ctx)
	if err != nil {
		return err
	}
	if f.q.Caught != nil {
		f.q.Caught()
	}
	for _, in := range list {
		f.read(ctx, in)
	}
	f.wg.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// read follows the log of one container in a goroutine, unless one already does.
func (f *follower) read(ctx context.Context, in mesh.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tails[in.ID]
	if t == nil {
		t = &tail{}
		f.tails[in.ID] = t
	}
	if t.running {
		t.again = true
		return
	}
	t.running = true
	f.wg.Go(func() {
		for {
			err := f.readOnce(ctx, in, t)
			f.mu.Lock()
			more := t.again && err == nil
			t.again, t.running = false, more
			f.mu.Unlock()
			if err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) && !engine.Away(err) {
				f.fail(err)
			}
			if !more {
				return
			}
		}
	})
}

func (f *follower) readOnce(ctx context.Context, in mesh.Instance, t *tail) error {
	f.mu.Lock()
	last, skip := t.last, t.skip
	t.skip = false
	f.mu.Unlock()
	o := container.LogsOptions{Follow: true, Since: stamp(f.q.Since)}
	if !last.IsZero() {
		o.Since = stamp(last) // it includes the last line
	}
	if skip {
		o.Tail = "0"
	}
	src, err := f.r.open(ctx, in, o)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	for {
		l, err := src.next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if !l.At.After(last) {
			continue
		}
		last = l.At
		f.mu.Lock()
		t.last = last
		f.mu.Unlock()
		if err := f.emit(l); err != nil {
			return err
		}
	}
}

// history passes on the lines so far, and returns the instances.
func (f *follower) history(ctx context.Context) ([]mesh.Instance, error) {
	list, err := f.instances(ctx)
	if err != nil {
		return nil, err
	}
	if f.q.Lines == 0 {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, in := range list {
			f.tails[in.ID] = &tail{skip: true}
		}
		return list, nil
	}
	o := container.LogsOptions{Since: stamp(f.q.Since)}
	if f.q.Lines > 0 {
		o.Tail = strconv.Itoa(f.q.Lines)
	}
	var m merge
	defer m.close()
	for _, in := range list {
		src, err := f.r.open(ctx, in, o)
		if errdefs.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		f.mu.Lock()
		t := &tail{}
		f.tails[in.ID] = t
		f.mu.Unlock()
		if err := m.add(src, t); err != nil {
			return nil, err
		}
	}
	var kept []mesh.LogLine // the last q.Lines, a ring
	n := 0
	for {
		l, err := m.next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		switch {
		case f.q.Lines < 0:
			if err := f.emit(l); err != nil {
				return nil, err
			}
		case len(kept) < f.q.Lines:
			kept = append(kept, l)
		default:
			kept[n%f.q.Lines] = l
		}
		n++
	}
	for i := range kept {
		if err := f.emit(kept[(n+i)%len(kept)]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// tail returns the last n lines of a container. It returns what it can get, and no
// error: the lines are evidence for another error.
func (r *Runner) tail(ctx context.Context, id string, n int) (lines []string) {
	src, err := r.open(ctx, mesh.Instance{ID: id}, container.LogsOptions{Tail: strconv.Itoa(n)})
	if err != nil {
		return nil
	}
	defer func() { _ = src.Close() }()
	for {
		l, err := src.next()
		if err != nil {
			return lines[max(0, len(lines)-n):]
		}
		lines = append(lines, l.Text)
	}
}

// open starts reading a container's log.
func (r *Runner) open(ctx context.Context, in mesh.Instance, o container.LogsOptions) (*logReader, error) {
	o.ShowStdout, o.ShowStderr, o.Timestamps = true, true, true
	body, err := r.cli.API(ctx).ContainerLogs(ctx, in.ID, o)
	if err != nil {
		if r.gone(ctx, in.ID, err) {
			return nil, fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
		}
		return nil, err
	}
	return &logReader{
		name: in.Name.String(), body: body, src: bufio.NewReader(body),
		gone: func(err error) bool { return r.gone(ctx, in.ID, err) },
	}, nil
}

// gone reports whether err came from a container that was removed, or is being
// removed, during the request. The engine reports that in many ways: not found, a
// conflict with a container that is "dead or marked for removal", a log file that
// does not exist, a stream that ends in the middle of a line.
func (r *Runner) gone(ctx context.Context, id string, err error) bool {
	switch {
	case errdefs.IsNotFound(err):
		return true
	case ctx.Err() != nil:
		return false
	}
	c, err := r.cli.API(ctx).ContainerInspect(ctx, id)
	return errdefs.IsNotFound(err) || err == nil && c.State != nil && (c.State.Dead || c.State.Status == container.StateRemoving)
}

// logReader reads the engine's log stream of a container without a terminal: frames
// of an 8-byte header (stream, three zeros, length) and one message, which begins
// with its time. A message without a line end continues in the stream's next one,
// which has a time again.
type logReader struct {
	name string
	body io.ReadCloser
	src  *bufio.Reader
	open [3]*mesh.LogLine // begun, by stream
	gone func(error) bool // reports whether the container was removed while it was read
}

func (r *logReader) Close() error { return r.body.Close() }

// next returns io.EOF at the end, and also where the container was removed.
func (r *logReader) next() (mesh.LogLine, error) {
	l, err := r.read()
	if err != nil && !errors.Is(err, io.EOF) && r.gone(err) {
		err = io.EOF
	}
	return l, err
}

func (r *logReader) read() (mesh.LogLine, error) {
	for {
		var head [8]byte
		if _, err := io.ReadFull(r.src, head[:]); err != nil {
			for i, l := range r.open {
				if l != nil && errors.Is(err, io.EOF) { // a last line without an end
					r.open[i] = nil
					return *l, nil
				}
			}
			return mesh.LogLine{}, err
		}
		stream := head[0]
		msg := make([]byte, binary.BigEndian.Uint32(head[4:]))
		if _, err := io.ReadFull(r.src, msg); err != nil {
			return mesh.LogLine{}, err
		}
		if int(stream) >= len(r.open) {
			return mesh.LogLine{}, fmt.Errorf("log of %s: %s", r.name, msg)
		}
		when, text, _ := bytes.Cut(msg, []byte(" "))
		at, err := time.Parse(time.RFC3339Nano, string(when))
		if err != nil {
			return mesh.LogLine{}, fmt.Errorf("log of %s: %w", r.name, err)
		}
		whole := bytes.HasSuffix(text, []byte("\n"))
		text = bytes.TrimSuffix(text, []byte("\n"))
		l := r.open[stream]
		if l == nil {
			l = &mesh.LogLine{At: at, Source: "app", Name: r.name}
		}
		l.Text += string(text)
		if !whole && len(l.Text) < maxLine {
			r.open[stream] = l
			continue
		}
		r.open[stream] = nil
		if n := len(l.Text); n > 0 && l.Text[n-1] == '\r' {
			l.Text = l.Text[:n-1]
		}
		return *l, nil
	}
}

// merge returns the lines of several logs in the order of their times.
type merge []*head

// head is the next line of one log.
type head struct {
	src  *logReader
	line mesh.LogLine
	tail *tail // how far it was read
}

func (m merge) Len() int           { return len(m) }
func (m merge) Less(i, j int) bool { return m[i].line.At.Before(m[j].line.At) }
func (m merge) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *merge) Push(x any)        { *m = append(*m, x.(*head)) }
func (m *merge) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

func (m *merge) add(src *logReader, t *tail) error {
	l, err := src.next()
	if err != nil {
		_ = src.Close()
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	heap.Push(m, &head{src, l, t})
	return nil
}

// next returns io.EOF when all logs have ended.
func (m *merge) next() (mesh.LogLine, error) {
	if len(*m) == 0 {
		return mesh.LogLine{}, io.EOF
	}
	h := (*m)[0]
	l := h.line
	h.tail.last = l.At
	next, err := h.src.next()
	switch {
	case err == nil:
		h.line = next
		heap.Fix(m, 0)
	case errors.Is(err, io.EOF):
		_ = heap.Pop(m).(*head).src.Close()
	default:
		return l, err
	}
	return l, nil
}

func (m *merge) close() {
	for _, h := range *m {
		_ = h.src.Close()
	}
}
