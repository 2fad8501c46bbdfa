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
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"mesh/router"
)

// Requests and upgraded connections have separate times when an instance retires.
// One of the two is over soon; the other has an hour, and ends by itself.
func TestTunnel_HasItsOwnDrain(t *testing.T) {
	t.Parallel()
	const soon, never = 30 * time.Millisecond, time.Hour
	for name, c := range map[string]struct {
		requests, tunnels time.Duration
		tunnelStays       bool
	}{
		"tunnels last longer":  {soon, never, true},
		"requests last longer": {never, soon, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, router.Options{})
			answer := make(chan bool)
			tg := rawApp(t, func(c *rawConn) {
				if h := c.head(); strings.Contains(h, "Upgrade: ") {
					c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
					_, _ = io.Copy(c, c.r)
					return
				}
				if <-answer {
					c.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere")
				}
			})
			g.route(tg)
			up := g.conn()
			up.say("GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			up.head()
			ask := g.conn()
			ask.say("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n")
			until(t, "both to be under way", func() bool { return g.Snapshot()[0].Targets[0].InFlight == 2 })
			g.route()
			begun, drained := time.Now(), make(chan error, 1)
			go func() { drained <- g.Drain(ctxFor(t, c.requests), tg.ID, c.tunnels) }()
			if c.tunnelStays {
				if h := ask.head(); !strings.HasPrefix(h, "HTTP/1.1 503 ") {
					t.Errorf("the request got %q", h)
				}
				up.say("still here")
				up.want("still here")
				close(answer)
				up.Close()
			} else {
				if b, err := io.ReadAll(up.r); len(b) > 0 {
					t.Errorf("the tunnel got %q, %v", b, err)
				}
				answer <- true
				if h := ask.head(); !strings.HasPrefix(h, "HTTP/1.1 200 ") {
					t.Errorf("the request got %q", h)
				}
				ask.want("here")
			}
			if err := receive(t, drained, "the end of the drain"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("drain: %v", err)
			}
			if took := time.Since(begun); took < soon {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// A client that does not wait for the app's agreement loses nothing of what it has
// sent, although it does not look like a request.
func TestTunnel_EarlyBytes(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	secure := g.overTLS()
	got := make(chan string, 1)
	agree := make(chan bool)
	g.route(rawApp(t, func(c *rawConn) {
		if _, err := http.ReadRequest(c.r); err != nil {
			return
		}
		<-agree
		c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		b, _ := io.ReadAll(c.r)
		got <- string(b)
	}))
	const ask = "GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	for name, early := range map[string][]string{
		"with the head":   {ask + "first\nsecond\nthird\n"},
		"behind the head": {ask, "first\nse", "cond\nthird\n"},
		"byte by byte":    strings.Split(ask+"first\nsecond\nthird\n", ""),
	} {
		for _, dial := range []func() *rawConn{g.conn, secure} {
			c := dial()
			for _, part := range early {
				c.say(part)
			}
			agree <- true
			c.head()
			c.say("later\n")
			if half, ok := c.Conn.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
				t.Fatal("the client cannot end its direction")
			}
			if s := receive(t, got, "what the app got"); s != "first\nsecond\nthird\nlater\n" {
				t.Errorf("%s: the app got %q", name, s)
			}
		}
	}
}

// The app accepts one of several protocols that the client offers.
func TestTunnel_ListOfProtocols(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(rawApp(t, func(c *rawConn) {
		if _, err := http.ReadRequest(c.r); err == nil {
			c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(c, c.r)
		}
	}))
	c := g.conn()
	c.say("GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade\r\nUpgrade: other, WebSocket\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 101 ") {
		t.Fatal(h)
	}
	c.say("moin")
	c.want("moin")
}

// Over TLS, long messages also arrive complete, in both directions.
func TestTunnel_OverTLS(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(rawApp(t, func(c *rawConn) {
		if _, err := http.ReadRequest(c.r); err == nil {
			c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
			_, _ = io.Copy(c, c.r)
		}
	}))
	c := g.overTLS()()
	c.say("GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	c.head()
	for _, n := range []int{1, 1023, 1024, 1025, 100_000, 3 << 20, 1024, 5} {
		msg := strings.Repeat("0123456789", n/10+1)[:n]
		sent := make(chan error, 1)
		go func() { _, err := io.WriteString(c, msg); sent <- err }()
		c.want(msg)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
}

// A client that leaves during a long download is not the app's fault.
func TestBody_ClientLeavesADownload(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/dies" {
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(make([]byte, 500_000))
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Length", fmt.Sprint(256<<20))
		for b := make([]byte, 64<<10); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}))
	for range 5 {
		c := g.conn()
		c.say("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n")
		c.head()
		_, _ = io.CopyN(io.Discard, c.r, 1<<20)
		c.Close()
		if a := g.record(); a.Code != router.ClientGone {
			t.Errorf("the record has %q", a.Code)
		}
	}
	c := g.conn()
	c.say("GET /dies HTTP/1.1\r\nHost: blog.test\r\n\r\n")
	c.head()
	_, _ = io.Copy(io.Discard, c.r)
	if a := g.record(); a.Code != router.AppClosed {
		t.Errorf("the record of an app that has died has %q", a.Code)
	}
}

// Fields declared as only for this connection are not passed on. A client that
// declares very many is refused: comparing all of them with all fields would be
// expensive.
func TestRequest_ConnectionOptions(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %q", r.Header.Get("X-Hop"), r.Header.Get("X-End"))
	}))
	c := g.conn()
	c.say("GET / HTTP/1.1\r\nHost: blog.test\r\nX-Hop: 1\r\nX-End: 2\r\nConnection: keep-alive, x-hop\r\nConnection: , close-not\r\n\r\n")
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b := g.body(res); b != `"" "2"` {
		t.Errorf("the app got %s", b)
	}
	c.say("GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: " + strings.Repeat("a,", 16000) + "b\r\n\r\n")
	if res, err = http.ReadResponse(c.r, nil); err != nil || res.StatusCode != 400 {
		t.Errorf("very many: %v, %v", res, err)
	}
}

// Method and path of HTTP/2 cannot forge a request line for the app, or a line in
// the log.
func TestRequest_HTTP2Line(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	lines := make(chan string, 10)
	g.route(rawApp(t, func(c *rawConn) {
		line, _, _ := strings.Cut(c.head(), "\r\n")
		lines <- line
		c.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	}))
	for _, c := range []struct{ method, path, line string }{
		{"GET", "/ok?a=b", "GET /ok?a=b HTTP/1.1"},
		{"M-SEARCH", "/x", "M-SEARCH /x HTTP/1.1"},
		{"OPTIONS", "*", "OPTIONS * HTTP/1.1"},
		{"GET", "/admin HTTP/1.1 ", ""},
		{"GET /admin HTTP/1.1", "/x", ""},
		{"GET\t/admin", "/x", ""},
		{"GET", "/a\tb", ""},
		{"GET", "http://blog.test/x", ""},
		{`GET path="/ok" host=blog.test status=200`, "/x", ""},
	} {
		status := g.overHTTP2(c.method, c.path)
		if c.line != "" {
			if line := receive(t, lines, "the app's line"); line != c.line || status != "200" {
				t.Errorf("%q %q: %q, %s", c.method, c.path, line, status)
			}
			g.record()
			continue
		}
		switch status {
		case "400":
			if a := g.record(); a.Method != "-" {
				t.Errorf("%q %q is logged as %q", c.method, c.path, a.Method)
			}
		case "reset": // by net/http
		default:
			t.Errorf("%q %q: status %q", c.method, c.path, status)
		}
	}
	if len(lines) > 0 {
		t.Errorf("the app got %q", <-lines)
	}
}

// overHTTP2 sends a request that no library would send, and returns the status.
func (g *rig) overHTTP2(method, path string) (status string) {
	g.t.Helper()
	conn := g.conn()
	defer conn.Close()
	conn.say(http2.ClientPreface)
	fr := http2.NewFramer(conn, conn.r)
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", method}, {":scheme", "http"}, {":authority", "blog.test"}, {":path", path}} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			g.t.Fatal(err)
		}
	}
	if err := errors.Join(fr.WriteSettings(), fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true})); err != nil {
		g.t.Fatal(err)
	}
	dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			status = f.Value
		}
	})
	for status == "" {
		f, err := fr.ReadFrame()
		if err != nil {
			return "reset"
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			if _, err := dec.Write(f.HeaderBlockFragment()); err != nil {
				g.t.Fatal(err)
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "reset"
		}
	}
	return status
}

// A certificate may take longer to obtain than the client has for its part, and a
// failure in one handshake stays there.
func TestTLS_SlowCertificate(t *testing.T) {
	t.Parallel()
	const headTime = time.Second // for a handshake, also on a busy machine
	g := start(t, router.Options{HeadTime: headTime})
	cert := httptest.NewTLSServer(nil)
	cert.Close()
	l := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served, hang := make(chan error, 1), make(chan bool)
	go func() {
		served <- g.ServeTLS(ctx, l, &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			switch hello.ServerName {
			case "bad.test":
				panic("of a library")
			case "never.test":
				close(hang)
				<-hello.Context().Done()
				return nil, hello.Context().Err()
			}
			<-time.After(headTime + headTime/10)
			return &cert.TLS.Certificates[0], nil
		}})
	}()
	dial := func(name string) error {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true, ServerName: name}}
		c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial("blog.test"); err != nil {
		t.Error(err)
	}
	if dial("bad.test") == nil || dial("blog.test") != nil {
		t.Error("a panic in a handshake is not that handshake's alone")
	}
	go func() { _ = dial("never.test") }()
	<-hang
	cancel() // ends it, too
	if err := receive(t, served, "the end of TLS"); err != nil {
		t.Error(err)
	}
}
