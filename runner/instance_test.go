package runner_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"mesh"
	"mesh/engine"
	"mesh/runner"
)

func TestStart_MakesAPrivateContainer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.spec("web", "serve", ":8080", "200")
	s.Memory, s.CPUs = 64<<20, 0.5
	s.Env["GREETING"] = mesh.NewSecret("config")
	began := time.Now()
	in := b.start(s)
	if _, err := b.Check(t.Context(), in, mesh.Check{HTTP: true}, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("healthy after %s", time.Since(began).Round(time.Millisecond))
	if in.Stack != b.stack || in.Name != s.Name || in.Release != 3 || in.Deployment != 42 || in.Spec != "f1" || in.State != mesh.InstanceRunning ||
		!b.subnet.Contains(in.Addr.Addr()) || in.Addr.Port() != mesh.Port || in.Started.IsZero() {
		t.Errorf("instance %+v", in)
	}
	c := b.inspect(in.ID)
	h := c.HostConfig
	if !strings.HasPrefix(c.Name, "/mesh-blog-web-1-") || h.RestartPolicy.Name != "no" || h.Memory != 64<<20 || h.MemorySwap != 64<<20 || h.NanoCPUs != 5e8 ||
		*h.PidsLimit != 1024 || !*h.Init || h.LogConfig.Type != "json-file" || len(h.PortBindings) > 0 || !slices.Contains(h.SecurityOpt, "no-new-privileges:true") ||
		!slices.Contains(h.CapDrop, "ALL") {
		t.Errorf("container %s %+v", c.Name, h)
	}
	for _, e := range []string{"GREETING=config", "PORT=8080", "FROM_IMAGE=yes"} {
		if !slices.Contains(c.Config.Env, e) {
			t.Errorf("the environment %q lacks %s", c.Config.Env, e)
		}
	}
	list, err := b.List(t.Context())
	if err != nil || len(list) != 1 || list[0] != in {
		t.Errorf("list %+v, %v", list, err)
	}
	if other, err := newBench(t).List(t.Context()); err != nil || len(other) != 0 {
		t.Errorf("another server sees %+v, %v", other, err)
	}
}

func TestStart_ManyAtOnceShareOneNetwork(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			s := b.spec("worker", "wait")
			s.Name.Slot = i + 1
			if _, err := b.Start(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	nets, err := cli.NetworkList(t.Context(), network.ListOptions{Filters: serverFilter(b.server)})
	if err != nil || len(nets) != 1 || nets[0].Name != "mesh-"+b.server[:8]+"-blog" {
		t.Errorf("networks %v, %v", nets, err)
	}
}

func TestStart_Failures(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, c := range map[string]struct {
		change func(*mesh.InstanceSpec)
		kind   mesh.Kind
		text   string
	}{
		"no image":          {func(s *mesh.InstanceSpec) { s.Image = "sha256:" + strings.Repeat("0", 64) }, mesh.NotFound, "web.1 cannot start: the image 000000000000 is missing from the engine"},
		"too little memory": {func(s *mesh.InstanceSpec) { s.Memory = 1 << 20 }, mesh.Failed, "web.1 cannot start: its memory limit is below the engine's minimum of 6 MB"},
		"too many CPUs":     {func(s *mesh.InstanceSpec) { s.CPUs = 4096 }, mesh.Failed, "web.1 cannot start: this machine cannot provide its CPU limit"},
	} {
		t.Run(name, func(t *testing.T) {
			s := b.spec("web", "wait")
			c.change(&s)
			_, err := b.Start(t.Context(), s)
			if !errors.Is(err, c.kind) || err.Error() != c.text {
				t.Errorf("got %v\nwant %s", err, c.text)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Start(ctx, b.spec("web", "wait")); !errors.Is(err, mesh.Cancelled) {
		t.Errorf("after the end of its context: %v", err)
	}
	for d := range 20 { // in the middle of it
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(d)*10*time.Millisecond)
		if in, err := b.Start(ctx, b.spec("web", "wait")); err == nil {
			_ = b.Stop(t.Context(), in.ID, time.Second)
		}
		cancel()
	}
	if list, err := b.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.spec("web", "serve", ":8080", "200")
	s.Image, s.Process.Entrypoint = shell, []string{"/app"} // which has a VOLUME
	in := b.start(s)
	if _, err := b.Check(t.Context(), in, mesh.Check{HTTP: true}, nil); err != nil {
		t.Fatal(err)
	}
	mounts := b.inspect(in.ID).Mounts
	if len(mounts) != 1 {
		t.Fatalf("mounts %+v", mounts)
	}
	// It stops on SIGTERM: nobody waits for the hour that it may take.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := b.Stop(ctx, in.ID, time.Hour); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := cli.VolumeInspect(t.Context(), mounts[0].Name); !errdefs.IsNotFound(err) {
		t.Errorf("the anonymous volume is left: %v", err)
	}
	if err := b.Stop(t.Context(), in.ID, time.Second); err != nil {
		t.Errorf("once more: %v", err)
	}

	stubborn := b.start(b.spec("web", "stubborn"))
	if _, err := b.Check(t.Context(), stubborn, mesh.Check{HTTP: true}, nil); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := b.Stop(ctx, stubborn.ID, 700*time.Millisecond); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("SIGKILL after %s", took)
	}
	if _, err := cli.ContainerInspect(t.Context(), stubborn.ID); !errdefs.IsNotFound(err) {
		t.Errorf("it is there: %v", err)
	}
}

func TestRevive(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	in := b.start(b.spec("web", "serve", ":8080", "200"))
	if _, err := b.Check(t.Context(), in, mesh.Check{HTTP: true}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := http.Get("http://" + in.Addr.String() + "/exit"); err == nil {
		t.Error("it did not exit")
	}
	b.exitWait(in.ID)
	list, err := b.List(t.Context())
	if err != nil || len(list) != 1 || list[0].State != mesh.InstanceExited || list[0].ExitCode != 7 || list[0].Addr.IsValid() {
		t.Errorf("list %+v, %v", list, err)
	}
	again, err := b.Revive(t.Context(), in.ID)
	if err != nil || again.State != mesh.InstanceRunning || !again.Addr.IsValid() || !again.Started.After(in.Started) {
		t.Fatalf("revived %+v, %v", again, err)
	}
	if seen, err := b.Check(t.Context(), again, mesh.Check{HTTP: true}, nil); err != nil || seen != "GET / 200" {
		t.Errorf("%q, %v", seen, err)
	}
	if _, err := b.Revive(t.Context(), strings.Repeat("0", 64)); !errors.Is(err, mesh.NotFound) {
		t.Errorf("of a missing one: %v", err)
	}
}

func TestStacks_CannotReachEachOther(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	in := b.start(b.spec("web", "serve", ":8080", "200"))
	if _, err := b.Check(t.Context(), in, mesh.Check{HTTP: true}, nil); err != nil {
		t.Fatal(err)
	}
	get := func(stack mesh.StackName) string {
		o := b.oneOff("get", "http://"+in.Addr.String()+"/")
		var out strings.Builder
		o.Stack, o.Stdout = stack, &out
		if stack != b.stack {
			o.Subnet = subnet()
		}
		if code, err := b.RunOneOff(t.Context(), o); code != 0 || err != nil {
			t.Errorf("%d, %v", code, err)
		}
		return strings.TrimSpace(out.String())
	}
	t.Cleanup(func() { b.remove("shop") })
	if got := get("shop"); got != "no" {
		t.Errorf("another stack reaches it: %s", got)
	}
	if got := get("blog"); got != "200" {
		t.Errorf("its own stack does not reach it: %s", got)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan mesh.InstanceEvent, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- b.Watch(ctx, startsAndEnds(events), func() { t.Error("lost") })
	}()
	in := b.start(b.spec("web", "serve", ":8080", "200"))
	if e := <-events; e.Died || e.Instance.ID != in.ID || e.Instance.Addr != in.Addr || e.At.IsZero() {
		t.Errorf("start: %+v", e)
	}
	if _, err := b.Check(t.Context(), in, mesh.Check{HTTP: true}, nil); err != nil {
		t.Fatal(err)
	}
	_, _ = http.Get("http://" + in.Addr.String() + "/exit")
	if e := <-events; !e.Died || e.Instance.ID != in.ID || e.Instance.Name != in.Name || e.Instance.ExitCode != 7 || e.Instance.OOM || e.Instance.State != mesh.InstanceExited {
		t.Errorf("die: %+v", e)
	}
	s := b.spec("worker", "eat")
	s.Memory = 32 << 20
	for try := 0; ; try++ {
		in := b.start(s)
		<-events
		e := <-events
		if !e.Died || e.ByHand || e.Instance.ExitCode != 137 {
			t.Errorf("out of memory: %+v", e)
		}
		// The engine itself does not always see why the kernel killed a container.
		if seen := sawOOM(t, in.ID); e.Instance.OOM || seen || try == 5 {
			if !e.Instance.OOM {
				t.Errorf("not out of memory: %+v; the engine says %v", e, seen)
			}
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAttach_JoinsItsOwnContainer(t *testing.T) {
	t.Parallel()
	self, err := cli.ContainerCreate(t.Context(), &container.Config{Image: app, Cmd: []string{"wait"}, Labels: map[string]string{testLabel: run}}, nil, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer cli.ContainerRemove(context.Background(), self.ID, container.RemoveOptions{Force: true})
	if err := cli.ContainerStart(t.Context(), self.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(o *runner.Options) { o.Self = self.ID })
	b.start(b.spec("web", "wait"))
	name := "mesh-" + b.server[:8] + "-blog"
	if b.inspect(self.ID).NetworkSettings.Networks[name] == nil {
		t.Error("Start did not attach it")
	}
	if err := cli.NetworkDisconnect(t.Context(), name, self.ID, true); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Attach(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if b.inspect(self.ID).NetworkSettings.Networks[name] == nil {
		t.Error("Attach did not attach it")
	}
	if err := b.RemoveStack(t.Context(), b.stack); err != nil {
		t.Error(err)
	}
}

func TestRemoveStackAndSweep(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	in := b.start(b.spec("web", "wait"))
	started := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		o := b.oneOff("print", "up", "wait")
		o.Stdout = writerFunc(func(p []byte) (int, error) { close(started); return len(p), nil })
		_, err := b.RunOneOff(t.Context(), o)
		done <- err
	}()
	<-started
	if err := b.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	<-done
	if list, err := b.List(t.Context()); err != nil || len(list) != 1 || list[0].ID != in.ID {
		t.Errorf("Sweep left %+v, %v", list, err)
	}
	for range 2 {
		if err := b.RemoveStack(t.Context(), b.stack); err != nil {
			t.Error(err)
		}
	}
	nets, err := cli.NetworkList(t.Context(), network.ListOptions{Filters: serverFilter(b.server)})
	if err != nil || len(nets) != 0 {
		t.Errorf("networks %v, %v", nets, err)
	}
}

func TestEngineAway(t *testing.T) {
	t.Parallel()
	sock := "unix://" + filepath.Join(t.TempDir(), "none.sock")
	c, err := client.NewClientWithOpts(client.WithHost(sock), client.WithVersion("1.41"))
	if err != nil {
		t.Fatal(err)
	}
	r := runner.New(engine.Of(c), runner.Options{Server: "away", Logger: slog.New(slog.DiscardHandler)})
	want := "the Docker Engine does not answer at " + sock
	_, serr := r.Start(t.Context(), mesh.InstanceSpec{Stack: "blog"})
	_, lerr := r.List(t.Context())
	_, oerr := r.RunOneOff(t.Context(), mesh.OneOff{Stack: "blog"})
	for name, err := range map[string]error{"ping": r.Ping(t.Context()), "start": serr, "list": lerr, "one-off": oerr, "stop": r.Stop(t.Context(), "x", 0), "sweep": r.Sweep(t.Context()), "remove": r.RemoveStack(t.Context(), "blog")} {
		if !errors.Is(err, mesh.Unavailable) || fmt.Sprint(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
