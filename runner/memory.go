package runner

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"mesh"
)

// MemoryUse is how much memory an instance uses, in bytes, of its limit.
type MemoryUse struct {
	Stack       mesh.StackName
	Name        mesh.InstanceName
	Used, Limit int64
}

// MemoryUse returns the use of all running instances that have a memory limit, as Usage
// measures it. What it has when ctx ends is returned beside the error.
func (r *Runner) MemoryUse(ctx context.Context) ([]MemoryUse, error) {
	found, err := r.containers(ctx, labelKind+"="+kindInstance)
	if err != nil {
		return nil, err
	}
	limits, err := r.memoryLimits(ctx, found)
	if err != nil {
		return nil, err
	}
	var limited []string
	for _, c := range found {
		if limits[c.ID] > 0 && c.State == container.StateRunning {
			limited = append(limited, c.ID)
		}
	}
	usage, err := r.Usage(ctx, limited)
	var out []MemoryUse
	for _, c := range found {
		if u, ok := usage[c.ID]; ok {
			in := labelled(c.ID, c.Labels)
			out = append(out, MemoryUse{Stack: in.Stack, Name: in.Name, Used: u.Memory, Limit: limits[c.ID]})
		}
	}
	return out, err
}

// memoryLimits returns the memory limits of containers in bytes, 0 for none, which the
// engine's list does not have. They do not change: a container is inspected once.
func (r *Runner) memoryLimits(ctx context.Context, found []container.Summary) (map[string]int64, error) {
	r.limitsMu.Lock()
	defer r.limitsMu.Unlock()
	limits := map[string]int64{}
	for _, c := range found {
		limit, known := r.limits[c.ID]
		if !known {
			in, err := r.cli.API(ctx).ContainerInspect(ctx, c.ID)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, r.fault(ctx, "inspect an instance", err)
			}
			limit = in.HostConfig.Memory
		}
		limits[c.ID] = limit
	}
	r.limits = limits
	return limits, nil
}
