package egress_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"mesh"
	"mesh/egress"
)

func policy(t *testing.T, names map[string]string, allow ...string) *egress.Policy {
	t.Helper()
	p, err := egress.New(allow)
	if err != nil {
		t.Fatal(err)
	}
	p.Own = func() ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("8.8.4.4"), netip.MustParseAddr("2600::1")}, nil
	}
	p.Lookup = func(_ context.Context, host string) (found []netip.Addr, err error) {
		for s := range strings.FieldsSeq(names[host]) {
			found = append(found, netip.MustParseAddr(s))
		}
		if found == nil {
			return nil, fmt.Errorf("no such host %s", host)
		}
		return found, nil
	}
	return p
}

func TestCheck(t *testing.T) {
	t.Parallel()
	p := policy(t, map[string]string{
		"public.example": "1.1.1.1 2606:4700::1111", "inside.example": "10.1.2.3", "both.example": "1.1.1.1 127.0.0.1", "six.example": "2606:4700::1111 ::1",
		"me.example": "8.8.4.4", "allowed.internal": "192.168.1.1", "nearby.internal": "192.168.1.2",
	}, "172.20.0.0/16", "169.254.1.1", "Allowed.internal", "fd00:1::/32")
	for host, want := range map[string]string{
		"public.example": "", "PUBLIC.example.": "", "1.1.1.1": "", "2606:4700::1111": "", "[2606:4700::1111]": "",
		"172.20.1.1": "", "169.254.1.1": "", "allowed.internal": "", "fd00:1::5": "",
		"127.0.0.1": "the server itself", "127.9.9.9": "the server itself", "::1": "the server itself", "0.0.0.0": "the server itself", "::": "the server itself", "[::1]": "the server itself",
		"::ffff:127.0.0.1": "the server itself", "::ffff:10.0.0.1": "private", "64:ff9b::7f00:1": "the server itself", "64:ff9b::a9fe:a9fe": "link-local", "2002:a00:1::": "private", "::7f00:1": "the server itself",
		"169.254.169.254": "link-local", "fe80::1": "link-local", "fe80::1%eth0": "link-local", "fd00:ec2::254": "private",
		"10.0.0.1": "private", "172.16.0.1": "private", "192.168.0.1": "private", "100.64.0.1": "not a public address", "224.0.0.1": "link-local", "239.1.1.1": "not a public address",
		"255.255.255.255": "not a public address", "198.18.0.1": "not a public address", "0.1.2.3": "not a public address",
		"8.8.4.4": "the server's own address", "2600::1": "the server's own address",
		"inside.example": "private", "both.example": "the server itself", "six.example": "the server itself", "me.example": "the server's own address", "nearby.internal": "private",
	} {
		err := p.Check(t.Context(), host)
		if want == "" && err != nil || want != "" && (!errors.Is(err, mesh.Denied) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", host, err, want)
		}
	}
	if err := p.Check(t.Context(), "gone.example"); !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "the host gone.example cannot be found") {
		t.Error(err)
	}
}

func TestCheck_ZoneIsNoShellCommand(t *testing.T) {
	t.Parallel()
	p := policy(t, nil)
	for _, host := range []string{"2606:4700::1111%';id;'", "[2606:4700::1111%$(id)]", "2606:4700::1111%a b"} {
		if err := p.Check(t.Context(), host); !errors.Is(err, mesh.Invalid) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := p.Check(t.Context(), "2606:4700::1111%eth0"); err != nil {
		t.Error(err)
	}
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"*.example", "10.0.0.0/99", "http://x", "a b", ""} {
		if _, err := egress.New([]string{bad}); !errors.Is(err, mesh.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A name that is public when it is checked and resolves elsewhere afterwards.
func TestDial_NamesThatResolveAnew(t *testing.T) {
	t.Parallel()
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	defer inside.Close()
	_, port, _ := net.SplitHostPort(inside.Listener.Addr().String())
	asked := 0
	p := policy(t, nil)
	p.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		if asked++; asked == 1 {
			return []netip.Addr{netip.MustParseAddr("1.1.1.1")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	if err := p.Check(t.Context(), "rebind.example"); err != nil {
		t.Fatal(err)
	}
	if c, err := p.Dial(t.Context(), "tcp", "rebind.example:"+port); !errors.Is(err, mesh.Denied) {
		t.Errorf("%v, %v", c, err)
	}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "" {
			t.Error("the proxy's password went on")
		}
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "http://secret.example:"+r.URL.Query().Get("port")+"/", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, "from "+r.Host)
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	_, port, _ := net.SplitHostPort(plain.Listener.Addr().String())
	p := policy(t, map[string]string{"ok.example": "127.0.0.1", "secret.example": "127.0.0.1"}, "ok.example")
	at, stop, err := p.Proxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client := func(proxy *url.URL) *http.Client {
		tr := secure.Client().Transport.(*http.Transport).Clone()
		tr.Proxy = http.ProxyURL(proxy)
		tr.TLSClientConfig.ServerName = "example.com"
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	get := func(c *http.Client, u string) string {
		res, err := c.Get(u)
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return fmt.Sprint(res.StatusCode, " ", strings.TrimSpace(string(b)))
	}
	c := client(at)
	if got := get(c, "http://ok.example:"+port+"/"); got != "200 from ok.example:"+port {
		t.Error(got)
	}
	if got := get(c, strings.Replace(secure.URL, "127.0.0.1", "ok.example", 1)); !strings.HasPrefix(got, "200 from ok.example") {
		t.Error(got)
	}
	for _, u := range []string{"http://secret.example:" + port + "/", "http://127.0.0.1:" + port + "/", "http://ok.example:" + port + "/away?port=" + port} {
		if got := get(c, u); !strings.HasPrefix(got, "403 ") || strings.Contains(got, "from") && !strings.Contains(got, "fetch from") {
			t.Errorf("%s: %s", u, got)
		}
	}
	if got := get(c, strings.Replace(secure.URL, "127.0.0.1", "secret.example", 1)); !strings.Contains(got, "Forbidden") {
		t.Error(got)
	}
	stranger := *at
	stranger.User = url.UserPassword("mesh", "guess")
	if got := get(client(&stranger), "http://ok.example:"+port+"/"); !strings.HasPrefix(got, "407 ") {
		t.Error(got)
	}
	stop()
	// A connection that was kept is cut, which its client sees in one way or another.
	if got := get(c, "http://ok.example:"+port+"/"); strings.HasPrefix(got, "200") {
		t.Errorf("it still serves an old connection: %s", got)
	}
	if got := get(client(at), "http://ok.example:"+port+"/"); !strings.Contains(got, "refused") {
		t.Errorf("it still serves: %s", got)
	}
}
