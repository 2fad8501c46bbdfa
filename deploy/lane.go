package deploy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"mesh"
)

// lane runs one deployment of a stack at a time, in order of arrival. At most one push
// waits: a newer push replaces it, because only the last one matters. Nothing of a lane
// is stored, so no lock outlives the process, and a call that ends gives up its place.
type lane struct {
	running *ticket
	waiting []*ticket
}

// lanes holds the lanes of all stacks. It may be used from several goroutines.
type lanes struct {
	mu sync.Mutex
	by map[mesh.StackName]*lane
}

// ticket is a deployment's place in a lane.
type ticket struct {
	deployment mesh.Deployment
	turn       chan struct{}           // closed when it may run
	cancel     context.CancelCauseFunc // ends the deployment
	done       chan struct{}           // closed when it has ended
	err        error                   // its verdict; valid after done
}

// queue waits for the deployment's turn and returns the function that ends it. If it
// has to wait, it calls wait with the deployment ahead.
func (l *lanes) queue(ctx context.Context, t *ticket, wait func(mesh.Deployment)) (leave func(), err error) {
	stack := t.deployment.Stack
	l.mu.Lock()
	one := l.by[stack]
	if one == nil {
		one = &lane{}
		l.by[stack] = one
	}
	if one.running == nil {
		one.running = t
		close(t.turn)
		l.mu.Unlock()
		return func() { l.leave(stack, t) }, nil
	}
	if hasSource(t) {
		for _, w := range one.waiting {
			if hasSource(w) {
				w.cancel(mesh.Errorf(mesh.Cancelled, "replaced by a newer push, deployment %s", t.deployment.Number))
			}
		}
		one.waiting = slices.DeleteFunc(one.waiting, hasSource)
	}
	one.waiting = append(one.waiting, t)
	ahead := one.running.deployment
	l.mu.Unlock()

	wait(ahead)
	select {
	case <-t.turn:
		return func() { l.leave(stack, t) }, nil
	case <-ctx.Done():
		l.leave(stack, t)
		return nil, context.Cause(ctx)
	}
}

// hasSource reports whether a deployment brings its own source. When several of them
// wait, only the last one is deployed.
func hasSource(t *ticket) bool {
	switch t.deployment.Kind {
	case mesh.DeployPush, mesh.DeployUpload, mesh.DeployImage, mesh.DeployPromote:
		return true
	default:
		return false
	}
}

// leave passes the lane to the next deployment, or takes t out of the queue.
func (l *lanes) leave(stack mesh.StackName, t *ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.by[stack]
	if one == nil {
		return
	}
	if one.running != t {
		one.waiting = slices.DeleteFunc(one.waiting, func(w *ticket) bool { return w == t })
		return
	}
	one.running = nil
	if len(one.waiting) > 0 {
		one.running, one.waiting = one.waiting[0], one.waiting[1:]
		close(one.running.turn)
		return
	}
	delete(l.by, stack)
}

// tickets returns the running and waiting deployments of a stack, in order.
func (l *lanes) tickets(stack mesh.StackName) []*ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.by[stack]
	if one == nil || one.running == nil {
		return nil
	}
	return append([]*ticket{one.running}, one.waiting...)
}

// busy returns a channel that is closed when one of the running deployments has ended,
// or nil if none runs.
func (l *lanes) busy() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.by {
		if one.running != nil {
			return one.running.done
		}
	}
	return nil
}

// cancelWait limits how long Cancel waits for a deployment to end, so that the command
// always answers.
const cancelWait = 10 * time.Second

// Cancel ends a waiting or running deployment, the running one if n is 0, and waits at
// most ten seconds for its end. A deployment past its switch cannot be cancelled; it is
// finished.
func (d *Deployer) Cancel(ctx context.Context, stack mesh.StackName, n mesh.DeploymentNumber, by mesh.KeyName) (mesh.Deployment, error) {
	for _, t := range d.lanes.tickets(stack) {
		if n != 0 && t.deployment.Number != n {
			continue
		}
		t.cancel(mesh.Errorf(mesh.Cancelled, "cancelled by %s", by))
		late := time.NewTimer(cancelWait)
		defer late.Stop()
		select {
		case <-t.done:
		case <-ctx.Done():
			return mesh.Deployment{}, context.Cause(ctx)
		case <-late.C:
			return mesh.Deployment{}, mesh.Errorf(mesh.Unavailable, "deployment %s was cancelled and has not ended yet", t.deployment.Number).
				WithHint("see its output: ssh mesh deployments:show -a %s %d", stack, t.deployment.Number)
		}
		return d.Store.Deployment(ctx, stack, t.deployment.Number)
	}
	return mesh.Deployment{}, mesh.Errorf(mesh.NotFound, "no deployment of %s is waiting or running", stack)
}

// describe identifies a deployment for people.
func describe(dep mesh.Deployment) string {
	what := string(dep.Kind)
	if dep.Commit != "" {
		what = "push of " + dep.Commit.Short()
	}
	return fmt.Sprintf("deployment %s (%s by %s)", dep.Number, what, dep.By)
}
