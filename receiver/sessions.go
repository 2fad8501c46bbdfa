package receiver

import (
	"context"
	"fmt"
	"sync"

	"github.com/gliderlabs/ssh"
)

// Retire lets another process take new connections, which wait in the listeners' queues
// until it does. It returns when no session left here can change anything: sessions
// that only read from an instance or write to it (see mesh.Request.Parted) continue
// until Serve's context ends. If ctx ends first, Retire ends all sessions and returns
// ctx's cause.
func (r *Receiver) Retire(ctx context.Context) error {
	var all []*sessions
	r.servers.Range(func(k, _ any) bool {
		all = append(all, k.(*sessions))
		return true
	})
	for _, s := range all {
		s.retire()
	}
	var err error
	for _, s := range all {
		if serr := s.waitIdle(ctx); serr != nil {
			s.cut()
			_ = s.waitIdle(context.WithoutCancel(ctx))
			err = serr
		}
	}
	return err
}

// sessions counts the sessions of a server. A sync.WaitGroup would not do: a session
// may begin while the server already waits for the others.
type sessions struct {
	cut   func() // ends all sessions
	close func() // closes the listener

	mu      sync.Mutex
	n       int
	ended   bool
	retired bool
	idle    chan struct{} // closed when the last one has ended after end
	// busy counts the sessions that change something, and the connections whose first
	// session has yet to come: every accepted connection is served.
	busy  int
	quiet chan struct{} // closed when busy is 0, then replaced
}

func newSessions(cut, closeListener func()) *sessions {
	return &sessions{cut: cut, close: closeListener, idle: make(chan struct{}), quiet: make(chan struct{})}
}

// hold makes waitIdle wait until release is called.
func (s *sessions) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holdLocked()
}

func (s *sessions) holdLocked() (release func()) {
	s.busy++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.busy--; s.busy == 0 {
			close(s.quiet)
			s.quiet = make(chan struct{})
		}
	})
}

// waitIdle returns when nothing is held, or returns ctx's cause.
func (s *sessions) waitIdle(ctx context.Context) error {
	for {
		s.mu.Lock()
		busy, quiet := s.busy, s.quiet
		s.mu.Unlock()
		if busy == 0 {
			return nil
		}
		select {
		case <-quiet:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// retire closes the listener, and refuses new sessions on connections that had one.
func (s *sessions) retire() {
	s.mu.Lock()
	s.retired = true
	s.mu.Unlock()
	s.close()
}

func (s *sessions) retiring() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retired
}

// handler refuses sessions once the server ends.
func (s *sessions) handler(next ssh.Handler) ssh.Handler {
	return func(sess ssh.Session) {
		ctx := sess.Context()
		first := state(ctx).firstSession()
		end, release, ok := s.begin(first)
		if !ok {
			_, _ = fmt.Fprintf(sess.Stderr(), "error: %s\nhint:  try again\n", errStopping.Text)
			_ = sess.Exit(1)
			return
		}
		state(ctx).release()
		if ch, _ := ctx.Value(sessionKey{}).(*channelState); ch != nil {
			ch.part = release
		}
		defer end()
		next(sess)
	}
}

// begin counts a session until end is called, and holds the server until release or end
// is. ok is false if there may be no more sessions; first is for one that was promised
// when its connection was accepted.
func (s *sessions) begin(first bool) (end, release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.retired && !first {
		return nil, nil, false
	}
	s.n++
	release = s.holdLocked()
	return func() {
		release()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.n--; s.n == 0 && s.ended {
			close(s.idle)
		}
	}, release, true
}

// end refuses new sessions and waits for the open ones.
func (s *sessions) end() {
	s.mu.Lock()
	s.ended = true
	if s.n == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	<-s.idle
}
