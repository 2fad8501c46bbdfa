package router_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"mesh/router"
)

// A client opens streams and resets them at once (CVE-2023-44487): the load on the
// app is limited by the streams per connection, and nobody else notices.
func TestRude_HTTP2RapidReset(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	var now, most atomic.Int64
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/slow" {
			return
		}
		for n := now.Add(1); ; {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		defer now.Add(-1)
		<-r.Context().Done()
	}))
	c := g.conn()
	c.say(http2.ClientPreface)
	fr := http2.NewFramer(c, c.r)
	if err := fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, c.r) }() // ends with the connection
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	sent := 0
	for id := uint32(1); id < 40_000; id += 2 {
		head.Reset()
		for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "blog.test"}, {Name: ":path", Value: "/slow"}} {
			if err := enc.WriteField(f); err != nil {
				t.Fatal(err)
			}
		}
		if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true}) != nil ||
			fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
		sent++
	}
	if m := most.Load(); m > 250 {
		t.Errorf("the app had %d requests at a time, of %d streams", m, sent)
	}
	if res, _ := g.get("/"); res.StatusCode != 200 {
		t.Errorf("somebody else got %d", res.StatusCode)
	}
	until(t, "the app to be left alone", func() bool { return now.Load() == 0 })
}

// One address opens connections and sends nothing: it gets its share, others get
// theirs, and when some end, there is room again.
func TestRude_ConnectionFlood(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{PerClient: 20})
	g.route(app(t, text("hello")))
	dial := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.DialContext(t.Context(), "tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	served := func(c net.Conn) bool {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n")
		b := make([]byte, 12)
		_, err := io.ReadFull(c, b)
		return err == nil && string(b) == "HTTP/1.1 200"
	}
	var flood []net.Conn
	for range 20 {
		flood = append(flood, dial("127.0.0.2"))
	}
	for _, c := range flood {
		if !served(c) {
			t.Fatal("one within the limit is not served")
		}
	}
	if served(dial("127.0.0.2")) {
		t.Error("one beyond the limit is served")
	}
	if !served(dial("127.0.0.3")) {
		t.Error("somebody else is not served")
	}
	flood[0].Close()
	until(t, "room for another", func() bool { return served(dial("127.0.0.2")) })
}

// Heads that arrive byte by byte end when their time is up.
func TestRude_SlowLoris(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{HeadTime: 300 * time.Millisecond})
	g.route(app(t, text("hello")))
	c := g.conn()
	ended := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, c.r)
		ended <- err
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case err := <-ended:
			if errors.Is(err, os.ErrDeadlineExceeded) { // the test's own
				t.Error("it goes on")
			}
			return
		case <-tick.C:
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: blog.test\r\nX: "[min(i, 37):min(i+1, 38)])
		}
	}
}

// A client that sends nothing on the TLS port, or no TLS, blocks nobody, and gets an
// error if possible.
func TestRude_NoHandshake(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{HeadTime: 300 * time.Millisecond})
	g.route(app(t, text("hello")))
	l := listen(t)
	cert := httptest.NewTLSServer(nil)
	cert.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- g.ServeTLS(ctx, l, &tls.Config{Certificates: cert.TLS.Certificates}) }()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
	silent, plain := dial(), dial()
	_, _ = io.WriteString(plain, "GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n")
	if b, _ := io.ReadAll(plain); !strings.HasPrefix(string(b), "HTTP/1.1 400 ") || !strings.Contains(string(b), "HTTPS only") {
		t.Errorf("HTTP without TLS got %q", b)
	}
	if b, err := io.ReadAll(silent); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("silence got %q, %v", b, err)
	}
	// A client that has begun when the listener closes is still served, in time.
	slow := tls.Client(dial(), &tls.Config{InsecureSkipVerify: true})
	until(t, "the connection to be taken", func() bool { return slow.HandshakeContext(t.Context()) == nil })
	dial() // says nothing, and holds up no end
	cancel()
	if err := receive(t, served, "the end of TLS"); err != nil {
		t.Error(err)
	}
}

// residentKiB is the memory of this process.
func residentKiB(t *testing.T) int64 {
	t.Helper()
	debug.FreeOSMemory() // collects, too
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Idle WebSockets cost less than 16 KB each, including their clients and the app in
// this process.
func TestTunnel_IdleOnesAreCheap(t *testing.T) { // alone: it looks at the memory
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if more := (syscall.Rlimit{Cur: 41_000, Max: max(limit.Max, 41_000)}); limit.Cur < more.Cur && syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil {
		was := limit
		limit = more
		t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was) })
	}
	n := min(10_000, int64(limit.Cur-1000)/4) // four sockets each
	g := start(t, router.Options{Access: func(*router.AccessRecord) {}, Grace: time.Second})
	l := listen(t)
	var mu sync.Mutex
	var held []net.Conn
	go func() { // as small an app as can be: it is in this process, too
		var b [1024]byte
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for have := 0; !bytes.HasSuffix(b[:have], []byte("\r\n\r\n")); {
				k, err := c.Read(b[have:])
				if err != nil {
					return
				}
				have += k
			}
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			mu.Lock()
			held = append(held, c)
			mu.Unlock()
		}
	}()
	g.route(target(l))
	before := residentKiB(t)
	var b [256]byte
	for range n {
		c, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		held = append(held, c)
		mu.Unlock()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		for have := 0; !bytes.HasSuffix(b[:have], []byte("\r\n\r\n")); {
			k, err := c.Read(b[have:])
			if err != nil {
				t.Fatal(err)
			}
			have += k
		}
	}
	after := residentKiB(t)
	mu.Lock()
	for _, c := range held {
		c.Close()
	}
	mu.Unlock()
	each := (after - before) * 1024 / n
	t.Logf("%d bytes for each of %d", each, n)
	if each > 16<<10 && !raceDetector {
		t.Errorf("an idle WebSocket costs %d bytes", each)
	}
	until(t, "the tunnels to end", func() bool { return g.Snapshot()[0].Targets[0].InFlight == 0 })
}
