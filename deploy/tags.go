package deploy

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"mesh"
)

// tagRelease tags the image with its release and removes the images that no rollback
// needs. A failure cannot fail a deployment that is live.
func (d *Deployer) tagRelease(ctx context.Context, st mesh.Stack, r mesh.Release) {
	if err := d.Builder.Tag(ctx, r.Image.ID, fmt.Sprintf("mesh/%s:%s", st.Name, r.Number)); err != nil {
		d.Logger.Warn("image not tagged", "stack", st.Name, "release", r.Number.String(), "err", err)
	}
	d.collect(st.Name, r.Deployment)
}

// imageTag is the distribution specification's rule for the part of an image name after
// the colon.
var imageTag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// ownTag matches the tags that mesh gives images: by release, commit and deployment.
var ownTag = regexp.MustCompile(`^(v\d+|[0-9a-f]{7,40}|(deployment|from|upload)-.*)$`)

// maxImageTags limits how many images a push tags with its git tags, and how many lines
// it prints about them: a repository may have thousands.
const maxImageTags = 20

// TagImages tags the images of releases made from tagged commits with the git tags. It
// returns a line for each of the first tags, and one about the rest.
func (d *Deployer) TagImages(ctx context.Context, stack mesh.StackName, tags []mesh.Tag) (lines []string) {
	releases, err := d.Store.Releases(ctx, stack, 50)
	if err != nil {
		d.Logger.Warn("images not tagged", "stack", stack, "err", err)
		return nil
	}
	// Tags that name an image come first: a line about them is worth more.
	built := func(t mesh.Tag) bool {
		return slices.ContainsFunc(releases, func(r mesh.Release) bool { return r.Commit == t.Commit })
	}
	tags = slices.Clone(tags)
	slices.SortStableFunc(tags, func(a, b mesh.Tag) int {
		switch x, y := built(a), built(b); {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
	branch := "main"
	if st, err := d.Store.Stack(ctx, stack); err == nil && st.Settings.Branch != "" {
		branch = st.Settings.Branch
	}
	for i, t := range tags {
		if i == maxImageTags {
			return append(lines, fmt.Sprintf("%d more tags are stored", len(tags)-i))
		}
		lines = append(lines, d.tagImage(ctx, stack, t, releases, branch))
	}
	return lines
}

func (d *Deployer) tagImage(ctx context.Context, stack mesh.StackName, t mesh.Tag, releases []mesh.Release, branch string) string {
	tag := mesh.Visible(t.Name) // git allows all but control characters in a name
	if !imageTag.MatchString(tag) || tag == "latest" {
		return fmt.Sprintf("tag %s is stored; it is not a valid image name", mesh.Clip(tag, 60))
	}
	if ownTag.MatchString(tag) {
		return fmt.Sprintf("tag %s is stored; it does not name an image, because mesh uses this name itself", tag)
	}
	for _, r := range releases {
		if r.Commit != t.Commit {
			continue
		}
		ref := fmt.Sprintf("mesh/%s:%s", stack, tag)
		if err := d.Builder.Tag(ctx, r.Image.ID, ref); err != nil {
			d.Logger.Warn("image not tagged", "stack", stack, "err", err)
			return fmt.Sprintf("tag %s is stored; the image of %s is missing", tag, r.Number)
		}
		return fmt.Sprintf("tag %s: the image of %s is also called %s", tag, r.Number, ref)
	}
	return fmt.Sprintf("tag %s is stored; its commit %s has not been deployed. Deploy it with: git push -f mesh %s:refs/heads/%s", tag, t.Commit.Short(), t.Commit.Short(), branch)
}
