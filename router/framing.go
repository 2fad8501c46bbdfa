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

// Reasons to refuse a request before net/http sees the end of its head.
var (
	errBareLF      = errors.New("a line ends without CR (RFC 9112, section 2.2)")
	errTwoFramings = errors.New("both Content-Length and Transfer-Encoding (RFC 9112, section 6.1)")
	errTwoLengths  = errors.New("more than one Content-Length (RFC 9112, section 6.3)")
	errLength      = errors.New("Content-Length is not a number (RFC 9110, section 8.6)")
	errOldChunks   = errors.New("Transfer-Encoding in a version other than HTTP/1.1 (RFC 9112, section 6.1)")
	errPreface     = errors.New("HTTP/2 begins in the wrong place (RFC 9113, section 3.4)")
)

// shortLine is how much of a line is checked: "Content-Length:", the largest number,
// and blanks.
const shortLine = 64

// framing follows the requests of an HTTP/1 connection through the bytes that
// net/http is about to get. It finds requests that net/http accepts although RFC
// 9112 lets a server refuse them: those on whose end a proxy in front of mesh may
// disagree. Heads are checked for nothing else: net/http parses them, and frames
// everything that passes here in the same way, by the single Content-Length
// (FuzzFraming). A chunked body is not followed: such a request is the last on its
// connection (doubtful), and nothing after it is a request.
//
// It keeps no more than the beginning of a line. The zero framing is ready for the
// beginning of a connection.
type framing struct {
	raw bool // the rest of the connection contains no head
	// A head has asked for another protocol: what follows may or may not be a head.
	upgraded bool
	inside   bool  // after the request line
	second   bool  // after the first head
	body     int64 // bytes of the current body still to come

	n     int             // bytes of the current line in earlier pieces
	begin [shortLine]byte // its first bytes
	tail  [8]byte         // its last bytes

	length  int64 // from the head; only valid with sized
	sized   bool
	chunked bool
	upgrade bool // asks for another protocol
	old     bool // not HTTP/1.1
	preface preface
}

// preface is how much of HTTP/2's preface has been seen: to HTTP/1 it looks like two
// heads.
type preface int8

const (
	prefaceNone preface = iota
	prefacePRI          // "PRI * HTTP/2.0", and no field so far
	prefaceHalf         // with the empty line: "SM" must follow
	prefaceSM
)

// check checks the next bytes. It returns how many of them may be passed on: all, or
// those before the one that would complete a refused head.
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

// keep stores a piece of a line.
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

// line handles the next line of a head, n bytes without its LF: its beginning, at
// least shortLine bytes of it, and its end.
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

// field handles a field line.
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
		if n >= shortLine { // so perhaps not all of it is in line
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

// end handles the empty line after a head.
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

// strict is a client's connection that ends at a request with doubtful framing: it
// answers 400 itself, since net/http would accept the request.
type strict struct {
	net.Conn
	framing framing
	why     error       // what is wrong with the next head; only for Read
	held    []byte      // bytes that may belong to another protocol and not to a head; only for Read
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

// Read is called by one goroutine at a time, that of net/http. The bytes it returns
// may contain the end of one request and the refused head of the next, so it only
// refuses when it is called again: by then net/http has answered all earlier
// requests and wants the rest of the head. Or net/http reads one byte to notice that the
// client leaves.
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
		// Nothing more may be passed on as a head.
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

// sayBadRequest writes the whole answer to bytes that never become a request of
// net/http. It is the last on its connection.
func sayBadRequest(w io.Writer, why string) {
	text := http.StatusText(http.StatusBadRequest)
	body := text + ": " + why + "\n"
	_, _ = io.WriteString(w, "HTTP/1.1 400 "+text+"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\nConnection: close\r\n\r\n"+body)
}

// maxHeld is how much a client can send before it has been told that it may.
const maxHeld = 64 << 10

// hold keeps what a client has sent after a request for another protocol; until the
// app agrees, it counts as a head. RFC 9110, section 7.8, says that the client must
// wait for the app's answer; not all clients do.
func (c *strict) hold(b []byte) {
	if c.framing.upgraded && len(c.held) <= maxHeld {
		c.held = append(c.held, b...)
	}
}

// tunnel returns the underlying connection and the bytes that were held back; ok is
// false if there were too many. Call it only when net/http no longer reads.
func (c *strict) tunnel() (under net.Conn, early []byte, ok bool) {
	return c.Conn, c.held, len(c.held) <= maxHeld
}

// gone is an error that net/http does not answer.
func (c *strict) gone() error {
	return &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: c.why}
}

// refusedWait and refusedBytes are for the rest of what a refused client sends:
// otherwise the kernel would answer it with a reset, which can overtake the answer.
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

// errRefused keeps net/http from answering a refused request again: a proxy in front
// could take that for the answer to its next request.
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

// NetConn returns the underlying connection.
func (c *strict) NetConn() net.Conn { return c.Conn }
