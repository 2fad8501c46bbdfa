package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mesh/backups"
	"mesh/mirror"
)

// section is a part of a file, which is closed elsewhere.
type section struct{ *io.SectionReader }

// Close implements io.Closer.
func (section) Close() error { return nil }

// Mirror sends this server to a standby until ctx ends or the standby leaves.
func (h *serverInfo) Mirror(ctx context.Context, r io.Reader, w io.Writer) error {
	return mirror.Send(ctx, mirrorSource{h}, r, w)
}

// linesFolder has the logs of stacks.
const linesFolder = "lines"

// mirrorSource is what a standby copies: what a backup contains, the logs, and the backups of
// add-ons that are in this server's folder. The state comes last.
type mirrorSource struct{ h *serverInfo }

// Version implements mirror.Source. What changes in the repositories changes the state as well,
// or nothing that it refers to.
func (m mirrorSource) Version(ctx context.Context) (string, error) {
	n, err := m.h.store.Version(ctx)
	if err != nil {
		return "", err
	}
	sum := fnv.New64a()
	for _, f := range m.files() {
		_, _ = fmt.Fprintf(sum, "%s %d %d\n", f.Path, f.Size, f.Time)
	}
	return fmt.Sprintf("%d %x", n, sum.Sum64()), nil
}

// Round implements mirror.Source.
func (m mirrorSource) Round(ctx context.Context) (files []mirror.File, done func(), err error) {
	var db *os.File
	var version uint64
	frozen, thaw, err := m.h.repos.Freeze(ctx, func() (err error) {
		if version, err = m.h.store.Version(ctx); err != nil {
			return err
		}
		db, err = m.h.store.Snapshot(ctx)
		return err
	})
	done = func() {
		if thaw != nil {
			thaw()
		}
		if db != nil {
			_ = db.Close()
		}
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	info, err := db.Stat()
	if err != nil {
		done()
		return nil, nil, err
	}
	files = append(m.files(), walked(frozen, "repos/", func(string) bool { return false })...)
	// The number of the last change stands for a time: a snapshot has none of its own.
	files = append(files, mirror.File{Path: "mesh.db", Size: info.Size(), Time: int64(version), Last: true, Open: func() (io.ReadSeekCloser, error) { //nolint:gosec // it counts from 1
		return section{io.NewSectionReader(db, 0, info.Size())}, nil
	}})
	return files, done, nil
}

// files are those besides the repositories and the state.
func (m mirrorSource) files() []mirror.File {
	all := walked(m.h.info.Data, "", func(name string) bool {
		switch top, _, _ := strings.Cut(name, "/"); top {
		case linesFolder, backups.Folder:
			return strings.HasSuffix(name, ".new")
		}
		return leftOut(name)
	})
	for i := range all {
		top, _, _ := strings.Cut(all[i].Path, "/")
		all[i].Grows = top == linesFolder && strings.HasSuffix(all[i].Path, ".seg")
		all[i].Bulk = top == backups.Folder
	}
	return all
}

// walked are the files below a folder. Those that vanish meanwhile are left out.
func walked(root, prefix string, skip func(string) bool) (out []mirror.File) {
	_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it has gone
		}
		rel, err := filepath.Rel(root, p)
		if err != nil || rel == "." {
			return nil //nolint:nilerr // the root itself
		}
		name := filepath.ToSlash(rel)
		if skip(name) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return nil //nolint:nilerr // it has gone, or is a folder
		}
		out = append(out, mirror.File{Path: prefix + name, Size: info.Size(), Time: info.ModTime().UnixNano(), Open: func() (io.ReadSeekCloser, error) {
			f, err := os.Open(p)
			if err != nil {
				return nil, err
			}
			return f, nil
		}})
		return nil
	})
	return out
}
