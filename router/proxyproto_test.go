package router_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"mesh/router"
)

func TestProxyProtocol_TellsWhoAsks(t *testing.T) {
	t.Parallel()
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	version2 := func(command proxyproto.ProtocolVersionAndCommand) string {
		h := &proxyproto.Header{
			Version: 2, Command: command, TransportProtocol: proxyproto.TCPv6,
			SourceAddr: tcpAddr("[2001:db8::7]:4711"), DestinationAddr: tcpAddr("[2001:db8::1]:80"),
		}
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const get = "GET / HTTP/1.1\r\nHost: blog.test\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n"
	for name, c := range map[string]struct {
		trusted []netip.Prefix
		sent    string
		want    string // X-Forwarded-For; empty: refused
	}{
		"version 1":              {loopback, "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n" + get, "192.0.2.7"},
		"version 1, IPv6":        {loopback, "PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n" + get, "2001:db8::7"},
		"version 1, unknown":     {loopback, "PROXY UNKNOWN\r\n" + get, "6.6.6.6, 127.0.0.1"},
		"version 2":              {loopback, version2(proxyproto.PROXY) + get, "2001:db8::7"},
		"version 2, own check":   {loopback, version2(proxyproto.LOCAL) + get, "6.6.6.6, 127.0.0.1"},
		"none":                   {loopback, get, "6.6.6.6, 127.0.0.1"},
		"from a stranger":        {[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n" + get, ""},
		"nonsense":               {loopback, "PROXY TCP4 nonsense\r\n" + get, ""},
		"without an end":         {loopback, "PROXY TCP4 " + strings.Repeat("1", 200) + get, ""},
		"cut off, version 2":     {loopback, version2(proxyproto.PROXY)[:20], ""},
		"ports out of the range": {loopback, "PROXY TCP4 192.0.2.7 192.0.2.1 70000 80\r\n" + get, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, router.Options{ProxyProtocol: true, Trusted: c.trusted})
			g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, strings.Join(r.Header["X-Forwarded-For"], "; "))
			}))
			conn := g.conn()
			conn.say(c.sent)
			if c.want == "" {
				_ = conn.Conn.(interface{ CloseWrite() error }).CloseWrite()
				rest, _ := io.ReadAll(conn.r)
				if len(rest) > 0 && !bytes.HasPrefix(rest, []byte("HTTP/1.1 400")) {
					t.Errorf("answered with %q", rest)
				}
				return
			}
			res, err := http.ReadResponse(conn.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := g.body(res); got != c.want {
				t.Errorf("X-Forwarded-For is %q, want %q", got, c.want)
			}
		})
	}
}

// A WebSocket behind a PROXY header: half-closes and early bytes work as without
// one.
func TestProxyProtocol_Tunnel(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{ProxyProtocol: true, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	g.route(rawApp(t, echoApp))
	c := g.conn()
	c.say("PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n" + askUpgrade + "first")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 101") {
		t.Fatal(h)
	}
	c.want("earlyfirst")
	c.say("second")
	c.want("second")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c.r); string(b) != "bye" || err != nil {
		t.Errorf("%q %v", b, err)
	}
}

// Whatever the library accepts as a header, it never reads on forever, nor returns
// an invalid address.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nGET"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x12\x67\x00\x50"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		h, err := proxyproto.Read(r)
		rest, _ := io.ReadAll(r)
		if err != nil {
			return
		}
		if len(rest) >= len(b) {
			t.Errorf("a header of no bytes: %q", b)
		}
		if h.Command == proxyproto.PROXY && h.TransportProtocol.IsStream() && (h.TransportProtocol.IsIPv4() || h.TransportProtocol.IsIPv6()) {
			if _, err := netip.ParseAddrPort(h.SourceAddr.String()); err != nil {
				t.Errorf("%q gives the address %s", b, h.SourceAddr)
			}
		}
	})
}

func tcpAddr(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
