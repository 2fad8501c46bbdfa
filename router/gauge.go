package router

import (
	"context"
	"sync"
	"sync/atomic"
)

// gauge counts what is in progress and lets others wait until nothing is. Counting
// takes one atomic addition; only waiting takes the lock. The zero gauge is ready.
type gauge struct {
	n      atomic.Int64
	waited atomic.Bool // somebody has waited: done must check for a channel

	mu   sync.Mutex
	zero chan struct{} // closed and dropped when n reaches 0
}

func (g *gauge) add()        { g.n.Add(1) }
func (g *gauge) load() int64 { return g.n.Load() }

func (g *gauge) done() {
	// A waiter sets waited before it reads n, so one of the two sees the other.
	if g.n.Add(-1) == 0 && g.waited.Load() {
		g.mu.Lock()
		if g.zero != nil {
			close(g.zero)
			g.zero = nil
		}
		g.mu.Unlock()
	}
}

// wait returns nil once the count has been seen to be 0, or ctx's error.
func (g *gauge) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		if g.zero == nil {
			g.zero = make(chan struct{})
		}
		zero := g.zero
		g.mu.Unlock()
		g.waited.Store(true)
		if g.load() == 0 {
			return nil
		}
		select {
		case <-zero:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
