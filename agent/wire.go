// Package agent is the wire between mesh and the engines of other machines: one end in mesh, the
// Hub, and one on each of them, the Agent.
//
// An agent opens no port to the outside: it connects to mesh, and keeps that connection. Both
// ends have certificates of one Authority. On the connection are streams (yamux); the first
// line of each says what it is for:
//
//	from mesh    engine           the socket of the node's engine
//	             listen ADDRESS   accept names and links at an address of the node
//	             retire           another process of mesh takes over: connect once more
//	from both    cut NUMBER       nobody reads this stream of the sender any more
//	from agents  registry         the registry of images
//	             names ADDRESS    DNS messages, as over TCP, of a container with this address
//	             links ADDRESS    a connection of such a container to the links of its stack
//
// The agent knows nothing of stacks. Who may use what is decided in mesh.
package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// What streams are for.
const (
	forEngine   = "engine"
	forListen   = "listen"
	forRetire   = "retire"
	forCut      = "cut"
	forRegistry = "registry"
	forNames    = "names"
	forLinks    = "links"
)

const (
	helloTime = 10 * time.Second // for a handshake, and the first line of a stream
	pingEvery = 2 * time.Second
	pingTime  = 10 * time.Second // without an answer, the connection is dead
	maxHello  = 4 << 10
	// halfTime is how long one way of a stream may stay open alone: a command whose input has ended
	// may run for hours, and print at its end.
	halfTime = 24 * time.Hour
)

// hello is what an agent says first. mesh answers with a welcome.
type hello struct {
	Node     string `json:"node"`
	Version  string `json:"version"`
	Registry string `json:"registry"` // where the node's engine reaches mesh's registry
}

type welcome struct {
	Fault string `json:"fault,omitempty"`
}

// say writes a line of JSON.
func say(c net.Conn, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.Write(append(line, '\n'))
	return err
}

// hear reads a line of JSON, and nothing behind it.
func hear(c net.Conn, v any) error {
	line, err := readLine(c, maxHello)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(line), v)
}

// readLine reads a line byte by byte, because what follows belongs to somebody else.
func readLine(r io.Reader, limit int) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < limit {
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("the first line is too long")
}

// multiplexed is how yamux is set up at both ends.
func multiplexed() *yamux.Config {
	c := yamux.DefaultConfig()
	c.KeepAliveInterval, c.ConnectionWriteTimeout, c.StreamOpenTimeout = pingEvery, pingTime, pingTime
	c.MaxStreamWindowSize = 1 << 20 // images and output pass through
	c.AcceptBacklog, c.StreamCloseTimeout = 1024, halfTime
	c.LogOutput = io.Discard
	return c
}

// stream is a stream for which the first line has been exchanged. Closing one way is not closing the
// other: an attached program's input ends before its output.
type stream struct {
	*yamux.Stream
	session *yamux.Session
	ours    bool        // this end has opened it
	ended   atomic.Bool // nothing more comes from the other end
	closed  atomic.Bool
	cut     chan struct{} // closed when the other end has cut it
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if errors.Is(err, io.EOF) {
		s.ended.Store(true)
	}
	return n, err
}

// CloseWrite tells the other end that nothing more comes.
func (s *stream) CloseWrite() error { return s.Stream.Close() }

// Close ends both ways. To yamux, closing is closing one way, whatever comes on the other; so the
// end that has opened the stream tells the other one to stop.
func (s *stream) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := errors.Join(s.Stream.Close(), s.SetDeadline(time.Now())) // wakes who reads
	if !s.ours || s.ended.Load() || s.session.IsClosed() {
		return err
	}
	go func() { // it may wait for the connection
		if y, err := s.session.OpenStream(); err == nil {
			_, _ = fmt.Fprintln(y, forCut, s.StreamID())
			_ = y.Close()
		}
	}()
	return err
}

// open opens a stream for something.
func open(s *yamux.Session, what string, about ...string) (net.Conn, error) {
	y, err := s.OpenStream()
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(y, strings.Join(append([]string{what}, about...), " ")); err != nil {
		return nil, errors.Join(err, y.Close())
	}
	return &stream{Stream: y, session: s, ours: true}, nil
}

// accept calls handle for each stream of the other end, in a goroutine, until the session ends.
func accept(s *yamux.Session, handle func(c net.Conn, what, about string)) error {
	var mu sync.Mutex
	all := map[string]*stream{} // by their numbers
	for {
		y, err := s.AcceptStream()
		if err != nil {
			return err
		}
		x, number := &stream{Stream: y, session: s, cut: make(chan struct{})}, fmt.Sprint(y.StreamID())
		mu.Lock()
		all[number] = x
		mu.Unlock()
		go func() {
			defer func() {
				mu.Lock()
				delete(all, number)
				mu.Unlock()
				_ = x.Close()
			}()
			_ = y.SetReadDeadline(time.Now().Add(helloTime))
			line, err := readLine(y, 256)
			if err != nil {
				return
			}
			_ = y.SetReadDeadline(time.Time{})
			what, about, _ := strings.Cut(line, " ")
			if what != forCut {
				handle(x, what, about)
				return
			}
			mu.Lock()
			if other := all[about]; other != nil {
				delete(all, about)
				close(other.cut)
			}
			mu.Unlock()
		}()
	}
}

// halfCloser is a connection whose two ways end on their own.
type halfCloser interface{ CloseWrite() error }

// join copies both ways until both have ended, or the other end has cut a. If one way breaks, so
// does the other.
func join(a, b net.Conn) {
	done := make(chan struct{})
	defer close(done)
	if s, ok := a.(*stream); ok && s.cut != nil {
		go func() {
			select {
			case <-s.cut:
				_ = a.Close()
				_ = b.Close()
			case <-done:
			}
		}()
	}
	ended := make(chan struct{}, 2)
	one := func(to, from net.Conn) {
		defer func() { ended <- struct{}{} }()
		_, err := io.Copy(to, from)
		if h, ok := to.(halfCloser); ok && err == nil {
			_ = h.CloseWrite()
			return
		}
		_ = to.Close()
		_ = from.Close()
	}
	go one(a, b)
	one(b, a)
	<-ended
	<-ended
	_ = a.Close()
	_ = b.Close()
}
