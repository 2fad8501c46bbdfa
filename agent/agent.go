package agent

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"mesh"
)

// Options are what Run needs.
type Options struct {
	Node    string      // the ID of this node in the swarm
	Version string      // of mesh
	Servers []string    // addresses of mesh; the first that answers is used
	TLS     *tls.Config // of ParsePass
	Engine  string      // the socket of this node's engine; empty: /var/run/docker.sock
	// Port is where this node's engine reaches mesh's registry, on the loopback interface,
	// which engines trust without TLS; 0: RegistryPort. The next ones are tried as well.
	Port int
	// DNSPort and LinkPort are those of names and links; 0: 53 and mesh's own.
	DNSPort, LinkPort uint16
	Logger            *slog.Logger // nil: slog.Default()
}

// RegistryPort is where an agent offers mesh's registry.
const RegistryPort = 5117

// Agent is a node's end of the wire.
type Agent struct {
	Options
	registry net.Listener

	mu     sync.Mutex
	mux    *yamux.Session // the newest; nil: not connected
	at     map[netip.Addr]io.Closer
	closed bool
}

// Run serves the node until ctx ends. It connects again whenever the connection breaks.
func Run(ctx context.Context, o Options) error {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Engine == "" {
		o.Engine = "/var/run/docker.sock"
	}
	if o.Port == 0 {
		o.Port = RegistryPort
	}
	if o.DNSPort == 0 {
		o.DNSPort = 53
	}
	a := &Agent{Options: o, at: map[netip.Addr]io.Closer{}}
	if a.LinkPort == 0 {
		a.LinkPort = mesh.LinkPort
	}
	if err := a.offerRegistry(ctx); err != nil {
		return err
	}
	defer a.close()
	var all sync.WaitGroup
	defer all.Wait()
	delay := firstDelay
	for ctx.Err() == nil {
		again := make(chan struct{}) // closed when another connection is wanted
		began := time.Now()
		all.Go(func() {
			want := sync.OnceFunc(func() { close(again) })
			defer want()
			if err := a.serve(ctx, want); err != nil && ctx.Err() == nil {
				o.Logger.Warn("mesh is not reached", "err", err)
			}
		})
		<-again
		if time.Since(began) > 10*mostDelay {
			delay = firstDelay
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
		delay = min(2*delay, mostDelay)
	}
	return nil
}

const (
	firstDelay = 20 * time.Millisecond
	mostDelay  = time.Second
)

// offerRegistry listens for this node's engine.
func (a *Agent) offerRegistry(ctx context.Context) (err error) {
	for n := range 10 { // the agent of before may still be there
		if a.registry, err = new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", a.Port+n)); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("offer the registry to this node's engine: %w", err)
	}
	go a.forward(a.registry, func(net.Addr) []string { return []string{forRegistry} })
	return nil
}

// forward passes connections on to mesh, until the listener is closed.
func (a *Agent) forward(l net.Listener, what func(from net.Addr) []string) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			time.Sleep(100 * time.Millisecond) //nolint:forbidigo // out of descriptors: there is nothing to wait for
			continue
		}
		go func() {
			defer c.Close()
			to, err := a.open(what(c.RemoteAddr()))
			if err != nil {
				a.Logger.Debug("a connection was not passed on", "err", err)
				return
			}
			join(c, to)
		}()
	}
}

// open opens a stream to mesh.
func (a *Agent) open(what []string) (net.Conn, error) {
	a.mu.Lock()
	mux := a.mux
	a.mu.Unlock()
	if mux == nil {
		return nil, errors.New("mesh is not connected")
	}
	return open(mux, what[0], what[1:]...)
}

// serve connects to mesh and serves it until the connection ends. It calls again when mesh
// wants another connection beside this one.
func (a *Agent) serve(ctx context.Context, again func()) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(helloTime))
	var got welcome
	if err := errors.Join(say(c, hello{Node: a.Node, Version: a.Version, Registry: a.registry.Addr().String()}), hear(c, &got)); err != nil {
		return err
	}
	if got.Fault != "" {
		return errors.New("mesh refuses this agent: " + got.Fault)
	}
	_ = c.SetDeadline(time.Time{})
	mux, err := yamux.Client(c, multiplexed())
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = mux.Close() })
	defer stop()
	a.mu.Lock()
	a.mux = mux
	a.mu.Unlock()
	a.Logger.Info("connected to mesh", "at", c.RemoteAddr().String())
	err = accept(mux, func(c net.Conn, what, about string) { a.handle(ctx, c, what, about, again) })
	a.mu.Lock()
	if a.mux == mux {
		a.mux = nil
	}
	a.mu.Unlock()
	return err
}

// dial connects to the first server that answers.
func (a *Agent) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	var all []error
	for _, at := range a.Servers {
		c, err := (&tls.Dialer{Config: a.TLS, NetDialer: &net.Dialer{Timeout: 3 * time.Second}}).DialContext(ctx, "tcp", at)
		if err == nil {
			return c, nil
		}
		all = append(all, err)
	}
	return nil, errors.Join(all...)
}

func (a *Agent) handle(ctx context.Context, c net.Conn, what, about string, again func()) {
	switch what {
	case forEngine:
		e, err := new(net.Dialer).DialContext(ctx, "unix", a.Engine)
		if err != nil {
			a.Logger.Warn("the engine of this node is not reached", "err", err)
			return
		}
		join(c, e)
	case forListen:
		var w welcome
		if at, err := netip.ParseAddr(about); err != nil {
			w.Fault = "not an address"
		} else if err := a.listen(ctx, at); err != nil {
			w.Fault = err.Error()
		}
		_ = say(c, w)
	case forRetire:
		again()
	}
}

// listen accepts names and links at an address of this node.
func (a *Agent) listen(ctx context.Context, at netip.Addr) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at[at] != nil || a.closed {
		return nil
	}
	var open closers
	conf := net.ListenConfig{}
	dns := netip.AddrPortFrom(at, a.DNSPort).String()
	udp, err := conf.ListenPacket(ctx, "udp", dns)
	if err != nil {
		return err
	}
	open = append(open, udp)
	tcp, err := conf.Listen(ctx, "tcp", dns)
	if err != nil {
		return errors.Join(err, open.Close())
	}
	open = append(open, tcp)
	links, err := conf.Listen(ctx, "tcp", netip.AddrPortFrom(at, a.LinkPort).String())
	if err != nil {
		return errors.Join(err, open.Close())
	}
	a.at[at] = append(open, links)
	go a.datagrams(udp)
	go a.forward(tcp, func(from net.Addr) []string { return []string{forNames, host(from)} })
	go a.forward(links, func(from net.Addr) []string { return []string{forLinks, host(from)} })
	return nil
}

func host(a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return ""
	}
	return at.Addr().Unmap().String()
}

// datagrams passes DNS messages on that came over UDP, as over TCP, and the answers back.
func (a *Agent) datagrams(c net.PacketConn) {
	busy := make(chan struct{}, 256)
	for {
		msg := make([]byte, 2+4096)
		n, from, err := c.ReadFrom(msg[2:])
		if err != nil {
			return
		}
		select {
		case busy <- struct{}{}:
		default:
			continue // the client asks again
		}
		go func() {
			defer func() { <-busy }()
			if answer, err := a.query(host(from), msg[:2+n]); err == nil {
				_, _ = c.WriteTo(answer, from)
			}
		}()
	}
}

// queryTime is how long an answer may take: a client asks another server after 5 s
// (resolv.conf(5), timeout).
const queryTime = 5 * time.Second

// query passes one DNS message on; the first two bytes are for its length.
func (a *Agent) query(from string, msg []byte) (answer []byte, err error) {
	to, err := a.open([]string{forNames, from})
	if err != nil {
		return nil, err
	}
	defer to.Close()
	_ = to.SetDeadline(time.Now().Add(queryTime))
	binary.BigEndian.PutUint16(msg, uint16(len(msg)-2)) //nolint:gosec // at most 4096
	if _, err := to.Write(msg); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(to, size[:]); err != nil {
		return nil, err
	}
	answer = make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err = io.ReadFull(to, answer)
	return answer, err
}

type closers []io.Closer

func (all closers) Close() (err error) {
	for _, c := range all {
		err = errors.Join(err, c.Close())
	}
	return err
}

// close closes all listeners.
func (a *Agent) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	_ = a.registry.Close()
	for _, c := range a.at {
		_ = c.Close()
	}
}
