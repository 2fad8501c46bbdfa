package router

import (
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// proxied reads the PROXY header, version 1 or 2, that a trusted proxy sends before
// a connection (https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt). A
// trusted proxy may leave it out, as its health checks do. A header from anyone else
// counts as the beginning of a request, and is refused as a malformed one.
func (r *Router) proxied(l net.Listener) net.Listener {
	return &proxyproto.Listener{
		Listener: l, ReadHeaderTimeout: headTime,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if a, err := netip.ParseAddrPort(o.Upstream.String()); err == nil && r.trusts(a.Addr().String()) {
				return proxyproto.USE, nil
			}
			return proxyproto.SKIP, nil
		},
	}
}

// closeWrite ends one direction of a connection, and reports whether it could.
func closeWrite(c net.Conn) bool {
	if p, ok := c.(*proxyproto.Conn); ok {
		c = p.Raw()
	}
	half, ok := c.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}
