package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-units"

	"mesh"
	"mesh/engine"
)

// Limits that no setting changes.
const (
	pidsLimit = 1024 // as many processes and threads as a large app has, and no fork bomb
	logSize   = "10m"
	logFiles  = "3"

	// logDriver is not "local", which loses the line after one of 16 KiB or more
	// (Docker 20.10.24). The price is that invalid UTF-8 becomes U+FFFD.
	logDriver = "json-file"
)

// capabilities are those that programs in common images need: servers that drop
// root, package managers, chown in an entrypoint, ports below 1024.
var capabilities = []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID", "KILL", "NET_BIND_SERVICE"}

// Start creates and starts one container, first creating the stack's network if it
// is missing, and returns it with its address. If it fails or ctx ends, nothing is
// left. If the image does not have the program, the error is a *mesh.Error.
func (r *Runner) Start(ctx context.Context, spec mesh.InstanceSpec) (mesh.Instance, error) {
	in, err := r.start(ctx, spec)
	for try := 1; try < networkTries && lostNetwork(err) && r.sharing() != nil && pause(ctx, networkPause) == nil; try++ {
		in, err = r.start(ctx, spec)
	}
	if err != nil {
		return mesh.Instance{}, r.fault(ctx, "start "+spec.Name.String(), startFault(spec.Name.String(), spec.Image, err))
	}
	return in, nil
}

func (r *Runner) start(ctx context.Context, spec mesh.InstanceSpec) (_ mesh.Instance, err error) {
	net, err := r.network(ctx, spec.Stack, spec.Subnet)
	if err != nil {
		return mesh.Instance{}, err
	}
	free, err := r.alone(ctx, own(spec.Mounts), "")
	if err != nil {
		return mesh.Instance{}, err
	}
	defer free()
	host := r.mounted(limited(r.hostConfig(net), spec.Memory, spec.CPUs), spec.Mounts)
	if err := r.present(ctx, spec.Mounts); err != nil {
		return mesh.Instance{}, err
	}
	name := fmt.Sprintf("mesh-%s-%s-%d-%s", spec.Stack, spec.Name.Service, spec.Name.Slot, random())
	labels := map[string]string{
		labelStack: string(spec.Stack), labelKind: kindInstance,
		labelService: string(spec.Name.Service), labelSlot: strconv.Itoa(spec.Name.Slot),
		labelRelease: strconv.Itoa(int(spec.Release)), labelDeployment: strconv.Itoa(int(spec.Deployment)),
		labelSpec: spec.Fingerprint,
	}
	if spec.Memory > 0 {
		labels[labelMemory] = strconv.FormatInt(spec.Memory, 10)
	}
	if spec.CPUs > 0 {
		labels[labelCPUs] = strconv.FormatFloat(spec.CPUs, 'g', -1, 64)
	}
	if mine := own(spec.Mounts); len(mine) > 0 {
		labels[labelAlone] = strings.Join(mine, " ")
	}
	c := config(spec.Image, spec.Process, spec.Env, r.label(labels))
	published(c, host, net.publish)
	id, err := r.create(ctx, name, c, host)
	if err != nil {
		return mesh.Instance{}, err
	}
	defer func() {
		if err != nil {
			r.discard(ctx, id)
		}
	}()
	if err := r.give(ctx, id, spec.Mounts); err != nil {
		return mesh.Instance{}, err
	}
	if err := r.cli.API(ctx).ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return mesh.Instance{}, err
	}
	return r.inspect(ctx, id)
}

// create makes a container, and removes it again if ctx has ended meanwhile. The
// request itself is not cancelled: the engine would still make the container, and
// nobody would learn its ID.
func (r *Runner) create(ctx context.Context, name string, c *container.Config, h *container.HostConfig) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	cctx, cancel := cleanup(ctx)
	defer cancel()
	made, err := r.cli.API(cctx).ContainerCreate(cctx, c, h, &network.NetworkingConfig{}, nil, name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) && !errdefs.IsInvalidArgument(err) {
			r.discard(ctx, name) // an engine that broke off may have made it
		}
		return "", mountFault(h.Mounts, err)
	}
	return made.ID, nil
}

// discard removes a container that was never handed out.
func (r *Runner) discard(ctx context.Context, id string) {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	if err := r.remove(ctx, id); err != nil {
		r.log.WarnContext(ctx, "container left behind", "container", id, "err", err)
	}
}

func config(image string, p mesh.Process, env map[string]mesh.Secret, labels map[string]string) *container.Config {
	c := &container.Config{
		Image: image, Entrypoint: p.Entrypoint, Cmd: p.Cmd, Labels: labels, StopSignal: "SIGTERM",
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}, // Check decides
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		c.Env = append(c.Env, k+"="+env[k].Reveal())
	}
	return c
}

func (r *Runner) hostConfig(net stackNetwork) *container.HostConfig {
	yes, pids := true, int64(pidsLimit)
	var dns []string
	for _, a := range net.dns {
		dns = append(dns, a.String())
	}
	return &container.HostConfig{
		NetworkMode: container.NetworkMode(net.name), DNS: dns,
		// Without an init, a program that is PID 1 and has no handler ignores
		// SIGTERM.
		Init:          &yes,
		LogConfig:     container.LogConfig{Type: logDriver, Config: map[string]string{"max-size": logSize, "max-file": logFiles}},
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		SecurityOpt:   []string{"no-new-privileges:true"},
		CapDrop:       []string{"ALL"}, CapAdd: capabilities,
		Resources: container.Resources{PidsLimit: &pids},
	}
}

// limited sets the limits of a container, in bytes and cores; 0: none.
func limited(host *container.HostConfig, memory int64, cpus float64) *container.HostConfig {
	host.Memory, host.MemorySwap = memory, memory
	host.NanoCPUs = int64(cpus * 1e9)
	return host
}

// The engine's errors about a USER or WORKDIR that does not match the image's files
// (moby, daemon/oci_linux.go and container/container.go).
var (
	noSuchUser = regexp.MustCompile(`unable to find (user|group) (.+?):`)
	noFolder   = regexp.MustCompile(`(?:Cannot mkdir: |mkdir )(\S+?):? (?:is )?not a directory`)
	noEntry    = regexp.MustCompile(`chdir to cwd \(\\*"(.+?)\\*"\)[^:]*: permission denied`)
)

var noProgram = regexp.MustCompile(`exec: \\?"((?:[^"\\]|\\[^"])+)\\?"`)

// startFault explains why an image cannot be started.
func startFault(name, image string, err error) error {
	text := err.Error()
	program := "its program"
	if m := noProgram.FindStringSubmatch(text); m != nil {
		program = strconv.Quote(m[1])
	}
	e := &mesh.Error{Kind: mesh.Failed, Hint: "correct the command, or the image's ENTRYPOINT and CMD", Err: err}
	switch {
	case errdefs.IsNotFound(err) && strings.Contains(text, "No such image"):
		return &mesh.Error{Kind: mesh.NotFound, Text: fmt.Sprintf("%s cannot start: the image %s is missing from the engine", name, short(image)), Hint: "build it again: ssh mesh ps:rebuild", Err: err}
	case noSuchUser.MatchString(text):
		m := noSuchUser.FindStringSubmatch(text)
		e.Text = fmt.Sprintf("%s cannot start: the image has no %s %q, but its USER names it", name, m[1], m[2])
		debian, alpine := "useradd", "adduser -D"
		if m[1] == "group" {
			debian, alpine = "groupadd", "addgroup"
		}
		e.Hint = fmt.Sprintf("create it in the Dockerfile before the USER line: RUN %s %s (Debian), or RUN %s %s (Alpine)", debian, plain(m[2]), alpine, plain(m[2]))
	case strings.Contains(text, "uids and gids must be in range"):
		e.Text, e.Hint = name+" cannot start: the number in the image's USER is out of range", "set USER to a name or a number from 0 to 2147483647"
	case noFolder.MatchString(text):
		e.Text = fmt.Sprintf("%s cannot start: the image's WORKDIR %q is not a folder", name, noFolder.FindStringSubmatch(text)[1])
		e.Hint = "correct WORKDIR in the Dockerfile"
	case noEntry.MatchString(text):
		m := noEntry.FindStringSubmatch(text)
		e.Text = fmt.Sprintf("%s cannot start: the image's USER has no access to its WORKDIR %q", name, m[1])
		e.Hint = fmt.Sprintf("allow access in the Dockerfile, before the USER line: RUN chmod 755 %s", plain(m[1]))
	case strings.Contains(text, "executable file not found"):
		e.Text = fmt.Sprintf("%s cannot start: the image has no program %s", name, program)
	case strings.Contains(text, "no such file or directory") && strings.Contains(text, "exec"):
		e.Text = fmt.Sprintf("%s cannot start: the image has no file %s, or not its interpreter", name, program)
	case strings.Contains(text, "permission denied") && strings.Contains(text, "exec"):
		e.Text, e.Hint = fmt.Sprintf("%s cannot start: %s is not executable", name, program), "make it executable, e.g. with: git update-index --chmod=+x FILE"
	case strings.Contains(text, "exec format error"):
		e.Text, e.Hint = fmt.Sprintf("%s cannot start: %s is not a program for this machine", name, program), "a script needs a first line such as #!/bin/sh"
	case strings.Contains(text, "No command specified"):
		e.Text, e.Hint = name+" cannot start: neither the image nor the service has a command", "add a CMD to the Dockerfile or a line to the Procfile"
	case strings.Contains(text, "Minimum memory limit"):
		e.Text, e.Hint = name+" cannot start: its memory limit is below the engine's minimum of 6 MB", "raise it with: ssh mesh svc:update NAME --memory 64m"
	case strings.Contains(text, "Range of CPUs"):
		e.Text, e.Hint = name+" cannot start: this machine cannot provide its CPU limit", "change it with: ssh mesh svc:update NAME --cpus 1"
	case strings.Contains(text, "no available IPv4 addresses"), strings.Contains(text, "could not find an available"):
		e.Kind, e.Text, e.Hint = mesh.Unavailable, name+" cannot start: the stack's network has no free address", "scale down, or stop old instances"
	default:
		return err
	}
	return e
}

func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

// Revive makes a container run and be reachable again, and returns its new state:
// its address may have changed. An exited container is started, a paused one
// unpaused, and one that is not in its stack's network connected to it. A running
// one is returned unchanged. The error is NotFound if the container does not exist
// or can never run again: another one must replace it.
func (r *Runner) Revive(ctx context.Context, id string) (mesh.Instance, error) {
	in, err := r.revive(ctx, id)
	if err != nil {
		return mesh.Instance{}, r.fault(ctx, "revive "+short(id), startFault(cmpName(in, id), "", err))
	}
	return in, nil
}

func (r *Runner) revive(ctx context.Context, id string) (mesh.Instance, error) {
	c, err := r.cli.API(ctx).ContainerInspect(ctx, id)
	if errdefs.IsNotFound(err) {
		return mesh.Instance{}, cannotReturn(id, "is gone", err)
	} else if err != nil {
		return mesh.Instance{}, err
	}
	in := r.instance(c)
	free, err := r.alone(ctx, strings.Fields(c.Config.Labels[labelAlone]), c.ID)
	if err != nil {
		return in, err
	}
	defer free()
	name := r.networkName(in.Stack)
	if string(c.HostConfig.NetworkMode) == r.overlayName(in.Stack) {
		name = r.overlayName(in.Stack)
	}
	n, err := r.cli.API(ctx).NetworkInspect(ctx, name, network.InspectOptions{})
	switch {
	case errdefs.IsNotFound(err):
		// A container remembers its network by ID: one with the same name would not
		// do.
		return in, cannotReturn(id, "has lost its network", err)
	case err != nil:
		return in, err
	}
	if n.Driver == overlayDriver {
		err = r.invite(ctx, in.Stack, n)
	} else {
		_, err = r.enter(ctx, in.Stack, n)
	}
	if err != nil {
		return in, err
	}
	if c.State.Paused {
		// A conflict means that somebody else has unpaused it.
		if err := r.cli.API(ctx).ContainerUnpause(ctx, id); err != nil && !errdefs.IsConflict(err) && !strings.Contains(err.Error(), "is not paused") {
			return in, err
		}
	}
	if at := c.NetworkSettings.Networks[n.Name]; at == nil || at.NetworkID != "" && at.NetworkID != n.ID {
		if err := r.reconnect(ctx, n.ID, id); err != nil {
			return in, cannotReturn(id, "cannot be connected to its network again", err)
		}
	}
	if err := r.cli.API(ctx).ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		if text := err.Error(); errdefs.IsNotFound(err) || strings.Contains(text, "network") && strings.Contains(text, "not found") || strings.Contains(text, "marked for removal") {
			return in, cannotReturn(id, "cannot start again", err)
		}
		return in, err
	}
	if in, err = r.inspect(ctx, id); errdefs.IsNotFound(err) {
		return in, cannotReturn(id, "is gone", err)
	}
	return in, err
}

// reconnect connects a container to a network that it is not in, whatever is left of
// an older connection.
func (r *Runner) reconnect(ctx context.Context, net, id string) error {
	err := r.cli.API(ctx).NetworkConnect(ctx, net, id, nil)
	if err == nil || !strings.Contains(err.Error(), "already exists in network") {
		return err
	}
	if err := r.cli.API(ctx).NetworkDisconnect(ctx, net, id, true); err != nil {
		return err
	}
	return r.cli.API(ctx).NetworkConnect(ctx, net, id, nil)
}

// cannotReturn is the error for a container that another one must replace, unless
// the engine is down.
func cannotReturn(id, what string, err error) error {
	if engine.Away(err) {
		return err
	}
	return &mesh.Error{Kind: mesh.NotFound, Text: fmt.Sprintf("the container %s %s", short(id), what), Err: err}
}

func cmpName(in mesh.Instance, id string) string {
	if in.Name.Slot == 0 {
		return short(id)
	}
	return in.Name.String()
}

// Stop sends SIGTERM, waits at most grace, sends SIGKILL, and removes the container
// with its anonymous volumes. It is not an error if the container is already gone,
// and several callers may stop the same one. If ctx ends, the container stays, with
// its SIGTERM.
func (r *Runner) Stop(ctx context.Context, id string, grace time.Duration) error {
	return r.fault(ctx, "stop "+short(id), r.stop(ctx, id, grace))
}

func (r *Runner) stop(ctx context.Context, id string, grace time.Duration) error {
	if there, err := r.halt(ctx, id, grace, false); err != nil || !there {
		return err
	}
	return r.remove(ctx, id)
}

// Halt ends an instance as Stop does, and keeps its container, which Revive starts again. A
// missing container is not an error.
func (r *Runner) Halt(ctx context.Context, id string, grace time.Duration) error {
	_, err := r.halt(ctx, id, grace, true)
	return r.fault(ctx, "halt "+short(id), err)
}

// halt sends SIGTERM and waits for at most grace; with kill it then sends SIGKILL and waits
// for that. It reports whether the container exists.
func (r *Runner) halt(ctx context.Context, id string, grace time.Duration, kill bool) (there bool, err error) {
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A paused program gets no signal. The engine refuses to unpause others.
	_ = r.cli.API(ctx).ContainerUnpause(ctx, id)
	// Wait first, so that an exit between the signal and the wait is not missed.
	exited, failed := r.cli.API(wctx).ContainerWait(wctx, id, container.WaitConditionNotRunning)
	for _, signal := range []string{"SIGTERM", "SIGKILL"} {
		// A conflict means that the container is not running, which is fine.
		if err := r.cli.API(ctx).ContainerKill(ctx, id, signal); errdefs.IsNotFound(err) {
			return false, nil
		} else if errdefs.IsConflict(err) || errdefs.IsInternal(err) {
			return true, nil
		} else if err != nil {
			return true, err
		}
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-exited:
			return true, nil
		case <-t.C:
		case <-ctx.Done():
			return true, context.Cause(ctx)
		case err := <-failed:
			if err != nil && !errdefs.IsNotFound(err) {
				return true, err
			}
			return true, nil
		}
		if !kill {
			return true, nil
		}
		grace = cleanupTimeout // the kernel may be busy with its memory
	}
	return true, errors.New("it did not end after SIGKILL")
}

// remove kills and removes a container, and waits if another caller is doing so. Its
// output is read first.
func (r *Runner) remove(ctx context.Context, id string) error {
	r.finish(ctx, id)
	err := r.cli.API(ctx).ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress") {
		wctx, cancel := context.WithCancel(ctx)
		defer cancel()
		gone, failed := r.cli.API(wctx).ContainerWait(wctx, id, container.WaitConditionRemoved)
		select {
		case <-gone:
			return nil
		case err = <-failed:
		}
	}
	if err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// exitFault is the error for an instance that ended; when completes it ("before it
// answered on port 8080").
func exitFault(name string, code int, oom bool, memory int64, when string) *mesh.Error {
	e := &mesh.Error{Kind: mesh.Failed}
	switch {
	case oom:
		e.Text = name + " was killed: out of memory" + limit(memory)
		e.Hint = "raise its limit with: ssh mesh svc:update NAME --memory 1g"
	case code > 128 && code < 128+65:
		e.Text = fmt.Sprintf("%s exited with code %d (%s) %s", name, code, signalName(code-128), when)
	default:
		e.Text = fmt.Sprintf("%s exited with code %d %s", name, code, when)
	}
	if hint, known := exitHints[code]; known {
		e.Hint = hint
	}
	return e
}

// notExecuted adds to e why there was no program to run, if the output of the
// container shows it. The container must still exist.
func (r *Runner) notExecuted(ctx context.Context, id string, e *mesh.Error, name string) {
	byInit := slices.ContainsFunc(e.Output, initFailed.MatchString)
	c := r.diagnose(ctx, id, e.Output)
	switch {
	case c.text == "":
	case byInit, c.sure:
		e.Text, e.Hint = name+" cannot start: "+c.text, c.hint
	case e.Hint == exitHints[126], e.Hint == exitHints[127]:
		e.Text, e.Hint = e.Text+": "+c.text, c.hint
	}
}

// exitHints explain exit codes of shells (POSIX, Shell Command Language, 2.8.2).
var exitHints = map[int]string{
	0:   "the command must keep running: start the server in the foreground",
	126: "the command exists but cannot be executed",
	127: "the command was not found in the image",
}

func limit(memory int64) string {
	if memory == 0 {
		return ""
	}
	return " (limit " + units.CustomSize("%.4g %s", float64(memory), 1024, []string{"B", "KB", "MB", "GB", "TB"}) + ")"
}

func signalName(n int) string {
	names := map[int]string{1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM"}
	if s := names[n]; s != "" {
		return s
	}
	return "signal " + strconv.Itoa(n)
}
