package builder

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"

	"mesh"
)

// Git keeps no times, and a build needs good ones:
//
//   - A file that has changed is newer than anything an earlier build made from it.
//     Otherwise cargo, make and "[ a -nt b ]" consider what is in a cache mount up to
//     date, and the old program is deployed.
//   - A file that has changed is newer than it was, by at least a whole second, which
//     is the unit of HTTP (RFC 9110, section 8.8.2). Otherwise clients get 304.
//   - A file that has not changed keeps its time. BuildKit's file sync compares size,
//     mode and time, so that only changed files are sent.
//
// So a stack remembers the state of its files, and since when: mesh.FileTimes. Times
// are set when a build starts, not when it succeeds: a build that fails has also
// filled its cache mounts.

// maxPast is the number of earlier file states that a stack remembers, of 8 bytes
// each. A file that changes back to an older one may get its old time from
// BuildKit's cache.
const maxPast = 100_000

// give sets the times of this build on the tree, and remembers them.
func (j *job) give(ctx context.Context) error {
	if j.Times == nil || j.From.Ref != "" {
		return nil
	}
	old, err := j.Times.FileTimes(ctx)
	if err != nil {
		return fmt.Errorf("read the times of the files: %w", err)
	}
	newer, err := j.builtSince(ctx, old.Latest)
	if err != nil {
		return fmt.Errorf("list the images of %s: %w", j.Stack, err)
	}
	if newer {
		old = mesh.FileTimes{}
	}
	j.past = old
	whole := newFiles(j.Tree)
	inside := j.files.inside
	standIn := j.df.standIns(j.files)
	next, changed := nextTimes(old, whole.entries, j.now(), j.Deployment <= 1 && !newer, func(p string) time.Duration {
		if rel, ok := within(p, inside); ok && standIn(rel) {
			return j.timeout
		}
		return 0
	})
	j.times = &next
	if changed {
		if err := j.Times.KeepFileTimes(ctx, next); err != nil {
			return fmt.Errorf("remember the times of the files: %w", err)
		}
	}
	j.files.times = next.Files
	return nil
}

// builtSince reports whether the engine has an image of the stack that is newer than
// everything the stack remembers: the memory then comes from an old copy of the data
// directory. The engine's clock has whole seconds.
func (j *job) builtSince(ctx context.Context, latest time.Time) (bool, error) {
	if latest.IsZero() {
		return false, nil
	}
	list, err := j.cli.API(ctx).ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(
		filters.Arg("label", labelServer+"="+j.server), filters.Arg("label", labelStack+"="+string(j.Stack)), filters.Arg("label", labelSource))})
	return slices.ContainsFunc(list, func(i image.Summary) bool {
		return i.Created > latest.Unix()+1 && i.Labels[labelSource] != "" && j.sealed(i.Labels)
	}), err
}

// ran records that steps have run until now: what they made may have this time, and
// the clock may go back.
func (j *job) ran(ctx context.Context) {
	if j.times == nil {
		return
	}
	if now := j.now(); now.After(j.times.Latest) {
		j.times.Latest = now
	}
	if err := j.Times.KeepFileTimes(context.WithoutCancel(ctx), *j.times); err != nil {
		j.log.WarnContext(ctx, "end of a build not recorded", "stack", j.Stack, "err", err)
	}
}

// nextTimes returns the times of a build that starts now. firstBuild says that the
// stack had none before. ahead is how far in the future the time of a file must be.
func nextTimes(old mesh.FileTimes, entries []mesh.TreeEntry, now time.Time, firstBuild bool, ahead func(string) time.Duration) (next mesh.FileTimes, changed bool) {
	// At least a second later than anything before, whatever the clock says.
	at := now.UTC().Truncate(time.Microsecond)
	if !at.Truncate(time.Second).After(old.Latest.Truncate(time.Second)) {
		at = old.Latest.UTC().Truncate(time.Second).Add(time.Second)
	}
	next = mesh.FileTimes{First: old.First, Whole: old.Whole, Latest: old.Latest, Past: old.Past, Files: make(map[uint64]mesh.FileTime, len(entries))}
	if old.First.IsZero() {
		next.First, next.Whole, changed = at, firstBuild, true
	}
	past := make(map[uint64]bool, len(old.Past))
	for _, h := range old.Past {
		past[h] = true
	}
	inside := children(entries)
	for _, e := range entries {
		key, of := pathKey(e.Path), identity(e, inside)
		was, known := old.Files[key]
		t := was
		if !known || was.Of != of {
			changed = true
			since := at
			if known && !at.Truncate(time.Second).After(was.Time.Truncate(time.Second)) { // it was a placeholder
				since = was.Time.Truncate(time.Second).Add(time.Second)
			}
			t = mesh.FileTime{Of: of, Since: since, Time: since, Back: past[hash(key, of)]}
			next.Latest = later(next.Latest, at)
		}
		if d := ahead(e.Path); d > 0 && now.Add(d).After(t.Time) {
			t.Time, changed = now.UTC().Add(d), true
		}
		next.Files[key] = t
	}
	for _, key := range slices.Sorted(maps.Keys(old.Files)) {
		if was := old.Files[key]; next.Files[key].Of != was.Of {
			changed = true
			if h := hash(key, was.Of); !past[h] {
				next.Past = append(next.Past, h)
			}
		}
	}
	if n := len(next.Past); n > maxPast {
		next.Past = slices.Clone(next.Past[n-maxPast:])
	}
	return next, changed
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// children is one hash of the names in each folder: a folder changes when they do.
func children(entries []mesh.TreeEntry) map[string]uint64 {
	in := map[string]uint64{}
	for _, e := range entries {
		dir := path.Dir(e.Path)
		in[dir] = hash(in[dir], pathKey(path.Base(e.Path)))
	}
	return in
}

// identity identifies the state of a file. Pushers can only collide with their own
// tree, so 8 bytes are enough.
func identity(e mesh.TreeEntry, inside map[string]uint64) uint64 {
	return hashOf(fmt.Sprintf("%o\x00%s\x00%s\x00%s\x00%x", e.Mode, e.ID, e.Link, e.Module, inside[e.Path]))
}

func pathKey(p string) uint64 { return hashOf(p) }

func hashOf(s string) uint64 {
	h := sha256.Sum256([]byte(s))
	return binary.BigEndian.Uint64(h[:])
}

func hash(a, b uint64) uint64 {
	return hashOf(string(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, a), b)))
}

// within is a path below a folder of the tree, relative to that folder.
func within(p, dir string) (string, bool) {
	if dir == "" {
		return p, true
	}
	if len(p) > len(dir) && p[:len(dir)] == dir && p[len(dir)] == '/' {
		return p[len(dir)+1:], true
	}
	return "", false
}

// time is the time of an entry in this build.
func (f *files) time(e mesh.TreeEntry) time.Time {
	if t, ok := f.known(e); ok {
		return t.Time
	}
	return modTime(e)
}

func (f *files) known(e mesh.TreeEntry) (mesh.FileTime, bool) {
	t, ok := f.times[f.key(e)]
	return t, ok
}

func (f *files) key(e mesh.TreeEntry) uint64 { return pathKey(path.Join(f.inside, e.Path)) }

// since is when an entry got its current state, in nanoseconds, by the given times; 0:
// unknown.
func (f *files) since(e mesh.TreeEntry, times map[uint64]mesh.FileTime) int64 {
	t, ok := times[f.key(e)]
	if !ok {
		return 0
	}
	return t.Since.UnixNano()
}
