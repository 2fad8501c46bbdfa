package receiver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

// Limits of the SSH server; gate.go has those of connections that have not signed in.
const (
	maxSessions  = 10 // per connection, as sshd's MaxSessions
	maxEnv       = 64 // env requests per session
	maxAuthTries = 6  // agents offer many keys

	// sshVersion begins as OpenSSH's does because its client tells only such servers
	// that its output is closed (eow@openssh.com; compat.c, SSH_NEW_OPENSSH).
	sshVersion = "OpenSSH_mesh"

	shutOutWait = 5 * time.Second // for the sessions of a key that has been removed
	endWait     = time.Minute     // for those of a server that stops: a rollout past its release is finished
)

// keys of values in an ssh.Context.
type (
	connKey    struct{} // *connState
	sessionKey struct{} // *channelState
)

// connState is what is known of a connection, by its ssh.Context.
type connState struct {
	mu       sync.Mutex
	banner   gossh.ServerPreAuthConn
	rejected []string // fingerprints offered that no key has
	signedIn func()   // stops the login timer and frees the place at the gate
	release  func()   // lets the server retire without waiting for a first session
	sessions int
	served   bool // it has had a session
}

// firstSession tells whether the connection has had no session yet.
func (st *connState) firstSession() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	first := !st.served
	st.served = true
	return first
}

func state(ctx ssh.Context) *connState {
	st, _ := ctx.Value(connKey{}).(*connState)
	return st
}

// tcpServer is the server for the network. Public keys are the only way in.
func (r *Receiver) tcpServer(serving context.Context, open *sessions) *ssh.Server {
	srv := &ssh.Server{
		Version: sshVersion,
		Handler: open.handler(r.session),
		// Without this handler gliderlabs/ssh would turn NoClientAuth on, whatever
		// the config below says: a client without any key would be in.
		PublicKeyHandler: r.offered,
		ConnCallback:     func(ctx ssh.Context, c net.Conn) net.Conn { return r.connected(ctx, c, open) },
		ServerConfigCallback: func(ctx ssh.Context) *gossh.ServerConfig {
			return &gossh.ServerConfig{
				Config: gossh.Config{
					KeyExchanges: []string{"mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org"},
					// The client's order wins, and OpenSSH prefers chacha20-poly1305, which
					// is half as fast in Go.
					Ciphers: []string{"aes128-gcm@openssh.com", "aes256-gcm@openssh.com"},
					MACs:    []string{"hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"},
				},
				MaxAuthTries: maxAuthTries,
				PublicKeyAuthAlgorithms: []string{
					gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256,
					gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521,
					gossh.KeyAlgoRSASHA256, gossh.KeyAlgoRSASHA512,
				},
				PreAuthConnCallback: func(c gossh.ServerPreAuthConn) { state(ctx).banner = c },
				// What a client offers proves nothing: the identity is that of the key that
				// signed, and this runs after the signature (CVE-2024-45337).
				VerifiedPublicKeyCallback: func(_ gossh.ConnMetadata, key gossh.PublicKey, _ *gossh.Permissions, _ string) (*gossh.Permissions, error) {
					st := state(ctx)
					st.signedIn()
					r.unknownKeys.add(st.rejected)
					return &gossh.Permissions{Extensions: map[string]string{fingerprintExt: gossh.FingerprintSHA256(key)}}, nil
				},
			}
		},
	}
	r.common(serving, srv)
	return srv
}

// localServer is the server for mesh.sock: the socket's mode is the key.
func (r *Receiver) localServer(serving context.Context, open *sessions) *ssh.Server {
	srv := &ssh.Server{
		Version: sshVersion,
		Handler: open.handler(r.session),
		ConnCallback: func(ctx ssh.Context, c net.Conn) net.Conn {
			release := open.hold()
			time.AfterFunc(r.Grace, release)
			ctx.SetValue(connKey{}, &connState{signedIn: func() {}, release: release})
			return &earlyConn{Conn: c, closed: release}
		},
		ServerConfigCallback: func(ssh.Context) *gossh.ServerConfig {
			return &gossh.ServerConfig{
				NoClientAuth: true,
				NoClientAuthCallback: func(gossh.ConnMetadata) (*gossh.Permissions, error) {
					return &gossh.Permissions{Extensions: map[string]string{localExt: "yes"}}, nil
				},
			}
		},
	}
	r.common(serving, srv)
	return srv
}

// Names of what sign-in leaves in a connection's permissions.
const (
	fingerprintExt = "mesh-fingerprint"
	localExt       = "mesh-local"
)

func (r *Receiver) common(serving context.Context, srv *ssh.Server) {
	srv.AddHostKey(r.HostKey)
	srv.RequestHandlers = map[string]ssh.RequestHandler{}
	srv.SubsystemHandlers = map[string]ssh.SubsystemHandler{}
	srv.ChannelHandlers = map[string]ssh.ChannelHandler{
		"session": func(srv *ssh.Server, conn *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
			r.channel(serving, srv, conn, nc, ctx)
		},
	}
}

func (r *Receiver) serve(ctx context.Context, l net.Listener, server func(context.Context, *sessions) *ssh.Server) error {
	serving, cut := context.WithCancel(ctx)
	defer cut()
	open := newSessions(cut, func() { _ = l.Close() })
	srv := server(serving, open)
	r.servers.Store(open, nil)
	defer r.servers.Delete(open)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	err := srv.Serve(l)
	if ctx.Err() == nil && !open.retiring() {
		return fmt.Errorf("serve SSH on %s: %w", l.Addr(), err)
	}
	_ = open.waitIdle(ctx) // sessions may still begin, if it retires
	open.end()
	// ssh fails when it cannot say that it goes, whatever the session's status was.
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	_ = srv.Shutdown(leave)
	_ = srv.Close()
	return nil
}

// leaveTime is for clients to close their connections once their sessions have ended.
const leaveTime = time.Second

// Retire lets another process take the connections that come from now on, which
// wait in the listeners' queues until it does. It returns when nothing is left
// here that changes anything: sessions that only read from an instance or write to
// it (see mesh.Request.Parted) go on until Serve's context ends. When ctx ends
// first, all sessions are ended, and it returns ctx's cause.
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

// sessions counts the sessions of a server. A sync.WaitGroup would not do: a
// session may begin while the server already waits for the end of the others.
type sessions struct {
	cut   func() // ends all sessions
	close func() // closes the listener

	mu      sync.Mutex
	n       int
	ended   bool
	retired bool
	idle    chan struct{} // closed when the last one has gone after end
	// busy is the sessions that change something, and the connections whose first
	// session has yet to come: whoever has got in is served.
	busy  int
	quiet chan struct{} // closed when busy is 0, and made anew
}

func newSessions(cut, closeListener func()) *sessions {
	return &sessions{cut: cut, close: closeListener, idle: make(chan struct{}), quiet: make(chan struct{})}
}

// hold makes settled wait until release is called.
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

// waitIdle returns when nothing is held, or ctx's cause.
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

// retire closes the listener, and keeps sessions from connections that had one.
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
		s.mu.Lock()
		if s.ended || s.retired && !first {
			s.mu.Unlock()
			_, _ = fmt.Fprintf(sess.Stderr(), "error: %s\nhint:  try again\n", errStopping.Text)
			_ = sess.Exit(1)
			return
		}
		s.n++
		release := s.holdLocked()
		s.mu.Unlock()
		state(ctx).release()
		if ch, _ := ctx.Value(sessionKey{}).(*channelState); ch != nil {
			ch.part = release
		}
		defer func() {
			release()
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.n--; s.n == 0 && s.ended {
				close(s.idle)
			}
		}()
		next(sess)
	}
}

// end lets no more sessions begin and waits for those that are open.
func (s *sessions) end() {
	s.mu.Lock()
	s.ended = true
	if s.n == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	<-s.idle
}

// connected prepares a connection before anything is read from it.
func (r *Receiver) connected(ctx ssh.Context, c net.Conn, open *sessions) net.Conn {
	from := network(c.RemoteAddr())
	place, ok := r.gate.enter(ctx, from, queueTime)
	if !ok {
		r.refusals.note(func(more int) {
			r.Logger.Warn("too many connections that have not signed in", "remote", from, "more", more)
		})
		return nil
	}
	end := func() { _ = c.Close(); place.leave(false) }
	place.close.Store(&end)
	// gliderlabs/ssh resets deadlines at every read, so a slow client would never
	// run into one.
	timer := time.AfterFunc(r.Grace, end)
	release := open.hold()
	signedIn := sync.OnceFunc(func() {
		timer.Stop()
		place.leave(true)
		time.AfterFunc(r.Grace, release) // a master connection may never have a session
	})
	ctx.SetValue(connKey{}, &connState{signedIn: signedIn, release: release})
	return &earlyConn{Conn: watched{quickAck(c), place}, closed: func() { timer.Stop(); place.leave(false); release() }}
}

// earlyConn gives back what a connection has taken when it ends before its first
// session.
type earlyConn struct {
	net.Conn
	closed func()
}

func (c *earlyConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// offered tells whether some key has the public key that a client offers. A
// client whose key is unknown is told which one it was and what an admin has to
// type, unless the same key came along with a known one before.
func (r *Receiver) offered(ctx ssh.Context, pub ssh.PublicKey) bool {
	fp := gossh.FingerprintSHA256(pub)
	keys, err := r.Keys.Keys(ctx)
	if err != nil {
		r.Logger.Error("keys not readable", "err", err)
		return false
	}
	if slices.ContainsFunc(keys, func(k mesh.Key) bool { return k.Fingerprint == fp }) {
		return true
	}
	st := state(ctx)
	st.mu.Lock()
	defer st.mu.Unlock()
	if slices.Contains(st.rejected, fp) || len(st.rejected) > maxAuthTries {
		return false
	}
	st.rejected = append(st.rejected, fp)
	r.unknown.note(func(more int) {
		r.Logger.Info("unknown key", "key", fp, "remote", ctx.RemoteAddr().String(), "more", more)
	})
	if st.banner != nil && !r.unknownKeys.known(fp) {
		line := strings.TrimSpace(string(gossh.MarshalAuthorizedKey(pub)))
		_ = st.banner.SendAuthBanner(fmt.Sprintf("mesh: the key %s is not known here. An admin lets it in with:\n  ssh mesh ssh-keys:add NAME %s\n", fp, line))
	}
	if st.banner != nil && len(st.rejected) == maxAuthTries {
		_ = st.banner.SendAuthBanner(fmt.Sprintf("mesh: your ssh offered %d keys, and none is known here. If another one is, offer only that one:\n  ssh -o IdentitiesOnly=yes -i ~/.ssh/KEY …\n", maxAuthTries))
	}
	return false
}

// companions remembers unknown keys that were offered before a known one: the
// other keys in a user's agent, which are not worth a banner every time.
type companions struct {
	mu  sync.Mutex
	set map[string]bool
}

func newCompanions() *companions { return &companions{set: map[string]bool{}} }

func (c *companions) add(fps []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.set)+len(fps) > 10_000 {
		clear(c.set)
	}
	for _, fp := range fps {
		c.set[fp] = true
	}
}

func (c *companions) known(fp string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set[fp]
}

// channelState is what the client has asked of one session channel. The terminal
// is handled here and not by gliderlabs/ssh: its session rewrites line ends, and
// a window-change that nobody reads stops its request loop.
type channelState struct {
	mu     sync.Mutex
	tty    bool
	size   mesh.WindowSize
	resize chan mesh.WindowSize // holds the latest size only
	part   func()               // the session needs nothing but its connection from now on
	closed atomic.Bool          // the client takes no more output
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

// sessionContext ends with its channel, where gliderlabs' own ends only with the
// connection: with ControlMaster a Ctrl-C closes nothing but the channel.
type sessionContext struct {
	ssh.Context
	ctx context.Context
}

func (c sessionContext) Done() <-chan struct{}       { return c.ctx.Done() }
func (c sessionContext) Err() error                  { return c.ctx.Err() }
func (c sessionContext) Deadline() (time.Time, bool) { return c.ctx.Deadline() }
func (c sessionContext) Value(k any) any             { return c.ctx.Value(k) }

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
	// A client that reads no more would keep a session that has to end for ever: a
	// write to a channel without room is woken by nothing but the connection's end.
	defer context.AfterFunc(c, func() {
		wait := endWait
		switch cause := context.Cause(c); {
		case errors.Is(cause, errKeyRemoved):
			wait = shutOutWait
		case !errors.Is(cause, errStopping):
			return // the client has gone, and with it what waits for it
		}
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-returned:
		case <-t.C:
			r.Logger.Warn("a session that did not end is cut off", "remote", conn.RemoteAddr().String())
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

// signedIn is the sessions there are, by the fingerprints of their keys.
type signedIn struct {
	mu sync.Mutex
	by map[string]map[*session]bool
}

type session struct {
	cancel  context.CancelCauseFunc
	removed bool
}

func newSignedIn() *signedIn { return &signedIn{by: map[string]map[*session]bool{}} }

// enter counts a session in; removed tells whether its key has been removed since.
func (s *signedIn) enter(conn *gossh.ServerConn, cancel context.CancelCauseFunc) (leave func(), removed func() bool) {
	if conn == nil || conn.Permissions == nil {
		return func() {}, func() bool { return false }
	}
	fp, p := conn.Permissions.Extensions[fingerprintExt], &session{cancel: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[fp] == nil {
		s.by[fp] = map[*session]bool{}
	}
	s.by[fp][p] = true
	leave = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.by[fp], p); len(s.by[fp]) == 0 {
			delete(s.by, fp)
		}
	}
	return leave, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return p.removed
	}
}

func (s *signedIn) end(fp string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fp == "" {
		return // the local socket's
	}
	for p := range s.by[fp] {
		p.removed = true
		p.cancel(errKeyRemoved)
	}
}

// newChannel notices when its channel closes, and refuses the requests that mesh
// has no use for; gliderlabs/ssh would grant agent forwarding.
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
				// The client's output is closed: what it runs would get SIGPIPE from sshd.
				n.state.closed.Store(true)
				_ = req.Reply(true, nil)
				continue
			case "signal", "break":
				// OpenSSH's client sends none for a Ctrl-C: it closes the channel, or the
				// terminal passes the character on.
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

// writable is a channel that takes no more once its client has closed its output
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

// parsePTY reads the size out of a pty-req (RFC 4254, section 6.2).
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

// windowSize keeps what clients claim within what terminals have.
func windowSize(columns, rows uint32) mesh.WindowSize {
	return mesh.WindowSize{Width: int(min(columns, 10_000)), Height: int(min(rows, 10_000))}
}

// keepAlive closes a connection whose client has not answered three times in a
// row: a laptop that went to sleep holds no deployment.
func keepAlive(ctx context.Context, conn *gossh.ServerConn, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	answered := make(chan struct{}, 1)
	missed, asked := 0, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-answered:
			missed, asked = 0, false
		case <-t.C:
			if asked {
				if missed++; missed >= 3 {
					_ = conn.Close()
					return
				}
				continue
			}
			asked = true
			go func() {
				_, _, _ = conn.SendRequest("keepalive@openssh.com", true, nil)
				answered <- struct{}{}
			}()
		}
	}
}
