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

// BuildKit has no limits of its own: its steps are put into a control group that has
// them. They cannot be given to the engine for each build, and it takes the rights of
// root to set them; who only uses the engine sees whether they are set.
//
// BuildKit in the engine lets runc write control groups itself, whatever the engine's
// own driver is (executor/runcexecutor of moby/buildkit starts it without
// --systemd-cgroup). With the driver "cgroupfs" they are below /docker/buildkit. With
// "systemd" its parent, "system.slice:docker:", is a name that only runc's systemd
// driver understands: the groups get that for a name, in a place of their own each
// (cmd/dockerd newCgroupParent, moby/buildkit executor/oci/spec.go). A parent that is
// asked for is taken as a path, from Docker 23 on.

// cgroup is where the steps of builds are.
type cgroup struct {
	path string // below the root of a hierarchy
	// What BuildKit, and the engine's own builder, have to be asked for to put steps
	// there; empty: nothing.
	parent, classic string
}

// Slice is the unit of systemd that limits builds, if the engine leaves control groups
// to systemd.
const Slice = "mesh-build.slice"

var (
	byEngine  = cgroup{path: "docker/buildkit", classic: "/docker/buildkit"}
	bySystemd = cgroup{path: "mesh.slice/" + Slice, parent: "/mesh.slice/" + Slice, classic: Slice}
)

// cgroupRoot is where control groups are.
const cgroupRoot = "/sys/fs/cgroup"

// Confine limits the memory and the processes of all builds together, as Options say.
// It takes the rights of root, and the limits stay until the machine is started anew. A
// server without these rights needs it to be done before.
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

// limit makes sure that builds are limited and returns where, or says in the log, once,
// why they are not.
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

// cgroup finds out where the engine's steps are, or have to be put.
func (b *Builder) cgroup(ctx context.Context) (cgroup, error) {
	if !strings.HasPrefix(b.cli.DaemonHost(), "unix:") {
		return cgroup{}, errors.New("the engine is on another machine")
	}
	info, err := b.cli.Info(ctx)
	if err != nil {
		return cgroup{}, err
	}
	return cgroupOf(info)
}

func cgroupOf(info system.Info) (cgroup, error) {
	for _, o := range info.SecurityOptions {
		if strings.HasPrefix(o, "name=rootless") {
			return cgroup{}, errors.New("the engine is without the rights of root, and so are the control groups of its steps")
		}
	}
	switch info.CgroupDriver {
	case "cgroupfs":
		return byEngine, nil
	case "systemd":
		return bySystemd, nil
	}
	return cgroup{}, fmt.Errorf("the engine's steps are in no control group that can be known: its driver is %q", info.CgroupDriver)
}

// slice sets the limits by systemd, which makes the slice when there is none. systemctl
// reaches it without a bus, too.
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
			return fmt.Errorf("systemctl %s %s: %w: %s; as root, with the server's settings, \"mesh confine\" does it, and contrib/mesh.service has that", args[0], Slice, err, firstLine(string(out)))
		}
	}
	return nil
}

// write sets the limits in the file system of control groups.
func (b *Builder) write(root, path string) error {
	set := func(controller, file string, value int64) error {
		dir := filepath.Join(root, controller, path)
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // what control groups have
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

// unified tells whether the control groups are those of version 2.
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
		// "max" is no number, and no limit.
		if got, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err != nil || got > want {
			return fmt.Errorf("%s is %s, and should be %d", name, strings.TrimSpace(string(text)), want)
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
