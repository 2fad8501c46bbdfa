package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/metrics"
)

// world is a server with one stack, to be measured.
type world struct {
	mu       sync.Mutex
	shares   []mesh.Share
	statuses []mesh.InstanceStatus
	usage    map[string]mesh.Usage
	disk     map[string]int64
	broken   error // of Usage
	asked    int   // how often Usage was called
}

func (w *world) set(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

func (w *world) Shares() []mesh.Share {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.shares)
}

func (w *world) Status(mesh.StackName) []mesh.InstanceStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.statuses)
}

func (w *world) Usage(context.Context, []string) (map[string]mesh.Usage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	return maps.Clone(w.usage), w.broken
}

func (w *world) Disk(context.Context) (map[string]int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.disk, nil
}

func TestSampler(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			statuses: []mesh.InstanceStatus{{Name: web(1), ID: "a"}},
			usage:    map[string]mesh.Usage{"a": {CPU: time.Hour, Memory: 100 << 20}},
			disk:     map[string]int64{"a": 5 << 20},
		}
		store := metrics.Open(dir, metrics.Options{Logger: slog.New(slog.DiscardHandler)})
		store.Keep("shop")
		s := &metrics.Sampler{Store: store, Traffic: w, Instances: w, Containers: w, Logger: slog.New(slog.DiscardHandler), Now: time.Now}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- s.Run(ctx) }()
		last := func() mesh.Measure { return s.Latest("shop")[web(1)] }
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() } //nolint:forbidigo // of the bubble

		pass(10 * time.Second)
		if m := last(); m.CPU != 0 || m.Memory != 100<<20 || m.Samples != 1 {
			t.Errorf("first: %+v", m) // the hour was before this process
		}
		w.set(func() {
			w.usage["a"] = mesh.Usage{CPU: time.Hour + 4*time.Second, Memory: 100 << 20}
			w.shares = []mesh.Share{
				{Stack: "shop", Name: web(1), Measure: mesh.Measure{Status: [6]uint64{2: 50}, Bytes: 500, InFlight: 2}},
				{Stack: "shop", Name: web(0), Measure: mesh.Measure{Status: [6]uint64{5: 1}, Held: 3}},
				{Stack: "other", Name: web(1), Measure: mesh.Measure{Status: [6]uint64{5: 1}}}, // not kept
			}
		})
		pass(10 * time.Second)
		if m := last(); m.CPU != 4*time.Second || m.Requests() != 50 || m.Bytes != 500 || m.InFlight != 2 || m.Cores() != .4 {
			t.Errorf("second: %+v", m)
		}
		if m := s.Latest("shop")[web(0)]; m.Requests() != 1 || m.Held != 3 {
			t.Errorf("what no instance got: %+v", m)
		}

		// The engine is away for half a minute; the CPU of that time is spread.
		w.set(func() { w.usage, w.broken = nil, errors.New("the engine does not answer") })
		pass(20 * time.Second)
		if m := last(); m.Requests() != 0 || m.Memory != 0 {
			t.Errorf("without an engine: %+v", m)
		}
		w.set(func() {
			w.usage, w.broken = map[string]mesh.Usage{"a": {CPU: time.Hour + 10*time.Second, Memory: 1 << 20}}, nil
			w.statuses[0].Crashes = 2
		})
		pass(10 * time.Second)
		if m := last(); m.CPU != 2*time.Second || m.Restarts != 2 {
			t.Errorf("after a gap: %+v", m)
		}

		// Another container replaces it, and the router has another route.
		w.set(func() {
			w.statuses[0] = mesh.InstanceStatus{Name: web(1), ID: "b"}
			w.usage = map[string]mesh.Usage{"b": {CPU: time.Second, Memory: 1 << 20}}
			w.shares = []mesh.Share{{Stack: "shop", Name: web(1), Measure: mesh.Measure{Status: [6]uint64{2: 7}}}}
		})
		pass(10 * time.Second)
		if m := last(); m.CPU != time.Second || m.Restarts != 0 || m.Requests() != 7 {
			t.Errorf("a new container: %+v", m)
		}
		pass(2 * time.Minute)
		w.set(func() { w.disk = map[string]int64{"b": 9 << 20} })
		pass(16 * time.Minute)
		if m := last(); m.Disk != 9<<20 {
			t.Errorf("disk: %+v", m)
		}
		if want := int(time.Since(began)/mesh.MeasureStep) + 1; w.asked != want {
			t.Errorf("measured %d times in %d steps", w.asked, want)
		}

		// The end takes what has happened since the last sample with it.
		w.set(func() { w.shares[0].Status[2] = 9 })
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if m := last(); m.Requests() != 2 {
			t.Errorf("at the end: %+v", m)
		}
		got, err := store.Measures(t.Context(), mesh.MeasureQuery{Stack: "shop", Since: began.Add(-time.Minute), Until: time.Now().Add(time.Minute), Points: 1000})
		if err != nil || len(got.Rows) != 1 {
			t.Fatal(got, err)
		}
		if all := got.Rows[0].Total(); all.Requests() != 51+7+2 || all.Restarts != 2 || all.CPU != 7*time.Second {
			t.Errorf("kept: %+v", all)
		}
		// It begins again, after another process has failed to take over.
		ctx, stop = context.WithCancel(t.Context())
		go func() { done <- s.Run(ctx) }()
		w.set(func() { w.shares[0].Status[2] = 10 })
		pass(10 * time.Second)
		if m := last(); m.Requests() != 1 {
			t.Errorf("again: %+v", m)
		}
		stop()
		<-done
	})
}

// What a process serves after its last sample is counted by the one after it.
func TestSampler_LeavesTheRestToTheNextProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sampler := func(w *world) *metrics.Sampler {
		store := metrics.Open(dir, metrics.Options{Logger: slog.New(slog.DiscardHandler)})
		store.Keep("shop")
		return &metrics.Sampler{Store: store, Traffic: w, Instances: w, Containers: w, Logger: slog.New(slog.DiscardHandler), Now: time.Now}
	}
	share := func(n uint64) []mesh.Share {
		m := mesh.Measure{Status: [6]uint64{2: n}, InFlight: 7}
		m.Latency[3] = n
		return []mesh.Share{{Stack: "shop", Name: web(1), Measure: m}, {Stack: "gone", Name: web(1), Measure: m}}
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	total := func(s *metrics.Sampler) mesh.Measure {
		got, err := s.Store.Measures(t.Context(), mesh.MeasureQuery{Stack: "shop", Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Minute), Points: 1000})
		if err != nil || len(got.Rows) != 1 {
			t.Fatal(got, err)
		}
		return got.Rows[0].Total()
	}
	w := &world{shares: share(10)}
	old := sampler(w)
	_ = old.Run(ended)
	next := sampler(&world{})
	w.set(func() { w.shares = share(15) })
	_ = next.Run(ended)
	if m := total(next); m.Requests() != 10 {
		t.Errorf("before the old process has ended: %d requests", m.Requests())
	}
	old.Leave()
	_ = next.Run(ended)
	_ = next.Run(ended) // the file is read once
	if m := total(next); m.Requests() != 15 || m.Latency[3] != 15 {
		t.Errorf("after it: %+v", m)
	}
	next.Leave()
	if _, err := os.Stat(filepath.Join(dir, ".left")); err == nil {
		t.Error("a process without requests leaves something")
	}
	if err := os.WriteFile(filepath.Join(dir, ".left"), []byte("{no"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = next.Run(ended)
	if _, err := os.Stat(filepath.Join(dir, ".left")); err == nil {
		t.Error("a damaged file stays")
	}
}

// BenchmarkSample measures 100 stacks with two web instances and a worker each, without the reading
// of control groups, which BenchmarkUsage of package runner measures.
func BenchmarkSample(b *testing.B) {
	now := time.Now()
	w := &crowd{}
	store := metrics.Open(b.TempDir(), metrics.Options{Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	s := &metrics.Sampler{Store: store, Traffic: w, Instances: w, Containers: w, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }}
	for i := range 100 {
		store.Keep(mesh.StackName(fmt.Sprint("s", i)))
	}
	n := 0
	for b.Loop() {
		w.step++
		s.Sample(b.Context())
		now = now.Add(mesh.MeasureStep)
		n++
	}
	b.ReportMetric(float64(b.Elapsed())/float64(n)/float64(mesh.MeasureStep)*100, "%core")
}

// crowd is a server with 100 busy stacks.
type crowd struct{ step uint64 }

func (c *crowd) Shares() (out []mesh.Share) {
	for i := range 100 {
		for slot := range 3 {
			n := c.step * uint64(100+i+slot)
			m := mesh.Measure{Status: [6]uint64{2: n, 5: n / 200}, Bytes: n * 12000, InFlight: int64(slot)}
			for k := range 10 {
				m.Latency[5+k] = n / uint64(k+2)
			}
			out = append(out, mesh.Share{Stack: mesh.StackName(fmt.Sprint("s", i)), Name: web(slot), Measure: m})
		}
	}
	return out
}

func (c *crowd) Status(stack mesh.StackName) []mesh.InstanceStatus {
	return []mesh.InstanceStatus{
		{Name: web(1), ID: string(stack) + "a"},
		{Name: web(2), ID: string(stack) + "b"},
		{Name: mesh.InstanceName{Service: "worker", Slot: 1}, ID: string(stack) + "c"},
	}
}

func (c *crowd) Usage(_ context.Context, ids []string) (map[string]mesh.Usage, error) {
	out := map[string]mesh.Usage{}
	for i, id := range ids {
		out[id] = mesh.Usage{CPU: time.Duration(c.step) * time.Duration(i+1) * 10 * time.Millisecond, Memory: int64(i+1) << 20}
	}
	return out, nil
}

func (c *crowd) Disk(context.Context) (map[string]int64, error) { return nil, nil }
