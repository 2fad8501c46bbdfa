// Package metrics keeps what stacks did and used: requests, latency, CPU, memory, at 10 s
// for a day, at a minute for two weeks and at 15 minutes for a year.
//
// A Store has one folder for each stack, with one file for each resolution, of less than
// 2 MB together. A Sampler fills it. What the measures come from, and who asks for them,
// is left to others: see Source.
//
// Metrics are never a reason not to serve. A damaged file loses what is damaged; while the
// disk is full, points are dropped.
//
//	s := metrics.Open("/var/lib/mesh/metrics", metrics.Options{})
//	s.Keep("shop")
//	s.Add("shop", time.Now(), rows)
//	got, err := s.Measures(ctx, mesh.MeasureQuery{Stack: "shop", Since: yesterday, Until: now})
package metrics

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mesh"
)

// Options are what Open needs besides the folder. The zero value is ready.
type Options struct {
	Logger *slog.Logger     // nil: slog.Default()
	Now    func() time.Time // nil: time.Now
}

// Store keeps measures in files. It may be used from several goroutines, but only one
// process may call Add at a time; others may read.
type Store struct {
	dir string
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex // guards the following
	stacks map[mesh.StackName]*stack
	warned time.Time // of a failure, last
}

// stack is a stack whose measures are kept. The tails and open points are nil until the
// first Add.
type stack struct {
	dir string

	mu    sync.Mutex // guards the following, and the files
	gone  bool
	tails []*tail
	open  [len(tiers)]point // the step in progress of each tier but the first
}

// Open returns a store in a folder, which is created when it is first needed. It reads and
// writes nothing, and starts no goroutine.
func Open(dir string, o Options) *Store {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{dir: dir, log: o.Logger, now: o.Now, stacks: map[mesh.StackName]*stack{}}
}

// Keep begins to keep measures of a stack. Those of others are dropped.
func (s *Store) Keep(name mesh.StackName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stacks[name] == nil {
		s.stacks[name] = &stack{dir: filepath.Join(s.dir, string(name))}
	}
}

// Forget removes the measures of a stack, and keeps no more of them.
func (s *Store) Forget(name mesh.StackName) {
	s.mu.Lock()
	st := s.stacks[name]
	delete(s.stacks, name)
	s.mu.Unlock()
	if st == nil {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.gone = true
	if err := os.RemoveAll(st.dir); err != nil {
		s.log.Warn("metrics of a stack not removed", "stack", name, "err", err)
	}
}

// Rename moves the measures of a stack to its new name, and keeps them under that alone.
// It may be called again: without measures under the old name it only keeps the new one.
func (s *Store) Rename(from, to mesh.StackName) {
	s.mu.Lock()
	old := s.stacks[from]
	delete(s.stacks, from)
	next := s.stacks[to]
	if next == nil {
		next = &stack{dir: filepath.Join(s.dir, string(to))}
		s.stacks[to] = next
	}
	s.mu.Unlock()
	if old != nil {
		old.mu.Lock()
		defer old.mu.Unlock()
		old.gone = true
	}
	next.mu.Lock()
	defer next.mu.Unlock()
	source := filepath.Join(s.dir, string(from))
	if _, err := os.Lstat(source); errors.Is(err, os.ErrNotExist) {
		return
	}
	next.reset() // what came under the new name so far is a few seconds old
	err := os.RemoveAll(next.dir)
	if err == nil {
		err = os.Rename(source, next.dir)
	}
	if err != nil {
		s.log.Warn("metrics of a stack not renamed", "stack", to, "err", err)
	}
}

// Release forgets what the store has in memory, before another process begins to add.
// Points of steps in progress are not lost: whoever adds next takes them from the finest
// resolution. A later Add begins again.
func (s *Store) Release() {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.stacks))
	s.mu.Unlock()
	for _, st := range all {
		st.mu.Lock()
		st.reset()
		st.mu.Unlock()
	}
}

func (st *stack) reset() {
	st.tails, st.open = nil, [len(tiers)]point{}
}

// Add keeps what a stack did in the MeasureStep that contains at. The rows are those of
// instances, and of services without a slot: see mesh.MeasureRow. Add does not keep them.
// A clock that jumps loses nothing: points are kept in the order in which they are
// added, as many as each resolution keeps.
//
// Failures are logged, at most every ten minutes. Up to 16 KB wait in memory for each
// file meanwhile.
func (s *Store) Add(name mesh.StackName, at time.Time, rows map[mesh.InstanceName]mesh.Measure) {
	s.mu.Lock()
	st := s.stacks[name]
	s.mu.Unlock()
	if st == nil || len(rows) == 0 {
		return
	}
	st.mu.Lock()
	err := st.add(s, at, rows)
	st.mu.Unlock()
	if err == nil {
		return
	}
	s.mu.Lock()
	quiet := !s.warned.IsZero() && time.Since(s.warned) < warnEvery
	if !quiet {
		s.warned = time.Now()
	}
	s.mu.Unlock()
	if !quiet {
		s.log.Warn("metrics not written", "stack", name, "err", err)
	}
}

// warnEvery is how often a failure to write is logged at most.
const warnEvery = 10 * time.Minute

func (st *stack) add(s *Store, at time.Time, rows map[mesh.InstanceName]mesh.Measure) error {
	if st.gone {
		return nil
	}
	var err error
	if st.tails == nil {
		err = st.begin(s)
	}
	if st.tails == nil {
		return err
	}
	p := point{at.Unix() / int64(tiers[0].step/time.Second), limit(rows)}
	err = errors.Join(err, st.write(0, p))
	for k := 1; k < len(tiers); k++ {
		err = errors.Join(err, st.collect(k, p))
	}
	return err
}

// begin reads the tails of the files, and takes the steps in progress from the finest
// one.
func (st *stack) begin(s *Store) error {
	if err := os.MkdirAll(st.dir, 0o700); err != nil {
		return err
	}
	tails := make([]*tail, len(tiers))
	for k, ti := range tiers {
		path := filepath.Join(st.dir, ti.file)
		t, lost, err := begin(path)
		if errors.Is(err, errBlock) {
			s.log.Warn("a file of metrics is not one; moved aside", "path", path)
			if err = os.Rename(path, path+".damaged"); err == nil {
				t = &tail{}
			}
		}
		if err != nil {
			return err
		}
		if lost > 0 {
			s.log.Warn("a file of metrics is damaged in part", "path", path, "gaps", lost)
		}
		tails[k] = t
	}
	st.tails = tails
	var err error
	latest := s.now().Unix() / int64(tiers[0].step/time.Second)
	points := st.read(0, lastStep(tails)+1, latest+1)
	for k := 1; k < len(tiers); k++ {
		after := tails[k].last
		for _, p := range points {
			if p.slot/ratio(k) > after {
				err = errors.Join(err, st.collect(k, p))
			}
		}
	}
	return err
}

// ratio returns how many points of the finest tier one of tier k has.
func ratio(k int) int64 { return int64(tiers[k].step / tiers[0].step) }

// lastStep returns the last slot of the finest tier that all others have.
func lastStep(tails []*tail) int64 {
	last := int64(-1)
	for k := 1; k < len(tiers); k++ {
		if end := (tails[k].last+1)*ratio(k) - 1; last < 0 || end < last {
			last = end
		}
	}
	return last
}

// collect adds a point of the finest tier to the step in progress of tier k, and writes the
// one before it.
func (st *stack) collect(k int, p point) error {
	slot := p.slot / ratio(k)
	o := &st.open[k]
	var err error
	if o.rows != nil && o.slot != slot {
		err = st.write(k, *o)
		o.rows = nil
	}
	if o.rows == nil {
		*o = point{slot, map[mesh.InstanceName]mesh.Measure{}}
	}
	for name, m := range services(p.rows, tiers[k].whole) {
		had := o.rows[name]
		had.Then(m)
		had.Samples = min(had.Samples, uint64(ratio(k))) //nolint:gosec // positive
		o.rows[name] = had
	}
	return err
}

// write writes a point to the file of tier k.
func (st *stack) write(k int, p point) error {
	t, path := st.tails[k], filepath.Join(st.dir, tiers[k].file)
	if err := t.add(path, p); err != nil {
		return err
	}
	if !t.full(tiers[k]) {
		return nil
	}
	if err := t.pack(path, tiers[k]); err != nil {
		st.reset() // the file may be anything: read it again
		return err
	}
	return nil
}

// services returns rows with the instances added up to their services, or the rows
// themselves.
func services(rows map[mesh.InstanceName]mesh.Measure, sum bool) map[mesh.InstanceName]mesh.Measure {
	if !sum {
		return rows
	}
	out := make(map[mesh.InstanceName]mesh.Measure, len(rows))
	for name, m := range rows {
		name.Slot = 0
		had := out[name]
		had.Beside(m)
		out[name] = had
	}
	return out
}

// limit returns at most maxRows rows: of many instances only their services, and of many
// services the first by name, and all others together.
func limit(rows map[mesh.InstanceName]mesh.Measure) map[mesh.InstanceName]mesh.Measure {
	if len(rows) <= maxRows {
		return rows
	}
	rows = services(rows, true)
	if len(rows) <= maxRows {
		return rows
	}
	names := slices.SortedFunc(maps.Keys(rows), mesh.InstanceName.Compare)
	out := make(map[mesh.InstanceName]mesh.Measure, maxRows)
	for i, name := range names {
		m := rows[name]
		if i >= maxRows-1 {
			name = mesh.InstanceName{}
		}
		had := out[name]
		had.Beside(m)
		out[name] = had
	}
	return out
}

// read returns the points of tier k with from <= slot < to, oldest first as written.
// Damaged frames are left out.
func (st *stack) read(k int, from, to int64) []point {
	f, c, err := open(filepath.Join(st.dir, tiers[k].file))
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []point
	for _, fr := range c.frames {
		if fr.last < from || fr.first >= to {
			continue
		}
		points, err := fr.read(f)
		if err != nil {
			continue
		}
		for _, p := range points {
			if p.slot >= from && p.slot < to {
				out = append(out, p)
			}
		}
	}
	out = slices.Clip(out)
	slices.SortStableFunc(out, func(a, b point) int { return cmp.Compare(a.slot, b.slot) })
	return join(out, tiers[k])
}
