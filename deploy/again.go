package deploy

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"mesh"
)

// self is the author of deployments that nobody asked for.
const self mesh.KeyName = "mesh"

// The image of a release may be missing: pruned, or never present after a restore on
// another machine. Building the same source again gives a different image, because base
// images and packages have changed since. It therefore becomes a new release, by mesh,
// with the config, the formation and the commands of the release that it replaces; the
// old release never changes. The release command does not run again: it ran for the old
// release. A lock does not prevent this, because nothing new is released.

// againText describes the release that replaces r.
func againText(r mesh.Release) string {
	if r.Commit != "" {
		return fmt.Sprintf("Build %s again: the image of %s was missing", r.Commit.Short(), r.Number)
	}
	return fmt.Sprintf("Get the image of %s again: it was missing", r.Number)
}

// imagePresent returns an error if the image of a release is missing. The error says
// how to bring it back.
func (d *Deployer) imagePresent(ctx context.Context, r mesh.Release) error {
	ok, err := d.Builder.Present(ctx, r.Image.ID)
	if err != nil || ok {
		return err
	}
	return d.goneError(ctx, r)
}

func (d *Deployer) goneError(ctx context.Context, r mesh.Release) *mesh.Error {
	return mesh.Errorf(mesh.NotFound, "the image of %s of %s (%s) is missing from the engine", r.Number, r.Stack, r.Image.Ref).
		WithHint("%s", d.remedy(ctx, r))
}

// remedy returns the command that brings the image of a release back.
func (d *Deployer) remedy(ctx context.Context, r mesh.Release) string {
	if _, ok := d.origin(ctx, r); ok || r.Image.Digest != "" {
		if st, err := d.Store.Stack(ctx, r.Stack); err == nil && st.Current != r.Number {
			return fmt.Sprintf("rebuild it: ssh mesh rollback -a %s %s", r.Stack, r.Number)
		}
		return fmt.Sprintf("rebuild it: ssh mesh ps:rebuild -a %s", r.Stack)
	}
	return anew(r)
}

// anew returns the command that deploys something again, in the way it was deployed
// before.
func anew(r mesh.Release) string {
	what := strings.TrimPrefix(r.Source, "Image ")
	switch from, _, _ := strings.Cut(r.Source, " "); {
	case what != r.Source && r.Image.Digest != "":
		return fmt.Sprintf("deploy it again: ssh mesh deploy -a %s --image %s", r.Stack, what)
	case what != r.Source:
		ref := strings.TrimSuffix(what, ", loaded")
		return fmt.Sprintf("load it again: docker save %s | ssh mesh deploy -a %s --load %s", ref, r.Stack, ref)
	case r.Elsewhere && from != "":
		return fmt.Sprintf("promote it again: ssh mesh promote %s -a %s", r.Stack, from)
	}
	return fmt.Sprintf("upload it again, from its folder: tar c . | ssh mesh deploy -a %s", r.Stack)
}

// origin returns the stack whose repository has the commit of a release: the release's
// own stack, or the one it was promoted from. A commit identifies its tree, so any
// repository that has deployed it gives the same tree.
func (d *Deployer) origin(ctx context.Context, r mesh.Release) (mesh.StackName, bool) {
	if r.Commit == "" {
		return "", false
	}
	if !r.Elsewhere {
		st, err := d.Store.Stack(ctx, r.Stack)
		return st.Repository(), err == nil
	}
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return "", false
	}
	for _, st := range stacks {
		releases, err := d.Store.Releases(ctx, st.Name, 0)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(releases, func(o mesh.Release) bool { return o.Here() && o.Commit == r.Commit }) {
			return st.Repository(), true
		}
	}
	return "", false
}

// ensureImage builds the image of an unfinished release again if it is missing.
func (d *Deployer) ensureImage(ctx context.Context, a *attempt, st mesh.Stack, r *mesh.Release) error {
	ok, err := d.Builder.Present(ctx, r.Image.ID)
	if err != nil || ok {
		return err
	}
	img, err := d.again(ctx, a, st, *r)
	if err != nil {
		return err
	}
	r.Image = img
	return nil
}

// again makes the image of a release again from the same source: the commit, or the
// digest of a prebuilt image.
func (d *Deployer) again(ctx context.Context, a *attempt, st mesh.Stack, r mesh.Release) (mesh.Image, error) {
	st.Declared, st.Config = r.Declared.Settings, r.ConfigOf("")
	origin, ok := d.origin(ctx, r)
	switch {
	case ok:
		a.step("building", "The image %s is missing from the engine: building %s again", r.Image.Ref, r.Commit.Short())
		tree, closeTree, err := d.openTree(ctx, a, origin, r.Commit)
		if err != nil {
			return mesh.Image{}, phaseFailed("build failed", err)
		}
		defer closeTree()
		src := source{commit: r.Commit, tree: tree, tag: r.Commit.Short()}
		return d.image(ctx, a, st, src)
	case r.Image.Digest != "":
		a.detail("the image %s is missing from the engine: pulling it again", r.Image.Ref)
		return d.image(ctx, a, st, source{from: mesh.From{Ref: r.Image.Digest}})
	}
	return mesh.Image{}, d.goneError(ctx, r)
}

var (
	errBusyStack = mesh.Errorf(mesh.Conflict, "another deployment is under way")
	errImageBack = mesh.Errorf(mesh.Conflict, "the image is back")
)

// restore makes a release that replaces the current one, whose image is missing.
func (d *Deployer) restore(ctx context.Context, stack mesh.StackName, by mesh.KeyName, out io.Writer) error {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	lost, err := d.Store.Release(ctx, stack, st.Current)
	if err != nil {
		return err
	}
	if ok, err := d.Builder.Present(ctx, lost.Image.ID); err != nil {
		return err
	} else if ok {
		return errImageBack
	}
	if _, ok := d.origin(ctx, lost); !ok && lost.Image.Digest == "" {
		return d.goneError(ctx, lost) // no deployment that can only fail
	}
	text := againText(lost)
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployRebuild, By: by, Subject: text}
	return d.rerelease(ctx, dep, out, text, func(ctx context.Context, _ *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		cur, err := d.Store.Release(ctx, stack, st.Current)
		if err != nil {
			return nil, err
		}
		// Changes that were recorded but not released stay unreleased.
		r.Config, r.Global, r.Formation, r.Services = cur.Config, cur.Global, cur.Formation, cur.Services
		return nil, nil
	})
}
