// Package enginetest gives the tests of a package a Docker Engine and takes back what
// they leave in it. Only tests import it.
//
// Several packages, and several checkouts, test on one engine at the same time. What a
// run makes there has the label of that run, and nothing else is removed. Limits that
// the engine has only once, such as the memory of all builds, are for who is Alone.
package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
)

// Label is the label of whatever a test makes in the engine. Its value is the run's ID.
const Label = "mesh.test"

// Run is one run of a package's tests.
type Run struct {
	ID     string
	Client *client.Client
}

// Start connects to the engine, and has scripts/engine start one when none answers.
// The ID must be one that no other run has; see NewID.
func Start(ctx context.Context, id string) (*Run, error) {
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, err
	}
	if _, err := c.Ping(ctx); err != nil {
		out, err := exec.CommandContext(ctx, filepath.Join(top(), "scripts", "engine")).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("no Docker Engine answers: %w\n%s", err, out)
		}
	}
	return &Run{ID: id, Client: c}, nil
}

// NewID returns an ID that begins with the name of the package.
func NewID(name string) string {
	return fmt.Sprintf("%s-%d-%d", name, os.Getpid(), time.Now().UnixNano()%1e9)
}

// top is the top folder of the checkout, from that of the package that is tested.
func top() string {
	dir := "."
	for range 8 {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		dir = filepath.Join(dir, "..")
	}
	return dir
}

// Tests runs the tests, removes the images that they all use, and returns the exit
// status of the test binary. Tests that leave something in the engine have failed,
// whatever they say.
func (r *Run) Tests(m interface{ Run() int }, images ...string) int {
	code := m.Run()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, ref := range images {
		if _, err := r.Client.ImageRemove(ctx, ref, image.RemoveOptions{Force: true}); err != nil {
			fmt.Fprintln(os.Stderr, "remove an image of the tests:", err)
			code = 1
		}
	}
	left, err := r.sweep(ctx, Label+"="+r.ID)
	if err != nil {
		fmt.Fprintln(os.Stderr, "remove what the tests made in the engine:", err)
		code = 1
	}
	if len(left) > 0 {
		fmt.Fprintln(os.Stderr, "left in the engine by the tests:", strings.Join(left, ", "))
		code = 1
	}
	return code
}

// Labels are for whatever the tests make in the engine.
func (r *Run) Labels() map[string]string { return map[string]string{Label: r.ID} }

// RemoveServer removes all that the server with an identity has made, images included.
func (r *Run) RemoveServer(ctx context.Context, server string) error {
	_, err := r.sweep(ctx, "mesh.server="+server)
	return err
}

// sweep removes what has a label, and names it.
func (r *Run) sweep(ctx context.Context, label string) (left []string, err error) {
	f := filters.NewArgs(filters.Arg("label", label))
	containers, err := r.Client.ContainerList(ctx, container.ListOptions{All: true, Filters: f})
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		left = append(left, "container "+strings.Join(c.Names, " "))
		err := r.Client.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err != nil && !errdefs.IsNotFound(err) {
			return left, err
		}
	}
	networks, err := r.Client.NetworkList(ctx, network.ListOptions{Filters: f})
	if err != nil {
		return left, err
	}
	for _, n := range networks {
		left = append(left, fmt.Sprintf("network %s of server %s, made at %s", n.Name, n.Labels["mesh.server"], n.Created.Format("15:04:05.000")))
		if err := r.removeNetwork(ctx, n.ID); err != nil {
			return left, err
		}
	}
	images, err := r.Client.ImageList(ctx, image.ListOptions{Filters: f})
	if err != nil {
		return left, err
	}
	for _, i := range images {
		left = append(left, fmt.Sprintf("image %s %v", i.ID, i.RepoTags))
		_, err := r.Client.ImageRemove(ctx, i.ID, image.RemoveOptions{Force: true, PruneChildren: true})
		if err != nil && !errdefs.IsNotFound(err) {
			return left, err
		}
	}
	return left, nil
}

// removeNetwork tries again until ctx ends: the engine needs a moment to let go of
// the endpoints of what was just removed, and more than one when the machine is busy.
func (r *Run) removeNetwork(ctx context.Context, id string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := r.Client.NetworkRemove(ctx, id)
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Files are what an image is made of, by path: the content of a program, or "-> " and
// where a symbolic link leads. A path that ends in "/" is a folder for everybody.
type Files map[string]string

// Import makes an image of files, with the run's label: nothing is pulled and nothing
// is built. Changes are instructions of a Dockerfile, such as CMD.
func (r *Run) Import(ctx context.Context, ref string, files Files, changes ...string) (id string, err error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		content := files[path]
		h := &tar.Header{Name: path, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			h, content = &tar.Header{Name: path, Linkname: to, Mode: 0o777, Typeflag: tar.TypeSymlink}, ""
		} else if strings.HasSuffix(path, "/") {
			h = &tar.Header{Name: path, Mode: 0o1777, Typeflag: tar.TypeDir}
		}
		if err := w.WriteHeader(h); err != nil {
			return "", err
		}
		if _, err := io.WriteString(w, content); err != nil {
			return "", err
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	rc, err := r.Client.ImageImport(ctx, image.ImportSource{Source: &buf, SourceName: "-"}, ref,
		image.ImportOptions{Changes: append(changes, "LABEL "+Label+"="+r.ID)})
	if err != nil {
		return "", err
	}
	defer rc.Close()
	if _, err := io.Copy(io.Discard, rc); err != nil {
		return "", err
	}
	in, err := r.Client.ImageInspect(ctx, ref)
	return in.ID, err
}

// Busybox is the machine's own busybox, as /bin/busybox with links by the names of applets.
func Busybox(applets ...string) (Files, error) {
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("%w (apt-get install busybox-static)", err)
	}
	files := Files{"bin/busybox": string(b)}
	for _, a := range applets {
		files["bin/"+a] = "-> busybox"
	}
	return files, nil
}

// Program builds a Go package as a static program, which needs nothing else in its
// image, and returns its content.
func Program(ctx context.Context, pkg string) (content string, err error) {
	dir, err := os.MkdirTemp("", "mesh-enginetest-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "program"), pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "program"))
	return string(b), err
}
