package command_test

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"

	"mesh"
	"mesh/command"
)

// screenOf is what a program has written to a terminal.
type screenOf struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screenOf) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(b)
}

// since returns what has been written so far.
func (s *screenOf) since() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

func TestTop_OnATerminal(t *testing.T) {
	t.Parallel()
	out := &screenOf{}
	resize := make(chan mesh.WindowSize, 1)
	r := do(t, full(), "top", func(r *mesh.Request) {
		r.TTY, r.Size, r.Resize, r.Stdout, r.Stderr = true, mesh.WindowSize{Width: 90, Height: 12}, resize, out, out
		r.Stdin = &keys{t: t, out: out, steps: []string{
			"worker.1", "m",
			"MEM▼", "i",
			"UP", "/",
			"filter: _", "zz",
			"nothing of that name", "\r",
			`only "zz"`, "q",
		}}
	})
	if r.status != 0 {
		t.Errorf("%d\n%q", r.status, out.since())
	}
	screen := out.since()
	if !strings.Contains(screen, "\x1b[?1049h") || !strings.Contains(screen, "\x1b[?1049l") {
		t.Errorf("the screen of before does not come back: %q", screen)
	}
}

// The screen as a person sees it, without the sequences that a terminal turns into it.
func TestTop_Pictures(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]string{
		"top-screen": nil, "top-screen-memory": {"m"}, "top-screen-stacks": {"i"}, "top-screen-filter": {"/", "w", "o", "r"}, "top-screen-small": {"pgdown", "down"},
	} {
		width, height := 90, 14
		if name == "top-screen-small" {
			width, height = 50, 7
		}
		got, err := command.TopScreen(t.Context(), commandsOf(t, full()), mesh.Request{
			Key: admin, User: "mesh", Line: "top", Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, TTY: true, Size: mesh.WindowSize{Width: width, Height: height},
			Env: map[string]string{mesh.EnvNoColor: "1"},
		}, keys)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, got+"\n")
		for line := range strings.SplitSeq(got, "\n") {
			if n := len([]rune(line)); n > 100 {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
	}
}
