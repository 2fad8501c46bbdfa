package router_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mesh"
	"mesh/router"
)

// echoHead answers with the unchanged head of the request.
func echoHead(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "Host: %s\n", r.Host)
	_ = r.Header.Write(w)
}

func fields(s string) http.Header {
	h, _ := textproto.NewReader(bufio.NewReader(strings.NewReader(s + "\r\n\r\n"))).ReadMIMEHeader()
	return http.Header(h)
}

func TestForward_SaysWhoAsks(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, echoHead))
	req, _ := http.NewRequest("GET", "http://blog.test:8080/", nil)
	for _, k := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Ssl", "X-Real-Ip", "Forwarded", "X_Forwarded_For", "X_real_ip", "X-Request-Start", "Proxy-Authorization", "Proxy", "Cf-Connecting-Ip", "True-Client-Ip", "X-Client-Ip", "X-Original-Url", "CF_connecting_ip", "X_original_url"} {
		req.Header[k] = []string{"spoof"}
	}
	req.Header.Set("X-Request-Id", "bad id!!")
	req.Header.Set("Connection", "X-Mine, keep-alive")
	req.Header.Set("X-Mine", "1")
	req.Header.Set("Te", "trailers, deflate")
	req.Header.Set("Keep-Alive", "timeout=5")
	req.Header.Set("X_Other", "kept")
	before := time.Now().UnixMilli()
	res, err := g.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body := g.body(res)
	h := fields(body)
	for k, want := range map[string]string{
		"Host": "blog.test:8080", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "blog.test:8080", "X-Forwarded-Port": "8080",
		"X-Real-Ip": "127.0.0.1", "Te": "trailers", "X_other": "kept", "User-Agent": "Go-http-client/1.1",
	} {
		if got := strings.Join(h[k], "; "); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	if strings.Contains(body, "spoof") || h.Get("Connection") != "" || h.Get("X-Mine") != "" || h.Get("Keep-Alive") != "" {
		t.Errorf("passed on too much:\n%s", body)
	}
	ms, err := strconv.ParseInt(strings.TrimPrefix(h.Get("X-Request-Start"), "t="), 10, 64)
	if err != nil || ms < before || ms > time.Now().UnixMilli() {
		t.Errorf("X-Request-Start %q", h.Get("X-Request-Start"))
	}
	if id := h.Get("X-Request-Id"); len(id) != 32 || res.Header.Get("X-Request-Id") != id || g.record().RequestID != id {
		t.Errorf("X-Request-Id %q, answer's %q", id, res.Header.Get("X-Request-Id"))
	}
	req, _ = http.NewRequest("GET", "http://blog.test/", nil)
	req.Header.Set("X-Request-Id", "good.id_1-x")
	res, err = g.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if h := fields(g.body(res)); h.Get("X-Request-Id") != "good.id_1-x" || h.Get("X-Forwarded-Port") != "80" {
		t.Errorf("got %v", h)
	}
}

func TestForward_BelievesTrustedProxies(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}})
	g.route(app(t, echoHead))
	req, _ := http.NewRequest("GET", "http://blog.test/", nil)
	for k, v := range map[string]string{
		"X-Forwarded-For": "1.1.1.1, 2.2.2.2, 10.1.1.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example", "X-Request-Start": "t=5", "X-Real-Ip": "3.3.3.3", "Forwarded": "for=9", "Cf-Connecting-Ip": "2.2.2.2", "Proxy": "http://evil",
	} {
		req.Header.Set(k, v)
	}
	res, err := g.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	h := fields(g.body(res))
	for k, want := range map[string]string{
		"X-Forwarded-For": "1.1.1.1, 2.2.2.2, 10.1.1.1, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example",
		"X-Forwarded-Port": "443", "X-Real-Ip": "2.2.2.2", "X-Request-Start": "t=5", "Forwarded": "", "Cf-Connecting-Ip": "2.2.2.2", "Proxy": "",
	} {
		if got := h.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	if ip := g.record().ClientIP; ip != "2.2.2.2" {
		t.Errorf("client %q", ip)
	}
}

// The answer is the app's: only the request id is added, and nothing is guessed.
func TestAnswer_IsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ app, want string }{
		"length":  {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"},
		"chunked": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n<html>\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n<html>\r\n0\r\n\r\n"},
		"empty":   {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		"close":   {"HTTP/1.0 200 OK\r\n\r\nuntil the end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\nuntil the end\r\n0\r\n\r\n"},
		"204":     {"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
		"304":     {"HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n"},
		"fields": {
			"HTTP/1.1 404 Nope\r\ndate: D\r\nSERVER: s\r\nSet-Cookie: a=1\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=1\r\nSet-Cookie: b=2\r\ncontent-length: 0\r\n\r\n",
			"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nDate: D\r\nServer: s\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n",
		},
		"bare LF": {"HTTP/1.1 200\nContent-Length: 2\nX: y\n\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nok"},
		"both":    {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2 ;x=y\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, router.Options{})
			g.route(rawApp(t, replies(c.app)))
			rc := g.conn()
			rc.say("GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n")
			b, err := io.ReadAll(rc.r)
			if err != nil {
				t.Fatal(err)
			}
			head, body, _ := strings.Cut(string(b), "\r\n\r\n")
			lines := strings.Split(head, "\r\n")
			lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "X-Request-Id: ") || l == "Connection: close" })
			slices.Sort(lines[1:])
			if got := strings.Join(lines, "\r\n") + "\r\n\r\n" + body; got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestAnswer_Broken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		app  string
		code router.Code
	}{
		"nothing":       {"", router.AppClosed},
		"half a head":   {"HTTP/1.1 200 OK\r\nContent-", router.AppClosed},
		"not HTTP":      {"220 smtp ready\r\n\r\n", router.AppGarbage},
		"ssh":           {"SSH-2.0-x\n\n", router.AppGarbage},
		"HTTP/2":        {"HTTP/2.0 200 OK\r\n\r\n", router.AppGarbage},
		"folded":        {"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n", router.AppGarbage},
		"two lengths":   {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", router.AppGarbage},
		"length list":   {"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na", router.AppGarbage},
		"minus":         {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", router.AppGarbage},
		"no length":     {"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", router.AppGarbage},
		"coding":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", router.AppGarbage},
		"chunked twice": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", router.AppGarbage},
		"name":          {"HTTP/1.1 200 OK\r\nA B: c\r\n\r\n", router.AppGarbage},
		"NUL":           {"HTTP/1.1 200 OK\r\nA: \x00\r\nContent-Length: 0\r\n\r\n", router.AppGarbage},
		"status":        {"HTTP/1.1 20x OK\r\n\r\n", router.AppGarbage},
		"status 99":     {"HTTP/1.1 099 OK\r\n\r\n", router.AppGarbage},
		"unasked 101":   {"HTTP/1.1 101 OK\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", router.AppGarbage},
		"huge head":     {"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 80<<10) + "\r\n\r\n", router.AppGarbage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, router.Options{})
			g.route(rawApp(t, func(rc *rawConn) {
				_, _ = http.ReadRequest(rc.r)
				_, _ = io.WriteString(rc, c.app)
			}))
			res, body := g.get("/")
			if res.StatusCode != 502 || !strings.Contains(body, res.Header.Get("X-Request-Id")) || res.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%d %v %q", res.StatusCode, res.Header, body)
			}
			if a := g.record(); a.Code != c.code || a.Status != 502 {
				t.Errorf("record %+v", a)
			}
		})
	}
}

// An incomplete answer of the app must not look complete.
func TestAnswer_CutInItsBody(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"length":     "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
		"long":       "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhalf",
		"chunk":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf",
		"last chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"bad chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n",
		"bad size":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+4\r\nhalf\r\n0\r\n\r\n",
		"huge size":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhalf\r\n0\r\n\r\n",
	} {
		for _, reset := range []bool{false, true} {
			t.Run(fmt.Sprint(name, reset), func(t *testing.T) {
				t.Parallel()
				g := start(t, router.Options{})
				g.route(rawApp(t, func(c *rawConn) {
					_, _ = http.ReadRequest(c.r)
					_, _ = io.WriteString(c, answer)
					if reset {
						_ = c.Conn.(*net.TCPConn).SetLinger(0)
					}
				}))
				res, err := g.client.Get("http://blog.test/")
				if err == nil {
					var b []byte
					b, err = io.ReadAll(res.Body)
					res.Body.Close()
					if err == nil && res.StatusCode != 502 {
						t.Errorf("%d %q looks whole", res.StatusCode, b)
					}
					// What arrived is always passed on.
					if want := !strings.HasSuffix(name, "size"); !reset && (res.StatusCode != 200 || want != (string(b) == "half")) {
						t.Errorf("%d %q", res.StatusCode, b)
					}
				} else if !reset {
					t.Errorf("not even the head came: %v", err)
				}
				if a := g.record(); a.Code != router.AppClosed && a.Code != router.AppGarbage {
					t.Errorf("record %+v", a)
				}
			})
		}
	}
}

// A request that could be read as two is refused, or reaches the app as the one that
// net/http has read.
func TestRequest_Smuggling(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	var seen atomic.Int64
	g.route(rawApp(t, func(c *rawConn) {
		for {
			r, err := http.ReadRequest(c.r)
			if err != nil {
				return
			}
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			if r.URL.Path != "/" {
				seen.Add(1)
			}
			if len(r.Header["Content-Length"]) > 0 && len(r.TransferEncoding) > 0 {
				t.Errorf("the app got both framings: %v", r.Header)
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
		}
	}))
	const evil = "GET /evil HTTP/1.1\r\nHost: blog.test\r\n\r\n"
	for name, c := range map[string]struct {
		req    string
		status int // 0: 400
	}{
		"CL and TE":        {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
		"two CL":           {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n" + evil, 0},
		"CL list":          {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 0, 44\r\n\r\n" + evil, 0},
		"CL sign":          {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: +44\r\n\r\n" + evil, 0},
		"TE unknown":       {"POST / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: xchunked\r\n\r\n" + evil, 501},
		"TE twice":         {"POST / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501},
		"blank in name":    {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length : 44\r\n\r\n" + evil, 0},
		"folded":           {"GET / HTTP/1.1\r\nHost: blog.test\r\nX: y\r\n Content-Length: 44\r\n\r\n", 200},
		"no host":          {"GET / HTTP/1.1\r\n\r\n", 0},
		"two hosts":        {"GET / HTTP/1.1\r\nHost: blog.test\r\nHost: other.test\r\n\r\n", 0},
		"NUL":              {"GET / HTTP/1.1\r\nHost: blog.test\r\nX: \x00\r\n\r\n", 0},
		"CR in value":      {"GET / HTTP/1.1\r\nHost: blog.test\r\nX: a\rb\r\n\r\n", 0},
		"method":           {"G@T / HTTP/1.1\r\nHost: blog.test\r\n\r\n", 0},
		"target":           {"GET / /evil HTTP/1.1\r\nHost: blog.test\r\n\r\n", 0},
		"host with space":  {"GET / HTTP/1.1\r\nHost: blog.test evil\r\n\r\n", 0},
		"CONNECT":          {"CONNECT blog.test:80 HTTP/1.1\r\nHost: blog.test\r\n\r\n", 405},
		"absolute":         {"GET http://blog.test HTTP/1.1\r\nHost: other.test\r\n\r\n", 200},
		"long head":        {"GET / HTTP/1.1\r\nHost: blog.test\r\nX: " + strings.Repeat("a", 80<<10) + "\r\n\r\n", 431},
		"h2c upgrade":      {"GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 200},
		"GET with a body":  {fmt.Sprintf("GET / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: %d\r\n\r\n%s", len(evil), evil), 200},
		"Connection: host": {"GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: Host, Content-Length, X-Forwarded-For\r\n\r\n", 200},
	} {
		t.Run(name, func(t *testing.T) {
			c0 := g.conn()
			if _, err := io.WriteString(c0, c.req); err != nil && c.status != 431 {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(c0.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			want := c.status
			if want == 0 {
				want = 400
			}
			if res.StatusCode != want {
				t.Errorf("status %d, want %d", res.StatusCode, want)
			}
			if n := seen.Swap(0); n != 0 {
				t.Errorf("%d smuggled", n)
			}
			// The app's connection is still in sync.
			if r, b := g.get("/"); r.StatusCode != 200 || b != "" {
				t.Errorf("after it: %d %q", r.StatusCode, b)
			}
		})
	}
}

// overTLS also serves g with TLS, and dials.
func (g *rig) overTLS() (dial func() *rawConn) {
	t := g.t
	t.Helper()
	cert := httptest.NewTLSServer(nil)
	cert.Close()
	l := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- g.ServeTLS(ctx, l, &tls.Config{Certificates: cert.TLS.Certificates}) }()
	t.Cleanup(func() {
		cancel()
		if err := receive(t, served, "the end of TLS"); err != nil {
			t.Error(err)
		}
	})
	return func() *rawConn {
		t.Helper()
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return &rawConn{c, bufio.NewReader(c), t}
	}
}

const behind = "GET /evil HTTP/1.1\r\nHost: blog.test\r\n\r\n"

// watched is an app that counts requests that reach /evil.
func watched(g *rig) *atomic.Int64 {
	var evil atomic.Int64
	g.route(app(g.t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/evil" {
			evil.Add(1)
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Header.Get("Content-Length"), b)
	}))
	return &evil
}

// A request on whose end a proxy in front of mesh may disagree is refused with the
// reason, with and without TLS, however it is split. The request before it gets its
// answer, and nothing after it counts as a request.
func TestRequest_DoubtfulFramingIsRefused(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	secure := g.overTLS()
	evil := watched(g)
	for name, c := range map[string]struct{ req, why string }{
		"CL short":        {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both"},
		"CL long":         {"POST / HTTP/1.1\r\nHost: blog.test\r\ncontent-length: 500\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "both"},
		"CL last":         {"GET / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "both"},
		"an unknown host": {"POST / HTTP/1.1\r\nHost: other.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both"},
		"two equal CL":    {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "more than one"},
		"CL sign":         {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: +5\r\n\r\nhello", "not a number"},
		"CL empty":        {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length:\r\n\r\nhello", "not a number"},
		"CL folded":       {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length:\r\n 5\r\n\r\nhello", "not a number"},
		"CL far off":      {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: " + strings.Repeat(" ", 100) + "5\r\n\r\nhello", "not a number"},
		"CL huge":         {"POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 18446744073709551621\r\n\r\nhello", "not a number"},
		"HTTP/1.0":        {"POST / HTTP/1.0\r\nHost: blog.test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", "other than HTTP/1.1"},
		"HTTP/1.0, GET":   {"GET / HTTP/1.0\r\nHost: blog.test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", "other than HTTP/1.1"},
		"bare LF":         {"POST / HTTP/1.1\nHost: blog.test\nX: y\nContent-Length: 5\n\nhello", "without CR"},
		"LF, one":         {"GET / HTTP/1.1\r\nHost: blog.test\r\nX: y\nX-Z: GET /evil\r\n\r\n", "without CR"},
		"LF at the end":   {"GET / HTTP/1.1\r\nHost: blog.test\r\n\n", "without CR"},
		"late preface":    {"GET / HTTP/1.1\r\nHost: blog.test\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"},
		"no preface":      {"PRI * HTTP/2.0\r\nHost: blog.test\r\n\r\n", "HTTP/2"},
	} {
		t.Run(name, func(t *testing.T) {
			const before = "POST /before HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 2\r\n\r\nok"
			for i, dial := range []func() *rawConn{g.conn, secure, g.conn, secure} {
				conn, req := dial(), c.req+behind+behind
				if !strings.HasPrefix(c.req, "PRI") {
					req = before + req
				}
				if i < 2 {
					conn.say(req)
				} else {
					for _, b := range []byte(req) {
						if _, err := conn.Write([]byte{b}); err != nil {
							break // refused already
						}
					}
				}
				answers := 0
				for {
					res, err := http.ReadResponse(conn.r, nil)
					if err != nil {
						t.Fatal(err)
					}
					if b := g.body(res); res.StatusCode == 400 {
						if !res.Close || !strings.Contains(b, c.why) {
							t.Errorf("refused with %q, close %v", b, res.Close)
						}
						break
					}
					answers++
				}
				if want := strings.Count(req, "\nHost: blog.test\r\n\r\nPRI") + strings.Count(req, "/before"); !strings.HasPrefix(c.req, "PRI") && answers != want {
					t.Errorf("%d answers before it, want %d", answers, want)
				}
				if rest, _ := io.ReadAll(conn.r); len(rest) > 0 {
					t.Errorf("behind it came %q", rest)
				}
				if evil.Load() != 0 {
					t.Error("what was behind it went to the app")
				}
			}
		})
	}
}

// The first half of HTTP/2's preface is not a request, nor is what follows it.
func TestRequest_HalfAPreface(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	evil := watched(g)
	for _, dial := range []func() *rawConn{g.conn, g.overTLS()} {
		c := dial()
		c.say("PRI * HTTP/2.0\r\n\r\n" + behind)
		if b, _ := io.ReadAll(c.r); bytes.Contains(b, []byte(" 200 ")) || evil.Load() != 0 {
			t.Errorf("it was answered with %q", b)
		}
	}
}

// A request with a chunked body is the last on its connection, whoever answers it:
// nothing after it counts as a request, with and without TLS.
func TestRequest_ChunksAreTheLast(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{Challenge: func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = io.WriteString(w, "proof")
		return true
	}})
	secure := g.overTLS()
	evil := watched(g)
	for name, req := range map[string]string{
		"empty":           "POST / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET":             "GET / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"an unknown host": "POST / HTTP/1.1\r\nHost: other.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a challenge":     "GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"unknown coding":  "POST / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
		"an old client":   "POST / HTTP/1.0\r\nHost: blog.test\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range []*rawConn{g.conn(), secure()} {
				c.say(req + behind + behind)
				res, err := http.ReadResponse(c.r, nil)
				if err != nil {
					t.Fatal(err)
				}
				b := g.body(res)
				if !res.Close {
					t.Errorf("the client is not told of the end: %d %q", res.StatusCode, b)
				}
				if rest, _ := io.ReadAll(c.r); len(rest) > 0 {
					t.Errorf("behind it came %q", rest)
				}
				if evil.Load() != 0 {
					t.Error("what was behind it went to the app")
				}
			}
		})
	}
	// Old clients that only send GET keep their connection.
	c := g.conn()
	for range 2 {
		c.say("GET / HTTP/1.0\r\nHost: blog.test\r\nConnection: keep-alive\r\n\r\n")
		res, err := http.ReadResponse(c.r, nil)
		if err != nil || res.Close {
			t.Fatalf("%v, %v", res, err)
		}
		g.body(res)
	}
}

// An app that closes idle connections at random: no request fails, and none that
// must not arrives twice.
func TestUpstream_StaleConnections(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	var mu sync.Mutex
	seen := map[string]int{}
	tg := rawApp(t, func(c *rawConn) {
		for {
			if _, err := c.r.Peek(1); err != nil {
				return
			}
			_ = c.SetReadDeadline(time.Time{})
			r, err := http.ReadRequest(c.r)
			if err != nil {
				return
			}
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			mu.Lock()
			seen[r.Method+string(b)]++
			mu.Unlock()
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(rand.N(3 * time.Millisecond)))
		}
	})
	g.route(tg)
	const clients, each = 8, 200
	for _, method := range []string{"PUT", "POST"} { // the first may be repeated, and teach
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				pause := time.NewTimer(0)
				for j := range each {
					<-pause.C
					req, _ := http.NewRequest(method, "http://blog.test/", strings.NewReader(fmt.Sprintf("%d/%d", i, j)))
					res, err := g.client.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					if b := g.body(res); res.StatusCode != 200 {
						t.Errorf("%s: %d %q", method, res.StatusCode, b)
					}
					pause.Reset(rand.N(4 * time.Millisecond))
				}
			})
		}
		wg.Wait()
	}
	if len(seen) != 2*clients*each {
		t.Errorf("the app saw %d requests of %d", len(seen), 2*clients*each)
	}
	for k, n := range seen {
		if n != 1 && strings.HasPrefix(k, "POST") {
			t.Errorf("%s arrived %d times", k, n)
		}
	}
}

// zeros is n bytes, made as they are read.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBody_LongOnesStream(t *testing.T) { // alone: it looks at the heap
	g := start(t, router.Options{})
	const size = 64 << 20
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	var during atomic.Uint64
	before := heap()
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/up", "/up-chunked":
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, r.ContentLength, err)
		case "/down":
			w.Header().Set("Content-Length", strconv.Itoa(size))
			_, _ = io.Copy(w, zeros(size))
		case "/down-chunked":
			_, _ = io.Copy(struct{ io.Writer }{w}, zeros(size))
		}
		during.Store(heap())
	}))
	for _, path := range []string{"/down", "/down-chunked"} {
		res, err := g.client.Get("http://blog.test" + path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if n != size || err != nil || (res.ContentLength == size) != (path == "/down") {
			t.Errorf("%s: %d bytes of %d, %v", path, n, res.ContentLength, err)
		}
		if a := g.record(); a.Bytes != size {
			t.Errorf("%s: %d bytes recorded", path, a.Bytes)
		}
	}
	for _, path := range []string{"/up", "/up-chunked"} {
		req, _ := http.NewRequest("POST", "http://blog.test"+path, zeros(size))
		want := fmt.Sprint(size, -1, nil)
		if path == "/up" {
			req.ContentLength = size
			want = fmt.Sprint(size, size, nil)
		}
		res, err := g.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if b := g.body(res); b != want {
			t.Errorf("%s: %q, want %q", path, b, want)
		}
	}
	if m := int64(during.Load() - before); m > 32<<20 {
		t.Errorf("%d MiB more on the heap", m>>20)
	}
}

func TestBody_BothWaysAtOnce(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(b[:n])
			_ = rc.Flush()
			if err != nil {
				return
			}
		}
	}))
	pr, pw := io.Pipe()
	req, _ := http.NewRequest("POST", "http://blog.test/", pr)
	res, err := g.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		word := fmt.Sprintf("word %d", i)
		_, _ = io.WriteString(pw, word)
		b := make([]byte, len(word))
		if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != word {
			t.Fatalf("%q %v", b, err)
		}
	}
	pw.Close()
	if b := g.body(res); b != "" {
		t.Errorf("left over: %q", b)
	}
}

// An answer that comes before the end of the request ends the upload.
func TestBody_AnsweredEarly(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(rawApp(t, func(c *rawConn) {
		_, _ = http.ReadRequest(c.r)
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c.r)
	}))
	for _, head := range []string{"Content-Length: 10000000\r\n\r\nstart", "Transfer-Encoding: chunked\r\n\r\n5\r\nstart\r\n"} {
		c := g.conn()
		c.say("POST / HTTP/1.1\r\nHost: blog.test\r\n" + head)
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b := g.body(res); res.StatusCode != 413 || b != "big" || !res.Close {
			t.Errorf("%d %q %v", res.StatusCode, b, res.Close)
		}
		if _, err := c.r.ReadByte(); err == nil {
			t.Error("the connection goes on")
		}
		if a := g.record(); a.Status != 413 || a.Code != "" {
			t.Errorf("record %+v", a)
		}
	}
}

func TestBody_BadChunksFromTheClient(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	whole := make(chan bool, 1)
	g.route(app(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		whole <- err == nil
	}))
	c := g.conn()
	c.say("POST / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstart\r\nzz\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 400 ") {
		t.Errorf("got %q", h)
	}
	if receive(t, whole, "the app's view") {
		t.Error("the app took it for whole")
	}
}

// The app's output reaches the client while the app pauses, with any type and
// framing.
func TestBody_FlushedWhenTheAppPauses(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	step := make(chan bool)
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "9")
		} else {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		rc := http.NewResponseController(w)
		for i := range 3 {
			_ = rc.Flush() // the first time: the head alone
			<-step
			fmt.Fprintf(w, "<%d>", i)
		}
	}))
	for _, path := range []string{"/length", "/events"} {
		res, err := g.client.Get("http://blog.test" + path) // returns on the head
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			step <- true
			b := make([]byte, 3)
			if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != fmt.Sprintf("<%d>", i) {
				t.Fatalf("%q %v", b, err)
			}
		}
		g.body(res)
	}
}

func TestBody_Trailers(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Announced")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Announced", string(b)+r.Trailer.Get("X-Sum"))
		w.Header().Set(http.TrailerPrefix+"X-Surprise", r.Trailer.Get("X-Forwarded-For")+"!")
	}))
	req, _ := http.NewRequest("POST", "http://blog.test/", io.MultiReader(strings.NewReader("data")))
	req.Trailer = http.Header{"X-Sum": {"42"}, "X-Forwarded-For": {"spoof"}}
	res, err := g.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b := g.body(res)
	if b != "body" || res.Trailer.Get("X-Announced") != "data42" || res.Trailer.Get("X-Surprise") != "!" || res.Header.Get("X-Announced") != "" {
		t.Errorf("%q %v %v", b, res.Header, res.Trailer)
	}
}

func TestRequest_Continue(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(rawApp(t, func(c *rawConn) {
		for {
			r, err := http.ReadRequest(c.r)
			if err != nil {
				return
			}
			if r.Header.Get("Expect") != "100-continue" {
				t.Errorf("Expect: %q", r.Header.Get("Expect"))
			}
			switch r.URL.Path {
			case "/no":
				_, _ = io.WriteString(c, "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
				if _, err := c.r.ReadByte(); err == nil {
					t.Error("a body that was refused has come")
				}
				return
			case "/yes":
				_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			case "/deaf": // waits for the body without saying so
			}
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
		}
	}))
	for _, path := range []string{"/yes", "/deaf"} {
		c := g.conn()
		for range 2 { // on the same connection
			c.say("POST " + path + " HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
			c.want("HTTP/1.1 100 Continue\r\n\r\n")
			c.say("body")
			if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 200 OK\r\n") {
				t.Fatalf("%s: %q", path, h)
			}
			c.want("body")
		}
	}
	c := g.conn()
	c.say("POST /no HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 403 ") {
		t.Fatalf("got %q", h)
	}
	c.want("no")
}

func TestAnswer_EarlyHints(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(rawApp(t, replies("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nDate: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")))
	var codes []int
	var link string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		codes, link = append(codes, code), h.Get("Link")
		return nil
	}})
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://blog.test/", nil)
	res, err := g.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if b := g.body(res); b != "ok" || !slices.Equal(codes, []int{103}) || link != "</a.css>" || res.Header.Get("Link") != "" || res.Header.Get("Date") != "" {
		t.Errorf("%q, informed %v %q, then %v", b, codes, link, res.Header)
	}
}

func TestAnswer_HEAD(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(rawApp(t, replies("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")))
	for range 3 {
		res, err := g.client.Head("http://blog.test/")
		if err != nil {
			t.Fatal(err)
		}
		if b := g.body(res); res.ContentLength != 12345 || b != "" {
			t.Errorf("%d %q", res.ContentLength, b)
		}
	}
	if s := g.Snapshot(); s[0].Targets[0].Connections != 1 {
		t.Errorf("%+v", s)
	}
}

func TestRequest_ClientGone(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	in, gone := make(chan bool, 1), make(chan bool, 1)
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			_ = http.NewResponseController(w).Flush()
		}
		in <- true
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		gone <- true
	}))
	for _, c := range []struct {
		method, path string
		body         io.Reader
	}{{"GET", "/", nil}, {"POST", "/", strings.NewReader("small")}, {"GET", "/stream", nil}, {"POST", "/", io.MultiReader(zeros(1000))}} {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, c.method, "http://blog.test"+c.path, c.body)
		done := make(chan error, 1)
		go func() {
			res, err := g.client.Do(req)
			if err == nil {
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			done <- err
		}()
		receive(t, in, "the request")
		cancel()
		receive(t, gone, "the app's request to end")
		if err := receive(t, done, "the client's end"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if a := g.record(); a.Code != router.ClientGone {
			t.Errorf("%v: record %+v", c, a)
		}
	}
}

func TestAnswer_FirstByteTimeOut(t *testing.T) {
	t.Parallel()
	const firstByte, longer = time.Second, 1200 * time.Millisecond
	g := start(t, router.Options{FirstByte: firstByte})
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow-end" {
			_ = http.NewResponseController(w).Flush()
			<-time.After(longer) // may take its time once it has begun
			_, _ = io.WriteString(w, "slow")
			return
		}
		<-r.Context().Done()
	}))
	if res, b := g.get("/"); res.StatusCode != 504 || !strings.Contains(b, "in time") {
		t.Errorf("%d %q", res.StatusCode, b)
	}
	if a := g.record(); a.Code != router.AppSlow {
		t.Errorf("record %+v", a)
	}
	if _, b := g.get("/slow-end"); b != "slow" {
		t.Errorf("got %q", b)
	}
	// A stack's own limit overrides it.
	patient := app(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(longer):
			_, _ = io.WriteString(w, "in the end")
		case <-r.Context().Done():
		}
	})
	g.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: []mesh.Target{patient}, FirstByte: time.Minute})
	if res, b := g.get("/"); res.StatusCode != 200 || b != "in the end" {
		t.Errorf("%d %q", res.StatusCode, b)
	}
}

func TestTunnel_WebSocket(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	tg := app(t, func(w http.ResponseWriter, r *http.Request) {
		if ip := r.Header.Get("X-Real-Ip"); ip != "127.0.0.1" {
			t.Errorf("X-Real-Ip: %q", ip)
		}
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		c.SetReadLimit(1 << 20)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				_ = c.Close(websocket.StatusNormalClosure, "")
				return
			}
			_ = c.Write(r.Context(), kind, b)
		}
	})
	g.route(tg)
	c, _, err := websocket.Dial(t.Context(), "ws://blog.test/", &websocket.DialOptions{HTTPClient: g.client})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(1 << 20)
	for _, n := range []int{1, 100, 100_000} {
		msg := bytes.Repeat([]byte("x"), n)
		if err := c.Write(t.Context(), websocket.MessageBinary, msg); err != nil {
			t.Fatal(err)
		}
		if _, b, err := c.Read(t.Context()); err != nil || !bytes.Equal(b, msg) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}
	if s := g.Snapshot(); s[0].Targets[0].InFlight != 1 {
		t.Errorf("snapshot %+v", s)
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	if a := g.record(); a.Status != 101 || a.Code != "" || a.Bytes < 200_000 || a.Instance != tg.Name {
		t.Errorf("record %+v", a)
	}
}

const askUpgrade = "GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: Echo/1\r\n\r\n"

// echoApp upgrades; it sends "early" after its head, and echoes until the client
// ends, when it sends "bye".
func echoApp(c *rawConn) {
	r, err := http.ReadRequest(c.r)
	if err != nil {
		return
	}
	if r.Header.Get("Upgrade") != "Echo/1" || r.Header.Get("Connection") != "Upgrade" {
		c.t.Errorf("asked for %v", r.Header)
	}
	_, _ = io.WriteString(c, "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: Echo/1\r\nX-A: b\r\n\r\nearly")
	_, _ = io.Copy(c.Conn, c.r)
	_, _ = io.WriteString(c, "bye")
}

func TestTunnel_HalfCloseAndEarlyBytes(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(rawApp(t, echoApp))
	c := g.conn()
	c.say(askUpgrade + "first")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 101 Switching Protocols\r\n") || !strings.Contains(h, "Upgrade: Echo/1\r\n") || !strings.Contains(h, "X-A: b\r\n") {
		t.Errorf("head %q", h)
	}
	c.want("earlyfirst")
	c.say("second")
	c.want("second")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c.r); string(b) != "bye" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	g.record()
	until(t, "the connection to go", func() bool { s := g.Snapshot()[0].Targets[0]; return s.Connections == 0 && s.InFlight == 0 })
}

func TestTunnel_CutByDrainAndStop(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{Grace: 50 * time.Millisecond})
	tg := rawApp(t, echoApp)
	for _, by := range []string{"drain", "stop"} {
		g.route(tg)
		c := g.conn()
		c.say(askUpgrade)
		c.head()
		c.want("early")
		if by == "drain" {
			g.route()
			if err := g.Drain(ctxFor(t, time.Minute), tg.ID, 30*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("drain: %v", err)
			}
		} else {
			g.stop()
		}
		if _, err := c.r.ReadByte(); err == nil {
			t.Error("the tunnel goes on")
		}
		if a := g.record(); a.Code != router.Cut || a.Status != 101 {
			t.Errorf("%s: record %+v", by, a)
		}
	}
}

func TestTunnel_Refused(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(rawApp(t, replies("HTTP/1.1 426 Upgrade Required\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nno")))
	c := g.conn()
	for range 2 { // the connection goes on as before
		c.say(askUpgrade)
		if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 426 ") {
			t.Errorf("head %q", h)
		}
		c.want("no")
	}
}

// A client with many pipelined requests in one connection gets the answers in order.
func TestRequest_Pipelined(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s:%s", r.URL.Path, b)
	}))
	c := g.conn()
	c.say("GET /1 HTTP/1.1\r\nHost: blog.test\r\n\r\nPOST /2 HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 1\r\n\r\nxPOST /3 HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n0\r\n\r\n")
	for _, want := range []string{"/1:", "/2:x", "/3:y"} {
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b := g.body(res); b != want {
			t.Errorf("got %q, want %q", b, want)
		}
	}
}

func TestRequest_OldClients(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "part ")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "rest")
	}))
	c := g.conn()
	c.say("GET / HTTP/1.0\r\nHost: blog.test\r\n\r\n")
	b, err := io.ReadAll(c.r)
	if _, body, _ := strings.Cut(string(b), "\r\n\r\n"); err != nil || body != "part rest" {
		t.Errorf("%q %v", b, err)
	}
}

// The digest of a long body is the same on both sides, in whatever pieces it
// arrives.
func TestBody_Intact(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		if r.ContentLength > 0 {
			w.Header().Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
		}
		_, _ = io.CopyBuffer(struct{ io.Writer }{w}, r.Body, make([]byte, 1+rand.IntN(20_000)))
	}))
	for _, n := range []int{0, 1, 8191, 8192, 16 << 10, 16<<10 + 1, 32 << 10, 65 << 10, 1 << 20, 5_000_001} {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		for _, src := range []io.Reader{bytes.NewReader(data), io.MultiReader(bytes.NewReader(data))} {
			res, err := g.client.Post("http://blog.test/", "", src)
			if err != nil {
				t.Fatal(err)
			}
			got := g.body(res)
			if sha256.Sum256([]byte(got)) != sha256.Sum256(data) {
				t.Errorf("%d bytes came back as %d", n, len(got))
			}
		}
	}
}
