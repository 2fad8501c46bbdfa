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
//   - A file that has changed is newer than whatever an earlier build made of it.
//     Otherwise cargo, make and "[ a -nt b ]" take what lies in a cache mount for up
//     to date, and the old program is deployed.
//   - A file that has changed is newer than it was, by a whole second, which is what
//     HTTP compares (RFC 9110, section 8.8.2). Otherwise clients get 304.
//   - A file that has not changed keeps its time. BuildKit's file sync compares size,
//     mode and time, so that only changed files travel.
//
// So a stack remembers what its files were and since when: mesh.FileTimes. Times
// are given when a build starts, not when it succeeds: a build that fails has filled
// its cache mounts, too.

// maxPast is how many earlier states of files a stack remembers, of 8 bytes each. A
// file that goes back to one before them may get its old time from BuildKit's cache.
const maxPast = 100_000

// give puts the times of this build on the tree, and remembers them.
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

// builtSince tells whether the engine has an image of the stack that was built after
// all that the stack remembers: its memory is out of an old copy of the data directory
// then. The engine's clock gives whole seconds.
func (j *job) builtSince(ctx context.Context, latest time.Time) (bool, error) {
	if latest.IsZero() {
		return false, nil
	}
	list, err := j.cli.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(
		filters.Arg("label", labelServer+"="+j.server), filters.Arg("label", labelStack+"="+string(j.Stack)), filters.Arg("label", labelSource))})
	return slices.ContainsFunc(list, func(i image.Summary) bool {
		return i.Created > latest.Unix()+1 && i.Labels[labelSource] != "" && j.sealed(i.Labels)
	}), err
}

// ran remembers that steps have run until now: what they made may be as late as
// that, and the clock may go back.
func (j *job) ran(ctx context.Context) {
	if j.times == nil {
		return
	}
	if now := j.now(); now.After(j.times.Latest) {
		j.times.Latest = now
	}
	if err := j.Times.KeepFileTimes(context.WithoutCancel(ctx), *j.times); err != nil {
		j.log.WarnContext(ctx, "end of a build not remembered", "stack", j.Stack, "err", err)
	}
}

// nextTimes are the times of a build that starts now. firstBuild says that the
// stack had none before. ahead is how far in the future a file has to be.
func nextTimes(old mesh.FileTimes, entries []mesh.TreeEntry, now time.Time, firstBuild bool, ahead func(string) time.Duration) (next mesh.FileTimes, changed bool) {
	// A second later than anything before, whatever the clock says.
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
			if known && !at.Truncate(time.Second).After(was.Time.Truncate(time.Second)) { // it was a stand-in
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

// children are the names in each folder, as one hash: a folder changes when they do.
func children(entries []mesh.TreeEntry) map[string]uint64 {
	in := map[string]uint64{}
	for _, e := range entries {
		dir := path.Dir(e.Path)
		in[dir] = hash(in[dir], pathKey(path.Base(e.Path)))
	}
	return in
}

// identity is what a file is: another one is another file. A pusher finds it out by
// their own tree only, so that 8 bytes are enough.
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

// within is a path below a folder of the tree, as that folder has it.
func within(p, dir string) (string, bool) {
	if dir == "" {
		return p, true
	}
	if len(p) > len(dir) && p[:len(dir)] == dir && p[len(dir)] == '/' {
		return p[len(dir)+1:], true
	}
	return "", false
}

// time of an entry in this build.
func (f *files) time(e mesh.TreeEntry) time.Time {
	if t, ok := f.known(e); ok {
		return t.Time
	}
	return modTime(e)
}

func (f *files) known(e mesh.TreeEntry) (mesh.FileTime, bool) {
	if f.times == nil {
		return mesh.FileTime{}, false
	}
	t, ok := f.times[pathKey(path.Join(f.inside, e.Path))]
	return t, ok
}

// since is when an entry became what it is, in nanoseconds; 0: nobody knows.
func (f *files) since(e mesh.TreeEntry) int64 {
	t, ok := f.known(e)
	if !ok {
		return 0
	}
	return t.Since.UnixNano()
}
