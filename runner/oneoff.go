package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"mesh"
)

var notInName = regexp.MustCompile(`[^a-zA-Z0-9_-]+`)

// RunOneOff runs one container to its end, connected to the given streams, and
// returns its exit code, which is 128+n if signal n ended it. When it returns, all
// output has been written and the container is gone. If ctx ends, the container is
// killed.
//
// The end of Stdin is passed on, and the command keeps running. A pending read from
// Stdin is not interrupted when the command ends, and its data is lost. The writers
// are used from one goroutine.
func (r *Runner) RunOneOff(ctx context.Context, o mesh.OneOff) (int, error) {
	code, err := r.oneOff(ctx, o)
	if err != nil {
		return 0, r.fault(ctx, "run "+o.Name, startFault(o.Name, o.Image, err))
	}
	return code, nil
}

func (r *Runner) oneOff(ctx context.Context, o mesh.OneOff) (int, error) {
	id, err := r.createOneOff(ctx, o)
	if err != nil {
		return 0, err
	}
	defer r.discard(ctx, id)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	at, err := hijack(ctx, func() (types.HijackedResponse, error) {
		return r.cli.API(ctx).ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdin: o.Stdin != nil, Stdout: true, Stderr: true})
	})
	if err != nil {
		return 0, err
	}
	defer at.Close()
	// A hijacked connection ignores ctx.
	defer context.AfterFunc(ctx, at.Close)()
	exited, failed := r.cli.API(ctx).ContainerWait(ctx, id, container.WaitConditionNextExit)

	last := &lastLines{}
	o.Stdout, o.Stderr = last.also(o.Stdout), last.also(o.Stderr)
	copied := make(chan error, 1)
	go func() {
		err := copyOut(o, at)
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("pass on the output: %w", err)
			cancel(err) // nobody reads it any more: in a shell, the program would get SIGPIPE
		}
		copied <- err
	}()
	giveUp := func(err error) error {
		at.Close()
		<-copied
		return err
	}
	if err := r.cli.API(ctx).ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return 0, giveUp(err)
	}
	if o.TTY {
		to := func(ctx context.Context, s container.ResizeOptions) error {
			return r.cli.API(ctx).ContainerResize(ctx, id, s)
		}
		r.resize(ctx, o.Size, to) // so that input finds a terminal of the right size
		go r.resizeAs(ctx, o.Resize, to)
	}
	if o.Stdin != nil {
		go copyIn(o.Stdin, at)
	}

	var code int
	select {
	case e := <-exited:
		if e.Error != nil {
			return 0, errors.New(e.Error.Message)
		}
		code = int(e.StatusCode)
	case err := <-failed:
		return 0, giveUp(err)
	case <-ctx.Done():
		return 0, giveUp(context.Cause(ctx))
	}
	// The output ends with the container, but may still be on its way.
	select {
	case err := <-copied:
		if err != nil && errors.Is(context.Cause(ctx), err) {
			return 0, err
		}
	case <-ctx.Done():
		return code, giveUp(context.Cause(ctx))
	}
	r.sayWhy(ctx, id, o, code, last.lines())
	return code, context.Cause(ctx)
}

// createOneOff creates the container of a one-off command, with its terminal.
func (r *Runner) createOneOff(ctx context.Context, o mesh.OneOff) (id string, err error) {
	net, err := r.network(ctx, o.Stack, o.Subnet)
	if err != nil {
		return "", err
	}
	labels := maps.Clone(o.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	free, err := r.alone(ctx, own(o.Mounts), "")
	if err != nil {
		return "", err
	}
	defer free()
	if err := r.present(ctx, o.Mounts); err != nil {
		return "", err
	}
	labels[labelStack], labels[labelKind], labels[labelName] = string(o.Stack), kindOneOff, o.Name
	if o.TTY {
		labels[labelTerminal] = "yes"
	}
	c := config(o.Image, o.Process, o.Env, r.label(labels))
	c.Tty, c.AttachStdout, c.AttachStderr = o.TTY, true, true
	c.OpenStdin, c.StdinOnce, c.AttachStdin = o.Stdin != nil, o.Stdin != nil, o.Stdin != nil
	host := r.mounted(limited(r.hostConfig(net), o.Memory, o.CPUs), o.Mounts)
	if size := consoleSize(o.Size); o.TTY && size != nil {
		host.ConsoleSize = *size
	}
	id, err = r.create(ctx, fmt.Sprintf("mesh-%s-%s-%s", o.Stack, notInName.ReplaceAllString(o.Name, "-"), random()), c, host)
	if err != nil {
		return "", err
	}
	if err := r.give(ctx, id, o.Mounts); err != nil {
		r.discard(ctx, id)
		return "", err
	}
	return id, nil
}

// sayWhy writes why the program could not start, if it could not, below what the command
// has printed.
func (r *Runner) sayWhy(ctx context.Context, id string, o mesh.OneOff, code int, lines []string) {
	if code != 126 && code != 127 && !slices.ContainsFunc(lines, readAsScript.MatchString) && !slices.ContainsFunc(lines, initFailed.MatchString) {
		return
	}
	c := r.diagnose(ctx, id, lines)
	if c.text == "" {
		return
	}
	end := "\n"
	if o.TTY {
		end = "\r\n"
	}
	_, _ = io.WriteString(o.Stderr, "mesh: "+c.text+end+"mesh: "+c.hint+end)
}

// lastLines are the last bytes that a command has printed.
type lastLines struct{ b []byte }

// keptOutput is the number of bytes kept: the shell's message about a program that
// it cannot start comes last.
const keptOutput = 4 << 10

// also writes to w, which may be nil, and remembers the end. The writers are used
// from one goroutine.
func (l *lastLines) also(w io.Writer) io.Writer {
	if w == nil {
		return l
	}
	return io.MultiWriter(w, l)
}

func (l *lastLines) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	if n := len(l.b) - keptOutput; n > 0 {
		l.b = append(l.b[:0], l.b[n:]...)
	}
	return len(p), nil
}

func (l *lastLines) lines() []string { return strings.Split(strings.TrimSpace(string(l.b)), "\n") }

// hijackTime is the time that the engine has to hand out a connection.
const hijackTime = 30 * time.Second

// hijack opens a connection that outlasts its request: the client ignores ctx while
// it waits for it, and waits forever if the engine hangs.
func hijack(ctx context.Context, open func() (types.HijackedResponse, error)) (types.HijackedResponse, error) {
	type opened struct {
		at  types.HijackedResponse
		err error
	}
	done := make(chan opened, 1)
	go func() {
		at, err := open()
		done <- opened{at, err}
	}()
	t := time.NewTimer(hijackTime)
	defer t.Stop()
	var err error
	select {
	case o := <-done:
		return o.at, o.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-t.C:
		err = io.ErrUnexpectedEOF // like a connection that was cut
	}
	go func() {
		if o := <-done; o.err == nil {
			o.at.Close()
		}
	}()
	return types.HijackedResponse{}, err
}

func copyOut(o mesh.OneOff, at types.HijackedResponse) error {
	stdout, stderr := o.Stdout, o.Stderr
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	var err error
	if o.TTY {
		_, err = io.Copy(stdout, at.Reader)
	} else {
		_, err = stdcopy.StdCopy(stdout, stderr, at.Reader)
	}
	return err
}

func copyIn(stdin io.Reader, at types.HijackedResponse) {
	_, _ = io.Copy(at.Conn, stdin) // it is not an error if the command stops reading
	_ = at.CloseWrite()
}

// consoleSize is the initial size of a terminal, if the engine accepts one (API
// 1.42, Docker 23, and later): height first. nil: the client did not send one.
func consoleSize(s mesh.WindowSize) *[2]uint {
	if s.Width <= 0 || s.Height <= 0 {
		return nil
	}
	return &[2]uint{uint(s.Height), uint(s.Width)}
}

// resizeAs passes on the sizes of a client's terminal until ctx ends or the channel
// is closed.
func (r *Runner) resizeAs(ctx context.Context, sizes <-chan mesh.WindowSize, to func(context.Context, container.ResizeOptions) error) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			r.resize(ctx, s, to)
		case <-ctx.Done():
			return
		}
	}
}

// How often, and for how long in all, to ask the engine for a size. It can be too
// early just after the start, and the docker client tries ten times; for a command
// that cannot start, the engine waits for ten seconds.
const (
	resizeTries = 10
	resizeTime  = 3 * time.Second
)

func (r *Runner) resize(ctx context.Context, s mesh.WindowSize, to func(context.Context, container.ResizeOptions) error) {
	size := consoleSize(s)
	if size == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resizeTime)
	defer cancel()
	var err error
	for try := range resizeTries {
		err = to(ctx, container.ResizeOptions{Height: size[0], Width: size[1]})
		// An ended command no longer has a terminal.
		if err == nil || errdefs.IsConflict(err) || errdefs.IsNotFound(err) || pause(ctx, time.Duration(try+1)*10*time.Millisecond) != nil {
			break
		}
	}
	if err != nil {
		r.log.DebugContext(ctx, "resize", "err", err)
	}
}
