package deploy

import (
	"context"
	"sync"

	"mesh"
)

// names holds the names of stacks under which nothing may begin at the moment. It may
// be used from several goroutines.
type names struct {
	mu sync.Mutex
	// Destroyed stacks whose remains are being removed.
	destroying map[mesh.StackName]bool
	// The old and new names of stacks that are being renamed.
	renaming map[mesh.StackName]bool
	// Stacks in which containers of detached runs are being started.
	starting map[mesh.StackName]*starts
}

// starts are those in progress in a stack.
type starts struct {
	n   int
	end chan struct{} // closed when n is 0 again
}

func newNames() names {
	return names{destroying: map[mesh.StackName]bool{}, renaming: map[mesh.StackName]bool{}, starting: map[mesh.StackName]*starts{}}
}

func renaming(name mesh.StackName) error {
	return mesh.Errorf(mesh.Conflict, "%s is being renamed", name).WithHint("try again in a moment")
}

// free returns an error if a name cannot be used now.
func (n *names) free(name mesh.StackName) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.freeLocked(name)
}

// start is free for somebody who then starts a container, until done is called: the stack is
// not renamed meanwhile, and what removes it waits.
func (n *names) start(name mesh.StackName) (done func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.freeLocked(name); err != nil {
		return nil, err
	}
	s := n.starting[name]
	if s == nil {
		s = &starts{end: make(chan struct{})}
		n.starting[name] = s
	}
	s.n++
	return sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if s.n--; s.n == 0 {
			delete(n.starting, name)
			close(s.end)
		}
	}), nil
}

// started waits until nothing is being started in a stack.
func (n *names) started(ctx context.Context, name mesh.StackName) {
	n.mu.Lock()
	s := n.starting[name]
	n.mu.Unlock()
	if s == nil {
		return
	}
	select {
	case <-s.end:
	case <-ctx.Done():
	}
}

func (n *names) freeLocked(name mesh.StackName) error {
	if n.destroying[name] {
		return mesh.Errorf(mesh.Conflict, "%s is being destroyed", name).WithHint("try again in a moment")
	}
	if n.renaming[name] {
		return renaming(name)
	}
	return nil
}

// destroy keeps deployments away from a name until done is called.
func (n *names) destroy(name mesh.StackName) (done func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.destroying[name] = true
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.destroying, name)
	}
}

// beginRename keeps deployments away from both names until endRename. It returns an
// error if a deployment of one of them is in progress.
func (n *names) beginRename(name, to mesh.StackName, all *lanes) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch t := all.tickets(name); {
	case n.renaming[name] || n.destroying[name]:
		return renaming(name)
	case n.renaming[to] || n.destroying[to]:
		return renaming(to)
	case n.starting[name] != nil:
		return mesh.Errorf(mesh.Conflict, "a detached run of %s is starting", name).WithHint("try again in a moment")
	case len(t) > 0:
		return mesh.Errorf(mesh.Conflict, "%s is under way", describe(t[0].deployment)).WithHint("try again when it has ended")
	}
	n.renaming[name], n.renaming[to] = true, true
	return nil
}

func (n *names) isRenaming(name mesh.StackName) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.renaming[name]
}

func (n *names) endRename(name mesh.StackName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.renaming, name)
}
