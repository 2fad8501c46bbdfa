package receiver

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

// channelState is what the client has requested of one session channel. mesh handles
// the terminal itself because a session of gliderlabs/ssh rewrites line ends, and a
// window-change that nobody reads stops its request loop.
type channelState struct {
	mu     sync.Mutex
	tty    bool
	size   mesh.WindowSize
	resize chan mesh.WindowSize // holds the latest size only
	part   func()               // the session needs only its connection from now on
	closed atomic.Bool          // the client accepts no more output
}

func (s *channelState) resized(w mesh.WindowSize) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = w
	select {
	case <-s.resize:
	default:
	}
	s.resize <- w
}

// sessionContext ends with its channel. The context of gliderlabs/ssh ends only with
// the connection, but with ControlMaster a Ctrl-C closes only the channel.
type sessionContext struct {
	ssh.Context
	ctx context.Context
}

func (c sessionContext) Done() <-chan struct{} { return c.ctx.Done() }

func (c sessionContext) Err() error { return c.ctx.Err() }

func (c sessionContext) Deadline() (time.Time, bool) { return c.ctx.Deadline() }

func (c sessionContext) Value(k any) any { return c.ctx.Value(k) }

// Why a session's context ends.
var (
	errHungUp     = mesh.Errorf(mesh.Cancelled, "the client hung up")
	errKeyRemoved = mesh.Errorf(mesh.Cancelled, "the key has been removed")
	errStopping   = mesh.Errorf(mesh.Cancelled, "mesh is being stopped").WithHint("push again in a moment")
)

// channel serves one session channel.
func (r *Receiver) channel(serving context.Context, srv *ssh.Server, conn *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
	st := state(ctx)
	st.mu.Lock()
	full := st.sessions >= maxSessions
	if !full {
		st.sessions++
	}
	st.mu.Unlock()
	if full {
		_ = nc.Reject(gossh.ResourceShortage, "too many sessions on one connection")
		return
	}
	defer func() {
		st.mu.Lock()
		st.sessions--
		st.mu.Unlock()
	}()
	c, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(serving, func() { cancel(errStopping) })
	defer stop()
	leave, removed := r.open.enter(conn, cancel)
	defer leave()
	returned := make(chan struct{})
	defer close(returned)
	// A client that has stopped reading would keep an ending session forever: only the
	// end of the connection wakes a write to a full channel.
	defer context.AfterFunc(c, func() {
		wait := endWait
		switch cause := context.Cause(c); {
		case errors.Is(cause, errKeyRemoved):
			wait = removedWait
		case !errors.Is(cause, errStopping):
			return // the client has disconnected, and with it whatever waits for it
		}
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-returned:
		case <-t.C:
			r.Logger.Warn("cut off a session that did not end", "remote", conn.RemoteAddr().String())
			_ = conn.Close()
		}
	})()
	go keepAlive(c, conn, r.KeepAlive)
	ch := &channelState{resize: make(chan mesh.WindowSize, 1)}
	session := context.WithValue(c, sessionKey{}, ch)
	ssh.DefaultSessionHandler(srv, conn, newChannel{nc, ch, cancel}, sessionContext{ctx, session})
	if removed() {
		_ = conn.Close()
	}
}

// newChannel notices when its channel closes, and refuses requests that mesh does not
// use; gliderlabs/ssh would grant agent forwarding.
type newChannel struct {
	gossh.NewChannel
	state  *channelState
	cancel context.CancelCauseFunc
}

func (n newChannel) Accept() (gossh.Channel, <-chan *gossh.Request, error) {
	ch, reqs, err := n.NewChannel.Accept()
	if err != nil {
		return nil, nil, err
	}
	out := make(chan *gossh.Request, 16)
	w := &writable{ch, n.state}
	go func() {
		defer n.cancel(errHungUp)
		defer close(out)
		env := 0
		for req := range reqs {
			switch req.Type {
			case "auth-agent-req@openssh.com", "x11-req":
				_ = req.Reply(false, nil)
				continue
			case "pty-req":
				w, ok := parsePTY(req.Payload)
				if ok {
					n.state.mu.Lock()
					n.state.tty = true
					n.state.mu.Unlock()
					n.state.resized(w)
				}
				_ = req.Reply(ok, nil)
				continue
			case "window-change":
				var w struct{ Columns, Rows, Width, Height uint32 }
				if gossh.Unmarshal(req.Payload, &w) == nil {
					n.state.resized(windowSize(w.Columns, w.Rows))
				}
				_ = req.Reply(true, nil)
				continue
			case "eow@openssh.com":
				// The client has closed its output: sshd would send SIGPIPE to the
				// program.
				n.state.closed.Store(true)
				_ = req.Reply(true, nil)
				continue
			case "signal", "break":
				// OpenSSH's client sends no signal for a Ctrl-C: it closes the channel,
				// or the terminal passes the character on.
				_ = req.Reply(false, nil)
				continue
			case "env":
				if env++; env > maxEnv {
					_ = req.Reply(false, nil)
					continue
				}
			}
			out <- req
		}
	}()
	return w, out, nil
}

// writable is a channel that accepts no more output once its client has closed it
// (eow@openssh.com, section 2.1 of OpenSSH's PROTOCOL).
type writable struct {
	gossh.Channel
	state *channelState
}

func (w *writable) Write(b []byte) (int, error) {
	if w.state.closed.Load() {
		return 0, syscall.EPIPE
	}
	return w.Channel.Write(b)
}

// parsePTY reads the size from a pty-req (RFC 4254, section 6.2).
func parsePTY(payload []byte) (mesh.WindowSize, bool) {
	var p struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	if err := gossh.Unmarshal(payload, &p); err != nil {
		return mesh.WindowSize{}, false
	}
	return windowSize(p.Columns, p.Rows), true
}

// windowSize limits the sizes that clients claim to those of real terminals.
func windowSize(columns, rows uint32) mesh.WindowSize {
	return mesh.WindowSize{Width: int(min(columns, 10_000)), Height: int(min(rows, 10_000))}
}
