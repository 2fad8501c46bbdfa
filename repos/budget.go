package repos

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"mesh"
)

// Limits of a tree, whether it came by a push, an upload, a submodule or Git LFS. A few
// hundred bytes of git objects can unfold to any number of paths, because trees may
// name the same tree many times, so the limits apply to the unfolded tree. The Linux
// kernel has 90,000 files with 4 MB of paths.
const (
	maxEntries   = 250_000  // files, folders and links
	maxNames     = 32 << 20 // bytes of all paths and link targets together
	maxPath      = 4096     // bytes of a path, and of a link's target: PATH_MAX of Linux
	maxDepth     = 100      // folders in folders
	maxTreeBytes = 8 << 30  // bytes of all files, each counted as often as it appears

	// Trees are held in memory while they are built: 250 MB for one at the limits.
	// These limits apply to the entries of open trees from git, and to the number of
	// uploads with more than largeUpload entries.
	maxOpen     = 2 * maxEntries
	maxUploads  = 2
	largeUpload = 25_000

	maxCommit     = 1 << 20  // bytes of a commit or a tag object
	maxTreeObject = 32 << 20 // bytes of one tree object
)

// freed returns the memory of a large tree to the system; the garbage collector would
// keep it for minutes.
func freed(large bool) {
	if large {
		debug.FreeOSMemory()
	}
}

// size is the size of an unfolded tree.
type size struct {
	entries int64
	names   int64 // bytes of paths, relative to the tree, and of link targets
	bytes   int64 // of all files
	depth   int   // of folders below it
	longest int   // bytes of the longest path
}

// add counts one entry of the given name, and everything below it.
func (s *size) add(name int, below size) {
	s.entries += 1 + below.entries
	s.names += int64(name) + below.names + below.entries*int64(name+1)
	s.bytes += below.bytes
	s.depth = max(s.depth, 1+below.depth)
	longest := name
	if below.entries > 0 {
		longest += 1 + below.longest
	}
	s.longest = max(s.longest, longest)
}

// Hints for a tree beyond the limits, by the way it came.
const (
	leaveOutOfGit    = "remove files that the build does not need from git: git rm -r --cached FOLDER"
	leaveOutOfUpload = "exclude files that the build does not need in .dockerignore or .gitignore"
)

// check returns an error that names the limit if s is beyond one.
func (s size) check(hint string) error {
	refuse := func(format string, args ...any) error {
		return mesh.Errorf(mesh.Invalid, format, args...).WithHint("%s", hint)
	}
	switch {
	case s.entries > maxEntries:
		return refuse("the tree has more than %d files and folders", maxEntries)
	case s.longest > maxPath:
		return refuse("the tree has a path longer than %d bytes", maxPath)
	case s.names > maxNames:
		return refuse("the paths and links of the tree are longer than %d MB together", maxNames>>20)
	case s.depth > maxDepth:
		return refuse("the tree has folders more than %d deep", maxDepth)
	case s.bytes > maxTreeBytes:
		return refuse("the files of the tree are larger than %d GB together", maxTreeBytes>>30)
	}
	return nil
}

// survey measures trees in a repository without unfolding them: it reads each distinct
// object once. It must not be used by several goroutines at once.
type survey struct {
	st    *storage
	trees map[plumbing.Hash]size
	blobs map[plumbing.Hash]int64 // bytes of each
}

func newSurvey(st *storage) *survey {
	return &survey{st: st, trees: map[plumbing.Hash]size{}, blobs: map[plumbing.Hash]int64{}}
}

// tree measures a folder. The path is only for the error.
func (v *survey) tree(ctx context.Context, id plumbing.Hash, dir string, depth int) (size, error) {
	if have, ok := v.trees[id]; ok {
		return have, nil
	}
	var s size
	if depth > maxDepth {
		return s, (size{depth: depth}).check(leaveOutOfGit)
	}
	if err := ctx.Err(); err != nil {
		return s, context.Cause(ctx)
	}
	tr, err := v.st.tree(id)
	if err != nil {
		return s, err
	}
	for _, e := range tr.Entries {
		var below size
		name := dir + e.Name
		switch e.Mode {
		case filemode.Dir:
			below, err = v.tree(ctx, e.Hash, name+"/", depth+1)
		case filemode.Submodule:
			inside, here, merr := v.st.moduleTree(e.Hash)
			if err = merr; here {
				below, err = v.tree(ctx, inside, name+"/", depth+1)
			}
		case filemode.Symlink:
			var n int64
			if n, err = v.blob(e.Hash); n > maxPath {
				err = mesh.Errorf(mesh.Invalid, "the target of the link %s is longer than %d bytes", quote(name), maxPath).WithHint("remove the link, or make it shorter")
			}
			s.names += n
		default:
			below.bytes, err = v.blob(e.Hash)
		}
		if err != nil {
			return s, err
		}
		s.add(len(e.Name), below)
		if err := s.check(leaveOutOfGit); err != nil {
			return s, err
		}
	}
	v.trees[id] = s
	return s, nil
}

// blob returns the size of a file.
func (v *survey) blob(id plumbing.Hash) (int64, error) {
	if n, ok := v.blobs[id]; ok {
		return n, nil
	}
	n, err := v.st.EncodedObjectSize(id)
	if err == nil {
		v.blobs[id] = n
	}
	return n, err
}

const commitsAndTags = "a commit or a tag"

// bounded returns an error if an object that must be read whole is too large.
func (s *storage) bounded(id plumbing.Hash, what string, limit int64) error {
	n, err := s.EncodedObjectSize(id)
	if err != nil {
		return err
	}
	if n > limit {
		return mesh.Errorf(mesh.Invalid, "the git object %s has %d MB; %s may have %d MB", id.String()[:7], n>>20, what, limit>>20).
			WithHint("push a commit without it in its history: git checkout --orphan fresh && git commit -m fresh && git push mesh HEAD:BRANCH")
	}
	return nil
}

// commit, tag and tree read an object within its size limit.
func (s *storage) commit(id plumbing.Hash) (*object.Commit, error) {
	if err := s.bounded(id, commitsAndTags, maxCommit); err != nil {
		return nil, err
	}
	return object.GetCommit(s, id)
}

func (s *storage) tag(id plumbing.Hash) (*object.Tag, error) {
	if err := s.bounded(id, commitsAndTags, maxCommit); err != nil {
		return nil, err
	}
	return object.GetTag(s, id)
}

func (s *storage) tree(id plumbing.Hash) (*object.Tree, error) {
	if err := s.bounded(id, "a folder", maxTreeObject); err != nil {
		return nil, err
	}
	return object.GetTree(s, id)
}

// Weigh returns an error for a commit, or a tag of one, whose tree is beyond the
// limits, before anything of it is recorded. Other objects are only stored, and not
// checked.
func (r *Repos) Weigh(ctx context.Context, stack mesh.StackName, id mesh.Commit) error {
	st := r.storage(stack)
	defer st.Close()
	commit, err := st.peel(id)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil // a tag of a blob or a tree, which nothing reads
	}
	if err != nil {
		return err
	}
	c, err := st.commit(plumbing.NewHash(string(commit)))
	if err != nil {
		return fmt.Errorf("weigh %s of %s: %w", commit.Short(), stack, err)
	}
	if _, err := newSurvey(st).tree(ctx, c.TreeHash, "", 1); err != nil {
		return fmt.Errorf("weigh %s of %s: %w", commit.Short(), stack, err)
	}
	return nil
}
