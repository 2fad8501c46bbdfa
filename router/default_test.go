package router_test

import (
	"net/http"
	"strings"
	"testing"

	"mesh"
	"mesh/router"
)

// Requests for unknown hosts go to the default route, under its rules.
func TestDefault(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: []mesh.Target{app(t, func(w http.ResponseWriter, r *http.Request) { text("blog for "+r.Host)(w, r) })}})
	get := func(host string) string {
		t.Helper()
		res, err := g.client.Get("http://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(res.Status[:3] + " " + g.body(res))
	}
	if got := get("nowhere.test"); !strings.HasPrefix(got, "404") {
		t.Error(got)
	}
	g.SetDefault("blog.test")
	for _, host := range []string{"nowhere.test", "192.0.2.1", "blog.test"} {
		if got := get(host); got != "200 blog for "+host {
			t.Errorf("%s: %s", host, got)
		}
	}
	if rec := g.record(); rec.Status != 404 {
		t.Errorf("%+v", rec)
	}
	if rec := g.record(); rec.Stack != "blog" || rec.Host != "nowhere.test" {
		t.Errorf("%+v", rec)
	}
	g.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Down: mesh.Maintenance})
	if got := get("nowhere.test"); !strings.HasPrefix(got, "503") {
		t.Error(got)
	}
	g.SetDefault("gone.test")
	if got := get("nowhere.test"); !strings.HasPrefix(got, "404") {
		t.Errorf("of a default that has no route: %s", got)
	}
	g.SetDefault("")
	if got := get("nowhere.test"); !strings.HasPrefix(got, "404") {
		t.Error(got)
	}
}
