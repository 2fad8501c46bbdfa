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

// resetBranch moves a stack's deploy branch to where RepoState says. Call it after any
// change that may affect RepoState. A failure is corrected when the next push ends, or
// at the next start.
func (d *Deployer) resetBranch(ctx context.Context, stack mesh.StackName) {
	err := d.Repos.ResetBranch(ctx, stack)
	if err != nil && !errors.Is(err, mesh.NoStack) && ctx.Err() == nil {
		d.Logger.Warn("deploy branch not reset", "stack", stack, "err", err)
	}
}
