package receiver

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// Limits of the SSH server; gate.go has those of connections that have not signed in.
const (
	maxSessions  = 10 // per connection, as sshd's MaxSessions
	maxEnv       = 64 // env requests per session
	maxAuthTries = 6  // agents offer many keys

	// sshVersion begins like OpenSSH's because its client reports closed output only to
	// such servers (eow@openssh.com; compat.c, SSH_NEW_OPENSSH).
	sshVersion = "OpenSSH_mesh"

	removedWait = 15 * time.Second // for the sessions of a removed key: the engine takes some seconds to kill a build step
	endWait     = time.Minute      // for the sessions of a stopping server: a rollout past its release is finished
)

// Keys of values in an ssh.Context.
type (
	connKey    struct{} // *connState
	sessionKey struct{} // *channelState
)

// connState is the state of a connection, in its ssh.Context.
type connState struct {
	mu       sync.Mutex
	banner   gossh.ServerPreAuthConn
	rejected []string // offered fingerprints of unknown keys
	signedIn func()   // stops the login timer and frees the place at the gate
	release  func()   // lets the server retire without waiting for a first session
	sessions int
	served   bool // it has had a session

	forwarded int // connections
}

// firstSession reports whether the connection has had no session yet.
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

// tcpServer returns the server for the network. Only public keys can sign in.
func (r *Receiver) tcpServer(serving context.Context, open *sessions) *ssh.Server {
	srv := &ssh.Server{
		Version: sshVersion,
		Handler: open.handler(r.session),
		// Without this handler gliderlabs/ssh would turn NoClientAuth on, whatever the
		// config below says: a client without a key could sign in.
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
				PublicKeyAuthAlgorithms: []string{ // and certificates of such keys
					gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256,
					gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521,
					gossh.KeyAlgoRSASHA256, gossh.KeyAlgoRSASHA512,
				},
				PreAuthConnCallback: func(c gossh.ServerPreAuthConn) { state(ctx).banner = c },
				// An offered key proves nothing. The identity is the key that signed,
				// and this runs after the signature (CVE-2024-45337).
				VerifiedPublicKeyCallback: func(_ gossh.ConnMetadata, key gossh.PublicKey, _ *gossh.Permissions, _ string) (*gossh.Permissions, error) {
					return r.permissions(ctx, key)
				},
			}
		},
	}
	r.common(serving, srv, open)
	return srv
}

// localServer returns the server for mesh.sock, which the mode of the socket protects.
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
	r.common(serving, srv, open)
	return srv
}

// Names of the values that sign-in leaves in a connection's permissions.
const (
	signInExt      = "mesh-sign-in"     // mesh.Key.SignIn
	certificateExt = "mesh-certificate" // the certificate, in the form of authorized_keys; empty: a key
	localExt       = "mesh-local"
)

func (r *Receiver) common(serving context.Context, srv *ssh.Server, open *sessions) {
	srv.AddHostKey(r.HostKey)
	srv.RequestHandlers = map[string]ssh.RequestHandler{}
	srv.SubsystemHandlers = map[string]ssh.SubsystemHandler{"sftp": ssh.SubsystemHandler(open.handler(r.sftp))}
	srv.ChannelHandlers = map[string]ssh.ChannelHandler{
		"session": func(srv *ssh.Server, conn *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
			r.channel(serving, srv, conn, nc, ctx)
		},
		"direct-tcpip": func(_ *ssh.Server, conn *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
			r.forward(serving, conn, nc, ctx)
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
	// ssh exits with an error if it cannot send its goodbye, whatever the session's
	// status was.
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	_ = srv.Shutdown(leave)
	_ = srv.Close()
	return nil
}

// leaveTime is how long clients have to close their connections after their sessions
// have ended.
const leaveTime = time.Second

// connected prepares a connection before anything is read from it.
func (r *Receiver) connected(ctx ssh.Context, c net.Conn, open *sessions) net.Conn {
	from := network(c.RemoteAddr())
	place, ok := r.gate.enter(ctx, from, queueTime)
	if !ok {
		r.refusals.note(func(more int) {
			r.Logger.Warn("too many connections that have not authenticated", "remote", from, "more", more)
		})
		return nil
	}
	end := func() { _ = c.Close(); place.leave(false) }
	place.close.Store(&end)
	// gliderlabs/ssh resets deadlines at every read, so a slow client would never reach
	// one.
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

// earlyConn gives back what a connection has taken if it ends before its first session.
type earlyConn struct {
	net.Conn
	closed func()
}

func (c *earlyConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
