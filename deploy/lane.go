package deploy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"mesh"
)

// lane lets one deployment of a stack through at a time, in the order they came.
// Among those that wait there is at most one push: a newer one takes its place,
// because only the last one matters. Nothing of it is stored, so no lock outlives
// the process, and a place is given up with the call that took it.
type lane struct {
	running *ticket
	waiting []*ticket
}

// ticket is a deployment's place in a lane.
type ticket struct {
	deployment mesh.Deployment
	turn       chan struct{}           // closed when it may run
	cancel     context.CancelCauseFunc // ends the deployment
	done       chan struct{}           // closed when it has ended
	err        error                   // its verdict; valid after done
}

// queue waits for the deployment's turn and returns how to leave. wait is called
// with the one that is waited for, when there is one.
func (d *Deployer) queue(ctx context.Context, t *ticket, wait func(mesh.Deployment)) (leave func(), err error) {
	stack := t.deployment.Stack
	d.mu.Lock()
	l := d.lanes[stack]
	if l == nil {
		l = &lane{}
		d.lanes[stack] = l
	}
	if l.running == nil {
		l.running = t
		close(t.turn)
		d.mu.Unlock()
		return func() { d.leave(stack, t) }, nil
	}
	if hasSource(t) {
		for _, w := range l.waiting {
			if hasSource(w) {
				w.cancel(mesh.Errorf(mesh.Cancelled, "replaced by a newer push, deployment %s", t.deployment.Number))
			}
		}
		l.waiting = slices.DeleteFunc(l.waiting, hasSource)
	}
	l.waiting = append(l.waiting, t)
	ahead := l.running.deployment
	d.mu.Unlock()

	wait(ahead)
	select {
	case <-t.turn:
		return func() { d.leave(stack, t) }, nil
	case <-ctx.Done():
		d.leave(stack, t)
		return nil, context.Cause(ctx)
	}
}

// hasSource tells whether a deployment hasSource a source of its own: of those, only the
// last one matters.
func hasSource(t *ticket) bool {
	switch t.deployment.Kind {
	case mesh.DeployPush, mesh.DeployUpload, mesh.DeployImage, mesh.DeployPromote:
		return true
	default:
		return false
	}
}

// leave gives the lane to the next one, or takes t out of the queue.
func (d *Deployer) leave(stack mesh.StackName, t *ticket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[stack]
	if l == nil {
		return
	}
	if l.running != t {
		l.waiting = slices.DeleteFunc(l.waiting, func(w *ticket) bool { return w == t })
		return
	}
	l.running = nil
	if len(l.waiting) > 0 {
		l.running, l.waiting = l.waiting[0], l.waiting[1:]
		close(l.running.turn)
		return
	}
	delete(d.lanes, stack)
}

// tickets returns the deployments of a stack that run or wait, in order.
func (d *Deployer) tickets(stack mesh.StackName) []*ticket {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[stack]
	if l == nil || l.running == nil {
		return nil
	}
	return append([]*ticket{l.running}, l.waiting...)
}

// cancelWait is how long a cancel waits for its deployment to end: a command always
// answers.
const cancelWait = 10 * time.Second

// Cancel ends a deployment that is waiting or running, the running one when n is
// 0, and waits until it has ended, ten seconds at most. A deployment past its switch
// cannot be cancelled and is finished.
func (d *Deployer) Cancel(ctx context.Context, stack mesh.StackName, n mesh.DeploymentNumber, by mesh.KeyName) (mesh.Deployment, error) {
	for _, t := range d.tickets(stack) {
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

// describe tells people which deployment is meant.
func describe(dep mesh.Deployment) string {
	what := string(dep.Kind)
	if dep.Commit != "" {
		what = "push of " + dep.Commit.Short()
	}
	return fmt.Sprintf("deployment %s (%s by %s)", dep.Number, what, dep.By)
}
