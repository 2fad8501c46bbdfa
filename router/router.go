// Package router is the HTTP front of mesh: it finds the stack that a host
// belongs to and passes the request on to one of its instances.
//
//	r := router.New(router.Options{Logger: log})
//	go r.Run(ctx)          // ends what takes too long
//	go r.Serve(ctx, l)     // takes requests until ctx ends
//	r.Switch(mesh.Route{Stack: "blog", Hosts: hosts, Targets: targets})
//
// What strangers send is parsed by net/http only, and what could be understood in
// two ways is refused before it (framing.go). What goes to the instances is
// this package's own: HTTP/1.1, spoken by the goroutine that handles the request,
// on connections that are kept and looked at before they are used again.
//
// It promises that a Switch loses no request and that Drain is exact; that bodies
// stream both ways, without a limit and unbuffered; that a request is sent twice
// only when the first was provably not seen or may be repeated; that an answer
// which the app did not finish never looks whole.
//
// It does not decide which instances are healthy, keeps nothing on disk, and
// knows nothing about certificates. The table is filled by deploy, at start and
// after each change.
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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mesh"
)

// Options are the settings of a Router. The zero value is what mesh runs with.
type Options struct {
	// Logger gets what an operator may want to know; nil: nothing is logged.
	Logger *slog.Logger
	// Now is the clock; nil: time.Now. It is called from many goroutines. Waits
	// are timed by the runtime, whatever Now says.
	Now func() time.Time
	// Wait is how long a request waits for a stack that has no instance, or none
	// that takes connections; 0: 10 s, negative: not at all.
	Wait time.Duration
	// MaxWaiting is how many requests of one service may wait; 0: 1000.
	MaxWaiting int
	// FirstByte is how long an app may take to begin its answer, once the request
	// has been sent or its body stands still; 0: 60 s.
	FirstByte time.Duration
	// DialTimeout is for one connection to one instance; 0: 2 s. Instances are on
	// this machine, where a connection takes microseconds.
	DialTimeout time.Duration
	// Grace is how long Serve lets requests and upgraded connections go on after
	// its context has ended; 0: 30 s.
	Grace time.Duration
	// HeadTime is for the head of a request to arrive; 0: 10 s.
	HeadTime time.Duration
	// PerClient is how many connections one address may have on a listener, upgraded
	// ones and those of Trusted not counted; further ones are closed. 0: as many as it
	// likes.
	PerClient int
	// Trusted are the proxies in front of mesh whose X-Forwarded-… fields are
	// believed. Everybody else's are replaced.
	Trusted []netip.Prefix
	// ProxyProtocol takes the client's address from the PROXY header in front of a
	// connection from one of Trusted.
	ProxyProtocol bool
	// Secure tells whether a host can be served over TLS: requests without it are
	// then redirected. It must be quick. nil: none are.
	Secure func(host string) bool
	// HTTPSPort is where redirects lead; 0: 443.
	HTTPSPort int
	// HSTS is for how long browsers are told to come over TLS only, when they have
	// done so; 0: they are not told.
	HSTS time.Duration
	// Challenge answers a request below /.well-known/acme-challenge/, and tells
	// whether it did; nil: those are the app's.
	Challenge func(w http.ResponseWriter, r *http.Request) bool
	// Access is told of each request when it has ended, on the goroutine that
	// handled it: it must be quick, safe for concurrent use, and keep no pointer to
	// it. nil: nobody is.
	Access func(*AccessRecord)
	// Dial makes connections to instances; nil: net.Dialer. Connections that are
	// not TCP cannot be looked at before they are used again.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	hsts []string // the field's value
}

// Limits on what clients send, beside those of net/http.
const (
	headTime  = 10 * time.Second  // for a request's head, and for a PROXY header
	idleTime  = 120 * time.Second // between requests
	streams   = 250               // at a time, in one HTTP/2 connection
	sweepTime = 100 * time.Millisecond
	// lingerTime is for how long a listener that has ended lets idle connections be:
	// who sends on one of them gets an answer, and with it the news that the
	// connection closes. What has been silent for so long is closed without a word.
	lingerTime = time.Second
)

// Router passes requests on. It is made by New; all its methods may be called
// from several goroutines.
type Router struct {
	opts  Options
	log   *slog.Logger
	epoch time.Time
	table table

	strangers atomic.Uint64 // requests for unknown hosts
	fronts    sync.Map      // *front of each listener that is being served

	mu      sync.Mutex // guards what follows, and writing to table
	stacks  map[mesh.StackName]*entry
	targets map[string]*target // by ID: those of routes, and those that still drain
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
		opts: o, log: o.Logger, epoch: o.Now(), table: table{seed: maphash.MakeSeed()},
		stacks: map[mesh.StackName]*entry{}, targets: map[string]*target{},
	}
}

// clock is the time since New.
func (r *Router) clock() time.Duration { return r.opts.Now().Sub(r.epoch) }

// Switch makes mr all the traffic that its stack gets: hosts and targets change
// at the same instant. Requests that come after it has returned see mr only;
// those before end where they are. A target that the stack had already, by its
// ID, keeps its connections and counts. Hosts that mr leaves out lead nowhere. A
// host that another stack has is taken from it.
func (r *Router) Switch(mr mesh.Route) {
	mr.Hosts, mr.Targets, mr.Endpoints = slices.Clone(mr.Hosts), slices.Clone(mr.Targets), slices.Clone(mr.Endpoints)
	rt := &route{Route: mr, keys: make(map[string]struct{}, len(mr.Hosts)), replaced: make(chan struct{})}
	for _, h := range mr.Hosts {
		if key := tableKey(h); key != "" {
			rt.keys[key] = struct{}{}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.stacks[mr.Stack]
	if e == nil {
		e = &entry{}
		r.stacks[mr.Stack] = e
	}
	for _, mt := range mr.Targets {
		t := r.targets[mt.ID]
		if t == nil {
			t = &target{id: mt.ID}
			t.safe.Store(int64(safeIdle))
			r.targets[mt.ID] = t
		}
		if slices.Contains(rt.targets, t) {
			continue
		}
		t.update(mt)
		t.routes++
		rt.targets = append(rt.targets, t)
	}
	rt.split(e)
	r.replace(e, rt)
}

// Remove forgets the stack: its hosts lead nowhere, requests that wait get 404.
// An unknown stack is no error.
func (r *Router) Remove(stack mesh.StackName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.stacks[stack]; e != nil {
		delete(r.stacks, stack)
		r.replace(e, nil)
	}
}

// replace is Switch and Remove with r.mu held. New names are entered first, which
// the old route denies to have; then the one store changes everything; then old
// names go, which the new route denies.
func (r *Router) replace(e *entry, rt *route) {
	var late []string
	if rt != nil {
		for key := range rt.keys {
			switch r.table.get(key) {
			case e:
			case nil:
				r.table.set(key, e)
			default:
				late = append(late, key) // another stack's until now
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

// Run ends exchanges that take too long, or whose clients have left, and closes
// connections that have been idle for long, until ctx ends. Without it nothing
// times out. It returns ctx's error.
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

// front is one listener that is being served.
type front struct {
	tls     bool
	conns   gauge // connections, but for upgraded ones
	clients clients
	leaving atomic.Bool // nothing new is taken: connections end with their next answer
	wave    atomic.Pointer[wave]
	early   []*wave // those before it, guarded by Router.mu
}

// wave is what came in by one listener between two calls of Settle.
type wave struct{ active gauge } // requests and upgraded connections

// join counts a request in the wave that is not over yet.
func (f *front) join() *wave {
	for {
		w := f.wave.Load()
		w.active.add()
		if f.wave.Load() == w { // else Settle may have found it empty before
			return w
		}
		w.active.done()
	}
}

// settled are the waves that are over.
func (r *Router) settled(f *front) []*wave {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(f.early)
}

// waves are all that may have something under way.
func (r *Router) waves(f *front) []*wave {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(slices.Clone(f.early), f.wave.Load())
}

// Serve takes HTTP/1.1 and, with prior knowledge, HTTP/2 requests from l until ctx
// ends; then it takes no more connections, lets requests in flight and upgraded
// connections end for Options.Grace, and closes the rest. A connection that is
// kept open is told so with its next answer, or closed when it has been idle for a
// second, so that no request is lost when another process goes on with the
// listener. It closes l. It returns nil after such an end, else the listener's
// error; no goroutine is left then. Run must run meanwhile.
func (r *Router) Serve(ctx context.Context, l net.Listener) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return r.serve(ctx, &http.Server{Protocols: &protocols}, l)
}

// ServeTLS is Serve for HTTP/1.1 and HTTP/2 over TLS, with the certificates of c.
func (r *Router) ServeTLS(ctx context.Context, l net.Listener, c *tls.Config) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return r.serve(ctx, &http.Server{Protocols: &protocols, TLSConfig: alpn(c)}, l)
}

// StackOf tells which stack a host leads to, by its name or a wildcard. host is as
// a Host field or TLS has it.
func (r *Router) StackOf(host string) (mesh.StackName, bool) {
	if _, rt := r.table.lookup(normalHost(host)); rt != nil {
		return rt.Stack, true
	}
	return "", false
}

func (r *Router) serve(ctx context.Context, s *http.Server, l net.Listener) error {
	f := &front{tls: s.TLSConfig != nil}
	f.wave.Store(new(wave))
	r.fronts.Store(f, nil)
	defer r.fronts.Delete(f)
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(errStop)
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.handle(f, w, req) })
	s.BaseContext = func(net.Listener) context.Context { return base }
	s.ConnState = func(c net.Conn, state http.ConnState) {
		switch state { //nolint:exhaustive // how a connection begins and ends
		case http.StateNew:
			f.conns.add()
		case http.StateClosed, http.StateHijacked:
			f.conns.done()
			if r.opts.PerClient > 0 {
				f.leave(c)
			}
		}
	}
	if r.opts.PerClient > 0 {
		l = &gate{Listener: l, f: f, r: r}
	}
	s.ReadHeaderTimeout, s.IdleTimeout, s.MaxHeaderBytes = r.opts.HeadTime, idleTime, headLimit
	s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	s.DisableGeneralOptionsHandler = true // "OPTIONS *" is the app's
	s.ErrorLog = slog.NewLogLogger(r.log.Handler(), slog.LevelDebug)

	if r.opts.ProxyProtocol {
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
		_ = l.Close() // and not yet Shutdown, which closes idle connections at once
		<-failed
		for _, w := range r.settled(f) {
			r.cut(w) // not before: who is cut comes back at once
		}
	}
	grace, done := context.WithTimeout(base, r.opts.Grace)
	defer done()
	linger, lingered := context.WithTimeout(grace, lingerTime)
	_ = f.conns.wait(linger)
	lingered()
	cut := s.Shutdown(grace)
	if cut == nil {
		if len(r.settled(f)) > 0 {
			done() // what is left are upgraded connections, which had their time or came late
		}
		for _, w := range r.waves(f) { // upgraded connections, which net/http has let go
			cut = errors.Join(cut, w.active.wait(grace))
		}
	}
	if cut != nil {
		cancel(errStop)
		_ = s.Close() // the listener is closed already
		for _, w := range r.waves(f) {
			r.cut(w)
			// All that is left has been told to end, and does so at once.
			_ = w.active.wait(context.WithoutCancel(ctx))
		}
	}
	return err
}

// Settle returns when no request and no upgraded connection is left of those that
// are under way now, or when ctx ends. What comes meanwhile is served. Before the end
// of Serve it sees to it that nobody waits long for the next process: Serve then cuts
// at once what is left of the old, and upgraded connections that have come since, and
// lets other requests end.
func (r *Router) Settle(ctx context.Context) {
	var over []*wave
	r.mu.Lock()
	r.fronts.Range(func(k, _ any) bool {
		f := k.(*front)
		w := f.wave.Swap(new(wave))
		f.early = append(f.early, w)
		over = append(over, w)
		return true
	})
	r.mu.Unlock()
	for _, w := range over {
		_ = w.active.wait(ctx)
	}
}

// Cut ends all requests that apps have got, and all upgraded connections, at once.
func (r *Router) Cut() {
	r.fronts.Range(func(k, _ any) bool {
		for _, w := range r.waves(k.(*front)) {
			r.cut(w)
		}
		return true
	})
}

// cut ends all exchanges and upgraded connections of w.
func (r *Router) cut(w *wave) {
	if n := w.active.load(); n > 0 {
		r.log.Warn("requests cut: the router stops", "requests", n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.targets {
		t.cutWave(w)
	}
}

// Status is what a stack's traffic is doing.
type Status struct {
	Stack   mesh.StackName
	Hosts   []mesh.Host
	Down    mesh.DownReason
	Waiting int // requests that wait for an instance
	Targets []TargetStatus
	Totals  Totals
}

// TargetStatus is what an instance's traffic is doing.
type TargetStatus struct {
	mesh.Target
	InFlight    int  // requests and upgraded connections
	Connections int  // open to the instance, idle ones among them
	SetAside    bool // the last attempt to connect came to nothing
}

// Snapshot tells the state of all stacks, by name. It is a copy, each figure of
// which was true at some moment during the call.
func (r *Router) Snapshot() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Status, 0, len(r.stacks))
	for _, e := range r.stacks {
		rt := e.cur.Load()
		s := Status{Stack: rt.Stack, Hosts: slices.Clone(rt.Hosts), Down: rt.Down, Waiting: e.waiting(), Totals: e.totals()}
		for _, t := range rt.targets {
			ep := t.ep.Load()
			s.Targets = append(s.Targets, TargetStatus{
				Target:   mesh.Target{ID: t.id, Name: ep.name, Addr: ep.addr},
				InFlight: int(t.inflight.load()), Connections: int(t.open.Load()), SetAside: t.aside.Load() != 0,
			})
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(string(a.Stack), string(b.Stack)) })
	return all
}

// Connections counts those of clients, without TLS and with it, upgraded ones left
// out.
func (r *Router) Connections() (plain, tls int) {
	r.fronts.Range(func(k, _ any) bool {
		if f := k.(*front); f.tls {
			tls += int(f.conns.load())
		} else {
			plain += int(f.conns.load())
		}
		return true
	})
	return plain, tls
}

// Strangers counts the requests for hosts that no stack has.
func (r *Router) Strangers() uint64 { return r.strangers.Load() }
