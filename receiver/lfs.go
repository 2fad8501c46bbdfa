package receiver

import (
	"context"
	"errors"
	"regexp"

	"github.com/gliderlabs/ssh"

	"mesh"
)

// lfsLine matches the command of a Git LFS client: a stack and a direction. Before
// version 3 there was no such command: objects went over HTTP.
var lfsLine = regexp.MustCompile(`^git-lfs-transfer '?(?:/|~/|/~/)?([a-z0-9][a-z0-9-]{0,62}?)(?:\.git)?/?'? (upload|download)$`)

// lfsTransfer receives or sends Git LFS objects.
func (r *Receiver) lfsTransfer(ctx context.Context, s ssh.Session, key mesh.Key, stack mesh.StackName, way string) (err error) {
	upload := way == "upload"
	if upload {
		if err := r.Deployer.AdmitPush(ctx, key, stack); err != nil {
			return err
		}
	} else if _, err := r.Deployer.RepoState(ctx, stack); err != nil || !key.May(mesh.AccessRead, stack) {
		return mesh.Errorf(mesh.NoStack, "no stack is named %q", stack).WithHint("list them with: ssh mesh stacks")
	} else if stack, err = r.repository(ctx, key, stack); err != nil {
		return err
	}
	leave, err := r.Repos.Enter(stack, true) // the push that creates the stack follows
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave(ctx)) }()
	return r.Repos.TransferLFS(ctx, stack, upload, idleReader{until(ctx, s), r.Idle}, s)
}
