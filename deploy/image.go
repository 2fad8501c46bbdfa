package deploy

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"mesh"
)

// mayRead returns a function that reports whose images a key may build from; nil means
// everybody's. Keys that are limited to stacks are limited here as well; the local
// socket is not.
func (d *Deployer) mayRead(ctx context.Context, by mesh.KeyName) (func(mesh.StackName) bool, error) {
	keys, err := d.Store.Keys(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(keys, func(k mesh.Key) bool { return k.Name == by })
	if i < 0 || len(keys[i].Stacks) == 0 {
		return nil, nil
	}
	return func(stack mesh.StackName) bool { return keys[i].May(mesh.AccessRead, stack) }, nil
}

// settingTag is the tag that image-tag= asks for, or empty. What a tag cannot contain
// becomes a hyphen (the OCI distribution specification allows [A-Za-z0-9._-], 128 in all).
func settingTag(set mesh.Settings, src source, n mesh.DeploymentNumber, now time.Time) string {
	if set.ImageTag == "" {
		return ""
	}
	commit := src.commit.Short()
	if commit == "" {
		commit = src.tag
	}
	t := strings.NewReplacer(
		"{commit}", commit, "{tag}", cmp.Or(src.gitTag, commit), "{branch}", cmp.Or(src.branch, set.Branch, "none"), "{deployment}", fmt.Sprint(int(n)), "{time}", now.UTC().Format("20060102-150405"),
	).Replace(set.ImageTag)
	t = noTag.ReplaceAllString(t, "-")
	t = t[:min(len(t), 128)]
	if ownTag.MatchString(t) || !imageTag.MatchString(t) { // it would hide one of mesh's own
		return ""
	}
	return t
}

var noTag = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// image makes the image of a source, or uses an existing one.
func (d *Deployer) image(ctx context.Context, a *attempt, st mesh.Stack, src source) (mesh.Image, error) {
	began := d.Now()
	if src.tag == "" {
		src.tag = fmt.Sprintf("deployment-%d", int(a.dep.Number))
	}
	b := mesh.Build{
		Stack: st.Name, Deployment: a.dep.Number, Commit: src.commit, Tree: src.tree, Settings: st.Effective(), From: src.from, Config: st.Config.Over(src.global), NoCache: src.noCache,
		Tags: []string{fmt.Sprintf("mesh/%s:%s", st.Name, src.tag)},
		Labels: map[string]string{
			"mesh.stack": string(st.Name), "mesh.commit": string(src.commit), "mesh.deployment": fmt.Sprint(int(a.dep.Number)),
		},
	}
	if t := settingTag(st.Effective(), src, a.dep.Number, began); t != "" && src.tree != nil {
		b.Tags = append(b.Tags, fmt.Sprintf("mesh/%s:%s", st.Name, t))
	}
	var err error
	if b.May, err = d.mayRead(ctx, a.dep.By); err != nil {
		return mesh.Image{}, err
	}
	switch {
	case src.image != nil:
		img := *src.image
		img.Ref = b.Tags[0]
		if err := d.Builder.Tag(ctx, img.ID, img.Ref); err != nil {
			return img, err
		}
		a.detail("%s  %s", img.Ref, megabytes(img.Size))
		return img, nil
	case src.tree == nil:
		b.Config = nil
		a.step("pulling the image", "Image %s", src.from.Ref)
	default:
		if src.dockerfile != "" {
			b.Settings.Dockerfile = src.dockerfile
		}
		if err := d.room(ctx, a); err != nil {
			return mesh.Image{}, phaseFailed("build failed", err)
		}
		b.Fresh, b.Times = src.fresh, timeKeeper{d.Store, st.Name}
		if b.Kin, err = d.kin(ctx, st); err != nil {
			return mesh.Image{}, err
		}
		a.setPhase("building") // the builder prints what it builds with
	}
	img, err := d.Builder.Build(ctx, b, a.out)
	if src.tree != nil {
		d.OnBuilt(d.Now().Sub(began), err)
	}
	if err != nil {
		return img, phaseFailed("build failed", err)
	}
	if img.Digest != "" {
		a.detail("digest %s", img.Digest)
	}
	a.timed(began, "%s", d.report(ctx, st, img))
	return img, nil
}

// timeKeeper keeps the times of a stack's files in the store.
type timeKeeper struct {
	store Store
	stack mesh.StackName
}

// FileTimes reads them.
func (k timeKeeper) FileTimes(ctx context.Context) (mesh.FileTimes, error) {
	return k.store.FileTimes(ctx, k.stack)
}

// KeepFileTimes writes them.
func (k timeKeeper) KeepFileTimes(ctx context.Context, t mesh.FileTimes) error {
	return k.store.KeepFileTimes(ctx, k.stack, t)
}

// report returns the line at the end of a build: the image, its size and how that has
// changed, and how long each part took.
func (d *Deployer) report(ctx context.Context, st mesh.Stack, img mesh.Image) string {
	line := img.Ref + "  " + megabytes(img.Size)
	if last, err := d.Store.Release(ctx, st.Name, st.Current); st.Current > 0 && err == nil && last.Image.Size > 0 {
		switch change := img.Size - last.Image.Size; {
		case change >= 50_000:
			line += " (+" + megabytes(change) + ")"
		case change <= -50_000:
			line += " (-" + megabytes(-change) + ")"
		}
	}
	w := img.Work
	if w.Steps > 0 {
		line += fmt.Sprintf(", %d of %d steps cached", w.Cached, w.Steps)
	}
	if w.Slowest != "" {
		line += fmt.Sprintf(", slowest: %s %s", w.Slowest, seconds(w.Took))
	}
	return line
}

func megabytes(n int64) string {
	if n < 10e6 {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.0f MB", float64(n)/1e6)
}
