package logs

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"mesh"
)

// followEvery is how often a followed log is looked at even if this process has written
// nothing: during an upgrade, another one does.
const followEvery = 250 * time.Millisecond

// follower reads what a shelf gets after a snapshot: the growing tails, and blocks of
// tails that came and went between two looks.
type follower struct {
	s       *shelf
	tails   map[string]*reading // by id
	done    map[uint64]bool     // tails whose lines were all passed on
	changed <-chan struct{}
}

// reading is a tail that is read. Its file stays readable after it was removed.
type reading struct {
	number uint64
	file   *os.File
	at     int64
}

func (r *reading) close() { _ = r.file.Close() }

func (f *follower) open(t part) error {
	file, err := os.Open(t.path)
	if err != nil {
		return err
	}
	f.tails[t.id] = &reading{number: tailNumber(t.id), file: file}
	return nil
}

func (f *follower) has(number uint64) bool {
	for _, r := range f.tails {
		if r.number == number {
			return true
		}
	}
	return false
}

func (f *follower) close() {
	for _, r := range f.tails {
		r.close()
	}
	f.tails = nil
}

// followAll passes on new lines of several shelves until ctx ends.
func followAll(ctx context.Context, m *match, all []*follower, fn func(mesh.LogLine) error) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		for _, f := range all {
			if err := f.next(m, fn); err != nil {
				return err
			}
		}
		a := all[0].changed
		b := all[len(all)-1].changed
		select {
		case <-ctx.Done():
			return nil
		case <-a:
		case <-b:
		case <-tick.C:
		}
	}
}

// next passes on what has come.
func (f *follower) next(m *match, fn func(mesh.LogLine) error) error {
	f.s.mu.Lock()
	f.changed = f.s.changed
	f.s.mu.Unlock()
	tails, err := listParts(f.s.dir, tailSuffix)
	if err != nil {
		return err
	}
	still := map[string]bool{}
	for _, t := range tails {
		still[t.id] = true
	}
	// In the order in which they were begun: the known ones, those that came and went, and
	// the new ones.
	for _, id := range slices.Sorted(maps.Keys(f.tails)) {
		r := f.tails[id]
		if err := f.read(m, r, fn); err != nil {
			return err
		}
		if !still[id] {
			r.close()
			f.done[r.number] = true
			delete(f.tails, id)
		}
	}
	var more []*reading
	for _, t := range tails {
		if f.tails[t.id] != nil || f.done[tailNumber(t.id)] {
			continue
		}
		if err := f.open(t); err == nil {
			more = append(more, f.tails[t.id])
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := f.passed(m, fn); err != nil {
		return err
	}
	for _, r := range more {
		if err := f.read(m, r, fn); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) read(m *match, r *reading, fn func(mesh.LogLine) error) error {
	var ferr error
	at, err := readFrames(r.file, r.at, func(b []byte) error {
		err := decode(b, func(l line) bool {
			if m.origin(l.origin) && m.line(l) {
				ferr = fn(l.log())
			}
			return ferr == nil
		})
		return errors.Join(ferr, err)
	})
	r.at = at
	if ferr != nil {
		return ferr
	}
	return f.s.excuse(r.file.Name(), err)
}

// passed passes on the blocks of tails that came and went between two looks.
func (f *follower) passed(m *match, fn func(mesh.LogLine) error) error {
	blocks, _, err := f.s.index.blocks()
	if err != nil {
		return err
	}
	ended := map[uint64]bool{}
	for _, b := range blocks {
		ended[b.tail] = ended[b.tail] || b.ends
	}
	for _, b := range blocks {
		if !ended[b.tail] || f.done[b.tail] || f.has(b.tail) {
			continue
		}
		file, err := os.Open(b.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		raw, err := b.load(file, nil)
		_ = file.Close()
		if err := f.s.excuse(b.file, err); err != nil {
			return err
		}
		var ferr error
		if err == nil {
			_ = decode(raw, func(l line) bool {
				if m.origin(l.origin) && m.line(l) {
					ferr = fn(l.log())
				}
				return ferr == nil
			})
		}
		if ferr != nil {
			return ferr
		}
	}
	for n, e := range ended {
		if e && !f.has(n) {
			f.done[n] = true
		}
	}
	return nil
}
