package router_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/router"
)

func TestMaintenance_SparesAddresses(t *testing.T) {
	t.Parallel()
	rules := mesh.AccessRules{Deny: []netip.Prefix{netip.MustParsePrefix("192.0.2.66/32")}}
	g, route := ruled(t, router.Options{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, rules)
	route.Down, route.Page = mesh.Maintenance, "<h1>Back at noon</h1>"
	route.Spared = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	g.Switch(route)
	for _, tc := range []struct {
		url, chain string
		want       int
	}{
		{"http://blog.test/", "192.0.2.7", 200},
		{"http://blog.test/", "::ffff:192.0.2.7", 200},
		{"http://blog.test/", "2001:db8::7", 200},
		{"http://blog.test/api", "192.0.2.7", 200},
		{"http://api.test/", "192.0.2.7", 200},
		{"http://blog.test/", "198.51.100.1", 503},
		{"http://blog.test/", "192.0.2.7, 198.51.100.1", 503}, // the first one is only a claim
		{"http://blog.test/", "nonsense", 503},
		{"http://api.test/", "198.51.100.1", 503},
		{"http://blog.test/", "192.0.2.66", 403}, // an access rule
	} {
		res, body := g.ask(tc.url, "X-Forwarded-For", tc.chain, "Accept", "text/html")
		if res.StatusCode != tc.want {
			t.Errorf("%s from %s: %d, want %d", tc.url, tc.chain, res.StatusCode, tc.want)
		}
		if own := body == route.Page; own != (tc.want == 503) {
			t.Errorf("%s from %s: the body is %q", tc.url, tc.chain, body)
		}
	}
	// A gRPC call, which mesh passes on over HTTP/2.
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p, DialContext: g.dial}
	defer tr.CloseIdleConnections()
	route.Targets = []mesh.Target{http2App(t, func(http.ResponseWriter, *http.Request) {})}
	g.Switch(route)
	for from, want := range map[string]int{"127.0.0.1": 503, "192.0.2.7": 200} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://blog.test/a.B/C", http.NoBody)
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("X-Forwarded-For", from)
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if g.body(res); res.StatusCode != want {
			t.Errorf("a call from %s: %d", from, res.StatusCode)
		}
	}
	// Nobody else is believed.
	h, route := ruled(t, router.Options{}, mesh.AccessRules{})
	route.Down, route.Spared = mesh.Maintenance, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	h.Switch(route)
	if res, _ := h.ask("http://blog.test/", "X-Forwarded-For", "192.0.2.7"); res.StatusCode != 503 {
		t.Errorf("a forged address: %d", res.StatusCode)
	}
}

func TestMaintenance_WebSockets(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	route := mesh.Route{
		Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Down: mesh.Maintenance, Spared: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")},
		Targets: []mesh.Target{rawApp(t, func(c *rawConn) {
			if _, err := http.ReadRequest(c.r); err == nil {
				c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
				if line, err := c.r.ReadString('\n'); err == nil {
					c.say(line)
				}
			}
		})},
	}
	g.Switch(route)
	const upgrade = "GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Forwarded-For: "
	c := g.conn()
	c.say(upgrade + "192.0.2.8\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 503 ") {
		t.Errorf("an upgrade in maintenance: %s", head)
	}
	c = g.conn()
	c.say(upgrade + "192.0.2.7\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Errorf("an upgrade of a client that is spared: %s", head)
	}
	c.want("hello")
	route.Spared = nil // what is open continues
	g.Switch(route)
	c.say("still here\n")
	c.want("still here\n")
	c.Close()
}

// Who is spared finds the stack as it is: stopped, or about to have an instance.
func TestMaintenance_SparedFromNothingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := router.New(router.Options{})
		route := mesh.Route{
			Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Down: mesh.Maintenance, Spared: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")},
			Idle: map[mesh.ServiceName]mesh.DownReason{mesh.Web: mesh.StoppedStack},
		}
		ask := func(want string, wait time.Duration) {
			t.Helper()
			from := time.Now()
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://blog.test/", nil)) // from 192.0.2.1
			if took := time.Since(from); w.Code != 503 || !strings.Contains(w.Body.String(), want) || took != wait {
				t.Errorf("%d %q after %v", w.Code, w.Body.String(), took)
			}
		}
		r.Switch(route)
		ask("stopped", 0)
		route.Idle = nil
		r.Switch(route)
		ask("no running instance", 10*time.Second)
		route.Spared = nil
		r.Switch(route)
		ask("being worked on", 0)
	})
}
