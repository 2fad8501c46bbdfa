package router

import (
	"net"
	"net/netip"
	"sync"
)

// gate is a listener that closes connections from an address that has too many. It
// counts them when they are accepted: later, each connection of a flood would cost a
// goroutine and its buffers.
type gate struct {
	net.Listener
	f *front
	r *Router
}

// clients counts the connections by address.
type clients struct {
	mu   sync.Mutex
	open map[netip.Addr]int
}

// Accept returns the next connection that may stay.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g.f.enter(c, g.r) {
			return c, nil
		}
		_ = c.Close()
	}
}

// peerAddr is the address that a TCP connection comes from, without waiting for a
// PROXY header.
func peerAddr(c net.Conn) (netip.Addr, bool) {
	for {
		under, ok := c.(interface{ NetConn() net.Conn }) // TLS
		if !ok {
			break
		}
		c = under.NetConn()
	}
	if under, ok := c.(interface{ Raw() net.Conn }); ok { // PROXY
		c = under.Raw()
	}
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	return tcp.AddrPort().Addr().Unmap(), true
}

// enter counts a connection, if it may stay.
func (f *front) enter(c net.Conn, r *Router) bool {
	a, ok := peerAddr(c)
	if !ok || r.trusts(a.String()) {
		return true
	}
	f.clients.mu.Lock()
	defer f.clients.mu.Unlock()
	if f.clients.open == nil {
		f.clients.open = map[netip.Addr]int{}
	}
	if f.clients.open[a] >= r.opts.PerClient {
		return false
	}
	f.clients.open[a]++
	return true
}

// leave stops counting it.
func (f *front) leave(c net.Conn) {
	a, ok := peerAddr(c)
	if !ok {
		return
	}
	f.clients.mu.Lock()
	defer f.clients.mu.Unlock()
	if n := f.clients.open[a]; n > 1 {
		f.clients.open[a] = n - 1
	} else {
		delete(f.clients.open, a)
	}
}
