package router

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"mesh"
)

// target is an instance: its open requests, its connections, its health. It lives
// from the first route that has it until Drain, or until nothing of it is left.
type target struct {
	id       string
	routes   int // that have it; guarded by Router.mu
	inflight gauge
	ep       atomic.Pointer[endpoint]

	// aside is when (on the Router's clock) the target may be tried again after a
	// failed connection; 0: all is well.
	aside atomic.Int64
	fails atomic.Int32 // in a row

	// safe is how long an idle connection can be trusted not to be closed by the app
	// this instant: see pooled.
	safe atomic.Int64

	mu     sync.Mutex
	idle   []*conn            // newest last
	conns  map[*conn]struct{} // all connections, idle or not
	open   atomic.Int64       // len(conns), readable without the lock
	closed bool               // in no route: nothing is kept for later
	cause  error              // why everything in progress has been ended; nil: it has not

	grpc grpcClient
}

// endpoint is where a target listens. A restarted instance keeps its ID and may get
// another address.
type endpoint struct {
	name mesh.InstanceName
	addr netip.AddrPort
	text string
}

const (
	asideFirst = 50 * time.Millisecond // after one failed dial; doubled by each further one
	asideMost  = time.Second
	// probeTime is how long one request has to find out whether a target that was
	// set aside is back, before another one also tries.
	probeTime = 2 * time.Second
)

// update sets the target's address. Call it with Router.mu held.
func (t *target) update(mt mesh.Target) {
	old := t.ep.Load()
	if old != nil && old.addr == mt.Addr && old.name == mt.Name {
		t.reopen()
		return
	}
	t.ep.Store(&endpoint{name: mt.Name, addr: mt.Addr, text: mt.Addr.String()})
	if old != nil && old.addr != mt.Addr {
		t.aside.Store(0)
		t.fails.Store(0)
		t.safe.Store(int64(safeIdle))
		t.closeIdle()
	}
	t.reopen()
}

func (t *target) reopen() {
	t.mu.Lock()
	t.closed, t.cause = false, nil
	t.mu.Unlock()
}

// failed sets the target aside after a failed connection.
func (t *target) failed(now time.Duration) {
	n := min(t.fails.Add(1)-1, 8)
	t.aside.Store(int64(now + min(asideFirst<<n, asideMost)))
}

// healthy ends what failed began.
func (t *target) healthy() {
	if t.aside.Load() != 0 {
		t.aside.Store(0)
		t.fails.Store(0)
		t.safe.Store(int64(safeIdle)) // it may have been restarted
	}
}

// probe reports whether the time of a set-aside target has come, and returns true to
// only one caller.
func (t *target) probe(now time.Duration) bool {
	until := t.aside.Load()
	return until != 0 && int64(now) >= until && t.aside.CompareAndSwap(until, int64(now+probeTime))
}

// closeIdle closes the connections without a request.
func (t *target) closeIdle() {
	t.mu.Lock()
	idle := t.idle
	t.idle = nil
	t.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
	t.grpc.closeIdle()
}

// retire ends the pooling of connections; open requests continue.
func (t *target) retire() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.closeIdle()
}

// cut ends all requests in progress on the target, and those that have claimed it
// but not begun.
func (t *target) cut(cause error) {
	t.mu.Lock()
	t.cause = cause
	t.abortLocked(cause, false)
	t.mu.Unlock()
	t.grpc.cut(nil, cause)
}

// lose ends everything in progress on the target; what may be repeated is sent to another one.
func (t *target) lose() {
	t.mu.Lock()
	t.abortLocked(errLost, false)
	t.abortLocked(errLost, true)
	t.mu.Unlock()
	t.grpc.cut(nil, errLost)
	t.closeIdle()
}

// cutTunnels ends all upgraded connections, and returns their number.
func (t *target) cutTunnels(cause error) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.abortLocked(cause, true)
}

func (t *target) abortLocked(cause error, tunnels bool) (n int) {
	for c := range t.conns {
		c.mu.Lock()
		if c.ctx != nil && (c.tun != nil) == tunnels {
			c.abortLocked(cause)
			n++
		}
		c.mu.Unlock()
	}
	return n
}

// tunnels counts the upgraded connections.
func (t *target) tunnels() (n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.conns {
		c.mu.Lock()
		if c.ctx != nil && c.tun != nil {
			n++
		}
		c.mu.Unlock()
	}
	return n
}

// severed returns the cause that cut was called with.
func (t *target) severed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cause
}
