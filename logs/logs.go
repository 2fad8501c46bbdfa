// Package logs keeps what stacks print: the output of instances and of commands, the
// router's line for each request, and mesh's own events. Lines are compressed, kept up to
// a size and an age for each stack, and read back by time, whatever has become of the
// containers that printed them.
//
//	l, err := logs.Open("/var/lib/mesh/lines", logs.Options{Logger: log})
//	go l.Run(ctx)                                  // writes, until ctx ends and all is written
//	l.Keep("blog")                                 // lines of unknown stacks are dropped
//	l.Add("blog", mesh.LogLine{…})                 // an event
//	c := logs.NewCollector(l, known)               // of what containers print
//	c.Use(engine); go c.Run(ctx)
//	l.Logs(ctx, mesh.LogQuery{Stack: "blog", Lines: 100}, fn)
//
// A stack has two shelves, because the router's lines would crowd out all others: app,
// which also has mesh's events, and router. The newest lines of a shelf are in a tail,
// a file that is only appended to; a full tail becomes compressed blocks at the end of a
// segment. A tail belongs to one process, so that two can write during an upgrade.
//
// Package logs does not check who may read, and does not know about deployments.
package logs

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mesh"
)

// Limits of one stack's log. A zero field means its default: mesh.DefaultLogSize and so on.
type Limits struct {
	Size int64         // bytes on the disk; a quarter of it for the router's lines
	Age  time.Duration // after which lines are removed
	Rate int           // lines a second of one container, above which lines are dropped
}

// share is the part of a shelf.
func (l Limits) share(shelf int) int64 {
	if shelf == routerShelf {
		return l.Size / 4
	}
	return l.Size - l.Size/4
}

// Options are the settings of Logs. mesh runs with the zero value, besides Logger and
// Free.
type Options struct {
	Logger *slog.Logger
	Limits func(mesh.StackName) Limits // asked once a minute for each stack; nil: the defaults
	Free   func() (uint64, error)      // bytes that the disk has left; nil: enough
	Now    func() time.Time            // nil: time.Now
	Tail   int64                       // bytes after which a tail is compressed; 0: 4 MB
	Block  int                         // bytes of lines in a compressed block; 0: 1 MB
	Room   int                         // bytes of lines of a shelf that wait to be written; 0: 4 MB
}

// roomy is how much room on the disk the logs leave to everything else: below it, the
// oldest segments of all stacks are removed, whatever their limits.
const roomy = 1 << 30

// minFree is how much room on the disk is left alone: below it, lines of containers wait
// in the engine, and others are dropped. A push is refused at the same mark.
const minFree = 256 << 20

// Logs is an open folder of logs. It may be used from several goroutines.
type Logs struct {
	Options
	dir   string
	owner *owner

	mu     sync.Mutex
	stacks map[mesh.StackName]*stack
	moved  map[mesh.StackName]mesh.StackName // new names of renamed stacks, for late lines under the old ones

	renames sync.RWMutex // held while the lines of a stack get another name

	lead  sync.RWMutex
	leads bool // guarded by lead

	wake    chan struct{} // a shelf has lines to write
	full    chan *shelf   // their tails are to be compressed
	tidyNow chan struct{}
	tight   bool // the disk is full; guarded by mu
}

// stack are the shelves of one stack.
type stack struct {
	name   mesh.StackName
	limits Limits
	shelf  [shelves]*shelf
}

// The shelves of a stack.
const (
	appShelf = iota
	routerShelf
	shelves
)

var shelfNames = [shelves]string{"app", "router"}

// The sources of lines.
const (
	SourceApp    = "app"    // an instance or a command printed it
	SourceRouter = "router" // a request
	SourceMesh   = "mesh"   // an event
)

// shelfOf returns the shelf that has the lines of a source.
func shelfOf(source string) int {
	if source == SourceRouter {
		return routerShelf
	}
	return appShelf
}

// Open creates the folder if it is missing. A folder that cannot be written is not an
// error: lines are then dropped. Several processes may have the folder open, and add
// lines; one of them leads.
func Open(dir string, o Options) (*Logs, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Tail = cmp.Or(o.Tail, 4<<20)
	o.Block = cmp.Or(o.Block, 1<<20)
	o.Room = cmp.Or(o.Room, 4<<20)
	l := &Logs{Options: o, dir: dir, stacks: map[mesh.StackName]*stack{}, moved: map[mesh.StackName]mesh.StackName{}, wake: make(chan struct{}, 1), full: make(chan *shelf, 64), tidyNow: make(chan struct{}, 1)}
	if err := os.MkdirAll(dir, 0o700); err != nil && !mesh.NoRoom(err) {
		return nil, fmt.Errorf("open the logs: %w", err)
	}
	var err error
	if l.owner, err = newOwner(dir); err != nil && !mesh.NoRoom(err) {
		return nil, fmt.Errorf("open the logs: %w", err)
	}
	return l, nil
}

// Close gives up this process's tails, so that another may compress them. Call it after
// Run has returned.
func (l *Logs) Close() error { return l.owner.close() }

// Lead makes this process the one that collects, compresses and removes, or no longer. It
// waits for what is in progress. Only one process may lead: see Open.
func (l *Logs) Lead(on bool) {
	l.lead.Lock()
	l.leads = on
	l.lead.Unlock()
	if !on {
		for _, s := range l.all() { // the next process need not wait for what this one collected
			s.shelf[appShelf].finish()
		}
	}
	if on {
		for _, s := range l.all() {
			s.shelf[appShelf].recover() // another process may have led meanwhile
		}
		select {
		case l.tidyNow <- struct{}{}:
		default:
		}
	}
}

// Keep accepts lines of a stack from now on.
func (l *Logs) Keep(name mesh.StackName) { l.stack(name, true) }

// stack returns a stack's shelves, or nil if it is unknown and may not be created.
func (l *Logs) stack(name mesh.StackName, create bool) *stack {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stacks[name]
	if s == nil && create {
		delete(l.moved, name) // another stack has the name now
		s = l.open(name)
		s.shelf[appShelf].recover()
		l.stacks[name] = s
	}
	return s
}

// receiving returns the shelves that get the lines of a stack: those of its new name if it
// was renamed and nobody else has the old one.
func (l *Logs) receiving(name mesh.StackName) *stack {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stacks[name]
	for to, again := l.moved[name], 0; s == nil && to != "" && again < maxRenames; to, again = l.moved[to], again+1 {
		s = l.stacks[to]
	}
	return s
}

// maxRenames limits how many names a stack had are followed.
const maxRenames = 100

// renamed reports whether the lines of a stack are kept under another name now. It waits
// while they get it.
func (l *Logs) renamed(name mesh.StackName) bool {
	l.renames.RLock()
	defer l.renames.RUnlock()
	s := l.receiving(name)
	return s != nil && s.name != name
}

func (l *Logs) open(name mesh.StackName) *stack {
	s := &stack{name: name, limits: l.limits(name)}
	for i, kind := range shelfNames {
		s.shelf[i] = newShelf(l, filepath.Join(l.dir, string(name), kind), s.limits.share(i))
	}
	return s
}

func (l *Logs) limits(name mesh.StackName) (out Limits) {
	if l.Options.Limits != nil {
		out = l.Options.Limits(name)
	}
	out.Size, out.Age, out.Rate = cmp.Or(out.Size, mesh.DefaultLogSize), cmp.Or(out.Age, mesh.DefaultLogAge), cmp.Or(out.Rate, mesh.DefaultLogRate)
	return out
}

// Forget removes a stack's log.
func (l *Logs) Forget(name mesh.StackName) {
	l.mu.Lock()
	s := l.stacks[name]
	delete(l.stacks, name)
	l.mu.Unlock()
	if s != nil {
		for _, sh := range s.shelf {
			sh.close()
		}
	}
	if err := os.RemoveAll(filepath.Join(l.dir, string(name))); err != nil {
		l.Logger.Warn("cannot remove a log", "stack", name, "err", err)
	}
}

// Rename moves a stack's log to another name, under which lines may already have been
// added. Without a log it does nothing, so it may be called again.
func (l *Logs) Rename(from, to mesh.StackName) {
	l.renames.Lock()
	defer l.renames.Unlock()
	l.flush()
	l.Keep(to)
	l.mu.Lock()
	old, now := l.stacks[from], l.stacks[to]
	if old != nil { // late lines of its old instances are also those of the new name
		delete(l.stacks, from)
		l.moved[from] = to
	}
	l.mu.Unlock()
	for i, kind := range shelfNames {
		if old != nil {
			old.shelf[i].close()
			now.shelf[i].inherit(old.shelf[i])
		}
		if err := now.shelf[i].takeOver(filepath.Join(l.dir, string(from), kind)); err != nil {
			l.Logger.Warn("cannot rename a log", "stack", to, "err", err)
		}
	}
	_ = os.Remove(filepath.Join(l.dir, string(from))) // unless something is left in it
}

// all lists the stacks, in no order.
func (l *Logs) all() []*stack {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*stack, 0, len(l.stacks))
	for _, s := range l.stacks {
		out = append(out, s)
	}
	return out
}

// Add keeps one line. It does not wait: if lines arrive faster than they can be written,
// the line is dropped and counted.
func (l *Logs) Add(name mesh.StackName, line mesh.LogLine) {
	if s := l.receiving(name); s != nil {
		s.shelf[shelfOf(line.Source)].add(origin{source: line.Source, name: line.Name, release: line.Release}, line.At.UnixNano(), func(b []byte) []byte { return append(b, line.Text...) })
	}
}

// AddRequest keeps a line of the router about a request that an instance, or mesh
// itself, has answered. text appends the line; it runs under a lock and must not wait.
func (l *Logs) AddRequest(name mesh.StackName, at time.Time, by string, text func(b []byte) []byte) {
	if s := l.receiving(name); s != nil {
		s.shelf[routerShelf].add(origin{source: SourceRouter, name: by}, at.UnixNano(), text)
	}
}

const (
	writeEvery = 20 * time.Millisecond // between two writes
	tidyEvery  = time.Minute
)

// Run writes added lines until ctx ends, and then the rest.
func (l *Logs) Run(ctx context.Context) error {
	var tidying sync.WaitGroup
	defer tidying.Wait()
	tidying.Go(func() { l.keepTidy(ctx) })
	for {
		select {
		case <-ctx.Done():
			l.flush()
			return ctx.Err()
		case <-l.wake:
		case <-time.After(time.Second): // what could not be written is tried again
		}
		l.flush()
		select {
		case <-ctx.Done():
		case <-time.After(writeEvery):
		}
	}
}

// flush writes what waits.
func (l *Logs) flush() {
	room := l.room()
	for _, s := range l.all() {
		for _, sh := range s.shelf {
			if err := sh.flush(room); err != nil {
				l.Logger.Warn("cannot write a log", "stack", s.name, "err", err)
			}
		}
	}
}

// room reports whether the disk has room for lines.
func (l *Logs) room() bool {
	if l.Free == nil {
		return true
	}
	free, err := l.Free()
	full := err == nil && free < minFree
	l.mu.Lock()
	was := l.tight
	l.tight = full
	l.mu.Unlock()
	if full && !was {
		l.Logger.Error("no log is written: the disk has less than 256 MB left")
	}
	return !full
}

// keepTidy compresses full and old tails, and removes what is beyond the limits, until
// ctx ends.
func (l *Logs) keepTidy(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-l.full:
			if err := s.compress(); err != nil {
				l.Logger.Warn("cannot compress a log", "dir", s.dir, "err", err)
			}
		case <-l.tidyNow:
			l.tidy()
		case <-tick.C:
			l.tidy()
		}
	}
}

// tidy compresses tails and removes what is beyond the limits, in all stacks.
func (l *Logs) tidy() {
	l.lead.RLock()
	leads := l.leads
	l.lead.RUnlock()
	if !leads {
		return
	}
	for _, s := range l.all() {
		limits := l.limits(s.name)
		l.mu.Lock()
		s.limits = limits
		l.mu.Unlock()
		for i, sh := range s.shelf {
			if err := sh.tidy(limits.share(i), limits.Age); err != nil {
				l.Logger.Warn("cannot tidy up a log", "stack", s.name, "err", err)
			}
		}
	}
	if err := l.makeRoom(); err != nil {
		l.Logger.Warn("no room made for other things than logs", "err", err)
	}
}

// makeRoom removes the oldest segments of all stacks while the disk has too little room.
// The newest of each shelf stays.
func (l *Logs) makeRoom() error {
	if l.Free == nil {
		return nil
	}
	free, err := l.Free()
	if err != nil || free >= roomy {
		return err
	}
	// What waits to be sent elsewhere is in the segments as well.
	for _, limit := range []int64{maxQueue / 4, 0} {
		for _, s := range l.all() {
			for _, sh := range s.shelf {
				if err := sh.trimQueues(limit); err != nil {
					return err
				}
			}
		}
		if free, err = l.Free(); err != nil || free >= roomy {
			return err
		}
	}
	var old []part
	for _, s := range l.all() {
		for _, sh := range s.shelf {
			found, err := listParts(sh.dir, segmentSuffix)
			if err != nil {
				return err
			}
			old = append(old, found[:max(0, len(found)-1)]...)
		}
	}
	slices.SortFunc(old, func(a, b part) int { return a.changed.Compare(b.changed) })
	removed := uint64(0)
	for _, g := range old {
		if free+removed >= roomy {
			break
		}
		if err := os.Remove(g.path); err != nil && !os.IsNotExist(err) {
			return err
		}
		removed += uint64(g.size) //nolint:gosec // not negative
	}
	if removed > 0 {
		l.Logger.Warn("the oldest log lines were removed: the disk has less than 1 GB left", "bytes", removed)
	}
	return nil
}

// rate returns how many lines a second a container of a stack may print.
func (l *Logs) rate(name mesh.StackName) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.stacks[name]; s != nil {
		return s.limits.Rate
	}
	return mesh.DefaultLogRate
}
