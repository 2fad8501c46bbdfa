// Package atomicfile writes small files completely or not at all, whatever happens
// to the process or the machine meanwhile.
//
// It is not for growing or large files: the content is in memory.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces the file at path, or creates it with the given permissions: it
// writes a file beside it, syncs it, renames it, and syncs the folder, which must
// exist. When Write returns nil, the content survives a power loss. After an error
// the old file is still there, unless only the last sync failed. Readers see the old
// or the new file.
//
// A killed process may leave a file whose name begins with a dot and the name.
func Write(path string, data []byte, perm fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err = f.Chmod(perm); err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(dir)
}

// Remove removes the file at path. When it returns nil, the file is gone after a power loss as well.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
