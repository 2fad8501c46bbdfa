package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/filters"

	"mesh"
)

// Defaults of Options.
const (
	DefaultSlots   = 2
	DefaultTimeout = 30 * time.Minute
	DefaultMinFree = 1 << 30
	minCache       = 2 << 30 // for the default cache limit

	DefaultMaxContext = 8 << 30
)

// errTimeout ends a build that takes too long.
var errTimeout = errors.New("the build takes too long")

// timedOut is the error for the person who pushed, with the last output of the step
// that was running.
func (j *job) timedOut(render *renderer) error {
	e := &mesh.Error{
		Kind: mesh.Failed, Text: fmt.Sprintf("the build took longer than %s", j.timeout), Err: errTimeout,
		Hint: "an admin can allow more with: mesh serve --build-timeout",
	}
	if render == nil {
		return e
	}
	for _, s := range render.order {
		if !s.quiet && !s.started.IsZero() && (!s.done || s.err != "") {
			e.Text += fmt.Sprintf(", in '%s'", told(j.out.names.Replace(s.name)))
			e.Output, _ = j.evidence(s)
			break
		}
	}
	return e
}

// checkContext refuses a tree that is too large, or that has a path that git itself
// would not check out.
func (j *job) checkContext(ctx context.Context) error {
	ignore, err := j.df.matcher(j.files)
	if err != nil {
		return err
	}
	var size int64
	var largest mesh.TreeEntry
	for _, e := range j.files.entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if strings.HasPrefix(e.Path, "/") || strings.ContainsRune(e.Path, 0) || slices.ContainsFunc(strings.Split(e.Path, "/"), func(s string) bool { return s == "" || s == "." || s == ".." }) {
			return mesh.Errorf(mesh.Invalid, "the tree has a path that leads out of it: %q", mesh.Clip(e.Path, 100))
		}
		if !e.Mode.IsRegular() {
			continue
		}
		if out, err := ignore.MatchesOrParentMatches(e.Path); err != nil || out {
			continue
		}
		if size += e.Size; e.Size > largest.Size {
			largest = e
		}
	}
	if size > j.maxContext {
		return mesh.Errorf(mesh.Invalid, "the tree is too large to build: %d MB, at most %d MB are allowed", size/1e6, j.maxContext/1e6).
			WithHint("its largest file is %s with %d MB; exclude files that the build does not need in .dockerignore", mesh.Clip(largest.Path, 100), largest.Size/1e6)
	}
	return nil
}

// Room returns the free bytes on the disk where the engine keeps images, and the
// minimum that a build needs. known is false if the engine's disk is not on this
// machine.
func (b *Builder) Room(ctx context.Context) (free, need int64, known bool, err error) {
	info, err := b.cli.API(ctx).Info(ctx)
	if err != nil {
		return 0, 0, false, b.fault(ctx, "get the engine's disk", err)
	}
	free, known = diskFree(info.DockerRootDir)
	return free, b.minFree, known, nil
}

// Cache returns the size of the engine's build cache, without what images share, and
// its limit.
func (b *Builder) Cache(ctx context.Context) (size, limit int64, err error) {
	bk, err := b.dial(ctx)
	if err != nil || bk == nil {
		return 0, 0, b.fault(ctx, "get BuildKit's cache", err)
	}
	defer func() { _ = bk.Close() }()
	list, err := bk.DiskUsage(ctx)
	if err != nil {
		return 0, 0, b.fault(ctx, "get BuildKit's cache", err)
	}
	for _, u := range list {
		if !u.Shared { // with an image
			size += u.Size
		}
	}
	limit, err = b.cacheLimit(ctx)
	return size, limit, err
}

// cacheLimit is the limit from Options, or a tenth of the engine's disk, at least 2
// GB.
func (b *Builder) cacheLimit(ctx context.Context) (int64, error) {
	if b.maxCache > 0 {
		return b.maxCache, nil
	}
	info, err := b.cli.API(ctx).Info(ctx)
	if err != nil {
		return 0, b.fault(ctx, "get the engine's disk", err)
	}
	return max(minCache, diskSize(info.DockerRootDir)/10), nil
}

// PruneCache shrinks the engine's build cache to its limit, or empties it, and
// returns the bytes freed. It keeps what running builds use.
func (b *Builder) PruneCache(ctx context.Context, all bool) (freed int64, err error) {
	keep := int64(0)
	if !all {
		if keep, err = b.cacheLimit(ctx); err != nil {
			return 0, err
		}
	}
	// Old engines read the first field, those from API 1.48 on the others.
	r, err := b.cli.API(ctx).BuildCachePrune(ctx, build.CachePruneOptions{All: true, KeepStorage: keep, ReservedSpace: keep, MaxUsedSpace: keep, Filters: filters.NewArgs()})
	if err != nil {
		return 0, b.fault(ctx, "prune the build cache", err)
	}
	return int64(r.SpaceReclaimed), nil //nolint:gosec // no disk is that large
}

// outOfMemory reports whether a step most likely ran out of memory.
func outOfMemory(output []string) bool {
	for _, l := range output {
		l = strings.ToLower(l)
		if strings.Contains(l, "cannot allocate memory") || strings.Contains(l, "out of memory") || strings.Contains(l, "heap out of memory") {
			return true
		}
	}
	return false
}

// outOfProcesses reports whether a step was refused more processes.
func outOfProcesses(output []string) bool {
	for _, l := range output {
		l = strings.ToLower(l)
		if strings.Contains(l, "resource temporarily unavailable") || strings.Contains(l, "can't fork") || strings.Contains(l, "cannot fork") {
			return true
		}
	}
	return false
}
