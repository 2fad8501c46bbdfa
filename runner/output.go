package runner

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"

	"mesh"
)

// Collector keeps the output of containers.
type Collector interface {
	// Finish is called before a container that has ended is removed. It returns when
	// its output was read, or gives up after a while.
	Finish(ctx context.Context, src mesh.OutputSource)
}

// relistEvery is how often Outputs lists all containers, even if no event was missed.
const relistEvery = 10 * time.Minute

// Outputs calls found for each container whose output is kept, those that exist and those
// that start later, until ctx ends; it then returns nil. A container that starts again is
// found again. After each complete list it calls listed with the IDs in it. If the engine
// goes down, it connects again and lists anew.
func (r *Runner) Outputs(ctx context.Context, found func(mesh.OutputSource), listed func(ids map[string]bool)) error {
	delay := reconnectFirst
	since := r.now()
	for ctx.Err() == nil {
		began := time.Now()
		err := r.outputs(ctx, &since, found, listed)
		if time.Since(began) > reconnectMost {
			delay = reconnectFirst
		}
		if errors.Is(err, errRelist) {
			continue
		}
		if pause(ctx, delay) != nil {
			break
		}
		delay = min(2*delay, reconnectMost)
	}
	return nil
}

var errRelist = errors.New("time for another list")

func (r *Runner) outputs(ctx context.Context, since *time.Time, found func(mesh.OutputSource), listed func(map[string]bool)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := r.filter()
	f.Add("type", string(events.ContainerEventType))
	f.Add("event", string(events.ActionStart))
	started, errs := r.cli.API(ctx).Events(ctx, events.ListOptions{Filters: f, Since: stamp(*since)})
	select {
	case err := <-errs:
		return err
	default:
	}
	all, err := r.containers(ctx)
	if err != nil {
		return err
	}
	ids := make(map[string]bool, len(all))
	for _, c := range all {
		ids[c.ID] = true
		if src, ok := outputSource(c.ID, c.Labels); ok && c.State != container.StateCreated {
			found(src)
		}
	}
	listed(ids)
	relist := time.NewTimer(relistEvery)
	defer relist.Stop()
	for {
		select {
		case m := <-started:
			*since = time.Unix(0, m.TimeNano+1)
			if src, ok := outputSource(m.Actor.ID, m.Actor.Attributes); ok {
				found(src)
			}
		case err := <-errs:
			return err
		case <-relist.C:
			return errRelist
		}
	}
}

// outputSource describes a container, if its output is kept: that of a command in a
// terminal is not, because somebody sees it, and it is full of control characters.
func outputSource(id string, labels map[string]string) (mesh.OutputSource, bool) {
	in := labelled(id, labels)
	src := mesh.OutputSource{ID: id, Stack: in.Stack, Name: in.Name.String(), Release: in.Release}
	switch kind := labels[labelKind]; {
	case kind == kindInstance:
	case kind == kindOneOff && labels[labelTerminal] == "", kind == kindDetached:
		src.Name = labels[labelName]
	default:
		return src, false
	}
	return src, src.Stack != "" && src.Name != ""
}

// finish ends a container and waits for the rest of its output.
func (r *Runner) finish(ctx context.Context, id string) {
	if r.collector == nil {
		return
	}
	c, err := r.cli.API(ctx).ContainerInspect(ctx, id)
	if err != nil || c.State == nil || c.State.Dead || c.State.StartedAt == "" {
		return
	}
	if started, err := time.Parse(time.RFC3339Nano, c.State.StartedAt); err != nil || started.IsZero() {
		return
	}
	src, ok := outputSource(id, c.Config.Labels)
	if !ok {
		return
	}
	if c.State.Running {
		wctx, cancel := context.WithTimeout(ctx, killTime)
		defer cancel()
		_ = r.cli.API(ctx).ContainerUnpause(ctx, id) // or it would not end
		exited, failed := r.cli.API(wctx).ContainerWait(wctx, id, container.WaitConditionNotRunning)
		if r.cli.API(ctx).ContainerKill(ctx, id, "KILL") == nil {
			select {
			case <-exited:
			case <-failed:
			}
		}
	}
	r.collector.Finish(ctx, src)
}

// Secrets returns the values that must not be kept of what a container prints: those of
// config vars whose names suggest a secret. An app prints other values because somebody
// wants to read them. Of a release command, whose output the pusher sees with all config
// vars masked, these are the values of all.
func (r *Runner) Secrets(ctx context.Context, src mesh.OutputSource) ([]string, error) {
	c, err := r.cli.API(ctx).ContainerInspect(ctx, src.ID)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, r.fault(ctx, "inspect "+src.Name, err)
	}
	var own []string // of the image
	if img, err := r.cli.API(ctx).ImageInspect(ctx, c.Image); err == nil && img.Config != nil {
		own = img.Config.Env
	}
	config := mesh.Config{}
	for _, v := range c.Config.Env {
		name, value, _ := strings.Cut(v, "=")
		if !slices.Contains(own, v) && name != "PORT" && !strings.HasPrefix(name, "MESH_") {
			config[name] = mesh.NewSecret(value)
		}
	}
	var spare func(string) bool
	if src.Name != releaseCommand {
		spare = func(string) bool { return true }
	}
	return config.Hidden(spare), nil
}

// releaseCommand is the name of the container of a release command.
const releaseCommand = "release"

// killTime is how long the engine may take to kill a container.
const killTime = 10 * time.Second

// maxLine is where a line without an end is cut, in bytes. The engine splits lines at
// 16 KiB, and they are joined again here.
const maxLine = 1 << 20

// Output calls fn with the last n lines of a container's output, all if n is negative, in
// the engine's order, and with follow those that come until the container ends. The
// stream is 1 for standard output and 2 for standard error. The text has no line end, and
// is valid until fn returns. Output returns fn's error, and nil if the container is gone.
//
// Docker 20.10 may end a followed output before its last line: read once more without
// following.
func (r *Runner) Output(ctx context.Context, id string, n int, follow bool, fn func(at time.Time, stream byte, text []byte) error) error {
	o := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: follow}
	if n >= 0 {
		o.Tail = strconv.Itoa(n)
	}
	body, err := r.cli.API(ctx).ContainerLogs(ctx, id, o)
	if err != nil {
		if r.gone(ctx, id, err) {
			return nil
		}
		return r.fault(ctx, "read the output of "+short(id), err)
	}
	defer body.Close()
	lines := &outputReader{src: bufio.NewReaderSize(body, 32<<10), fn: fn}
	for err == nil {
		err = lines.next()
	}
	if lines.failed != nil {
		return lines.failed
	}
	if !errors.Is(err, io.EOF) {
		if r.gone(ctx, id, err) {
			return nil
		}
		return r.fault(ctx, "read the output of "+short(id), err)
	}
	// A last line without an end: only if nothing can follow. An engine that shuts down
	// ends the output of containers that it leaves running.
	if lines.begun() && r.ended(ctx, id) {
		return lines.rest()
	}
	return nil
}

// ended reports whether a container whose output has ended does not run. The engine closes
// the output a moment before it takes note of the end.
func (r *Runner) ended(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	exited, failed := r.cli.API(ctx).ContainerWait(ctx, id, container.WaitConditionNotRunning)
	select {
	case <-exited:
		return true
	case err := <-failed:
		return errdefs.IsNotFound(err)
	}
}

const endTime = 2 * time.Second

// gone reports whether err came from a container that was removed, or is being removed,
// during the request. The engine reports that in many ways: not found, a conflict with a
// container that is "dead or marked for removal", a log file that does not exist, a
// stream that ends in the middle of a line.
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

// tail returns the last n lines of a container. It returns what it can get, and no error:
// the lines are evidence for another error.
func (r *Runner) tail(ctx context.Context, id string, n int) (lines []string) {
	_ = r.Output(ctx, id, n, false, func(_ time.Time, _ byte, text []byte) error {
		lines = append(lines, string(text))
		return nil
	})
	return lines[max(0, len(lines)-n):]
}

// outputReader reads the engine's log stream of a container without a terminal: frames of
// an 8-byte header (stream, three zeros, length) and one message, which begins with its
// time. A message without a line end continues in the stream's next one, which has a time
// again. It allocates nothing for a line.
type outputReader struct {
	src    *bufio.Reader
	fn     func(time.Time, byte, []byte) error
	failed error // of fn
	msg    []byte
	open   [3]openLine
	second string // the beginning of the last time, and its value
	base   time.Time
}

// openLine is a line whose end is still to come.
type openLine struct {
	begun bool
	at    time.Time // of what there is of it
	text  []byte
}

func (r *outputReader) begun() bool {
	return slices.ContainsFunc(r.open[:], func(l openLine) bool { return l.begun })
}

func (r *outputReader) rest() error {
	for stream := range r.open {
		if l := &r.open[stream]; l.begun {
			l.begun = false
			if err := r.fn(l.at, byte(stream), l.text); err != nil { //nolint:gosec // 0 to 2
				return err
			}
		}
	}
	return nil
}

// next reads one frame.
func (r *outputReader) next() error {
	var head [8]byte
	if _, err := io.ReadFull(r.src, head[:]); err != nil {
		return err
	}
	stream, size := head[0], int(binary.BigEndian.Uint32(head[4:]))
	if cap(r.msg) < size {
		r.msg = make([]byte, size)
	}
	msg := r.msg[:size]
	if _, err := io.ReadFull(r.src, msg); err != nil {
		return err
	}
	if int(stream) >= len(r.open) {
		return fmt.Errorf("the engine says: %s", msg)
	}
	when, text, _ := bytes.Cut(msg, []byte(" "))
	at, err := r.time(when)
	if err != nil {
		return err
	}
	text, whole := bytes.CutSuffix(text, []byte("\n"))
	l := &r.open[stream]
	if whole && !l.begun {
		return r.emit(at, stream, text)
	}
	if !l.begun {
		l.begun, l.text = true, l.text[:0]
	}
	l.at = at // the time of its end: the rest is recognised by it when the engine has dropped the beginning
	l.text = append(l.text, text...)
	if !whole && len(l.text) < maxLine {
		return nil
	}
	l.begun = false
	err = r.emit(l.at, stream, l.text)
	if cap(l.text) > 256<<10 {
		l.text = nil
	}
	return err
}

func (r *outputReader) emit(at time.Time, stream byte, text []byte) error {
	text = bytes.TrimSuffix(text, []byte("\r"))
	r.failed = r.fn(at, stream, text)
	return r.failed
}

// time parses a time with nanoseconds and "Z", as the engine writes it. Most have the
// second of the one before.
func (r *outputReader) time(b []byte) (time.Time, error) {
	const toSecond, nanos = len("2006-01-02T15:04:05"), len("2006-01-02T15:04:05.000000000Z")
	if len(b) != nanos || b[nanos-1] != 'Z' || b[toSecond] != '.' {
		return time.Parse(time.RFC3339Nano, string(b))
	}
	if string(b[:toSecond]) != r.second {
		t, err := time.Parse("2006-01-02T15:04:05", string(b[:toSecond]))
		if err != nil {
			return t, err
		}
		r.second, r.base = string(b[:toSecond]), t
	}
	n := 0
	for _, c := range b[toSecond+1 : nanos-1] {
		if c < '0' || c > '9' {
			return time.Parse(time.RFC3339Nano, string(b))
		}
		n = 10*n + int(c-'0')
	}
	return r.base.Add(time.Duration(n)), nil
}
