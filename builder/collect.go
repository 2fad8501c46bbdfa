package builder

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"

	"mesh"
)

// Collect removes the images of a stack whose IDs are not in keep: those tagged
// mesh/<stack>:… that this server made, and those it made for the stack that have
// lost their tags, which their seal proves. It keeps images that a container uses,
// and tags that others set.
func (b *Builder) Collect(ctx context.Context, stack mesh.StackName, keep map[string]bool) error {
	used, err := b.used(ctx)
	if err != nil {
		return err
	}
	ours := "mesh/" + string(stack) + ":"
	for _, f := range []filters.Args{
		// A promoted image has another stack's label.
		filters.NewArgs(filters.Arg("reference", "mesh/"+string(stack)), filters.Arg("label", labelServer+"="+b.server)),
		filters.NewArgs(filters.Arg("dangling", "true"), filters.Arg("label", labelServer+"="+b.server), filters.Arg("label", labelStack+"="+string(stack))),
	} {
		found, err := b.cli.API(ctx).ImageList(ctx, image.ListOptions{Filters: f})
		if err != nil {
			return b.fault(ctx, "list the images of "+string(stack), err)
		}
		for _, i := range found {
			if keep[i.ID] || used[i.ID] || !named(i) && !b.sealed(i.Labels) {
				continue
			}
			if err := b.collect(ctx, i.ID, ours); err != nil {
				return b.fault(ctx, "remove image "+i.ID, err)
			}
		}
	}
	return nil
}

// Rename gives the images that this server tagged mesh/<from>:… the same tags below
// mesh/<to>, and removes the old tags. It may be called again.
func (b *Builder) Rename(ctx context.Context, from, to mesh.StackName) error {
	found, err := b.cli.API(ctx).ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(
		filters.Arg("reference", "mesh/"+string(from)), filters.Arg("label", labelServer+"="+b.server))})
	if err != nil {
		return b.fault(ctx, "list the images of "+string(from), err)
	}
	for _, i := range found {
		for _, ref := range i.RepoTags {
			tag, ours := strings.CutPrefix(ref, "mesh/"+string(from)+":")
			if !ours {
				continue
			}
			if err := b.cli.API(ctx).ImageTag(ctx, i.ID, "mesh/"+string(to)+":"+tag); err != nil {
				return b.fault(ctx, "tag "+ref+" for "+string(to), err)
			}
			if err := b.removeImage(ctx, ref); err != nil {
				return b.fault(ctx, "untag "+ref, err)
			}
		}
	}
	return nil
}

// Stacks returns the stacks that this server has images of, by the names of the
// images. Labels do not count: images made by others may have any.
func (b *Builder) Stacks(ctx context.Context) ([]mesh.StackName, error) {
	found, err := b.cli.API(ctx).ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(
		filters.Arg("reference", "mesh/*"), filters.Arg("label", labelServer+"="+b.server))})
	if err != nil {
		return nil, b.fault(ctx, "list the images", err)
	}
	seen := map[mesh.StackName]bool{}
	for _, i := range found {
		for _, ref := range i.RepoTags {
			name, ours := strings.CutPrefix(ref, "mesh/")
			name, _, tagged := strings.Cut(name, ":")
			if stack, err := mesh.ParseStackName(name); ours && tagged && err == nil {
				seen[stack] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// Sweep removes the images of all stacks that this server made and keep rejects, and
// returns them. Images that a container uses stay, and so do names that others set.
// With dry, Sweep removes nothing.
func (b *Builder) Sweep(ctx context.Context, keep func(stack mesh.StackName, id string) bool, dry bool) (gone []mesh.Garbage, err error) {
	used, err := b.used(ctx)
	if err != nil {
		return nil, err
	}
	found, err := b.cli.API(ctx).ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("label", labelServer+"="+b.server))})
	if err != nil {
		return nil, b.fault(ctx, "list the images", err)
	}
	for _, i := range found {
		g := mesh.Garbage{Stack: mesh.StackName(i.Labels[labelStack]), ID: i.ID, Size: i.Size}
		wanted, others := used[i.ID] || keep(g.Stack, i.ID), false
		var named []mesh.StackName // by its names: a renamed stack has another one than it was built for
		for _, ref := range i.RepoTags {
			name, ok := strings.CutPrefix(ref, "mesh/")
			stack, _, tagged := strings.Cut(name, ":")
			if !ok || !tagged {
				others = others || ref != "<none>:<none>"
				continue
			}
			g.Refs, named = append(g.Refs, ref), append(named, mesh.StackName(stack))
			wanted = wanted || keep(mesh.StackName(stack), i.ID) // of a promoted image
		}
		// Others may have written its labels, but its names are mesh's.
		if wanted || len(g.Refs) == 0 && (others || !b.sealed(i.Labels)) {
			continue
		}
		if len(named) > 0 && !slices.Contains(named, g.Stack) {
			g.Stack = named[0]
		}
		if others {
			g.Size = 0 // the image stays and only loses mesh's names
		}
		if !dry {
			if err := b.collect(ctx, i.ID, "mesh/"); err != nil {
				return gone, b.fault(ctx, "remove image "+i.ID, err)
			}
		}
		gone = append(gone, g)
	}
	return gone, nil
}

// named reports whether an image has a name; old engines list "<none>:<none>" for
// those without.
func named(i image.Summary) bool {
	return slices.ContainsFunc(i.RepoTags, func(ref string) bool { return ref != "<none>:<none>" })
}

// collect removes the tags first, and then the rest. An engine that keeps images in
// containerd removes nothing by ID that has tags; others remove an image with its
// last tag.
func (b *Builder) collect(ctx context.Context, id, ours string) error {
	in, err := b.cli.API(ctx).ImageInspect(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	others := false
	for _, ref := range in.RepoTags {
		if !strings.HasPrefix(ref, ours) {
			others = true
			continue
		}
		if err := b.removeImage(ctx, ref); err != nil {
			return fmt.Errorf("untag %s: %w", ref, err)
		}
	}
	if others {
		return nil
	}
	return b.removeImage(ctx, id)
}

// removeImage does not force: an image that a container uses stays (a conflict).
func (b *Builder) removeImage(ctx context.Context, ref string) error {
	_, err := b.cli.API(ctx).ImageRemove(ctx, ref, image.RemoveOptions{PruneChildren: true})
	if err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	if errdefs.IsConflict(err) {
		b.log.DebugContext(ctx, "image kept", "image", ref, "err", err)
		return nil
	}
	// Of two removals of one image at the same time, Docker 20.10 answers one with an
	// error of its own ("unrecognized image ID"), and not that it is gone.
	if there, perr := b.Present(ctx, ref); perr == nil && !there {
		return nil
	}
	return err
}

func (b *Builder) used(ctx context.Context) (map[string]bool, error) {
	found, err := b.cli.API(ctx).ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return nil, b.fault(ctx, "list the containers", err)
	}
	used := map[string]bool{}
	for _, c := range found {
		used[c.ImageID] = true
	}
	return used, nil
}
