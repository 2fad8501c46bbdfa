package runner_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"mesh"
)

func containerList(server string) container.ListOptions {
	return container.ListOptions{All: true, Filters: serverFilter(server)}
}

func (b *bench) logs(q mesh.LogQuery) (texts []string) {
	b.t.Helper()
	q.Stack = b.stack
	var last time.Time
	err := b.Logs(b.t.Context(), q, func(l mesh.LogLine) error {
		if l.At.Before(last) || l.Source != "app" {
			b.t.Errorf("line %+v after %s", l, last)
		}
		last = l.At
		texts = append(texts, l.Name+" "+l.Text)
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

func TestLogs_MergesByTime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one, two := b.serving("web", 1), b.serving("web", 2)
	long := strings.Repeat("y", 40_000) // more than one of the engine's messages
	for i, l := range []struct {
		in   mesh.Instance
		text string
	}{{one, "a"}, {two, "A"}, {one, "c"}, {two, "C"}, {one, long}} {
		b.say(l.in, l.text) // the engine notes the time when it reads the line, a little later
		eventually(t, "the line is in the log", func() bool { return len(b.logs(mesh.LogQuery{Lines: -1})) == 3+i })
	}
	want := []string{"web.1 a", "web.2 A", "web.1 c", "web.2 C", "web.1 " + long}
	if got := b.logs(mesh.LogQuery{Lines: 5}); !slices.Equal(got, want) {
		t.Errorf("the last five: %.200q", got)
	}
	if got := b.logs(mesh.LogQuery{Lines: 2, Instance: mesh.InstanceName{Service: "web", Slot: 2}}); !slices.Equal(got, []string{"web.2 A", "web.2 C"}) {
		t.Errorf("of web.2: %q", got)
	}
	if got := b.logs(mesh.LogQuery{Lines: -1, Service: "worker"}); len(got) > 0 {
		t.Errorf("of worker: %q", got)
	}
	if got := b.logs(mesh.LogQuery{Lines: -1, Since: time.Now().Add(time.Second)}); len(got) > 0 {
		t.Errorf("of the future: %q", got)
	}
	stop := errors.New("stop")
	if err := b.Logs(t.Context(), mesh.LogQuery{Stack: b.stack, Lines: -1}, func(mesh.LogLine) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

func TestLogs_FollowsLaterInstances(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.serving("web", 1)
	b.say(one, "before")
	eventually(t, "the engine has the line", func() bool {
		last := ""
		err := b.Logs(t.Context(), mesh.LogQuery{Stack: b.stack, Lines: 1}, func(l mesh.LogLine) error { last = l.Text; return nil })
		return err == nil && last == "before"
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines, ended := make(chan string, 100), make(chan error, 1)
	go func() {
		ended <- b.Logs(ctx, mesh.LogQuery{Stack: b.stack, Lines: 1, Follow: true}, func(l mesh.LogLine) error {
			lines <- l.Name + " " + l.Text
			return nil
		})
	}()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-lines:
			if got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no line %q", want)
		}
	}
	expect("web.1 before")
	began := time.Now()
	b.say(one, "now")
	expect("web.1 now")
	t.Logf("a line came after %s", time.Since(began).Round(time.Millisecond))
	two := b.serving("web", 2)
	expect("web.2 listening on :8080")
	b.say(two, "hello")
	expect("web.2 hello")
	_, _ = http.Get("http://" + two.Addr.String() + "/exit")
	b.exitWait(two.ID)
	two, err := b.Revive(t.Context(), two.ID)
	if err != nil {
		t.Fatal(err)
	}
	expect("web.2 listening on :8080")
	b.say(one, "last")
	expect("web.1 last")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestLogs_FollowFromNow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.serving("web", 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 100)
	go func() {
		_ = b.Logs(ctx, mesh.LogQuery{Stack: b.stack, Follow: true}, func(l mesh.LogLine) error { got <- l.Text; return nil })
	}()
	eventually(t, "a line", func() bool {
		b.say(one, "tick")
		select {
		case l := <-got:
			if l != "tick" {
				t.Errorf("got %q", l)
			}
			return true
		default:
			return false
		}
	})
}
