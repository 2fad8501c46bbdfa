package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"mesh"
)

// Upload deploys a source that came without git, a tree or a prebuilt image, the
// way a push is deployed: nil means that it is live, and when ctx ends before its
// release is recorded, nothing has changed. The stack is made when there is none.
// The tree is not used after Upload has returned.
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

// ensureStack makes a stack unless there is one.
func (d *Deployer) ensureStack(ctx context.Context, name mesh.StackName, by mesh.KeyName) error {
	_, err := d.Store.Stack(ctx, name)
	if !errors.Is(err, mesh.NoStack) {
		return err
	}
	if _, err = d.CreateStack(ctx, name, by); err != nil {
		if _, serr := d.Store.Stack(ctx, name); serr == nil {
			return nil // somebody else's first push
		}
	}
	return err
}

// Promote deploys the image of one stack's current release to another stack, with
// the other's config, settings and release command. Nothing is built: it is the
// same image.
func (d *Deployer) Promote(ctx context.Context, from, to mesh.StackName, by mesh.KeyName, out io.Writer) error {
	if from == to {
		return mesh.Errorf(mesh.Invalid, "%s cannot be promoted to itself", from).WithHint("usage: ssh mesh promote TO -a FROM")
	}
	st, err := d.Store.Stack(ctx, from)
	if err != nil {
		return err
	}
	if _, err := d.Store.Stack(ctx, to); err != nil {
		return err
	}
	if st.Current == 0 {
		return notDeployed(from)
	}
	subject := fmt.Sprintf("Promote %s %s", from, st.Current)
	dep := mesh.Deployment{Stack: to, Kind: mesh.DeployPromote, By: by, Subject: subject}
	return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
		// What was current when the command was given, whatever is by now.
		r, err := d.Store.Release(ctx, from, st.Current)
		if err != nil {
			return err
		}
		if err := d.imagePresent(ctx, r); err != nil {
			return err
		}
		a.out.mask(r.Config) // nothing of it goes along, and nothing of it is printed
		a.step("promoting", "Promoting %s of %s: the same image", r.Number, from)
		src := source{
			commit: r.Commit, image: &r.Image, declared: r.Declared, tag: r.Commit.Short(), description: subject,
			text: fmt.Sprintf("%s %s", from, r.Number),
		}
		if r.Source != "" {
			src.text += ", " + r.Source
		}
		return d.deploySource(ctx, a, src)
	})
}
