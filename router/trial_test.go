package router_test

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"mesh"
	"mesh/router"
)

// tried is an app with an old and a new release, whose answers say which they are.
func tried(t *testing.T) (*rig, mesh.Route) {
	t.Helper()
	g := start(t, router.Options{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	side := func(name string) mesh.Target {
		return app(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/static" {
				w.Header().Set("Cache-Control", "public, max-age=60")
			}
			if r.URL.Path == "/own" {
				http.SetCookie(w, &http.Cookie{Name: "mine", Value: "1"})
			}
			if r.URL.Path == "/bad" && name == "new" {
				w.WriteHeader(http.StatusInternalServerError)
			}
			_, _ = io.WriteString(w, name)
		})
	}
	was, next := side("old"), side("new")
	route := mesh.Route{
		Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: []mesh.Target{was},
		Trial: &mesh.Trial{Release: 2, Targets: []mesh.Target{next}, Share: 0.1},
	}
	g.Switch(route)
	return g, route
}

func client(n int) string { return fmt.Sprintf("198.51.%d.%d", n/250, n%250) }

func TestTrial_ShareOfClients(t *testing.T) {
	t.Parallel()
	g, route := tried(t)
	before := map[int]bool{} // the clients that got the new release
	for _, share := range []float64{0.1, 0.5, 0.9} {
		trial := *route.Trial
		trial.Share = share
		route.Trial = &trial
		g.Switch(route)
		now := map[int]bool{}
		const clients = 600
		for n := range clients {
			_, body := g.ask("http://blog.test/", "X-Forwarded-For", client(n))
			now[n] = body == "new"
			if before[n] && !now[n] {
				t.Errorf("at %v, client %d was taken back to the old release", share, n)
			}
			if _, again := g.ask("http://blog.test/", "X-Forwarded-For", client(n)); again != body {
				t.Errorf("client %d got %s, then %s", n, body, again)
			}
		}
		got := 0
		for _, is := range now {
			if is {
				got++
			}
		}
		if want := share * clients; float64(got) < want-0.06*clients || float64(got) > want+0.06*clients {
			t.Errorf("%d of %d clients got the new release, want %v", got, clients, want)
		}
		before = now
	}
}

// A client with a cookie stays on its side, whatever its address.
func TestTrial_Cookie(t *testing.T) {
	t.Parallel()
	g, _ := tried(t)
	sides := map[string]string{} // a cookie of each side
	for n := 0; len(sides) < 2; n++ {
		res, body := g.ask("http://blog.test/own", "X-Forwarded-For", client(n))
		set := res.Header["Set-Cookie"]
		if len(set) != 2 || !strings.HasPrefix(set[1], "mesh-canary=") || !strings.Contains(set[1], "HttpOnly") {
			t.Fatalf("the cookies are %q", set)
		}
		cookie, _, _ := strings.Cut(set[1], ";")
		sides[body] = cookie
	}
	for want, cookie := range sides {
		for n := range 30 {
			res, body := g.ask("http://blog.test/", "X-Forwarded-For", client(n), "Cookie", "other=1; "+cookie)
			if body != want || len(res.Header["Set-Cookie"]) > 0 {
				t.Fatalf("%s with %s: %s, %q", client(n), cookie, body, res.Header["Set-Cookie"])
			}
		}
	}
	for _, forged := range []string{"mesh-canary=x", "mesh-canary=-1", "mesh-canary=10000", "mesh-canary=99999999999999999999"} {
		if res, _ := g.ask("http://blog.test/", "Cookie", forged); len(res.Header["Set-Cookie"]) != 1 {
			t.Errorf("%s was taken", forged)
		}
	}
	if res, _ := g.ask("http://blog.test/static"); len(res.Header["Set-Cookie"]) > 0 {
		t.Error("an answer for caches has a client's cookie")
	}
}

func TestTrial_Compare(t *testing.T) {
	t.Parallel()
	g, route := tried(t)
	trial := *route.Trial
	trial.Share = 0.5
	route.Trial = &trial
	g.Switch(route)
	got := map[string]uint64{}
	for n := range 100 {
		_, body := g.ask("http://blog.test/bad", "X-Forwarded-For", client(n))
		got[body]++
	}
	var c mesh.Comparison
	until(t, "all requests count", func() bool { // each does when its handler has returned
		c, _ = g.Compare("blog")
		return c.Old.Requests()+c.New.Requests() == 100
	})
	if c.New.Requests() != got["new"] || c.New.Status[5] != got["new"] || c.Old.Requests() != got["old"] || c.Old.Status[2] != got["old"] || c.New.Latency.Count() != got["new"] {
		t.Errorf("compared %+v, want %v", c, got)
	}
	if why := c.Worse(); !strings.Contains(why, "100% of") || !strings.Contains(why, "the old one 0%") {
		t.Errorf("it is worse because %q", why)
	}
	g.Switch(route) // another target, another share: the same trial
	if c, _ := g.Compare("blog"); c.New.Requests() != got["new"] {
		t.Error("a change of the route loses the figures")
	}
	trial.Release = 3
	g.Switch(route)
	if c, _ := g.Compare("blog"); c.New.Requests() != 0 {
		t.Error("another release begins with the figures of the one before")
	}
	route.Trial = nil
	g.Switch(route)
	if _, ok := g.Compare("blog"); ok {
		t.Error("a trial that is over has figures")
	}
}

// Nobody waits for a new instance that does not answer.
func TestTrial_DeadInstance(t *testing.T) {
	t.Parallel()
	g, route := tried(t)
	trial := *route.Trial
	trial.Share, trial.Targets = 0.9, []mesh.Target{{ID: "dead", Name: mesh.InstanceName{Service: "web", Slot: 1}, Addr: netip.MustParseAddrPort("127.0.0.1:1")}}
	route.Trial = &trial
	g.Switch(route)
	for n := range 50 {
		if res, body := g.ask("http://blog.test/", "X-Forwarded-For", client(n)); res.StatusCode != http.StatusOK || body != "old" {
			t.Fatalf("client %d: %s %s", n, res.Status, body)
		}
	}
	trial.Targets = nil
	g.Switch(route)
	if res, body := g.ask("http://blog.test/"); res.StatusCode != http.StatusOK || body != "old" {
		t.Errorf("without instances: %s %s", res.Status, body)
	}
}

func TestTrial_HostWithPass(t *testing.T) {
	t.Parallel()
	g, route := tried(t)
	trial := *route.Trial
	trial.Share, trial.Host, trial.Pass = 0, "v2--blog.test", mesh.NewSecret("s3same")
	route.Trial = &trial
	g.Switch(route)
	if _, body := g.ask("http://blog.test/"); body != "old" {
		t.Errorf("the stack itself answers %s", body)
	}
	for _, c := range [][]string{{""}, {"?mesh-pass=wrong"}, {"?mesh-pass="}, {"", "Cookie", "mesh-pass=wrong"}} {
		if res, body := g.ask("http://v2--blog.test/x"+c[0], c[1:]...); res.StatusCode != http.StatusForbidden || !strings.Contains(body, "not public") {
			t.Errorf("%q: %s %s", c, res.Status, body)
		}
	}
	res, _ := g.ask("http://v2--blog.test/x%2Fy?a=1&mesh-pass=s3same&b=2")
	set := strings.Join(res.Header["Set-Cookie"], " ")
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/x%2Fy?a=1&b=2" || !strings.HasPrefix(set, "mesh-pass=s3same;") {
		t.Fatalf("the link: %s, %q, %q", res.Status, res.Header.Get("Location"), set)
	}
	if res, _ := g.ask("http://v2--blog.test//evil.example/?mesh-pass=s3same"); res.Header.Get("Location") != "/evil.example/" {
		t.Errorf("a link to elsewhere leads to %q", res.Header.Get("Location"))
	}
	if res, body := g.ask("http://v2--blog.test/", "Cookie", "mesh-pass=s3same"); res.StatusCode != http.StatusOK || body != "new" {
		t.Errorf("with the cookie: %s %s", res.Status, body)
	}
	route.Trial = nil
	g.Switch(route)
	if res, _ := g.ask("http://v2--blog.test/", "Cookie", "mesh-pass=s3same"); res.StatusCode != http.StatusNotFound {
		t.Errorf("when the trial is over: %s", res.Status)
	}
}
