package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// owner is a process that writes tails. Its lock file stays locked while the process
// lives (flock(2)): others may then not compress its tails.
type owner struct {
	dir  string
	id   string
	file *os.File
}

const ownerSuffix = ".owner"

var (
	lastID  atomic.Int64
	noOwner = &owner{} // on a disk that cannot be written
)

// newID returns a name that no other call has returned, in this process or another, and
// that sorts after those of earlier calls.
func newID() string {
	now := time.Now().UnixNano()
	for {
		last := lastID.Load()
		next := max(now, last+1)
		if lastID.CompareAndSwap(last, next) {
			return fmt.Sprintf("%016x", next)
		}
	}
}

func newOwner(dir string) (*owner, error) {
	o := &owner{dir: dir, id: fmt.Sprintf("%s-%d", newID(), os.Getpid())}
	f, err := os.OpenFile(o.path(o.id), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return noOwner, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor
		_ = f.Close()
		return noOwner, err
	}
	o.file = f
	if _, err := os.Stat(o.path(o.id)); err != nil {
		_ = f.Close()
		return newOwner(dir) // another start took it for a dead one's, before it was locked
	}
	o.removeDead()
	return o, nil
}

func (o *owner) path(id string) string { return filepath.Join(o.dir, "."+id+ownerSuffix) }

// close ends the ownership.
func (o *owner) close() error {
	if o.file == nil {
		return nil
	}
	_ = os.Remove(o.path(o.id))
	return o.file.Close()
}

// lives reports whether the process of that name still writes.
func (o *owner) lives(id string) bool {
	if id == o.id {
		return true
	}
	f, err := os.Open(o.path(id))
	if err != nil {
		return false
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) //nolint:gosec // a descriptor; closing it unlocks
	return err != nil
}

// removeDead removes the lock files of processes that were killed.
func (o *owner) removeDead() {
	found, _ := filepath.Glob(filepath.Join(o.dir, ".*"+ownerSuffix)) // the pattern is sound
	for _, path := range found {
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "."), ownerSuffix)
		if !o.lives(id) {
			_ = os.Remove(path)
		}
	}
}
