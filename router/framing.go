package router

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Why a request is refused before net/http sees the end of its head.
var (
	errBareLF      = errors.New("a line ends without CR (RFC 9112, section 2.2)")
	errTwoFramings = errors.New("both Content-Length and Transfer-Encoding (RFC 9112, section 6.1)")
	errTwoLengths  = errors.New("more than one Content-Length (RFC 9112, section 6.3)")
	errLength      = errors.New("Content-Length is no number (RFC 9110, section 8.6)")
	errOldChunks   = errors.New("Transfer-Encoding, and not in HTTP/1.1 (RFC 9112, section 6.1)")
	errPreface     = errors.New("HTTP/2 begins in the wrong place (RFC 9113, section 3.4)")
)

// shortLine is as much of a line as is looked at: "Content-Length:", the largest
// number, and blanks.
const shortLine = 64

// framing follows the requests of an HTTP/1 connection through the bytes that
// net/http is about to be given, and finds what net/http takes and RFC 9112 lets a
// server refuse: what a proxy in front of mesh may see the end of elsewhere. Heads
// are looked at for this only: net/http parses them, and all that it takes here it
// frames in the same way, by the one Content-Length (FuzzFraming). A body in chunks
// is not followed: such a request is the last on its connection (doubtful), and
// nothing behind it is a request.
//
// It keeps no more than the beginning of a line. The zero framing is at the
// beginning of a connection.
type framing struct {
	raw bool // nothing that comes is a head
	// A head has asked for another protocol: what comes may be a head or not.
	upgraded bool
	inside   bool  // behind the request line
	second   bool  // behind the first head
	body     int64 // bytes of a body that are to come

	n     int             // bytes of the line that came in earlier pieces
	begin [shortLine]byte // its first ones
	tail  [8]byte         // its last ones

	length  int64 // what the head says; meaningful with sized
	sized   bool
	chunked bool
	upgrade bool // asks for another protocol
	old     bool // not HTTP/1.1
	preface preface
}

// preface is how much of HTTP/2's has been seen: two heads, to HTTP/1.
type preface int8

const (
	prefaceNone preface = iota
	prefacePRI          // "PRI * HTTP/2.0", and no field so far
	prefaceHalf         // with the empty line: "SM" has to follow
	prefaceSM
)

// check looks at what comes next. It tells how many of the bytes may be handed on:
// all, or those before the one that would make a refused head whole.
func (f *framing) check(p []byte) (int, error) {
	for i := 0; i < len(p); {
		if f.raw {
			break
		}
		if f.body > 0 {
			n := min(f.body, int64(len(p)-i))
			f.body -= n
			i += int(n)
			continue
		}
		j := bytes.IndexByte(p[i:], '\n')
		if j < 0 {
			f.keep(p[i:])
			break
		}
		line, n, tail := p[i:i+j], j, p[max(i, i+j-len(f.tail)):i+j]
		if f.n > 0 {
			f.keep(line)
			line, n, tail = f.begin[:min(f.n, shortLine)], f.n, f.tail[max(0, len(f.tail)-f.n):]
			f.n = 0
		}
		if err := f.line(line, n, tail); err != nil {
			return i + j, err
		}
		i += j + 1
	}
	return len(p), nil
}

// keep remembers a piece of a line.
func (f *framing) keep(p []byte) {
	if f.n < shortLine {
		copy(f.begin[f.n:], p)
	}
	f.n += len(p)
	if have := len(p); have < len(f.tail) {
		copy(f.tail[:], f.tail[have:])
		copy(f.tail[len(f.tail)-have:], p)
	} else {
		copy(f.tail[:], p[have-len(f.tail):])
	}
}

// line takes the next line of a head, n bytes without its LF: its beginning, at least
// shortLine bytes of it, and its end.
func (f *framing) line(begin []byte, n int, tail []byte) error {
	if n == 0 && !f.inside {
		return nil // net/http refuses an empty request line itself
	}
	if n == 0 || tail[len(tail)-1] != '\r' {
		return errBareLF
	}
	if n--; n < len(begin) {
		begin = begin[:n]
	}
	if f.inside {
		if n == 0 {
			return f.end()
		}
		return f.field(begin, n)
	}
	if n == 0 {
		return nil
	}
	f.inside = true
	f.old = !bytes.HasSuffix(tail[:len(tail)-1], []byte("TP/1.1"))
	switch {
	case f.preface == prefaceHalf:
		if string(begin) != "SM" {
			return errPreface
		}
		f.preface = prefaceSM
	case bytes.HasPrefix(begin, []byte("PRI ")):
		if f.second || string(begin) != "PRI * HTTP/2.0" {
			return errPreface
		}
		f.preface = prefacePRI
	}
	return nil
}

// field takes a field line.
func (f *framing) field(line []byte, n int) error {
	if f.preface != prefaceNone {
		return errPreface
	}
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return nil // a long name, none of these; or nonsense, which net/http refuses
	}
	switch colon {
	case len("Upgrade"):
		f.upgrade = f.upgrade || bytes.EqualFold(line[:colon], []byte("Upgrade"))
	case len("Content-Length"):
		if !bytes.EqualFold(line[:colon], []byte("Content-Length")) {
			return nil
		}
		if f.sized {
			return errTwoLengths
		}
		if n >= shortLine { // and so perhaps not all of it in line
			return errLength
		}
		digits := bytes.Trim(line[colon+1:], " \t")
		if len(digits) == 0 || len(digits) > 18 { // an exabyte is never right
			return errLength
		}
		f.length = 0
		for _, d := range digits {
			if d < '0' || d > '9' {
				return errLength
			}
			f.length = f.length*10 + int64(d-'0')
		}
		f.sized = true
	case len("Transfer-Encoding"):
		if !bytes.EqualFold(line[:colon], []byte("Transfer-Encoding")) {
			return nil
		}
		if f.old {
			return errOldChunks
		}
		f.chunked = true
	}
	if f.sized && f.chunked {
		return errTwoFramings
	}
	return nil
}

// end takes the empty line behind a head.
func (f *framing) end() error {
	if f.preface == prefacePRI {
		f.preface, f.inside, f.second = prefaceHalf, false, true
		return nil
	}
	f.raw = f.chunked || f.preface == prefaceSM
	if f.sized {
		f.body = f.length
	}
	f.upgraded = f.upgraded || f.upgrade
	f.inside, f.second, f.sized, f.chunked, f.upgrade, f.old = false, true, false, false, false, false
	return nil
}

// strict is a client's connection on which requests with doubtful framing end: it
// answers 400 in the place of net/http, which would take them.
type strict struct {
	net.Conn
	framing framing
	why     error       // what is wrong with the head that comes; Read's
	held    []byte      // what may be of another protocol, and not of a head; Read's
	refused atomic.Bool // the client has been told
}

// strictListener makes all connections strict.
type strictListener struct{ net.Listener }

func (l strictListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &strict{Conn: c}, nil
}

// Read is called by one goroutine at a time, net/http's. What it gives may hold the
// end of one request and the refused head of the next, so it refuses only when it is
// called again: then net/http has answered all requests before, and wants the rest of
// the head. Or it watches, with one byte's room, for the client to leave.
func (c *strict) Read(p []byte) (int, error) {
	if c.why == nil {
		n, err := c.Conn.Read(p)
		ok, why := c.framing.check(p[:n])
		if why == nil {
			return n, err
		}
		c.why = why
		c.hold(p[ok:n])
		return ok, nil
	}
	for len(p) == 1 {
		// Nothing more of this may be handed on as a head.
		n, err := c.Conn.Read(p)
		c.hold(p[:n])
		if err != nil {
			return 0, err
		}
	}
	if !c.refused.Swap(true) {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		sayBadRequest(c.Conn, c.why.Error())
	}
	return 0, c.gone()
}

// sayBadRequest is the whole answer to what never becomes a request of net/http. It is
// the last on its connection.
func sayBadRequest(w io.Writer, why string) {
	text := http.StatusText(http.StatusBadRequest)
	body := text + ": " + why + "\n"
	_, _ = io.WriteString(w, "HTTP/1.1 400 "+text+"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\nConnection: close\r\n\r\n"+body)
}

// maxHeld is as much as a client can send before it has been told that it may.
const maxHeld = 64 << 10

// hold keeps what a client has sent behind a request for another protocol, which is
// taken for a head as long as the app has not agreed. RFC 9110, section 7.8, has the
// client wait for that; not all do.
func (c *strict) hold(b []byte) {
	if c.framing.upgraded && len(c.held) <= maxHeld {
		c.held = append(c.held, b...)
	}
}

// tunnel gives the connection below and what has been held back; ok is false when
// that was too much. It may be called when net/http reads no more.
func (c *strict) tunnel() (under net.Conn, early []byte, ok bool) {
	return c.Conn, c.held, len(c.held) <= maxHeld
}

// gone is an error to which net/http answers nothing.
func (c *strict) gone() error {
	return &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: c.why}
}

// refusedWait and refusedBytes are for what a refused client has still under way:
// the kernel would answer it with a reset, which can overtake the answer.
const (
	refusedWait  = 500 * time.Millisecond
	refusedBytes = 256 << 10
)

// Close ends the connection.
func (c *strict) Close() error {
	if c.refused.Load() && closeWrite(c.Conn) {
		_ = c.SetReadDeadline(time.Now().Add(refusedWait))
		_, _ = io.CopyN(io.Discard, c.Conn, refusedBytes)
	}
	return c.Conn.Close()
}

// errRefused keeps net/http from answering once more to what was refused: a proxy in
// front could take that for the answer to its next request.
var errRefused = errors.New("the request was refused")

// Write passes on answers until a request is refused.
func (c *strict) Write(p []byte) (int, error) {
	if c.refused.Load() {
		return 0, errRefused
	}
	return c.Conn.Write(p)
}

// CloseWrite lets net/http end one direction.
func (c *strict) CloseWrite() error {
	if !closeWrite(c.Conn) {
		return errors.ErrUnsupported
	}
	return nil
}

// ReadFrom lets net/http send from socket to socket.
func (c *strict) ReadFrom(src io.Reader) (int64, error) {
	if c.refused.Load() {
		return 0, errRefused
	}
	if to, ok := c.Conn.(io.ReaderFrom); ok {
		return to.ReadFrom(src)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, src)
}

// NetConn is the connection below.
func (c *strict) NetConn() net.Conn { return c.Conn }
