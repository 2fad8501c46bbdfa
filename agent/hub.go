package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"mesh"
)

// Handlers serve what agents ask for. Each call is for one connection, which is closed when it
// returns, in a goroutine of its own. They may be nil.
type Handlers struct {
	// Registry serves HTTP to the engine of a node.
	Registry func(ctx context.Context, node string, c net.Conn)
	// Names answers DNS messages, as over TCP, of the container with the address from.
	Names func(ctx context.Context, node string, from netip.Addr, c net.Conn)
	// Links serves the links of the container's stack.
	Links func(ctx context.Context, node string, from netip.Addr, c net.Conn)
	// Join serves machines that want to become nodes. They are not signed in.
	Join http.Handler
}

// HubOptions are what NewHub needs.
type HubOptions struct {
	Authority *Authority
	Handlers  Handlers
	// OnChange is called when an agent has connected or gone. It must not block.
	OnChange func()
	Logger   *slog.Logger // nil: slog.Default()
}

// Connected is an agent that is connected.
type Connected struct {
	Since    time.Time
	Version  string // of mesh
	Registry string // where the node's engine reaches mesh's registry: "127.0.0.1:5117"
}

// Hub is mesh's end of the wire. It may be used from several goroutines.
type Hub struct {
	o   HubOptions
	tls *tls.Config

	mu      sync.Mutex
	by      map[string]*link // by node: the newest
	all     map[*link]bool
	retired bool
}

// link is the connection of an agent.
type link struct {
	Connected
	node string
	mux  *yamux.Session
	end  context.CancelFunc
}

// NewHub returns a Hub.
func NewHub(o HubOptions) (*Hub, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.OnChange == nil {
		o.OnChange = func() {}
	}
	conf, err := o.Authority.serverTLS()
	if err != nil {
		return nil, err
	}
	return &Hub{o: o, tls: conf, by: map[string]*link{}, all: map[*link]bool{}}, nil
}

// Serve accepts agents until ctx ends, and then closes l. Those that are connected stay until
// Close.
func (h *Hub) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			h.o.Logger.Warn("an agent was not accepted", "err", err)
			select {
			case <-time.After(time.Second): // out of descriptors, for example
			case <-ctx.Done():
			}
			continue
		}
		go func() {
			if err := h.greet(c); err != nil {
				h.o.Logger.Warn("an agent did not sign in", "from", c.RemoteAddr().String(), "err", err)
				_ = c.Close()
			}
		}()
	}
}

// greet lets an agent in.
func (h *Hub) greet(raw net.Conn) error {
	c := tls.Server(raw, h.tls)
	_ = c.SetDeadline(time.Now().Add(helloTime))
	if err := c.Handshake(); err != nil { //nolint:noctx // it has a deadline
		return err
	}
	if c.ConnectionState().NegotiatedProtocol != alpn {
		_ = c.SetDeadline(time.Now().Add(joinTime))
		h.join(c)
		return nil
	}
	var is hello
	if err := hear(c, &is); err != nil {
		return err
	}
	if !plainID(is.Node) {
		return errors.Join(errors.New("it names no node"), say(c, welcome{Fault: "name your node"}))
	}
	if err := say(c, welcome{}); err != nil {
		return err
	}
	_ = c.SetDeadline(time.Time{})
	mux, err := yamux.Server(c, multiplexed())
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(context.Background())
	l := &link{Connected: Connected{Since: time.Now().UTC(), Version: is.Version, Registry: is.Registry}, node: is.Node, mux: mux, end: end}
	h.mu.Lock()
	if h.retired {
		h.mu.Unlock()
		end()
		return errors.Join(errors.New("this process has retired"), mux.Close())
	}
	h.by[l.node], h.all[l] = l, true
	h.mu.Unlock()
	h.o.Logger.Info("agent connected", "node", l.node, "from", raw.RemoteAddr().String(), "version", l.Version)
	h.o.OnChange()
	_ = accept(mux, func(c net.Conn, what, about string) { h.handle(ctx, l, c, what, about) })
	_ = mux.Close()
	end()
	h.mu.Lock()
	delete(h.all, l)
	if h.by[l.node] == l {
		delete(h.by, l.node)
	}
	h.mu.Unlock()
	h.o.Logger.Info("agent gone", "node", l.node)
	h.o.OnChange()
	return nil
}

// joinTime is how long a machine may take to fetch the agent.
const joinTime = 10 * time.Minute

// join serves the requests of a connection of a machine that wants to join.
func (h *Hub) join(c net.Conn) {
	if h.o.Handlers.Join == nil {
		_ = c.Close()
		return
	}
	l := newOneConn(c)
	s := &http.Server{Handler: h.o.Handlers.Join, ReadHeaderTimeout: helloTime, IdleTimeout: helloTime, ErrorLog: slog.NewLogLogger(h.o.Logger.Handler(), slog.LevelDebug)}
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			_ = l.Close()
		}
	}
	_ = s.Serve(l)
}

// oneConn is a listener that has one connection, and then waits for its end.
type oneConn struct {
	conn chan net.Conn
	addr net.Addr
	done chan struct{}
	once sync.Once
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conn: make(chan net.Conn, 1), addr: c.LocalAddr(), done: make(chan struct{})}
	l.conn <- c
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }

// plainID reports whether s can be the ID of a node.
func plainID(s string) bool {
	return len(s) > 0 && len(s) < 65 && !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}

func (h *Hub) handle(ctx context.Context, l *link, c net.Conn, what, about string) {
	from, err := netip.ParseAddr(about)
	switch hs := h.o.Handlers; {
	case what == forRegistry && hs.Registry != nil:
		hs.Registry(ctx, l.node, c)
	case what == forNames && err == nil && hs.Names != nil:
		hs.Names(ctx, l.node, from, c)
	case what == forLinks && err == nil && hs.Links != nil:
		hs.Links(ctx, l.node, from, c)
	}
}

// Nodes returns the agents that are connected, by the IDs of their nodes.
func (h *Hub) Nodes() map[string]Connected {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]Connected, len(h.by))
	for id, l := range h.by {
		out[id] = l.Connected
	}
	return out
}

// Dial connects to the engine of a node. Without an agent, the error is Unavailable.
func (h *Hub) Dial(ctx context.Context, node string) (net.Conn, error) {
	return h.ask(ctx, node, forEngine)
}

func (h *Hub) ask(ctx context.Context, node, what string, about ...string) (net.Conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	h.mu.Lock()
	l := h.by[node]
	h.mu.Unlock()
	if l == nil {
		return nil, mesh.Errorf(mesh.Unavailable, "the agent of the node is not connected")
	}
	c, err := open(l.mux, what, about...)
	if err != nil {
		return nil, mesh.Errorf(mesh.Unavailable, "the agent of the node does not answer: %w", err)
	}
	return c, nil
}

// Listen tells an agent to accept names and links at an address of its node. It may be called
// again.
func (h *Hub) Listen(ctx context.Context, node string, at netip.Addr) error {
	c, err := h.ask(ctx, node, forListen, at.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(helloTime))
	var got welcome
	if err := hear(c, &got); err != nil {
		return fmt.Errorf("names and links of node %s: %w", node, err)
	}
	if got.Fault != "" {
		return fmt.Errorf("names and links of node %s: %s", node, mesh.Visible(got.Fault))
	}
	return nil
}

// Retire tells all agents to connect once more, to another process of mesh. Their present
// connections stay until Close, for what uses them.
func (h *Hub) Retire() {
	h.mu.Lock()
	h.retired = true
	var all []*link
	for _, l := range h.by {
		all = append(all, l)
	}
	h.mu.Unlock()
	for _, l := range all {
		if c, err := open(l.mux, forRetire); err == nil {
			_ = c.Close()
		}
	}
}

// Resume accepts agents again after Retire.
func (h *Hub) Resume() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retired = false
}

// Close ends all connections.
func (h *Hub) Close() {
	h.mu.Lock()
	h.retired = true
	var all []*link
	for l := range h.all {
		all = append(all, l)
	}
	h.mu.Unlock()
	for _, l := range all {
		_ = l.mux.Close()
	}
}
