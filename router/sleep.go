package router

import (
	"time"

	"mesh"
)

// wake asks for a stack that is asleep, and holds the request until its route changes, whatever the
// reason. It is asked again then: it cannot be woken for a while once its start has failed.
func (q *request) wake(w *waiter, e *entry, rt *route) Code {
	switch {
	case q.ignored:
		return Asleep
	case !q.router.rouse(rt.Stack):
		return NoInstance
	}
	return w.wait(q, e, rt)
}

// rouse asks for a stack that is asleep. It returns false if it cannot be woken now.
func (r *Router) rouse(stack mesh.StackName) bool { return r.opts.Wake != nil && r.opts.Wake(stack) }

// use records that a request of e has ended, if an instance got it.
func (e *entry) use(by mesh.InstanceName, ignored bool, now time.Duration) {
	if by.Slot > 0 && !ignored {
		e.used.Store(int64(now) + 1)
	}
}

// LastUse returns when a request of a stack last ended that an instance got, on the clock of
// Options.Now; zero: none since the router has a route for the stack. busy says that one is
// in progress, or a connection, or is held. Requests of ignored User-Agents in progress
// count, those that have ended do not.
func (r *Router) LastUse(stack mesh.StackName) (last time.Time, busy bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.stacks[stack]
	if e == nil {
		return last, false
	}
	if at := e.used.Load(); at > 0 {
		last = r.epoch.Add(time.Duration(at - 1))
	}
	busy = e.waiting() > 0
	for _, t := range e.cur.Load().targets {
		busy = busy || t.inflight.load() > 0
	}
	return last, busy
}
