package runner_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"mesh"
	"mesh/engine"
	"mesh/enginetest"
	"mesh/runner"
)

// The run's own label, engine client and images.
var (
	run   = enginetest.NewID("runner")
	cli   *client.Client
	app   string // ID of an image with the test program only
	shell string // ID of one with busybox, too
)

const testLabel = enginetest.Label

func TestMain(m *testing.M) {
	enginetest.Main(m, run, func(ctx context.Context, engine *enginetest.Run) (images []string, err error) {
		cli = engine.Client
		program, err := enginetest.Program(ctx, "./testdata/app")
		if err != nil {
			return nil, err
		}
		env := []string{"ENV FROM_IMAGE=yes", "ENV GREETING=image"}
		app, err = engine.Import(ctx, "mesh-test/"+run+":app", enginetest.Files{"app": program}, append(env, `ENTRYPOINT ["/app"]`)...)
		if err != nil {
			return nil, err
		}
		files, err := enginetest.Busybox("sh", "cat", "sleep", "stty", "kill")
		if err != nil {
			return nil, err
		}
		files["app"] = program
		shell, err = engine.Import(ctx, "mesh-test/"+run+":shell", files, append(env, `CMD ["/bin/sh"]`, "VOLUME /data")...)
		if err != nil {
			return nil, err
		}
		return []string{app, shell}, nil
	})
}

// bench is a Runner for its own server, with one stack that is removed when the test
// ends.
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
	b := &bench{Runner: runner.New(engine.Of(cli), o), t: t, server: o.Server, stack: "blog", subnet: subnet()}
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

// eventually polls for something that has no event.
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
