package repos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"

	"mesh"
)

// ResetBranch makes the deploy branch point to what is deployed, removes all other
// branches, and makes HEAD name the deploy branch. A stack without a repository needs
// nothing. The error of Options.Deployed is returned as it is.
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
	if state.Branch != "" {
		heads[state.Branch] += "" // the branch is looked at even when it does not exist
	}
	for name, at := range heads {
		want := mesh.Commit("")
		if name == state.Branch {
			want = state.Commit
		}
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

// Shown returns what a pusher of a stack is shown: the deploy branch at what is
// deployed, whatever git has there while pushes are under way, no other branch, and the
// commits that need not be sent again. So git's own "up to date" is true, and a push is
// computed against what serves.
func (r *Repos) Shown(ctx context.Context, stack mesh.StackName) (state mesh.RepoState, have []mesh.Commit, err error) {
	state, err = r.Deployed(ctx, stack)
	if err != nil && !errors.Is(err, mesh.NoStack) {
		return state, nil, err
	}
	if state.Commit != "" {
		st := r.storage(stack)
		defer st.Close()
		if st.HasEncodedObject(plumbing.NewHash(string(state.Commit))) != nil {
			state.Commit = "" // a repository that was emptied: everything has to be sent
		}
	}
	return state, r.kept(stack), nil
}

// TakeTurn lets its caller move refs of a stack, alone, until it calls release. git
// moves a ref only when it stands where the pusher has seen it.
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

// Claim puts a branch where the pusher has seen it; the caller has the turn. git would
// refuse the push otherwise when another one has moved the branch since: of pushes that
// come at once, all read the same list of refs. Which of them is deployed is decided in
// the stack's lane.
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

// Undo puts a ref back that a refused push has moved, unless somebody has moved it
// since: a tag to where it was, a branch to what is deployed, whose objects stay for
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
	back := mesh.Commit("")
	if ref.Branch() == state.Branch {
		back = state.Commit
	}
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

// move changes a ref from old to new; either may be empty.
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

// branch returns what a branch points to; empty when there is none.
func (r *Repos) branch(stack mesh.StackName, name string) (mesh.Commit, error) {
	if name == "" {
		return "", nil
	}
	heads, err := r.heads(stack)
	return heads[name], err
}

// heads reads the branches, without a process: it is done for every stack at
// start.
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
