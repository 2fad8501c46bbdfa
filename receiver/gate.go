package receiver

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of connections that have not signed in. sshd_config's MaxStartups has the same
// purpose. These limits are a little higher because pushes come in bursts, and a client
// that waits gets in later, where sshd drops at random.
const (
	maxUnauth        = 100 // at once
	maxUnauthKept    = 10  // additional places, for networks with a recent sign-in
	maxUnauthPerNet  = 20  // from one network, except the loopback address
	maxWaiting       = 2000
	maxWaitingPerNet = 600
	maxFailedPerNet  = 120 // connections of one network that ended without a sign-in, per minute

	// While others wait, a client that owes the next message for this long loses its
	// place.
	stallTime = 2 * time.Second
	// How long a connection waits for a place.
	queueTime = time.Minute
	// How long a network counts as known after a sign-in.
	knownTime = 24 * time.Hour
	maxKnown  = 10_000 // networks
)

// network returns what the limits count by: an IPv4 address, or the /64 of an IPv6
// address, the least that a provider gives one customer (RFC 6177).
func network(remote net.Addr) string {
	host, _, err := net.SplitHostPort(remote.String())
	if err != nil {
		return remote.String()
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if a = a.Unmap().WithZone(""); a.Is6() && !a.IsLoopback() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

func loopback(network string) bool {
	a, err := netip.ParseAddr(network)
	return err == nil && a.IsLoopback()
}

// gate counts the connections that have not signed in. A connection that finds no place
// waits. The networks take turns, and in each network the newest connection comes
// first: most that have waited long have disconnected or never meant to sign in.
type gate struct {
	now func() time.Time

	mu      sync.Mutex
	places  map[*place]bool
	by      map[string]int // places used by each network
	queues  map[string][]*waiter
	turns   []string // networks with waiting connections, next first
	waiting int
	known   map[string]time.Time // networks with a sign-in, and the time of the last one
	failed  map[string]int       // in the minute that began at minute
	minute  time.Time
	reaped  time.Time
}

// waiter is a connection that waits for a place.
type waiter struct {
	granted chan *place // buffered; gets one place
}

// place is a connection's place at the gate.
type place struct {
	g       *gate
	network string
	close   atomic.Pointer[func()] // ends the connection; nil until it is set
	owed    atomic.Int64           // UnixNano since when the client owes a message; 0: the server owes one
}

func newGate() *gate {
	return &gate{now: time.Now, places: map[*place]bool{}, by: map[string]int{}, queues: map[string][]*waiter{}, known: map[string]time.Time{}, failed: map[string]int{}}
}

// enter takes a place, and waits for one, up to a time, if all are taken: hundreds of
// clients that connect at once get in one after the other. ok is false if it got none.
// The place's leave gives it back.
func (g *gate) enter(ctx context.Context, network string, wait time.Duration) (p *place, ok bool) {
	g.mu.Lock()
	g.turnMinuteLocked()
	if g.failed[network] >= maxFailedPerNet && !g.knownLocked(network) && !loopback(network) {
		g.mu.Unlock()
		return nil, false
	}
	if g.roomLocked(network) {
		p := g.takeLocked(network)
		g.mu.Unlock()
		return p, true
	}
	if g.waiting >= maxWaiting || len(g.queues[network]) >= maxWaitingPerNet {
		g.mu.Unlock()
		return nil, false
	}
	w := &waiter{granted: make(chan *place, 1)}
	if len(g.queues[network]) == 0 {
		g.turns = append(g.turns, network)
	}
	g.queues[network] = append(g.queues[network], w)
	g.waiting++
	g.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	look := time.NewTicker(stallTime / 4)
	defer look.Stop()
	for {
		select {
		case p := <-w.granted:
			return p, true
		case <-look.C:
			g.reap()
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		g.mu.Lock()
		left := g.dropLocked(network, w)
		g.mu.Unlock()
		if !left { // it got a place at this moment
			return <-w.granted, true
		}
		return nil, false
	}
}

func (g *gate) turnMinuteLocked() {
	if now := g.now(); now.Sub(g.minute) >= time.Minute {
		g.minute = now
		clear(g.failed)
	}
}

func (g *gate) knownLocked(network string) bool {
	at, ok := g.known[network]
	return ok && g.now().Sub(at) < knownTime
}

func (g *gate) roomLocked(network string) bool {
	limit := maxUnauth
	if g.knownLocked(network) {
		limit += maxUnauthKept
	}
	return len(g.places) < limit && (g.by[network] < maxUnauthPerNet || loopback(network))
}

func (g *gate) takeLocked(network string) *place {
	p := &place{g: g, network: network}
	g.places[p] = true
	g.by[network]++
	return p
}

// dropLocked takes a waiter out of its queue. It returns false if the waiter is not in
// it.
func (g *gate) dropLocked(network string, w *waiter) bool {
	q := g.queues[network]
	for i, have := range q {
		if have != w {
			continue
		}
		g.waiting--
		if q = append(q[:i], q[i+1:]...); len(q) == 0 {
			delete(g.queues, network)
			g.turns = deleteOne(g.turns, network)
			return true
		}
		g.queues[network] = q
		return true
	}
	return false
}

func deleteOne(list []string, s string) []string {
	for i, have := range list {
		if have == s {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// grantLocked gives free places to waiting connections.
func (g *gate) grantLocked() {
	for tried := 0; tried < len(g.turns); {
		network := g.turns[0]
		g.turns = append(g.turns[1:], network)
		if !g.roomLocked(network) {
			tried++
			continue
		}
		tried = 0
		q := g.queues[network]
		w := q[len(q)-1]
		g.dropLocked(network, w)
		w.granted <- g.takeLocked(network)
	}
}

// reap ends connections whose clients keep others waiting.
func (g *gate) reap() {
	g.mu.Lock()
	now := g.now()
	if now.Sub(g.reaped) < stallTime/4 {
		g.mu.Unlock()
		return
	}
	g.reaped = now
	var stalled []func()
	for p := range g.places {
		owed := p.owed.Load()
		if end := p.close.Load(); end != nil && owed != 0 && now.UnixNano()-owed > int64(stallTime) {
			stalled = append(stalled, *end)
		}
	}
	g.mu.Unlock()
	for _, end := range stalled {
		end()
	}
}

// leave gives the place back. signedIn is true if the client has signed in. leave may
// be called more than once; the first call counts.
func (p *place) leave(signedIn bool) {
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.places[p] {
		return
	}
	delete(g.places, p)
	if g.by[p.network]--; g.by[p.network] == 0 {
		delete(g.by, p.network)
	}
	if signedIn {
		if len(g.known) >= maxKnown {
			clear(g.known)
		}
		g.known[p.network] = g.now()
	} else {
		g.turnMinuteLocked()
		g.failed[p.network]++
	}
	g.grantLocked()
}

// watched records in a place who owes the next message. The SSH handshake is a
// dialogue: after the server has written, it is the client's turn.
type watched struct {
	net.Conn
	p *place
}

func (c watched) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.p.owed.Store(0)
	return n, err
}

func (c watched) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.p.owed.Store(c.p.g.now().UnixNano())
	return n, err
}
