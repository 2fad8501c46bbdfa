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
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
)

// Label is the label of whatever a test makes in the engine. Its value is the run's ID.
const Label = "mesh.test"

// Run is one run of a package's tests.
type Run struct {
	ID     string
	Client *client.Client

	mu      sync.Mutex
	servers map[string]bool // that ran; their images have no label of the run
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
	r := &Run{ID: id, Client: c, servers: map[string]bool{}}
	sctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	old := func(id string) bool { return time.Since(begun(id)) > longestRun }
	if _, err := r.sweep(sctx, Label, old); err != nil { // another package may be at it too
		fmt.Fprintln(os.Stderr, "remove what interrupted tests left in the engine:", err)
	}
	return r, nil
}

// longestRun is how long a run can last: twice the -timeout of "make test". What is older
// was left by a run that was killed.
const longestRun = time.Hour

// NewID returns an ID that begins with the name of the package and ends with the time,
// which begun reads.
func NewID(name string) string {
	return fmt.Sprintf("%s-%d-%s", name, os.Getpid(), strconv.FormatInt(time.Now().UnixNano(), 36))
}

// begun is when the run with an ID was started; the zero time if it is not from NewID. What
// the engine says of an image is no answer: one that is built from the cache alone was
// "created" when the cache was filled, which may be days before the run.
func begun(id string) time.Time {
	ns, err := strconv.ParseInt(id[strings.LastIndexByte(id, '-')+1:], 36, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(0, ns)
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

// Main is the TestMain of a package whose tests need the engine: it starts a run, prepares
// what the tests share, runs them, and ends the process. prepare returns the images that are
// removed at the end.
func Main(m interface{ Run() int }, id string, prepare func(ctx context.Context, r *Run) (images []string, err error)) {
	ctx := context.Background()
	code := 1
	r, err := Start(ctx, id)
	if err == nil {
		var images []string
		if images, err = prepare(ctx, r); err == nil {
			code = r.Tests(m, images...)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
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
	left, err := r.sweep(ctx, Label+"="+r.ID, nil)
	for server := range r.servers {
		more, serr := r.sweep(ctx, "mesh.server="+server, nil)
		left, err = append(left, more...), errors.Join(err, serr)
	}
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

// Server tells that a server with this identity runs in a test, which must remove all
// that it has made.
func (r *Run) Server(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servers[id] = true
}

// RemoveServer removes all that the server with an identity has made, images included.
func (r *Run) RemoveServer(ctx context.Context, server string) error {
	_, err := r.sweep(ctx, "mesh.server="+server, nil)
	return err
}

// sweep removes what has a label, if it is of a run that whose picks (of any, if whose is
// nil), and names it. What cannot be removed does not keep the rest.
func (r *Run) sweep(ctx context.Context, label string, whose func(id string) bool) (left []string, err error) {
	f := filters.NewArgs(filters.Arg("label", label))
	var all []error
	remove := func(what string, labels map[string]string, fn func() error) {
		if whose != nil && !whose(labels[Label]) {
			return
		}
		left = append(left, what)
		all = append(all, untilGone(ctx, fn))
	}
	containers, err := r.Client.ContainerList(ctx, container.ListOptions{All: true, Filters: f})
	all = append(all, err)
	for _, c := range containers {
		remove("container "+strings.Join(c.Names, " "), c.Labels, func() error {
			return r.Client.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
		})
	}
	networks, err := r.Client.NetworkList(ctx, network.ListOptions{Filters: f})
	all = append(all, err)
	for _, n := range networks {
		what := fmt.Sprintf("network %s of server %s, made at %s", n.Name, n.Labels["mesh.server"], n.Created.Format("15:04:05.000"))
		tries := 0
		remove(what, n.Labels, func() error {
			err := r.Client.NetworkRemove(ctx, n.ID)
			if tries++; err == nil || tries < 40 || !strings.Contains(err.Error(), "active endpoints") {
				return err
			}
			if in, ierr := r.Client.NetworkInspect(ctx, n.ID, network.InspectOptions{}); ierr != nil || len(in.Containers) > 0 {
				return err
			}
			// The engine has lost count: see removeNetwork in the package runner.
			fmt.Fprintln(os.Stderr, "the engine keeps an empty network until it restarts:", what)
			left = slices.DeleteFunc(left, func(l string) bool { return l == what })
			return nil
		})
	}
	volumes, err := r.Client.VolumeList(ctx, volume.ListOptions{Filters: f})
	all = append(all, err)
	for _, v := range volumes.Volumes { // after the containers that use them
		remove("volume "+v.Name, v.Labels, func() error { return r.Client.VolumeRemove(ctx, v.Name, false) })
	}
	images, err := r.Client.ImageList(ctx, image.ListOptions{Filters: f})
	all = append(all, err)
	for _, i := range images {
		remove(fmt.Sprintf("image %s %v", i.ID, i.RepoTags), i.Labels, func() error {
			_, err := r.Client.ImageRemove(ctx, i.ID, image.RemoveOptions{Force: true, PruneChildren: true})
			return err
		})
	}
	return left, errors.Join(all...)
}

// untilGone tries again until there is nothing to remove, or goneTime has passed. The
// engine refuses to remove a container that it is removing, and needs a moment to let go
// of the endpoints of one that is gone: more than one when the machine is busy.
func untilGone(ctx context.Context, remove func() error) error {
	ctx, cancel := context.WithTimeout(ctx, goneTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := remove()
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

const goneTime = 30 * time.Second

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
