package router_test

import (
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"mesh"
	"mesh/router"
)

func userWith(t testing.TB, name, password string) mesh.AccessUser {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return mesh.AccessUser{Name: name, Hash: mesh.NewSecret(string(hash))}
}

func basicAuth(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// ruled is an app behind rules, on blog.test, and on a redirected and a published host.
// It answers with what it was told.
func ruled(t *testing.T, o router.Options, rules mesh.AccessRules) (*rig, mesh.Route) {
	t.Helper()
	g := start(t, o)
	echo := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "path="+r.URL.Path+" authorization="+strings.Join(r.Header["Authorization"], "|"))
	}
	web, api := app(t, echo), app(t, echo)
	api.Name.Service = "api"
	route := mesh.Route{
		Stack: "blog", Hosts: []mesh.Host{"blog.test", "www.test", "api.test"}, Targets: []mesh.Target{web, api},
		Redirects: map[mesh.Host]mesh.Host{"www.test": "blog.test"},
		Endpoints: []mesh.Endpoint{{Host: "api.test", Path: "/", Service: "api"}, {Host: "blog.test", Path: "/api", Service: "api"}},
		Access:    rules,
	}
	g.Switch(route)
	return g, route
}

func (g *rig) ask(url string, fields ...string) (*http.Response, string) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	res, err := g.client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	return res, g.body(res)
}

func TestAccess_Password(t *testing.T) {
	t.Parallel()
	g, _ := ruled(t, router.Options{}, mesh.AccessRules{Users: []mesh.AccessUser{userWith(t, "me", "pass")}, Except: []string{"/health"}})
	for _, host := range []string{"blog.test", "api.test"} {
		res, body := g.ask("http://"+host+"/x?y=z", "Accept", "text/html")
		if res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") != `Basic realm="`+host+`", charset="UTF-8"` || !strings.Contains(body, "<h1>Password needed</h1>") {
			t.Errorf("%s: %d %v %s", host, res.StatusCode, res.Header, body)
		}
		if a := g.record(); a.Code != router.Unauthorized || a.Stack != "blog" || a.Instance.Service != "" {
			t.Errorf("%s: %+v", host, a)
		}
	}
	for url, want := range map[string]string{
		"http://blog.test/x": "path=/x authorization=", "http://blog.test/api/x": "path=/api/x authorization=", "http://API.test./x": "path=/x authorization=",
	} {
		for range 2 {
			if res, body := g.ask(url, "Authorization", basicAuth("me", "pass")); res.StatusCode != 200 || body != want {
				t.Errorf("%s: %d %q", url, res.StatusCode, body)
			}
		}
		if res, _ := g.ask(url, "Authorization", basicAuth("me", "passé")); res.StatusCode != 401 {
			t.Errorf("%s with a wrong password: %d", url, res.StatusCode)
		}
	}
	// An app that asks for passwords itself gets them where no rule applies.
	if res, body := g.ask("http://blog.test/health", "Authorization", "Bearer x"); res.StatusCode != 200 || body != "path=/health authorization=Bearer x" {
		t.Errorf("excepted: %d %q", res.StatusCode, body)
	}
	if res, _ := g.ask("http://www.test/x"); res.StatusCode != 301 || res.Header.Get("Location") != "http://blog.test/x" {
		t.Errorf("the redirect: %d %v", res.StatusCode, res.Header)
	}
}

// The target as clients may write it, byte for byte.
func TestAccess_RawTargets(t *testing.T) {
	t.Parallel()
	g, _ := ruled(t, router.Options{}, mesh.AccessRules{Users: []mesh.AccessUser{userWith(t, "me", "pass")}, Except: []string{"/health"}})
	for target, want := range map[string]string{
		"/health": "200", "/health/": "200", "/health?x=/../admin": "200", "/%68ealth/x": "200", "http://blog.test/health": "200",
		"/health/../admin": "401", "/health/%2e%2e/admin": "401", "//health": "401", "/health//admin": "401", "/health%2f..%2fadmin": "401", `/health/..\admin`: "401",
		"/health/..;/admin": "401", "/./health": "401", "/admin/../health": "401", "/healthy": "401", "/": "401", "*": "401", "http://blog.test//health": "401", "http://blog.test/health/../x": "401",
		"http://blog.test?/health": "401", "/?/health": "401", "/health%00": "401", "/health/%252e%252e/x": "401",
	} {
		method := "GET"
		if target == "*" {
			method = "OPTIONS"
		}
		c := g.conn()
		c.say(method + " " + target + " HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n")
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 "+want) {
			t.Errorf("%s: %s", target, head)
		}
	}
}

func TestAccess_Addresses(t *testing.T) {
	t.Parallel()
	rules := mesh.AccessRules{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Except: []string{"/health"}}
	g, route := ruled(t, router.Options{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, rules)
	for _, tc := range []struct {
		url, chain string
		want       int
	}{
		{"http://blog.test/", "192.0.2.7", 200},
		{"http://blog.test/", "::ffff:192.0.2.7", 200},
		{"http://blog.test/", "198.51.100.1", 403},
		{"http://blog.test/", "192.0.2.7, 198.51.100.1", 403}, // the first one is only a claim
		{"http://blog.test/", "nonsense", 403},
		{"http://blog.test/api", "198.51.100.1", 403},
		{"http://api.test/", "198.51.100.1", 403},
		{"http://www.test/", "198.51.100.1", 403},
		{"http://www.test/", "192.0.2.7", 301},
		{"http://blog.test/health", "198.51.100.1", 200},
	} {
		res, body := g.ask(tc.url, "X-Forwarded-For", tc.chain, "X-Forwarded-Proto", "http")
		if res.StatusCode != tc.want {
			t.Errorf("%s from %s: %d, want %d", tc.url, tc.chain, res.StatusCode, tc.want)
		}
		if tc.want == 403 && !strings.Contains(body, "does not accept requests from your address") {
			t.Errorf("the page is %q", body)
		}
	}
	route.Access.Allow = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	g.Switch(route)
	if res, _ := g.ask("http://blog.test/", "X-Forwarded-For", "198.51.100.1"); res.StatusCode != 200 {
		t.Errorf("other rules are not in force: %d", res.StatusCode)
	}
	// Nobody else is believed.
	h, _ := ruled(t, router.Options{}, rules)
	if res, _ := h.ask("http://blog.test/", "X-Forwarded-For", "192.0.2.7"); res.StatusCode != 403 {
		t.Errorf("a forged address: %d", res.StatusCode)
	}
}

// The limit tells when to come back, and a deployment does not start it over.
func TestAccess_Limit(t *testing.T) {
	t.Parallel()
	g, route := ruled(t, router.Options{}, mesh.AccessRules{Limit: mesh.Rate{Requests: 2, Per: time.Minute}})
	for i, want := range []int{200, 200, 429, 429} {
		route.Targets = append([]mesh.Target{}, route.Targets...)
		g.Switch(route)
		res, body := g.ask("http://blog.test/")
		if res.StatusCode != want {
			t.Errorf("request %d: %d", i, res.StatusCode)
		}
		if want == 429 && (res.Header.Get("Retry-After") != "30" || !strings.Contains(body, "limited number of requests")) {
			t.Errorf("%v %s", res.Header, body)
		}
	}
	if n := g.Snapshot()[0].Totals.Codes[router.RateLimited]; n != 2 {
		t.Errorf("%d counted", n)
	}
	route.Access.Limit.Requests = 3
	g.Switch(route)
	if res, _ := g.ask("http://blog.test/"); res.StatusCode != 200 {
		t.Errorf("another limit begins with %d", res.StatusCode)
	}
	route.Access = mesh.AccessRules{}
	g.Switch(route)
	for range 5 {
		if res, _ := g.ask("http://blog.test/"); res.StatusCode != 200 {
			t.Errorf("without a limit: %d", res.StatusCode)
		}
	}
}

func TestAccess_TooManyTries(t *testing.T) {
	t.Parallel()
	g, _ := ruled(t, router.Options{}, mesh.AccessRules{Users: []mesh.AccessUser{userWith(t, "me", "pass")}})
	for i := range 11 {
		res, body := g.ask("http://blog.test/", "Authorization", basicAuth("me", strings.Repeat("x", i+1)))
		switch {
		case i < 10 && res.StatusCode != 401:
			t.Errorf("try %d: %d", i, res.StatusCode)
		case i == 10 && (res.StatusCode != 429 || res.Header.Get("Retry-After") == "" || !strings.Contains(body, "too many tries")):
			t.Errorf("try %d: %d %v %s", i, res.StatusCode, res.Header, body)
		}
	}
}

func TestAccess_WebSocketAndHTTP2(t *testing.T) {
	t.Parallel()
	rules := mesh.AccessRules{Users: []mesh.AccessUser{userWith(t, "me", "pass")}}
	g := start(t, router.Options{})
	g.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Access: rules, Targets: []mesh.Target{rawApp(t, func(c *rawConn) {
		r, err := http.ReadRequest(c.r)
		if err != nil {
			return
		}
		if r.Header.Get("Authorization") != "" {
			t.Error("the app sees the password")
		}
		c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
		_, _ = io.Copy(io.Discard, c.r)
	})}})
	const upgrade = "GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	c := g.conn()
	c.say(upgrade + "\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 401 ") {
		t.Errorf("an upgrade without a password: %s", head)
	}
	c = g.conn()
	c.say(upgrade + "Authorization: " + basicAuth("me", "pass") + "\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Errorf("an upgrade with a password: %s", head)
	}
	c.want("hello")
	c.Close()

	h, _ := ruled(t, router.Options{}, rules)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", h.addr)
	}}
	defer tr.CloseIdleConnections()
	h.client.Transport = tr
	for kind, body := range map[string]string{"": "", "application/grpc": "\x00\x00\x00\x00\x00"} {
		for auth, want := range map[string]int{"": 401, basicAuth("me", "wrong"+kind): 401, basicAuth("me", "pass"): 200} {
			if kind != "" && want == 200 {
				continue // the app speaks no HTTP/2
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://blog.test/", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", auth)
			req.Header.Set("Content-Type", kind)
			res, err := h.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if got := h.body(res); res.StatusCode != want || res.ProtoMajor != 2 || want == 200 && got != "path=/ authorization=" {
				t.Errorf("%q %q: %s %d %q", kind, auth, res.Proto, res.StatusCode, got)
			}
		}
	}
}

// Before TLS, a password is not asked for; challenges of mesh need none.
func TestAccess_BeforeTLS(t *testing.T) {
	t.Parallel()
	g, _ := ruled(t, router.Options{
		Secure: func(string) bool { return true },
		Challenge: func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/ours") {
				return false
			}
			_, _ = io.WriteString(w, "token")
			return true
		},
	}, mesh.AccessRules{Users: []mesh.AccessUser{userWith(t, "me", "pass")}, Limit: mesh.Rate{Requests: 1, Per: time.Minute}})
	for range 3 {
		if res, _ := g.ask("http://blog.test/x"); res.StatusCode != 301 || res.Header.Get("Location") != "https://blog.test/x" || res.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("%d %v", res.StatusCode, res.Header)
		}
		if res, body := g.ask("http://blog.test/.well-known/acme-challenge/ours"); res.StatusCode != 200 || body != "token" {
			t.Errorf("the challenge: %d %q", res.StatusCode, body)
		}
	}
}

// Refused requests are counted by themselves, of the service that would have got them.
func TestAccess_Refused(t *testing.T) {
	t.Parallel()
	g, _ := ruled(t, router.Options{}, mesh.AccessRules{Users: []mesh.AccessUser{userWith(t, "me", "pass")}})
	for range 3 {
		_, _ = g.ask("http://blog.test/api")
	}
	_, _ = g.ask("http://blog.test/")
	_, _ = g.ask("http://blog.test/", "Authorization", basicAuth("me", "pass"))
	var web, api mesh.Traffic
	until(t, "the figures of five seconds", func() bool {
		web, api = g.Minute("blog", mesh.Web), g.Minute("blog", "api")
		return web.Requests > 0
	})
	if web.Refused != 1 || web.Requests != 1 || api.Refused != 3 || api.Requests != 0 {
		t.Errorf("web %+v, api %+v", web, api)
	}
}
