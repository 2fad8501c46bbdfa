package runner_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"mesh"
	"mesh/engine"
	"mesh/runner"
)

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func serverFilter(server string) filters.Args {
	return filters.NewArgs(filters.Arg("label", "mesh.server="+server))
}

func (b *bench) oneOff(args ...string) mesh.OneOff {
	return mesh.OneOff{
		Stack: b.stack, Name: "run.1234", Image: app, Process: mesh.Process{Cmd: args}, Subnet: b.subnet,
		Env: map[string]mesh.Secret{"GREETING": mesh.NewSecret("hi")}, Labels: map[string]string{"x": "y"},
	}
}

func TestRunOneOff(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, c := range []struct {
		name        string
		image       string
		process     mesh.Process
		stdin       string
		tty         bool
		code        int
		out, errout string
	}{
		{name: "streams and code", process: mesh.Process{Cmd: []string{"env", "GREETING", "eprint", "oops", "exit", "5"}}, code: 5, out: "hi\n", errout: "oops\n"},
		{name: "the end of stdin is passed on", process: mesh.Process{Cmd: []string{"echo"}}, stdin: "a\nb\n", out: "a\nb\nend\n"},
		{name: "killed by a signal", image: shell, process: mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"kill -9 $$"}}, code: 137},
		{name: "a terminal", image: shell, process: mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"test -t 1 && echo tty; echo err >&2"}}, tty: true, out: "tty\r\nerr\r\n"},
		{name: "long output", process: mesh.Process{Cmd: []string{"long", "3000000"}}, out: strings.Repeat("x", 3000000) + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := b.oneOff()
			var out, errout strings.Builder
			o.Process, o.TTY, o.Stdout, o.Stderr = c.process, c.tty, &out, &errout
			if c.image != "" {
				o.Image = c.image
			}
			if c.stdin != "" {
				o.Stdin = strings.NewReader(c.stdin)
			}
			code, err := b.RunOneOff(t.Context(), o)
			if err != nil || code != c.code || out.String() != c.out || errout.String() != c.errout {
				t.Errorf("%d, %v, %.100q, %q", code, err, out.String(), errout.String())
			}
		})
	}
	o := b.oneOff()
	o.Process.Entrypoint = []string{"rails"}
	if code, err := b.RunOneOff(t.Context(), o); code != 127 || err != nil {
		t.Errorf("no such program: %d, %v", code, err)
	}
	b.noContainers()
}

func (b *bench) noContainers() {
	b.t.Helper()
	list, err := cli.ContainerList(b.t.Context(), containerList(b.server))
	if err != nil || len(list) > 0 {
		b.t.Errorf("left: %v, %v", list, err)
	}
}

func TestRunOneOff_Resizes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	sizes := make(chan mesh.WindowSize, 2)
	sizes <- mesh.WindowSize{Width: 80, Height: 24}
	sizes <- mesh.WindowSize{Width: 120, Height: 40}
	close(sizes)
	o := b.oneOff("size")
	var out strings.Builder
	o.TTY, o.Resize, o.Stdout = true, sizes, &out
	if code, err := b.RunOneOff(t.Context(), o); code != 0 || err != nil || out.String() != "40x120\r\n" {
		t.Errorf("%d, %v, %q", code, err, out.String())
	}
}

func TestRunOneOff_IsInteractive(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	o := b.oneOff("echo")
	o.Stdin, o.Stdout = inR, outW
	done := make(chan error, 1)
	go func() {
		_, err := b.RunOneOff(t.Context(), o)
		done <- err
	}()
	lines := bufio.NewReader(outR)
	for _, s := range []string{"one\n", "two\n"} {
		_, _ = io.WriteString(inW, s)
		if got, err := lines.ReadString('\n'); got != s {
			t.Fatalf("%q, %v", got, err)
		}
	}
	_ = inW.Close()
	if got, _ := lines.ReadString('\n'); got != "end\n" {
		t.Errorf("%q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRunOneOff_CancelKills(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := b.oneOff("print", "up", "stubborn")
	o.Stdout = writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
	if _, err := b.RunOneOff(ctx, o); !errors.Is(err, mesh.Cancelled) {
		t.Errorf("got %v", err)
	}
	b.noContainers()
}

// The engine of the tests may be too old to accept a terminal's size with its
// command (API 1.42), so this one only reports what it was asked for.
func TestTerminalSizes_AreAskedForAtOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := map[string]string{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		mu.Lock()
		asked[path.Base(req.URL.Path)] += string(body)
		mu.Unlock()
		switch path.Base(req.URL.Path) {
		case "mesh-fake-blog":
			_, _ = io.WriteString(w, `{"Id":"n"}`)
		case "exec":
			_, _ = io.WriteString(w, `{"Id":"x"}`)
		case "json":
			http.NotFound(w, req) // the container that the tests run in
		default:
			http.Error(w, "no more", http.StatusBadRequest)
		}
	}))
	defer srv.Close()
	c, err := client.NewClientWithOpts(client.WithHost("tcp://"+srv.Listener.Addr().String()), client.WithVersion("1.42"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := runner.New(engine.Of(c), runner.Options{Server: "fake", Logger: slog.New(slog.DiscardHandler)})
	size := mesh.WindowSize{Width: 100, Height: 30}
	if _, err := r.RunOneOff(t.Context(), mesh.OneOff{Stack: "blog", Name: "run.1", TTY: true, Size: size}); err == nil {
		t.Error("a one-off runs in an engine that does not work")
	}
	if _, err := r.Exec(t.Context(), mesh.Exec{ID: "c", Name: "web.1", Words: []string{"sh"}, TTY: true, Size: size}); err == nil {
		t.Error("a command runs in an engine that does not work")
	}
	for _, call := range []string{"create", "exec", "start"} {
		if !strings.Contains(asked[call], `"ConsoleSize":[30,100]`) {
			t.Errorf("%s: %s", call, asked[call])
		}
	}
}

// A one-off command can have limits, as instances have.
func TestRunOneOff_Limits(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := b.oneOff("wait")
	o.Name, o.Memory, o.CPUs = "run.4211", 64<<20, 0.5
	in, err := b.Detach(t.Context(), o, mesh.DetachedRun{Stack: b.stack, Name: o.Name, Until: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if h := b.inspect(in.ID).HostConfig; h.Memory != 64<<20 || h.NanoCPUs != 5e8 {
		t.Errorf("memory %d, CPUs %d", h.Memory, h.NanoCPUs)
	}
}
