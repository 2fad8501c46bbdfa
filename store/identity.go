package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
	"mesh/atomicfile"
)

// parts are the folders of a data directory that belong to mesh.db. Each contains a
// file with the id of its server.
var parts = []string{"repos", "logs", "lines", "certs", "times"}

const identityName = ".mesh-server"

// LostFor is how long files in lost are kept.
const LostFor = 30 * 24 * time.Hour

// lostTime is the beginning of names below lost/.
const lostTime = "20060102T150405Z"

// MoveAside moves a file or folder of the data directory dir into its folder lost,
// where it stays for LostFor, and returns its new path. Nothing is copied.
func MoveAside(dir, path, name string, now time.Time) (string, error) {
	lost := filepath.Join(dir, "lost")
	if err := os.MkdirAll(lost, 0o700); err != nil {
		return "", err
	}
	base := now.UTC().Format(lostTime) + "-" + name
	to := filepath.Join(lost, base)
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			return to, os.Rename(path, to)
		}
		to = filepath.Join(lost, fmt.Sprintf("%s-%d", base, n))
	}
}

// Lost lists the contents of lost, by name.
func Lost(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "lost"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}

// PurgeLost removes what was moved to lost longer than LostFor ago, by the time in
// its name. Entries without a time belong to somebody else and stay.
func PurgeLost(dir string, now time.Time) (gone []string, err error) {
	all, err := Lost(dir)
	for _, name := range all {
		stamp, _, _ := strings.Cut(name, "-")
		at, terr := time.Parse(lostTime, stamp)
		if terr != nil || now.Sub(at) < LostFor {
			continue
		}
		if rerr := os.RemoveAll(filepath.Join(dir, "lost", name)); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		gone = append(gone, name)
	}
	return gone, err
}

// inhabited returns the parts that are not empty.
func inhabited(dir string) (out []string) {
	for _, part := range parts {
		entries, _ := os.ReadDir(filepath.Join(dir, part))
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != identityName }) {
			out = append(out, part+"/")
		}
	}
	return out
}

// withoutState returns the parts in a directory that has no mesh.db, or an empty
// one. A server that is killed in its first moments leaves none: the database is
// created first.
func withoutState(dir string) []string {
	if info, err := os.Stat(filepath.Join(dir, "mesh.db")); err == nil && info.Size() > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var out []string
	if _, err := os.Lstat(filepath.Join(dir, "secret.key")); err == nil {
		out = append(out, "secret.key")
	}
	return append(out, inhabited(dir)...)
}

func noState(dir, what string, have []string) error {
	return mesh.Errorf(mesh.Conflict, "%s is %s, but %s of an earlier server exist: starting now would lose the stacks that they belong to", filepath.Join(dir, "mesh.db"), what, strings.Join(have, ", ")).
		WithHint("restore a backup: mv %s %s.old; mesh restore --data %s BACKUP.tar; or start afresh, with the rest moved to %s: mesh serve --data %s --start-over",
			dir, dir, dir, filepath.Join(dir, "lost"), dir)
}

// StartOver moves everything in a data directory without a mesh.db, or with an empty
// one, to its folder lost, so that Open starts afresh. The SSH host key stays:
// clients remember it. If there is a state, StartOver changes nothing. It returns
// the new paths.
func StartOver(dir string, now time.Time) (moved []string, err error) {
	db := filepath.Join(dir, "mesh.db")
	if len(withoutState(dir)) == 0 && !bare(db) {
		return nil, nil
	}
	for _, name := range append([]string{"mesh.db", "secret.key", "instances.json"}, parts...) {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		to, err := MoveAside(dir, path, name, now)
		if err != nil {
			return moved, err
		}
		moved = append(moved, to)
	}
	return moved, nil
}

// bare reports whether a database is empty, like a new one.
func bare(path string) (empty bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			empty = false // damaged, as Open will report
		}
	}()
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return false
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 50 * time.Millisecond, ReadOnly: true})
	if err != nil {
		return false
	}
	defer func() { _ = db.Close() }()
	_ = db.View(func(tx *bbolt.Tx) error { empty = tx.Bucket(bucketMeta) == nil; return nil })
	return empty
}

// identify makes sure that the parts belong to this server. Parts without an id are
// from an earlier mesh, or new: they are adopted.
func (s *Store) identify() error {
	var other []string
	for _, part := range parts {
		data, err := os.ReadFile(filepath.Join(s.dir, part, identityName))
		if err == nil && strings.TrimSpace(string(data)) != s.server {
			other = append(other, part+"/")
		}
	}
	if len(other) > 0 {
		moves := make([]string, 0, len(other))
		for _, p := range other {
			p = filepath.Join(s.dir, p)
			moves = append(moves, fmt.Sprintf("mv %s %s.other", p, p))
		}
		return mesh.Errorf(mesh.Conflict, "%s in %s belong to another server than mesh.db (its id is %s)", strings.Join(other, ", "), s.dir, s.server).
			WithHint("combine mesh.db with the folders of its own server, or restore a backup (docs/operating.md, Restore); to continue without them: %s", strings.Join(moves, "; "))
	}
	for _, part := range parts {
		path := filepath.Join(s.dir, part, identityName)
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = atomicfile.Write(path, []byte(s.server+"\n"), 0o600)
		}
		if err != nil {
			if !mesh.NoRoom(err) {
				return err
			}
			s.note(fmt.Sprintf("cannot write to %s: %v", s.dir, err))
			return nil // the next start does it
		}
	}
	return nil
}
