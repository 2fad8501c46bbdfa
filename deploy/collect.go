package deploy

import (
	"context"
	"fmt"
	"slices"

	"mesh"
)

// wantedImages returns the images that a rollback of any stack may need: those of its
// current release and of the five before it. A stack with a waiting or running
// deployment is busy: it may have an image that belongs to no release yet.
func (d *Deployer) wantedImages(ctx context.Context) (images map[string]bool, busy map[mesh.StackName]bool, err error) {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return nil, nil, err
	}
	images, busy = map[string]bool{}, map[mesh.StackName]bool{}
	for _, x := range d.Store.Damaged() {
		busy[x.Stack] = x.Stack != "" // the images it needs are not known
	}
	for _, st := range stacks {
		if busy[st.Name] {
			continue
		}
		if err := d.keptImages(ctx, st.Name, images); err != nil {
			return nil, nil, err
		}
		busy[st.Name] = len(d.lanes.tickets(st.Name)) > 0
	}
	return images, busy, nil
}

// doubtful reports whether a stack without a record may exist all the same, because
// some records cannot be read.
func (d *Deployer) doubtful(ctx context.Context, stack mesh.StackName) bool {
	if _, whole := d.damaged(); len(whole) == 0 {
		return false
	}
	_, err := d.Store.Stack(ctx, stack)
	return err != nil
}

// stray reports whether the engine has something of a stack that was never recorded
// here. Only a person may remove that.
func (d *Deployer) stray(stack mesh.StackName) bool {
	unknown := d.unknown.Load()
	return unknown != nil && slices.Contains(*unknown, stack)
}

// keptImages adds to images the images of a stack that a rollback may need, by ID.
func (d *Deployer) keptImages(ctx context.Context, stack mesh.StackName, images map[string]bool) error {
	kept, err := d.Store.Releases(ctx, stack, keepReleases+1)
	for _, r := range kept {
		images[r.Image.ID] = true
	}
	return err
}

// Collect removes the images that no rollback needs, of existing and of removed stacks,
// and shrinks the build cache to its limit. With dry it only reports what it would
// remove. It touches nothing that belongs to another server.
func (d *Deployer) Collect(ctx context.Context, dry bool) (gone []mesh.Garbage, cache int64, err error) {
	images, busy, err := d.wantedImages(ctx)
	if err != nil {
		return nil, 0, err
	}
	gone, err = d.Builder.Sweep(ctx, func(stack mesh.StackName, id string) bool { return images[id] || busy[stack] || d.doubtful(ctx, stack) }, dry)
	if err != nil {
		return gone, 0, err
	}
	if dry {
		size, limit, err := d.Builder.Cache(ctx)
		return gone, max(0, size-limit), err
	}
	cache, err = d.Builder.PruneCache(ctx, false)
	return gone, cache, err
}

// room keeps a build from filling the disk. If little space is free, it frees some; if
// that is not enough, it returns an error.
func (d *Deployer) room(ctx context.Context, a *attempt) error {
	free, need, known, err := d.Builder.Room(ctx)
	if err != nil || !known || free >= need {
		return err
	}
	a.detail("only %s free on the engine's disk: removing old images and the build cache", megabytes(free))
	images, busy, err := d.wantedImages(ctx)
	if err != nil {
		return err
	}
	busy[a.dep.Stack] = len(d.lanes.tickets(a.dep.Stack)) > 1 // besides this one, which has no image yet
	if _, err := d.Builder.Sweep(ctx, func(stack mesh.StackName, id string) bool {
		return images[id] || busy[stack] || d.doubtful(ctx, stack) || d.stray(stack)
	}, false); err != nil {
		return err
	}
	if _, err := d.Builder.PruneCache(ctx, true); err != nil {
		return err
	}
	if free, need, _, err = d.Builder.Room(ctx); err != nil || free >= need {
		return err
	}
	return mesh.Errorf(mesh.Unavailable, "the server's disk is full: %s free for images, a build needs %s", megabytes(free), megabytes(need)).
		WithHint("free disk space on the server: see docker system df, or destroy unused stacks")
}

// ClearCache empties the engine's build cache; the next builds run every step.
func (d *Deployer) ClearCache(ctx context.Context) (freed int64, err error) {
	return d.Builder.PruneCache(ctx, true)
}

// Cache returns the size of the engine's build cache, and its limit.
func (d *Deployer) Cache(ctx context.Context) (size, limit int64, err error) {
	return d.Builder.Cache(ctx)
}

// collect removes, in the background, the images of a stack that no rollback needs, and
// shrinks the build cache to its limit.
func (d *Deployer) collect(stack mesh.StackName, last mesh.DeploymentNumber) {
	d.background(func(ctx context.Context) {
		keep := map[string]bool{}
		if err := d.keptImages(ctx, stack, keep); err != nil {
			return
		}
		// A running build may have an image that belongs to no release yet. This
		// deployment may still be in the lane; its image has a release.
		if slices.ContainsFunc(d.lanes.tickets(stack), func(t *ticket) bool { return t.deployment.Number != last }) {
			return
		}
		err := d.Builder.Collect(ctx, stack, keep)
		if err == nil {
			_, err = d.Builder.PruneCache(ctx, false)
		}
		if err != nil && ctx.Err() == nil {
			d.Logger.Warn("old images not collected", "stack", stack, "err", fmt.Errorf("collect: %w", err))
		}
	})
}
