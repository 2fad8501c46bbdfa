package metrics

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"mesh"
)

// Traffic counts requests.
type Traffic interface {
	// Shares returns the counts so far: see router.Router. A count that is lower than
	// before has begun again at zero.
	Shares() []mesh.Share
}

// Instances lists what runs.
type Instances interface {
	// Status returns the instances of a stack. It does not wait.
	Status(stack mesh.StackName) []mesh.InstanceStatus
}

// Containers measures containers, by their IDs.
type Containers interface {
	// Usage leaves out those that do not run.
	Usage(ctx context.Context, ids []string) (map[string]mesh.Usage, error)
	// Disk returns the bytes in the writable layers of all containers. It takes long.
	Disk(ctx context.Context) (map[string]int64, error)
}

// Sampler measures all stacks of a Store every mesh.MeasureStep. Set its fields before Run,
// and between two calls of Run.
type Sampler struct {
	Store      *Store
	Traffic    Traffic
	Instances  Instances
	Containers Containers
	Logger     *slog.Logger
	Now        func() time.Time

	requests map[share]mesh.Measure // of the last sample
	cpu      map[string]reading     // by container
	crashes  map[share]int
	began    bool // they have been read before: what is new since then began at zero

	mu     sync.Mutex // guards the following
	latest map[mesh.StackName]map[mesh.InstanceName]mesh.Measure
	disk   map[string]int64 // by container
}

// share names a row.
type share struct {
	stack mesh.StackName
	name  mesh.InstanceName
}

// reading is the processor time of a container at a time.
type reading struct {
	used time.Duration
	at   time.Time // of the monotonic clock
}

// The disk is measured rarely, because the engine reads every file for that.
const (
	diskFirst = time.Minute
	diskEvery = 15 * time.Minute
)

// usageTime limits a measurement, so that an engine that hangs leaves a gap and nothing
// else.
const usageTime = 8 * time.Second

// Run measures until ctx ends, which it then returns the cause of. It releases the store at
// the end, and may be called again.
func (s *Sampler) Run(ctx context.Context) error {
	defer s.Store.Release()
	var disks sync.WaitGroup
	defer disks.Wait()
	disks.Go(func() { s.measureDisks(ctx) })
	if !s.began {
		s.instances(ctx, stackRows{}) // where they stand: the first sample has what they do from now on
	}
	for {
		// The middle of a step is as far as possible from its ends, so that each step gets
		// one sample even if some come a little late.
		now := s.Now()
		wait := mesh.MeasureStep - (time.Duration(now.UnixNano())+mesh.MeasureStep/2)%mesh.MeasureStep
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			s.Sample(ctx)
		case <-ctx.Done():
			timer.Stop()
			s.Sample(ctx) // what has happened since; an engine that does not answer holds nothing up
			return context.Cause(ctx)
		}
	}
}

// Sample measures all stacks once. Run calls it; do not call both.
func (s *Sampler) Sample(ctx context.Context) {
	s.takeLeft()
	at := s.Now()
	rows := s.traffic()
	s.instances(ctx, rows)
	for stack, of := range rows {
		s.Store.Add(stack, at, of)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = rows
}

// instances adds what the instances of all kept stacks use to rows.
func (s *Sampler) instances(ctx context.Context, rows stackRows) {
	stacks := s.Store.kept()
	var ids []string
	status := map[mesh.StackName][]mesh.InstanceStatus{}
	for _, stack := range stacks {
		status[stack] = s.Instances.Status(stack)
		for _, in := range status[stack] {
			if in.ID != "" {
				ids = append(ids, in.ID)
			}
		}
	}
	limited, cancel := context.WithTimeout(ctx, usageTime)
	usage, err := s.Containers.Usage(limited, ids)
	cancel()
	if err != nil {
		s.Logger.Debug("use of containers not measured", "err", err)
	}
	s.containers(rows, status, usage)
	s.began = true
}

type stackRows map[mesh.StackName]map[mesh.InstanceName]mesh.Measure

func (r stackRows) add(stack mesh.StackName, name mesh.InstanceName, m mesh.Measure) {
	if r[stack] == nil {
		r[stack] = map[mesh.InstanceName]mesh.Measure{}
	}
	had := r[stack][name]
	had.Beside(m)
	had.Samples = 1
	r[stack][name] = had
}

// traffic returns what has happened since the last sample, without rows in which nothing
// has.
func (s *Sampler) traffic() stackRows {
	rows, now := stackRows{}, map[share]mesh.Measure{}
	for _, sh := range s.Traffic.Shares() {
		at := share{sh.Stack, sh.Name}
		now[at] = sh.Measure
		m := since(sh.Measure, s.requests[at])
		if m != (mesh.Measure{}) {
			rows.add(sh.Stack, sh.Name, m)
		}
	}
	s.requests = now
	return rows
}

// since returns the counts of now without those of before, or all of them if they have
// begun again.
func since(now, before mesh.Measure) mesh.Measure {
	if now.Requests() < before.Requests() || now.Bytes < before.Bytes {
		return now
	}
	m := now
	for i, n := range before.Status {
		m.Status[i] -= min(n, m.Status[i])
	}
	for i, n := range before.Latency {
		m.Latency[i] -= min(n, m.Latency[i])
	}
	m.Bytes -= before.Bytes
	return m
}

// containers adds what the instances use.
func (s *Sampler) containers(rows stackRows, status map[mesh.StackName][]mesh.InstanceStatus, usage map[string]mesh.Usage) {
	s.mu.Lock()
	disk := s.disk
	s.mu.Unlock()
	clock, cpu, crashes := time.Now(), map[string]reading{}, map[share]int{}
	for stack, list := range status {
		for _, in := range list {
			at := share{stack, in.Name}
			crashes[at] = in.Crashes
			m := mesh.Measure{Disk: disk[in.ID]}
			if s.began {
				m.Restarts = uint64(max(in.Crashes-s.crashes[at], 0)) //nolint:gosec // not negative
			}
			u, runs := usage[in.ID]
			if runs {
				m.Memory = u.Memory
				m.CPU = s.used(in.ID, reading{u.CPU, clock})
				cpu[in.ID] = reading{u.CPU, clock}
			} else if had, ok := s.cpu[in.ID]; ok {
				cpu[in.ID] = had
			}
			if runs || m.Restarts > 0 {
				rows.add(stack, in.Name, m)
			}
		}
	}
	s.cpu, s.crashes = cpu, crashes
}

// used returns the processor time that a container took in the last step. After a
// gap, it is the average for a step.
func (s *Sampler) used(id string, now reading) time.Duration {
	before, known := s.cpu[id]
	switch {
	case !known && !s.began:
		return 0 // it has run for longer than this process
	case !known || now.used < before.used:
		return min(now.used, mesh.MeasureStep*1024) // it has started since
	}
	used := now.used - before.used
	if gap := now.at.Sub(before.at); gap > mesh.MeasureStep*3/2 {
		used = time.Duration(float64(used) * float64(mesh.MeasureStep) / float64(gap))
	}
	return used
}

// measureDisks measures the writable layers until ctx ends.
func (s *Sampler) measureDisks(ctx context.Context) {
	wait := time.NewTimer(diskFirst)
	defer wait.Stop()
	for {
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		if disk, err := s.Containers.Disk(ctx); err == nil {
			s.mu.Lock()
			s.disk = disk
			s.mu.Unlock()
		} else if ctx.Err() == nil {
			s.Logger.Debug("disk use of containers not measured", "err", err)
		}
		wait.Reset(diskEvery)
	}
}

// Latest returns what the instances of a stack did in the last step, by name. It may be
// called from several goroutines at any time; the map is the caller's.
func (s *Sampler) Latest(stack mesh.StackName) map[mesh.InstanceName]mesh.Measure {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.latest[stack])
}

// kept returns the stacks whose measures are kept, by name.
func (s *Store) kept() []mesh.StackName {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.stacks))
}
