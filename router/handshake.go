package router

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// alpn adds the protocols that mesh serves to those offered to TLS clients (RFC
// 7301).
func alpn(c *tls.Config) *tls.Config {
	c = c.Clone()
	for _, proto := range []string{"http/1.1", "h2"} {
		if !slices.Contains(c.NextProtos, proto) {
			c.NextProtos = slices.Insert(c.NextProtos, 0, proto)
		}
	}
	return c
}

// handshakes is a listener that returns connections after their TLS handshake: those
// that speak HTTP/2 as *tls.Conn, which is the only form that net/http accepts, and
// the others as strict ones. Each handshake has a goroutine. The client must send
// its part in time; a certificate that is being obtained may take longer.
type handshakes struct {
	net.Listener
	config *tls.Config
	time   time.Duration
	failed func(c net.Conn, err error) // called for each handshake that failed; c is closed

	ctx   context.Context // of all handshakes
	end   context.CancelFunc
	ready chan accepted
	over  chan struct{} // closed when nothing more will come
}

type accepted struct {
	c   net.Conn
	err error
}

// startHandshakes starts to accept connections from l. It ends when l does, and ends
// the handshakes: call Accept until it says so.
func startHandshakes(l net.Listener, c *tls.Config, d time.Duration, failed func(net.Conn, error)) *handshakes {
	if find := c.GetCertificate; find != nil {
		c = c.Clone()
		c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			_ = hello.Conn.SetDeadline(time.Time{})
			cert, err := find(hello)
			_ = hello.Conn.SetDeadline(time.Now().Add(d))
			return cert, err
		}
	}
	h := &handshakes{Listener: l, config: c, time: d, failed: failed, ready: make(chan accepted), over: make(chan struct{})}
	h.ctx, h.end = context.WithCancel(context.Background())
	go h.run()
	return h
}

func (h *handshakes) run() {
	var all sync.WaitGroup
	for {
		c, err := h.Listener.Accept()
		if err == nil {
			all.Go(func() { h.shake(c) })
			continue
		}
		if passing, ok := err.(interface{ Temporary() bool }); ok && passing.Temporary() { // net/http then waits before it accepts the next
			h.ready <- accepted{err: err}
			continue
		}
		// Connections that were accepted are still served, if that does not take
		// long.
		limit := time.AfterFunc(min(h.time, lingerTime), h.end)
		all.Wait()
		limit.Stop()
		h.end()
		h.ready <- accepted{err: err}
		close(h.over)
		return
	}
}

// Accept returns the next connection after its handshake.
func (h *handshakes) Accept() (net.Conn, error) {
	select {
	case a := <-h.ready:
		return a.c, a.err
	case <-h.over:
		return nil, net.ErrClosed
	}
}

func (h *handshakes) shake(c net.Conn) {
	defer func() {
		if v := recover(); v != nil { // like net/http: it ends one connection, not all
			_ = c.Close()
			h.failed(c, fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
		}
	}()
	t := tls.Server(c, h.config)
	_ = c.SetDeadline(time.Now().Add(h.time))
	err := t.HandshakeContext(h.ctx)
	if err != nil {
		var plain tls.RecordHeaderError
		if errors.As(err, &plain) && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader) {
			sayBadRequest(c, "this port speaks HTTPS only")
			err = errors.New("HTTP without TLS")
		}
		_ = c.Close()
		h.failed(c, err)
		return
	}
	_ = c.SetDeadline(time.Time{})
	if t.ConnectionState().NegotiatedProtocol == "h2" {
		h.ready <- accepted{c: t}
		return
	}
	h.ready <- accepted{c: &strictTLS{strict: strict{Conn: t}, tls: t}}
}

// looksLikeHTTP reports whether a client's first bytes begin an HTTP/1 request.
func looksLikeHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// strictTLS is a strict connection that net/http recognizes as one over TLS.
type strictTLS struct {
	strict
	tls *tls.Conn
}

// ConnectionState is where net/http gets Request.TLS from.
func (c *strictTLS) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }
