// Package router is the front of mesh: it finds the stack of a host, or of a TCP port, and
// passes the request or the connection on to one of its instances.
//
//	r := router.New(router.Options{Logger: log})
//	go r.Run(ctx)          // ends what takes too long
//	go r.Serve(ctx, l)     // accepts requests until ctx ends
//	go r.ServePorts(ctx)   // accepts from the TCP ports of routes
//	r.Switch(mesh.Route{Stack: "blog", Hosts: hosts, Targets: targets})
//
// Only net/http parses what clients send, and ambiguous requests are refused before
// it sees them (framing.go). Towards the instances, the package speaks HTTP/1.1
// itself: the goroutine that handles the request writes it, on kept connections that
// are checked before they are reused.
//
// It promises that a Switch loses no request and that Drain is exact; that bodies
// stream both ways, without a limit and unbuffered; that a request is sent twice
// only if the first was provably not seen or may be repeated; and that an incomplete
// answer of the app never looks complete.
//
// It does not decide which instances are healthy, keeps nothing on disk, and has
// nothing to do with certificates. deploy fills the table, at the start and after
// each change.
package router

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"mesh"
	"mesh/router/access"
)

// Options are the settings of a Router. mesh runs with the zero value.
type Options struct {
	// Logger gets what an operator may want to know; nil: nothing is logged.
	Logger *slog.Logger
	// Now is the clock; nil: time.Now. It is called from many goroutines. The
	// runtime times waits, whatever Now returns.
	Now func() time.Time
	// Wait is how long a request waits for a stack that has no instance, or none
	// that accepts connections; 0: 10 s, negative: not at all.
	Wait time.Duration
	// MaxWaiting limits the waiting requests of one service; 0: 1000.
	MaxWaiting int
	// FirstByte is how long an app may take to begin its answer, once the request
	// has been sent or its body has stalled; 0: 60 s.
	FirstByte time.Duration
	// DialTimeout is for one connection to one instance; 0: 2 s. Instances are on
	// this machine, where connecting takes microseconds.
	DialTimeout time.Duration
	// Grace is how long Serve lets requests and upgraded connections continue after
	// its context has ended; 0: 30 s.
	Grace time.Duration
	// HeadTime is the time that the head of a request has to arrive; 0: 10 s.
	HeadTime time.Duration
	// PerClient limits the connections of one address on a listener, without
	// upgraded ones and those of Trusted; further ones are closed. 0: no limit.
	PerClient int
	// Trusted are the proxies in front of mesh whose X-Forwarded-… fields are
	// trusted. Those of everyone else are replaced.
	Trusted []netip.Prefix
	// ProxyProtocol takes the client's address from the PROXY header before a
	// connection from one of Trusted.
	ProxyProtocol bool
	// Secure reports whether a host can be served over TLS: requests without TLS are
	// then redirected. It must be fast. nil: none are redirected.
	Secure func(host string) bool
	// HTTPSPort is the port in redirects; 0: 443.
	HTTPSPort int
	// HSTS is how long a browser that has used TLS is told to use nothing else; 0:
	// it is not told.
	HSTS time.Duration
	// Challenge answers a request below /.well-known/acme-challenge/, and reports
	// whether it did; nil: those requests go to the app.
	Challenge func(w http.ResponseWriter, r *http.Request) bool
	// Wake is called for each request that is held because its stack is asleep. It does not
	// block. False means that the stack cannot be woken now. nil: none can.
	Wake func(stack mesh.StackName) bool
	// OwnHost is the host of this server itself, whose requests Own answers if they are
	// encrypted, or come from this machine; nil: it is unknown like others.
	OwnHost string
	Own     http.Handler
	// Access is called when a request has ended, on the goroutine that handled it:
	// it must be fast, safe for concurrent use, and keep no pointer to the record.
	// nil: no calls.
	Access func(*AccessRecord)
	// Dial connects to instances; nil: net.Dialer. Connections that are not TCP
	// cannot be checked before they are reused.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Listen opens a TCP port of the machine, or takes one that is open already. It is
	// called with a lock held and must not block. For PausePorts, the listener must have
	// SetDeadline, as TCP's has. nil: ports cannot be opened.
	Listen func(port uint16) (net.Listener, error)

	hsts []string // the field's value
}

// Limits on what clients send, besides those of net/http.
const (
	headTime  = 10 * time.Second  // for a request's head, and for a PROXY header
	idleTime  = 120 * time.Second // between requests
	streams   = 250               // at a time, in one HTTP/2 connection
	sweepTime = 100 * time.Millisecond
	// lingerTime is how long a listener that has ended keeps idle connections open:
	// a client that sends on one of them gets an answer, which says that the
	// connection closes. Connections that stay silent are then closed.
	lingerTime = time.Second
)

// Router passes requests on. Make one with New; all its methods may be called from
// several goroutines.
type Router struct {
	opts  Options
	log   *slog.Logger
	epoch time.Time
	table table

	checks *access.Checks // of passwords

	fallback     atomic.Pointer[string] // the key of the host that gets requests for unknown ones; nil: none
	unknownHosts atomic.Uint64          // requests for unknown hosts
	fronts       sync.Map               // *front of each listener that is being served

	mu      sync.Mutex // guards the fields below, and writing to table
	stacks  map[mesh.StackName]*entry
	targets map[string]*target // by ID: those of routes, and those that still drain
	ports   map[uint16]*port
	tcp     *tcpFront     // nil: ServePorts does not run
	paused  chan struct{} // closed by ResumePorts; nil: ports are accepted from
}

// New makes a Router without routes. It starts nothing: see Run and Serve.
func New(o Options) *Router {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Wait, 10*time.Second)
	def(&o.FirstByte, time.Minute)
	def(&o.DialTimeout, 2*time.Second)
	def(&o.HeadTime, headTime)
	def(&o.Grace, 30*time.Second)
	if o.HTTPSPort == 0 {
		o.HTTPSPort = 443
	}
	if o.HSTS > 0 {
		hsts := "max-age=" + strconv.FormatInt(int64(o.HSTS/time.Second), 10)
		o.hsts = []string{hsts}
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 1000
	}
	o.Trusted = slices.Clone(o.Trusted)
	return &Router{
		opts: o, log: o.Logger, epoch: o.Now(), table: table{seed: maphash.MakeSeed()}, checks: access.NewChecks(),
		stacks: map[mesh.StackName]*entry{}, targets: map[string]*target{}, ports: map[uint16]*port{},
	}
}

// clock is the time since New.
func (r *Router) clock() time.Duration { return r.opts.Now().Sub(r.epoch) }

// Switch sends all traffic of mr's stack to mr: hosts and targets change at the same
// instant. Requests that arrive after it has returned only see mr; earlier ones end
// where they are. A target that the stack already had, by its ID, keeps its
// connections and counts. Hosts that mr leaves out have no route. A host of another
// stack is taken from that stack.
func (r *Router) Switch(mr mesh.Route) {
	mr.Hosts, mr.Targets, mr.Endpoints, mr.Ports = slices.Clone(mr.Hosts), slices.Clone(mr.Targets), slices.Clone(mr.Endpoints), slices.Clone(mr.Ports)
	rt := &route{Route: mr, keys: make(map[string]struct{}, len(mr.Hosts)+len(mr.Doors)), replaced: make(chan struct{})}
	for _, h := range mr.Hosts {
		if key := tableKey(h); key != "" {
			rt.keys[key] = struct{}{}
		}
	}
	for _, d := range mr.Doors {
		rt.keys[doorKey(d.As, d.From)] = struct{}{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.stacks[mr.Stack]
	if e == nil {
		e = &entry{}
		r.stacks[mr.Stack] = e
	}
	for _, mt := range mr.Targets {
		r.enter(rt, mt)
	}
	rt.split(e)
	r.try(rt, e)
	rt.gate = r.gateFor(e.cur.Load(), mr.Access)
	r.replace(e, rt)
	r.openPorts(e, rt)
}

// enter adds a target to a route that is about to be used, and returns it; nil: the route
// has it already. Call it with Router.mu held.
func (r *Router) enter(rt *route, mt mesh.Target) *target {
	t := r.targets[mt.ID]
	if t == nil {
		t = &target{id: mt.ID}
		t.safe.Store(int64(safeIdle))
		r.targets[mt.ID] = t
	}
	if slices.Contains(rt.targets, t) {
		return nil
	}
	t.update(mt)
	t.routes++
	rt.targets = append(rt.targets, t)
	return t
}

// gateFor returns the gate for rules: that of the old route if the rules are the same,
// because it has counted requests and tries.
func (r *Router) gateFor(old *route, rules mesh.AccessRules) *access.Gate {
	switch {
	case !rules.Guards() && rules.Limit == mesh.Rate{}:
		return nil
	case old != nil && old.gate != nil && old.gate.Rules().Equal(rules):
		return old.gate
	}
	return access.New(rules.Clone(), r.checks)
}

// Remove drops the stack: its hosts have no route, and waiting requests get 404. An
// unknown stack is not an error.
func (r *Router) Remove(stack mesh.StackName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.stacks[stack]; e != nil {
		delete(r.stacks, stack)
		r.replace(e, nil)
		r.openPorts(e, nil)
	}
}

// replace is Switch and Remove with r.mu held. New names are entered first; the old
// route does not have them yet. Then the one store changes everything. Then old
// names are removed; the new route does not have them any more.
func (r *Router) replace(e *entry, rt *route) {
	var late []string
	if rt != nil {
		for key := range rt.keys {
			switch r.table.get(key) {
			case e:
			case nil:
				r.table.set(key, e)
			default:
				late = append(late, key) // belonged to another stack until now
			}
		}
	}
	old := e.cur.Swap(rt)
	for _, key := range late {
		r.table.set(key, e)
	}
	if old == nil {
		return
	}
	close(old.replaced)
	for key := range old.keys {
		if rt != nil {
			if _, ok := rt.keys[key]; ok {
				continue
			}
		}
		if r.table.get(key) == e {
			r.table.set(key, nil)
		}
	}
	for _, t := range old.targets {
		if t.routes--; t.routes > 0 {
			continue
		}
		t.retire()
		if t.inflight.load() == 0 {
			r.forget(t)
		}
	}
}

// SetDefault sends requests for unknown hosts to the route of a host, from now on; with the
// empty host they get 404.
func (r *Router) SetDefault(host mesh.Host) {
	if host == "" {
		r.fallback.Store(nil)
		return
	}
	key := tableKey(host)
	r.fallback.Store(&key)
}

// Run ends exchanges that take too long, or whose clients have left, and closes
// connections that have long been idle, until ctx ends. Without it nothing times
// out. It returns ctx's error.
func (r *Router) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, t := range r.targets {
				t.closeIdle()
			}
			return ctx.Err()
		case <-tick.C:
			r.sweepAll()
		}
	}
}

func (r *Router) sweepAll() {
	now := r.clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.targets {
		r.sweep(t, now)
		if t.routes == 0 && t.inflight.load() == 0 {
			r.forget(t) // nobody has called Drain for it
		}
	}
}

// Serve accepts HTTP/1.1 and, with prior knowledge, HTTP/2 requests from l until ctx
// ends. Then it accepts no more connections, gives open requests and upgraded
// connections Options.Grace to end, and closes the rest. A kept connection is told
// so with its next answer, or closed when it has been idle for a second, so that no
// request is lost when another process takes over the listener. Serve closes l. It
// returns nil after such an end, otherwise the listener's error; no goroutine is
// left then. Run must be running meanwhile.
func (r *Router) Serve(ctx context.Context, l net.Listener) error {
	return r.servePlain(ctx, &front{}, l)
}

// ServeLinks is Serve for the instances of a stack: hosts are the names of its links. The
// access rules and redirects of the stacks that they lead to do not apply.
func (r *Router) ServeLinks(ctx context.Context, l net.Listener, stack mesh.StackName) error {
	return r.servePlain(ctx, &front{links: stack}, l)
}

func (r *Router) servePlain(ctx context.Context, f *front, l net.Listener) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return r.serve(ctx, f, &http.Server{Protocols: &protocols}, l)
}

// ServeTLS is Serve for HTTP/1.1 and HTTP/2 over TLS, with the certificates of c.
func (r *Router) ServeTLS(ctx context.Context, l net.Listener, c *tls.Config) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return r.serve(ctx, &front{tls: true}, &http.Server{Protocols: &protocols, TLSConfig: alpn(c)}, l)
}

// StackOf returns the stack of a host, by its name or a wildcard. host is as in a
// Host field or in TLS.
func (r *Router) StackOf(host string) (mesh.StackName, bool) {
	if _, rt := r.table.lookup(normalHost(host)); rt != nil {
		return rt.Stack, true
	}
	return "", false
}

func (r *Router) serve(ctx context.Context, f *front, s *http.Server, l net.Listener) error {
	public := f.links == "" // otherwise its clients are containers of one stack
	f.wave.Store(new(wave))
	r.fronts.Store(f, nil)
	defer r.fronts.Delete(f)
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(errStop)
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.handle(f, w, req) })
	s.BaseContext = func(net.Listener) context.Context { return base }
	s.ConnState = func(c net.Conn, state http.ConnState) {
		switch state { //nolint:exhaustive // only how a connection begins and ends
		case http.StateNew:
			f.conns.add()
		case http.StateClosed, http.StateHijacked:
			f.conns.done()
			if public && r.opts.PerClient > 0 {
				f.leave(c)
			}
		}
	}
	if public && r.opts.PerClient > 0 {
		l = &gate{Listener: l, f: f, r: r}
	}
	s.ReadHeaderTimeout, s.IdleTimeout, s.MaxHeaderBytes = r.opts.HeadTime, idleTime, headLimit
	s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	s.DisableGeneralOptionsHandler = true // "OPTIONS *" is for the app
	s.ErrorLog = slog.NewLogLogger(r.log.Handler(), slog.LevelDebug)

	if public && r.opts.ProxyProtocol {
		l = r.proxied(l)
	}
	if f.tls {
		l = startHandshakes(l, s.TLSConfig, r.opts.HeadTime, func(c net.Conn, err error) {
			if r.opts.PerClient > 0 {
				f.leave(c)
			}
			r.log.Debug("TLS handshake failed", "client", c.RemoteAddr().String(), "err", err)
		})
	} else {
		l = strictListener{l}
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	var err error
	select {
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
		f.leaving.Store(true)
		_ = l.Close() // no Shutdown yet: it closes idle connections at once
		<-failed
		for _, w := range r.finished(f) {
			r.cut(w) // not earlier: a client that is cut comes back at once
		}
	}
	grace, done := context.WithTimeout(base, r.opts.Grace)
	defer done()
	linger, lingered := context.WithTimeout(grace, lingerTime)
	_ = f.conns.wait(linger)
	lingered()
	cut := s.Shutdown(grace)
	if cut == nil {
		if len(r.finished(f)) > 0 {
			done() // only upgraded connections are left, which had their time or came late
		}
		for _, w := range r.waves(f) { // upgraded connections, which net/http has let go
			cut = errors.Join(cut, w.active.wait(grace))
		}
	}
	if cut != nil {
		cancel(errStop)
		_ = s.Close() // the listener is already closed
		for _, w := range r.waves(f) {
			r.cut(w)
			// Everything left has been told to end, and does so at once.
			_ = w.active.wait(context.WithoutCancel(ctx))
		}
	}
	return err
}
