package runner_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"mesh"
	"mesh/engine"
	"mesh/runner"
)

// bent puts something between a Runner and the engine. before sees each request, and
// reports whether it has answered it.
func (b *bench) bent(before func(w http.ResponseWriter, r *http.Request) bool) *runner.Runner {
	b.t.Helper()
	host, err := client.ParseHostURL(cli.DaemonHost())
	if err != nil {
		b.t.Fatal(err)
	}
	to := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "engine"}) },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", host.Host+host.Path)
		}},
		FlushInterval: -1,
	}
	l, err := net.Listen("unix", filepath.Join(b.t.TempDir(), "engine.sock"))
	if err != nil {
		b.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !before(w, r) {
			to.ServeHTTP(w, r)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	b.t.Cleanup(func() { _ = srv.Close() })
	c, err := client.NewClientWithOpts(client.WithHost("unix://"+l.Addr().String()), client.WithAPIVersionNegotiation())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	return runner.New(engine.Of(c), runner.Options{Server: b.server, Labels: map[string]string{testLabel: run}, Logger: slog.New(slog.NewTextHandler(b.t.Output(), nil))})
}

// A container that is removed while its log is read is left out, whatever the engine
// says about it; the others are read.
func TestLogs_ContainerGoesWhileItIsRead(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter){
		"conflict": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write([]byte(`{"message":"can not get logs from container which is dead or marked for removal"}`))
		},
		"no file": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"message":"open /var/lib/docker/containers/x/local-logs/container.log: no such file or directory"}`))
		},
		"half a line": func(w http.ResponseWriter) { _, _ = w.Write([]byte{1, 0, 0, 0, 0, 0, 0, 40, '2', '0'}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			stays, goes := b.serving("web", 1), b.serving("web", 2)
			b.say(stays, "here")
			eventually(t, "the line is in the log", func() bool { return len(b.output(stays, -1)) > 0 })
			r := b.bent(func(w http.ResponseWriter, q *http.Request) bool {
				if !strings.HasSuffix(q.URL.Path, goes.ID+"/logs") {
					return false
				}
				if err := cli.ContainerRemove(context.Background(), goes.ID, container.RemoveOptions{Force: true}); err != nil {
					t.Error(err)
				}
				answer(w)
				return true
			})
			var got []string
			for _, in := range []mesh.Instance{goes, stays} {
				err := r.Output(t.Context(), in.ID, -1, false, func(_ time.Time, _ byte, text []byte) error {
					got = append(got, string(text))
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
			if len(got) == 0 || got[len(got)-1] != "here" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// The engine reports a signal after it has sent it: the end of the program may be reported
// before. An end without a signal is the program's own.
func TestWatch_EndBeforeItsSignal(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	in := b.serving("web", 1)
	feed := make(chan string, 10)
	r := b.bent(func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, "/events") || !strings.Contains(q.URL.RawQuery, "die") {
			return false
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case line := <-feed:
				_, _ = io.WriteString(w, line+"\n")
				_ = http.NewResponseController(w).Flush()
			case <-q.Context().Done():
				return true
			}
		}
	})
	message := func(action, attributes string) string {
		return fmt.Sprintf(`{"Type":"container","Action":%q,"Actor":{"ID":%q,"Attributes":{"mesh.stack":"blog","mesh.service":"web","mesh.slot":"1"%s}},"timeNano":%d}`, action, in.ID, attributes, time.Now().UnixNano())
	}
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := make(chan mesh.InstanceEvent, 10), make(chan error, 1)
	go func() { ended <- r.Watch(ctx, startsAndEnds(got), func() {}) }()
	die := message("die", `,"exitCode":"137"`)
	for name, c := range map[string]struct {
		lines  []string
		byHand bool
	}{
		"a signal before": {[]string{message("kill", `,"signal":"9"`), die}, true},
		"a signal after":  {[]string{die, message("kill", `,"signal":"9"`)}, true},
		"no signal":       {[]string{die}, false},
		"a mild signal":   {[]string{die, message("kill", `,"signal":"10"`)}, false},
		"another end":     {[]string{message("die", `,"exitCode":"3"`)}, false},
	} {
		for _, line := range c.lines {
			feed <- line
		}
		if e := receive(t, got); !e.Died || e.ByHand != c.byHand {
			t.Errorf("%s: %+v", name, e)
		}
	}
	cancel()
	if err := receive(t, ended); err != nil {
		t.Error(err)
	}
}

// An engine that has lost count of a network's endpoints refuses to remove it until it
// restarts. The stack is gone all the same, and the network goes the next time.
func TestRemoveStack_EngineKeepsAnEmptyNetwork(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	in := b.serving("web", 1)
	asked := 0
	r := b.bent(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodDelete || !strings.Contains(q.URL.Path, "/networks/") {
			return false
		}
		asked++
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"message":"error while removing network: network x id y has active endpoints"}`))
		return true
	})
	if err := r.RemoveStack(t.Context(), b.stack); err != nil || asked < 2 {
		t.Errorf("the engine was asked %d times: %v", asked, err)
	}
	if _, err := cli.ContainerInspect(t.Context(), in.ID); !errdefs.IsNotFound(err) {
		t.Errorf("the container is still there: %v", err)
	}
	left, err := b.Stacks(t.Context())
	if err != nil || !slices.Equal(left, []mesh.StackName{b.stack}) {
		t.Errorf("forgotten: %v, %v", left, err)
	}
	if err := b.RemoveStack(t.Context(), b.stack); err != nil {
		t.Error(err)
	}
	if left, err := b.Stacks(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
