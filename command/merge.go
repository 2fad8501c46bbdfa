package command

import (
	"context"
	"sync"

	"mesh"
)

// source is one source of log lines in a merge.
type source struct {
	kept chan mesh.LogLine // the existing lines, in order; closed after the last
	err  error             // why it has ended; valid after done
	done chan struct{}
}

// mergeLogs calls emit with the lines of several sources in the order of their times,
// one at a time, and returns emit's error. Of the existing lines it emits only the last
// q.Lines of all sources together. With q.Follow it then emits new lines as they come,
// until ctx ends.
func mergeLogs(ctx context.Context, logs Logs, q mesh.LogQuery, from []string, emit func(mesh.LogLine) error) error {
	ctx, cancel := context.WithCancel(ctx)
	live := make(chan mesh.LogLine)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	var sources []*source
	for _, name := range from {
		s := &source{kept: make(chan mesh.LogLine), done: make(chan struct{})}
		sources = append(sources, s)
		reading.Go(func() { s.read(ctx, logs, q, name, live) })
	}
	if err := keptLogs(ctx, sources, q.Lines, emit); err != nil {
		return err
	}
	ended := make(chan error, len(sources))
	for _, s := range sources {
		reading.Go(func() {
			select {
			case <-s.done:
				ended <- s.err
			case <-ctx.Done():
			}
		})
	}
	for range sources {
		for open := true; open; {
			select {
			case l := <-live:
				if err := emit(l); err != nil {
					return err
				}
			case err := <-ended:
				if err != nil {
					return err
				}
				open = false
			case <-ctx.Done():
				return nil
			}
		}
	}
	return nil
}

// read reads the lines of a source: existing ones go to kept, new ones to live.
func (s *source) read(ctx context.Context, logs Logs, q mesh.LogQuery, name string, live chan<- mesh.LogLine) {
	defer close(s.done)
	q.Source = name
	to, caught := chan<- mesh.LogLine(s.kept), false
	end := func() {
		if !caught {
			caught, to = true, live
			close(s.kept)
		}
	}
	q.Caught = end // called by the goroutine that sends the lines, or between two of them
	s.err = logs.Logs(ctx, q, func(l mesh.LogLine) error {
		select {
		case to <- l:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	if ctx.Err() != nil {
		s.err = nil
	}
	end()
}

// keptLogs prints the existing lines, the earliest line of all sources first.
func keptLogs(ctx context.Context, sources []*source, lines int, emit func(mesh.LogLine) error) error {
	next := make([]*mesh.LogLine, len(sources))
	advance := func(i int) error {
		next[i] = nil
		select {
		case l, ok := <-sources[i].kept:
			if ok {
				next[i] = &l
				return nil
			}
			select {
			case <-sources[i].done:
				return sources[i].err
			default:
				return nil // more lines will come
			}
		case <-ctx.Done():
			return nil
		}
	}
	for i := range sources {
		if err := advance(i); err != nil {
			return err
		}
	}
	var last []mesh.LogLine // a ring of the last lines
	n := 0
	for ctx.Err() == nil {
		first := -1
		for i, l := range next {
			if l != nil && (first < 0 || l.At.Before(next[first].At)) {
				first = i
			}
		}
		if first < 0 {
			break
		}
		switch l := *next[first]; {
		case lines < 0:
			if err := emit(l); err != nil {
				return err
			}
		case len(last) < lines:
			last = append(last, l)
		case lines > 0:
			last[n%lines] = l
		}
		n++
		if err := advance(first); err != nil {
			return err
		}
	}
	for i := range last {
		if len(last) == lines {
			i = (n + i) % lines
		}
		if err := emit(last[i]); err != nil {
			return err
		}
	}
	return nil
}
