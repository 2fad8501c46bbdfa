package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mesh"
	"mesh/backups"
	"mesh/mirror"
)

// section is a part of a file, which is closed elsewhere.
type section struct{ *io.SectionReader }

// Close implements io.Closer.
func (section) Close() error { return nil }

// Mirror sends this server to a standby until ctx ends or the standby leaves.
func (h *serverInfo) Mirror(ctx context.Context, r io.Reader, w io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.leaving, func() {
		cancel(mesh.Errorf(mesh.Unavailable, "the server hands over to a new process: the copy goes on with that one"))
	})()
	return mirror.Send(ctx, &mirrorSource{h: h}, r, w)
}

// linesFolder has the logs of stacks.
const linesFolder = "lines"

// mirrorSource is what a standby copies: what a backup contains, the logs, and the backups of
// add-ons that are in this server's folder. The state comes last.
type mirrorSource struct {
	h *serverInfo
	// The last round's repositories and state, and their version. While that is the version, the
	// copy has them: nothing is read of them.
	state   []mirror.File
	version uint64
}

// Version implements mirror.Source. What changes in the repositories changes the state as well,
// or nothing that it refers to.
func (m *mirrorSource) Version(ctx context.Context) (string, error) {
	n, err := m.h.store.Version(ctx)
	if err != nil {
		return "", err
	}
	files, err := m.files()
	if err != nil {
		return "", err
	}
	sum := fnv.New64a()
	for _, f := range files {
		_, _ = fmt.Fprintf(sum, "%s %d %d\n", f.Path, f.Size, f.Time)
	}
	return fmt.Sprintf("%d %x", n, sum.Sum64()), nil
}

// Round implements mirror.Source.
func (m *mirrorSource) Round(ctx context.Context) (files []mirror.File, done func(), err error) {
	if files, err = m.files(); err != nil {
		return nil, nil, err
	}
	if now, err := m.h.store.Version(ctx); err != nil {
		return nil, nil, err
	} else if m.state != nil && now == m.version {
		return append(files, m.state...), func() {}, nil
	}
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
	state, err := walked(frozen, "repos/", func(string) bool { return false })
	if err != nil {
		done()
		return nil, nil, err
	}
	// A snapshot has no modification time: the state's version takes its place.
	state = append(state, mirror.File{Path: "mesh.db", Size: info.Size(), Time: int64(version), Last: true, Open: func() (io.ReadSeekCloser, error) { //nolint:gosec // it counts from 1
		return section{io.NewSectionReader(db, 0, info.Size())}, nil
	}})
	m.state, m.version = state, version
	return append(files, state...), done, nil
}

// files are those besides the repositories and the state.
func (m *mirrorSource) files() ([]mirror.File, error) {
	all, err := walked(m.h.info.Data, "", func(name string) bool {
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
	return all, err
}

// walked are the files below a folder. Those that vanish meanwhile are left out.
// What cannot be read is an error: a copy removes what is not listed.
func walked(root, prefix string, skip func(string) bool) (out []mirror.File, err error) {
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p != root {
			return nil
		}
		if err != nil {
			return err
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
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
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
	if err != nil {
		return nil, mesh.Errorf(mesh.Unavailable, "list the files of this server: %w", err)
	}
	return out, nil
}
