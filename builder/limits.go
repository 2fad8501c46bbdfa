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

// Limits of Options that are not given.
const (
	DefaultSlots   = 2
	DefaultTimeout = 30 * time.Minute
	DefaultMinFree = 1 << 30
	minCache       = 2 << 30 // of the default cache limit

	DefaultMaxContext = 8 << 30
)

// errTimeout ends a build that takes too long.
var errTimeout = errors.New("the build takes too long")

// timedOut is what the one who pushed is told of it, with the last output of what
// was running.
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
			e.Text += fmt.Sprintf(", in '%s'", shorten(j.out.names.Replace(s.name), 60))
			e.Output = j.out.evidence(s)
			break
		}
	}
	return e
}

// checkContext refuses a tree that is too large, and one with a path that git itself
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
		return mesh.Errorf(mesh.Invalid, "the tree is too large to build: %d MB, and %d MB are allowed", size/1e6, j.maxContext/1e6).
			WithHint("its largest file is %s with %d MB; leave out what the build does not need, in .dockerignore", mesh.Clip(largest.Path, 100), largest.Size/1e6)
	}
	return nil
}

// Room tells how many bytes are free where the engine keeps images, and how many a
// build needs at least. known is false when the engine's disk is not this machine's.
func (b *Builder) Room(ctx context.Context) (free, need int64, known bool, err error) {
	info, err := b.cli.Info(ctx)
	if err != nil {
		return 0, 0, false, b.fault(ctx, "ask the engine for its disk", err)
	}
	free, known = diskFree(info.DockerRootDir)
	return free, b.minFree, known, nil
}

// Cache is the engine's build cache: what it takes, and what of that no running
// build uses.
func (b *Builder) Cache(ctx context.Context) (size, limit int64, err error) {
	bk, err := b.dial(ctx)
	if err != nil || bk == nil {
		return 0, 0, b.fault(ctx, "ask BuildKit for its cache", err)
	}
	defer func() { _ = bk.Close() }()
	list, err := bk.DiskUsage(ctx)
	if err != nil {
		return 0, 0, b.fault(ctx, "ask BuildKit for its cache", err)
	}
	for _, u := range list {
		if !u.Shared { // with an image
			size += u.Size
		}
	}
	limit, err = b.cacheLimit(ctx)
	return size, limit, err
}

// cacheLimit is the given one, or a tenth of the engine's disk, but not less than
// 2 GB.
func (b *Builder) cacheLimit(ctx context.Context) (int64, error) {
	if b.maxCache > 0 {
		return b.maxCache, nil
	}
	info, err := b.cli.Info(ctx)
	if err != nil {
		return 0, b.fault(ctx, "ask the engine for its disk", err)
	}
	return max(minCache, diskSize(info.DockerRootDir)/10), nil
}

// PruneCache makes the engine's build cache smaller than its limit, or empty, and
// returns how much that has freed. What running builds use stays.
func (b *Builder) PruneCache(ctx context.Context, all bool) (freed int64, err error) {
	keep := int64(0)
	if !all {
		if keep, err = b.cacheLimit(ctx); err != nil {
			return 0, err
		}
	}
	// Old engines know the first, those from API 1.48 on the others.
	r, err := b.cli.BuildCachePrune(ctx, build.CachePruneOptions{All: true, KeepStorage: keep, ReservedSpace: keep, MaxUsedSpace: keep, Filters: filters.NewArgs()})
	if err != nil {
		return 0, b.fault(ctx, "prune the build cache", err)
	}
	return int64(r.SpaceReclaimed), nil //nolint:gosec // no disk is that large
}

// outOfMemory tells whether a step was most likely ended for its memory.
func outOfMemory(output []string) bool {
	for _, l := range output {
		l = strings.ToLower(l)
		if strings.Contains(l, "cannot allocate memory") || strings.Contains(l, "out of memory") || strings.Contains(l, "heap out of memory") {
			return true
		}
	}
	return false
}

// outOfProcesses tells whether a step was refused more processes.
func outOfProcesses(output []string) bool {
	for _, l := range output {
		l = strings.ToLower(l)
		if strings.Contains(l, "resource temporarily unavailable") || strings.Contains(l, "can't fork") || strings.Contains(l, "cannot fork") {
			return true
		}
	}
	return false
}
