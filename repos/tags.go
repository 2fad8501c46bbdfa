package repos

import (
	"errors"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing"

	"mesh"
)

// CountTags returns the number of tags in a stack's repository.
func (r *Repos) CountTags(stack mesh.StackName) (n int, err error) {
	st := r.storage(stack)
	defer st.Close()
	refs, err := st.IterReferences()
	if err != nil {
		return 0, fmt.Errorf("count the tags of %s: %w", stack, err)
	}
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		if ref.Name().IsTag() {
			n++
		}
		return nil
	})
	return n, err
}

// Peel follows tags to the commit they name.
func (r *Repos) Peel(stack mesh.StackName, id mesh.Commit) (mesh.Commit, error) {
	st := r.storage(stack)
	defer st.Close()
	return st.peel(id)
}

// peel is Peel. It returns plumbing.ErrObjectNotFound for what names no commit.
func (s *storage) peel(id mesh.Commit) (mesh.Commit, error) {
	h := plumbing.NewHash(string(id))
	for range 10 {
		c, err := s.commit(h)
		if err == nil {
			return mesh.Commit(c.Hash.String()), nil
		}
		if !errors.Is(err, plumbing.ErrObjectNotFound) {
			return "", err
		}
		tag, err := s.tag(h)
		if err != nil {
			return "", err
		}
		h = tag.Target
	}
	return "", fmt.Errorf("peel %s: more than ten tags deep: %w", id.Short(), plumbing.ErrObjectNotFound)
}
