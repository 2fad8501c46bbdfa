package router_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"

	"mesh"
	"mesh/router"
)

// A stack's instances get the requests of its hosts from the moment that Switch
// returns, and no others.
func ExampleRouter_Switch() {
	instance := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello from web.1")
	}))
	defer instance.Close()

	r := router.New(router.Options{Wait: -1})
	r.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.example.com"}, Targets: []mesh.Target{{
		ID: "c1", Name: mesh.InstanceName{Service: "web", Slot: 1}, Addr: netip.MustParseAddrPort(strings.TrimPrefix(instance.URL, "http://")),
	}}})
	for _, host := range []string{"blog.example.com", "shop.example.com"} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+host+"/", nil))
		text, _, _ := strings.Cut(w.Body.String(), " (request ")
		fmt.Println(w.Code, text)
	}
	r.Remove("blog")
	// Output:
	// 200 hello from web.1
	// 404 No app is served under this name
}
