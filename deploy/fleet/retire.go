package fleet

import (
	"context"
	"time"

	"mesh"
)

// Exit is how much time an instance gets to end.
type Exit struct {
	Drain    time.Duration // for requests that it is serving
	Upgraded time.Duration // for upgraded connections, such as WebSockets
	Grace    time.Duration // between SIGTERM and SIGKILL
}

// Retire lets instances without a route finish their requests, in the background, and
// stops them. The returned function waits for that and reports whether it finished
// before ctx ended. Instances that are not stopped when the server ends are retired at
// its next start.
func (f *Fleet) Retire(ins []mesh.Instance, exit func(mesh.Instance) Exit) (retired func(context.Context) bool) {
	done := make(chan struct{}, len(ins))
	for _, in := range ins {
		how, gone := exit(in), f.leaves(in)
		f.Background(func(ctx context.Context) {
			defer func() { done <- struct{}{} }()
			defer gone()
			dctx, cancel := context.WithTimeout(ctx, how.Drain)
			defer cancel()
			if err := f.Router.Drain(dctx, in.ID, how.Upgraded); err != nil && ctx.Err() == nil {
				f.Logger.Warn("requests cut off", "stack", in.Stack, "instance", in.Name.String(), "err", err)
			}
			if ctx.Err() != nil {
				return
			}
			f.stop(ctx, in, how.Grace)
		})
	}
	return func(ctx context.Context) bool {
		for range ins {
			<-done
		}
		return ctx.Err() == nil
	}
}

// leaves notes that an instance is being retired, until the returned function is
// called.
func (f *Fleet) leaves(in mesh.Instance) (gone func()) {
	ch := make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaving[in.ID] = ch
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.leaving[in.ID] == ch {
			delete(f.leaving, in.ID)
		}
		close(ch)
	}
}

// Leaving returns a channel that is closed when one of the instances being retired is
// removed, or nil if there is none.
func (f *Fleet) Leaving() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, gone := range f.leaving {
		return gone
	}
	return nil
}
