package volumes

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/docker/docker/api/types/volume"
)

// Sizes returns the bytes that each volume of the engine takes on the disk, by its name
// there. It reads the size of every file, as du does, in the engine's own folder: if that
// cannot be read from here, because mesh runs in a container or not as root, the volume is
// missing from the result. The engine measures no volumes that have options.
func (s *Store) Sizes(ctx context.Context) (map[string]int64, error) {
	found, err := s.cli.API(ctx).VolumeList(ctx, volume.ListOptions{Filters: s.filter()})
	if err != nil {
		return nil, s.fault(ctx, "list the volumes", err)
	}
	all := map[string]int64{}
	for _, v := range found.Volumes {
		n, err := used(ctx, v.Mountpoint)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil {
			all[v.Name] = n
		}
	}
	return all, nil
}

// used returns the bytes that a folder takes on the disk, each file once.
func used(ctx context.Context, folder string) (n int64, err error) {
	type node struct{ dev, ino uint64 }
	seen := map[node]bool{} // files with several names
	err = filepath.WalkDir(folder, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			if name != folder && errors.Is(err, fs.ErrNotExist) {
				return nil // the app has removed it
			}
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			n += info.Size()
			return nil
		}
		if id := (node{st.Dev, st.Ino}); st.Nlink > 1 && !info.IsDir() {
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		n += st.Blocks * 512 // stat(2)
		return nil
	})
	return n, err
}
