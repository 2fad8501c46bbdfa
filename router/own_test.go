package router_test

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"mesh"
	"mesh/router"
)

// The host of the server itself goes to its own handler, but only encrypted, or from this
// machine.
func TestOwnHost(t *testing.T) {
	t.Parallel()
	own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.Copy(w, r.Body)
	})
	g := start(t, router.Options{OwnHost: "mesh.test", Own: own, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	g.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"*.test"}, Targets: []mesh.Target{app(t, text("the wildcard of a stack"))}})
	for name, c := range map[string]struct {
		fields map[string]string
		status int
		want   string
	}{
		"from this machine":            {nil, 418, "body"},
		"encrypted":                    {map[string]string{"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}, 418, "body"},
		"in the clear, from elsewhere": {map[string]string{"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http"}, 403, "served over HTTPS only"},
	} {
		before := g.UnknownHosts()
		req, _ := http.NewRequest(http.MethodPost, "http://MESH.test/x", strings.NewReader("body"))
		for k, v := range c.fields {
			req.Header.Set(k, v)
		}
		res, err := g.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if body := g.body(res); res.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %q", name, res.StatusCode, body)
		}
		if rec := g.record(); rec.Status != c.status || rec.Stack != "" || c.status == 418 && rec.Bytes != 4 {
			t.Errorf("%s: recorded %+v", name, rec)
		}
		if g.UnknownHosts() != before {
			t.Errorf("%s: counted as an unknown host", name)
		}
	}
}
