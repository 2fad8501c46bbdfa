package router

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	smallBody    = 16 << 10 // request bodies up to this size are read first, and can be sent again
	copyBuffer   = 32 << 10
	spliceFrom   = 64 << 10         // longer answers are left to splice(2)
	continueWait = time.Second      // for the app's "100 Continue"
	bodyWait     = 60 * time.Second // for a small body
)

// buffers are for heads and bodies in progress; nothing idle keeps one.
var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// upload sends a request body that is too long, or of unknown length, to be read
// first. It has its own goroutine, because the app may answer before it has read the
// whole body.
type upload struct {
	q       *request
	c       *conn
	proceed chan struct{} // closed when the app wants the body; nil: send it at once
	quit    chan struct{} // closed when nobody wants it any more
	done    chan error    // gets one value
	whole   atomic.Bool   // the client has sent all of it
}

var (
	errUnwanted = errors.New("the body is not wanted")
	errBadBody  = errors.New("the request's body is malformed")
)

func (q *request) startUpload(c *conn) *upload {
	u := &upload{q: q, c: c, quit: make(chan struct{}), done: make(chan error, 1)}
	if wantsContinue(q.r) {
		u.proceed = make(chan struct{})
	}
	// Without this, net/http reads the rest of the body itself when the answer
	// begins. HTTP/2 does not support it and returns an error.
	_ = q.ctl.EnableFullDuplex()
	go func() { u.done <- u.run() }()
	return u
}

func (u *upload) run() error {
	if u.proceed != nil {
		timer := time.NewTimer(continueWait)
		defer timer.Stop()
		select {
		case <-u.proceed:
		case <-timer.C: // an app that ignores "Expect" (RFC 9110, section 10.1.1)
		case <-u.quit:
			return errUnwanted
		}
	}
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	body, chunked := u.q.r.Body, u.q.chunked()
	// Room for a chunk's size line before it, and its line end after it.
	room := (*bp)[10 : len(*bp)-2]
	for {
		n, err := body.Read(room)
		if errors.Is(err, io.EOF) {
			u.whole.Store(true)
		}
		if n > 0 {
			out := room[:n]
			if chunked {
				out = frame(*bp, n)
			}
			u.c.progress(u.q.router.clock())
			if err := u.c.send(out); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && chunked:
			return u.c.send(u.lastChunk())
		case err == io.EOF:
			return nil
		case err != nil:
			return u.failed(err)
		}
	}
}

// failed ends the exchange, since the request can never be complete.
func (u *upload) failed(err error) error {
	select {
	case <-u.quit:
		return errUnwanted
	default:
	}
	var opErr interface{ Timeout() bool }
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &opErr) || u.q.r.Context().Err() != nil || u.q.r.ProtoMajor != 1 {
		u.c.abort(errGone)
	} else {
		u.c.abort(errBadBody)
	}
	return err
}

// frame puts the size line and the line end around the n bytes from b[10].
func frame(b []byte, n int) []byte {
	var size [10]byte
	s := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
	from := 10 - len(s)
	copy(b[from:], s)
	return append(b[from:10+n], "\r\n"...)
}

// lastChunk ends a chunked body, with the trailers that the client sent.
func (u *upload) lastChunk() []byte {
	b := []byte("0\r\n")
	for k, vv := range u.q.r.Trailer {
		if !httpguts.ValidTrailerHeader(k) || !u.q.passes(k) {
			continue
		}
		for _, v := range vv {
			b = appendField(b, k, v)
		}
	}
	return append(b, "\r\n"...)
}

// stop ends the upload and reports whether the whole body has reached the app's
// kernel. The goroutine has ended when it returns.
func (u *upload) stop() bool {
	if u == nil {
		return true
	}
	const soon = 50 * time.Millisecond
	select {
	case err := <-u.done:
		return err == nil
	default:
	}
	if u.whole.Load() { // its last write is about to return, if the app reads
		timer := time.NewTimer(soon)
		defer timer.Stop()
		select {
		case err := <-u.done:
			return err == nil
		case <-timer.C:
		}
	}
	close(u.quit)
	_ = u.c.SetWriteDeadline(longAgo)
	_ = u.q.ctl.SetReadDeadline(time.Now().Add(soon))
	<-u.done
	// For this long, net/http reads what the client is still sending; otherwise the
	// kernel would answer it with a reset that can overtake the answer.
	_ = u.q.ctl.SetReadDeadline(time.Now().Add(10 * soon))
	return false
}

// chunked reports whether the body goes to the app in chunks.
func (q *request) chunked() bool {
	return q.r.ContentLength < 0 || len(q.r.Trailer) > 0
}

// write sends a part of the answer's body to the client.
func (q *request) write(c *conn, b []byte) error {
	n, err := q.w.Write(b)
	q.rec.Bytes += int64(n)
	c.dirty = true
	if err != nil {
		return clientError{err}
	}
	return nil
}

// copyLength passes on a body of n bytes.
func (q *request) copyLength(c *conn, n int64) error {
	if have := min(int64(c.w-c.r), n); have > 0 {
		if err := q.write(c, c.buf[c.r:c.r+int(have)]); err != nil {
			return err
		}
		c.r += int(have)
		n -= have
	}
	if rf, ok := q.w.(io.ReaderFrom); ok && n >= spliceFrom && c.tcp != nil && q.r.TLS == nil {
		// From one socket to the other in the kernel. net/http holds back the first
		// 512 bytes until it has flushed the head.
		if err := c.flush(); err != nil {
			return err
		}
		m, err := rf.ReadFrom(&io.LimitedReader{R: c.tcp, N: n})
		q.rec.Bytes += m
		switch {
		case err == nil && m < n:
			err = io.ErrUnexpectedEOF
		case err != nil && c.sound():
			err = clientError{err} // of the two, it is not the instance
		}
		return err
	}
	if n == 0 {
		return nil
	}
	b := c.buf
	if n > int64(len(b)) {
		bp := buffers.Get().(*[]byte)
		defer buffers.Put(bp)
		b = *bp
	}
	c.r, c.w = 0, 0
	for n > 0 {
		m, err := c.read(b[:min(int64(len(b)), n)])
		if m > 0 {
			if err := q.write(c, b[:m]); err != nil {
				return err
			}
			n -= int64(m)
		}
		if err != nil && n > 0 {
			return unexpected(err)
		}
	}
	return nil
}

// copyAll passes on a body that ends with the connection.
func (q *request) copyAll(c *conn) error {
	for {
		if c.r < c.w {
			if err := q.write(c, c.buf[c.r:c.w]); err != nil {
				return err
			}
		}
		if err := c.fill(); err != nil {
			c.r, c.w = 0, 0
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// copyChunked passes on a chunked body, and then its trailers, announced or not.
func (q *request) copyChunked(c *conn) error {
	for {
		l, err := c.line()
		if err != nil {
			return err
		}
		n, err := chunkSize(l)
		if err != nil {
			return err
		}
		if n == 0 {
			return q.copyTrailers(c)
		}
		for n > 0 {
			if c.r == c.w {
				if err := c.fill(); err != nil {
					return unexpected(err)
				}
			}
			k := min(int64(c.w-c.r), n)
			if err := q.write(c, c.buf[c.r:c.r+int(k)]); err != nil {
				return err
			}
			c.r += int(k)
			n -= k
		}
		if l, err = c.line(); err != nil {
			return err
		} else if len(l) != 0 {
			return errGarbage
		}
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// chunkSize reads the line before a chunk (RFC 9112, section 7.1). It drops
// extensions, which are only for one connection, and blanks after the size, which
// old servers use as padding.
func chunkSize(l []byte) (int64, error) {
	l, _, _ = bytes.Cut(l, []byte{';'})
	l = bytes.TrimRight(l, " \t")
	if len(l) == 0 || len(l) > 15 {
		return 0, errGarbage
	}
	var n int64
	for _, c := range l {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, errGarbage
		}
		n = n<<4 | int64(c)
	}
	return n, nil
}

func (q *request) copyTrailers(c *conn) error {
	h := q.w.Header()
	for size := 0; ; {
		l, err := c.line()
		if err != nil {
			return err
		}
		if len(l) == 0 {
			return nil
		}
		if size += len(l); size > headLimit {
			return errGarbage
		}
		name, v, ok := bytes.Cut(l, []byte{':'})
		k := textproto.CanonicalMIMEHeaderKey(string(name))
		value := string(bytes.TrimSpace(v))
		if !ok || !httpguts.ValidHeaderFieldName(k) || !httpguts.ValidHeaderFieldValue(value) {
			return errGarbage
		}
		if httpguts.ValidTrailerHeader(k) {
			h.Add(http.TrailerPrefix+k, value)
		}
	}
}
