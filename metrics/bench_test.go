package metrics

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mesh"
)

// BenchmarkYear reports what a stack takes on the disk when every resolution is as long as it
// gets, which is after a year.
func BenchmarkYear(b *testing.B) {
	for name, rates := range map[string][]float64{
		"idle": {0}, "web_1_rps": {1}, "web_20_rps": {20}, "2_web_20_rps_1_worker": {20, 20, 0}, "10_web_20_rps": {20, 20, 20, 20, 20, 20, 20, 20, 20, 20},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				st := &stack{dir: filepath.Join(b.TempDir(), "shop")}
				if err := st.begin(&Store{now: time.Now, log: slog.Default()}); err != nil {
					b.Fatal(err)
				}
				r := rand.New(rand.NewPCG(1, 2))
				for k, ti := range tiers {
					for i := range ti.keep + ti.block {
						p := point{slot: 170_000_000 + i, rows: map[mesh.InstanceName]mesh.Measure{}}
						for n, rate := range rates {
							p.rows[mesh.InstanceName{Service: mesh.Web, Slot: n + 1}] = busy(r, ti.step, rate)
						}
						if err := st.write(k, point{p.slot, services(p.rows, ti.whole)}); err != nil {
							b.Fatal(err)
						}
					}
				}
				total := int64(0)
				for k, ti := range tiers {
					fi, err := os.Stat(filepath.Join(st.dir, ti.file))
					if err != nil {
						b.Fatal(err)
					}
					total += fi.Size()
					b.ReportMetric(float64(fi.Size()), ti.file+"-B")
					t := st.tails[k]
					b.ReportMetric(float64(t.packed+t.points)*ti.step.Hours()/24, ti.file+"-days")
				}
				b.ReportMetric(float64(total), "B/stack")
				if total > 2_000_000 {
					b.Errorf("%d bytes", total)
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkAdd keeps a step of 100 stacks with two instances and a worker each. A step
// is 10 s, so 100 ms would be a percent of a core.
func BenchmarkAdd(b *testing.B) {
	s := Open(b.TempDir(), Options{})
	r := rand.New(rand.NewPCG(1, 2))
	var steps []map[mesh.InstanceName]mesh.Measure
	for range 50 {
		steps = append(steps, map[mesh.InstanceName]mesh.Measure{
			{Service: mesh.Web, Slot: 1}: busy(r, 10*time.Second, 20), {Service: mesh.Web, Slot: 2}: busy(r, 10*time.Second, 20), {Service: "worker", Slot: 1}: busy(r, 10*time.Second, 0),
		})
	}
	var names []mesh.StackName
	for i := range 100 {
		names = append(names, mesh.StackName(fmt.Sprint("s", i)))
		s.Keep(names[i])
	}
	now, n := time.Now(), 0
	for b.Loop() {
		for i, name := range names {
			s.Add(name, now, steps[(n+i)%len(steps)])
		}
		now, n = now.Add(mesh.MeasureStep), n+1
	}
	b.ReportMetric(float64(b.Elapsed())/float64(n)/float64(mesh.MeasureStep)*100, "%core")
}

// BenchmarkMeasures answers "mesh metrics" for a day.
func BenchmarkMeasures(b *testing.B) {
	s := Open(b.TempDir(), Options{})
	s.Keep("shop")
	r := rand.New(rand.NewPCG(1, 2))
	from := time.Now().Add(-24 * time.Hour)
	for at := from; at.Before(time.Now()); at = at.Add(mesh.MeasureStep) {
		s.Add("shop", at, map[mesh.InstanceName]mesh.Measure{{Service: mesh.Web, Slot: 1}: busy(r, 10*time.Second, 5), {Service: mesh.Web, Slot: 2}: busy(r, 10*time.Second, 5)})
	}
	for b.Loop() {
		got, err := s.Measures(b.Context(), mesh.MeasureQuery{Stack: "shop", Since: from, Until: time.Now()})
		if err != nil || len(got.Rows) != 1 {
			b.Fatal(got, err)
		}
	}
}
