// Command benchtsdb measures what the measures of mesh's stacks take in Prometheus' own store, to compare
// with BenchmarkYear and BenchmarkAdd of package metrics: docs/decisions/0013-metrics-in-own-files.md.
//
// It is a module of its own, so that mesh does not depend on what it decided against:
//
//	cd tools/prometheus && go run ./benchtsdb
package main

import (
	"context"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// The columns of a row, as in metrics/block.go: 32 latency classes, five of status, and bytes, in flight,
// held, CPU, memory, restarts, disk.
const columns = 32 + 5 + 7

var r = rand.New(rand.NewPCG(1, 2))

// step fills in what an instance did in some seconds at so many requests per second. Counters grow,
// as Prometheus wants them; gauges vary.
func step(row []float64, seconds, rate float64) {
	n := rate * seconds * (0.8 + 0.4*r.Float64())
	below, all := 0., 0.
	for i := range 32 {
		bound := 0.0005 * math.Pow(1.458, float64(i))
		upTo := math.Erfc(-math.Log(bound/0.012)/.7/math.Sqrt2) / 2
		k := math.Floor(max(n*(upTo-below)+math.Sqrt(n*(upTo-below))*r.NormFloat64()+.5, 0))
		row[i] += k
		all += k
		below = upTo
	}
	for i, p := range []float64{0, .9, .07, .026, .004} {
		row[32+i] += math.Floor(all * p)
	}
	row[37] += math.Floor(all * (12000 + 500*r.NormFloat64()))
	row[38] = math.Floor(r.Float64() * 8)
	row[40] += math.Floor(all*3+all*r.Float64()/2) / 1000
	row[41] = 180<<20 + math.Floor(r.Float64()*(8<<20))
	row[43] = 3 << 20
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	// The same formation as 2_web_20_rps_1_worker.
	rates := []float64{20, 20, 0}
	perPoint := 0.
	total := 0.
	for _, t := range []struct {
		name    string
		seconds float64
		keep    int
		rates   []float64
	}{{"10s", 10, 8640, rates}, {"1m", 60, 20160, rates}, {"15m", 900, 35040, []float64{40, 0}}} {
		bytes, _, _, err := fill(1, t.keep, t.seconds, t.rates)
		if err != nil {
			return err
		}
		perPoint = float64(bytes) / float64(t.keep*len(t.rates)*columns)
		total += float64(bytes)
		fmt.Printf("%-4s %d bytes, %.2f for each sample\n", t.name, bytes, perPoint)
	}
	fmt.Printf("a stack with two web instances and a worker: %.0f bytes\n", total)
	bytes, cpu, heap, err := fill(100, 360, 10, rates)
	if err != nil {
		return err
	}
	fmt.Printf("100 stacks for an hour: %d bytes, %.2f %% of a core with one compaction, %d MB of heap\n", bytes, cpu.Seconds()/3600*100, heap>>20)
	return nil
}

// fill appends points of some stacks, and returns the size on the disk after compaction, the CPU
// time and the heap before it.
func fill(stacks, points int, seconds float64, rates []float64) (size int64, cpu time.Duration, heap uint64, err error) {
	dir, err := os.MkdirTemp("", "benchtsdb-")
	if err != nil {
		return 0, 0, 0, err
	}
	defer os.RemoveAll(dir)
	o := tsdb.DefaultOptions()
	o.RetentionDuration = int64(400 * 24 * time.Hour / time.Millisecond)
	o.MinBlockDuration = int64(float64(points) * seconds * 1000 / 8)
	o.MaxBlockDuration = o.MinBlockDuration
	db, err := tsdb.Open(dir, slog.New(slog.DiscardHandler), nil, o, nil)
	if err != nil {
		return 0, 0, 0, err
	}
	type series struct {
		labels labels.Labels
		ref    storage.SeriesRef
	}
	rows, all := make([][]float64, stacks*len(rates)), make([]series, stacks*len(rates)*columns)
	for i := range rows {
		rows[i] = make([]float64, columns)
	}
	for i := range all {
		all[i].labels = labels.FromStrings("__name__", fmt.Sprint("c", i%columns), "stack", fmt.Sprint("s", i/columns/len(rates)), "instance", fmt.Sprint("web.", i/columns%len(rates)))
	}
	start := time.Now().Add(-time.Duration(float64(points)*seconds) * time.Second).UnixMilli()
	began := used()
	for p := range points {
		for i, row := range rows {
			step(row, seconds, rates[i%len(rates)])
		}
		before := used()
		app := db.Appender(context.Background())
		for i := range all {
			s := &all[i]
			if s.ref, err = app.Append(s.ref, s.labels, start+int64(float64(p)*seconds*1000), rows[i/columns][i%columns]); err != nil {
				return 0, 0, 0, err
			}
		}
		if err := app.Commit(); err != nil {
			return 0, 0, 0, err
		}
		cpu += used() - before
	}
	_ = began
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	before := used()
	if err := db.Compact(context.Background()); err != nil {
		return 0, 0, 0, err
	}
	if err := db.CompactHead(tsdb.NewRangeHead(db.Head(), db.Head().MinTime(), db.Head().MaxTime())); err != nil {
		return 0, 0, 0, err
	}
	cpu += used() - before
	if err := db.Close(); err != nil {
		return 0, 0, 0, err
	}
	// The blocks; the write-ahead log is not counted.
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if first, _, _ := cut(rel); first == "wal" || first == "chunks_head" || first == "wbl" {
			return nil
		}
		st, err := d.Info()
		size += st.Size()
		return err
	})
	return size, cpu, mem.HeapAlloc, err
}

func cut(path string) (first, rest string, ok bool) {
	for i := range path {
		if os.IsPathSeparator(path[i]) {
			return path[:i], path[i+1:], true
		}
	}
	return path, "", false
}

// used returns the CPU time of this process so far.
func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
