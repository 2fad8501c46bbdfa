package router_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/router"
)

// of makes a target one of another service.
func of(service mesh.ServiceName, t mesh.Target) mesh.Target {
	t.Name = mesh.InstanceName{Service: service, Slot: 1}
	return t
}

// names answers with the name of a service and the request target.
func names(service string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, service+" "+r.RequestURI) }
}

func TestEndpoint_LongestPathWins(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.Switch(mesh.Route{
		Stack: "blog", Hosts: []mesh.Host{"blog.test", "api.test", "*.pages.test", "in.pages.test"},
		Endpoints: []mesh.Endpoint{
			{Host: "blog.test", Path: "/api", Service: "api"},
			{Host: "blog.test", Path: "/api/admin", Service: "admin"},
			{Host: "blog.test", Path: "/café", Service: "admin"},
			{Host: "api.test", Path: "/", Service: "api"},
			{Host: "in.pages.test", Path: "/", Service: "admin"},
			{Host: "elsewhere.test", Path: "/", Service: "admin"},
		},
		Targets: []mesh.Target{app(t, names("web")), of("api", app(t, names("api"))), of("admin", app(t, names("admin")))},
	})
	for _, tc := range []struct{ host, path, want string }{
		{"blog.test", "/", "web"},
		{"blog.test", "/api", "api"},
		{"blog.test", "/api?x=/api/admin", "api"},
		{"BLOG.test.:80", "/api/", "api"},
		{"blog.test", "/api/v2", "api"},
		{"blog.test", "/api/admins", "api"},
		{"blog.test", "/api/admin", "admin"},
		{"blog.test", "/api/admin/", "admin"},
		{"blog.test", "/api/%61dmin/x%2Fy", "admin"},
		{"blog.test", "/caf%C3%A9/1", "admin"},
		{"blog.test", "/apis", "web"},
		{"blog.test", "/API", "web"},
		{"blog.test", "//api", "web"},
		{"blog.test", "/v1/api", "web"},
		{"api.test", "/", "api"},
		{"api.test", "/anything/api/admin", "api"},
		{"other.pages.test", "/", "web"},
		{"in.pages.test", "/x", "admin"},
	} {
		c := g.conn()
		c.say("GET " + tc.path + " HTTP/1.1\r\nHost: " + tc.host + "\r\nConnection: close\r\n\r\n")
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b := g.body(res); b != tc.want+" "+tc.path {
			t.Errorf("%s%s: got %q, want %q", tc.host, tc.path, b, tc.want)
		}
	}
	// The other forms of a request target.
	for line, want := range map[string]string{
		"GET http://blog.test/api HTTP/1.1": "api /api", "GET http://api.test HTTP/1.1": "api /",
	} {
		c := g.conn()
		c.say(line + "\r\nHost: blog.test\r\nConnection: close\r\n\r\n")
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b := g.body(res); b != want {
			t.Errorf("%s: got %q", line, b)
		}
	}
	// A service with endpoints on another host only affects no one else.
	c := g.conn()
	c.say("GET / HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 404") {
		t.Errorf("a host that is not the route's: %s", h)
	}
}

// Requests that wait for one service take no place from those for another.
func TestEndpoint_EachServiceHasItsQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := router.New(router.Options{MaxWaiting: 1})
		r.Switch(mesh.Route{
			Stack: "blog", Hosts: []mesh.Host{"blog.test"},
			Endpoints: []mesh.Endpoint{{Host: "blog.test", Path: "/api", Service: "api"}},
		})
		done := make(chan time.Duration, 4)
		ask := func(path string) {
			from := time.Now()
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest("GET", "http://blog.test"+path, nil))
			done <- time.Since(from)
		}
		for _, path := range []string{"/api", "/"} {
			go ask(path)
			synctest.Wait()
			if n := len(done); n != 0 {
				t.Errorf("%s found no place", path)
			}
		}
		if n := r.Snapshot()[0].Waiting; n != 2 {
			t.Errorf("%d wait", n)
		}
		for _, path := range []string{"/api", "/"} {
			ask(path)
			if took := <-done; took != 0 {
				t.Errorf("a second for %s waited %v", path, took)
			}
		}
		for range 2 {
			if took := <-done; took != 10*time.Second {
				t.Errorf("waited %v", took)
			}
		}
	})
}

func TestEndpoint_EachServiceWaitsForItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := router.New(router.Options{})
		route := mesh.Route{
			Stack: "blog", Hosts: []mesh.Host{"blog.test"},
			Endpoints: []mesh.Endpoint{{Host: "blog.test", Path: "/api", Service: "api"}, {Host: "blog.test", Path: "/off", Service: "off"}},
			Idle:      map[mesh.ServiceName]mesh.DownReason{"off": mesh.StoppedStack},
			Down:      mesh.StoppedStack,
		}
		r.Switch(route)
		ask := func(path string) (int, string, time.Duration) {
			from := time.Now()
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest("GET", "http://blog.test"+path, nil))
			return w.Code, w.Body.String(), time.Since(from)
		}
		for _, path := range []string{"/", "/off"} {
			if code, b, took := ask(path); code != 503 || took != 0 {
				t.Errorf("%s, scaled to nothing: %d %q after %v", path, code, b, took)
			}
		}
		if code, _, took := ask("/api"); code != 503 || took != 10*time.Second {
			t.Errorf("/api, no instance: %d after %v", code, took)
		}
		// A request that waits for one service continues when the endpoint is
		// removed from it.
		done := make(chan int)
		go func() {
			code, _, _ := ask("/api")
			done <- code
		}()
		synctest.Wait()
		route.Endpoints = nil
		from := time.Now()
		r.Switch(route)
		if code := <-done; code != 503 || time.Since(from) != 0 {
			t.Errorf("unpublished: %d after %v", code, time.Since(from))
		}
		route.Down, route.Endpoints = mesh.Maintenance, []mesh.Endpoint{{Host: "blog.test", Path: "/api", Service: "api"}}
		r.Switch(route)
		if code, _, took := ask("/api"); code != 503 || took != 0 {
			t.Errorf("maintenance: %d after %v", code, took)
		}
	})
}

// Instances of a published service are replaced under load, with drains, while an
// endpoint moves back and forth between the service and web: no request is lost, and
// none is served by an instance that did not have the endpoint.
func TestEndpoint_SwitchLosesNoRequest(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	web := app(t, names("web"))
	launch := func() (mesh.Target, *httptest.Server) {
		s := httptest.NewServer(names("api"))
		return of("api", target(s.Listener)), s
	}
	lead := func(api mesh.Target, published bool) {
		route := mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: []mesh.Target{web}}
		if published {
			route.Endpoints = []mesh.Endpoint{{Host: "blog.test", Path: "/api", Service: "api"}}
			route.Targets = append(route.Targets, api)
		}
		g.Switch(route)
	}
	now, srv := launch()
	lead(now, true)
	ctx, cancel := context.WithCancel(t.Context())
	var sent atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			path := []string{"/api", "/"}[i%2]
			for ctx.Err() == nil {
				res, err := g.client.Post("http://blog.test"+path, "", strings.NewReader("body"))
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				sent.Add(1)
				if got := string(b); err != nil || res.StatusCode != 200 || path == "/" && got != "web /" || path == "/api" && got != "api /api" && got != "web /api" {
					t.Errorf("%s: %d %q %v", path, res.StatusCode, b, err)
				}
			}
		})
	}
	for i := range 40 {
		until(t, "some requests", func() bool { return sent.Load() > int64(i*10) })
		next, nextSrv := launch()
		if i%4 == 3 {
			lead(now, false)
		}
		lead(next, true)
		if err := g.Drain(ctxFor(t, 10*time.Second), now.ID, time.Minute); err != nil {
			t.Fatalf("drain %d: %v", i, err)
		}
		srv.CloseClientConnections()
		srv.Close()
		now, srv = next, nextSrv
	}
	cancel()
	wg.Wait()
	srv.CloseClientConnections()
	srv.Close()
}

func TestEndpoint_CountedForItsService(t *testing.T) {
	t.Parallel()
	var skew atomic.Int64 // the test's clock
	g := start(t, router.Options{Now: func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }})
	route := mesh.Route{
		Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Endpoints: []mesh.Endpoint{{Host: "blog.test", Path: "/api", Service: "api"}},
		Targets: []mesh.Target{app(t, names("web")), of("api", app(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))},
	}
	g.Switch(route)
	for path, n := range map[string]int{"/": 3, "/api": 2} {
		for range n {
			g.get(path)
			if a := g.record(); (path == "/api") != (a.Instance.String() == "api.1") || !strings.Contains(string(a.AppendLine(nil)), "instance="+a.Instance.String()+" ") {
				t.Errorf("%s: %s", path, a.AppendLine(nil))
			}
		}
	}
	skew.Add(int64(5 * time.Second))
	figures := func() string {
		web, api := g.Minute("blog", "web"), g.Minute("blog", "api")
		all := g.Snapshot()[0].Totals
		return fmt.Sprint(web.Requests, web.Errors, api.Requests, api.Errors, all.Count, all.Status[2], all.Status[5], all.Within[time.Minute])
	}
	if got := figures(); got != "3 0 2 2 5 3 2 5" {
		t.Errorf("got %s", got)
	}
	// Counts stay when the endpoint is removed: counters do not fall.
	route.Endpoints, route.Targets = nil, route.Targets[:1]
	g.Switch(route)
	if got := figures(); got != "3 0 2 2 5 3 2 5" {
		t.Errorf("unpublished: %s", got)
	}
}

// gRPC takes a separate path through the router; it also chooses by the request's
// path.
func TestEndpoint_GRPC(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = io.WriteString(w, "api")
	}))
	s.Config.Protocols = &p
	s.Start()
	t.Cleanup(s.Close)
	g.Switch(mesh.Route{
		Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Endpoints: []mesh.Endpoint{{Host: "blog.test", Path: "/shop.Cart", Service: "api"}},
		Targets: []mesh.Target{app(t, names("web")), of("api", target(s.Listener))},
	})
	tr := &http.Transport{Protocols: &p, DialContext: g.dial}
	t.Cleanup(tr.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://blog.test/shop.Cart/Add", strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if b := g.body(res); b != "api" {
		t.Errorf("got %q", b)
	}
}
