package addons

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"

	"mesh"
	"mesh/engine"
)

// The labels of everything that belongs to an add-on, besides those of package engine.
const (
	labelAddon  = "mesh.addon"
	labelVolume = "mesh.volume" // the data that a container serves

	kindAddon = "addon"
)

// versionRule is that of a tag (distribution, reference/regexp.go).
var versionRule = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// pidsLimit is the number of processes and threads that a server may have. MySQL has one
// for each connection.
const pidsLimit = 4096

// capabilities are what the official images' entry points need: they give the data to the
// user of the server, and become it.
var capabilities = []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID", "KILL", "SYS_NICE"}

// prefix begins the names of everything that this server has of add-ons.
func (s *Server) prefix() string { return engine.Prefix(s.Server) }

func (s *Server) labels(a mesh.Addon) map[string]string {
	all := maps.Clone(s.Labels)
	if all == nil {
		all = map[string]string{}
	}
	all[engine.LabelServer], all[engine.LabelKind], all[labelAddon] = s.Server, kindAddon, string(a.Name)
	return all
}

func (s *Server) filter(labels ...string) filters.Args {
	f := filters.NewArgs(filters.Arg("label", engine.LabelServer+"="+s.Server), filters.Arg("label", engine.LabelKind+"="+kindAddon))
	for _, l := range labels {
		f.Add("label", l)
	}
	return f
}

// containers returns the containers of an add-on, or of all if name is empty, in any state.
func (s *Server) containers(ctx context.Context, name mesh.AddonName) ([]container.Summary, error) {
	f := s.filter()
	if name != "" {
		f = s.filter(labelAddon + "=" + string(name))
	}
	return s.cli.API(ctx).ContainerList(ctx, container.ListOptions{All: true, Filters: f})
}

// find returns the container that serves the data of an add-on, or none.
func (s *Server) find(ctx context.Context, a mesh.Addon) (container.Summary, bool, error) {
	found, err := s.containers(ctx, a.Name)
	if err != nil {
		return container.Summary{}, false, err
	}
	for _, c := range found {
		if c.Labels[labelVolume] == a.Volume {
			return c, true, nil
		}
	}
	return container.Summary{}, false, nil
}

// spec is equal for add-ons that run the same thing. Limits can be changed while it runs.
// Passwords in the environment count only for a new volume, and files are made again.
func (k *kind) spec(a mesh.Addon) string {
	data, err := json.Marshal([]any{a.ImageID, k.Command, k.parameters(a), k.Port, k.Volume, a.Volume})
	if err != nil {
		panic(err) //nolint:forbidigo // every value above can be encoded
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}

// Run makes the server of an add-on run, and returns once it answers. It creates what is
// missing, replaces a container that runs something else, and changes the limits of one
// that runs. The image must be in the engine. It is safe to call again, whatever a killed
// server has left.
func (s *Server) Run(ctx context.Context, a mesh.Addon) error {
	k, err := s.of(a)
	if err != nil {
		return err
	}
	id, began, err := s.start(ctx, k, a)
	if err != nil {
		return s.fault(ctx, "start add-on "+string(a.Name), startFault(a, err))
	}
	if err := s.await(ctx, k, a, id, began); err != nil {
		return err
	}
	return s.program(ctx, k, a, id, k.Setup, nil, nil, nil)
}

// start makes the container of an add-on run, without waiting for the server.
func (s *Server) start(ctx context.Context, k *kind, a mesh.Addon) (id string, began time.Time, err error) {
	began = time.Now()
	c, there, err := s.find(ctx, a)
	if err != nil {
		return "", began, err
	}
	if there && c.Labels[engine.LabelSpec] != k.spec(a) {
		if err := s.retire(ctx, c.ID, true); err != nil {
			return "", began, err
		}
		c, there = container.Summary{}, false
	}
	if there {
		id = c.ID
	} else if id, err = s.create(ctx, k, a, nil); err != nil {
		return "", began, err
	}
	in, err := s.cli.API(ctx).ContainerInspect(ctx, id)
	if err == nil {
		err = s.limit(ctx, in, a)
	}
	if err == nil {
		err = s.join(ctx, in, a)
	}
	if err != nil {
		return id, began, err
	}
	if c.State == container.StatePaused { // a killed server may have left it so
		if err := s.cli.API(ctx).ContainerUnpause(ctx, id); err != nil && !errdefs.IsConflict(err) {
			return id, began, err
		}
	}
	if c.State == container.StateRunning {
		return id, began, nil
	}
	if err := s.writeFiles(ctx, id, fillMap(k.Files, k.values(a))); err != nil {
		return id, began, err
	}
	return id, began, s.cli.API(ctx).ContainerStart(ctx, id, container.StartOptions{})
}

// create makes the container of an add-on, and its volume if it is missing. words replaces
// the command if it is not nil.
func (s *Server) create(ctx context.Context, k *kind, a mesh.Addon, words []string) (id string, err error) {
	net, err := s.network(ctx)
	if err != nil {
		return "", err
	}
	labels := s.labels(a)
	labels[engine.LabelSpec], labels[labelVolume] = k.spec(a), a.Volume
	values := k.values(a)
	config := &container.Config{
		Image: a.ImageID, Hostname: string(a.Name), Labels: labels, StopSignal: k.Stop,
		Cmd:         append(fillAll(k.Command, values), k.parameters(a)...),
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}, // the kind's own decides
	}
	env := fillMap(k.Env, values)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		config.Env = append(config.Env, name+"="+env[name])
	}
	yes, pids := true, int64(pidsLimit)
	host := &container.HostConfig{
		NetworkMode: container.NetworkMode(net), Init: &yes, ShmSize: k.shm,
		LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "3"}},
		// Data must be served while mesh is not, and after a reboot before it is.
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyUnlessStopped},
		SecurityOpt:   []string{"no-new-privileges:true"},
		CapDrop:       []string{"ALL"}, CapAdd: capabilities,
		Resources: container.Resources{PidsLimit: &pids, Memory: a.Memory, MemorySwap: a.Memory, NanoCPUs: int64(a.CPUs * 1e9)},
	}
	if words != nil {
		config.Entrypoint, config.Cmd = words, nil
		host.RestartPolicy = container.RestartPolicy{}
	}
	if a.Volume != "" {
		if _, err := s.cli.API(ctx).VolumeCreate(ctx, volume.CreateOptions{Name: a.Volume, Labels: s.labels(a)}); err != nil {
			return "", err
		}
		host.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: a.Volume, Target: k.Volume}}
	}
	// Not cancelled half-way: the engine would make it, and nobody would learn its ID.
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	made, err := s.cli.API(cctx).ContainerCreate(cctx, config, host, &network.NetworkingConfig{}, nil, s.prefix()+"addon-"+string(a.Name)+"-"+newUser())
	if err != nil {
		return "", err
	}
	return made.ID, nil
}

// limit gives a container the limits of its add-on.
func (s *Server) limit(ctx context.Context, c container.InspectResponse, a mesh.Addon) error {
	cpus := int64(a.CPUs * 1e9)
	if c.HostConfig.Memory == a.Memory && c.HostConfig.NanoCPUs == cpus {
		return nil
	}
	r := container.Resources{Memory: a.Memory, MemorySwap: a.Memory, NanoCPUs: cpus}
	if a.Memory == 0 {
		r.Memory, r.MemorySwap = 0, -1
	}
	_, err := s.cli.API(ctx).ContainerUpdate(ctx, c.ID, container.UpdateConfig{Resources: r, RestartPolicy: c.HostConfig.RestartPolicy})
	return err
}

// writeFiles makes files in a container, readable for every user in it.
func (s *Server) writeFiles(ctx context.Context, id string, files map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var b bytes.Buffer
		t := tar.NewWriter(&b)
		err := t.WriteHeader(&tar.Header{Name: path.Base(name), Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = t.Write([]byte(files[name]))
		}
		if err = errors.Join(err, t.Close()); err != nil {
			return err
		}
		if err := s.cli.API(ctx).CopyToContainer(ctx, id, path.Dir(name), &b, container.CopyToContainerOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// stopTime is how long a server has to write its data and end.
const stopTime = 60 * time.Second

// retire ends a container with time to write its data, and removes it if gone is set. The
// engine's own stop would kill it after ten seconds.
func (s *Server) retire(ctx context.Context, id string, gone bool) error {
	_ = s.cli.API(ctx).ContainerUnpause(ctx, id) // a paused program gets no signal
	grace := int(stopTime.Seconds())
	err := s.cli.API(ctx).ContainerStop(ctx, id, container.StopOptions{Timeout: &grace})
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsNotModified(err) {
		return err
	}
	if !gone {
		return nil
	}
	return s.remove(ctx, id)
}

func (s *Server) remove(ctx context.Context, id string) error {
	err := s.cli.API(ctx).ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsNotFound(err) || errdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress") {
		return nil
	}
	return err
}

// Stop ends the server of an add-on, and keeps its container, which holds its volume: an
// engine removes volumes that no container uses when somebody prunes them. It is not an
// error if it does not run.
func (s *Server) Stop(ctx context.Context, a mesh.Addon) error {
	c, there, err := s.find(ctx, a)
	if err == nil && there {
		err = s.retire(ctx, c.ID, false)
	}
	return s.fault(ctx, "stop add-on "+string(a.Name), err)
}

// Lost reports whether the volume of an add-on that has data does not exist.
func (s *Server) Lost(ctx context.Context, a mesh.Addon) (bool, error) {
	if a.Volume == "" {
		return false, nil
	}
	_, err := s.cli.API(ctx).VolumeInspect(ctx, a.Volume)
	if errdefs.IsNotFound(err) {
		return true, nil
	}
	return false, s.fault(ctx, "look for the volume of "+string(a.Name), err)
}

// Remove removes a volume of an add-on, with what uses it. An empty volume stands for an
// add-on that has none. What does not exist is no error.
func (s *Server) Remove(ctx context.Context, name mesh.AddonName, volumeName string) error {
	doing := "remove add-on " + string(name)
	found, err := s.containers(ctx, name)
	if err != nil {
		return s.fault(ctx, doing, err)
	}
	for _, c := range found {
		if c.Labels[labelVolume] == volumeName {
			if err := s.remove(ctx, c.ID); err != nil {
				return s.fault(ctx, doing, err)
			}
		}
	}
	if volumeName == "" {
		return nil
	}
	err = s.cli.API(ctx).VolumeRemove(ctx, volumeName, false)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return s.fault(ctx, doing, err)
}

// Volumes returns the volumes of add-ons that the engine has of this server, by the name of
// the add-on. An add-on that keeps nothing has an empty one if it has a container.
func (s *Server) Volumes(ctx context.Context) (map[mesh.AddonName][]string, error) {
	all := map[mesh.AddonName][]string{}
	vols, err := s.cli.API(ctx).VolumeList(ctx, volume.ListOptions{Filters: s.filter()})
	if err != nil {
		return nil, s.fault(ctx, "list the volumes", err)
	}
	for _, v := range vols.Volumes {
		name := mesh.AddonName(v.Labels[labelAddon])
		all[name] = append(all[name], v.Name)
	}
	found, err := s.containers(ctx, "")
	if err != nil {
		return nil, s.fault(ctx, "list the add-ons", err)
	}
	for _, c := range found {
		if name := mesh.AddonName(c.Labels[labelAddon]); c.Labels[labelVolume] == "" {
			all[name] = append(all[name], "")
		}
	}
	return all, nil
}

// startFault explains why the engine did not start a server.
func startFault(a mesh.Addon, err error) error {
	text := err.Error()
	switch {
	case errdefs.IsNotFound(err) && strings.Contains(text, "No such image"):
		return &mesh.Error{Kind: mesh.NotFound, Text: fmt.Sprintf("the image %s is missing from the engine", a.Image), Hint: fmt.Sprintf("fetch it again: ssh mesh addons:upgrade %s", a.Name), Err: err}
	case strings.Contains(text, "Minimum memory limit"):
		return &mesh.Error{Kind: mesh.Invalid, Text: "the memory limit is below the engine's minimum of 6 MB", Hint: fmt.Sprintf("raise it with: ssh mesh addons:set %s memory=256m", a.Name), Err: err}
	case strings.Contains(text, "Range of CPUs"):
		return &mesh.Error{Kind: mesh.Invalid, Text: "this machine does not have so many CPUs", Hint: fmt.Sprintf("change the limit with: ssh mesh addons:set %s cpus=1", a.Name), Err: err}
	case strings.Contains(text, "executable file not found"):
		return &mesh.Error{Kind: mesh.Failed, Text: fmt.Sprintf("the image %s does not have the program that its kind names", a.Image), Err: err}
	}
	return err
}
