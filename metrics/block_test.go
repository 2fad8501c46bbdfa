package metrics

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"mesh"
)

// busy returns what an instance of a busy service did in a step: per second so many requests,
// with latencies about a log-normal distribution.
func busy(r *rand.Rand, step time.Duration, perSecond float64) mesh.Measure {
	n := perSecond * step.Seconds() * (0.8 + 0.4*r.Float64())
	m := mesh.Measure{Samples: uint64(step / mesh.MeasureStep), Memory: 180<<20 + r.Int64N(8<<20), Disk: 3 << 20, InFlight: r.Int64N(8)}
	// So many of n events that each happen with probability p.
	some := func(p float64) uint64 { return uint64(max(n*p+math.Sqrt(n*p)*r.NormFloat64()+.5, 0)) }
	below := 0.
	for i := range m.Latency {
		upTo := 1.
		if i < len(mesh.LatencyBounds) {
			upTo = math.Erfc(-math.Log(mesh.LatencyBounds[i].Seconds()/0.012)/.7/math.Sqrt2) / 2
		}
		m.Latency[i] = some(upTo - below)
		below = upTo
	}
	all := m.Latency.Count()
	m.Status = [6]uint64{3: min(some(.07), all/4), 4: min(some(.026), all/4), 5: min(some(.004), all/4)}
	m.Status[2] = all - m.Status[3] - m.Status[4] - m.Status[5]
	m.Bytes = uint64(float64(all) * (12000 + 500*r.NormFloat64()))
	m.CPU = time.Duration(all) * (3*time.Millisecond + time.Duration(r.IntN(500))*time.Microsecond)
	return m
}

func name(service string, slot int) mesh.InstanceName {
	return mesh.InstanceName{Service: mesh.ServiceName(service), Slot: slot}
}

// stored is a measure in the precision in which it is kept.
func stored(m mesh.Measure) (out mesh.Measure) {
	for col := range columns {
		setColumn(&out, col, column(&m, col))
	}
	return out
}

func TestBlock_RoundTrip(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var points []point
	for i := range 50 {
		p := point{slot: int64(170_000_000 + i*i), rows: map[mesh.InstanceName]mesh.Measure{}}
		if i%7 != 0 {
			p.rows[name("web", 1)] = busy(r, 10*time.Second, 30)
		}
		if i > 20 {
			p.rows[name("web", 0)] = mesh.Measure{Samples: 1, Held: int64(i), Status: [6]uint64{5: 3}}
			p.rows[name("", 0)] = mesh.Measure{Samples: 6, Restarts: 2}
		}
		points = append(points, p)
	}
	packed, err := pack(encodeBlock(points))
	if err != nil {
		t.Fatal(err)
	}
	b, err := unpack(packed)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseBlock(b)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, points, func(a, b point) bool {
		want := map[mesh.InstanceName]mesh.Measure{}
		for n, m := range b.rows {
			want[n] = stored(m)
		}
		return a.slot == b.slot && maps.Equal(a.rows, want)
	}) {
		t.Error("the points differ")
	}
	if m := points[1].rows[name("web", 1)]; max(stored(m).Memory, m.Memory)-min(stored(m).Memory, m.Memory) > m.Memory/100 {
		t.Errorf("memory %d is kept as %d", m.Memory, stored(m).Memory)
	}
}

func TestShort_IsNearAndKeepsSmallValues(t *testing.T) {
	t.Parallel()
	for _, n := range []int{coarseBits, fineBits} {
		last := uint64(0)
		for v := uint64(0); v < 1<<62; v += v/50 + 1 {
			code := short(v, n)
			got := long(code, n)
			off := max(v, got) - min(v, got)
			if v < 2<<n && off != 0 || float64(off) > float64(v)/float64(uint64(2)<<n) {
				t.Fatalf("%d bits: %d is kept as %d", n, v, got)
			}
			if code < last || short(got, n) != code {
				t.Fatalf("%d bits: %d has code %d after %d, and then %d", n, v, code, last, short(got, n))
			}
			last = code
		}
	}
}

func FuzzParseBlock(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	f.Add(encodeBlock([]point{{slot: 1, rows: map[mesh.InstanceName]mesh.Measure{name("web", 1): busy(r, 10*time.Second, 5)}}}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		points, err := parseBlock(b)
		if err != nil {
			return
		}
		again, err := parseBlock(encodeBlock(points))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(points, again, func(a, b point) bool { return a.slot == b.slot && maps.Equal(a.rows, b.rows) }) {
			t.Errorf("%v\n%v", points, again)
		}
	})
}
