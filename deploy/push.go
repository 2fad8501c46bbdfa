package deploy

import (
	"context"
	"fmt"
	"io"

	"mesh"
)

// keepReleases is how many releases before the current one keep their images, so that a
// rollback needs no build.
const keepReleases = 5

// Push deploys a commit of the stack's repository: build, release command, start,
// check, switch. It creates the stack if it does not exist. It returns nil when the
// commit is live, or, with Detach, when the deployment has begun. If ctx ends before
// the release is recorded, Push undoes everything; after that it finishes the rollout.
//
// A push to a branch that gets previews deploys the preview of that branch, and creates it
// if it does not exist.
func (d *Deployer) Push(ctx context.Context, p mesh.Push, out io.Writer) error {
	repo := p.Stack
	if err := d.ensureStack(ctx, repo, p.By); err != nil {
		return err
	}
	subject, err := d.Repos.Subject(ctx, repo, p.Commit)
	if err != nil {
		return err
	}
	if err := d.mayTry(ctx, p); err != nil {
		return err
	}
	preview, err := d.pushedPreview(ctx, p, out)
	if err != nil {
		return err
	}
	if preview != "" {
		p.Stack = preview
	}
	dep := mesh.Deployment{Stack: p.Stack, Kind: mesh.DeployPush, By: p.By, Commit: p.Commit, Subject: subject}
	run := func(ctx context.Context, out io.Writer) (err error) {
		defer func() { d.Audit(ctx, p.By, p.Stack, "push "+p.Commit.Short(), err) }()
		return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
			return d.deploySource(ctx, a, source{
				repo: repo, commit: p.Commit, branch: p.Branch, gitTag: p.Tag, tag: p.Commit.Short(), description: "Deploy " + p.Commit.Short(),
				noCache: p.NoCache, dryRun: p.DryRun, force: p.Force, canary: p.Canary, noSwitch: p.NoSwitch,
				admit: func(st mesh.Stack) error {
					// Another first push may have set the branch while this one waited.
					if b := st.Settings.Branch; b != "" && p.Branch != "" && b != p.Branch {
						return mesh.Errorf(mesh.Denied, "%s deploys %s only: git push mesh %s:%s", p.Stack, b, p.Branch, b)
					}
					return nil
				},
				change: func(s *mesh.Stack) {
					if s.Settings.Branch == "" {
						s.Settings.Branch = p.Branch
					}
				},
			})
		})
	}
	if !p.Detach {
		return run(ctx, out)
	}
	d.background(func(ctx context.Context) { _ = run(ctx, nil) }) // the deployment's record has the verdict
	_, _ = fmt.Fprintf(out, "-----> %s: %s is being deployed in the background\n       follow it with: ssh mesh deployments:show -a %s --follow\n", p.Stack, p.Commit.Short(), p.Stack)
	return nil
}
