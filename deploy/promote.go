package deploy

import (
	"context"
	"fmt"
	"io"

	"mesh"
)

// Promote deploys the image of one stack's current release to another stack, with the
// other stack's config, settings and release command. Nothing is built: the image is
// the same.
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
		// Promote the release that was current when the command was given, even if
		// another one is by now.
		r, err := d.Store.Release(ctx, from, st.Current)
		if err != nil {
			return err
		}
		if err := d.imagePresent(ctx, r); err != nil {
			return err
		}
		a.out.mask(r.Configs()) // the config stays behind, and none of it is printed
		a.step("promoting", "Promoting %s of %s", r.Number, from)
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
