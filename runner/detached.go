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
	name := fmt.Sprintf("mesh-%s-%s-%s", o.Stack, notInName.ReplaceAllString(o.Name, "-"), random())
	id, err := r.create(ctx, name, config(o.Image, o.Process, o.Env, r.label(labels)), limited(r.hostConfig(net), o.Memory, o.CPUs))
	if err != nil {
		return "", err
	}
	if err := r.cli.API(ctx).ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		r.discard(ctx, id)
		return "", err
	}
	return id, nil
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
		list = append(list, run)
	}
	slices.SortFunc(list, func(a, b mesh.DetachedRun) int {
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.Name, b.Name))
	})
	return list, nil
}
