package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"time"

	"mesh"
	"mesh/atomicfile"
)

// The times of a stack's files are in plain files beside the database, and not in
// backups. They describe the engine's build cache, which is in no backup either.
// Times older than the cache would take files back in time; if they are lost, one
// build sends and runs everything again.

// timesForm is the first bytes of such a file. Its last 32 bytes are the SHA-256 of
// everything before them.
const timesForm = "mesh file times 1\n"

func (s *Store) timesPath(stack mesh.StackName) string {
	return filepath.Join(s.dir, "times", string(stack))
}

// FileTimes returns the times that a stack remembers for its files: the zero value
// if there are none, or if they cannot be read.
func (s *Store) FileTimes(ctx context.Context, stack mesh.StackName) (mesh.FileTimes, error) {
	if err := ctx.Err(); err != nil {
		return mesh.FileTimes{}, err
	}
	data, err := os.ReadFile(s.timesPath(stack))
	if errors.Is(err, os.ErrNotExist) {
		return mesh.FileTimes{}, nil
	} else if err != nil {
		return mesh.FileTimes{}, err
	}
	t, _ := readTimes(data)
	return t, nil
}

// KeepFileTimes replaces the times that a stack remembers for its files. They are on
// disk when it returns.
func (s *Store) KeepFileTimes(ctx context.Context, stack mesh.StackName, t mesh.FileTimes) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path := s.timesPath(stack)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return noRoom(err)
	}
	return noRoom(atomicfile.Write(path, writeTimes(t), 0o600))
}

func (s *Store) removeTimes(stack mesh.StackName) error {
	if err := os.Remove(s.timesPath(stack)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// moveTimes moves the times to a stack's new name. It keeps what already exists
// under the new name.
func (s *Store) moveTimes(from, to mesh.StackName) error {
	if _, err := os.Lstat(s.timesPath(to)); err == nil {
		return s.removeTimes(from)
	}
	if err := os.Rename(s.timesPath(from), s.timesPath(to)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func writeTimes(t mesh.FileTimes) []byte {
	b := append(make([]byte, 0, 128+len(t.Files)*33+len(t.Past)*8), timesForm...)
	flag := func(is bool) byte {
		if is {
			return 1
		}
		return 0
	}
	num := func(n uint64) { b = binary.BigEndian.AppendUint64(b, n) }
	at := func(t time.Time) { num(uint64(t.UnixNano())) } //nolint:gosec // read back the same way
	at(t.First)
	at(t.Latest)
	b = append(b, flag(t.Whole))
	num(uint64(len(t.Files)))
	for key, f := range t.Files {
		num(key)
		num(f.Of)
		at(f.Since)
		at(f.Time)
		b = append(b, flag(f.Back))
	}
	for _, h := range t.Past {
		num(h)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func readTimes(b []byte) (t mesh.FileTimes, ok bool) {
	const head, record = len(timesForm) + 25, 33
	if len(b) < head+sha256.Size || string(b[:len(timesForm)]) != timesForm {
		return t, false
	}
	if sum := sha256.Sum256(b[:len(b)-sha256.Size]); string(sum[:]) != string(b[len(b)-sha256.Size:]) {
		return t, false
	}
	b = b[len(timesForm) : len(b)-sha256.Size]
	num := func() uint64 {
		n := binary.BigEndian.Uint64(b)
		b = b[8:]
		return n
	}
	at := func() time.Time { return time.Unix(0, int64(num())).UTC() } //nolint:gosec // as it was written
	flag := func() bool {
		is := b[0] == 1
		b = b[1:]
		return is
	}
	t.First, t.Latest = at(), at()
	t.Whole = flag()
	n := num()
	if n > uint64(len(b)/record) {
		return mesh.FileTimes{}, false
	}
	t.Files = make(map[uint64]mesh.FileTime, n)
	for range n {
		key := num()
		t.Files[key] = mesh.FileTime{Of: num(), Since: at(), Time: at(), Back: flag()}
	}
	for len(b) >= 8 {
		t.Past = append(t.Past, num())
	}
	return t, true
}
