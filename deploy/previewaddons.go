package deploy

import (
	"context"
	"errors"
	"fmt"

	"mesh"
)

// previewAddons gives a preview that has not been deployed yet what previews-addons of its
// stack says, and returns it with them. What an earlier try has left complete is used.
func (d *Deployer) previewAddons(ctx context.Context, a *attempt, st mesh.Stack) (mesh.Stack, error) {
	parent, err := d.Store.Stack(ctx, st.Preview.Of)
	if err != nil || len(parent.Addons) == 0 {
		return st, err
	}
	how := parent.Effective().PreviewsAddons
	if how == "" || how == mesh.NoAddons {
		if how == "" {
			a.out.line(" !     " + fmt.Sprintf("%s has add-ons, and its previews get none of them; give each new one its own: ssh mesh build:set -a %[1]s previews-addons=empty", parent.Name))
		}
		return st, nil
	}
	for _, at := range parent.Addons {
		if err := d.previewAddon(ctx, a, st, at, how); err != nil {
			return st, phaseFailed("add-ons failed", err)
		}
	}
	return d.Store.Stack(ctx, st.Name)
}

// previewAddon gives a preview what it gets for one attachment of its stack.
func (d *Deployer) previewAddon(ctx context.Context, a *attempt, st mesh.Stack, at mesh.Attachment, how mesh.PreviewsAddons) error {
	of, err := d.ready(ctx, at.Addon)
	if err != nil {
		return err
	}
	vars, err := d.AddonServer.Vars(of, at)
	if err != nil {
		return err
	}
	for _, o := range st.Addons {
		if o.As == at.As {
			return nil // an earlier try has attached it
		}
	}
	for _, name := range vars.Names() {
		if _, said := st.Config[name]; said {
			a.detail("%s is set for previews: nothing is attached as %s", name, at.As)
			return nil
		}
	}
	if how != mesh.ShareAddons {
		a.step("creating add-ons", "Add-on for %s: %s", at.As, map[mesh.PreviewsAddons]string{mesh.CloneAddons: "a copy of " + string(of.Name), mesh.EmptyAddons: "a new " + of.Image}[how])
		if at.Addon, err = d.ownAddon(ctx, a, st, of, at.As, how); err != nil {
			return err
		}
	}
	_, err = d.AttachAddon(ctx, st.Name, a.dep.By, at, a.out)
	return err
}

// ownAddon creates an add-on for a preview, in the place of one of its stack.
func (d *Deployer) ownAddon(ctx context.Context, a *attempt, st mesh.Stack, of mesh.Addon, as string, how mesh.PreviewsAddons) (mesh.AddonName, error) {
	name := mesh.PreviewAddon(st.Name, as)
	switch have, err := d.Store.Addon(ctx, name); {
	case errors.Is(err, mesh.NotFound):
	case err != nil:
		return "", err
	case have.Preview == st.Name && have.State == mesh.AddonReady:
		return name, nil
	default:
		return "", mesh.Errorf(mesh.Conflict, "an add-on named %q already exists", name).WithHint("destroy it: ssh mesh addons:destroy %s --confirm %[1]s", name)
	}
	if how == mesh.CloneAddons {
		_, err := d.cloneAddon(ctx, of.Name, name, a.dep.By, st.Name, a.out)
		return name, err
	}
	next, err := d.plan(mesh.NewAddon{Kind: string(of.Kind), Version: of.Version, Name: name, Memory: of.Memory, CPUs: of.CPUs, Params: of.Params}, a.dep.By)
	if err != nil {
		return "", err
	}
	next.ImageID, next.Digest, next.Preview = of.ImageID, of.Digest, st.Name
	_, err = d.newAddon(ctx, next, a.out, "created", d.AddonServer.Run)
	return name, err
}

// dropPreviewAddons destroys the add-ons of previews that are gone. One that somebody has
// attached to another stack meanwhile stays, and belongs to that stack's people.
func (d *Deployer) dropPreviewAddons(ctx context.Context) error {
	all, err := d.Store.Addons(ctx)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Preview == "" {
			continue
		}
		if _, serr := d.Store.Stack(ctx, a.Preview); !errors.Is(serr, mesh.NoStack) {
			continue
		}
		_, derr := d.DestroyAddon(ctx, a.Name, self, false)
		if users, uerr := d.AddonUsers(ctx, a.Name); uerr == nil && len(users) > 0 {
			_, derr = d.Store.UpdateAddon(ctx, a.Name, func(r *mesh.Addon) error { r.Preview = ""; return nil })
		}
		err = errors.Join(err, derr)
	}
	return err
}
