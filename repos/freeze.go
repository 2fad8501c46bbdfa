package repos

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Freeze copies all repositories for a backup, into a folder that thaw removes. The
// copy takes no space, because its files are hard links. git never writes to an
// existing file, so they do not change. No repository is repacked during Freeze, so
// nothing is missing.
//
// first is called before the copy. No repository is renamed after that, so the copy
// contains everything that first has seen.
func (r *Repos) Freeze(ctx context.Context, first func() error) (dir string, thaw func(), err error) {
	r.names.Lock()
	defer r.names.Unlock()
	if err := first(); err != nil {
		return "", nil, err
	}
	dir, err = os.MkdirTemp(r.dir, "freeze-*.new") // the next start removes it after a kill
	if err != nil {
		return "", nil, full(err)
	}
	thaw = func() { _ = os.RemoveAll(dir) }
	found, err := filepath.Glob(filepath.Join(r.dir, "*.git"))
	for _, repo := range found {
		if err == nil {
			err = r.freeze(ctx, repo, filepath.Join(dir, filepath.Base(repo)))
		}
	}
	if err != nil {
		thaw()
		return "", nil, full(err)
	}
	return dir, thaw, nil
}

func (r *Repos) freeze(ctx context.Context, from, to string) error {
	r.mu.Lock() // as packing does
	defer r.mu.Unlock()
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a push has just ended
		}
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && strings.HasPrefix(name, "tmp_objdir-"):
			return filepath.SkipDir // a push in progress
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case !d.Type().IsRegular() || strings.HasSuffix(name, ".lock") || strings.HasPrefix(name, "tmp_"):
			return nil
		}
		if err := os.Link(p, filepath.Join(to, rel)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}
