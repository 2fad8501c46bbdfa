// Package names makes services reachable by name: it answers the DNS queries of stacks'
// instances, and opens the doors through which they reach other stacks that they are
// linked to.
//
//	s := names.New(names.Options{Door: serveDoor, Logger: log})
//	s.Use(table)                                   // what names mean
//	servers := s.Open("blog", gateway, subnet)     // for the containers of this network
//	err := s.Run(ctx)                              // answers until ctx ends
//
// It listens on the address that mesh has in each stack's network, and answers only
// containers of that network. Names that the table does not know are asked of the
// machine's own name servers.
//
// Docker's own names cannot do this: it answers with every container that is connected,
// whether it is healthy or not, and a container's names cannot change without
// disconnecting it.
package names

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"mesh"
)

// dnsPort is where DNS servers listen (RFC 1035, 4.2): the engine cannot be told another one.
const dnsPort = 53

// Table knows what names mean. It must answer at once, to many goroutines.
type Table interface {
	// Resolve returns what a name means to the instances of a stack. known is false if
	// it is no name of mesh's.
	Resolve(stack mesh.StackName, name string) (r mesh.Resolution, known bool)
}

// Options are what New needs.
type Options struct {
	// Door serves the links of a stack on a listener, until ctx ends; it closes the
	// listener. nil: no doors are opened.
	Door func(ctx context.Context, l net.Listener, stack mesh.StackName)
	// Inherited returns a socket that the process before this one has passed on, by its
	// name; nil: there is none. The caller closes the file.
	Inherited func(name string) *os.File
	// Resolv is the file with the machine's name servers; empty: /etc/resolv.conf.
	Resolv string
	// Daemon is the engine's settings file, whose "dns" goes before Resolv; empty:
	// /etc/docker/daemon.json.
	Daemon string
	// Blocked reports whether a firewall keeps containers from the addresses of this
	// machine; nil: it does not. New containers then have the engine's name servers alone:
	// with one that does not answer, each of their queries would take seconds.
	Blocked func() bool
	// Logger gets what an operator should know; nil: nothing is logged.
	Logger *slog.Logger
}

// Server answers the queries of all networks. Make one with New; its methods may be
// called from several goroutines.
type Server struct {
	o     Options
	log   *slog.Logger
	up    *upstream
	table atomic.Pointer[Table]

	port, doorPort uint16

	mu    sync.Mutex
	zones map[mesh.StackName]*zone
	run   context.Context // of Run; nil: it has not begun
	all   sync.WaitGroup  // of what serves
	doors doors
}

// zone is the network of one stack.
type zone struct {
	stack mesh.StackName
	at    netip.Addr   // mesh's own
	from  netip.Prefix // its containers
	udp   net.PacketConn
	tcp   net.Listener
	door  net.Listener // nil: it could not be opened, or there are none
	end   context.CancelFunc
	fault error // why it does not answer; nil: it does
	shut  error // why its door could not be opened; nil: it is open
	told  bool  // the fault was logged
	whose Whose // of a network that containers of all stacks are in; nil: all are of one
}

// New returns a Server without networks. It listens to nothing yet.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Resolv == "" {
		o.Resolv = "/etc/resolv.conf"
	}
	if o.Daemon == "" {
		o.Daemon = "/etc/docker/daemon.json"
	}
	return &Server{o: o, log: o.Logger, up: &upstream{file: o.Resolv, port: "53", busy: make(chan struct{}, maxBusy)}, port: dnsPort, doorPort: mesh.LinkPort, zones: map[mesh.StackName]*zone{}}
}

// Use sets the table, at once. Without one, no name is known.
func (s *Server) Use(t Table) { s.table.Store(&t) }

// Open makes the names of a stack known in its network, in which mesh has the address at,
// and returns the name servers for containers in it: mesh, and behind it those that
// answer for other names while mesh restarts. It returns none if mesh cannot listen
// there; the next call tries again. A call for a network that is already open reads a few
// small files. Sockets are read once Run has begun: until then queries wait.
func (s *Server) Open(stack mesh.StackName, at netip.Addr, from netip.Prefix) []netip.Addr {
	if !at.Is4() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.zones[stack]
	if z == nil || z.at != at || z.from != from || z.fault != nil {
		was := z
		if was != nil {
			was.close()
		}
		z = &zone{stack: stack, at: at, from: from}
		z.told = was != nil && was.told && was.at == at
		s.zones[stack] = z
		s.listen(z)
	}
	if z.fault != nil || s.o.Blocked != nil && s.o.Blocked() {
		return nil
	}
	return append([]netip.Addr{at}, s.fallback()...)
}

func (s *Server) faultLocked(z *zone, err error) {
	z.fault = err
	if !z.told {
		s.log.Warn("the names of services are not known in a stack's network", "stack", z.stack, "address", z.at.String(), "err", err)
	}
	z.told = true
}

// listen opens the sockets of a zone.
func (s *Server) listen(z *zone) {
	var err error
	if z.udp, err = s.packets(z.at); err == nil {
		z.tcp, err = s.stream(z.at, s.port)
	}
	if err != nil {
		z.close()
		s.faultLocked(z, err)
		return
	}
	if s.o.Door != nil {
		if z.door, err = s.stream(z.at, s.doorPort); err != nil {
			z.shut = err
			s.log.Warn("links do not work in a stack's network", "stack", z.stack, "address", z.at.String(), "err", err)
		}
	}
	if s.run != nil {
		s.serveLocked(z)
	}
}

// config lets a socket be opened for an address that the machine is about to get: after a
// reboot, the engine makes the networks when it is ready.
var config = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) //nolint:gosec // a descriptor
	}); cerr != nil {
		return cerr
	}
	return err
}}

// packets opens the UDP socket of an address, or takes over that of the process before.
func (s *Server) packets(at netip.Addr) (net.PacketConn, error) {
	to := netip.AddrPortFrom(at, s.port).String()
	if f := s.inherited("udp", to); f != nil {
		defer f.Close()
		return net.FilePacketConn(f)
	}
	return config.ListenPacket(context.Background(), "udp4", to) // it does not wait
}

// stream is packets for TCP.
func (s *Server) stream(at netip.Addr, port uint16) (net.Listener, error) {
	to := netip.AddrPortFrom(at, port).String()
	if f := s.inherited("tcp", to); f != nil {
		defer f.Close()
		return net.FileListener(f)
	}
	return config.Listen(context.Background(), "tcp4", to)
}

func (s *Server) inherited(network, addr string) *os.File {
	if s.o.Inherited == nil {
		return nil
	}
	return s.o.Inherited(socketName(network, addr))
}

func socketName(network, addr string) string { return network + " " + addr }

// Close forgets the network of a stack.
func (s *Server) Close(stack mesh.StackName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if z := s.zones[stack]; z != nil {
		z.close()
		delete(s.zones, stack)
	}
}

func (z *zone) close() {
	if z.end != nil {
		z.end()
	}
	if z.udp != nil {
		_ = z.udp.Close()
	}
	for _, l := range []net.Listener{z.tcp, z.door} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// Run answers queries until ctx ends, and then closes all sockets. It returns once
// everything has been answered. Those that another process has taken over stay open
// there.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	s.run = ctx
	for _, z := range s.zones {
		if z.fault == nil {
			s.serveLocked(z)
		}
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	for _, z := range s.zones {
		z.close()
	}
	clear(s.zones)
	s.mu.Unlock()
	s.all.Wait()
	return ctx.Err()
}

// serveLocked answers the queries of a zone until it is closed.
func (s *Server) serveLocked(z *zone) {
	ctx, end := context.WithCancel(s.run)
	z.end = end
	if ctx.Err() != nil {
		return
	}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.answer(ctx, z, w, q) })
	for _, d := range []*dns.Server{{PacketConn: z.udp, Handler: h}, {Listener: z.tcp, Handler: h, MaxTCPQueries: tcpQueries}} {
		s.all.Go(func() {
			if err := d.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
				s.log.Error("a DNS server has ended", "stack", z.stack, "err", err)
			}
		})
	}
	if z.door != nil && z.whose != nil {
		s.all.Go(func() { s.serveDoors(ctx, z) })
	} else if z.door != nil {
		s.all.Go(func() { s.o.Door(ctx, ownOnly{z.door, z.from}, z.stack) })
	}
}

// ownOnly is a listener that closes connections from outside of a network: every container
// on the machine can connect to it.
type ownOnly struct {
	net.Listener
	from netip.Prefix
}

// Accept returns the next connection from the network.
func (l ownOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || l.from.Contains(sender(c.RemoteAddr())) {
			return c, err
		}
		_ = c.Close()
	}
}

// tcpQueries is how many queries one connection may send. Without a limit, a client could
// keep a goroutine for ever.
const tcpQueries = 128

// Socket is an open socket that another process can go on with.
type Socket struct {
	Name string
	File *os.File // a copy: the receiver closes it
}

// Sockets returns the open sockets, for Options.Inherited in the next process. Both may
// read them at the same time: a query is answered by one of them.
func (s *Server) Sockets() ([]Socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Socket
	var faults []error
	for _, z := range s.zones {
		if z.fault != nil {
			continue
		}
		for _, x := range []struct {
			network string
			socket  any
			addr    netip.AddrPort
		}{
			{"udp", z.udp, netip.AddrPortFrom(z.at, s.port)}, {"tcp", z.tcp, netip.AddrPortFrom(z.at, s.port)}, {"tcp", z.door, netip.AddrPortFrom(z.at, s.doorPort)},
		} {
			filer, ok := x.socket.(interface{ File() (*os.File, error) })
			if !ok {
				continue // no door
			}
			f, err := filer.File()
			if err != nil {
				faults = append(faults, fmt.Errorf("copy the socket at %s: %w", x.addr, err))
				continue
			}
			out = append(out, Socket{socketName(x.network, x.addr.String()), f})
		}
	}
	return out, errors.Join(faults...)
}

// Faults returns the stacks in whose networks names are not known, with the reason.
func (s *Server) Faults() map[mesh.StackName]error {
	return s.where(func(z *zone) error { return z.fault })
}

// Shut returns the stacks in whose networks links do not work, with the reason.
func (s *Server) Shut() map[mesh.StackName]error {
	return s.where(func(z *zone) error { return z.shut })
}

// where returns the stacks whose networks have an error.
func (s *Server) where(why func(*zone) error) map[mesh.StackName]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[mesh.StackName]error{}
	for _, z := range s.zones {
		if err := why(z); err != nil {
			out[z.stack] = err
		}
	}
	return out
}

// fallback returns the name servers that a container asks when mesh does not answer.
func (s *Server) fallback() []netip.Addr {
	list := daemonServers(s.o.Daemon)
	if len(list) == 0 {
		list = slices.DeleteFunc(resolvServers(s.o.Resolv), netip.Addr.IsLoopback)
	}
	if len(list) == 0 {
		// systemd-resolved keeps the real ones here (resolved.conf(5), "/etc/resolv.conf").
		list = slices.DeleteFunc(resolvServers("/run/systemd/resolve/resolv.conf"), netip.Addr.IsLoopback)
	}
	return list[:min(len(list), maxServers-1)]
}

// maxServers is how many name servers the engine passes queries on to (moby,
// libnetwork/resolver.go, maxExtDNS).
const maxServers = 3
