package fleet

import "mesh"

// Try lets some clients of a stack, or whoever has a link, reach a release beside the current
// one; nil ends that. The next Install or Adopt also ends it. The trial must not change any
// more.
func (f *Fleet) Try(stack mesh.StackName, t *mesh.Trial) {
	f.mu.Lock()
	defer f.unlock()
	if g := f.groups[stack]; g != nil {
		g.trial = t
		f.markLocked(stack)
	}
}
