package names

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"mesh"
)

// Containers of networks across nodes all reach their own node over one bridge. There, the name
// server finds out by the address of a container whose it is.

// Whose returns the stack of the container with an address in the bridge of a node; ok is false
// if there is none.
type Whose func(ctx context.Context, from netip.Addr) (stack mesh.StackName, ok bool)

// shared is the name of the zone for containers of all stacks. No stack has it.
const shared mesh.StackName = ""

// asks returns for whom a query is answered.
func (z *zone) asks(ctx context.Context, from netip.Addr) (mesh.StackName, bool) {
	if z.whose != nil {
		return z.whose(ctx, from)
	}
	return z.stack, z.from.Contains(from)
}

// OpenShared makes names known, and links work, at an address of this machine that containers of
// all stacks reach. It returns the name servers for them, or none if mesh cannot listen there.
func (s *Server) OpenShared(at netip.Addr, whose Whose) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.zones[shared]
	if z == nil || z.at != at || z.fault != nil {
		was := z
		if was != nil {
			was.close()
		}
		z = &zone{stack: shared, at: at, whose: whose, told: was != nil && was.told && was.at == at}
		s.zones[shared] = z
		s.listen(z)
	}
	if z.fault != nil || s.o.Blocked != nil && s.o.Blocked() {
		return nil
	}
	return append([]netip.Addr{at}, s.fallback()...)
}

// CloseShared ends OpenShared.
func (s *Server) CloseShared() { s.Close(shared) }

// AnswerConn answers the DNS messages of a connection, as over TCP (RFC 1035, 4.2.2), of a
// container of a stack, until it ends. at is where its links lead.
func (s *Server) AnswerConn(ctx context.Context, stack mesh.StackName, at netip.Addr, c net.Conn) {
	z := &zone{stack: stack, at: at, whose: func(context.Context, netip.Addr) (mesh.StackName, bool) { return stack, true }}
	d := dns.Conn{Conn: c}
	for range tcpQueries {
		_ = c.SetReadDeadline(time.Now().Add(queryIdle))
		q, err := d.ReadMsg()
		if err != nil {
			return
		}
		s.answer(ctx, z, &connWriter{Conn: d}, q)
	}
}

// queryIdle is how long a connection for names may be silent.
const queryIdle = 10 * time.Second

// connWriter is a dns.ResponseWriter on a connection that no dns.Server has.
type connWriter struct{ dns.Conn }

func (w *connWriter) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (w *connWriter) RemoteAddr() net.Addr { return &net.TCPAddr{} }
func (w *connWriter) TsigStatus() error    { return nil }
func (w *connWriter) TsigTimersOnly(bool)  {}
func (w *connWriter) Hijack()              {}
func (w *connWriter) WriteMsg(m *dns.Msg) error {
	return w.Conn.WriteMsg(m)
}

// doors are the listeners of stacks for links that come from elsewhere.
type doors struct {
	mu sync.Mutex
	by map[mesh.StackName]*door
}

// door is a listener that connections are handed to.
type door struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}
func (d *door) Close() error   { d.once.Do(func() { close(d.done) }); return nil }
func (d *door) Addr() net.Addr { return &net.TCPAddr{} }

// Link serves a connection of a container of a stack to its links. It returns at once.
func (s *Server) Link(stack mesh.StackName, c net.Conn) {
	s.mu.Lock()
	ctx := s.run
	s.mu.Unlock()
	if s.o.Door == nil || ctx == nil || ctx.Err() != nil {
		_ = c.Close()
		return
	}
	s.doors.mu.Lock()
	d := s.doors.by[stack]
	if d == nil {
		d = &door{conns: make(chan net.Conn), done: make(chan struct{})}
		if s.doors.by == nil {
			s.doors.by = map[mesh.StackName]*door{}
		}
		s.doors.by[stack] = d
		s.all.Go(func() {
			s.o.Door(ctx, d, stack)
			_ = d.Close()
			s.doors.mu.Lock()
			defer s.doors.mu.Unlock()
			if s.doors.by[stack] == d {
				delete(s.doors.by, stack)
			}
		})
	}
	s.doors.mu.Unlock()
	select {
	case d.conns <- c:
	case <-d.done:
		_ = c.Close()
	}
}

// serveDoors hands the connections of a shared zone to the doors of their stacks.
func (s *Server) serveDoors(ctx context.Context, z *zone) {
	stop := context.AfterFunc(ctx, func() { _ = z.door.Close() })
	defer stop()
	for {
		c, err := z.door.Accept()
		if err != nil {
			return
		}
		go func() {
			if stack, ok := z.whose(ctx, sender(c.RemoteAddr())); ok {
				s.Link(stack, c)
			} else {
				_ = c.Close()
			}
		}()
	}
}
