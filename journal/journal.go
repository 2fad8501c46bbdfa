// Package journal keeps log lines of stacks in size-limited files: the router's line
// for each request, and mesh's own events of a stack. Many goroutines can add lines,
// each at the cost of a copy; one writes them.
//
//	j, err := journal.Open("/var/lib/mesh/router", journal.Options{})
//	go j.Run(ctx)                     // writes, until ctx ends and all is written
//	j.Keep("blog")                    // lines of unknown stacks are dropped
//	j.Add("blog", func(b []byte) []byte { return append(b, "line"...) })
//	j.Logs(ctx, mesh.LogQuery{Stack: "blog", Lines: 100}, fn)
//
// The caller decides what a line says, except its beginning: the time, in RFC 3339
// with microseconds, and the name of its subject, each followed by a blank. Lines
// that cannot be written, because the disk is full or slower than the requests, are
// dropped and counted: no request waits for its log line.
package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mesh"
)

// Options are the settings of a Journal. mesh runs with the zero value.
type Options struct {
	Source string        // of the lines, as in a LogLine; empty: "router"
	Logger *slog.Logger  // nil: nothing is logged
	Size   int64         // of a stack's newest file; the one before is kept beside it; 0: 8 MB
	Every  time.Duration // between two writes; 0: 200 ms
	Room   int           // bytes of all lines that wait to be written; 0: 8 MB
}

// Journal is an open folder of logs. It may be used from several goroutines.
type Journal struct {
	Options
	dir  string
	wake chan struct{} // half of the room is used

	mu      sync.Mutex
	stacks  map[mesh.StackName]*[]byte // lines to write
	pending int
	dropped int

	files sync.Mutex // guards writing and removing files
}

// Open creates the folder if it is missing.
func Open(dir string, o Options) (*Journal, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Source == "" {
		o.Source = "router"
	}
	if o.Size == 0 {
		o.Size = 8 << 20
	}
	if o.Every == 0 {
		o.Every = 200 * time.Millisecond
	}
	if o.Room == 0 {
		o.Room = 8 << 20
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the %s log: %w", o.Source, err)
	}
	return &Journal{Options: o, dir: dir, wake: make(chan struct{}, 1), stacks: map[mesh.StackName]*[]byte{}}, nil
}

// Keep accepts lines of a stack from now on.
func (j *Journal) Keep(stack mesh.StackName) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.stacks[stack] == nil {
		j.stacks[stack] = new([]byte)
	}
}

// Forget removes a stack's log.
func (j *Journal) Forget(stack mesh.StackName) {
	j.mu.Lock()
	if b := j.stacks[stack]; b != nil {
		j.pending -= len(*b)
		delete(j.stacks, stack)
	}
	j.mu.Unlock()
	j.files.Lock()
	defer j.files.Unlock()
	for _, path := range []string{j.path(stack), j.older(stack)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			j.Logger.Warn("cannot remove a log", "source", j.Source, "stack", stack, "err", err)
		}
	}
}

// Rename moves a stack's log to another name, under which lines may already have
// been added. Without a log it does nothing, so it may be called again.
func (j *Journal) Rename(from, to mesh.StackName) {
	j.flush()
	j.Keep(to)
	j.files.Lock()
	defer j.files.Unlock()
	move := func(from, to string) {
		if err := os.Rename(from, to); err != nil && !errors.Is(err, os.ErrNotExist) {
			j.Logger.Warn("cannot rename a log", "source", j.Source, "err", err)
		}
	}
	if _, err := os.Stat(j.path(from)); err != nil {
		return
	}
	if _, err := os.Stat(j.path(to)); err == nil {
		move(j.path(from), j.older(to)) // the newest of the old lines are those that fit
		return
	}
	move(j.older(from), j.older(to))
	move(j.path(from), j.path(to))
}

// Add appends one line, which line writes after b, without its line end. line runs
// under a lock and must not wait.
func (j *Journal) Add(stack mesh.StackName, line func(b []byte) []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b := j.stacks[stack]
	if b == nil {
		return
	}
	if j.pending >= j.Room {
		j.dropped++
		return
	}
	had := len(*b)
	*b = append(line(*b), '\n')
	j.pending += len(*b) - had
	if j.pending >= j.Room/2 {
		select {
		case j.wake <- struct{}{}:
		default:
		}
	}
}

// Run writes added lines until ctx ends, and then the rest.
func (j *Journal) Run(ctx context.Context) error {
	tick := time.NewTicker(j.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			j.flush()
			return ctx.Err()
		case <-tick.C:
		case <-j.wake:
		}
		j.flush()
	}
}

// flush writes the waiting lines, each stack's with one write: during an upgrade,
// two processes may share the file.
func (j *Journal) flush() {
	j.mu.Lock()
	if j.pending == 0 && j.dropped == 0 {
		j.mu.Unlock()
		return
	}
	full := map[mesh.StackName][]byte{}
	for stack, b := range j.stacks {
		if len(*b) > 0 {
			full[stack] = *b
			*b = nil
		}
	}
	dropped := j.dropped
	j.pending, j.dropped = 0, 0
	j.mu.Unlock()
	if dropped > 0 {
		j.Logger.Warn("log lines dropped: they arrived faster than they could be written", "source", j.Source, "lines", dropped)
	}
	for stack, b := range full {
		if err := j.write(stack, b); err != nil {
			j.Logger.Warn("cannot write a log", "source", j.Source, "stack", stack, "err", err)
		}
	}
}

func (j *Journal) write(stack mesh.StackName, b []byte) error {
	j.files.Lock()
	defer j.files.Unlock()
	if !j.kept(stack) {
		return nil // removed since
	}
	f, err := os.OpenFile(j.path(stack), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if info, err := f.Stat(); err == nil && info.Size() >= j.Size {
		return os.Rename(j.path(stack), j.older(stack))
	}
	return nil
}

func (j *Journal) kept(stack mesh.StackName) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stacks[stack] != nil
}

func (j *Journal) path(stack mesh.StackName) string {
	return filepath.Join(j.dir, string(stack)+".log")
}
func (j *Journal) older(stack mesh.StackName) string { return j.path(stack) + ".1" }
