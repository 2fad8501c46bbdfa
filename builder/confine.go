package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/system"
)

// BuildKit has no limits of its own: its steps run in a control group that has them.
// The engine does not accept limits per build, and setting them needs root; a
// process that only uses the engine can check whether they are set.
//
// BuildKit in the engine lets runc write control groups itself, whatever the
// engine's own driver is (executor/runcexecutor of moby/buildkit starts it without
// --systemd-cgroup). With the driver "cgroupfs" they are below /docker/buildkit.
// With "systemd" the parent, "system.slice:docker:", is a name that only runc's
// systemd driver understands: each step gets a control group of that literal name
// (cmd/dockerd newCgroupParent, moby/buildkit executor/oci/spec.go). A requested
// parent is used as a path, from Docker 23 on.

// cgroup is the control group of the build steps.
type cgroup struct {
	path string // below the root of a hierarchy
	// The parent to request from BuildKit, and from the engine's own builder, so
	// that steps run there; empty: none.
	parent, classic string
}

// Slice is the systemd unit that limits builds, if systemd manages the engine's
// control groups.
const Slice = "mesh-build.slice"

var (
	byEngine  = cgroup{path: "docker/buildkit", classic: "/docker/buildkit"}
	bySystemd = cgroup{path: "mesh.slice/" + Slice, parent: "/mesh.slice/" + Slice, classic: Slice}
)

// cgroupRoot is the root of the control groups.
const cgroupRoot = "/sys/fs/cgroup"

// Confine limits the memory and the processes of all builds together, as set in
// Options. It needs root, and the limits last until the machine restarts. A server
// that does not run as root relies on it having been run.
func (b *Builder) Confine(ctx context.Context) error {
	g, err := b.cgroup(ctx)
	if err != nil {
		return err
	}
	if g == bySystemd {
		return b.slice(ctx)
	}
	return b.write(cgroupRoot, g.path)
}

// limit makes sure that builds are limited and returns their control group. If they
// are not, it logs the reason once.
func (b *Builder) limit(ctx context.Context) cgroup {
	if g := b.group.Load(); g != nil {
		return *g
	}
	g, err := b.cgroup(ctx)
	if err == nil && b.inForce(cgroupRoot, g.path) != nil {
		if err = b.Confine(ctx); err == nil {
			err = b.inForce(cgroupRoot, g.path)
		}
	}
	if err != nil {
		b.unlimited(ctx, err)
		return cgroup{}
	}
	b.group.Store(&g)
	return g
}

func (b *Builder) unlimited(ctx context.Context, err error) {
	b.warned.Do(func() { b.log.WarnContext(ctx, "memory and processes of builds are not limited", "err", err) })
}

// cgroup returns the control group that the engine's steps are in, or must be put
// in.
func (b *Builder) cgroup(ctx context.Context) (cgroup, error) {
	if !strings.HasPrefix(b.cli.Host(), "unix:") {
		return cgroup{}, errors.New("the engine is on another machine")
	}
	info, err := b.cli.API(ctx).Info(ctx)
	if err != nil {
		return cgroup{}, err
	}
	return cgroupOf(info)
}

func cgroupOf(info system.Info) (cgroup, error) {
	for _, o := range info.SecurityOptions {
		if strings.HasPrefix(o, "name=rootless") {
			return cgroup{}, errors.New("the engine is rootless, and so are the control groups of its steps")
		}
	}
	switch info.CgroupDriver {
	case "cgroupfs":
		return byEngine, nil
	case "systemd":
		return bySystemd, nil
	}
	return cgroup{}, fmt.Errorf("cannot determine the control group of the engine's steps: its driver is %q", info.CgroupDriver)
}

// slice sets the limits through systemd, which creates the slice if needed.
// systemctl also works without a bus.
func (b *Builder) slice(ctx context.Context) error {
	memory := "infinity"
	if b.memory > 0 {
		memory = strconv.FormatInt(b.memory, 10)
	}
	for _, args := range [][]string{
		{"set-property", "--runtime", Slice, "MemoryMax=" + memory, "TasksMax=" + strconv.FormatInt(b.pids, 10)},
		{"start", Slice},
	} {
		out, err := exec.CommandContext(ctx, "systemctl", append([]string{"--no-ask-password"}, args...)...).CombinedOutput() //nolint:gosec // numbers and constants
		if err != nil {
			return fmt.Errorf("systemctl %s %s: %w: %s; run \"mesh confine\" as root with the server's settings, as contrib/mesh.service does", args[0], Slice, err, firstLine(string(out)))
		}
	}
	return nil
}

// write sets the limits in the control group file system.
func (b *Builder) write(root, path string) error {
	set := func(controller, file string, value int64) error {
		dir := filepath.Join(root, controller, path)
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the mode of control groups
			return err
		}
		return os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(value, 10)), 0o644) //nolint:gosec // as above
	}
	if unified(root) {
		var errs []error
		for _, dir := range []string{root, filepath.Join(root, filepath.Dir(path))} {
			if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as above
				return err
			}
			errs = append(errs, os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory +pids"), 0o644)) //nolint:gosec // as above
		}
		if b.memory > 0 {
			errs = append(errs, set("", "memory.max", b.memory))
		}
		return errors.Join(append(errs, set("", "pids.max", b.pids))...)
	}
	var errs []error
	if b.memory > 0 {
		errs = append(errs, set("memory", "memory.limit_in_bytes", b.memory))
	}
	return errors.Join(append(errs, set("pids", "pids.max", b.pids))...)
}

// unified reports whether the control groups are version 2.
func unified(root string) bool {
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	return err == nil
}

// inForce fails unless a control group has the limits, or stricter ones.
func (b *Builder) inForce(root, path string) error {
	check := func(controller, file string, want int64) error {
		name := filepath.Join(root, controller, path, file)
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		// "max" is not a number and means no limit.
		if got, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err != nil || got > want {
			return fmt.Errorf("%s is %s, want at most %d", name, strings.TrimSpace(string(text)), want)
		}
		return nil
	}
	memory, processes := [2]string{"memory", "memory.limit_in_bytes"}, "pids"
	if unified(root) {
		memory, processes = [2]string{"", "memory.max"}, ""
	}
	var err error
	if b.memory > 0 {
		err = check(memory[0], memory[1], b.memory)
	}
	return errors.Join(err, check(processes, "pids.max", b.pids))
}
