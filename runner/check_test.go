package runner_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/runner"
)

func TestCheck_Healthy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, c := range []struct {
		name  string
		args  []string
		check mesh.Check
		want  string
	}{
		{"any answer", []string{"serve", ":8080", "200"}, mesh.Check{HTTP: true}, "GET / 200"},
		{"not found is an answer", []string{"serve", ":8080", "404"}, mesh.Check{HTTP: true}, "GET / 404"},
		{"strict", []string{"serve", ":8080", "204"}, mesh.Check{HTTP: true, Strict: true, Path: "/up"}, "GET /up 204"},
		{"redirects are not followed", []string{"serve", ":8080", "200"}, mesh.Check{HTTP: true, Strict: true, Path: "/redirect"}, "GET /redirect 302"},
		{"a port", []string{"raw", ":8080"}, mesh.Check{TCP: true}, "accepts connections on port 8080"},
		{"no HTTP", []string{"wait"}, mesh.Check{Settle: 300 * time.Millisecond}, "up for 0.3s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			in := b.start(b.spec("web", c.args...))
			got, err := b.Check(t.Context(), in, c.check, nil)
			if err != nil || got != c.want {
				t.Fatalf("got %q, %v; want %q", got, err, c.want)
			}
			t.Logf("healthy after %s", time.Since(began).Round(time.Millisecond))
			if err := b.Stop(t.Context(), in.ID, time.Second); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// sawOOM reports whether the engine says that a container ran out of memory.
func sawOOM(t *testing.T, id string) bool {
	t.Helper()
	in, err := cli.ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return in.State.OOMKilled
}

// listens reports whether a process of a container listens on a port, as seen from
// the host.
func listens(t *testing.T, id string) bool {
	t.Helper()
	in, err := cli.ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var table []byte
	for _, name := range []string{"tcp", "tcp6"} {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", in.State.Pid, name))
		table = append(table, b...)
	}
	return len(runner.ParseListeners(table)) > 0
}

func TestCheck_Failures(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, c := range []struct {
		name       string
		entrypoint string
		args       []string
		check      mesh.Check
		memory     int64
		text, hint string
		output     string // a line of it
		listens    bool   // it is checked when it does: it may take its time to start
		atLeast    time.Duration
	}{
		{
			name: "no such program", entrypoint: "gunicorn", check: mesh.Check{HTTP: true, Timeout: time.Hour},
			text: `web.1 cannot start: the image has no program "gunicorn"`, hint: "correct the command",
		},
		{
			name: "not executable", entrypoint: "/proc/version", check: mesh.Check{Settle: 30 * time.Minute},
			text: `web.1 cannot start: "/proc/version" is not executable`, hint: "chmod",
		},
		{
			name: "exit at once", args: []string{"print", "cannot find config", "exit", "3"}, check: mesh.Check{HTTP: true, Timeout: time.Hour},
			text: "web.1 exited with code 3 before it answered on port 8080", output: "cannot find config",
		},
		{
			name: "exit 0", args: []string{"exit", "0"}, check: mesh.Check{HTTP: true, Timeout: time.Hour},
			text: "web.1 exited with code 0 before it answered on port 8080", hint: "foreground",
		},
		{
			name: "exit without HTTP", args: []string{"exit", "4"}, check: mesh.Check{Settle: 30 * time.Minute},
			text: "web.1 exited with code 4 within 30m of its start",
		},
		{
			name: "never listens", args: []string{"print", "thinking", "wait"}, check: mesh.Check{HTTP: true, Timeout: time.Second},
			text: "web.1 listens on no port after 1s", hint: "0.0.0.0:$PORT", output: "thinking", atLeast: time.Second,
		},
		{
			name: "wrong port", listens: true, args: []string{"serve", "0.0.0.0:3000", "200"}, check: mesh.Check{HTTP: true, Timeout: time.Second},
			text: "web.1 does not listen on port 8080; it listens on 0.0.0.0:3000", hint: "0.0.0.0:$PORT", atLeast: time.Second,
		},
		{
			name: "loopback only", args: []string{"serve", "127.0.0.1:8080", "200"}, check: mesh.Check{HTTP: true, Timeout: time.Hour},
			text: "web.1 listens on 127.0.0.1:8080 only", hint: "listen on 0.0.0.0:$PORT", atLeast: 2 * time.Second,
		},
		{
			name: "500s", args: []string{"serve", ":8080", "500"}, check: mesh.Check{HTTP: true, Timeout: time.Hour},
			text: "web.1 answered GET / with 500 for ", atLeast: 15 * time.Second,
		},
		{
			name: "strict 404", listens: true, args: []string{"serve", ":8080", "404"}, check: mesh.Check{HTTP: true, Strict: true, Path: "/up", Timeout: time.Second},
			text: "web.1 answered GET /up with 404 for ", hint: "build:set -a blog health=",
		},
		{
			name: "silent", listens: true, args: []string{"silent", ":8080"}, check: mesh.Check{HTTP: true, Timeout: time.Second},
			text: "web.1 accepts connections on port 8080 but does not answer GET /",
		},
		{
			name: "not HTTP", listens: true, args: []string{"raw", ":8080"}, check: mesh.Check{HTTP: true, Timeout: time.Second},
			text: "web.1 does not speak HTTP on port 8080",
		},
		{
			name: "nothing on the port", listens: true, args: []string{"serve", "0.0.0.0:3000", "200"}, check: mesh.Check{TCP: true, Timeout: time.Second},
			text: "web.1 does not listen on port 8080; it listens on 0.0.0.0:3000", hint: "0.0.0.0:$PORT", atLeast: time.Second,
		},
		{
			name: "out of memory", args: []string{"eat"}, check: mesh.Check{HTTP: true, Timeout: time.Hour}, memory: 64 << 20,
			text: "web.1 was killed: out of memory (limit 64 MB)", hint: "--memory",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := b.spec("web", c.args...)
			s.Memory = c.memory
			if c.entrypoint != "" {
				s.Process = mesh.Process{Entrypoint: []string{c.entrypoint}}
			}
			// A verdict with an hour to go comes early; if it does not come, the
			// test fails after some minutes.
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			in := b.start(s)
			if c.listens {
				eventually(t, "it listens", func() bool { return listens(t, in.ID) })
			}
			began := time.Now()
			seen, err := b.Check(ctx, in, c.check, nil)
			// The engine does not always see why the kernel killed a container: it
			// reads that separately from the exit, and may be too late.
			for try := 0; c.memory > 0 && try < 5 && !sawOOM(t, in.ID); try++ {
				in = b.start(s)
				seen, err = b.Check(ctx, in, c.check, nil)
			}
			var e *mesh.Error
			if !errors.As(err, &e) || e.Kind != mesh.Failed {
				t.Fatalf("got %q, %v", seen, err)
			}
			if e.Text != c.text && !(strings.HasSuffix(c.text, " for ") && strings.HasPrefix(e.Text, c.text)) {
				t.Errorf("text %q, want %q", e.Text, c.text)
			}
			if !strings.Contains(e.Hint, c.hint) {
				t.Errorf("hint %q, want %q", e.Hint, c.hint)
			}
			if c.output != "" && !slices.Contains(e.Output, c.output) {
				t.Errorf("output %q lacks %q", e.Output, c.output)
			}
			if took := time.Since(began); took < c.atLeast {
				t.Errorf("took %s, want at least %s", took, c.atLeast)
			}
		})
	}
}

func TestCheck_TellsProgressAndEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	in := b.start(b.spec("web", "serve", "127.0.0.1:3000", "200"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var said string
	_, err := b.Check(ctx, in, mesh.Check{HTTP: true}, func(line string) { said = line; cancel() })
	if !errors.Is(err, mesh.Cancelled) {
		t.Errorf("got %v", err)
	}
	if want := "web.1: nothing on port 8080 yet; it listens on 127.0.0.1:3000"; said != want {
		t.Errorf("progress %q, want %q", said, want)
	}
}
