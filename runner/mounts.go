package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/moby/sys/user"

	"mesh"
)

// labelAlone has the engine's volumes that a container must be the only one to use,
// separated by blanks.
const labelAlone = "mesh.alone"

// mounted adds volumes to a container. As the engine does for named volumes, it copies what
// the image has in the folder into a volume that is empty.
func (r *Runner) mounted(host *container.HostConfig, mounts []mesh.Mount) *container.HostConfig {
	for _, m := range mounts {
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeVolume, Source: m.Engine, Target: m.Path})
	}
	return host
}

// mountFault explains why the engine does not mount a volume (moby, container/container_unix.go,
// CopyImagePathContent).
func mountFault(mounts []mount.Mount, err error) error {
	text := err.Error()
	if !strings.Contains(text, "is not directory") && !strings.Contains(text, "not a directory") {
		return err
	}
	for _, m := range mounts {
		if strings.Contains(text, m.Target+" is") || strings.Contains(text, m.Target+":") {
			return &mesh.Error{
				Kind: mesh.Failed, Text: fmt.Sprintf("the volume at %s cannot be mounted: that is a file of the image, or below one", m.Target),
				Hint: "attach it at a folder, or at a path that the image does not have", Err: err,
			}
		}
	}
	return err
}

// present returns an error if a volume does not exist in the engine, which would make an
// empty one instead.
func (r *Runner) present(ctx context.Context, mounts []mesh.Mount) error {
	for _, m := range mounts {
		if _, err := r.cli.API(ctx).VolumeInspect(ctx, m.Engine); errdefs.IsNotFound(err) {
			return mesh.Errorf(mesh.Failed, "the volume %s is gone: somebody has removed %s from the engine, with all its files", m.Volume, m.Engine).
				WithHint("import a copy of them: ssh mesh volumes:import %s < FILE; or go on without: ssh mesh volumes:detach %s -a STACK", m.Volume, m.Volume)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// own returns the engine's volumes that a container is to have for itself.
func own(mounts []mesh.Mount) []string {
	var out []string
	for _, m := range mounts {
		if !m.Shared {
			out = append(out, m.Engine)
		}
	}
	slices.Sort(out)
	return out
}

// alone returns an error if a container other than self uses one of the volumes. Until free
// is called, no other one starts with them: start it before.
func (r *Runner) alone(ctx context.Context, volumes []string, self string) (free func(), err error) {
	var held []func()
	free = func() {
		for _, f := range held {
			f()
		}
	}
	for _, v := range volumes { // they are sorted: two callers do not wait for each other
		f, err := r.writers.lock(ctx, v)
		if err != nil {
			free()
			return nil, err
		}
		held = append(held, f)
		users, err := r.cli.API(ctx).ContainerList(ctx, container.ListOptions{Filters: filters.NewArgs(filters.Arg("volume", v))})
		for _, c := range users {
			uses := slices.ContainsFunc(c.Mounts, func(m container.MountPoint) bool { return m.Name == v })
			if err == nil && uses && c.ID != self {
				err = mesh.Errorf(mesh.Unavailable, "its volume is still in use by the container %s, and two writers could damage the files", strings.TrimPrefix(strings.Join(c.Names, " "), "/"))
			}
		}
		if err != nil {
			free()
			return nil, err
		}
	}
	return free, nil
}

// maxUsers is how much of /etc/passwd and /etc/group is read, in bytes.
const maxUsers = 1 << 20

// give makes the image's user the owner of volumes that are empty and belong to root: the
// engine makes a folder that the image does not have for root, and the app could not write
// to it. The container exists and has not run.
func (r *Runner) give(ctx context.Context, id string, mounts []mesh.Mount) error {
	if len(mounts) == 0 {
		return nil
	}
	c, err := r.cli.API(ctx).ContainerInspect(ctx, id)
	if err != nil {
		return err
	}
	if name, _, _ := strings.Cut(c.Config.User, ":"); name == "" || name == "root" || name == "0" {
		return nil
	}
	var owner *user.ExecUser
	for _, m := range mounts {
		empty, uid, err := r.fresh(ctx, id, m.Path)
		if err != nil {
			return fmt.Errorf("look at the volume %s: %w", m.Volume, err)
		}
		if !empty || uid != 0 {
			continue
		}
		if owner == nil {
			passwd, group := r.small(ctx, id, "/etc/passwd"), r.small(ctx, id, "/etc/group")
			if owner, err = user.GetExecUser(c.Config.User, nil, passwd, group); err != nil {
				return nil //nolint:nilerr // the start says what is wrong with the image's user
			}
		}
		if err := r.chown(ctx, id, m.Path, owner.Uid, owner.Gid); err != nil {
			return fmt.Errorf("give the volume %s to the image's user: %w", m.Volume, err)
		}
	}
	return nil
}

// fresh reports whether a folder of a container is empty, and who owns it.
func (r *Runner) fresh(ctx context.Context, id, folder string) (empty bool, uid int, err error) {
	ctx, cancel := context.WithCancel(ctx) // the rest is not read
	defer cancel()
	rc, _, err := r.cli.API(ctx).CopyFromContainer(ctx, id, folder)
	if err != nil {
		return false, 0, err
	}
	defer rc.Close()
	t := tar.NewReader(rc)
	h, err := t.Next()
	if err != nil {
		return false, 0, err
	}
	_, err = t.Next()
	if err != nil && !errors.Is(err, io.EOF) {
		return false, 0, err
	}
	return errors.Is(err, io.EOF), h.Uid, nil
}

// small returns the beginning of a file of a container, or nothing.
func (r *Runner) small(ctx context.Context, id, file string) io.Reader {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var b bytes.Buffer
	rc, _, err := r.cli.API(ctx).CopyFromContainer(ctx, id, file)
	if err != nil {
		return &b
	}
	defer rc.Close()
	if t := tar.NewReader(rc); t != nil {
		if h, err := t.Next(); err == nil && h.Typeflag == tar.TypeReg {
			_, _ = io.CopyN(&b, t, maxUsers)
		}
	}
	return &b
}

// chown changes the owner of a folder of a container.
func (r *Runner) chown(ctx context.Context, id, folder string, uid, gid int) error {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	err := t.WriteHeader(&tar.Header{Name: path.Base(folder) + "/", Mode: 0o755, Typeflag: tar.TypeDir, Uid: uid, Gid: gid, ModTime: r.now()})
	if err = errors.Join(err, t.Close()); err != nil {
		return err
	}
	return r.cli.API(ctx).CopyToContainer(ctx, id, path.Dir(folder), &b, container.CopyToContainerOptions{})
}
