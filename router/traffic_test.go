package router_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"mesh/router"
)

func TestTraffic_OfTheLastMinute(t *testing.T) {
	t.Parallel()
	var skew atomic.Int64 // the test's clock
	g := start(t, router.Options{Now: func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }})
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow": // the clock goes on while it works
			skew.Add(int64(2500 * time.Millisecond))
		case "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	ask := func(path string, n int) {
		for range n {
			g.get(path)
			g.record()
		}
	}
	ask("/", 90)
	ask("/bad", 4)
	ask("/slow", 6)
	skew.Add(int64(5 * time.Second))
	m := g.Minute("blog", "web")
	if m.Requests != 100 || m.Errors != 4 || m.P50 > time.Second || m.P95 != 3*time.Second {
		t.Errorf("%+v", m)
	}
	if other := g.Minute("blog", "worker"); other.Requests != 0 {
		t.Errorf("of another service: %+v", other)
	}
	skew.Add(int64(2 * time.Minute))
	ask("/", 1)
	skew.Add(int64(5 * time.Second))
	if m := g.Minute("blog", "web"); m.Requests != 1 || m.Errors != 0 {
		t.Errorf("two minutes later: %+v", m)
	}
	all := g.Snapshot()[0].Totals
	if all.Status[2] != 97 || all.Status[5] != 4 || all.Count != 101 || all.Within[time.Second] != 95 || all.Seconds < 15 {
		t.Errorf("totals %+v", all)
	}
}

func TestAccessRecord_Line(t *testing.T) {
	t.Parallel()
	a := router.AccessRecord{Method: "GET", Path: "/a\"\n\\é", Host: "blog.test", RequestID: "id", ClientIP: "::1", Status: 404, Bytes: 7, Connect: time.Millisecond, Duration: 5*time.Millisecond + 999*time.Microsecond}
	want := `at=info method=GET path="/a\"\n\\é" host=blog.test request_id=id fwd="::1" instance=- connect=1ms service=5ms status=404 bytes=7`
	if got := string(a.AppendLine(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
