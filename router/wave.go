package router

import (
	"context"
	"slices"
	"sync/atomic"

	"mesh"
)

// front is one listener that is being served.
type front struct {
	tls     bool
	links   mesh.StackName // the stack whose links it serves; empty: it is for everyone
	conns   gauge          // connections, without upgraded ones
	clients clients
	leaving atomic.Bool // nothing new is accepted: connections end with their next answer
	wave    atomic.Pointer[wave]
	early   []*wave // the earlier waves, guarded by Router.mu
}

// wave is everything that arrived on one listener between two calls of Settle.
type wave struct{ active gauge } // requests and upgraded connections

// join counts a request in the current wave.
func (f *front) join() *wave {
	for {
		w := f.wave.Load()
		w.active.add()
		if f.wave.Load() == w { // otherwise Settle may have found it empty before
			return w
		}
		w.active.done()
	}
}

// finished are the waves that are over.
func (r *Router) finished(f *front) []*wave {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(f.early)
}

// waves are all that may still have something in progress.
func (r *Router) waves(f *front) []*wave {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(slices.Clone(f.early), f.wave.Load())
}

// Settle returns when no request and no upgraded connection is left of those in
// progress now, or when ctx ends. Later ones are served meanwhile. Call it before
// Serve ends, so that nobody waits long for the next process: Serve then cuts what
// is left of the old ones, and upgraded connections that have arrived since, at
// once, and lets other requests end.
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

// Cut ends all requests that apps have received, and all upgraded connections, at
// once.
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

// cutWave ends what is left of w.
func (t *target) cutWave(w *wave) {
	t.grpc.cut(w, errStop)
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.conns {
		c.mu.Lock()
		if c.wave == w {
			c.abortLocked(errStop)
		}
		c.mu.Unlock()
	}
}
