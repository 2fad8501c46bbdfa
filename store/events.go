package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mesh"
)

// maxEvents is how large the file of a stack's events may become before it is put
// aside; the one before it is forgotten then. It holds some 2,000 lines.
const maxEvents = 256 << 10

// events is what happens to stacks, as it is told to those who follow their logs.
// The lines lie in a file a stack, one each: time, name, text. They are written
// without a sync: what a crash of the machine takes away is no state.
type events struct {
	mu       sync.Mutex // of the files, and of watchers
	watchers map[mesh.StackName][]*watcher
}

type watcher struct{ fn func(mesh.LogLine) }

func (s *Store) eventsPath(stack mesh.StackName) string {
	return filepath.Join(s.outputDir(stack), "events.log")
}

// AddEvent records a line of mesh's own about a stack, and gives it to those who
// watch. A stack that has never had output has none of them recorded.
func (s *Store) AddEvent(stack mesh.StackName, l mesh.LogLine) error {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	for _, w := range s.events.watchers[stack] {
		w.fn(l)
	}
	path := s.eventsPath(stack)
	if info, err := os.Stat(path); err == nil && info.Size() > maxEvents {
		if err := os.Rename(path, path+".1"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil // no folder: destroyed meanwhile, or nothing deployed yet
	}
	if err != nil {
		return noRoom(err)
	}
	text := strings.NewReplacer("\n", " ", "\r", " ").Replace(l.Text)
	_, err = fmt.Fprintf(f, "%s %s %s\n", l.At.UTC().Format(time.RFC3339Nano), l.Name, text)
	return noRoom(errors.Join(err, f.Close()))
}

// Events returns what is recorded of a stack, the oldest first.
func (s *Store) Events(stack mesh.StackName) (out []mesh.LogLine, err error) {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	for _, path := range []string{s.eventsPath(stack) + ".1", s.eventsPath(stack)} {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			when, rest, _ := strings.Cut(lines.Text(), " ")
			name, text, ok := strings.Cut(rest, " ")
			at, err := time.Parse(time.RFC3339Nano, when)
			if !ok || err != nil {
				continue // cut off by a crash of the machine
			}
			out = append(out, mesh.LogLine{At: at, Source: "mesh", Name: name, Text: text})
		}
	}
	return out, nil
}

// WatchEvents calls fn with each line that is recorded of a stack from now on,
// until stop is called. fn must not block, and not call the store.
func (s *Store) WatchEvents(stack mesh.StackName, fn func(mesh.LogLine)) (stop func()) {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	if s.events.watchers == nil {
		s.events.watchers = map[mesh.StackName][]*watcher{}
	}
	w := &watcher{fn}
	s.events.watchers[stack] = append(s.events.watchers[stack], w)
	return func() {
		s.events.mu.Lock()
		defer s.events.mu.Unlock()
		left := slices.DeleteFunc(s.events.watchers[stack], func(o *watcher) bool { return o == w })
		if s.events.watchers[stack] = left; len(left) == 0 {
			delete(s.events.watchers, stack)
		}
	}
}
