package backups

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"mesh"
	"mesh/atomicfile"
)

// folder is a place in a file system.
type folder struct {
	dir  string
	data string // a data directory that it may not be in, but for its folder backups; may be empty

	reserve int64 // bytes that stay free on the disk of data
}

// Folder is the folder of a data directory for the backups of plans without a place.
const Folder = "backups"

func (f *folder) prepare(context.Context) error {
	own, err := f.own()
	if err != nil {
		return err
	}
	info, err := os.Stat(f.dir)
	switch {
	case err == nil && !info.IsDir():
		return mesh.Errorf(mesh.Invalid, "%s is not a folder", f.dir).WithHint("name a folder: it is created if its parent exists")
	case errors.Is(err, fs.ErrNotExist) && own:
		err = os.MkdirAll(f.dir, 0o700)
	case errors.Is(err, fs.ErrNotExist):
		// Only one level: of a disk that is not mounted, the parent is missing.
		if err = os.Mkdir(f.dir, 0o700); errors.Is(err, fs.ErrNotExist) {
			return mesh.Errorf(mesh.NotFound, "%s does not exist", filepath.Dir(f.dir)).WithHint("mount its disk, or create it; mesh creates only the last folder of a place")
		}
	}
	if err != nil {
		return f.fault(err)
	}
	probe, err := os.CreateTemp(f.dir, ".mesh-probe-*")
	if err != nil {
		return f.fault(err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// own reports whether the folder is below the data directory's own folder for backups. It
// refuses any other folder in there: mesh moves and removes what it finds in its own, and
// would back up the backups.
func (f *folder) own() (bool, error) {
	if f.data == "" {
		return false, nil
	}
	data, dir := resolved(f.data), resolved(f.dir)
	if !within(dir, data) {
		return false, nil
	}
	if !within(dir, filepath.Join(data, Folder)) {
		return false, mesh.Errorf(mesh.Invalid, "%s is in mesh's data directory", f.dir).WithHint("choose a folder outside of it, best on another disk or machine, or below %s", filepath.Join(f.data, Folder))
	}
	return true, nil
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// resolved follows the links in a path, as far as it exists.
func resolved(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	for rest := ""; ; {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Join(real, rest)
		}
		up := filepath.Dir(path)
		if up == path {
			return filepath.Join(path, rest)
		}
		path, rest = up, filepath.Join(filepath.Base(path), rest)
	}
}

func (f *folder) fault(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err // the folder is named below, and names that begin with a dot help nobody
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EROFS):
		return mesh.Errorf(mesh.Unavailable, "%s is read-only for mesh: %w", f.dir, err).WithHint("name it in ReadWritePaths of mesh.service: systemctl edit mesh; or see whether its disk is mounted read-only")
	case mesh.NoRoom(err):
		return mesh.Errorf(mesh.Unavailable, "the disk of %s is full: %w", f.dir, err).WithHint("free space there, or keep fewer backups: --keep N")
	case errors.Is(err, fs.ErrPermission):
		return mesh.Errorf(mesh.Unavailable, "mesh may not use %s: %w", f.dir, err).WithHint("make it belong to the user of mesh, and name it in ReadWritePaths of mesh.service: systemctl edit mesh")
	}
	return mesh.Errorf(mesh.Unavailable, "%s cannot be used: %w", f.dir, err)
}

// room returns an error if the disk is that of the data directory, and has little left: on a
// full disk mesh could record nothing, and refuses pushes.
func (f *folder) room() error {
	var own, data syscall.Stat_t
	var disk syscall.Statfs_t
	if f.data == "" || syscall.Stat(f.dir, &own) != nil || syscall.Stat(f.data, &data) != nil || own.Dev != data.Dev || syscall.Statfs(f.dir, &disk) != nil {
		return nil
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < uint64(f.reserve) { //nolint:gosec,unconvert // signed on Linux and never negative
		return mesh.Errorf(mesh.Unavailable, "the disk of %s, which is also that of the data directory, has only %d MB left", f.dir, free>>20).
			WithHint("free space, keep fewer backups (--keep N), or choose a place on another disk: %d MB stay free for mesh itself", f.reserve>>20)
	}
	return nil
}

// roomEvery is how many bytes are written between two looks at what is free.
const roomEvery = 16 << 20

func (f *folder) list(_ context.Context, prefix string) (out []item, err error) {
	all, err := os.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, f.fault(err)
	}
	for _, e := range all {
		if !strings.HasPrefix(strings.TrimPrefix(e.Name(), "."), prefix) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, f.fault(err)
		}
		out = append(out, item{e.Name(), info.Size(), info.ModTime()})
	}
	return out, nil
}

func (f *folder) open(_ context.Context, name string) (io.ReadCloser, error) {
	r, err := os.Open(filepath.Join(f.dir, name))
	if err != nil {
		return nil, f.fault(err)
	}
	return r, nil
}

func (f *folder) put(_ context.Context, name string, data []byte) error {
	return f.fault(atomicfile.Write(filepath.Join(f.dir, name), data, 0o600))
}

func (f *folder) remove(_ context.Context, name string) error {
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.fault(err)
	}
	return nil
}

func (f *folder) forget(ctx context.Context, before time.Time, accept func(string) bool) error {
	all, err := f.list(ctx, "")
	for _, i := range all {
		if n, ok := parseName(i.name); ok && n.partial && i.modified.Before(before) && accept(i.name) {
			err = errors.Join(err, f.remove(ctx, i.name))
		}
	}
	return err
}

func (f *folder) create(_ context.Context, name string) sink {
	s := &fileSink{folder: f, name: name}
	var err error
	if s.file, err = os.CreateTemp(f.dir, "."+name+"-*"); err != nil { // mode 0600
		s.err = f.fault(err)
	}
	return s
}

// fileSink is a file beside the one that it becomes.
type fileSink struct {
	*folder
	name string
	file *os.File // nil: it could not be created, or was committed
	look int      // bytes until the next look at what is free
	err  error
}

func (s *fileSink) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.look -= len(p); s.look < 0 {
		if s.err = s.room(); s.err != nil {
			return 0, s.err
		}
		s.look = roomEvery
	}
	n, err := s.file.Write(p)
	s.err = s.fault(err)
	return n, s.err
}

func (s *fileSink) commit(context.Context) error {
	if s.err != nil {
		return s.err
	}
	if err := s.file.Sync(); err != nil {
		return s.fault(err)
	}
	if err := os.Rename(s.file.Name(), filepath.Join(s.dir, s.name)); err != nil {
		return s.fault(err)
	}
	err := s.file.Close()
	s.file = nil
	d, derr := os.Open(s.dir)
	if derr == nil {
		derr = errors.Join(d.Sync(), d.Close())
	}
	if err = errors.Join(err, derr); err != nil {
		return s.fault(fmt.Errorf("after it was written: %w", err))
	}
	return nil
}

func (s *fileSink) abort() {
	if s.file != nil {
		_ = s.file.Close()
		_ = os.Remove(s.file.Name())
	}
}
