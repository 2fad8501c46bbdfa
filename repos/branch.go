package repos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"mesh"
)

// ResetBranch points the deploy branch and those of previews to their deployed commits,
// removes all other branches, and points HEAD to the deploy branch. A stack without a repository needs
// nothing. An error of Options.Deployed is returned unchanged.
func (r *Repos) ResetBranch(ctx context.Context, stack mesh.StackName) error {
	state, err := r.Deployed(ctx, stack)
	if err != nil || !r.Exists(stack) {
		return err
	}
	release, err := r.TakeTurn(ctx, stack)
	if err != nil {
		return err
	}
	defer release()
	heads, err := r.heads(stack)
	if err != nil {
		return err
	}
	for name := range state.Heads() {
		heads[name] += "" // check the branch even if it does not exist
	}
	// Those that go are first: git cannot have both feature and feature/x.
	names := slices.SortedFunc(maps.Keys(heads), func(a, b string) int {
		return cmp.Compare(min(len(state.Head(a)), 1), min(len(state.Head(b)), 1))
	})
	for _, name := range names {
		at, want := heads[name], state.Head(name)
		if at == want {
			continue
		}
		if at != "" {
			if err := r.keep(ctx, stack, at); err != nil {
				return err
			}
		}
		if err := r.move(ctx, stack, "refs/heads/"+name, at, want); err != nil {
			return err
		}
	}
	if state.Branch == "" {
		return nil
	}
	want := "ref: refs/heads/" + state.Branch + "\n"
	path := filepath.Join(r.path(stack), "HEAD")
	if have, err := os.ReadFile(path); err == nil && string(have) == want {
		return nil
	}
	_, err = r.run(ctx, stack, "symbolic-ref", "HEAD", "refs/heads/"+state.Branch)
	return err
}

// Shown returns what pushers of a stack see: the deploy branch and those of previews at
// their deployed commits, wherever git has them during pushes, no other branch, and the
// commits that need not be sent again. So git's own "up to date" is true, and a push is computed against what
// serves.
func (r *Repos) Shown(ctx context.Context, stack mesh.StackName) (state mesh.RepoState, have []mesh.Commit, err error) {
	state, err = r.Deployed(ctx, stack)
	if err != nil && !errors.Is(err, mesh.NoStack) {
		return state, nil, err
	}
	st := r.storage(stack)
	defer st.Close()
	for branch, at := range state.Heads() {
		here, err := st.has(at)
		if err != nil {
			return state, nil, fmt.Errorf("look for commit %s of %s: %w", at.Short(), stack, err)
		}
		switch {
		case here: // otherwise the repository was emptied: everything must be sent
		case branch == state.Branch:
			state.Commit = ""
		default:
			delete(state.Previews, branch)
		}
	}
	return state, r.kept(stack), nil
}

// TakeTurn lets its caller alone move refs of a stack until it calls release. git moves
// a ref only if it is where the pusher has seen it.
func (r *Repos) TakeTurn(ctx context.Context, stack mesh.StackName) (release func(), err error) {
	r.turns.Lock()
	turn := r.turn[stack]
	if turn == nil {
		turn = make(chan struct{}, 1)
		r.turn[stack] = turn
	}
	r.turns.Unlock()
	select {
	case turn <- struct{}{}:
		return sync.OnceFunc(func() { <-turn }), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Claim moves a branch to where the pusher has seen it; the caller has the turn.
// Otherwise git would refuse the push if another one has moved the branch since: pushes
// that come at once all read the same list of refs. The stack's lane decides which of
// them is deployed.
func (r *Repos) Claim(ctx context.Context, stack mesh.StackName, ref mesh.RefUpdate) error {
	if ref.Branch() == "" {
		return nil
	}
	head, err := r.branch(stack, ref.Branch())
	if err != nil || head == ref.Old {
		return err
	}
	return r.move(ctx, stack, ref.Ref, head, ref.Old)
}

// Undo moves back a ref that a refused push has moved, unless it was moved since: a tag
// to where it was, a branch to the deployed commit. The branch's objects are kept for
// the next attempt.
func (r *Repos) Undo(ctx context.Context, stack mesh.StackName, ref mesh.RefUpdate) error {
	if ref.Branch() == "" {
		return r.move(ctx, stack, ref.Ref, ref.New, ref.Old)
	}
	state, err := r.Deployed(ctx, stack)
	if err != nil {
		return err
	}
	release, err := r.TakeTurn(ctx, stack)
	if err != nil {
		return err
	}
	defer release()
	back := state.Head(ref.Branch())
	if ref.New != "" && ref.New != back {
		if err := r.keep(ctx, stack, ref.New); err != nil {
			return err
		}
	}
	head, err := r.branch(stack, ref.Branch())
	if err != nil || head != ref.New || head == back {
		return err
	}
	return r.move(ctx, stack, ref.Ref, ref.New, back)
}

// move changes a ref from old to to; either may be empty.
func (r *Repos) move(ctx context.Context, stack mesh.StackName, ref string, old, to mesh.Commit) error {
	zero := strings.Repeat("0", 40)
	was := string(old)
	if was == "" {
		was = zero
	}
	if to == "" {
		_, err := r.run(ctx, stack, "update-ref", "-d", ref, was)
		return err
	}
	_, err := r.run(ctx, stack, "update-ref", ref, string(to), was)
	return err
}

// branch returns the commit of a branch, or "" if there is none.
func (r *Repos) branch(stack mesh.StackName, name string) (mesh.Commit, error) {
	if name == "" {
		return "", nil
	}
	heads, err := r.heads(stack)
	return heads[name], err
}

// heads reads the branches without starting a process, because it runs for every stack
// at start.
func (r *Repos) heads(stack mesh.StackName) (map[string]mesh.Commit, error) {
	st := r.storage(stack)
	defer st.Close()
	out := map[string]mesh.Commit{}
	refs, err := st.IterReferences()
	if err != nil {
		return nil, fmt.Errorf("read the refs of %s: %w", stack, err)
	}
	defer refs.Close()
	for {
		ref, err := refs.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the refs of %s: %w", stack, err)
		}
		if ref.Name().IsBranch() {
			out[ref.Name().Short()] = mesh.Commit(ref.Hash().String())
		}
	}
}
