package deploy

import (
	"context"
	"errors"
	"io"

	"mesh"
)

// Upload deploys a source that came without git, a tree or a prebuilt image, in the
// same way as a push: nil means that it is live, and if ctx ends before its release is
// recorded, nothing has changed. It creates the stack if it does not exist. It does not
// use the tree after it returns.
func (d *Deployer) Upload(ctx context.Context, u mesh.Upload, out io.Writer) error {
	if err := d.ensureStack(ctx, u.Stack, u.By); err != nil {
		return err
	}
	src := source{
		tree: u.Tree, from: u.From, dockerfile: u.Dockerfile, description: u.Subject, text: u.Subject, noCache: u.NoCache, dryRun: u.DryRun,
	}
	kind := mesh.DeployImage
	if u.Tree != nil {
		kind = mesh.DeployUpload
		src.tag = "upload-" + mesh.Commit(u.ID).Short()
	}
	dep := mesh.Deployment{Stack: u.Stack, Kind: kind, By: u.By, Subject: u.Subject}
	return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
		return d.deploySource(ctx, a, src)
	})
}

// ensureStack creates a stack if it does not exist.
func (d *Deployer) ensureStack(ctx context.Context, name mesh.StackName, by mesh.KeyName) error {
	_, err := d.Store.Stack(ctx, name)
	if !errors.Is(err, mesh.NoStack) {
		return err
	}
	if _, err = d.CreateStack(ctx, name, by); err != nil {
		if _, serr := d.Store.Stack(ctx, name); serr == nil {
			return nil // another first push created it
		}
	}
	return err
}
