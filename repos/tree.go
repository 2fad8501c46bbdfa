package repos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"mesh"
)

// tree is the tree of a commit, read from the objects.
type tree struct {
	entries []mesh.TreeEntry
	large   map[string]string // Git LFS files, by ID
	modules map[string]bool   // paths of submodules whose commit is present
	sizes   *survey
	links   map[plumbing.Hash]string // targets of links: one object may be many links
	folders map[plumbing.Hash][]object.TreeEntry

	mu sync.Mutex
	st *storage
}

// Open opens the tree of a commit, and returns the first line of its message. Call
// release when nothing reads the tree any more. Open blocks while the open trees have
// maxOpen entries together.
func (r *Repos) Open(ctx context.Context, stack mesh.StackName, commit mesh.Commit) (_ mesh.Tree, subject string, release func(), err error) {
	st := r.storage(stack)
	defer func() {
		if err != nil {
			st.Close()
		}
	}()
	c, err := st.commit(plumbing.NewHash(string(commit)))
	if err != nil {
		return nil, "", nil, fmt.Errorf("open commit %s of %s: %w", commit.Short(), stack, err)
	}
	t := &tree{st: st, modules: map[string]bool{}, sizes: newSurvey(st), links: map[plumbing.Hash]string{}, folders: map[plumbing.Hash][]object.TreeEntry{}}
	total, err := t.sizes.tree(ctx, c.TreeHash, "", 1)
	if err != nil {
		return nil, "", nil, fmt.Errorf("open the tree of %s of %s: %w", commit.Short(), stack, err)
	}
	if err := r.open.Acquire(ctx, total.entries+1); err != nil {
		return nil, "", nil, context.Cause(ctx)
	}
	closeTree := sync.OnceFunc(func() {
		st.Close()
		t.entries = nil
		r.open.Release(total.entries + 1)
		freed(total.entries > largeUpload)
	})
	defer func() {
		if err != nil {
			closeTree()
		}
	}()
	t.entries = make([]mesh.TreeEntry, 0, total.entries)
	if err := t.list(ctx, c.TreeHash, ""); err != nil {
		return nil, "", nil, fmt.Errorf("open the tree of %s of %s: %w", commit.Short(), stack, err)
	}
	if err := t.smudge(r.lfs(stack), total); err != nil {
		return nil, "", nil, fmt.Errorf("read the Git LFS pointers of %s of %s: %w", commit.Short(), stack, err)
	}
	t.sizes, t.links, t.folders = nil, nil, nil
	subject, _, _ = strings.Cut(strings.TrimSpace(c.Message), "\n")
	return t, printable(subject), closeTree, nil
}

// Subject returns the first line of a commit's message.
func (r *Repos) Subject(_ context.Context, stack mesh.StackName, commit mesh.Commit) (string, error) {
	st := r.storage(stack)
	defer st.Close()
	c, err := st.commit(plumbing.NewHash(string(commit)))
	if err != nil {
		return "", fmt.Errorf("open commit %s of %s: %w", commit.Short(), stack, err)
	}
	subject, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	return printable(subject), nil
}

// printable makes a line from a pusher or another server harmless and short.
func printable(s string) string { return mesh.Clip(mesh.Visible(s), 72) }

// list adds everything below a folder, in the order that mesh.Tree promises: git sorts
// a folder "a" as "a/", after "a.b".
func (t *tree) list(ctx context.Context, id plumbing.Hash, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := t.folder(id)
	if err != nil {
		return err
	}
	for _, e := range entries {
		out := mesh.TreeEntry{Path: path.Join(dir, e.Name), ID: e.Hash.String()}
		switch e.Mode {
		case filemode.Dir:
			out.Mode, out.ID = fs.ModeDir|0o755, ""
			t.entries = append(t.entries, out)
			if err := t.list(ctx, e.Hash, out.Path); err != nil {
				return err
			}
			continue
		case filemode.Submodule:
			out.Mode, out.ID = fs.ModeDir|0o755, ""
			inside, here, err := t.st.moduleTree(e.Hash)
			if err != nil {
				return err
			}
			if here {
				t.modules[out.Path] = true
				t.entries = append(t.entries, out)
				if err := t.list(ctx, inside, out.Path); err != nil {
					return err
				}
				continue
			}
			out.Module = e.Hash.String()
		case filemode.Symlink:
			link, err := t.link(e.Hash)
			if err != nil {
				return err
			}
			out.Mode, out.Link = fs.ModeSymlink|0o777, link
		default: // regular, executable, and the group-writable files of old histories
			out.Mode = 0o644
			if e.Mode == filemode.Executable {
				out.Mode = 0o755
			}
			if out.Size, err = t.sizes.blob(e.Hash); err != nil {
				return err
			}
		}
		t.entries = append(t.entries, out)
	}
	return nil
}

// folder returns the entries of a tree object, sorted by name.
func (t *tree) folder(id plumbing.Hash) ([]object.TreeEntry, error) {
	if have, ok := t.folders[id]; ok {
		return have, nil
	}
	tr, err := t.st.tree(id)
	if err != nil {
		return nil, err
	}
	entries := slices.Clone(tr.Entries)
	slices.SortFunc(entries, func(a, b object.TreeEntry) int { return strings.Compare(a.Name, b.Name) })
	if len(t.folders) < maxFolders {
		t.folders[id] = entries
	}
	return entries, nil
}

// maxFolders limits how many tree objects are cached while a tree is listed: the same
// folder may appear many times.
const maxFolders = 1000

// link returns the target of a symbolic link, which the survey has found short enough.
func (t *tree) link(id plumbing.Hash) (string, error) {
	if have, ok := t.links[id]; ok {
		return have, nil
	}
	b, err := object.GetBlob(t.st, id)
	if err != nil {
		return "", err
	}
	r, err := b.Reader()
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxPath))
	t.links[id] = string(data)
	return t.links[id], errors.Join(err, r.Close())
}

// Entries lists the tree.
func (t *tree) Entries() []mesh.TreeEntry { return t.entries }

// Open reads a file of the tree.
func (t *tree) Open(e mesh.TreeEntry) (io.ReadCloser, error) {
	if file, ok := t.large[e.ID]; ok {
		return openChecked(file, e.ID)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f, err := again(t.st, func() (io.ReadCloser, error) {
		b, err := object.GetBlob(t.st.Storage, plumbing.NewHash(e.ID))
		if err != nil {
			return nil, err
		}
		return b.Reader() // a large one is streamed from its pack, which it opens
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", e.Path, err)
	}
	return f, nil
}
