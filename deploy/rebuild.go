package deploy

import (
	"context"
	"io"

	"mesh"
)

// Rebuild builds the commit of the current release again, with today's base images and
// build settings, and rolls it out.
func (d *Deployer) Rebuild(ctx context.Context, name mesh.StackName, by mesh.KeyName, noCache bool, out io.Writer) error {
	st, err := d.Store.Stack(ctx, name)
	if err != nil {
		return err
	}
	if st.Current == 0 {
		return notDeployed(name)
	}
	r, err := d.Store.Release(ctx, name, st.Current)
	if err != nil {
		return err
	}
	if !r.Here() {
		if ok, err := d.Builder.Present(ctx, r.Image.ID); err != nil {
			return err
		} else if !ok {
			return d.restore(ctx, name, by, out)
		}
		return mesh.Errorf(mesh.Conflict, "%s of %s was not built from a commit of its own repository", r.Number, name).
			WithHint("%s", anew(r))
	}
	subject, err := d.Repos.Subject(ctx, st.Repository(), r.Commit)
	if err != nil {
		return err
	}
	dep := mesh.Deployment{Stack: name, Kind: mesh.DeployRebuild, By: by, Commit: r.Commit, Subject: subject}
	return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
		return d.deploySource(ctx, a, source{
			repo: st.Repository(), commit: r.Commit, tag: r.Commit.Short(), description: "Rebuild " + r.Commit.Short(), noCache: noCache, force: true, fresh: true,
		})
	})
}
