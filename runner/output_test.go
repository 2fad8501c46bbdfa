package runner_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"mesh"
	"mesh/runner"
)

func containerList(server string) container.ListOptions {
	return container.ListOptions{All: true, Filters: serverFilter(server)}
}

// output returns what an instance has printed, by stream.
func (b *bench) output(in mesh.Instance, n int) (texts []string) {
	b.t.Helper()
	err := b.Output(b.t.Context(), in.ID, n, false, func(_ time.Time, stream byte, text []byte) error {
		texts = append(texts, strconv.Itoa(int(stream))+" "+string(text))
		return nil
	})
	if err != nil {
		b.t.Error(err)
	}
	return texts
}

func (b *bench) say(in mesh.Instance, text string) {
	b.t.Helper()
	resp, err := http.Get("http://" + in.Addr.String() + "/print?text=" + url.QueryEscape(text))
	if err != nil {
		b.t.Fatal(err)
	}
	_ = resp.Body.Close()
}

func (b *bench) serving(service mesh.ServiceName, slot int) mesh.Instance {
	b.t.Helper()
	s := b.spec(service, "serve", ":8080", "200")
	s.Name.Slot = slot
	in := b.start(s)
	if _, err := b.Check(b.t.Context(), in, mesh.Check{HTTP: true}, nil); err != nil {
		b.t.Fatal(err)
	}
	return in
}

func TestOutput_Lines(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	in := b.serving("web", 1)
	long := strings.Repeat("y", 40_000) // more than one of the engine's messages
	want := []string{"1 a", "1 ", "1 \x1b[31mred\x1b[0m 50%\r100%", "1 " + long, "1 b"}
	for i, text := range want {
		b.say(in, text[2:]) // the engine notes the time when it reads the line, a little later
		eventually(t, "the line is in the log", func() bool { return len(b.output(in, -1)) == 2+i })
	}
	if got := b.output(in, -1); !slices.Equal(got[1:], want) {
		t.Errorf("all: %.200q", got)
	}
	if got := b.output(in, 1); !slices.Equal(got, want[4:]) {
		t.Errorf("the last: %.200q", got)
	}
	stop := errors.New("enough")
	if err := b.Output(t.Context(), in.ID, -1, true, func(time.Time, byte, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the error is %v", err)
	}
	if err := b.Output(t.Context(), strings.Repeat("a", 64), -1, true, nil); err != nil {
		t.Errorf("of a container that is gone: %v", err)
	}
}

// A line of a megabyte is one line, and the one after it is not lost. A last line without
// an end is a line once the container has ended.
func TestOutput_LongAndUnfinishedLines(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	in := b.start(b.spec("web", "long", "1000000", "rest", "after"))
	var sizes []int
	eventually(t, "the container ends", func() bool {
		c, err := cli.ContainerInspect(t.Context(), in.ID)
		return err == nil && !c.State.Running
	})
	for _, follow := range []bool{true, false} {
		sizes = nil
		err := b.Output(t.Context(), in.ID, -1, follow, func(_ time.Time, _ byte, text []byte) error {
			sizes = append(sizes, len(text))
			return nil
		})
		if err != nil || !slices.Equal(sizes, []int{1_000_000, len("after")}) {
			t.Errorf("lines of %v bytes, %v", sizes, err)
		}
	}
}

// Outputs finds what is there, what comes later and what starts again, and Finish is
// called before a container is removed.
func TestOutputs_FindsAndFinishes(t *testing.T) {
	t.Parallel()
	finished := make(finisher, 10)
	b := newBench(t, func(o *runner.Options) { o.Collector = finished })
	one := b.serving("web", 1)
	ctx, cancel := context.WithCancel(t.Context())
	found, listed, ended := make(chan mesh.OutputSource, 10), make(chan map[string]bool, 10), make(chan error)
	go func() {
		ended <- b.Outputs(ctx, func(src mesh.OutputSource) { found <- src }, func(ids map[string]bool) { listed <- ids })
	}()
	want := mesh.OutputSource{ID: one.ID, Stack: b.stack, Name: "web.1", Release: 3}
	if got := receive(t, found); got != want {
		t.Errorf("found %+v", got)
	}
	if ids := receive(t, listed); len(ids) != 1 || !ids[one.ID] {
		t.Errorf("listed %v", ids)
	}
	two := b.serving("worker", 2)
	if got := receive(t, found); got.ID != two.ID || got.Name != "worker.2" {
		t.Errorf("found %+v", got)
	}
	if code, err := b.RunOneOff(t.Context(), mesh.OneOff{Stack: b.stack, Name: "release", Image: app, Process: mesh.Process{Cmd: []string{"print", "x"}}, Subnet: b.subnet}); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	if got := receive(t, found); got.Name != "release" || got.Release != 0 {
		t.Errorf("found %+v", got)
	}
	if got := receive(t, finished); got.Name != "release" {
		t.Errorf("finished %+v", got)
	}
	if _, err := b.RunOneOff(t.Context(), mesh.OneOff{Stack: b.stack, Name: "run.1", Image: app, Process: mesh.Process{Cmd: []string{"print", "x"}}, Subnet: b.subnet, TTY: true}); err != nil {
		t.Fatal(err)
	}
	if err := b.Stop(t.Context(), one.ID, time.Second); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, finished); got != want { // not the command in a terminal
		t.Errorf("finished %+v", got)
	}
	cancel()
	if err := receive(t, ended); err != nil {
		t.Error(err)
	}
}

type finisher chan mesh.OutputSource

func (f finisher) Finish(_ context.Context, src mesh.OutputSource) { f <- src }

func receive[T any](t *testing.T, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(20 * time.Second):
		t.Error("nothing comes")
	}
	return got
}

func TestSecrets_ConfigVars(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := b.spec("web", "wait")
	s.Env = map[string]mesh.Secret{
		"API_TOKEN": mesh.NewSecret("plantedtoken"), "GREETING": mesh.NewSecret("hello world"), "MODE": mesh.NewSecret("production"), "MESH_RELEASE": mesh.NewSecret("v1234567"),
	}
	in := b.start(s)
	for name, want := range map[string][]string{"web.1": {"plantedtoken"}, "release": {"plantedtoken", "hello world", "production"}} {
		got, err := b.Secrets(t.Context(), mesh.OutputSource{ID: in.ID, Name: name})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("of %s: %q, %v", name, got, err)
		}
	}
}
