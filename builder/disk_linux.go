package builder

import "syscall"

// diskFree returns the free bytes below dir, and false if dir is not on this
// machine.
func diskFree(dir string) (int64, bool) {
	var s syscall.Statfs_t
	if dir == "" || syscall.Statfs(dir, &s) != nil {
		return 0, false
	}
	return int64(s.Bavail) * s.Bsize, true //nolint:gosec // no disk is that large
}

// diskSize is the size of the disk of dir, 0 if unknown.
func diskSize(dir string) int64 {
	var s syscall.Statfs_t
	if dir == "" || syscall.Statfs(dir, &s) != nil {
		return 0
	}
	return int64(s.Blocks) * s.Bsize //nolint:gosec // no disk is that large
}
