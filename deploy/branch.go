package deploy

import (
	"context"
	"errors"

	"mesh"
)

// RepoState returns where the deploy branch of a stack must point: to the commit of the
// current release. If the current release has no commit in the stack's own repository
// (it was promoted, uploaded, or is a prebuilt image), or its image is missing, the
// branch must be absent. git then always sends a push, even of the commit deployed
// last. If the branch pointed to that commit, git would report "Everything up-to-date",
// and mesh would never see the push. A commit made by mesh on the branch would not
// help: a plain push would not be a fast-forward, and git refuses that before it asks
// the server.
//
// The branches of previews follow the same rule. Of two that git cannot have at once
// (mesh.BranchBeside), the second is absent. The state of a preview, which has no
// repository, is that of the stack that it belongs to.
func (d *Deployer) RepoState(ctx context.Context, stack mesh.StackName) (mesh.RepoState, error) {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return mesh.RepoState{}, err
	}
	if st.Preview != nil {
		if st, err = d.Store.Stack(ctx, st.Preview.Of); err != nil {
			return mesh.RepoState{}, err
		}
	}
	state := mesh.RepoState{Branch: st.Settings.Branch}
	if state.Commit, err = d.head(ctx, st); err != nil {
		return mesh.RepoState{}, err
	}
	previews, err := d.Store.Previews(ctx, st.Name)
	if err != nil {
		return mesh.RepoState{}, err
	}
	for _, p := range previews {
		at, err := d.head(ctx, p)
		if err != nil {
			return mesh.RepoState{}, err
		}
		if state.Previews == nil {
			state.Previews = map[string]mesh.Commit{}
		}
		if mesh.BranchBeside(state.Heads(), p.Preview.Branch) != "" {
			at = ""
		}
		state.Previews[p.Preview.Branch] = at
	}
	return state, nil
}

// RepositoryOf returns the stack whose repository has the commits of a stack: its own, or the
// one that it is a preview of. An unknown stack is its own.
func (d *Deployer) RepositoryOf(ctx context.Context, stack mesh.StackName) (mesh.StackName, error) {
	st, err := d.Store.Stack(ctx, stack)
	if errors.Is(err, mesh.NoStack) {
		return stack, nil
	}
	return st.Repository(), err
}

// head returns the commit that the branch of a stack must point to.
func (d *Deployer) head(ctx context.Context, st mesh.Stack) (mesh.Commit, error) {
	if st.Current == 0 {
		return "", nil
	}
	r, err := d.Store.Release(ctx, st.Name, st.Current)
	if err != nil || !r.Here() || d.losses.down(st.Name, r.Number) {
		return "", err
	}
	return r.Commit, nil
}

// resetBranch moves a stack's deploy branch to where RepoState says. Call it after any
// change that may affect RepoState. A failure is corrected when the next push ends, or
// at the next start.
func (d *Deployer) resetBranch(ctx context.Context, stack mesh.StackName) {
	err := d.putBranch(ctx, stack)
	if err != nil && !errors.Is(err, mesh.NoStack) && ctx.Err() == nil {
		d.Logger.Warn("deploy branch not reset", "stack", stack, "err", err)
	}
}

// putBranch is resetBranch for callers who return the error.
func (d *Deployer) putBranch(ctx context.Context, stack mesh.StackName) error {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	return d.Repos.ResetBranch(ctx, st.Repository())
}
