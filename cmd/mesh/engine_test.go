package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// hang is a way to the engine that can be made to hang, as an engine that got SIGSTOP
// does: it takes connections and bytes, and answers nothing.
type hang struct {
	mu    sync.Mutex
	gate  chan struct{} // closed: what comes passes
	away  bool          // connections are cut
	conns []net.Conn
}

func (h *hang) open() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gate
}

var hangs sync.Map // by $WORK

// cmdHang stands between a server and the engine: hang way, before the server is
// started; hang begin; hang end; hang away and hang back, as an engine that was stopped.
func cmdHang(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hang way | begin | end | away | back")
	}
	work := ts.Getenv("WORK")
	if args[0] == "way" {
		h := &hang{gate: make(chan struct{})}
		close(h.gate)
		hangs.Store(work, h)
		host := engine.Client.DaemonHost()
		l, err := net.Listen("unix", filepath.Join(work, "way.sock"))
		ts.Check(err)
		ts.Defer(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go h.pass(c, host[len("unix://"):])
			}
		}()
		ts.Setenv("DOCKER_HOST", "unix://"+l.Addr().String())
		return
	}
	v, ok := hangs.Load(work)
	if !ok {
		ts.Fatalf("hang way comes first")
	}
	h := v.(*hang)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch args[0] {
	case "begin":
		h.gate = make(chan struct{})
	case "end":
		close(h.gate)
	case "away":
		h.away = true
		for _, c := range h.conns {
			_ = c.Close()
		}
		h.conns = nil
	case "back":
		h.away = false
	}
}

func (h *hang) pass(c net.Conn, to string) {
	defer c.Close()
	up, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	defer up.Close()
	h.mu.Lock()
	if h.away {
		h.mu.Unlock()
		return
	}
	h.conns = append(h.conns, c, up)
	h.mu.Unlock()
	copied := make(chan struct{}, 2)
	pipe := func(dst, src net.Conn) {
		defer func() { copied <- struct{}{} }()
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			<-h.open()
			if n > 0 {
				if _, err := dst.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				if w, ok := dst.(*net.UnixConn); ok {
					_ = w.CloseWrite()
				}
				return
			}
		}
	}
	go pipe(up, c)
	go pipe(c, up)
	<-copied
	<-copied
}

// Every path of the engine's API that mesh uses has the limit that fits it.
func TestEngineLimits(t *testing.T) {
	t.Parallel()
	l := engineLimits{read: time.Second, change: time.Minute}
	for line, want := range map[string]struct {
		limit time.Duration
		whole bool
	}{
		"GET /v1.41/containers/json":                   {time.Second, true},
		"GET /v1.41/containers/abc/json":               {time.Second, true},
		"GET /v1.41/images/mesh/shop:v1/json":          {time.Second, true},
		"HEAD /_ping":                                  {time.Second, true},
		"POST /v1.41/containers/abc/exec":              {time.Second, true},
		"GET /v1.41/events":                            {time.Second, false},
		"GET /v1.41/containers/abc/logs":               {time.Second, false},
		"POST /v1.41/containers/abc/wait":              {time.Second, false},
		"POST /v1.41/containers/abc/start":             {time.Minute, true},
		"DELETE /v1.41/containers/abc":                 {time.Minute, true},
		"POST /v1.41/networks/create":                  {time.Minute, true},
		"POST /v1.41/build":                            {0, false},
		"POST /v1.41/build/prune":                      {0, false},
		"POST /v1.41/images/create":                    {0, false},
		"POST /v1.41/images/load":                      {0, false},
		"GET /v1.41/distribution/docker.io/redis/json": {0, false},
		"GET /v1.41/system/df":                         {0, false},
	} {
		var method, path string
		for i := range line {
			if line[i] == ' ' {
				method, path = line[:i], line[i+1:]
			}
		}
		r, err := http.NewRequestWithContext(t.Context(), method, "http://engine"+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if limit, whole := l.limit(r); limit != want.limit || whole != want.whole {
			t.Errorf("%s: %s, whole %v; want %+v", line, limit, whole, want)
		}
	}
}

// An answer that stops in the middle ends as a connection that was cut.
func TestEngineLimits_HalfAnAnswer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "engine.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "[{")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	tr := engineLimits{next: &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", l.Addr().String()) }}, read: 50 * time.Millisecond}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://engine/containers/json", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}
