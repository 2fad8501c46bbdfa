package router

import (
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// dropped reports whether a request field is not passed on to the app unchanged:
// because it only concerns one connection (RFC 9110, section 7.6.1), because the
// router writes it itself, or because it describes the client in a way that only a
// proxy can. k is in canonical form.
func dropped(k string) bool {
	switch k {
	case "Proxy": // CGI turns it into HTTP_PROXY, which HTTP clients obey (httpoxy, CVE-2016-5385)
		return true
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
		"Host", "Content-Length", "Expect",
		"Forwarded", "X-Real-Ip", "X-Request-Id", "X-Request-Start":
		return true
	}
	return strings.HasPrefix(k, "X-Forwarded-")
}

// claimed reports whether a field is one that other proxies and content networks use
// to tell an app its client or the requested path. From a client it is only a claim
// and is dropped; from a trusted proxy it is passed on.
func claimed(k string) bool {
	switch k {
	case "True-Client-Ip", "Cf-Connecting-Ip", "Cf-Connecting-Ipv6", "Cf-Pseudo-Ipv4", "X-Client-Ip", "X-Cluster-Client-Ip", "Client-Ip", "X-Original-Forwarded-For",
		"Fastly-Client-Ip", "X-Azure-Clientip", "X-Azure-Socketip", "X-Appengine-User-Ip", "Fly-Client-Ip", "X-Envoy-External-Address", "X-Remote-Ip", "X-Remote-Addr", "X-Originating-Ip",
		"X-Original-Url", "X-Rewrite-Url", "X-Original-Host", "X-Host":
		return true
	}
	return false
}

// passes reports whether a field of the request goes to the app. A name with
// underscores counts as the one with hyphens: CGI, WSGI, Rack and PHP cannot
// distinguish X_Forwarded_For from X-Forwarded-For.
func (q *request) passes(k string) bool {
	if strings.IndexByte(k, '_') >= 0 {
		k = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(k, "_", "-"))
	}
	return !dropped(k) && (q.peer.trusted || !claimed(k))
}

// peer is what is known about the sender of a request, and what the app is told
// about it.
type peer struct {
	ip      string // of the client, according to trusted proxies
	trusted bool   // the request came from a trusted proxy
	chain   string // X-Forwarded-For
	proto   string
	host    string
	port    string
	start   string // X-Request-Start, if a trusted proxy has set it
}

// addr is ip, with IPv4 as such and without a zone; invalid, which no rule admits, if
// it is not an address.
func (p *peer) addr() netip.Addr {
	a, err := netip.ParseAddr(p.ip)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

func (r *Router) identify(req *http.Request) peer {
	p := peer{ip: req.RemoteAddr, proto: "http", host: req.Host}
	if req.TLS != nil {
		p.proto = "https"
	}
	if ip, _, err := net.SplitHostPort(req.RemoteAddr); err == nil {
		p.ip = ip
	}
	p.chain = p.ip
	if len(r.opts.Trusted) > 0 && r.trusts(p.ip) {
		p.trusted = true
		r.believe(&p, req.Header)
	}
	if p.port == "" {
		// The port that the client connected to, which differs from the one that
		// mesh listens on if the kernel or a container engine maps ports.
		p.port = hostPort(p.host)
	}
	if p.port == "" {
		p.port = "80"
		if p.proto == "https" {
			p.port = "443"
		}
	}
	return p
}

// believe adopts what a trusted proxy says.
func (r *Router) believe(p *peer, h http.Header) {
	if claimed := strings.Join(h["X-Forwarded-For"], ", "); claimed != "" {
		p.chain = claimed + ", " + p.ip
		// The client is the last one in the chain that is not a trusted proxy.
		hops := strings.Split(claimed, ",")
		for i := len(hops) - 1; i >= 0; i-- {
			hop := textproto.TrimString(hops[i])
			if _, err := netip.ParseAddr(hop); err != nil {
				break
			}
			p.ip = hop
			if !r.trusts(hop) {
				break
			}
		}
	}
	if v := h.Get("X-Forwarded-Proto"); v == "http" || v == "https" {
		p.proto = v
	}
	if v := h.Get("X-Forwarded-Host"); v != "" {
		p.host = v
	}
	if v := h.Get("X-Forwarded-Port"); v != "" && isPort(v) {
		p.port = v
	}
	p.start = h.Get("X-Request-Start")
}

func (r *Router) trusts(ip string) bool {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	for _, p := range r.opts.Trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// requestID keeps a client's id if it is safe to log (^[A-Za-z0-9._-]{8,128}$), and
// otherwise makes one: 128 random bits in hex.
func requestID(h http.Header) string {
	if v := h["X-Request-Id"]; len(v) == 1 && validID(v[0]) {
		return v[0]
	}
	const digits = "0123456789abcdef"
	var b [32]byte
	for i := 0; i < len(b); i += 16 {
		for j, n := 0, rand.Uint64(); j < 16; j, n = j+1, n>>4 {
			b[i+j] = digits[n&15]
		}
	}
	return string(b[:])
}

func validID(s string) bool {
	if len(s) < 8 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// upgrade is the protocol that a request asks to switch to, empty if none. A client
// may not open an h2c tunnel: it could send anything through it, past this router.
func upgrade(r *http.Request) string {
	if r.ProtoMajor != 1 || r.ProtoMinor != 1 || len(r.Header["Upgrade"]) != 1 || r.ContentLength != 0 ||
		!httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") {
		return ""
	}
	u := r.Header["Upgrade"][0]
	if httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "h2c") {
		return ""
	}
	return u
}

func wantsContinue(r *http.Request) bool {
	return r.ContentLength != 0 && len(r.Header["Expect"]) > 0 && httpguts.HeaderValuesContainsToken(r.Header["Expect"], "100-continue")
}

// rawTarget is the request target in origin form (RFC 9112, section 3.2), with the
// path unchanged to the byte: the app interprets it.
func rawTarget(r *http.Request) string {
	t := r.RequestURI
	if t == "" {
		return r.URL.RequestURI() // not from a server: a test
	}
	if t[0] == '/' || t == "*" {
		return t
	}
	_, t, ok := strings.Cut(t, "://")
	if !ok {
		return "/"
	}
	i := strings.IndexAny(t, "/?#")
	switch {
	case i < 0 && r.Method == http.MethodOptions:
		return "*"
	case i < 0:
		return "/"
	case t[i] == '/':
		return t[i:]
	}
	return "/" + t[i:]
}

func appendField(b []byte, k, v string) []byte {
	b = append(b, k...)
	b = append(b, ": "...)
	b = append(b, v...)
	return append(b, "\r\n"...)
}

// oneLine reports whether method and target can be part of an HTTP/1.1 request line.
// In HTTP/2 they are values, of which net/http only checks the target, and not for
// blanks: the app could take part of them for a line of its own (RFC 9113, section
// 10.3).
func oneLine(r *http.Request) bool {
	if r.ProtoMajor == 1 {
		return true // it was a request line already, and net/http has checked it
	}
	if !httpguts.ValidHeaderFieldName(r.Method) || r.RequestURI == "" || r.RequestURI[0] != '/' && r.RequestURI != "*" {
		return false
	}
	for i := range len(r.RequestURI) {
		if c := r.RequestURI[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// maxOptions is more than any client lists in its Connection fields.
const maxOptions = 32

// connectionOptions returns the fields that a client declares as only for this
// connection (RFC 9110, section 7.6.1), in canonical form, without those that are
// never passed on anyway. ok is false if there are too many to compare every field
// with them.
func connectionOptions(values []string) (named []string, ok bool) {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if t = textproto.TrimString(t); t == "" || strings.EqualFold(t, "keep-alive") || strings.EqualFold(t, "close") || strings.EqualFold(t, "upgrade") {
				continue
			}
			if len(named) == maxOptions {
				return nil, false
			}
			named = append(named, textproto.CanonicalMIMEHeaderKey(t))
		}
	}
	return named, true
}

// appendHead writes the head of the request for the app, up to the fields that frame
// its body, without the named ones. net/http has checked names and values.
func (q *request) appendHead(b []byte, named []string) []byte {
	r := q.r
	b = q.appendAddress(b)
	for k, vv := range r.Header {
		if !q.passes(k) || slices.Contains(named, k) {
			continue
		}
		for _, v := range vv {
			b = appendField(b, k, v)
		}
	}
	b = appendField(b, "X-Forwarded-For", q.peer.chain)
	b = appendField(b, "X-Forwarded-Proto", q.peer.proto)
	b = appendField(b, "X-Forwarded-Host", q.peer.host)
	b = appendField(b, "X-Forwarded-Port", q.peer.port)
	b = appendField(b, "X-Real-Ip", q.peer.ip)
	b = appendField(b, "X-Request-Id", q.rec.RequestID)
	if q.peer.start != "" {
		b = appendField(b, "X-Request-Start", q.peer.start)
	} else { // in Heroku's format
		b = append(b, "X-Request-Start: t="...)
		b = strconv.AppendInt(b, q.rec.Time.UnixMilli(), 10)
		b = append(b, "\r\n"...)
	}
	if te := r.Header["Te"]; len(te) > 0 && httpguts.HeaderValuesContainsToken(te, "trailers") {
		b = append(b, "Te: trailers\r\n"...)
	}
	if q.upgrade != "" {
		b = append(b, "Connection: Upgrade\r\n"...)
		b = appendField(b, "Upgrade", q.upgrade)
	}
	return b
}
