package repos

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"

	"mesh"
)

// largeObject is the size from which a blob is streamed from its pack instead of read
// into memory: a 400 MB blob takes 9 MB of memory with this limit and 1.3 GB without.
const largeObject = 1 << 20

// storage reads the objects and refs of a repository while git changes it: other pushes
// add packs and lock refs, and a cleaning replaces packs.
type storage struct{ *filesystem.Storage }

// storage opens the objects of a repository. go-git keeps the list of packs, and is not
// safe for concurrent use, so every use opens its own.
func (r *Repos) storage(stack mesh.StackName) *storage {
	return &storage{filesystem.NewStorageWithOptions(settled{osfs.New(r.path(stack))}, cache.NewObjectLRU(16*cache.MiByte),
		filesystem.Options{LargeObjectThreshold: largeObject})}
}

func (s *storage) Close() { _ = s.Storage.Close() }

// has reports whether an object is there.
func (s *storage) has(id mesh.Commit) (bool, error) {
	_, err := again(s, func() (struct{}, error) {
		return struct{}{}, s.HasEncodedObject(plumbing.NewHash(string(id)))
	})
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return false, nil
	}
	return err == nil, err
}

// EncodedObject returns an object, in whichever pack it is by now.
func (s *storage) EncodedObject(kind plumbing.ObjectType, id plumbing.Hash) (plumbing.EncodedObject, error) {
	return again(s, func() (plumbing.EncodedObject, error) { return s.Storage.EncodedObject(kind, id) })
}

// EncodedObjectSize returns the bytes of an object, in whichever pack it is by now.
func (s *storage) EncodedObjectSize(id plumbing.Hash) (int64, error) {
	return again(s, func() (int64, error) { return s.Storage.EncodedObjectSize(id) })
}

// again reads, and if a pack of the list is gone, makes the list anew and reads once
// more: git repack replaces packs under readers, and writes the new ones first. go-git
// keeps a list that it could not read to its end, and would answer from it.
func again[T any](s *storage, read func() (T, error)) (T, error) {
	out, err := read()
	if errors.Is(err, dotgit.ErrPackfileNotFound) || errors.Is(err, fs.ErrNotExist) {
		s.Reindex()
		out, err = read()
	}
	return out, err
}

// settled is a repository's folder without what is on its way in or out of it. go-git
// takes a folder for an empty one when a file of it disappears while it is listed, as
// the locks and the keep files of other pushes do; it reads a ref's lock as a ref; and
// it cannot read a pack without an index. git gives a pack its index last
// (pack_copy_priority in its tmp-objdir.c), and no ref's name ends in ".lock"
// (git-check-ref-format(1)).
type settled struct{ billy.Filesystem }

// Capabilities are the folder's own: go-git asks for them before it writes.
func (s settled) Capabilities() billy.Capability { return billy.Capabilities(s.Filesystem) }

// ReadDir lists a folder.
func (s settled) ReadDir(dir string) ([]os.FileInfo, error) {
	entries, err := os.ReadDir(s.Join(s.Root(), dir))
	if err != nil {
		return nil, err
	}
	indexed := map[string]bool{}
	for _, e := range entries {
		if pack, ok := strings.CutSuffix(e.Name(), ".idx"); ok {
			indexed[pack] = true
		}
	}
	infos := make([]os.FileInfo, 0, len(entries))
	for _, e := range entries {
		pack, isPack := strings.CutSuffix(e.Name(), ".pack")
		if isPack && !indexed[pack] || strings.HasSuffix(e.Name(), ".lock") {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}
