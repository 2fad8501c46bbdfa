package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"mesh"
)

var notInName = regexp.MustCompile(`[^a-zA-Z0-9_-]+`)

// RunOneOff runs one container to its end, connected to the given streams, and
// returns its exit code, which is 128+n when signal n ended it. All output has
// been written when it returns, and the container is gone, also when ctx ended:
// then it is killed.
//
// The end of Stdin is passed on, and the command goes on running. A read from
// Stdin that is under way when the command ends is not interrupted, and what it
// gives is lost. The writers are used from one goroutine.
func (r *Runner) RunOneOff(ctx context.Context, o mesh.OneOff) (int, error) {
	code, err := r.oneOff(ctx, o)
	if err != nil {
		return 0, r.fault(ctx, "run "+o.Name, startFault(o.Name, o.Image, err))
	}
	return code, nil
}

func (r *Runner) oneOff(ctx context.Context, o mesh.OneOff) (int, error) {
	net, err := r.network(ctx, o.Stack, o.Subnet)
	if err != nil {
		return 0, err
	}
	labels := maps.Clone(o.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelStack], labels[labelKind], labels[labelName] = string(o.Stack), kindOneOff, o.Name
	c := config(o.Image, o.Process, o.Env, r.label(labels))
	c.Tty, c.AttachStdout, c.AttachStderr = o.TTY, true, true
	c.OpenStdin, c.StdinOnce, c.AttachStdin = o.Stdin != nil, o.Stdin != nil, o.Stdin != nil
	name := fmt.Sprintf("mesh-%s-%s-%s", o.Stack, notInName.ReplaceAllString(o.Name, "-"), random())
	id, err := r.create(ctx, name, c, r.hostConfig(net))
	if err != nil {
		return 0, err
	}
	defer r.discard(ctx, id)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	at, err := r.cli.ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdin: o.Stdin != nil, Stdout: true, Stderr: true})
	if err != nil {
		return 0, err
	}
	defer at.Close()
	// A hijacked connection knows nothing of ctx.
	defer context.AfterFunc(ctx, at.Close)()
	exited, failed := r.cli.ContainerWait(ctx, id, container.WaitConditionNextExit)

	copied := make(chan error, 1)
	go func() { copied <- copyOut(o, at) }()
	if err := r.cli.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		at.Close()
		<-copied
		return 0, err
	}
	if o.TTY {
		// What is typed finds a terminal of the right size.
		if o.Size != (mesh.WindowSize{}) {
			r.resizeTo(ctx, id, o.Size)
		}
		if o.Resize != nil {
			go r.resize(ctx, id, o.Resize)
		}
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
		at.Close()
		<-copied
		return 0, err
	case <-ctx.Done():
		at.Close()
		<-copied
		return 0, context.Cause(ctx)
	}
	// The output ends with the container, but may still be on its way.
	select {
	case err := <-copied:
		if err != nil && ctx.Err() == nil {
			return 0, fmt.Errorf("pass on the output: %w", err)
		}
	case <-ctx.Done():
		at.Close()
		<-copied
	}
	return code, context.Cause(ctx)
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
	_, _ = io.Copy(at.Conn, stdin) // a command that reads no more is no fault
	_ = at.CloseWrite()
}

func (r *Runner) resize(ctx context.Context, id string, sizes <-chan mesh.WindowSize) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			r.resizeTo(ctx, id, s)
		case <-ctx.Done():
			return
		}
	}
}

// resizeTries is how often the engine is asked: it can be too early just after the
// start, and the docker client asks ten times.
const resizeTries = 10

func (r *Runner) resizeTo(ctx context.Context, id string, s mesh.WindowSize) {
	var err error
	for try := range resizeTries {
		if err = r.cli.ContainerResize(ctx, id, container.ResizeOptions{Width: uint(max(0, s.Width)), Height: uint(max(0, s.Height))}); err == nil {
			return
		}
		select {
		case <-time.After(time.Duration(try+1) * 10 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
	r.log.DebugContext(ctx, "resize", "container", id, "err", err) // it may have ended just now
}
