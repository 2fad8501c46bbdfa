package deploy

import (
	"context"
	"fmt"
	"slices"

	"mesh"
	"mesh/deploy/manifest"
)

// Dockerfile returns the Dockerfile of a stack's last commit, and whether mesh
// generated it.
func (d *Deployer) Dockerfile(ctx context.Context, name mesh.StackName) (text string, managed bool, err error) {
	st, err := d.Store.Stack(ctx, name)
	if err != nil {
		return "", false, err
	}
	last, err := d.Store.Deployments(ctx, name, 50)
	if err != nil {
		return "", false, err
	}
	i := slices.IndexFunc(last, func(dep mesh.Deployment) bool { return dep.Commit != "" })
	if i < 0 {
		return "", false, mesh.Errorf(mesh.NotFound, "nothing has been pushed to %s yet", name).WithHint("push first, or write one in a checkout: mesh build:dockerfile --eject")
	}
	tree, _, closeTree, err := d.Repos.Open(ctx, name, last[i].Commit)
	if err != nil {
		return "", false, err
	}
	defer closeTree()
	m, err := manifest.OfTree(tree, st.Settings.Root)
	if err != nil {
		return "", false, err
	}
	text, managed, err = d.Builder.Dockerfile(tree, st.Settings.Over(m.Settings))
	if err != nil {
		return "", false, fmt.Errorf("%s %s: %w", name, last[i].Commit.Short(), err)
	}
	return text, managed, nil
}
