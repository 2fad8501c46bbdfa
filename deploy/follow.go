package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"mesh"
)

// Follow writes the output of the waiting or running deployment that a push of the commit
// to a branch would begin to out, and returns its verdict.
func (d *Deployer) Follow(ctx context.Context, stack mesh.StackName, branch string, commit mesh.Commit, out io.Writer) (found bool, err error) {
	stack, _, err = d.pushTarget(ctx, stack, branch)
	if err != nil {
		return false, err
	}
	for _, t := range d.lanes.tickets(stack) {
		if t.deployment.Commit != commit {
			continue
		}
		_, _ = fmt.Fprintf(out, "-----> %s is already being deployed as %s; waiting for the result\n", commit.Short(), describe(t.deployment))
		select {
		case <-t.done:
		case <-ctx.Done():
			return true, context.Cause(ctx)
		}
		if t.err != nil {
			_, _ = fmt.Fprintf(out, "       its output: ssh mesh deployments:show -a %s %d\n", stack, t.deployment.Number)
			return true, t.err
		}
		if dep, err := d.Store.Deployment(ctx, stack, t.deployment.Number); err != nil || dep.Status != mesh.StatusLive {
			return true, errors.Join(err, mesh.Errorf(mesh.Conflict, "deployment %s was a dry run: %s is not live", t.deployment.Number, commit.Short()).WithHint("push again"))
		}
		_, _ = fmt.Fprintf(out, "=====> %s is live\n", commit.Short())
		return true, nil
	}
	return false, nil
}

// Done returns a channel that is closed when the deployment has ended. If it neither
// waits nor runs, the channel is closed already.
func (d *Deployer) Done(stack mesh.StackName, n mesh.DeploymentNumber) <-chan struct{} {
	for _, t := range d.lanes.tickets(stack) {
		if t.deployment.Number == n {
			return t.done
		}
	}
	ch := make(chan struct{})
	close(ch)
	return ch
}
