package deploytest

import (
	"cmp"
	"context" //nolint:gosec // ids as git has them
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"mesh"
)

// Builder builds images in memory.
type Builder struct {
	Free, Need, CacheSize int64 // bytes, for Room and Cache; set before anything runs

	BuildFunc func(ctx context.Context, b mesh.Build, w io.Writer) error // called before the image exists
	Shape     func(*mesh.Image)                                          // changes the image

	RenameFunc func() error // called before tags move

	mu     sync.Mutex
	images map[string]mesh.StackName
	tags   map[string]string
	builds []mesh.Build
}

// NewBuilder returns a builder with no images.
func NewBuilder() *Builder {
	return &Builder{images: map[string]mesh.StackName{}, tags: map[string]string{}}
}

// Build returns an image whose ID is derived from the commit.
func (b *Builder) Build(ctx context.Context, m mesh.Build, w io.Writer) (mesh.Image, error) {
	b.mu.Lock()
	b.builds = append(b.builds, m)
	b.mu.Unlock()
	_, _ = io.WriteString(w, "-----> Building with ./Dockerfile\n       #1 building\n")
	if b.BuildFunc != nil {
		if err := b.BuildFunc(ctx, m, w); err != nil {
			return mesh.Image{}, err
		}
	}
	if ctx.Err() != nil {
		return mesh.Image{}, context.Cause(ctx)
	}
	img := mesh.Image{ID: "sha256:" + cmp.Or(string(m.Commit), m.Tags[0]), Ref: m.Tags[0], Size: 1e6, Cmd: []string{"/app"}, Shell: true}
	if b.Shape != nil {
		b.Shape(&img)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.images[img.ID] = m.Stack
	for _, ref := range m.Tags {
		b.tags[ref] = img.ID
	}
	return img, nil
}

// Tag names an image.
func (b *Builder) Tag(_ context.Context, id, ref string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.images[id]; !ok {
		return mesh.Errorf(mesh.NotFound, "no image %s", id)
	}
	b.tags[ref] = id
	return nil
}

// Sweep removes the images that keep does not want.
func (b *Builder) Sweep(_ context.Context, keep func(mesh.StackName, string) bool, dry bool) (gone []mesh.Garbage, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, of := range b.images {
		if !keep(of, id) {
			gone = append(gone, mesh.Garbage{Stack: of, ID: id, Size: 1e6})
		}
	}
	for _, g := range gone {
		if !dry {
			delete(b.images, g.ID)
			maps.DeleteFunc(b.tags, func(_, id string) bool { return id == g.ID })
			b.Free += g.Size
		}
	}
	return gone, nil
}

// Room reports that Free bytes are free, if Need is not 0.
func (b *Builder) Room(context.Context) (free, need int64, known bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Free, b.Need, b.Need > 0, nil
}

// Cache reports CacheSize as the size of the cache.
func (b *Builder) Cache(context.Context) (size, limit int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.CacheSize, 1e6, nil
}

// PruneCache shrinks the cache to 1 MB, or empties it.
func (b *Builder) PruneCache(_ context.Context, all bool) (freed int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	keep := int64(1e6)
	if all {
		keep = 0
	}
	freed = max(0, b.CacheSize-keep)
	b.CacheSize -= freed
	b.Free += freed
	return freed, nil
}

// Dockerfile returns the Dockerfile of the tree.
func (b *Builder) Dockerfile(t mesh.Tree, _ mesh.Settings) (string, bool, error) {
	for _, e := range t.Entries() {
		if e.Path == mesh.DefaultDockerfile {
			r, err := t.Open(e)
			if err != nil {
				return "", false, err
			}
			text, err := io.ReadAll(r)
			return string(text), false, err
		}
	}
	return "FROM scratch\n", true, nil
}

// Present reports whether an image exists.
func (b *Builder) Present(_ context.Context, id string) (bool, error) { return b.has(id), nil }

func (b *Builder) has(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.images[id]
	return ok
}

// Stacks returns the stacks that have tags.
func (b *Builder) Stacks(context.Context) ([]mesh.StackName, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[mesh.StackName]bool{}
	for ref := range b.tags {
		name, _, _ := strings.Cut(strings.TrimPrefix(ref, "mesh/"), ":")
		seen[mesh.StackName(name)] = true
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// Lose removes all images, as a prune does.
func (b *Builder) Lose() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.images)
	clear(b.tags)
}

// SignIn accepts every password but "wrong".
func (b *Builder) SignIn(_ context.Context, r mesh.Registry) error {
	if r.Password.Reveal() == "wrong" {
		return mesh.Errorf(mesh.Denied, "%s does not let %q in", r.Host, r.User)
	}
	return nil
}

// Rename moves tags and images to another stack.
func (b *Builder) Rename(_ context.Context, from, to mesh.StackName) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.RenameFunc != nil {
		if err := b.RenameFunc(); err != nil {
			return err
		}
	}
	for ref, id := range maps.Clone(b.tags) {
		if tag, ok := strings.CutPrefix(ref, "mesh/"+string(from)+":"); ok {
			b.tags["mesh/"+string(to)+":"+tag] = id
			delete(b.tags, ref)
		}
	}
	for id, of := range b.images {
		if of == from {
			b.images[id] = to
		}
	}
	return nil
}

// Collect removes the images of a stack that keep does not have.
func (b *Builder) Collect(_ context.Context, stack mesh.StackName, keep map[string]bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.images, func(id string, of mesh.StackName) bool { return of == stack && !keep[id] })
	maps.DeleteFunc(b.tags, func(ref, id string) bool {
		return strings.HasPrefix(ref, "mesh/"+string(stack)+":") && !keep[id]
	})
	return nil
}

// Builds returns the builds that were requested.
func (b *Builder) Builds() []mesh.Build {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.builds)
}

// Images returns the number of images.
func (b *Builder) Images() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.images)
}

// Tagged returns the ID of the image with the given tag.
func (b *Builder) Tagged(ref string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tags[ref]
}
