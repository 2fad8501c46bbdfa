package runner

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/errgroup"

	"mesh"
)

// MemoryUse is how much memory an instance uses, in bytes, of its limit.
type MemoryUse struct {
	Stack       mesh.StackName
	Name        mesh.InstanceName
	Used, Limit int64
}

// MemoryUse returns the use of all running instances that have a memory limit. What the
// kernel can take back at once, the inactive part of its file cache, does not count as
// used. The engine gets one request. The figures come from the kernel's control groups; if
// mesh does not see those, from the engine, which takes a second for each instance, so
// that it is asked for many at a time.
func (r *Runner) MemoryUse(ctx context.Context) ([]MemoryUse, error) {
	found, err := r.containers(ctx, labelKind+"="+kindInstance)
	if err != nil {
		return nil, err
	}
	limits, err := r.memoryLimits(ctx, found)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var out []MemoryUse
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for _, c := range found {
		l := limits[c.ID]
		if l.bytes <= 0 || c.State != container.StateRunning {
			continue
		}
		g.Go(func() error {
			used, err := groupMemory(l.group)
			if err != nil {
				used, err = r.engineMemory(gctx, c.ID)
			}
			switch {
			case errdefs.IsNotFound(err), errors.Is(err, errEnded):
				return nil // it has ended meanwhile
			case err != nil:
				return r.fault(gctx, "read the memory use of an instance", err)
			}
			in := labelled(c.ID, c.Labels)
			mu.Lock()
			defer mu.Unlock()
			out = append(out, MemoryUse{Stack: in.Stack, Name: in.Name, Used: used, Limit: l.bytes})
			return nil
		})
	}
	return out, g.Wait()
}

var errEnded = errors.New("the container has ended")

func (r *Runner) engineMemory(ctx context.Context, id string) (int64, error) {
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

// groupMemory reads the use of a control group, v2 or v1, from its folder.
func groupMemory(dir string) (int64, error) {
	if dir == "" {
		return 0, fs.ErrNotExist
	}
	current, field := "memory.current", "inactive_file"
	data, err := os.ReadFile(filepath.Join(dir, current))
	if errors.Is(err, fs.ErrNotExist) {
		current, field = "memory.usage_in_bytes", "total_inactive_file"
		data, err = os.ReadFile(filepath.Join(dir, current))
	}
	if err != nil {
		return 0, err
	}
	used, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, err
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(stat)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseInt(value, 10, 64); name == field && err == nil {
			used -= min(n, used)
		}
	}
	return used, nil
}

// groupOf returns the folder of a container's control group for memory, or "" if it is not
// to be seen from here, as in a container. pid is a process of the container.
func groupOf(id string, pid int) string {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil || pid == 0 {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		// "0::/system.slice/docker-ID.scope" of v2, "9:memory:/docker/ID" of v1
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || !strings.Contains(f[2], id) { // or the number is that of another process
			continue
		}
		root := "/sys/fs/cgroup"
		switch {
		case f[1] == "memory":
			root = filepath.Join(root, "memory")
		case f[1] != "":
			continue
		}
		if dir := filepath.Join(root, f[2]); exists(filepath.Join(dir, "memory.stat")) {
			return dir
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// memoryLimit is what does not change in the life of a container.
type memoryLimit struct {
	bytes int64  // 0: none
	group string // the folder of its control group; empty: not to be seen from here
}

// memoryLimits returns the limits of containers, which the engine's list does not have. A
// container is inspected once.
func (r *Runner) memoryLimits(ctx context.Context, found []container.Summary) (map[string]memoryLimit, error) {
	r.limitsMu.Lock()
	defer r.limitsMu.Unlock()
	limits := map[string]memoryLimit{}
	for _, c := range found {
		l, known := r.limits[c.ID]
		if !known {
			in, err := r.cli.API(ctx).ContainerInspect(ctx, c.ID)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, r.fault(ctx, "inspect an instance", err)
			}
			if in.State.Pid == 0 {
				continue // it does not run yet
			}
			if l.bytes = in.HostConfig.Memory; l.bytes > 0 {
				l.group = groupOf(c.ID, in.State.Pid)
			}
		}
		limits[c.ID] = l
	}
	r.limits = limits
	return limits, nil
}
