package runner

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"mesh"
)

// Labels of detached runs.
const (
	labelBy      = "mesh.by"
	labelUntil   = "mesh.until"
	labelCommand = "mesh.command"
	labelJob     = "mesh.job"
	labelJobRun  = "mesh.job-run"

	kindDetached = "detached"
)

// Detach starts a container that runs a command without a client, and returns. The
// engine keeps its output for Logs. The streams of o are not used; run has the other
// data to store with it.
func (r *Runner) Detach(ctx context.Context, o mesh.OneOff, run mesh.DetachedRun) (mesh.DetachedRun, error) {
	id, err := r.detach(ctx, o, run)
	if err != nil {
		return run, r.fault(ctx, "run "+o.Name, startFault(o.Name, o.Image, err))
	}
	run.ID, run.Running, run.Started = id, true, r.now().UTC()
	return run, nil
}

func (r *Runner) detach(ctx context.Context, o mesh.OneOff, run mesh.DetachedRun) (string, error) {
	net, err := r.network(ctx, o.Stack, o.Subnet)
	if err != nil {
		return "", err
	}
	numbered, err := mesh.ParseInstanceName(o.Name) // "run.4211"
	if err != nil {
		return "", err
	}
	labels := map[string]string{labelService: string(numbered.Service), labelSlot: strconv.Itoa(numbered.Slot)}
	maps.Copy(labels, o.Labels)
	maps.Copy(labels, map[string]string{
		labelStack: string(o.Stack), labelKind: kindDetached, labelName: o.Name,
		labelBy: string(run.By), labelUntil: run.Until.UTC().Format(time.RFC3339Nano), labelCommand: run.Command,
	})
	if run.Job != "" {
		labels[labelJob], labels[labelJobRun] = string(run.Job), strconv.Itoa(run.JobRun)
	}
	free, err := r.alone(ctx, own(o.Mounts), "")
	if err != nil {
		return "", err
	}
	defer free()
	if err := r.present(ctx, o.Mounts); err != nil {
		return "", err
	}
	name := fmt.Sprintf("mesh-%s-%s-%s", o.Stack, notInName.ReplaceAllString(o.Name, "-"), random())
	id, err := r.create(ctx, name, config(o.Image, o.Process, o.Env, r.label(labels)), r.mounted(limited(r.hostConfig(net), o.Memory, o.CPUs), o.Mounts))
	if err != nil {
		return "", err
	}
	err = r.give(ctx, id, o.Mounts)
	if err == nil {
		err = r.cli.API(ctx).ContainerStart(ctx, id, container.StartOptions{})
	}
	if err != nil {
		r.discard(ctx, id)
		return "", err
	}
	return id, nil
}

// Logs calls fn with what a detached run has printed: the last q.Lines lines, all if it is
// negative. With q.Follow it continues until the run or ctx ends. It returns fn's error.
// Only the stack, the run, the lines and Follow of q count.
func (r *Runner) Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	found, err := r.containers(ctx, labelKind+"="+kindDetached, labelStack+"="+string(q.Stack), labelName+"="+q.Run)
	if err != nil {
		return err
	}
	for _, c := range found {
		var last mesh.LogLine
		pass := func(l mesh.LogLine) error {
			last = l
			return fn(l)
		}
		err := r.lines(ctx, c.ID, q, pass)
		if err == nil && q.Follow && ctx.Err() == nil && (q.Lines != 0 || !last.At.IsZero()) {
			err = r.linesAfter(ctx, c.ID, q, last, pass)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// lines calls fn with the output of a detached run.
func (r *Runner) lines(ctx context.Context, id string, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	return r.Output(ctx, id, q.Lines, q.Follow, func(at time.Time, _ byte, text []byte) error {
		return fn(mesh.LogLine{At: at, Source: "app", Name: q.Run, Text: string(text)})
	})
}

// linesAfter calls fn with what comes after a line, which was the last one.
func (r *Runner) linesAfter(ctx context.Context, id string, q mesh.LogQuery, last mesh.LogLine, fn func(mesh.LogLine) error) error {
	var rest []mesh.LogLine
	q.Lines, q.Follow = -1, false
	err := r.lines(ctx, id, q, func(l mesh.LogLine) error {
		if rest = append(rest, l); l == last {
			rest = rest[:0]
		}
		return nil
	})
	for _, l := range rest {
		if err == nil {
			err = fn(l)
		}
	}
	return err
}

// OneOffs counts the one-off containers of a stack whose clients are connected.
func (r *Runner) OneOffs(ctx context.Context, stack mesh.StackName) (int, error) {
	found, err := r.containers(ctx, labelKind+"="+kindOneOff, labelStack+"="+string(stack))
	return len(found), err
}

// Detached lists the detached runs of a stack, or of all stacks if it is empty,
// oldest first.
func (r *Runner) Detached(ctx context.Context, stack mesh.StackName) ([]mesh.DetachedRun, error) {
	labels := []string{labelKind + "=" + kindDetached}
	if stack != "" {
		labels = append(labels, labelStack+"="+string(stack))
	}
	found, err := r.containers(ctx, labels...)
	if err != nil {
		return nil, err
	}
	list := []mesh.DetachedRun{}
	for _, c := range found {
		in, err := r.cli.API(ctx).ContainerInspect(ctx, c.ID)
		if errdefs.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, r.fault(ctx, "list the detached runs", err)
		}
		l := c.Labels
		run := mesh.DetachedRun{
			Stack: mesh.StackName(l[labelStack]), Name: l[labelName], ID: c.ID, By: mesh.KeyName(l[labelBy]), Command: l[labelCommand],
			Running: in.State.Running, ExitCode: in.State.ExitCode, OOM: in.State.OOMKilled,
		}
		run.Started, _ = time.Parse(time.RFC3339Nano, in.State.StartedAt)
		run.Until, _ = time.Parse(time.RFC3339Nano, l[labelUntil])
		run.Unborn = in.State.Status == container.StateCreated
		if !in.State.Running && !run.Unborn {
			run.Ended, _ = time.Parse(time.RFC3339Nano, in.State.FinishedAt)
		}
		run.Job = mesh.ServiceName(l[labelJob])
		run.JobRun, _ = strconv.Atoi(l[labelJobRun]) // absent: 0
		list = append(list, run)
	}
	slices.SortFunc(list, func(a, b mesh.DetachedRun) int {
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.Name, b.Name))
	})
	return list, nil
}

// AwaitRun returns when the container of a detached run does not run, or no longer exists.
func (r *Runner) AwaitRun(ctx context.Context, id string) error {
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended, failed := r.cli.API(wctx).ContainerWait(wctx, id, container.WaitConditionNotRunning)
	select {
	case <-ended:
		return nil
	case err := <-failed:
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		return r.fault(ctx, "wait for "+short(id), err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
