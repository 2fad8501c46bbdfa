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

// leaving is a container that is being retired.
type leaving struct {
	stack mesh.StackName
	gone  chan struct{} // closed when it is removed
}

// leaves notes that an instance is being retired, until the returned function is
// called.
func (f *Fleet) leaves(in mesh.Instance) (gone func()) {
	l := leaving{in.Stack, make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaving[in.ID] = l
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.leaving[in.ID] == l {
			delete(f.leaving, in.ID)
		}
		close(l.gone)
	}
}

// Left returns when none of the instances of a stack that are being retired now exists any
// more, or when ctx ends.
func (f *Fleet) Left(ctx context.Context, stack mesh.StackName) {
	f.mu.Lock()
	var all []leaving
	for _, l := range f.leaving {
		if l.stack == stack {
			all = append(all, l)
		}
	}
	f.mu.Unlock()
	for _, l := range all {
		select {
		case <-l.gone:
		case <-ctx.Done():
			return
		}
	}
}

// Leaving returns a channel that is closed when one of the instances being retired is
// removed, or nil if there is none.
func (f *Fleet) Leaving() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.leaving {
		return l.gone
	}
	return nil
}
