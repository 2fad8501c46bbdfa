package router

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
)

// tunnel is an upgraded connection (RFC 9110, section 7.8), or one on a TCP port: bytes
// both ways, and each direction ends by itself. It outlives the handler, whose stack and
// buffers would cost more than the tunnel, which takes 10 KiB while idle.
type tunnel struct {
	over   func(bytes int64, cut error) // called once, when both directions have ended
	c      *conn
	client net.Conn
	bytes  atomic.Int64
	left   atomic.Int32 // directions still open
	broken atomic.Bool
	ended  chan struct{}
}

// openTunnel passes on the app's "101 Switching Protocols" and starts copying. It
// reports whether there was a tunnel at all; if so, the tunnel ends the request.
func (q *request) openTunnel(c *conn, h http.Header) bool {
	client, rw, err := q.ctl.Hijack()
	if err != nil {
		return false
	}
	var early []byte // what the client sent after its head
	if n := rw.Reader.Buffered(); n > 0 {
		early, _ = rw.Reader.Peek(n)
	}
	if s, ok := client.(interface {
		tunnel() (net.Conn, []byte, bool)
	}); ok {
		// What follows is not a request, and nobody checks it.
		under, held, ok := s.tunnel()
		if !ok {
			_ = client.Close()
			return false
		}
		client, early = under, slices.Concat(early, held)
	}
	t := newTunnel(c, client, func(bytes int64, cut error) {
		q.rec.Bytes = bytes
		if cut != nil {
			q.rec.Code = Cut
		}
		q.finish()
	})
	q.rec.Status = http.StatusSwitchingProtocols
	q.detached = true

	var head strings.Builder
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n")
	_ = h.Write(&head) // a strings.Builder never fails
	head.WriteString("\r\n")
	// What either side sent after its head is already in a buffer.
	_, err = io.WriteString(client, head.String()+string(c.buf[c.r:c.w]))
	if err == nil && len(early) > 0 {
		err = c.send(early)
	}
	// Release what net/http has for the request, including its buffers.
	c.buf, c.out, c.p = nil, nil, nil
	q.w, q.r, q.ctl, q.head = nil, nil, nil, nil
	if err != nil {
		t.broken.Store(true)
		_ = client.Close()
		_ = c.SetDeadline(longAgo)
	}
	go t.copy(client, c.Conn)
	go t.copy(c.Conn, client)
	if q.front == nil { // not served by Serve: nobody else would wait for them
		<-t.ended
	}
	return true
}

// newTunnel makes c one end of a tunnel. Copying has not begun.
func newTunnel(c *conn, client net.Conn, over func(int64, error)) *tunnel {
	t := &tunnel{over: over, c: c, client: client, ended: make(chan struct{})}
	t.left.Store(2)
	c.mu.Lock()
	c.head, c.tun = true, t
	if c.cause != nil {
		_ = client.Close()
	}
	c.mu.Unlock()
	return t
}

// copy moves one direction. Its end only ends that direction; an error ends both.
func (t *tunnel) copy(dst, src net.Conn) {
	err := t.pipe(dst, src)
	if err != nil || !closeWrite(dst) {
		t.broken.Store(true)
		_ = t.client.SetDeadline(longAgo)
		_ = t.c.SetDeadline(longAgo)
	}
	if t.left.Add(-1) > 0 {
		return
	}
	cause := t.c.end()
	_ = t.client.Close()
	t.c.close()
	t.over(t.bytes.Load(), cause)
	close(t.ended)
}

// pipe copies until the end of src. It borrows a buffer only while there are bytes
// to move.
func (t *tunnel) pipe(dst, src net.Conn) error {
	tcp, ok := src.(*net.TCPConn)
	if !ok {
		return t.pipeSmall(dst, src)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var bp *[]byte
	var n int
	var rerr error
	ready := func(fd uintptr) bool {
		bp = buffers.Get().(*[]byte)
		for {
			n, rerr = syscall.Read(int(fd), *bp)
			if rerr == syscall.EINTR {
				continue
			}
			if rerr == syscall.EAGAIN {
				buffers.Put(bp)
				bp = nil
				return false
			}
			return true
		}
	}
	for {
		err := raw.Read(ready)
		if bp == nil {
			return err
		}
		if err == nil {
			err = rerr
		}
		done := err != nil || n <= 0
		if !done {
			var m int
			m, err = dst.Write((*bp)[:n])
			t.bytes.Add(int64(m))
			done = err != nil
		}
		buffers.Put(bp)
		bp = nil
		if done {
			return err
		}
	}
}

// smallPipe is the idle buffer of a connection that is not a plain socket.
const smallPipe = 1 << 10

// pipeSmall is pipe for TLS and for connections with a PROXY header, where only
// reading shows whether there are bytes: a small buffer waits, and a large one takes
// over where it was filled.
func (t *tunnel) pipeSmall(dst, src net.Conn) error {
	small := make([]byte, smallPipe)
	b := small
	var bp *[]byte
	for {
		n, err := src.Read(b)
		if n > 0 {
			m, werr := dst.Write(b[:n])
			t.bytes.Add(int64(m))
			if werr != nil && err == nil {
				err = werr
			}
		}
		switch full := n == len(b); {
		case bp == nil && full && err == nil:
			bp = buffers.Get().(*[]byte)
			b = *bp
		case bp != nil && (!full || err != nil):
			buffers.Put(bp)
			bp, b = nil, small
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
