package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// The client side: HTTP/1.1 to the instances, written by the goroutine that handles
// the request. Unlike http.Transport, it has no goroutine and no timer per
// connection; one sweeper (Router.Run) ends what takes too long or what nobody waits
// for any more. This costs half the CPU time of a tuned httputil.ReverseProxy.

const (
	headLimit  = 64 << 10         // of an answer's head, and of a request's
	connBuffer = 8 << 10          // kept per connection
	maxIdle    = 512              // connections kept per target
	idleFor    = 60 * time.Second // how long a connection is kept
)

// Why an exchange with an instance failed.
var (
	errStale   = errors.New("the connection ended before any byte of an answer")
	errGarbage = errors.New("the answer is not HTTP")
	errGone    = errors.New("the client left")
	errSlow    = errors.New("the app did not begin its answer in time")
	errCut     = errors.New("the instance had to stop")
	errStop    = errors.New("the router stops")
	errLost    = errors.New("the instance's machine does not answer")
)

// longAgo is a time in the past: as a deadline it ends reads and writes at once.
var longAgo = time.Unix(1, 0)

// conn is a connection to an instance. One goroutine uses it at a time, besides the
// one that sends a long body; the sweeper and cut only call abort.
type conn struct {
	net.Conn
	target *target
	ep     *endpoint
	tcp    *net.TCPConn    // nil if Options.Dial returned something else
	raw    syscall.RawConn // of tcp

	buf       []byte
	r, w      int   // buf[r:w] has been read from the connection and not used yet
	written   int64 // bytes of all requests so far
	before    int64 // written, when the current request began
	idleSince time.Duration

	// For read, which flushes the answer before it waits.
	out   flusher
	dirty bool // the client has not been sent everything that was written to it
	p     []byte
	n     int
	err   error
	ready func(fd uintptr) bool // made once: closures cost an allocation

	mu       sync.Mutex      // guards the fields below
	ctx      context.Context // of the current request; nil: none
	wave     *wave           // that the request belongs to
	moved    time.Duration   // when the request began, or its body last moved
	patience time.Duration   // after moved, for the head of the answer
	head     bool            // the head of the answer has arrived: the rest may take its time
	tun      *tunnel
	cause    error // why it was aborted
}

type flusher interface{ FlushError() error }

// dial makes a new connection to the target.
func (r *Router) dial(ctx context.Context, t *target) (*conn, error) {
	ep := t.ep.Load()
	ctx, cancel := context.WithTimeout(ctx, r.opts.DialTimeout)
	defer cancel()
	nc, err := r.opts.Dial(ctx, "tcp", ep.text)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, target: t, ep: ep, buf: make([]byte, connBuffer)}
	if tcp, ok := nc.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			c.tcp, c.raw, c.ready = tcp, raw, c.readNow
		}
	}
	t.mu.Lock()
	if t.conns == nil {
		t.conns = map[*conn]struct{}{}
	}
	t.conns[c] = struct{}{}
	t.open.Store(int64(len(t.conns)))
	t.mu.Unlock()
	return c, nil
}

// safeIdle is how long a connection counts as new, at first: no server in use closes
// one that has been idle for less than 2 s.
const safeIdle = time.Second

// pooled returns a kept connection that its instance has not closed, or nil.
//
// All apps close idle connections, and a close can cross with a request on its way.
// A request that may be repeated is then sent again. For others, a connection is
// used only while the app is unlikely to close it: when it has been idle for less
// than a second, and less than a quarter of the time after which others were found
// closed. A new connection costs 50 us; with nginx and the usual proxies up to 6 %
// of such POSTs fail.
func (t *target) pooled(repeatable bool, now time.Duration) *conn {
	for {
		t.mu.Lock()
		n := len(t.idle)
		if n == 0 || !repeatable && now-t.idle[n-1].idleSince > time.Duration(t.safe.Load()) {
			t.mu.Unlock()
			return nil
		}
		c := t.idle[n-1]
		t.idle[n-1] = nil
		t.idle = t.idle[:n-1]
		t.mu.Unlock()
		if c.alive() {
			return c
		}
		t.learn(now - c.idleSince)
		c.close()
	}
}

// learn records that the app closed a connection within the given time.
func (t *target) learn(idle time.Duration) {
	for {
		safe := t.safe.Load()
		if int64(idle/4) >= safe || t.safe.CompareAndSwap(safe, int64(idle/4)) {
			return
		}
	}
}

// keep puts back a connection whose answer has been read to the end.
func (c *conn) keep(now time.Duration) {
	if c.r != c.w {
		c.close() // more than the answer: the instance has lost count
		return
	}
	c.r, c.w = 0, 0
	if len(c.buf) > connBuffer {
		c.buf = make([]byte, connBuffer)
	}
	c.out, c.p, c.idleSince = nil, nil, now
	t := c.target
	t.mu.Lock()
	ok := !t.closed && len(t.idle) < maxIdle && c.ep.addr == t.ep.Load().addr
	if ok {
		t.idle = append(t.idle, c)
	}
	t.mu.Unlock()
	if !ok {
		c.close()
	}
}

func (c *conn) close() {
	t := c.target
	t.mu.Lock()
	delete(t.conns, c)
	t.open.Store(int64(len(t.conns)))
	t.mu.Unlock()
	_ = c.Conn.Close() // there is nothing to learn from it
}

// begin registers the connection with the sweeper.
func (c *conn) begin(ctx context.Context, w *wave, now, patience time.Duration) {
	c.before = c.written
	c.mu.Lock()
	c.ctx, c.wave, c.moved, c.patience, c.head = ctx, w, now, patience, false
	c.mu.Unlock()
}

// progress tells the sweeper that the request's body moves.
func (c *conn) progress(now time.Duration) {
	c.mu.Lock()
	c.moved = now
	c.mu.Unlock()
}

func (c *conn) gotHead() {
	c.mu.Lock()
	c.head = true
	c.mu.Unlock()
}

// end unregisters it, and returns the reason why the exchange was aborted, if it
// was. After a nil nobody aborts it any more.
func (c *conn) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ctx, c.wave, c.tun = nil, nil, nil
	return c.cause
}

// abort makes all reads and writes on the connection fail from now on. It does
// nothing if there is no current request.
func (c *conn) abort(cause error) {
	c.mu.Lock()
	c.abortLocked(cause)
	c.mu.Unlock()
}

func (c *conn) abortLocked(cause error) {
	if c.ctx == nil || c.cause != nil {
		return
	}
	c.cause = cause
	_ = c.SetDeadline(longAgo)
	if c.tun != nil {
		_ = c.tun.client.Close()
	}
}

// sweep ends exchanges that the clients of t no longer wait for or have waited too
// long for, and closes connections that have long been idle.
func (r *Router) sweep(t *target, now time.Duration) {
	if t.open.Load() == 0 {
		return
	}
	var old []*conn
	t.mu.Lock()
	for c := range t.conns {
		c.mu.Lock()
		switch {
		case c.ctx == nil || c.cause != nil:
		case c.tun == nil && c.ctx.Err() != nil:
			c.abortLocked(errGone)
		case !c.head && now-c.moved > c.patience:
			c.abortLocked(errSlow)
		}
		c.mu.Unlock()
	}
	n := 0
	for n < len(t.idle) && now-t.idle[n].idleSince > idleFor {
		n++
	}
	if n > 0 {
		old = append(old, t.idle[:n]...)
		t.idle = append(t.idle[:0:0], t.idle[n:]...)
	}
	t.mu.Unlock()
	for _, c := range old {
		c.close()
	}
}

// send writes a part of a request.
func (c *conn) send(b []byte) error {
	n, err := c.Write(b)
	c.written += int64(n)
	return err
}

// read reads into p; before it waits, it sends the client everything pending. So
// nothing is held back while the app pauses (SSE, long polls), and what arrives in
// one piece leaves in one piece.
func (c *conn) read(p []byte) (int, error) {
	if c.raw == nil {
		if err := c.flush(); err != nil {
			return 0, err
		}
		return c.Conn.Read(p)
	}
	c.p, c.n, c.err = p, 0, nil
	if err := c.raw.Read(c.ready); err != nil {
		return 0, err
	}
	if c.n == 0 && c.err == nil {
		c.err = io.EOF
	}
	return c.n, c.err
}

// readNow is read's look at the socket; false means to wait for it.
func (c *conn) readNow(fd uintptr) bool {
	for {
		n, err := syscall.Read(int(fd), c.p)
		switch err { //nolint:errorlint // a bare errno
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			c.err = c.flush()
			return c.err != nil
		}
		c.n, c.err = max(n, 0), err
		return true
	}
}

func (c *conn) flush() error {
	if !c.dirty {
		return nil
	}
	c.dirty = false
	if err := c.out.FlushError(); err != nil {
		return clientError{err}
	}
	return nil
}

// clientError marks an error of the client's connection, as opposed to the
// instance's.
type clientError struct{ error }

// fill reads more into the empty buffer.
func (c *conn) fill() error {
	c.r, c.w = 0, 0
	n, err := c.read(c.buf)
	c.w = n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// more reads after the contents of the buffer, making room first.
func (c *conn) more(limit int) error {
	if c.w == len(c.buf) {
		switch {
		case c.r > 0:
			c.w = copy(c.buf, c.buf[c.r:c.w])
			c.r = 0
		case len(c.buf) < limit:
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		default:
			return errGarbage
		}
	}
	n, err := c.read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// readHead returns the bytes of one head, including the empty line, valid until the
// next read. errStale means that not one byte arrived.
func (c *conn) readHead() ([]byte, error) {
	seen := 0
	for {
		if n := headEnd(c.buf[c.r:c.w], seen); n > 0 {
			head := c.buf[c.r : c.r+n]
			c.r += n
			return head, nil
		}
		seen = max(0, c.w-c.r-3)
		if err := c.more(headLimit); err != nil {
			if c.r == c.w && !errors.Is(err, errGarbage) {
				return nil, errStale
			}
			return nil, err
		}
	}
}

// headEnd returns the index after the empty line, or -1. Apps may end lines with a
// bare LF (RFC 9112, section 2.2); net/http reads those of clients.
func headEnd(b []byte, from int) int {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return -1
		}
		i += from + 1
		if i < len(b) && b[i] == '\n' {
			return i + 1
		}
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			return i + 2
		}
		from = i
	}
}

// line reads one line of chunked framing, without its end.
func (c *conn) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(c.buf[c.r:c.w], '\n'); i >= 0 {
			l := c.buf[c.r : c.r+i]
			c.r += i + 1
			return bytes.TrimSuffix(l, []byte{'\r'}), nil
		}
		if err := c.more(connBuffer); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}
