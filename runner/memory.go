package runner

import (
	"context"
	"encoding/json"
	"errors"

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

// MemoryUse returns the use of all running instances that have a memory limit. The engine
// gets one request, and one for each such instance. What the kernel can take back at once,
// the inactive part of its file cache, does not count as used.
func (r *Runner) MemoryUse(ctx context.Context) ([]MemoryUse, error) {
	found, err := r.containers(ctx, labelKind+"="+kindInstance)
	if err != nil {
		return nil, err
	}
	limits, err := r.memoryLimits(ctx, found)
	if err != nil {
		return nil, err
	}
	var out []MemoryUse
	for _, c := range found {
		limit := limits[c.ID]
		if limit <= 0 || c.State != container.StateRunning {
			continue
		}
		used, err := r.memoryOf(ctx, c.ID)
		switch {
		case errdefs.IsNotFound(err), errors.Is(err, errEnded):
			continue // it has ended meanwhile
		case err != nil:
			return nil, r.fault(ctx, "read the memory use of an instance", err)
		}
		in := labelled(c.ID, c.Labels)
		out = append(out, MemoryUse{Stack: in.Stack, Name: in.Name, Used: used, Limit: limit})
	}
	return out, nil
}

var errEnded = errors.New("the container has ended")

func (r *Runner) memoryOf(ctx context.Context, id string) (int64, error) {
	res, err := r.cli.API(ctx).ContainerStatsOneShot(ctx, id)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var s container.StatsResponse
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		return 0, err
	}
	if s.MemoryStats.Usage == 0 {
		return 0, errEnded
	}
	// Control groups v2 and v1 name it differently.
	idle, v2 := s.MemoryStats.Stats["inactive_file"]
	if total, v1 := s.MemoryStats.Stats["total_inactive_file"]; v1 || !v2 {
		idle = total
	}
	return int64(s.MemoryStats.Usage - min(idle, s.MemoryStats.Usage)), nil //nolint:gosec // less than the machine has
}

// memoryLimits returns the limits of containers, which the engine's list does not have. A
// container is inspected once.
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
