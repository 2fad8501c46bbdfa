package router_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"mesh"
	"mesh/router"
)

// Links are served to the stack that has them, whatever its host is called elsewhere, and
// to nobody else.
func TestLinks(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{
		PerClient: 1, Secure: func(string) bool { return true },
		Challenge: func(http.ResponseWriter, *http.Request) bool {
			t.Error("a link was asked for a challenge")
			return true
		},
	})
	web, worker := app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "web of blog for "+r.Host) }), app(t, text("worker of blog"))
	worker.Name = mesh.InstanceName{Service: "worker", Slot: 1}
	other := app(t, text("web of other"))
	g.Switch(mesh.Route{
		Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: []mesh.Target{web, worker},
		Doors:  []mesh.Door{{From: "api", As: "blog", Service: "web"}, {From: "api", As: "jobs", Service: "worker"}, {From: "shop", As: "journal", Service: "web"}},
		Access: mesh.AccessRules{Users: []mesh.AccessUser{{Name: "me", Hash: mesh.NewSecret("x")}}},
	})
	g.Switch(mesh.Route{Stack: "other", Hosts: []mesh.Host{"blog", "jobs.test"}, Targets: []mesh.Target{other}})

	inside := func(stack mesh.StackName) *http.Client {
		l := listen(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- g.ServeLinks(ctx, l, stack) }()
		addr := l.Addr().String()
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}}
		t.Cleanup(func() {
			tr.CloseIdleConnections()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return &http.Client{Transport: tr}
	}
	api, shop := inside("api"), inside("shop")
	for _, c := range []struct {
		client *http.Client
		url    string
		status int
		want   string
	}{
		{api, "http://blog:8080/.well-known/acme-challenge/x", 200, "web of blog for blog:8080"},
		{api, "http://BLOG/", 200, "web of blog for BLOG"},
		{api, "http://jobs:8080/a/b", 200, "worker of blog"},
		{api, "http://journal/", 404, "This stack has no link with this name"},
		{api, "http://blog.test/", 404, "This stack has no link with this name"},
		{shop, "http://journal/", 200, "web of blog for journal"},
		{shop, "http://blog/", 404, "This stack has no link with this name"},
	} {
		res, err := c.client.Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		if body := g.body(res); res.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %q, want %d %q", c.url, res.StatusCode, body, c.status, c.want)
		}
	}
	// From outside, no host leads to a link.
	for _, host := range []string{"blog@api", "jobs@api", "blog%40api"} {
		var head []byte
		for try := 0; len(head) == 0 && try < 1000; try++ { // the one before may still count as open
			c := g.conn()
			c.say("GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
			head, _ = io.ReadAll(c.r)
			c.Close()
		}
		if !bytes.Contains(head, []byte(" 404 ")) && !bytes.Contains(head, []byte(" 400 ")) {
			t.Errorf("%s: %s", host, head)
		}
	}
	// A switch that leaves the doors out closes them.
	g.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: []mesh.Target{web}})
	res, err := api.Get("http://blog:8080/")
	if err != nil {
		t.Fatal(err)
	}
	if g.body(res); res.StatusCode != 404 {
		t.Errorf("a closed door: %d", res.StatusCode)
	}
}
