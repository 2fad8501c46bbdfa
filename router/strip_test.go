package router_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"mesh"
	"mesh/router"
)

// seen answers with what the app sees of the path.
func seen(service string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/login")
		w.Header().Set("Set-Cookie", "id=1; Path=/")
		_, _ = io.WriteString(w, service+" "+r.Method+" "+r.RequestURI+" "+strings.Join(r.Header["X-Forwarded-Prefix"], "|"))
	}
}

func stripping(targets ...mesh.Target) mesh.Route {
	return mesh.Route{
		Stack: "blog", Hosts: []mesh.Host{"blog.test"},
		Endpoints: []mesh.Endpoint{
			{Host: "blog.test", Path: "/api", Service: "api", Strip: true},
			{Host: "blog.test", Path: "/api/raw", Service: "api"},
			{Host: "blog.test", Path: "/café/100%", Service: "api", Strip: true},
		},
		Targets: targets,
	}
}

// The app sees the rest of the path to the byte, whatever a client writes.
func TestStrip_EveryByte(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.Switch(stripping(app(t, seen("web")), of("api", app(t, seen("api")))))
	for _, tc := range []struct{ target, want string }{
		{"/api", "api GET / /api"},
		{"/api?x=/api", "api GET /?x=/api /api"},
		{"/api?", "api GET /? /api"},
		{"/api/", "api GET / /api"},
		{"/api/v2/x%2Fy%20z?a=b?c", "api GET /v2/x%2Fy%20z?a=b?c /api"},
		{"/api/api", "api GET /api /api"},
		{"/%61p%69/v%32", "api GET /v%32 /api"},
		{"/api//v2", "api GET //v2 /api"},
		{"/api//", "api GET // /api"},
		{"/api%2Fv2%2fx", "api GET /v2%2fx /api"},
		{"/api%2f", "api GET / /api"},
		{"/api%2F/x", "api GET //x /api"},
		{"/api/../x", "api GET /../x /api"},
		{"/api/%2e%2e/x", "api GET /%2e%2e/x /api"},
		{"/api/%252F", "api GET /%252F /api"},
		{"/api/raw/x", "api GET /api/raw/x "},
		{"/api/raw%2Fx", "api GET /api/raw%2Fx "},
		{"/api/raws", "api GET /raws /api"},
		{"http://blog.test/api/v2?x", "api GET /v2?x /api"},
		{"http://blog.test/api", "api GET / /api"},
		{"/caf%C3%A9/100%25/x", "api GET /x /caf%C3%A9/100%25"},
		{"/caf%c3%a9/1%300%25", "api GET / /caf%C3%A9/100%25"},
		{"/apis", "web GET /apis "},
		{"//api/x", "web GET //api/x "},
		{"/API/x", "web GET /API/x "},
		{"/x/api", "web GET /x/api "},
		{"/", "web GET / "},
	} {
		c := g.conn()
		c.say("GET " + tc.target + " HTTP/1.1\r\nHost: blog.test\r\nX-Forwarded-Prefix: /spoof\r\nX_Forwarded_Prefix: /spoof\r\nConnection: close\r\n\r\n")
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.body(res); got != tc.want {
			t.Errorf("%s: the app sees %q, want %q", tc.target, got, tc.want)
		}
		// What the app answers is not changed.
		if res.Header.Get("Location") != "/login" || res.Header.Get("Set-Cookie") != "id=1; Path=/" {
			t.Errorf("%s: %v", tc.target, res.Header)
		}
		path, _, _ := strings.Cut(strings.TrimPrefix(tc.target, "http://blog.test"), "?")
		if a := g.record(); a.Path != path {
			t.Errorf("%s is logged as %s", tc.target, a.Path)
		}
		c.Close()
	}
	// Bodies, short and streamed, follow the shorter head.
	for _, n := range []int{1, 1000, 1 << 20} {
		h := start(t, router.Options{})
		h.Switch(stripping(of("api", app(t, func(w http.ResponseWriter, r *http.Request) {
			m, _ := io.Copy(io.Discard, r.Body)
			if r.RequestURI != "/up" || m != int64(n) {
				t.Errorf("%s with %d bytes, want %d", r.RequestURI, m, n)
			}
		}))))
		res, err := h.client.Post("http://blog.test/api/up", "text/plain", strings.NewReader(strings.Repeat("x", n)))
		if err != nil {
			t.Fatal(err)
		}
		h.body(res)
	}
}

func TestStrip_WebSocketAndGRPC(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.Switch(stripping(of("api", rawApp(t, func(c *rawConn) {
		r, err := http.ReadRequest(c.r)
		if err == nil {
			c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + r.RequestURI + " " + r.Header.Get("X-Forwarded-Prefix"))
		}
	}))))
	c := g.conn()
	c.say("GET /api/ws%2F?x HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatal(head)
	}
	c.want("/ws%2F?x /api")
	c.Close()

	g.Switch(stripping(of("api", http2App(t, seen("api")))))
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p, DialContext: g.dial}
	defer tr.CloseIdleConnections()
	for path, want := range map[string]string{
		"/api/shop.Cart/Add": "/shop.Cart/Add /api", "/api/a%2Fb/C?x=y": "/a%2Fb/C?x=y /api", "/api": "/ /api", "/api//C": "//C /api", "/api%2FC": "/C /api",
		"/%61pi/C": "/C /api", "/api/raw/C": "/api/raw/C ", "/caf%C3%A9/100%25/%C3%A9": "/%C3%A9 /caf%C3%A9/100%25",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://blog.test"+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("X-Forwarded-Prefix", "/spoof")
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.body(res); got != "api POST "+want {
			t.Errorf("%s: the app sees %q, want %q", path, got, want)
		}
	}
}

// A request that waits for an instance goes where the endpoint leads when there is one.
func TestStrip_ChangesWhileARequestWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		accepted := make(chan net.Conn, 1)
		r := router.New(router.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, app := net.Pipe()
			accepted <- app
			return ours, nil
		}})
		api := mesh.Target{ID: "api", Name: mesh.InstanceName{Service: "api", Slot: 1}, Addr: netip.MustParseAddrPort("192.0.2.9:80")}
		ask := func(change func(*mesh.Route)) string {
			route := stripping()
			r.Switch(route)
			got := make(chan string)
			go func() {
				w := httptest.NewRecorder()
				r.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "http://blog.test/api/v2?x", strings.NewReader("the body")))
				got <- w.Body.String()
			}()
			synctest.Wait()
			change(&route)
			r.Switch(route)
			app := <-accepted
			defer app.Close()
			req, err := http.ReadRequest(bufio.NewReader(app))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(req.Body)
			_, _ = io.WriteString(app, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
			if answer := <-got; answer != "ok" {
				t.Errorf("answer %q", answer)
			}
			return req.RequestURI + " " + strings.Join(req.Header["X-Forwarded-Prefix"], "|") + " " + req.Host + " " + string(body)
		}
		there := func(mr *mesh.Route) { mr.Targets = []mesh.Target{api} }
		if got := ask(there); got != "/v2?x /api blog.test the body" {
			t.Errorf("unchanged: %q", got)
		}
		if got := ask(func(mr *mesh.Route) { there(mr); mr.Endpoints[0].Strip = false }); got != "/api/v2?x  blog.test the body" {
			t.Errorf("no longer stripped: %q", got)
		}
		if got := ask(func(mr *mesh.Route) {
			there(mr)
			mr.Endpoints[0] = mesh.Endpoint{Host: "blog.test", Path: "/", Service: "api"}
		}); got != "/api/v2?x  blog.test the body" {
			t.Errorf("published elsewhere: %q", got)
		}
	})
}
