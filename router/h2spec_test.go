package router_test

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"

	"mesh"
	"mesh/router"
)

// otherwise lists where net/http differs from h2spec, and why that is acceptable.
var otherwise = map[string]string{
	"Sends invalid connection preface":                                                               "it is a bad HTTP/1.1 request to this port: 400, and closed",
	"Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE":                      "net/http allows 1 MiB, and says so in its SETTINGS; the test sends less",
	"Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                          "a setting that is there twice ends the connection",
	"Sends a HEADERS frame that contains the connection-specific header field":                       "refused with 400 in the place of RST_STREAM",
	"Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": "the same",
}

// The listener is tested with h2spec, the conformance tests of HTTP/2.
func TestHTTP2_Spec(t *testing.T) {
	g := start(t, router.Options{Access: func(*router.AccessRecord) {}})
	g.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"127.0.0.1"}, Targets: []mesh.Target{app(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 100))
	})}})
	addr, err := net.ResolveTCPAddr("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &config.Config{Host: "127.0.0.1", Port: addr.Port, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000}
	passed := 0
	var walk func(*spec.TestGroup)
	walk = func(tg *spec.TestGroup) {
		for _, test := range tg.Tests {
			switch {
			case test.Result == nil || test.Result.Failed && otherwise[test.Desc] != "":
			case test.Result.Failed:
				t.Errorf("%s, %s: %v", tg.Title(), test.Desc, test.Result.Error)
			default:
				passed++
			}
		}
		for _, sub := range tg.Groups {
			walk(sub)
		}
	}
	for _, tg := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		tg.Test(c)
		walk(tg)
	}
	if passed < 100 {
		t.Errorf("only %d tests passed", passed)
	}
}
