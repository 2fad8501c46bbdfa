package deploy

import (
	"context"
	"errors"

	"mesh"
)

// RepoState says what the deploy branch of a stack has to point to: the commit of
// the current release. When the current release has no commit in the stack's own
// repository (it was promoted, uploaded, or is a prebuilt image), or its image is
// lost, the branch must be absent. git then always sends a push, also of the commit
// that was deployed last: git calls a branch that stands at that commit already
// "Everything up-to-date", and mesh would never hear of the push. A commit of mesh's
// own on the branch would not do: a plain push would not be a fast-forward, and git
// refuses that before it asks the server.
func (d *Deployer) RepoState(ctx context.Context, stack mesh.StackName) (mesh.RepoState, error) {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return mesh.RepoState{}, err
	}
	state := mesh.RepoState{Branch: st.Settings.Branch}
	if st.Current == 0 {
		return state, nil
	}
	r, err := d.Store.Release(ctx, stack, st.Current)
	if err != nil {
		return mesh.RepoState{}, err
	}
	if r.Here() && !d.losses.down(stack, r.Number) {
		state.Commit = r.Commit
	}
	return state, nil
}

// resetBranch puts a stack's deploy branch where RepoState says. It is called after
// whatever may have changed that; what fails is put right when the next push ends, or
// at the next start.
func (d *Deployer) resetBranch(ctx context.Context, stack mesh.StackName) {
	err := d.Repos.ResetBranch(ctx, stack)
	if err != nil && !errors.Is(err, mesh.NoStack) && ctx.Err() == nil {
		d.Logger.Warn("deploy branch not reset", "stack", stack, "err", err)
	}
}
