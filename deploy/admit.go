package deploy

import (
	"context"
	"errors"
	"time"

	"mesh"
)

// AdmitPush reports whether a key may push to a stack, which need not exist, and
// whether the push could succeed, before anything is received.
func (d *Deployer) AdmitPush(ctx context.Context, key mesh.Key, stack mesh.StackName) error {
	st, err := d.Store.Stack(ctx, stack)
	exists := err == nil
	if key.May(mesh.AccessDeploy, stack) {
		if err := d.names.free(stack); err != nil {
			return err
		}
	}
	if err != nil && !errors.Is(err, mesh.NoStack) {
		return err
	}
	switch {
	case exists && !key.May(mesh.AccessRead, stack), !exists && !key.May(mesh.AccessDeploy, stack):
		return mesh.Errorf(mesh.NoStack, "no stack is named %q", stack).WithHint("list the stacks your key can see: ssh mesh stacks")
	case !key.May(mesh.AccessDeploy, stack):
		return mesh.Errorf(mesh.Denied, "the key %q can read %s but not push to it", key.Name, stack).WithHint("ask an admin for the deploy role")
	}
	if st.Preview != nil {
		return mesh.Errorf(mesh.Denied, "%s is a preview: push its branch to the stack that it belongs to", stack).
			WithHint("push to %s instead: git push REMOTE %s", st.Preview.Of, mesh.Clip(st.Preview.Branch, 60))
	}
	if !exists {
		if err := d.mayCreate(ctx, key, stack); err != nil {
			return err
		}
	}
	if st.Lock != nil && st.Effective().Previews == nil { // a lock does not concern previews
		return locked(st)
	}
	if d.DiskFree != nil {
		if free, err := d.DiskFree(); err == nil && free < minFree {
			return mesh.Errorf(mesh.Unavailable, "the server's disk is full: %d MB free, a push needs %d MB", free>>20, minFree>>20).
				WithHint("free disk space on the server, for example with: docker system prune")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return d.Runner.Ping(ctx)
}

// AdmitRef reports whether a ref may move. Only tags, the deploy branch and branches with
// previews may.
func (d *Deployer) AdmitRef(ctx context.Context, key mesh.Key, stack mesh.StackName, ref mesh.RefUpdate) error {
	if !key.May(mesh.AccessDeploy, stack) {
		return mesh.Errorf(mesh.Denied, "the key %q may not push to %s", key.Name, stack)
	}
	if ref.Tag() != "" {
		return nil
	}
	if ref.Branch() == "" {
		return mesh.Errorf(mesh.Invalid, "only branches and tags can be pushed, not %s", mesh.Clip(ref.Ref, 80))
	}
	st, err := d.Store.Stack(ctx, stack)
	if err != nil && !errors.Is(err, mesh.NoStack) {
		return err
	}
	branch := st.Settings.Branch
	other := branch != "" && ref.Branch() != branch
	switch {
	case other && ref.New == "":
		_, ok, err := d.preview(ctx, stack, ref.Branch())
		if err == nil && !ok {
			err = mesh.Errorf(mesh.NotFound, "%s has no branch %s", stack, mesh.Clip(ref.Branch(), 60))
		}
		return err
	case other && st.Effective().Previewed(ref.Branch()):
		if err := mesh.CheckBranch(ref.Branch()); err != nil {
			return err
		}
		return d.checkBeside(ctx, st, ref.Branch())
	case ref.New == "":
		return mesh.Errorf(mesh.Denied, "the deploy branch cannot be deleted").WithHint("to remove the stack: ssh mesh stacks:destroy -a %s --confirm %s", stack, stack)
	case other && len(st.Effective().Previews) > 0 && !st.Effective().Previewed(ref.Branch()):
		return mesh.Errorf(mesh.Denied, "%s deploys %s, and previews of %s only: git push mesh %s:%s", stack, branch, st.Effective().Get("previews"), mesh.Clip(ref.Branch(), 60), branch).
			WithHint("for previews of all branches: ssh mesh build:set -a %s previews=true", stack)
	case other:
		return mesh.Errorf(mesh.Denied, "%s deploys %s only: git push mesh %s:%s", stack, branch, mesh.Clip(ref.Branch(), 60), branch).
			WithHint("or change the deploy branch: ssh mesh build:set -a %s branch=%s; or for a preview of each branch: ssh mesh build:set -a %[1]s previews=true", stack, mesh.Clip(ref.Branch(), 60))
	case st.Lock != nil:
		return locked(st)
	case st.Name != "":
		return d.checkBeside(ctx, st, ref.Branch())
	}
	return nil
}

// checkBeside returns an error if git cannot have a branch beside those that a stack has.
func (d *Deployer) checkBeside(ctx context.Context, st mesh.Stack, branch string) error {
	state, err := d.RepoState(ctx, st.Name)
	if err != nil {
		return err
	}
	at := mesh.BranchBeside(state.Heads(), branch)
	if at == "" {
		return nil
	}
	e := mesh.Errorf(mesh.Conflict, "git cannot have the branch %s beside %s", mesh.Clip(branch, 60), mesh.Clip(at, 60))
	if at == state.Branch {
		return e.WithHint("give it another name: git branch -m %s NAME", mesh.Clip(branch, 60))
	}
	return e.WithHint("give it another name, or end that preview: ssh mesh previews:destroy -a %s %s", st.Name, mesh.Clip(at, 60))
}

// minFree is the free space needed to accept a push: a disk that fills up in the middle
// of one helps nobody.
const minFree = 256 << 20
