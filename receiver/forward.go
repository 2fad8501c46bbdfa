package receiver

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

// Dialer connects clients with add-ons.
type Dialer interface {
	// DialAddon connects to the server of an add-on. Its error is NotFound if the key may
	// not use it, or if it has no such port.
	DialAddon(ctx context.Context, key mesh.Key, name mesh.AddonName, port int) (net.Conn, error)
}

// maxForwards is the number of connections that one SSH connection may forward. A pool of
// database connections is smaller.
const maxForwards = 100

// dialTime limits how long a forwarded connection may take until it stands.
const dialTime = 10 * time.Second

// directTCP is what a client says of the connection that it wants (RFC 4254, 7.2).
type directTCP struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// forward serves one channel of type direct-tcpip, as "ssh -L 5432:NAME:5432" opens for
// each connection: to add-ons that the key may use, and to nothing else.
func (r *Receiver) forward(serving context.Context, conn *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
	refuse := func(why gossh.RejectionReason, err error) {
		text := "error: internal error"
		var e *mesh.Error
		if errors.As(err, &e) {
			text = e.Text
		} else {
			r.Logger.Error("connection not forwarded", "err", err)
		}
		_ = nc.Reject(why, text)
	}
	var to directTCP
	if err := gossh.Unmarshal(nc.ExtraData(), &to); err != nil {
		refuse(gossh.ConnectionFailed, mesh.Errorf(mesh.Invalid, "the request cannot be read"))
		return
	}
	name, err := mesh.ParseAddonName(strings.TrimSuffix(strings.ToLower(to.Host), ".mesh"))
	if err != nil || to.Port > 65535 {
		refuse(gossh.Prohibited, mesh.Errorf(mesh.Denied, "mesh forwards connections to add-ons only: ssh -L 5432:NAME:5432"))
		return
	}
	st := state(ctx)
	if !st.forwards(1) {
		refuse(gossh.ResourceShortage, mesh.Errorf(mesh.Conflict, "too many forwarded connections"))
		return
	}
	defer st.forwards(-1)
	c, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(serving, func() { cancel(errStopping) })()
	leave, _ := r.open.enter(conn, cancel) // the end of a removed key's sessions is also theirs
	defer leave()
	key, err := r.identify(ctx)
	if err != nil {
		refuse(gossh.Prohibited, err)
		return
	}
	dial, stop := context.WithTimeout(c, dialTime)
	defer stop()
	server, err := r.Dialer.DialAddon(dial, key, name, int(to.Port)) //nolint:gosec // checked above
	if err != nil {
		refuse(gossh.ConnectionFailed, err)
		return
	}
	defer server.Close()
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer func() { _ = ch.Close() }()
	go gossh.DiscardRequests(requests)
	defer context.AfterFunc(c, func() { _ = server.Close(); _ = ch.Close() })()
	both(ch, server)
}

// forwards counts forwarded connections; false: there are too many.
func (st *connState) forwards(n int) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if n > 0 && st.forwarded >= maxForwards {
		return false
	}
	st.forwarded += n
	return true
}

// half is a connection of which one direction can end by itself.
type half interface {
	io.ReadWriter
	CloseWrite() error
}

// both passes on what each side sends until both have ended.
func both(client gossh.Channel, server net.Conn) {
	var all sync.WaitGroup
	pass := func(to io.Writer, from io.Reader, end func()) {
		_, _ = io.Copy(to, from) // an end of either side ends the connection
		end()
	}
	all.Go(func() {
		pass(server, client, func() {
			if h, ok := server.(half); ok {
				_ = h.CloseWrite()
			}
		})
	})
	all.Go(func() { pass(client, server, func() { _ = client.CloseWrite() }) })
	all.Wait()
}
