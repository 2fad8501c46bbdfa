package deploy

import (
	"sync"

	"mesh"
)

// names are the names of stacks that nothing may begin under at the moment. They may be
// used from several goroutines.
type names struct {
	mu sync.Mutex
	// Stacks whose record is gone and whose remains are being removed.
	destroying map[mesh.StackName]bool
	// The old and the new names of stacks that are being renamed.
	renaming map[mesh.StackName]bool
}

func newNames() names {
	return names{destroying: map[mesh.StackName]bool{}, renaming: map[mesh.StackName]bool{}}
}

func renaming(name mesh.StackName) error {
	return mesh.Errorf(mesh.Conflict, "%s is being renamed", name).WithHint("try again in a moment")
}

// free returns an error if a name cannot be used now.
func (n *names) free(name mesh.StackName) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.destroying[name] {
		return mesh.Errorf(mesh.Conflict, "%s is being destroyed", name).WithHint("try again in a moment")
	}
	if n.renaming[name] {
		return renaming(name)
	}
	return nil
}

// destroy keeps deployments off a name until done is called.
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

// beginRename keeps deployments off both names until endRename. It fails if something is
// under way under one of them.
func (n *names) beginRename(name, to mesh.StackName, all *lanes) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch t := all.tickets(name); {
	case n.renaming[name] || n.destroying[name]:
		return renaming(name)
	case n.renaming[to] || n.destroying[to]:
		return renaming(to)
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
