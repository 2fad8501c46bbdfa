// Package volumes keeps the files of stacks in volumes of the Docker Engine: it creates and
// removes them, reads and replaces their content as tar, and finds the containers that use
// them.
//
// It mounts nothing into instances, which is for package runner, and does not decide which
// stack gets which volume, or when one may be replaced, which is for package deploy.
//
//	s := volumes.New(cli, volumes.Options{Server: id})
//	engine, err := s.Create(ctx, "uploads")
//	err = s.Import(ctx, engine, tar) // into a new volume
package volumes

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"

	"mesh"
	"mesh/engine"
)

// The labels of volumes, and of the containers that read and write them, besides those of
// package engine.
const (
	labelName = "mesh.volume.name"

	kindVolume = "volume"
)

// The labels of instances and one-off commands, which tell who uses a volume.
const (
	labelService = "mesh.service"
	labelSlot    = "mesh.slot"
	labelRun     = "mesh.name"
)

// Options are what New needs besides the client.
type Options struct {
	// Server distinguishes the volumes of this server from those of others on the same
	// engine. It must not be empty, and must not change over the life of the data.
	Server string
	// Labels are put on everything, besides the Store's own.
	Labels map[string]string
	// Logger gets what people are not shown; nil: slog.Default().
	Logger *slog.Logger
}

// Store is the volumes of a server. It may be used from several goroutines.
type Store struct {
	Options
	cli *engine.Client

	mu   sync.Mutex      // held while the empty image is made or removed; guards mine
	mine map[string]bool // helpers in use
}

// New returns a Store. It does not talk to the engine.
func New(cli *engine.Client, o Options) *Store {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Store{Options: o, cli: cli, mine: map[string]bool{}}
}

// prefix begins the names of everything that this server has of volumes.
func (s *Store) prefix() string { return engine.Prefix(s.Server) + "volume-" }

func (s *Store) labels(name string) map[string]string {
	all := maps.Clone(s.Labels)
	if all == nil {
		all = map[string]string{}
	}
	all[engine.LabelServer], all[engine.LabelKind] = s.Server, kindVolume
	if name != "" {
		all[labelName] = name
	}
	return all
}

func (s *Store) filter() filters.Args {
	return filters.NewArgs(filters.Arg("label", engine.LabelServer+"="+s.Server), filters.Arg("label", engine.LabelKind+"="+kindVolume))
}

func (s *Store) fault(ctx context.Context, doing string, err error) error {
	return engine.Fault(ctx, s.cli.Host(), doing, err)
}

// Plan returns the name of a new volume of the engine. Nothing exists yet.
func (s *Store) Plan(name mesh.VolumeName) string {
	return s.prefix() + string(name) + "-" + strings.ToLower(rand.Text()[:8])
}

// Create creates an empty volume of the engine, which Plan has named.
//
// An engine removes volumes that no container uses when somebody prunes them, but none that
// has options (moby, volume/service/service.go, Prune: those may lead anywhere). So this one
// has the option size=0, which means no limit.
func (s *Store) Create(ctx context.Context, name mesh.VolumeName, engineName string) error {
	o := volume.CreateOptions{Name: engineName, Driver: "local", Labels: s.labels(string(name)), DriverOpts: map[string]string{"size": "0"}}
	_, err := s.cli.API(ctx).VolumeCreate(ctx, o)
	if errdefs.IsInvalidArgument(err) { // an engine whose driver does not know it
		o.DriverOpts = nil
		_, err = s.cli.API(ctx).VolumeCreate(ctx, o)
	}
	return s.fault(ctx, "create volume "+string(name), err)
}

// Remove removes a volume of the engine with all its files. One that does not exist is no
// error; one that a container uses, running or not, is a Conflict.
func (s *Store) Remove(ctx context.Context, engineName string) error {
	if err := s.dropHelpers(ctx, engineName); err != nil {
		return s.fault(ctx, "remove volume "+engineName, err)
	}
	err := s.cli.API(ctx).VolumeRemove(ctx, engineName, false)
	switch {
	case err == nil, errdefs.IsNotFound(err):
		s.dropImage(ctx)
		return nil
	case errdefs.IsConflict(err):
		who := "a container"
		if users, uerr := s.users(ctx, engineName, true); uerr == nil && len(users) > 0 {
			who = users[0].Name
		}
		return mesh.Errorf(mesh.Conflict, "the volume is still in use by %s: %w", who, err).WithHint("wait until it has ended, and try again")
	}
	return s.fault(ctx, "remove volume "+engineName, err)
}

// List returns the volumes that the engine has of this server: the name of each by that in
// the engine.
func (s *Store) List(ctx context.Context) (map[string]mesh.VolumeName, error) {
	found, err := s.cli.API(ctx).VolumeList(ctx, volume.ListOptions{Filters: s.filter()})
	if err != nil {
		return nil, s.fault(ctx, "list the volumes", err)
	}
	all := map[string]mesh.VolumeName{}
	for _, v := range found.Volumes {
		all[v.Name] = mesh.VolumeName(v.Labels[labelName])
	}
	return all, nil
}

// Users returns the running containers that use a volume of the engine, whoever started
// them.
func (s *Store) Users(ctx context.Context, engineName string) ([]mesh.VolumeUser, error) {
	users, err := s.users(ctx, engineName, false)
	return users, s.fault(ctx, "find what uses a volume", err)
}

func (s *Store) users(ctx context.Context, engineName string, all bool) ([]mesh.VolumeUser, error) {
	found, err := s.cli.API(ctx).ContainerList(ctx, container.ListOptions{All: all, Filters: filters.NewArgs(filters.Arg("volume", engineName))})
	if err != nil {
		return nil, err
	}
	var users []mesh.VolumeUser
	for _, c := range found {
		if !slices.ContainsFunc(c.Mounts, func(m container.MountPoint) bool { return m.Name == engineName }) {
			continue // the filter also takes the name for a path
		}
		u := mesh.VolumeUser{ID: c.ID}
		if len(c.Names) > 0 {
			u.Name = strings.TrimPrefix(c.Names[0], "/")
		}
		if c.Labels[engine.LabelServer] == s.Server {
			u.Kind = c.Labels[engine.LabelKind]
			slot, _ := strconv.Atoi(c.Labels[labelSlot])
			switch {
			case c.Labels[labelRun] != "":
				u.Name = c.Labels[labelRun]
			case slot > 0:
				u.Name = mesh.InstanceName{Service: mesh.ServiceName(c.Labels[labelService]), Slot: slot}.String()
			}
		}
		users = append(users, u)
	}
	return users, nil
}

// folder is where a helper has its volume.
const folder = "/volume"

// helper creates a container, which never runs, to read and write a volume through: the
// engine copies files for containers only.
func (s *Store) helper(ctx context.Context, engineName string) (id string, remove func(), err error) {
	if _, err := s.cli.API(ctx).VolumeInspect(ctx, engineName); errdefs.IsNotFound(err) {
		return "", nil, missing(engineName)
	} else if err != nil {
		return "", nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.image(ctx); err != nil {
		return "", nil, err
	}
	config := &container.Config{Image: s.imageRef(), Cmd: []string{"-"}, Labels: s.labels("")}
	host := &container.HostConfig{Mounts: []mount.Mount{{
		Type: mount.TypeVolume, Source: engineName, Target: folder, VolumeOptions: &mount.VolumeOptions{NoCopy: true},
	}}}
	// Not cancelled half-way: the engine would make it, and nobody would learn its ID.
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	made, err := s.cli.API(cctx).ContainerCreate(cctx, config, host, &network.NetworkingConfig{}, nil, s.prefix()+"helper-"+strings.ToLower(rand.Text()[:8]))
	if err != nil {
		return "", nil, err
	}
	s.mine[made.ID] = true
	return made.ID, func() {
		s.mu.Lock()
		delete(s.mine, made.ID)
		s.mu.Unlock()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := s.drop(cctx, made.ID); err != nil {
			s.Logger.Warn("helper container of a volume left behind", "container", made.ID, "err", err)
		}
		s.dropImage(cctx)
	}, nil
}

// missing is the error for a volume that somebody has removed.
func missing(engineName string) error {
	return mesh.Errorf(mesh.Failed, "the engine's volume %s does not exist: somebody has removed it, and its files are gone", engineName).
		WithHint("import a copy of the files: ssh mesh volumes:import NAME < FILE")
}

func (s *Store) drop(ctx context.Context, id string) error {
	err := s.cli.API(ctx).ContainerRemove(ctx, id, container.RemoveOptions{Force: true})
	if errdefs.IsNotFound(err) || errdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress") {
		return nil
	}
	return err
}

// dropHelpers removes the helpers that a killed server has left of a volume.
func (s *Store) dropHelpers(ctx context.Context, engineName string) error {
	f := s.filter()
	f.Add("volume", engineName)
	found, err := s.cli.API(ctx).ContainerList(ctx, container.ListOptions{All: true, Filters: f})
	for _, c := range found {
		err = errors.Join(err, s.drop(ctx, c.ID))
	}
	return err
}

// tidyAge is how old a helper must be for Tidy: in an upgrade of mesh, another process may
// still be exporting.
const tidyAge = 15 * time.Minute

// Tidy removes what a killed server has left of its reading and writing.
func (s *Store) Tidy(ctx context.Context) error {
	found, err := s.cli.API(ctx).ContainerList(ctx, container.ListOptions{All: true, Filters: s.filter()})
	for _, c := range found {
		s.mu.Lock()
		busy := s.mine[c.ID]
		s.mu.Unlock()
		if !busy && time.Since(time.Unix(c.Created, 0)) > tidyAge {
			err = errors.Join(err, s.drop(ctx, c.ID))
		}
	}
	s.dropImage(ctx)
	return s.fault(ctx, "remove the helpers of volumes", err)
}

// imageRef is the image of helpers, which has nothing but an empty folder. It exists while
// there are helpers.
func (s *Store) imageRef() string { return strings.TrimSuffix(s.prefix(), "-") + ":empty" }

// image makes the image if it does not exist. The caller holds s.mu.
func (s *Store) image(ctx context.Context) error {
	if _, err := s.cli.API(ctx).ImageInspect(ctx, s.imageRef()); err == nil || !errdefs.IsNotFound(err) {
		return err
	}
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	err := t.WriteHeader(&tar.Header{Name: strings.TrimPrefix(folder, "/") + "/", Mode: 0o755, Typeflag: tar.TypeDir})
	if err = errors.Join(err, t.Close()); err != nil {
		return err
	}
	var changes []string
	labels := s.labels("")
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		changes = append(changes, fmt.Sprintf("LABEL %q=%q", k, labels[k]))
	}
	rc, err := s.cli.API(ctx).ImageImport(ctx, image.ImportSource{Source: &b, SourceName: "-"}, s.imageRef(), image.ImportOptions{Changes: changes})
	if err != nil {
		return err
	}
	defer rc.Close()
	return imported(rc)
}

// dropImage removes the image if no helper uses it.
func (s *Store) dropImage(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.cli.API(ctx).ImageRemove(ctx, s.imageRef(), image.RemoveOptions{PruneChildren: true})
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
		s.Logger.Debug("the image of helpers was not removed", "err", err)
	}
}
