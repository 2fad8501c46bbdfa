package runner_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"mesh"
	"mesh/engine"
	"mesh/runner"
)

// watched passes on the events of the bench's own server.
func (b *bench) watched() <-chan mesh.InstanceEvent {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events, ended := make(chan mesh.InstanceEvent, 1000), make(chan struct{})
	go func() {
		defer close(ended)
		_ = b.Watch(ctx, func(e mesh.InstanceEvent) { events <- e }, func() {})
	}()
	b.t.Cleanup(func() { cancel(); <-ended })
	return events
}

// await returns the next event that ok accepts.
func await(t *testing.T, events <-chan mesh.InstanceEvent, what string, ok func(mesh.InstanceEvent) bool) mesh.InstanceEvent {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		select {
		case e := <-events:
			if ok(e) {
				return e
			}
		case <-late:
			t.Fatalf("no event: %s", what)
		}
	}
}

func changed(e mesh.InstanceEvent) bool { return e.Changed && !e.Image }

// The engine's events distinguish what somebody did to a container from what it did
// itself.
func TestWatch_TellsHandsFromCrashes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	events := b.watched()
	hand := func(what string, want bool, fn func(id string) error, args ...string) {
		t.Helper()
		in := b.start(b.spec("web", args...))
		if err := fn(in.ID); err != nil {
			t.Fatal(err)
		}
		e := await(t, events, what, func(e mesh.InstanceEvent) bool { return e.Died && e.Instance.ID == in.ID })
		if e.ByHand != want {
			t.Errorf("%s: by hand %v, want %v: %+v", what, e.ByHand, want, e)
		}
	}
	ctx := t.Context()
	hand("docker kill", true, func(id string) error { return cli.ContainerKill(ctx, id, "KILL") }, "wait")
	hand("docker stop", true, func(id string) error { return cli.ContainerStop(ctx, id, container.StopOptions{}) }, "wait")
	hand("docker restart", true, func(id string) error { return cli.ContainerRestart(ctx, id, container.StopOptions{}) }, "wait")
	hand("docker rm -f", true, func(id string) error { return cli.ContainerRemove(ctx, id, container.RemoveOptions{Force: true}) }, "wait")
	hand("its own exit", false, func(string) error { return nil }, "exit", "7")
}

// A pause, a disconnect and a removed network are reported, seen by Look, and
// repaired by Revive.
func TestRevive_MendsWhatIsBent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	events := b.watched()
	in := b.serving("web", 1)
	looked := func() mesh.Instance {
		t.Helper()
		list, err := b.Look(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatalf("got %+v, %v", list, err)
		}
		return list[0]
	}
	if got := looked(); got.ID != in.ID || got.Addr != in.Addr || got.State != mesh.InstanceRunning || got.Spec != in.Spec || got.Name != in.Name {
		t.Errorf("got %+v, want %+v", got, in)
	}
	back := func(what string) {
		t.Helper()
		got, err := b.Revive(t.Context(), in.ID)
		if err != nil || got.State != mesh.InstanceRunning || !got.Addr.IsValid() {
			t.Fatalf("%s: got %+v, %v", what, got, err)
		}
		if _, err := b.Check(t.Context(), got, mesh.Check{HTTP: true}, nil); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if l := looked(); l.State != mesh.InstanceRunning || l.Addr != got.Addr {
			t.Errorf("%s: looked at %+v, revived is %+v", what, l, got)
		}
	}
	if err := cli.ContainerPause(t.Context(), in.ID); err != nil {
		t.Fatal(err)
	}
	await(t, events, "the pause", changed)
	if got := looked(); got.State != mesh.InstancePaused {
		t.Errorf("got %+v", got)
	}
	back("paused")

	net := b.inspect(in.ID).HostConfig.NetworkMode.NetworkName()
	if err := cli.NetworkDisconnect(t.Context(), net, in.ID, true); err != nil {
		t.Fatal(err)
	}
	await(t, events, "the disconnect", changed)
	if got := looked(); got.State != mesh.InstanceRunning || got.Addr.IsValid() {
		t.Errorf("got %+v", got)
	}
	back("disconnected")

	// Its network is now another one with the same name.
	if err := cli.NetworkDisconnect(t.Context(), net, in.ID, true); err != nil {
		t.Fatal(err)
	}
	if err := cli.NetworkRemove(t.Context(), net); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Revive(t.Context(), in.ID); !isKind(err, mesh.NotFound) {
		t.Errorf("without a network: %v", err)
	}
	other := b.serving("worker", 1)
	got, err := b.Revive(t.Context(), in.ID)
	if err != nil || !got.Addr.IsValid() {
		t.Errorf("in a new network: %+v, %v", got, err)
	}
	// The same, but it has ended: the engine remembers the old network.
	if err := cli.NetworkDisconnect(t.Context(), net, in.ID, true); err != nil {
		t.Fatal(err)
	}
	if err := b.Stop(t.Context(), other.ID, 0); err != nil {
		t.Fatal(err)
	}
	if n, err := cli.NetworkInspect(t.Context(), net, network.InspectOptions{}); err != nil || len(n.Containers) > 0 {
		t.Fatalf("%+v, %v", n, err)
	}
	if err := cli.ContainerRename(t.Context(), in.ID, "renamed-"+b.server); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Revive(t.Context(), in.ID); err != nil || !got.Addr.IsValid() {
		t.Errorf("renamed: %+v, %v", got, err)
	}
}

// A container whose network was removed while it was stopped cannot start again: the
// error says that another one must replace it.
func TestRevive_NetworkWentWhileStopped(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	in := b.serving("web", 1)
	net := b.inspect(in.ID).HostConfig.NetworkMode.NetworkName()
	if err := cli.ContainerStop(t.Context(), in.ID, container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := cli.NetworkRemove(t.Context(), net); err != nil {
		t.Fatal(err)
	}
	other := b.serving("worker", 1) // makes a network of that name again
	got, err := b.Revive(t.Context(), in.ID)
	if err == nil && !got.Addr.IsValid() || err != nil && !isKind(err, mesh.NotFound) {
		t.Errorf("got %+v, %v", got, err)
	}
	_ = other
}

// A paused instance can be stopped.
func TestStop_Paused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	in := b.serving("web", 1)
	if err := cli.ContainerPause(t.Context(), in.ID); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := b.Stop(t.Context(), in.ID, time.Hour); err != nil {
		t.Fatal(err)
	}
	t.Logf("it took %s", time.Since(began))
}

// BenchmarkLook and BenchmarkList measure the cost of comparing reality with the
// records.
func BenchmarkLook(b *testing.B) { benchList(b, true) }
func BenchmarkList(b *testing.B) { benchList(b, false) }

func isKind(err error, k mesh.Kind) bool { return errors.Is(err, k) }

func benchList(b *testing.B, look bool) {
	id := fmt.Sprintf("%08x", rand.Uint32())
	r := runner.New(engine.Of(cli), runner.Options{Server: id + run, Labels: map[string]string{testLabel: run}})
	ctx := context.Background()
	defer func() { _ = r.RemoveStack(ctx, "bench") }()
	sub := subnet()
	for n := range 50 {
		_, err := r.Start(ctx, mesh.InstanceSpec{
			Stack: "bench", Name: mesh.InstanceName{Service: "web", Slot: n + 1}, Image: app, Process: mesh.Process{Cmd: []string{"wait"}}, Subnet: sub,
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		list, err := r.List(ctx)
		if look {
			list, err = r.Look(ctx)
		}
		if err != nil || len(list) != 50 {
			b.Fatal(len(list), err)
		}
	}
}
