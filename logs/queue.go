package logs

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mesh"
)

// A queue is the lines of a shelf in the order in which they were written, for one that
// sends them elsewhere. It has no copy of them: its position is a place in the tails. A
// tail that was compressed, and that a queue has not passed, stays under another name
// until it has, or until such tails take too much room.

const (
	queueSuffix    = ".queue"    // of a compressed tail that a queue still needs
	positionSuffix = ".position" // of a queue: NAME.position
	maxQueue       = 128 << 20   // bytes of such tails of a shelf, of which a stack has two
	takeBytes      = 512 << 10   // of lines that Take returns at once, or one batch
)

// position is how far a queue was passed on.
type position struct {
	Tail string `json:"tail"` // id; empty: before the first
	At   int64  `json:"at"`   // of the next frame in it
	Lost int    `json:"lost"` // lines that were removed before they were passed on
}

// before reports whether a tail has, or may get, something after the position.
func (p position) before(t part) bool { return p.Tail < t.id || p.Tail == t.id && p.At < t.size }

// Queue passes on the lines of a stack. Take and Done are for one goroutine at a time.
type Queue struct {
	name  string
	shelf [shelves]*shelf

	mu   sync.Mutex
	at   [shelves]position
	next [shelves]position // after what Take has returned
}

// OpenQueue opens the queue of a stack with the given name, which stands in file names. A
// new queue begins with the next line. If the stack has no log, the error is NotFound.
func (l *Logs) OpenQueue(stack mesh.StackName, name string) (*Queue, error) {
	s := l.stack(stack, false)
	if s == nil {
		return nil, errForgotten
	}
	q := &Queue{name: name, shelf: s.shelf}
	for i, sh := range s.shelf {
		p, err := sh.position(name)
		if errors.Is(err, fs.ErrNotExist) {
			if p, err = sh.end(); err == nil {
				err = sh.savePosition(name, p)
			}
		}
		if err != nil {
			return nil, err
		}
		q.at[i], q.next[i] = p, p
	}
	return q, nil
}

// CloseQueue forgets a queue of a stack, and with it what only it needs.
func (l *Logs) CloseQueue(stack mesh.StackName, name string) {
	for _, kind := range shelfNames {
		_ = os.Remove(filepath.Join(l.dir, string(stack), kind, name+positionSuffix))
	}
}

func (s *shelf) position(name string) (p position, err error) {
	data, err := os.ReadFile(filepath.Join(s.dir, name+positionSuffix))
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	return p, err
}

// savePosition is not atomic against a power cut: lines would be passed on again, or
// from the end on.
func (s *shelf) savePosition(name string, p position) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(s.dir, name+positionSuffix)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// positions returns the positions of all queues of a shelf, by name.
func (s *shelf) positions() map[string]position {
	found, _ := filepath.Glob(filepath.Join(s.dir, "*"+positionSuffix)) // the pattern is sound
	out := map[string]position{}
	for _, path := range found {
		name := strings.TrimSuffix(filepath.Base(path), positionSuffix)
		if p, err := s.position(name); err == nil {
			out[name] = p
		}
	}
	return out
}

// end is the position after all that was written.
func (s *shelf) end() (p position, err error) {
	tails, err := s.queued()
	if err == nil && len(tails) > 0 {
		t := tails[len(tails)-1]
		p = position{Tail: t.id, At: t.size}
	}
	return p, err
}

// queued lists tails, compressed or not, oldest first.
func (s *shelf) queued() ([]part, error) {
	tails, err := listParts(s.dir, tailSuffix)
	if err != nil {
		return nil, err
	}
	kept, err := listParts(s.dir, queueSuffix)
	if err != nil {
		return nil, err
	}
	all := append(kept, tails...)
	slices.SortStableFunc(all, func(a, b part) int { return strings.Compare(a.id, b.id) })
	return slices.CompactFunc(all, func(a, b part) bool { return a.id == b.id }), nil
}

// retire removes a tail that was compressed, or keeps it for queues that need it.
func (s *shelf) retire(t part) error {
	for _, p := range s.positions() {
		if p.before(t) {
			return os.Rename(t.path, partPath(s.dir, t.id, finished, queueSuffix))
		}
	}
	return os.Remove(t.path)
}

// trimQueues removes compressed tails that no queue needs, and the oldest beyond the
// limit, whose lines are counted as lost.
func (s *shelf) trimQueues(limit int64) error {
	kept, err := listParts(s.dir, queueSuffix)
	if err != nil || len(kept) == 0 {
		return err
	}
	positions := s.positions()
	total := int64(0)
	for _, t := range kept {
		total += t.size
	}
	for _, t := range kept {
		needed := false
		for _, p := range positions {
			needed = needed || p.before(t)
		}
		if needed && total <= limit {
			continue
		}
		if needed {
			s.lose(t, positions)
		}
		if err := os.Remove(t.path); err != nil && !os.IsNotExist(err) {
			return err
		}
		total -= t.size
	}
	return nil
}

// lose counts the lines of a tail for the queues that have not passed them.
func (s *shelf) lose(t part, positions map[string]position) {
	for name, p := range positions {
		if !p.before(t) {
			continue
		}
		from, n := int64(0), 0
		if p.Tail == t.id {
			from = p.At
		}
		if f, err := os.Open(t.path); err == nil {
			_, _ = readFrames(f, from, func(b []byte) error {
				return decode(b, func(line) bool { n++; return true })
			})
			_ = f.Close()
		}
		s.mu.Lock()
		if s.lost == nil {
			s.lost = map[string]int{}
		}
		s.lost[name] += n
		s.mu.Unlock()
		s.l.Logger.Warn("lines that were not sent elsewhere are given up: they take too much room", "dir", s.dir, "drain", name, "lines", n)
	}
}

// takeLost returns how many lines of a queue were lost since the last call.
func (s *shelf) takeLost(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.lost[name]
	delete(s.lost, name)
	return n
}

// growing reports whether a tail may get more frames.
func (s *shelf) growing(t part) bool {
	if !strings.HasSuffix(t.path, tailSuffix) {
		return false
	}
	if t.owner != s.l.owner.id {
		return s.l.owner.lives(t.owner)
	}
	s.files.Lock()
	defer s.files.Unlock()
	return s.tail != nil && s.tail.id == t.id
}

// Take returns the next lines, at most one batch beyond takeBytes, without waiting. Lines
// of the router come apart from the others; each of both is in order.
func (q *Queue) Take() (lines []mesh.LogLine, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, sh := range q.shelf {
		q.next[i] = q.at[i]
		q.next[i].Lost += sh.takeLost(q.name)
		tails, err := sh.queued()
		if err != nil {
			return nil, err
		}
		for k, t := range tails {
			if t.id < q.next[i].Tail {
				continue
			}
			grows := sh.growing(t) // before it is read: what comes after that is found
			if grows && t.owner == sh.l.owner.id && k < len(tails)-1 {
				sh.turn() // the other process, which has begun a later one, would wait for long
			}
			if t.id > q.next[i].Tail {
				q.next[i].Tail, q.next[i].At = t.id, 0
			}
			size, err := q.take(sh, t, &q.next[i], &lines)
			if err != nil {
				return nil, err
			}
			if size >= takeBytes || grows {
				break
			}
		}
	}
	return lines, nil
}

var errEnough = errors.New("enough lines")

// take reads frames of a tail, and returns the bytes of their batches.
func (q *Queue) take(sh *shelf, t part, p *position, lines *[]mesh.LogLine) (size int, err error) {
	f, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) { // compressed just now
		f, err = os.Open(partPath(sh.dir, t.id, finished, queueSuffix))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // given up
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	at, err := readFrames(f, p.At, func(b []byte) error {
		if err := decode(b, func(l line) bool {
			out := l.log()
			out.Level = levelOf(l)
			*lines = append(*lines, out)
			return true
		}); err != nil {
			return nil //nolint:nilerr // the damaged rest of a batch is left out
		}
		if size += len(b); size >= takeBytes {
			return errEnough
		}
		return nil
	})
	p.At = at
	if errors.Is(err, errEnough) {
		return size, nil
	}
	if errors.Is(err, errTorn) {
		p.At = t.size // what follows in this tail cannot be read
	}
	return size, sh.excuse(t.path, err)
}

// Done says that what Take has returned was passed on.
func (q *Queue) Done() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, sh := range q.shelf {
		if q.next[i] == q.at[i] {
			continue
		}
		q.at[i] = q.next[i]
		if err := sh.savePosition(q.name, q.at[i]); err != nil {
			return err
		}
	}
	return nil
}

// Waiting returns the bytes that wait to be passed on, without their compression, and how
// many lines were given up so far.
func (q *Queue) Waiting() (bytes int64, lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, sh := range q.shelf {
		lost += q.at[i].Lost
		tails, err := sh.queued()
		if err != nil {
			continue
		}
		for _, t := range tails {
			if q.at[i].before(t) {
				bytes += t.size
				if t.id == q.at[i].Tail {
					bytes -= q.at[i].At
				}
			}
		}
	}
	return bytes, lost
}

// Wait returns when lines may have come, after at most a second, or when ctx ends.
func (q *Queue) Wait(ctx context.Context) {
	var changed [shelves]<-chan struct{}
	for i, sh := range q.shelf {
		sh.mu.Lock()
		changed[i] = sh.changed
		sh.mu.Unlock()
	}
	if n, _ := q.Waiting(); n > 0 {
		return
	}
	select {
	case <-changed[appShelf]:
	case <-changed[routerShelf]:
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
}
