package logs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mesh"
)

// shelf is one folder of lines: a tail, and segments.
type shelf struct {
	l   *Logs
	dir string

	mu      sync.Mutex
	room    *sync.Cond        // the batch was taken, or the shelf closed
	batch   batch             // lines to write
	dropped int               // for lack of room
	cursors map[string]cursor // with the lines in the batch
	changed chan struct{}     // closed, and replaced, when lines were written
	closed  bool
	lost    map[string]int // lines of queues that were given up, and not yet told

	files   sync.Mutex        // guards writing
	tail    *tail             // the one that grows; nil: none yet
	written map[string]cursor // with the lines in the tails
	late    []byte            // a frame that could not be written
	lateTo  map[string]cursor // its cursors
	spare   []byte            // of a frame, to write the next one in
	share   int64             // bytes on the disk
	packer  packer
	index   index
}

func newShelf(l *Logs, dir string, share int64) *shelf {
	s := &shelf{l: l, dir: dir, cursors: map[string]cursor{}, written: map[string]cursor{}, changed: make(chan struct{}), share: share}
	s.room = sync.NewCond(&s.mu)
	s.index.dir = dir
	return s
}

// recover reads how far the containers' output was read by the processes before this one.
// Only a shelf that containers print to has something to recover.
func (s *shelf) recover() {
	tails, err := listParts(s.dir, tailSuffix)
	if err != nil {
		s.l.Logger.Warn("cannot read a log", "dir", s.dir, "err", err)
		return
	}
	for _, t := range tails {
		err := t.frames(func(b []byte) error {
			found, _, err := decodeCursors(b)
			s.mu.Lock()
			maps.Copy(s.cursors, found)
			s.mu.Unlock()
			s.files.Lock()
			maps.Copy(s.written, found)
			s.files.Unlock()
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			s.l.Logger.Warn("a part of a log is damaged", "file", t.path, "err", err)
		}
	}
}

// close ends writing. What waits is written.
func (s *shelf) close() {
	_ = s.flush(true)
	s.mu.Lock()
	s.closed = true
	s.room.Broadcast()
	s.mu.Unlock()
	s.turn()
}

// add appends a line, or drops and counts it if too many wait.
func (s *shelf) add(o origin, at int64, text func([]byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return
	case s.batch.size() >= s.l.Room:
		s.dropped++
		return
	}
	s.batch.add(o, at, text)
	s.rouse()
}

// put appends lines of a container, and how far it has been read with them. It waits
// while too many lines wait, until ctx ends: then the lines stay where they are.
func (s *shelf) put(ctx context.Context, container string, add func(b *batch, c cursor) cursor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.batch.size() >= s.l.Room && !s.closed {
		defer context.AfterFunc(ctx, s.room.Broadcast)()
		for s.batch.size() >= s.l.Room && !s.closed && ctx.Err() == nil {
			s.room.Wait()
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.closed {
		return errForgotten
	}
	c := add(&s.batch, s.cursors[container])
	s.cursors[container] = c
	if s.batch.cursors == nil {
		s.batch.cursors = map[string]cursor{}
	}
	s.batch.cursors[container] = c
	s.rouse()
	return nil
}

var errForgotten = mesh.Errorf(mesh.NotFound, "the log is gone")

// cursor returns how far the output of a container was read.
func (s *shelf) cursor(container string) (cursor, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.cursors[container]
	return c, ok
}

// keepOnly forgets the cursors of containers that are gone.
func (s *shelf) keepOnly(ids map[string]bool) {
	gone := func(id string, _ cursor) bool { return !ids[id] }
	s.files.Lock()
	maps.DeleteFunc(s.written, gone)
	s.files.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.cursors, gone)
}

// rouse wakes the writer.
func (s *shelf) rouse() {
	select {
	case s.l.wake <- struct{}{}:
	default:
	}
}

// flush writes what waits, if the disk has room for it.
func (s *shelf) flush(room bool) error {
	s.files.Lock()
	defer s.files.Unlock()
	if !room {
		return nil
	}
	if s.late != nil { // before newer lines
		if err := s.write(s.late); err != nil {
			return err
		}
		maps.Copy(s.written, s.lateTo)
		s.late, s.lateTo = nil, nil
	}
	s.mu.Lock()
	if s.batch.empty() {
		s.mu.Unlock()
		return nil
	}
	b, dropped := s.batch, s.dropped
	s.batch, s.dropped = batch{}, 0
	s.room.Broadcast()
	s.mu.Unlock()
	if dropped > 0 {
		s.l.Logger.Warn("log lines dropped: they arrived faster than they could be written", "dir", s.dir, "lines", dropped)
	}
	s.spare = b.encode(s.spare[:0])
	err := s.write(s.spare)
	if err != nil {
		s.late, s.lateTo, s.spare = s.spare, b.cursors, nil
	} else {
		maps.Copy(s.written, b.cursors)
	}
	if cap(s.spare) > 8<<20 {
		s.spare = nil
	}
	s.mu.Lock()
	if cap(s.batch.lines) == 0 && cap(b.lines) <= 8<<20 {
		s.batch.lines = b.lines[:0] // its bytes have been copied
	}
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	return err
}

// write appends a frame to the tail. The caller holds files.
func (s *shelf) write(frame []byte) error {
	if s.tail == nil {
		t, err := s.newTail()
		if err != nil {
			return err
		}
		s.tail = t
	}
	if err := s.tail.append(frame); err != nil {
		return err
	}
	if s.tail.size >= s.tailSize() {
		s.endTail()
		select {
		case s.l.full <- s:
		default: // it is found when it is tidied up
		}
	}
	return nil
}

// newTail makes a tail that begins with all cursors: the tails before it may be
// compressed before the next lines of a quiet container come. The caller holds files.
func (s *shelf) newTail() (*tail, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	t, err := createTail(s.dir, s.l.owner.id)
	if err != nil {
		return nil, err
	}
	if len(s.written) == 0 {
		return t, nil
	}
	b := batch{cursors: s.written}
	if err := t.append(b.encode(nil)); err != nil {
		_ = t.file.Close()
		_ = os.Remove(t.path)
		return nil, err
	}
	return t, nil
}

func (s *shelf) tailSize() int64 { return min(s.l.Tail, max(s.share/8, 64<<10)) }

// oldTail is the age at which a tail is compressed although it is not full.
const oldTail = 24 * time.Hour

// tidy compresses what should be, and removes the oldest segments beyond a size and an
// age.
func (s *shelf) tidy(share int64, age time.Duration) error {
	s.files.Lock()
	s.share = share
	if s.tail != nil && s.l.Now().Sub(s.tail.made) > min(oldTail, age) {
		s.endTail()
	}
	s.files.Unlock()
	// On a full disk compressing fails, and the others make room.
	return errors.Join(s.trimQueues(maxQueue), s.expire(share, age), s.compress())
}

// compress makes blocks of all tails that nobody writes any more.
func (s *shelf) compress() error {
	s.l.lead.RLock()
	defer s.l.lead.RUnlock()
	if !s.l.leads {
		return nil
	}
	s.packer.mu.Lock()
	defer s.packer.mu.Unlock()
	tails, err := listParts(s.dir, tailSuffix)
	if err != nil {
		return err
	}
	for _, t := range tails {
		s.files.Lock()
		grows := s.tail != nil && s.tail.id == t.id
		share := s.share
		s.files.Unlock()
		if grows || t.owner != s.l.owner.id && s.l.owner.lives(t.owner) {
			continue
		}
		if err := s.keepCursors(); err != nil {
			return err
		}
		if err := s.packer.pack(s, t, share); err != nil {
			return fmt.Errorf("compress %s: %w", filepath.Base(t.path), err)
		}
	}
	return nil
}

// finish ends the tail, which may then be compressed by the process that leads, although
// this one lives on.
func (s *shelf) finish() {
	if err := s.flush(true); err != nil {
		return // what could not be written yet goes to this tail
	}
	s.files.Lock()
	defer s.files.Unlock()
	if s.tail != nil {
		_ = os.Rename(s.tail.path, partPath(s.dir, s.tail.id, finished, tailSuffix))
		s.endTail()
	}
}

// finished stands for the owner of a tail that nobody writes any more.
const finished = "done"

// turn begins another tail with the next lines.
func (s *shelf) turn() {
	s.files.Lock()
	defer s.files.Unlock()
	s.endTail()
}

// endTail closes the tail, if there is one. The caller holds files.
func (s *shelf) endTail() {
	if s.tail != nil {
		_ = s.tail.file.Close()
		s.tail = nil
	}
}

// keepCursors makes sure that the cursors are in a tail that stays.
func (s *shelf) keepCursors() (err error) {
	s.files.Lock()
	defer s.files.Unlock()
	if s.tail == nil && len(s.written) > 0 {
		s.tail, err = s.newTail()
	}
	return err
}

// expire removes the oldest segments.
func (s *shelf) expire(share int64, age time.Duration) error {
	s.l.lead.RLock()
	defer s.l.lead.RUnlock()
	if !s.l.leads {
		return nil
	}
	segments, err := listParts(s.dir, segmentSuffix)
	if err != nil {
		return err
	}
	total := int64(0)
	for _, g := range segments {
		total += g.size
	}
	tails, err := listParts(s.dir, tailSuffix)
	if err != nil {
		return err
	}
	for _, t := range tails {
		total += t.size
	}
	for i, g := range segments {
		old := s.l.Now().Sub(g.changed) > age
		if !old && (total <= share || i == len(segments)-1) {
			continue // the newest is small, unless the limit was lowered
		}
		if err := os.Remove(g.path); err != nil && !os.IsNotExist(err) {
			return err
		}
		total -= g.size
	}
	return nil
}

// inherit takes over how far the containers of another shelf were read, which is closed.
func (s *shelf) inherit(old *shelf) {
	old.mu.Lock()
	cursors := maps.Clone(old.cursors)
	old.mu.Unlock()
	keep := func(into map[string]cursor) {
		for id, c := range cursors {
			if _, has := into[id]; !has {
				into[id] = c
			}
		}
	}
	s.files.Lock()
	keep(s.written)
	s.files.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	keep(s.cursors)
}

// takeOver moves the files of another folder, which nobody writes any more, into this
// one. The names of files are unique.
func (s *shelf) takeOver(from string) error {
	entries, err := os.ReadDir(from)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(s.dir, e.Name())); err != nil {
			return err
		}
	}
	return os.Remove(from)
}
