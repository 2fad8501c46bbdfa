package router

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mesh"
)

// TCP ports of the machine. A route names the ports of its stack; Switch opens those
// that are new and closes those that no route has any more, which ends no connection.
// ServePorts accepts from all of them.

// port is a port that a route has. Its other fields are guarded by Router.mu.
type port struct {
	number uint16
	entry  atomic.Pointer[entry] // the stack that has it
	l      net.Listener          // nil: it could not be opened
	err    error                 // why
	tried  time.Duration         // when, on the router's clock
}

// tcpFront is ServePorts while it runs.
type tcpFront struct {
	front
	ctx    context.Context // of connections that wait for an instance
	accept sync.WaitGroup  // loops
}

// retryPort is how often a port is tried again that could not be opened.
const retryPort = time.Second

// openPorts gives e the ports of rt, its route now; nil: none. Call it with r.mu held.
func (r *Router) openPorts(e *entry, rt *route) {
	if rt != nil {
		for n := range rt.ports {
			p := r.ports[n]
			if p == nil {
				p = &port{number: n}
				r.ports[n] = p
			}
			p.entry.Store(e)
			if p.l == nil {
				r.openPort(p)
			}
		}
	}
	for n, p := range r.ports {
		if p.entry.Load() != e || rt != nil && rt.ports[n] != nil {
			continue
		}
		delete(r.ports, n)
		if p.l != nil {
			_ = p.l.Close() // ends its loop
		}
	}
}

// openPort opens a port, and accepts from it if ServePorts runs.
func (r *Router) openPort(p *port) {
	if r.opts.Listen == nil {
		return
	}
	said := p.err != nil
	p.tried = r.clock()
	if p.l, p.err = r.opts.Listen(p.number); p.err != nil {
		p.l = nil
		if !said {
			r.log.Error("a TCP port cannot be opened", "port", p.number, "err", p.err)
		}
		return
	}
	if said {
		r.log.Info("TCP port opened", "port", p.number)
	}
	r.acceptFrom(p)
}

// acceptFrom starts to accept from an open port, if ServePorts runs.
func (r *Router) acceptFrom(p *port) {
	f := r.tcp
	if f == nil || f.leaving.Load() {
		return
	}
	l := p.l
	if r.opts.PerClient > 0 {
		l = &gate{Listener: l, f: &f.front, r: r}
	}
	f.accept.Go(func() { r.acceptAll(f, p, l) })
}

func (r *Router) acceptAll(f *tcpFront, p *port, l net.Listener) {
	var pause time.Duration
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			if resumed := r.pausedPorts(); resumed != nil {
				<-resumed
			}
			continue
		case err != nil: // too many open files, for example
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			r.log.Warn("a TCP port accepts no connections at the moment", "port", p.number, "err", err)
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-f.ctx.Done():
				timer.Stop()
				return
			}
			continue
		}
		pause = 0
		// Counted here, so that whoever waits for the loops to end sees them all.
		s := &stream{router: r, front: f, wave: f.join(), port: p, client: c, begun: r.clock()}
		go s.serve()
	}
}

// ServePorts accepts connections from the TCP ports of all routes until ctx ends. Then it
// closes the listeners and gives the connections Options.Grace, as Serve does with
// upgraded ones; those that Settle has waited for end at once. It returns nil when none
// is left. Run must be running meanwhile.
func (r *Router) ServePorts(ctx context.Context) error {
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(errStop)
	f := &tcpFront{ctx: base}
	f.wave.Store(new(wave))
	r.fronts.Store(&f.front, nil)
	defer r.fronts.Delete(&f.front)
	r.mu.Lock()
	r.tcp = f
	for _, p := range r.ports {
		if p.l != nil {
			r.acceptFrom(p)
		}
	}
	r.mu.Unlock()
	r.keepPorts(ctx)

	r.mu.Lock()
	r.tcp = nil
	f.leaving.Store(true)
	r.resumePorts()
	for _, p := range r.ports {
		if p.l != nil {
			_ = p.l.Close()
			p.l = nil
		}
	}
	r.mu.Unlock()
	f.accept.Wait()
	for _, w := range r.finished(&f.front) {
		r.cut(w) // not earlier: a client that is cut comes back at once
	}
	grace, done := context.WithTimeout(base, r.opts.Grace)
	defer done()
	if len(r.finished(&f.front)) > 0 {
		done() // what is left had its time or came late
	}
	var cut error
	for _, w := range r.waves(&f.front) {
		cut = errors.Join(cut, w.active.wait(grace))
	}
	if cut != nil {
		cancel(errStop)
		for _, w := range r.waves(&f.front) {
			r.cut(w)
			_ = w.active.wait(context.WithoutCancel(ctx)) // they have been told to end, and do so at once
		}
	}
	return nil
}

// PausePorts stops accepting from TCP ports: connections wait in the sockets' queues, for
// ResumePorts or for another process that has the sockets too. A connection that is
// accepted by a process about to leave would not live long.
func (r *Router) PausePorts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paused == nil {
		r.paused = make(chan struct{})
		r.setAccept(longAgo)
	}
}

// ResumePorts ends what PausePorts began.
func (r *Router) ResumePorts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setAccept(time.Time{})
	r.resumePorts()
}

// resumePorts lets the loops go on. Call it with r.mu held.
func (r *Router) resumePorts() {
	if r.paused != nil {
		close(r.paused)
		r.paused = nil
	}
}

func (r *Router) pausedPorts() chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.paused
}

// setAccept sets until when the ports are accepted from. Call it with r.mu held.
func (r *Router) setAccept(until time.Time) {
	for _, p := range r.ports {
		if l, ok := p.l.(interface{ SetDeadline(time.Time) error }); ok {
			_ = l.SetDeadline(until) // an error means that it is closed
		}
	}
}

// keepPorts tries again to open the ports that could not be, until ctx ends.
func (r *Router) keepPorts(ctx context.Context) {
	tick := time.NewTicker(retryPort)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		for _, p := range r.ports {
			if p.l == nil && r.clock()-p.tried >= retryPort/2 {
				r.openPort(p)
			}
		}
		r.mu.Unlock()
	}
}

// PortStatus describes a TCP port that a route has.
type PortStatus struct {
	Port  uint16
	Stack mesh.StackName
	Err   error // why it is not open; nil: it is
}

// Ports returns the ports of all routes, in order.
func (r *Router) Ports() []PortStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []PortStatus
	for n, p := range r.ports {
		s := PortStatus{Port: n, Err: p.err}
		if rt := p.entry.Load().cur.Load(); rt != nil {
			s.Stack = rt.Stack
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b PortStatus) int { return cmp.Compare(a.Port, b.Port) })
	return all
}
