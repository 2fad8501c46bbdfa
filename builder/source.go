package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"mesh"
)

// files is a tree as BuildKit's file sync reads it (an fsutil.FS), or as a tar if it
// cannot sync.
type files struct {
	entries []mesh.TreeEntry
	index   map[string]int // of entries, by path
	open    func(mesh.TreeEntry) (io.ReadCloser, error)

	kids map[string][]int // of entries, by folder; see list
	once sync.Once        // of kids

	inside string           // the folder of the pushed tree; empty: all of it
	opened []mesh.TreeEntry // of a folder: the entries as the tree has them

	times map[uint64]mesh.FileTime // of this build, by pathKey; nil: none are set
}

func newFiles(t mesh.Tree) *files {
	f := &files{entries: t.Entries(), open: t.Open}
	f.index = make(map[string]int, len(f.entries))
	for i, e := range f.entries {
		f.index[e.Path] = i
	}
	return f
}

// epoch is the time of folders without one, and the base for the times of such
// files: late enough for zip files, and early enough to look unremarkable.
var epoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// modTime is the time of a file that no stack remembers, for example the Dockerfile
// beside the tree. It depends only on the content. The file sync skips a file with
// the size, mode and time of the last build: with one time for all files, an edit
// that keeps the size would be built from the old content (seen).
func modTime(e mesh.TreeEntry) time.Time {
	if len(e.ID) < 8 {
		return epoch
	}
	n, err := strconv.ParseUint(e.ID[:8], 16, 32)
	if err != nil {
		return epoch
	}
	return epoch.Add(time.Duration(n) * time.Millisecond) // at most 50 days
}

// resolve follows symbolic links inside the tree and returns the entry of p. The
// entry of the tree itself is a folder without a path.
func (f *files) resolve(p string) (mesh.TreeEntry, error) {
	return mesh.FollowLinks(p, func(p string) (mesh.TreeEntry, bool) {
		i, ok := f.index[p]
		if !ok {
			return mesh.TreeEntry{}, false
		}
		return f.entries[i], true
	})
}

// Limits of files that are read whole, in bytes. The engine does not limit them, and
// a Dockerfile of 150 MB kept a core busy for three minutes.
const (
	maxDockerfile = 1 << 20
	maxIgnore     = 1 << 20 // .dockerignore and other ignore files, .gitattributes
)

// Limits of what is compared with each file of a tree.
const (
	maxInstructions = 1000 // of a Dockerfile; an image has at most 127 layers
	maxPatterns     = 1000 // of an ignore file
)

// read returns a whole regular file, following links. If it is too large, the error
// is a *mesh.Error.
func (f *files) read(p string, limit int64) ([]byte, error) {
	e, err := f.resolve(p)
	if err != nil {
		return nil, err
	}
	if !e.Mode.IsRegular() {
		return nil, fs.ErrInvalid
	}
	return f.content(e, limit)
}

// optional is read for a file that may be missing. A file that exists and cannot be
// read is an error: ignoring an ignore file would ship what it excludes.
func (f *files) optional(p string, limit int64) ([]byte, error) {
	if _, there := f.index[p]; !there {
		return nil, nil
	}
	b, err := f.read(p, limit)
	switch {
	case errors.Is(err, mesh.ErrOutside), errors.Is(err, fs.ErrNotExist):
		return nil, mesh.Errorf(mesh.Invalid, "%s is a link to a file that is not in the repository", p).WithHint("commit the file itself, or remove the link: git rm %s", p)
	case errors.Is(err, fs.ErrInvalid):
		return nil, mesh.Errorf(mesh.Invalid, "%s is a folder", p).WithHint("replace it with a file, or remove it: git rm -r %s", p)
	}
	return b, err
}

func (f *files) content(e mesh.TreeEntry, limit int64) ([]byte, error) {
	if e.Size > limit {
		return nil, mesh.Errorf(mesh.Invalid, "%s is larger than %d MB", mesh.Visible(e.Path), limit>>20).WithHint("shorten it, or remove it from the repository: git rm --cached %s", mesh.Visible(e.Path))
	}
	r, err := f.open(e)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// syncable reports whether the file sync can carry the tree: its messages hold paths
// as UTF-8 strings.
func (f *files) syncable() bool {
	for _, e := range f.entries {
		if !utf8.ValidString(e.Path) || !utf8.ValidString(e.Link) {
			return false
		}
	}
	return true
}

// lfsPointers counts the files that contain a Git LFS pointer instead of content,
// and returns the first three names. It only looks where .gitattributes has the
// filter.
func (f *files) lfsPointers() (n int, names []string) {
	uses := false
	for _, e := range f.entries {
		if path.Base(e.Path) == ".gitattributes" && e.Mode.IsRegular() && !uses {
			b, err := f.content(e, maxIgnore)
			uses = err == nil && bytes.Contains(b, []byte("filter=lfs"))
		}
	}
	if !uses {
		return 0, nil
	}
	for _, e := range f.entries {
		if !e.Mode.IsRegular() || e.Size < 100 || e.Size > 1024 { // the format's own limit
			continue
		}
		b, err := f.content(e, 1024)
		if err != nil || !bytes.HasPrefix(b, []byte("version https://git-lfs.github.com/spec/")) {
			continue
		}
		if n++; n <= 3 {
			names = append(names, e.Path)
		}
	}
	return n, names
}

// Walk calls fn for the entries at and below target, depth first.
func (f *files) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	target = strings.Trim(path.Clean("/"+target), "/")
	skip := ""
	for _, e := range f.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if target != "" && e.Path != target && !strings.HasPrefix(e.Path, target+"/") {
			continue
		}
		if skip != "" && strings.HasPrefix(e.Path, skip) {
			continue
		}
		skip = ""
		stat := &types.Stat{Path: e.Path, Mode: uint32(e.Mode), Linkname: e.Link, ModTime: f.time(e).UnixNano()}
		if e.Mode.IsRegular() {
			stat.Size = e.Size
		}
		err := fn(e.Path, &fsutil.DirEntryInfo{Stat: stat}, nil)
		switch {
		case errors.Is(err, fs.SkipAll):
			return nil
		case errors.Is(err, fs.SkipDir) && e.Mode.IsDir():
			skip = e.Path + "/"
		case errors.Is(err, fs.SkipDir): // the rest of the folder
			if path.Dir(e.Path) == "." {
				return nil
			}
			skip = path.Dir(e.Path) + "/"
		case err != nil:
			return err
		}
	}
	return nil
}

// Open opens a regular file.
func (f *files) Open(p string) (io.ReadCloser, error) {
	i, ok := f.index[strings.Trim(path.Clean("/"+p), "/")]
	if !ok || !f.entries[i].Mode.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	return f.open(f.entries[i])
}

// tar streams the tree without what ignore excludes, one file in memory at a time.
// It always contains the files of keep, with the content given there. Nothing in the
// engine honours .dockerignore for a tar. The caller closes the reader, even if it
// has not read it to the end.
func (f *files) tar(match *patternmatcher.PatternMatcher, keep map[string][]byte) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() {
		w := tar.NewWriter(pw)
		err := errors.Join(writeKept(w, keep), f.writeTar(w, match, keep))
		if err == nil {
			err = w.Close()
		}
		pw.CloseWithError(err)
	}()
	return pr
}

func (f *files) writeTar(w *tar.Writer, match *patternmatcher.PatternMatcher, keep map[string][]byte) error {
	for _, e := range f.entries {
		out, err := match.MatchesOrParentMatches(e.Path)
		if err != nil {
			return err
		}
		if _, kept := keep[e.Path]; out || kept {
			continue // the folders of a file that an exception keeps follow by themselves
		}
		h := &tar.Header{Name: e.Path, Mode: int64(e.Mode.Perm()), ModTime: f.time(e), Format: tar.FormatPAX}
		switch {
		case e.Mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
		case e.Mode&fs.ModeSymlink != 0:
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
		default:
			h.Typeflag, h.Size = tar.TypeReg, e.Size
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := f.copy(w, e); err != nil {
			return fmt.Errorf("read %s: %w", e.Path, err)
		}
	}
	return nil
}

// writeKept writes the files with their own content. They come after a header
// without extensions: BuildKit recognizes a tar by its first 1024 bytes.
func writeKept(w *tar.Writer, keep map[string][]byte) error {
	if err := w.WriteHeader(&tar.Header{Name: "./", Mode: 0o755, ModTime: epoch, Typeflag: tar.TypeDir, Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(keep)) {
		if err := w.WriteHeader(&tar.Header{Name: p, Mode: 0o644, Size: int64(len(keep[p])), ModTime: epoch, Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := w.Write(keep[p]); err != nil {
			return err
		}
	}
	return nil
}

func (f *files) copy(w io.Writer, e mesh.TreeEntry) error {
	r, err := f.open(e)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}

// literal is a tree of a few files that differ from the pushed tree. They are in the
// folders that their names contain.
func literal(content map[string][]byte, ids map[string]string) *files {
	f := &files{index: map[string]int{}, open: func(e mesh.TreeEntry) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content[e.Path])), nil
	}}
	dirs := map[string]bool{}
	var paths []string
	for p := range content {
		for d := path.Dir(p); d != "." && !dirs[d]; d = path.Dir(d) {
			dirs[d] = true
			paths = append(paths, d)
		}
		paths = append(paths, p)
	}
	sortPaths(paths)
	for _, p := range paths {
		e := mesh.TreeEntry{Path: p, Mode: fs.ModeDir | 0o755}
		if !dirs[p] {
			e.Mode, e.Size, e.ID = 0o644, int64(len(content[p])), ids[p]
		}
		f.index[p] = len(f.entries)
		f.entries = append(f.entries, e)
	}
	return f
}
