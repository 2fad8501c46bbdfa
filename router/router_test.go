package router_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

func TestRouter_PassesRequestsOn(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	tg := app(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-App", "yes")
		w.WriteHeader(201)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.RequestURI, r.Host, b)
	})
	g.route(tg)
	res, err := g.client.Post("http://blog.test/a%2Fb//c?x=1&y", "text/x", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := g.body(res), "POST /a%2Fb//c?x=1&y blog.test hello"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if res.StatusCode != 201 || res.Header.Get("X-App") != "yes" {
		t.Errorf("got %v", res)
	}
	a := g.record()
	if a.Stack != "blog" || a.Instance != tg.Name || a.Host != "blog.test" || a.Method != "POST" || a.Path != "/a%2Fb//c" ||
		a.Status != 201 || a.Bytes != 36 || a.Code != "" || a.ClientIP != "127.0.0.1" || len(a.RequestID) != 32 ||
		a.Duration <= 0 || a.Connect <= 0 || a.Time.IsZero() || a.Proto != "HTTP/1.1" {
		t.Errorf("record %+v", a)
	}
}

func TestRouter_HTTP2WithPriorKnowledge(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %s %d %s", r.Proto, r.Host, r.ContentLength, b)
		w.Header().Set("X-Sum", "7")
	}))
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p, DialContext: g.dial}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	for _, body := range []io.Reader{strings.NewReader("abc"), io.MultiReader(strings.NewReader("abc"))} {
		res, err := c.Post("http://blog.test/", "", body)
		if err != nil {
			t.Fatal(err)
		}
		got := g.body(res)
		if res.ProtoMajor != 2 || !strings.HasPrefix(got, "HTTP/1.1 blog.test ") || !strings.HasSuffix(got, " abc") {
			t.Errorf("%s: %q", res.Proto, got)
		}
		if res.Trailer.Get("X-Sum") != "7" {
			t.Errorf("trailer %v", res.Trailer)
		}
	}
}

func TestRouter_Hosts(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	hosts := map[mesh.StackName][]mesh.Host{
		"blog": {"blog.test", "www.example.com", "xn--bcher-kva.example"},
		"wild": {"*.example.com", "*.deep.test"},
		"deep": {"*.b.example.com"},
	}
	for stack, hh := range hosts {
		g.Switch(mesh.Route{Stack: stack, Hosts: hh, Targets: []mesh.Target{app(t, text(string(stack)))}})
	}
	for host, want := range map[string]string{
		"blog.test": "blog", "BLOG.Test": "blog", "blog.test.": "blog", "blog.test:8080": "blog", "blog.test.:80": "blog", "blog.test:": "blog",
		"www.example.com": "blog", "a.example.com": "wild", "a.c.example.com": "wild", "a.b.example.com": "deep", "b.example.com": "wild",
		"example.com": "", "xn--bcher-kva.example": "blog", "XN--BCHER-KVA.example": "blog",
		"blog.test:x": "", "blog.test:123456": "", "blog.test..": "", ".example.com": "", "a..example.com": "", "*.example.com": "",
		"[::1]": "", "[::1]:80": "", "127.0.0.1": "", "other.test": "", "a_b.example.com": "wild", "": "",
	} {
		c := g.conn()
		c.say("GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body := g.body(res)
		if want == "" && (res.StatusCode != 404 && res.StatusCode != 400 || strings.Contains(body, "blog")) || want != "" && body != want {
			t.Errorf("%q: %d %q, want %q", host, res.StatusCode, body, want)
		}
	}
}

func TestRouter_HostsFollowSwitch(t *testing.T) {
	t.Parallel()
	r := router.New(router.Options{Wait: -1})
	ask := func(host string) int {
		req := httptest.NewRequest("GET", "/", nil)
		req.Host = host
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		return w.Code
	}
	want := func(host string, code int) {
		t.Helper()
		if got := ask(host); got != code {
			t.Errorf("%s: %d, want %d", host, got, code)
		}
	}
	r.Switch(mesh.Route{Stack: "a", Hosts: []mesh.Host{"a.test", "x.test", "*.w.test"}})
	want("a.test", 503)
	want("x.test", 503)
	want("1.w.test", 503)
	r.Switch(mesh.Route{Stack: "a", Hosts: []mesh.Host{"a.test"}})
	want("a.test", 503)
	want("x.test", 404)
	want("1.w.test", 404)
	r.Switch(mesh.Route{Stack: "b", Hosts: []mesh.Host{"a.test"}}) // taken
	r.Switch(mesh.Route{Stack: "a", Hosts: []mesh.Host{"y.test"}})
	want("a.test", 503)
	want("y.test", 503)
	r.Remove("b")
	r.Remove("b")
	want("a.test", 404)
	if s := r.Snapshot(); len(s) != 1 || s[0].Stack != "a" || len(s[0].Hosts) != 1 || s[0].Hosts[0] != "y.test" {
		t.Errorf("snapshot %+v", s)
	}
	r.Remove("a")
	want("y.test", 404)
}

// Switches under load: no request fails, none reaches an instance after it was
// drained, and all connections to it are closed.
func TestRouter_SwitchLosesNoRequest(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	type instance struct {
		mesh.Target
		gone atomic.Bool
		late atomic.Int64
		srv  *httptest.Server
	}
	launch := func() *instance {
		in := &instance{}
		in.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if in.gone.Load() {
				in.late.Add(1)
			}
			_, _ = io.Copy(w, r.Body)
		}))
		in.Target = target(in.srv.Listener)
		return in
	}
	now := launch()
	g.route(now.Target)
	ctx, cancel := context.WithCancel(t.Context())
	var sent, failed atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				method, body := "GET", ""
				if i%2 == 0 {
					method, body = "POST", "some body"
				}
				req, _ := http.NewRequest(method, "http://blog.test/", strings.NewReader(body))
				res, err := g.client.Do(req)
				sent.Add(1)
				if err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(b) != body {
					failed.Add(1)
					t.Errorf("%d %q %v", res.StatusCode, b, err)
				}
			}
		})
	}
	for i := range 60 {
		until(t, "some requests", func() bool { return sent.Load() > int64(i*10) })
		next := launch()
		g.route(next.Target)
		if err := g.Drain(ctxFor(t, 10*time.Second), now.ID, time.Minute); err != nil {
			t.Fatalf("drain %d: %v", i, err)
		}
		now.gone.Store(true)
		now.srv.CloseClientConnections()
		now.srv.Close()
		if n := now.late.Load(); n != 0 {
			t.Errorf("%d requests after the drain", n)
		}
		now = next
	}
	cancel()
	wg.Wait()
	now.srv.CloseClientConnections()
	now.srv.Close()
	if failed.Load() != 0 || sent.Load() < 500 {
		t.Errorf("%d of %d failed", failed.Load(), sent.Load())
	}
}

func TestRouter_DrainWaitsForRequestsAndTunnels(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	in, out := make(chan bool, 1), make(chan bool)
	old := app(t, func(w http.ResponseWriter, _ *http.Request) {
		in <- true
		<-out
		_, _ = io.WriteString(w, "old")
	})
	g.route(old)
	if err := g.Drain(t.Context(), old.ID, time.Minute); !errors.Is(err, router.ErrRouted) {
		t.Errorf("drain of a routed target: %v", err)
	}
	if err := g.Drain(t.Context(), "nobody", time.Minute); err != nil {
		t.Errorf("drain of nobody: %v", err)
	}
	got := make(chan string, 1)
	go func() {
		_, b := g.get("/")
		got <- b
	}()
	<-in
	g.route(app(t, text("new")))
	if _, b := g.get("/"); b != "new" {
		t.Errorf("got %q", b)
	}
	drained := make(chan error, 1)
	go func() { drained <- g.Drain(context.Background(), old.ID, time.Minute) }()
	select {
	case <-drained:
		t.Fatal("drained with a request in flight")
	case <-time.After(20 * time.Millisecond):
	}
	close(out)
	if b := receive(t, got, "the answer"); b != "old" {
		t.Errorf("got %q", b)
	}
	if err := receive(t, drained, "the drain's end"); err != nil {
		t.Error(err)
	}
}

func TestRouter_DrainCutsAtItsEnd(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	in, out := make(chan bool, 2), make(chan bool)
	defer close(out)
	old := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			_, _ = io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		}
		in <- true
		select {
		case <-r.Context().Done():
		case <-out:
		}
	})
	g.route(old)
	half, err := g.client.Get("http://blog.test/half")
	if err != nil {
		t.Fatal(err)
	}
	<-in
	status := make(chan int, 1)
	go func() {
		res, _ := g.get("/")
		status <- res.StatusCode
	}()
	<-in
	g.route()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Drain(ctx, old.ID, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("drain: %v", err)
	}
	if s := receive(t, status, "the answer"); s != 503 {
		t.Errorf("status %d", s)
	}
	if _, err := io.ReadAll(half.Body); err == nil {
		t.Error("half an answer looked whole")
	}
	half.Body.Close()
	for range 2 {
		if a := g.record(); a.Code != router.Cut {
			t.Errorf("record %+v", a)
		}
	}
}

func TestRouter_SameTargetKeepsItsConnections(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	var conns atomic.Int64
	tg := rawApp(t, func(c *rawConn) {
		conns.Add(1)
		replies("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(c)
	})
	for range 10 {
		g.route(tg)
		g.get("/")
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if s := g.Snapshot(); s[0].Targets[0].Connections != 1 || s[0].Targets[0].InFlight != 0 {
		t.Errorf("snapshot %+v", s)
	}
	// Restarted, it has the same ID at another address.
	moved := app(t, text("moved"))
	moved.ID = tg.ID
	g.route(moved)
	if _, b := g.get("/"); b != "moved" {
		t.Errorf("got %q", b)
	}
}

func TestRouter_LeastInFlight(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 40} {
		g := start(t, router.Options{})
		in, out := make(chan int, n*4), make(chan bool)
		var tt []mesh.Target
		for i := range n {
			tt = append(tt, app(t, func(http.ResponseWriter, *http.Request) { in <- i; <-out }))
		}
		g.route(tt...)
		var wg sync.WaitGroup
		count := map[int]int{}
		for range n * 2 {
			wg.Go(func() { g.get("/") })
			count[receive(t, in, "a request")]++ // one after the other, so that counts are exact
		}
		for i := range n {
			if c := count[i]; n == 3 && c != 2 || c > 6 {
				t.Errorf("of %d: instance %d got %d", n, i, c)
			}
		}
		close(out)
		wg.Wait()
	}
}

func TestRouter_DeadTargetIsSkipped(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	l := listen(t)
	dead := target(l)
	l.Close()
	g.route(dead, app(t, text("alive")))
	for range 20 {
		res, err := g.client.Post("http://blog.test/", "", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		if b := g.body(res); b != "alive" {
			t.Fatalf("%d %q", res.StatusCode, b)
		}
	}
	aside := false
	for _, s := range g.Snapshot()[0].Targets {
		aside = aside || s.ID == dead.ID && s.SetAside
	}
	if !aside {
		t.Error("the dead target is not set aside")
	}
}

// An instance that accepts no connections makes requests wait; they continue when it
// does, or when another replaces it.
func TestRouter_RefusedConnectionsWait(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	l := listen(t)
	tg := target(l)
	l.Close()
	g.route(tg)
	got := make(chan string, 2)
	ask := func() {
		_, b := g.get("/")
		got <- b
	}
	go ask()
	until(t, "a waiting request", func() bool { return g.Snapshot()[0].Waiting == 1 })
	g.route(app(t, text("new")))
	if b := receive(t, got, "the answer"); b != "new" {
		t.Errorf("got %q", b)
	}
	l2 := listen(t)
	tg2 := target(l2)
	l2.Close()
	g.route(tg2)
	go ask()
	until(t, "a waiting request", func() bool { return g.Snapshot()[0].Waiting == 1 })
	l3, err := new(net.ListenConfig).Listen(t.Context(), "tcp", tg2.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: text("back")}
	go func() { _ = s.Serve(l3) }()
	defer s.Close()
	if b := receive(t, got, "the answer"); b != "back" {
		t.Errorf("got %q", b)
	}
}

func TestRouter_WaitsForAnInstance(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route()
	got := make(chan string, 8)
	for range cap(got) {
		go func() {
			_, b := g.get("/")
			got <- b
		}()
	}
	until(t, "all to wait", func() bool { return g.Snapshot()[0].Waiting == cap(got) })
	g.route(app(t, text("here")))
	for range cap(got) {
		if b := receive(t, got, "an answer"); b != "here" {
			t.Errorf("got %q", b)
		}
	}
	until(t, "none to wait", func() bool { return g.Snapshot()[0].Waiting == 0 })
}

func TestRouter_WaitEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := router.New(router.Options{MaxWaiting: 2})
		r.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}})
		ask := func(ctx context.Context) (w *httptest.ResponseRecorder) {
			defer func() {
				if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // a recovered value
					panic(v)
				}
			}()
			w = httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "http://blog.test/", nil))
			return w
		}
		begin := time.Now()
		first := make(chan *httptest.ResponseRecorder)
		go func() { first <- ask(t.Context()) }()
		ctx, cancel := context.WithCancel(t.Context())
		second := make(chan *httptest.ResponseRecorder)
		go func() { second <- ask(ctx) }()
		synctest.Wait()
		if w := ask(t.Context()); w.Code != 503 || w.Header().Get("Retry-After") == "" || time.Since(begin) != 0 {
			t.Errorf("the third: %d after %v", w.Code, time.Since(begin))
		}
		time.Sleep(time.Second) // of the bubble's clock
		cancel()
		<-second
		if d := time.Since(begin); d != time.Second {
			t.Errorf("the one that left ended after %v", d)
		}
		if w := <-first; w.Code != 503 || w.Header().Get("Retry-After") == "" || time.Since(begin) != 10*time.Second {
			t.Errorf("the first: %d after %v", w.Code, time.Since(begin))
		}
	})
}

func TestRouter_WaitersGoWithTheStack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := router.New(router.Options{})
		r.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}})
		code := make(chan int)
		ask := func() {
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest("GET", "http://blog.test/", nil))
			code <- w.Code
		}
		go ask()
		synctest.Wait()
		r.Remove("blog")
		if c := <-code; c != 404 {
			t.Errorf("removed: %d", c)
		}
		r.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}})
		go ask()
		synctest.Wait()
		begin := time.Now()
		r.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Down: mesh.StoppedStack})
		if c := <-code; c != 503 || time.Since(begin) != 0 {
			t.Errorf("stopped: %d after %v", c, time.Since(begin))
		}
	})
}

func TestRouter_Pages(t *testing.T) {
	t.Parallel()
	r := router.New(router.Options{Wait: -1})
	r.Switch(mesh.Route{Stack: "secret", Hosts: []mesh.Host{"new.test"}, Down: mesh.NotDeployed})
	r.Switch(mesh.Route{Stack: "secret2", Hosts: []mesh.Host{"off.test"}, Down: mesh.StoppedStack})
	r.Switch(mesh.Route{Stack: "secret3", Hosts: []mesh.Host{"soon.test"}})
	for _, c := range []struct {
		host, text string
		code       int
		retry      bool
	}{
		{"new.test", "no release yet", 503, true},
		{"off.test", "stopped", 503, true},
		{"soon.test", "no running instance", 503, true},
		{"none.test", "No app is served", 404, false},
	} {
		for _, accept := range []string{"text/html,application/xhtml+xml", "*/*", ""} {
			req := httptest.NewRequest("GET", "http://"+c.host+"/<script>", nil)
			req.Header.Set("Accept", accept)
			req.Header.Set("X-Request-Id", "my-request-1")
			w := httptest.NewRecorder()
			r.ServeHTTP(w, req)
			b, h := w.Body.String(), w.Header()
			html := strings.HasPrefix(b, "<!doctype html>")
			if w.Code != c.code || !strings.Contains(b, c.text) || !strings.Contains(b, "my-request-1") || html != strings.Contains(accept, "text/html") ||
				strings.Contains(b, "secret") || strings.Contains(b, "script") || h.Get("Cache-Control") != "no-store" || h.Get("X-Request-Id") != "my-request-1" || (h.Get("Retry-After") != "") != c.retry {
				t.Errorf("%s, %q: %d %v\n%s", c.host, accept, w.Code, h, b)
			}
			if !html && strings.Count(b, "\n") != 1 {
				t.Errorf("not one line: %q", b)
			}
		}
	}
}

func TestRouter_ServeEndsGracefully(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{Grace: 2 * time.Second})
	in, out := make(chan bool, 1), make(chan bool)
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		in <- true
		if r.URL.Path == "/never" {
			<-r.Context().Done()
			return
		}
		<-out
		_, _ = io.WriteString(w, "finished")
	}))
	got := make(chan string, 1)
	go func() {
		_, b := g.get("/")
		got <- b
	}()
	<-in
	never := make(chan error, 1)
	go func() {
		res, err := g.client.Get("http://blog.test/never")
		if err == nil {
			res.Body.Close()
		}
		never <- err
	}()
	<-in
	stopped := make(chan bool)
	go func() { g.stop(); close(stopped) }()
	until(t, "the listener to close", func() bool {
		c, err := g.dial(t.Context(), "", "")
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(out)
	if b := receive(t, got, "the answer"); b != "finished" {
		t.Errorf("got %q", b)
	}
	receive(t, stopped, "the end of Serve")
	if err := receive(t, never, "the end of the other"); err == nil {
		t.Error("a request without an end was answered")
	}
}

// A listener that another process takes over: a client that sends on a kept
// connection gets an answer, and learns that the connection closes.
func TestRouter_KeptConnectionsAreToldOfTheEnd(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, text("hello")))
	const req = "POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 2\r\n\r\nhi"
	kept, silent := g.conn(), g.conn()
	for _, c := range []*rawConn{kept, silent} {
		c.say(req)
		if h := c.head(); strings.Contains(h, "Connection: close") {
			t.Fatalf("told at once: %s", h)
		}
		c.want("hello")
	}
	stopped := make(chan bool)
	go func() { g.stop(); close(stopped) }()
	until(t, "the listener to close", func() bool {
		c, err := g.dial(t.Context(), "", "")
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	kept.say(req)
	if h := kept.head(); !strings.HasPrefix(h, "HTTP/1.1 200") || !strings.Contains(h, "Connection: close") {
		t.Errorf("got %s", h)
	}
	kept.want("hello")
	for _, c := range []*rawConn{kept, silent} {
		if _, err := c.r.ReadByte(); err != io.EOF {
			t.Errorf("the connection is not closed in order: %v", err)
		}
	}
	receive(t, stopped, "the end of Serve")
}

func TestRouter_IPv6(t *testing.T) {
	t.Parallel()
	r := router.New(router.Options{})
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Run(ctx) })
	wg.Go(func() {
		if err := r.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	r.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: []mesh.Target{app(t, echoHead)}})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "blog.test"
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || fields(string(b)).Get("X-Forwarded-For") != "::1" {
		t.Errorf("%v: %s", err, b)
	}
}
