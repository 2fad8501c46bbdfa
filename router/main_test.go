package router_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mesh"
	"mesh/router"
)

// TestMain fails when a goroutine of the router outlives the tests.
func TestMain(m *testing.M) {
	if os.Getenv("MESH_BENCH_APP") != "" {
		serveBench()
	}
	code := m.Run()
	if left := leftover(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

func leftover() string {
	limit := time.After(5 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for _, g := range strings.Split(string(buf), "\n\n") {
			if strings.Contains(g, "mesh/router.") || strings.Contains(g, "mesh/router_test.") && !strings.Contains(g, "TestMain") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
		select {
		case <-limit:
			return strings.Join(left, "\n\n")
		case <-tick.C:
		}
	}
}

// rig is a router that serves on a loopback port.
type rig struct {
	*router.Router
	t      testing.TB
	addr   string
	client *http.Client
	stop   func() // ends Serve and waits for it
	told   chan router.AccessRecord
}

func start(t testing.TB, o router.Options) *rig {
	t.Helper()
	g := &rig{t: t, told: make(chan router.AccessRecord, 256)}
	if o.Access == nil {
		o.Access = func(a *router.AccessRecord) {
			select {
			case g.told <- *a:
			default:
			}
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	g.Router = router.New(o)
	l := listen(t)
	g.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Serve(ctx, l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	rctx, rcancel := context.WithCancel(context.Background())
	wg.Go(func() { _ = g.Run(rctx) })
	g.stop = sync.OnceFunc(func() { cancel(); rcancel(); wg.Wait() })
	tr := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true, DialContext: g.dial}
	g.client = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() { tr.CloseIdleConnections(); g.stop() })
	return g
}

// dial connects every host to the router.
func (g *rig) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", g.addr)
}

func (g *rig) conn() *rawConn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &rawConn{c, bufio.NewReader(c), g.t}
}

type rawConn struct {
	net.Conn
	r *bufio.Reader
	t testing.TB
}

func (c *rawConn) say(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// head reads up to the empty line.
func (c *rawConn) head() string {
	c.t.Helper()
	var b strings.Builder
	for {
		l, err := c.r.ReadString('\n')
		b.WriteString(l)
		if err != nil {
			c.t.Fatalf("reading a head: %v after %q", err, b.String())
		}
		if l == "\r\n" {
			return b.String()
		}
	}
}

func (c *rawConn) want(s string) {
	c.t.Helper()
	b := make([]byte, len(s))
	if n, err := io.ReadFull(c.r, b); err != nil || string(b) != s {
		c.t.Fatalf("read %q, %v; want %q", b[:n], err, s)
	}
}

// route routes blog.test to the targets.
func (g *rig) route(targets ...mesh.Target) {
	g.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: targets})
}

func (g *rig) get(path string) (*http.Response, string) {
	g.t.Helper()
	res, err := g.client.Get("http://blog.test" + path)
	if err != nil {
		g.t.Fatal(err)
	}
	return res, g.body(res)
}

func (g *rig) body(res *http.Response) string {
	g.t.Helper()
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b)
}

// record waits for the next access record.
func (g *rig) record() router.AccessRecord {
	g.t.Helper()
	return receive(g.t, g.told, "an access record")
}

func receive[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(15 * time.Second):
		t.Fatalf("no sign of %s", what)
		panic("unreachable")
	}
}

// until waits for something that has no event.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.After(15 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

var targets atomic.Int64

func target(l net.Listener) mesh.Target {
	n := targets.Add(1)
	return mesh.Target{
		ID: fmt.Sprintf("c%d", n), Name: mesh.InstanceName{Service: mesh.Web, Slot: int(n)},
		Addr: netip.MustParseAddrPort(l.Addr().String()),
	}
}

// app is an instance that net/http serves.
func app(t testing.TB, h http.HandlerFunc) mesh.Target {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return target(s.Listener)
}

// rawApp is an instance whose connections are handled by fn.
func rawApp(t testing.TB, fn func(c *rawConn)) mesh.Target {
	t.Helper()
	l := listen(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				fn(&rawConn{c, bufio.NewReader(c), t})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return target(l)
}

// replies answers every request on a connection with the same bytes.
func replies(s string) func(*rawConn) {
	return func(c *rawConn) {
		for {
			r, err := http.ReadRequest(c.r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			if _, err := io.WriteString(c, s); err != nil {
				return
			}
			if !strings.Contains(s, "Content-Length") && !strings.Contains(s, "chunked") {
				return
			}
		}
	}
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

func ctxFor(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
