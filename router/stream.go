package router

import (
	"context"
	"net"
	"net/netip"
	"time"

	"mesh"
)

// protoTCP is AccessRecord.Proto of a connection on a TCP port.
const protoTCP = "TCP"

// stream is a connection on a TCP port, until it is a tunnel.
type stream struct {
	router *Router
	front  *tcpFront
	wave   *wave
	port   *port
	client net.Conn
	begun  time.Duration // on the router's clock
	addr   netip.Addr    // of the client
	rec    AccessRecord
	entry  *entry
	pool   *pool // of the service; nil: not known yet
	target *target
}

// serve finds an instance, and starts to copy. Nothing is read from the client before:
// in many protocols the server speaks first.
func (s *stream) serve() {
	r := s.router
	s.rec = AccessRecord{Time: r.opts.Now(), Proto: protoTCP, Method: protoTCP, Host: mesh.PortText(s.port.number)}
	if a, ok := peerAddr(s.client); ok {
		s.addr, s.rec.ClientIP = a, a.String()
	}
	c, code := s.connect()
	if code != "" {
		s.rec.Code = code
		_ = s.client.Close()
		s.finish()
		return
	}
	c.begin(s.front.ctx, s.wave, r.clock(), r.opts.FirstByte)
	t := newTunnel(c, s.client, func(bytes int64, cut error) {
		s.rec.Bytes = bytes
		if cut != nil {
			s.rec.Code = Cut
		}
		s.finish()
	})
	// These may have happened since the target was claimed, unseen by those who wait:
	if cause := c.target.severed(); cause != nil {
		c.abort(cause)
	} else if s.front.ctx.Err() != nil {
		c.abort(errStop)
	}
	c.buf = nil
	go t.copy(s.client, c.Conn)
	t.copy(c.Conn, s.client)
}

// finish ends the connection: it no longer counts, and it is recorded.
func (s *stream) finish() {
	if s.target != nil {
		s.target.inflight.done()
		s.pool.traffic(s.entry).streams.Add(-1)
	}
	r := s.router
	now := r.clock()
	s.rec.Duration = now - s.begun
	if s.pool != nil {
		s.pool.traffic(s.entry).count(s.pool, &s.rec, now)
		s.entry.use(s.rec.Instance, false, now)
	}
	if fn := r.opts.Access; fn != nil {
		fn(&s.rec)
	}
	if r.opts.PerClient > 0 {
		s.front.leave(s.client)
	}
	s.wave.active.done()
}

// claim counts the connection on an instance, as request.claim does. A nil target with
// no code means that the route has changed: look again.
func (s *stream) claim(tried []*target, anyway bool) (*target, *route, Code) {
	e := s.port.entry.Load()
	rt := e.cur.Load()
	if rt == nil {
		return nil, nil, UnknownHost // the stack was destroyed
	}
	p := rt.ports[s.port.number]
	if p == nil {
		return nil, nil, UnknownHost // it was unpublished
	}
	s.entry, s.pool, s.rec.Stack = e, p, rt.Stack
	switch {
	case rt.gate != nil && !rt.gate.Admits(s.addr):
		return nil, rt, Forbidden
	case rt.Down == mesh.Maintenance && !rt.spares(s.addr):
		return nil, rt, Maintenance
	case len(p.targets) == 0 && p.down == mesh.Asleep:
		if !s.router.rouse(rt.Stack) {
			return nil, rt, NoInstance
		}
		return nil, rt, ""
	case len(p.targets) == 0 && p.down == mesh.NotDeployed:
		return nil, rt, NotDeployed
	case len(p.targets) == 0 && p.down != mesh.NotDown:
		return nil, rt, Stopped
	case len(p.targets) == 0:
		return nil, rt, ""
	}
	t := p.choose(tried, s.router.clock(), anyway)
	if t == nil {
		return nil, rt, ""
	}
	t.inflight.add()
	if e.cur.Load() != rt || s.port.entry.Load() != e {
		t.inflight.done()
		return s.claim(tried, anyway)
	}
	return t, rt, ""
}

// connect connects to an instance. While there is none it waits, as requests do: at most
// Options.Wait, among at most Options.MaxWaiting of the service.
func (s *stream) connect() (*conn, Code) {
	r := s.router
	wait := r.opts.Wait
	if e := s.port.entry.Load(); e != nil {
		if rt := e.cur.Load(); rt != nil {
			wait = max(wait, rt.Wake)
		}
	}
	limit, cancel := context.WithTimeout(s.front.ctx, max(wait, 0))
	defer cancel()
	var tried []*target
	var in *traffic // whose waiting counts this connection
	defer func() {
		if in != nil {
			in.waiting.Add(-1)
		}
	}()
	waited, backoff := false, time.Duration(0)
	for {
		t, rt, code := s.claim(tried, !waited)
		if code != "" {
			return nil, code
		}
		if t != nil {
			from := r.clock()
			c, err := r.dial(s.front.ctx, t)
			now := r.clock()
			s.rec.Connect += now - from
			if err == nil {
				t.healthy()
				s.target, s.rec.Instance = t, t.ep.Load().name
				s.pool.traffic(s.entry).streams.Add(1)
				return c, ""
			}
			t.inflight.done()
			if s.front.ctx.Err() != nil {
				return nil, Cut
			}
			t.failed(now)
			r.log.Debug("cannot connect to an instance", "stack", s.rec.Stack, "instance", t.ep.Load().name.String(), "err", err)
			tried = append(tried, t)
			continue
		}
		if in == nil {
			of := s.pool.traffic(s.entry)
			if of.waiting.Add(1) > int64(r.opts.MaxWaiting) {
				of.waiting.Add(-1)
				return nil, QueueFull
			}
			in = of
		}
		var again <-chan time.Time
		if len(s.pool.targets) > 0 {
			backoff = min(max(2*backoff, asideFirst), asideMost/2)
			timer := time.NewTimer(backoff)
			defer timer.Stop() // a few in the time of the whole wait
			again = timer.C
		}
		tried, waited = tried[:0], true
		select {
		case <-rt.replaced:
			waited = false
		case <-again:
		case <-limit.Done():
			switch {
			case s.front.ctx.Err() != nil:
				return nil, Cut
			case len(s.pool.targets) > 0:
				return nil, NoConnection
			}
			return nil, NoInstance
		}
	}
}
