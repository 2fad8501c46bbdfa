package logs

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"mesh"
)

// Logs calls fn with the lines of a stack that q asks for, by their times, and returns
// fn's error. With q.Follow it continues with new lines, in the order in which they come,
// until ctx ends, and then returns nil. What is damaged is left out.
func (l *Logs) Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	m := newMatch(q)
	s := l.stack(q.Stack, false)
	if s == nil {
		s = l.open(q.Stack) // its files may exist: a stack without routes, or one of another process
	}
	var shelves []*shelf
	for i, sh := range s.shelf {
		if slices.ContainsFunc(m.sources, func(source string) bool { return shelfOf(source) == i }) {
			shelves = append(shelves, sh)
		}
	}
	var files openFiles
	defer files.close()
	var chunks []*chunk
	var follow []*follower
	for _, sh := range shelves {
		got, f, err := sh.snapshot(m, &files)
		if err != nil {
			return err
		}
		chunks, follow = append(chunks, got...), append(follow, f)
	}
	defer func() {
		for _, f := range follow {
			f.close()
		}
	}()
	var err error
	switch {
	case q.Lines < 0:
		err = forward(ctx, m, chunks, fn)
	case q.Lines > 0:
		err = lastLines(ctx, m, chunks, q.Lines, fn)
	}
	if err != nil || !q.Follow {
		return err
	}
	files.close()
	if q.Caught != nil {
		q.Caught()
	}
	return followAll(ctx, m, follow, fn)
}

func (l line) log() mesh.LogLine {
	return mesh.LogLine{At: time.Unix(0, l.at).UTC(), Source: l.origin.source, Name: l.origin.name, Release: l.origin.release, Text: string(l.text)}
}

// openFiles keeps segments open during a query: they may be removed meanwhile.
type openFiles struct {
	mu   sync.Mutex
	open map[string]*os.File
}

func (o *openFiles) get(path string) (*os.File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.open[path]; f != nil {
		return f, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if o.open == nil {
		o.open = map[string]*os.File{}
	}
	o.open[path] = f
	return f, nil
}

func (o *openFiles) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for path, f := range o.open {
		_ = f.Close()
		delete(o.open, path)
	}
}

// chunk is a part of a log that is read as a whole: a block, or a tail.
type chunk struct {
	first, last int64
	batches     func(buf []byte, fn func([]byte)) error
}

// snapshot returns what a shelf has now, and a follower that continues after it. Tails are
// listed before segments: a tail that becomes blocks meanwhile is then seen twice, and
// left out once.
func (s *shelf) snapshot(m *match, files *openFiles) ([]*chunk, *follower, error) {
	f := &follower{s: s, tails: map[string]*reading{}, done: map[uint64]bool{}}
	s.mu.Lock()
	f.changed = s.changed
	s.mu.Unlock()
	tails, err := listParts(s.dir, tailSuffix)
	if err != nil {
		return nil, nil, err
	}
	for _, t := range tails {
		if err := f.open(t); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.close()
			return nil, nil, err
		}
	}
	blocks, damaged, err := s.index.blocks()
	if err != nil {
		f.close()
		return nil, nil, err
	}
	for _, name := range damaged {
		s.l.Logger.Warn("a part of a log is damaged, and left out", "file", name)
	}
	whole := map[uint64]bool{}
	for _, b := range blocks {
		whole[b.tail] = whole[b.tail] || b.ends
	}
	var out []*chunk
	for _, b := range blocks {
		if f.has(b.tail) && !whole[b.tail] || !m.wants(b.first, b.last) {
			continue // the tail has them all
		}
		out = append(out, &chunk{first: b.first, last: b.last, batches: func(buf []byte, fn func([]byte)) error {
			file, err := files.get(b.file)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // too old since
			}
			if err != nil {
				return err
			}
			raw, err := b.load(file, buf)
			if err != nil {
				return err
			}
			fn(raw)
			return nil
		}})
	}
	for id, r := range f.tails {
		if whole[r.number] {
			r.close()
			delete(f.tails, id)
			f.done[r.number] = true
			continue
		}
		c, err := r.chunk(s)
		if err != nil {
			f.close()
			return nil, nil, err
		}
		if c != nil && m.wants(c.first, c.last) {
			out = append(out, c)
		}
	}
	for n := range whole {
		f.done[n] = true
	}
	return out, f, nil
}

// chunk reads a tail into memory, up to where it is now.
func (r *reading) chunk(s *shelf) (*chunk, error) {
	var batches [][]byte
	c := &chunk{first: maxTime, last: minTime}
	var err error
	r.at, err = readFrames(r.file, r.at, func(b []byte) error {
		b = bytes.Clone(b)
		batches = append(batches, b)
		return decode(b, func(l line) bool {
			c.first, c.last = min(c.first, l.at), max(c.last, l.at)
			return true
		})
	})
	if err = s.excuse(r.file.Name(), err); err != nil || c.first == maxTime {
		return nil, err
	}
	c.batches = func(_ []byte, fn func([]byte)) error {
		for _, b := range batches {
			fn(b)
		}
		return nil
	}
	return c, nil
}

// excuse reports damage, and returns other errors.
func (s *shelf) excuse(file string, err error) error {
	if errors.Is(err, errTorn) || errors.Is(err, errBatch) || errors.Is(err, errBlock) {
		s.l.Logger.Warn("a part of a log is damaged, and left out", "file", file, "err", err)
		return nil
	}
	return err
}

// search returns the matching lines of a chunk, in the order of their times. Their texts
// are copies.
func (c *chunk) search(m *match, buf []byte) (out []mesh.LogLine, err error) {
	err = c.batches(buf, func(b []byte) {
		if !m.any(b) {
			return
		}
		var known *origin
		wanted := false
		_ = decode(b, func(l line) bool { // damage is left out
			if l.origin != known {
				known, wanted = l.origin, m.origin(l.origin)
			}
			if wanted && m.line(l) {
				out = append(out, l.log())
			}
			return true
		})
	})
	if errors.Is(err, errBlock) {
		err = nil
	}
	slices.SortStableFunc(out, func(a, b mesh.LogLine) int { return a.At.Compare(b.At) })
	return out, err
}

// result is a chunk whose lines are being searched.
type result struct {
	*chunk
	lines []mesh.LogLine
	err   error
	done  chan struct{}
}

// searchAll searches chunks in their order on all processors, a few ahead of the reader,
// until ctx ends.
func searchAll(ctx context.Context, m *match, chunks []*chunk) <-chan *result {
	workers := runtime.GOMAXPROCS(0)
	out, jobs := make(chan *result, 2*workers), make(chan *result)
	for range workers {
		own := *m
		go func() {
			buf := make([]byte, 0, 2<<20)
			for r := range jobs {
				r.lines, r.err = r.search(&own, buf)
				close(r.done)
			}
		}()
	}
	go func() {
		defer close(out)
		defer close(jobs)
		for _, c := range chunks {
			r := &result{chunk: c, done: make(chan struct{})}
			select {
			case out <- r:
			case <-ctx.Done():
				return
			}
			select {
			case jobs <- r:
			case <-ctx.Done():
				close(r.done)
				return
			}
		}
	}()
	return out
}

// forward passes on all matching lines. Chunks overlap: it merges those that do.
func forward(ctx context.Context, m *match, chunks []*chunk, fn func(mesh.LogLine) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slices.SortStableFunc(chunks, func(a, b *chunk) int { return cmp.Compare(a.first, b.first) })
	var open runs
	emit := func(before int64) error {
		for len(open) > 0 && open[0][0].At.UnixNano() < before {
			if err := fn(open[0][0]); err != nil {
				return err
			}
			if open[0] = open[0][1:]; len(open[0]) == 0 {
				heap.Pop(&open)
			} else {
				heap.Fix(&open, 0)
			}
		}
		return nil
	}
	for r := range searchAll(ctx, m, chunks) {
		if err := emit(r.first); err != nil {
			return err
		}
		<-r.done
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.err != nil {
			return r.err
		}
		if len(r.lines) > 0 {
			heap.Push(&open, r.lines)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return emit(maxTime)
}

// runs are sorted lists of lines, the one with the earliest line first.
type runs [][]mesh.LogLine

func (r runs) Len() int           { return len(r) }
func (r runs) Less(i, j int) bool { return r[i][0].At.Before(r[j][0].At) }
func (r runs) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *runs) Push(x any)        { *r = append(*r, x.([]mesh.LogLine)) }
func (r *runs) Pop() any {
	last := (*r)[len(*r)-1]
	*r = (*r)[:len(*r)-1]
	return last
}

// lastLines passes on the last n matching lines. It reads backwards, and only as far as
// it must.
func lastLines(ctx context.Context, m *match, chunks []*chunk, n int, fn func(mesh.LogLine) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slices.SortStableFunc(chunks, func(a, b *chunk) int { return cmp.Compare(b.last, a.last) })
	var found []mesh.LogLine
	for r := range searchAll(ctx, m, chunks) {
		if len(found) >= n && found[len(found)-n].At.UnixNano() > r.last {
			break
		}
		<-r.done
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.err != nil {
			return r.err
		}
		lines := r.lines[max(0, len(r.lines)-n):]
		if len(lines) == 0 {
			continue
		}
		found = append(slices.Clone(lines), found...) // what is at the same time stays in the order in which it was written
		slices.SortStableFunc(found, func(a, b mesh.LogLine) int { return a.At.Compare(b.At) })
		found = found[max(0, len(found)-n):]
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, l := range found {
		if err := fn(l); err != nil {
			return err
		}
	}
	return nil
}

// tailNumber is the number by which blocks name a tail.
func tailNumber(id string) uint64 {
	n, _ := strconv.ParseUint(id, 16, 64)
	return n
}
