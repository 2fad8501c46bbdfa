package runner

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"

	"mesh"
)

// sessionVar marks the processes of one Exec in their environment. The engine cannot
// end a command that it runs in a container (moby/moby#9098): the command keeps
// running when its connection is gone.
const sessionVar = "MESH_SESSION"

// hangUpGrace is the time a command in a container has to end once its client has
// gone.
const hangUpGrace = 3 * time.Second

// Exec runs one more command in a running container, connected to the given streams,
// and returns its exit code. If ctx ends first, the command gets SIGHUP and, if it
// does not end, SIGKILL. Stdin is read as in RunOneOff.
func (r *Runner) Exec(ctx context.Context, e mesh.Exec) (int, error) {
	code, err := r.exec(ctx, e)
	if errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
		return 0, &mesh.Error{Kind: mesh.Conflict, Text: e.Name + " is not running", Hint: "list the running instances with: ssh mesh ps", Err: err}
	}
	if err != nil {
		return 0, r.fault(ctx, "enter "+e.Name, startFault(e.Name, "", err))
	}
	return code, nil
}

func (r *Runner) exec(ctx context.Context, e mesh.Exec) (int, error) {
	mark := rand.Text()
	o := container.ExecOptions{
		Tty: e.TTY, AttachStdin: e.Stdin != nil, AttachStdout: true, AttachStderr: true, Cmd: e.Words,
		Env: []string{sessionVar + "=" + mark},
	}
	for _, k := range slices.Sorted(maps.Keys(e.Env)) {
		o.Env = append(o.Env, k+"="+e.Env[k].Reveal())
	}
	if o.User = e.User; e.Root {
		o.User = "0"
	}
	if e.TTY {
		o.ConsoleSize = consoleSize(e.Size)
	}
	made, err := r.cli.API(ctx).ContainerExecCreate(ctx, e.ID, o)
	if err != nil {
		return 0, err
	}
	at, err := hijack(ctx, func() (types.HijackedResponse, error) {
		return r.cli.API(ctx).ContainerExecAttach(ctx, made.ID, container.ExecAttachOptions{Tty: e.TTY, ConsoleSize: o.ConsoleSize})
	})
	if err != nil {
		return 0, err
	}
	defer at.Close()
	defer context.AfterFunc(ctx, at.Close)()
	if e.TTY {
		to := func(ctx context.Context, s container.ResizeOptions) error {
			return r.cli.API(ctx).ContainerExecResize(ctx, made.ID, s)
		}
		r.resize(ctx, e.Size, to)
		sized, stop := context.WithCancel(ctx)
		defer stop()
		go r.resizeAs(sized, e.Resize, to)
	}
	if e.Stdin != nil {
		go copyIn(e.Stdin, at)
	}
	err = copyOut(mesh.OneOff{TTY: e.TTY, Stdout: e.Stdout, Stderr: e.Stderr}, at)
	if ctx.Err() != nil {
		r.hangUp(ctx, e.ID, made.ID, mark)
		return 0, context.Cause(ctx)
	}
	if err != nil {
		r.hangUp(ctx, e.ID, made.ID, mark)
		return 0, fmt.Errorf("pass on the output: %w", err)
	}
	// The output has ended, but the engine may need a moment to see the exit.
	for {
		in, err := r.cli.API(ctx).ContainerExecInspect(ctx, made.ID)
		if err != nil {
			return 0, err
		}
		if !in.Running {
			return in.ExitCode, nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			r.hangUp(ctx, e.ID, made.ID, mark)
			return 0, err
		}
	}
}

// hangUp ends the processes of a command whose client has gone: with SIGHUP, as when
// a terminal closes, and with SIGKILL if that does not help.
func (r *Runner) hangUp(ctx context.Context, id, exec, mark string) {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGKILL} {
		r.signalMarked(ctx, id, mark, sig)
		for deadline := time.Now().Add(hangUpGrace); time.Now().Before(deadline); {
			in, err := r.cli.API(ctx).ContainerExecInspect(ctx, exec)
			if err != nil || !in.Running || pause(ctx, 20*time.Millisecond) != nil {
				return
			}
		}
	}
	r.log.WarnContext(ctx, "a command keeps running without its client", "container", id)
}

// signalMarked signals the processes with the mark in their environment: from here
// if they are visible, otherwise, when mesh itself runs in a container, from inside.
func (r *Runner) signalMarked(ctx context.Context, id, mark string, sig syscall.Signal) {
	want := []byte(sessionVar + "=" + mark)
	found := false
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range paths {
		env, err := os.ReadFile(p)
		if err != nil || !bytes.Contains(env, want) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(p, "/")[2]); err == nil {
			found = true
			_ = syscall.Kill(pid, sig) // it may just have ended
		}
	}
	if found {
		return
	}
	script := `for e in /proc/[0-9]*/environ; do case "$(cat "$e" 2>/dev/null)" in *` + string(want) + `*) e=${e#/proc/}; kill -` +
		strconv.Itoa(int(sig)) + ` "${e%/environ}";; esac; done`
	made, err := r.cli.API(ctx).ContainerExecCreate(ctx, id, container.ExecOptions{Cmd: []string{"/bin/sh", "-c", script}, User: "0"})
	if err == nil {
		err = r.cli.API(ctx).ContainerExecStart(ctx, made.ID, container.ExecStartOptions{Detach: true})
	}
	if err != nil {
		r.log.DebugContext(ctx, "processes not signalled from inside", "container", id, "err", err)
	}
}
