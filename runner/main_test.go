package runner_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"mesh"
	"mesh/runner"
)

// The run's own label, engine client and images.
var (
	run   = fmt.Sprintf("runner-%d-%d", os.Getpid(), time.Now().UnixNano()%1e9)
	cli   *client.Client
	app   string // ID of an image with the test program only
	shell string // ID of one with busybox, too
)

const testLabel = "mesh.test"

func TestMain(m *testing.M) {
	code, err := testMain(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func testMain(m *testing.M) (code int, err error) {
	if cli, err = client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation()); err != nil {
		return 1, err
	}
	ctx := context.Background()
	if _, err := cli.Ping(ctx); err != nil {
		if out, err := exec.Command("../scripts/engine").CombinedOutput(); err != nil {
			return 1, fmt.Errorf("no engine: %w\n%s", err, out)
		}
	}
	defer func() {
		if left := leftovers(ctx); len(left) > 0 && err == nil {
			err = fmt.Errorf("left over: %s", strings.Join(left, ", "))
		}
	}()
	dir, err := os.MkdirTemp("", "mesh-runner")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "app")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", bin, "./testdata/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the test program: %w\n%s", err, out)
	}
	if app, err = importImage(ctx, "app", map[string]string{"app": bin}, nil, `ENTRYPOINT ["/app"]`); err != nil {
		return 1, err
	}
	defer cli.ImageRemove(ctx, app, image.RemoveOptions{Force: true})
	shell, err = importImage(ctx, "shell", map[string]string{"app": bin, "bin/busybox": "/bin/busybox"},
		map[string]string{"bin/sh": "busybox", "bin/cat": "busybox", "bin/sleep": "busybox", "bin/stty": "busybox", "bin/kill": "busybox"},
		`CMD ["/bin/sh"]`, `VOLUME /data`)
	if err != nil {
		return 1, err
	}
	defer cli.ImageRemove(ctx, shell, image.RemoveOptions{Force: true})
	return m.Run(), nil
}

// importImage makes an image of files: nothing is pulled and nothing is built.
func importImage(ctx context.Context, name string, files, links map[string]string, changes ...string) (string, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for path, from := range files {
		b, err := os.ReadFile(from)
		if err != nil {
			return "", fmt.Errorf("%w (apt-get install busybox-static)", err)
		}
		_ = w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(b)), Typeflag: tar.TypeReg})
		_, _ = w.Write(b)
	}
	for path, to := range links {
		_ = w.WriteHeader(&tar.Header{Name: path, Linkname: to, Mode: 0o777, Typeflag: tar.TypeSymlink})
	}
	_ = w.Close()
	ref := "mesh-test/" + run + ":" + name
	rc, err := cli.ImageImport(ctx, image.ImportSource{Source: &buf, SourceName: "-"}, ref,
		image.ImportOptions{Changes: append(changes, "LABEL "+testLabel+"="+run, "ENV FROM_IMAGE=yes", "ENV GREETING=image")})
	if err != nil {
		return "", err
	}
	defer rc.Close()
	if _, err := io.Copy(io.Discard, rc); err != nil {
		return "", err
	}
	in, err := cli.ImageInspect(ctx, ref)
	return in.ID, err
}

// leftovers removes what carries the run's label, and tells what it was.
func leftovers(ctx context.Context) (left []string) {
	f := filters.NewArgs(filters.Arg("label", testLabel+"="+run))
	cs, _ := cli.ContainerList(ctx, container.ListOptions{All: true, Filters: f})
	for _, c := range cs {
		left = append(left, "container "+c.Names[0])
		_ = cli.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	}
	ns, _ := cli.NetworkList(ctx, network.ListOptions{Filters: f})
	for _, n := range ns {
		left = append(left, "network "+n.Name)
		_ = cli.NetworkRemove(ctx, n.ID)
	}
	is, _ := cli.ImageList(ctx, image.ListOptions{All: true, Filters: f})
	for _, i := range is {
		left = append(left, "image "+i.ID)
		_, _ = cli.ImageRemove(ctx, i.ID, image.RemoveOptions{Force: true})
	}
	return left
}

// bench is a Runner of a server of its own, with one stack that is removed when
// the test ends.
type bench struct {
	*runner.Runner
	t      *testing.T
	server string
	stack  mesh.StackName
	subnet netip.Prefix
}

func newBench(t *testing.T, options ...func(*runner.Options)) *bench {
	t.Helper()
	id := fmt.Sprintf("%08x", rand.Uint32())
	o := runner.Options{
		Server: id + run, Labels: map[string]string{testLabel: run},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, fn := range options {
		fn(&o)
	}
	b := &bench{Runner: runner.New(cli, o), t: t, server: o.Server, stack: "blog", subnet: subnet()}
	t.Cleanup(func() { b.remove(b.stack) })
	return b
}

func (b *bench) remove(stack mesh.StackName) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.RemoveStack(ctx, stack); err != nil {
		b.t.Errorf("remove %s: %v", stack, err)
	}
}

// subnet is one of 16,384: others test on the same engine.
func subnet() netip.Prefix {
	n := rand.Uint32N(1 << 14)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(224 + n>>10&15), byte(n >> 2), byte(n << 6)}), 26)
}

func (b *bench) spec(service mesh.ServiceName, args ...string) mesh.InstanceSpec {
	return mesh.InstanceSpec{
		Stack: b.stack, Name: mesh.InstanceName{Service: service, Slot: 1}, Release: 3, Deployment: 42, Fingerprint: "f1",
		Image: app, Process: mesh.Process{Cmd: args}, Subnet: b.subnet,
		Env: map[string]mesh.Secret{"PORT": mesh.NewSecret("8080")},
	}
}

func (b *bench) start(s mesh.InstanceSpec) mesh.Instance {
	b.t.Helper()
	in, err := b.Start(b.t.Context(), s)
	if err != nil {
		b.t.Fatalf("start: %v", err)
	}
	return in
}

func (b *bench) inspect(id string) container.InspectResponse {
	b.t.Helper()
	c, err := cli.ContainerInspect(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// exitWait returns when the container has exited.
func (b *bench) exitWait(id string) {
	b.t.Helper()
	ok, failed := cli.ContainerWait(b.t.Context(), id, container.WaitConditionNotRunning)
	select {
	case <-ok:
	case err := <-failed:
		b.t.Fatal(err)
	}
}

// eventually polls, because what it waits for gives no event.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
