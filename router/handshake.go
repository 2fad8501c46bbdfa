package router

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// alpn completes the protocols that are offered to TLS clients (RFC 7301) with those
// that mesh serves.
func alpn(c *tls.Config) *tls.Config {
	c = c.Clone()
	for _, proto := range []string{"http/1.1", "h2"} {
		if !slices.Contains(c.NextProtos, proto) {
			c.NextProtos = slices.Insert(c.NextProtos, 0, proto)
		}
	}
	return c
}

// handshakes is a listener that gives connections with their TLS handshake done: as
// *tls.Conn those that speak HTTP/2, which net/http takes no other way, and the
// others strict. Each handshake has a goroutine, and time until a deadline.
type handshakes struct {
	net.Listener
	config *tls.Config
	time   time.Duration
	failed func(c net.Conn, err error) // told of each that came to nothing; c is closed

	ready chan accepted
	over  chan struct{} // closed when nothing will come any more

	mu      sync.Mutex
	closed  bool
	pending map[net.Conn]struct{}
}

type accepted struct {
	c   net.Conn
	err error
}

// startHandshakes begins to take connections from l. It ends when l does, and the
// handshakes with it: Accept has to be called until it says so.
func startHandshakes(l net.Listener, c *tls.Config, d time.Duration, failed func(net.Conn, error)) *handshakes {
	h := &handshakes{
		Listener: l, config: c, time: d, failed: failed,
		ready: make(chan accepted), over: make(chan struct{}), pending: map[net.Conn]struct{}{},
	}
	go h.run()
	return h
}

func (h *handshakes) run() {
	var wg sync.WaitGroup
	for {
		c, err := h.Listener.Accept()
		if err == nil {
			wg.Go(func() { h.shake(c) })
			continue
		}
		if passing, ok := err.(interface{ Temporary() bool }); ok && passing.Temporary() { // net/http waits, then, before it takes the next
			h.ready <- accepted{err: err}
			continue
		}
		wg.Wait()
		h.ready <- accepted{err: err}
		close(h.over)
		return
	}
}

// Accept gives the next connection whose handshake has been done.
func (h *handshakes) Accept() (net.Conn, error) {
	select {
	case a := <-h.ready:
		return a.c, a.err
	case <-h.over:
		return nil, net.ErrClosed
	}
}

// Close takes no more connections. Handshakes that have begun may end, for a moment:
// whoever has been taken is served.
func (h *handshakes) Close() error {
	err := h.Listener.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.pending {
		_ = c.SetDeadline(time.Now().Add(min(h.time, lingerTime)))
	}
	return err
}

// begin sets the time until which a handshake has to be done.
func (h *handshakes) begin(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.time
	if h.closed {
		d = min(d, lingerTime)
	}
	_ = c.SetDeadline(time.Now().Add(d))
	h.pending[c] = struct{}{}
}

// done lifts it.
func (h *handshakes) done(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pending, c)
	_ = c.SetDeadline(time.Time{})
}

func (h *handshakes) shake(c net.Conn) {
	t := tls.Server(c, h.config)
	h.begin(c)
	err := t.HandshakeContext(context.Background())
	h.done(c)
	if err != nil {
		var plain tls.RecordHeaderError
		if errors.As(err, &plain) && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader) {
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"+
				"Bad Request: this port speaks HTTPS only\n")
			err = errors.New("HTTP without TLS")
		}
		_ = c.Close()
		h.failed(c, err)
		return
	}
	if t.ConnectionState().NegotiatedProtocol == "h2" {
		h.ready <- accepted{c: t}
		return
	}
	h.ready <- accepted{c: &strictTLS{strict: strict{Conn: t}, tls: t}}
}

// looksLikeHTTP tells whether a client's first bytes begin a request of HTTP/1.
func looksLikeHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// strictTLS is a strict connection that net/http knows to be one over TLS.
type strictTLS struct {
	strict
	tls *tls.Conn
}

// ConnectionState is where net/http has Request.TLS from.
func (c *strictTLS) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }
