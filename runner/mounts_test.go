package runner_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"

	"mesh"
	"mesh/enginetest"
)

// volume makes a volume, which is removed after the containers of the bench.
func (b *bench) volume(shared bool, path string) mesh.Mount {
	b.t.Helper()
	v, err := cli.VolumeCreate(b.t.Context(), volume.CreateOptions{
		Labels: map[string]string{enginetest.Label: run}, Driver: "local", DriverOpts: map[string]string{"size": "0"}, // no other test prunes it
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		b.remove(b.stack)
		if err := cli.VolumeRemove(context.WithoutCancel(b.t.Context()), v.Name, false); err != nil {
			b.t.Error(err)
		}
	})
	return mesh.Mount{Volume: "uploads", Engine: v.Name, Path: path, Shared: shared}
}

// sh runs a line in a container of its own, and returns what it prints.
func (b *bench) sh(user string, m mesh.Mount, line string) string {
	b.t.Helper()
	image := shell
	if user != "" {
		image = b.image("USER " + user)
	}
	o := b.oneOff()
	var out strings.Builder
	o.Image, o.Process, o.Mounts, o.Stdout, o.Stderr = image, mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{line}}, []mesh.Mount{m}, &out, &out
	if code, err := b.RunOneOff(b.t.Context(), o); err != nil || code != 0 {
		b.t.Errorf("%q as %q: %d, %v, %s", line, user, code, err, out.String())
	}
	return strings.TrimSpace(out.String())
}

// image makes an image like shell, with a user named app and what its instructions say.
func (b *bench) image(changes ...string) string {
	b.t.Helper()
	files, err := enginetest.Busybox("sh", "cat", "touch", "stat", "id")
	if err != nil {
		b.t.Fatal(err)
	}
	files["etc/passwd"], files["etc/group"] = "root:x:0:0::/:/bin/sh\napp:x:4321:77::/:/bin/sh\n", "root:x:0:\ncrew:x:78:\n"
	files["had/seed"] = "seed"
	ref := "mesh-test/" + run + ":" + strings.ToLower(rand.Text())
	id, err := (&enginetest.Run{ID: run, Client: cli}).Import(b.t.Context(), ref, files, changes...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		b.remove(b.stack)
		if _, err := cli.ImageRemove(context.WithoutCancel(b.t.Context()), ref, image.RemoveOptions{Force: true}); err != nil {
			b.t.Error(err)
		}
	})
	return id
}

// Two containers never have a volume that is not shared at the same time, whoever starts the
// second one, and however.
func TestStart_OneWriter(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	m := b.volume(false, "/data")
	spec := b.spec("web", "wait")
	spec.Mounts = []mesh.Mount{m}
	first := b.start(spec)
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "still in use by the container mesh-blog-web-1-") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := b.Start(t.Context(), spec)
	refused("a second instance", err)
	o := b.oneOff("print", "x")
	o.Mounts = spec.Mounts
	_, err = b.RunOneOff(t.Context(), o)
	refused("a one-off command", err)
	_, err = b.Detach(t.Context(), o, mesh.DetachedRun{Stack: b.stack, Name: o.Name, Until: time.Now().Add(time.Hour)})
	refused("a detached run", err)
	if _, err := b.Revive(t.Context(), first.ID); err != nil {
		t.Errorf("itself: %v", err)
	}
	if err := b.Halt(t.Context(), first.ID, time.Second); err != nil {
		t.Fatal(err)
	}
	second := b.start(spec)
	_, err = b.Revive(t.Context(), first.ID)
	refused("the first one again", err)
	if err := b.Stop(t.Context(), second.ID, time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Revive(t.Context(), first.ID); err != nil {
		t.Error(err)
	}
	shared := b.volume(true, "/data")
	spec.Mounts = []mesh.Mount{shared}
	b.start(spec)
	b.start(spec)
	if in := b.inspect(first.ID); len(in.Mounts) != 1 || in.Mounts[0].Name != m.Engine || in.Mounts[0].Destination != "/data" {
		t.Errorf("%+v", in.Mounts)
	}
}

// A volume that somebody has removed is an error, and no empty one comes in its place.
func TestStart_VolumeIsGone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec("web", "wait")
	spec.Mounts = []mesh.Mount{{Volume: "uploads", Engine: "no-such-volume-" + b.server, Path: "/data"}}
	if _, err := b.Start(t.Context(), spec); !errors.Is(err, mesh.Failed) || !strings.Contains(err.Error(), "the volume uploads is gone") {
		t.Errorf("%v", err)
	}
	if _, err := cli.VolumeInspect(t.Context(), spec.Mounts[0].Engine); err == nil {
		t.Error("it was made")
	}
	b.noContainers()
}

func TestStart_VolumeOverAFile(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, path := range []string{"/etc/passwd", "/etc/passwd/x"} {
		spec := b.spec("web", "wait")
		spec.Image, spec.Mounts = b.image(`CMD ["sh"]`), []mesh.Mount{b.volume(false, path)}
		if _, err := b.Start(t.Context(), spec); !errors.Is(err, mesh.Failed) || !strings.Contains(err.Error(), "the volume at "+path+" cannot be mounted") {
			t.Errorf("%v", err)
		}
	}
	b.noContainers()
}

// An empty volume belongs to the image's user, or has what the image has there; one that has
// files stays as it is.
func TestStart_OwnerOfAVolume(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, c := range []struct{ user, path, want string }{
		{"app", "/new/folder", "4321 77 755"},
		{"app:crew", "/new", "4321 78 755"},
		{"1234", "/new", "1234 0 755"},
		{"1234:99", "/new/deep/folder", "1234 99 755"},
		{"root", "/new", "0 0 755"},
	} {
		m := b.volume(false, c.path)
		if got := b.sh(c.user, m, "stat -c '%u %g %a' "+c.path); got != c.want {
			t.Errorf("%s at %s: %s, want %s", c.user, c.path, got, c.want)
		}
		if c.user == "root" {
			continue
		}
		b.sh(c.user, m, "touch "+c.path+"/mine")
		if got := b.sh("5555", m, "stat -c '%u %g %a' "+c.path); got != c.want {
			t.Errorf("%s at %s, later: %s, want %s", c.user, c.path, got, c.want)
		}
	}
	m := b.volume(false, "/had")
	if got := b.sh("app", m, "cat /had/seed; stat -c ' %u' /had/seed"); got != "seed 0" {
		t.Errorf("%q", got)
	}
}
