package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/errgroup"

	"mesh"
)

// Usage returns what running containers use, by ID, and leaves out the others.
//
// It reads the files of their control groups where it can: 90 µs for each container on two
// busy cores (BenchmarkUsage). Where it cannot, because mesh runs in a container of its own or
// the engine on another machine, it asks the engine, which answers after a second (Docker
// 20.10), for 32 containers at a time. What it has when ctx ends is returned beside the error.
func (r *Runner) Usage(ctx context.Context, ids []string) (map[string]mesh.Usage, error) {
	out := make(map[string]mesh.Usage, len(ids))
	var ask []string
	for _, id := range ids {
		if u, ok := r.groups.usage(id); ok {
			out[id] = u
		} else {
			ask = append(ask, id)
		}
	}
	if len(ask) == 0 {
		return out, nil
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for _, id := range ask {
		g.Go(func() error {
			u, ok, err := r.askUsage(gctx, id)
			if err != nil || !ok {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			out[id] = u
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return out, r.fault(ctx, "measure the containers", err)
	}
	return out, nil
}

// askUsage asks the engine about one container; false: it does not run.
func (r *Runner) askUsage(ctx context.Context, id string) (mesh.Usage, bool, error) {
	got, err := r.cli.API(ctx).ContainerStatsOneShot(ctx, id)
	if errdefs.IsNotFound(err) {
		return mesh.Usage{}, false, nil
	}
	if err != nil {
		return mesh.Usage{}, false, err
	}
	defer got.Body.Close()
	var s container.StatsResponse
	if err := json.NewDecoder(got.Body).Decode(&s); err != nil {
		return mesh.Usage{}, false, err
	}
	if s.CPUStats.CPUUsage.TotalUsage == 0 && s.MemoryStats.Usage == 0 {
		return mesh.Usage{}, false, nil
	}
	cache := s.MemoryStats.Stats["total_inactive_file"] // of cgroup 1
	if cache == 0 {
		cache = s.MemoryStats.Stats["inactive_file"]
	}
	return mesh.Usage{
		CPU:    time.Duration(s.CPUStats.CPUUsage.TotalUsage),                //nolint:gosec // nanoseconds
		Memory: int64(s.MemoryStats.Usage - min(cache, s.MemoryStats.Usage)), //nolint:gosec // bytes
	}, true, nil
}

// Disk returns the bytes in the writable layers of this server's containers, by ID. The
// engine reads every file of them for that: it may take minutes.
func (r *Runner) Disk(ctx context.Context) (map[string]int64, error) {
	found, err := r.cli.API(ctx).ContainerList(ctx, container.ListOptions{All: true, Size: true, Filters: r.filter(labelKind + "=" + kindInstance)})
	if err != nil {
		return nil, r.fault(ctx, "measure the disk use of the containers", err)
	}
	out := make(map[string]int64, len(found))
	for _, c := range found {
		out[c.ID] = c.SizeRw
	}
	return out, nil
}

// groups reads control groups. Its zero value reads those of this machine. It may be
// used from several goroutines.
type groups struct {
	root string // empty: defaultGroups

	mu   sync.Mutex
	last int // the index of the place where a group was found last
}

const defaultGroups = "/sys/fs/cgroup"

// groupPlaces are where engines put the groups of containers: below docker with their own
// driver, in scopes of system.slice with systemd's. %s is the ID.
var groupPlaces = []string{"docker/%s", "system.slice/docker-%s.scope"}

// usage returns what a container uses; false if there is no such group.
func (g *groups) usage(id string) (mesh.Usage, bool) {
	root := g.root
	if root == "" {
		root = defaultGroups
	}
	g.mu.Lock()
	last := g.last
	g.mu.Unlock()
	for n := range len(groupPlaces) * 2 {
		i := (last + n) % (len(groupPlaces) * 2)
		place := strings.ReplaceAll(groupPlaces[i/2], "%s", id)
		var u mesh.Usage
		var err error
		if i%2 == 0 {
			u, err = usage2(filepath.Join(root, place))
		} else {
			u, err = usage1(filepath.Join(root, "cpuacct", place), filepath.Join(root, "memory", place))
		}
		if err != nil {
			continue
		}
		if n > 0 {
			g.mu.Lock()
			g.last = i
			g.mu.Unlock()
		}
		return u, true
	}
	return mesh.Usage{}, false
}

// usage2 reads a group of version 2 (the kernel's Documentation/admin-guide/cgroup-v2.rst).
func usage2(dir string) (u mesh.Usage, err error) {
	cpu, err := field(filepath.Join(dir, "cpu.stat"), "usage_usec")
	if err != nil {
		return u, err
	}
	all, err := number(filepath.Join(dir, "memory.current"))
	if err != nil {
		return u, err
	}
	cache, err := field(filepath.Join(dir, "memory.stat"), "inactive_file")
	return mesh.Usage{CPU: time.Duration(cpu) * time.Microsecond, Memory: max(all-cache, 0)}, err
}

// usage1 reads the two groups of version 1 (cgroup-v1/cpuacct.rst, memory.rst).
func usage1(cpuacct, memory string) (u mesh.Usage, err error) {
	cpu, err := number(filepath.Join(cpuacct, "cpuacct.usage"))
	if err != nil {
		return u, err
	}
	all, err := number(filepath.Join(memory, "memory.usage_in_bytes"))
	if err != nil {
		return u, err
	}
	cache, err := field(filepath.Join(memory, "memory.stat"), "total_inactive_file")
	return mesh.Usage{CPU: time.Duration(cpu), Memory: max(all-cache, 0)}, err
}

// number reads a file that is one number.
func number(path string) (int64, error) {
	b, err := os.ReadFile(path) //nolint:gosec // of a control group
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
}

var errNoField = errors.New("no such field")

// field reads one line "name number" of a file.
func field(path, name string) (int64, error) {
	b, err := os.ReadFile(path) //nolint:gosec // of a control group
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			return strconv.ParseInt(string(bytes.TrimSpace(rest)), 10, 64)
		}
	}
	return 0, errNoField
}
