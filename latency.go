package mesh

import (
	"slices"
	"time"
)

// LatencyBounds are the upper ends of the classes in which durations are counted, in
// steps of a half or less, so that a percentile is off by at most a quarter.
var LatencyBounds = [...]time.Duration{
	500 * time.Microsecond, 750 * time.Microsecond,
	time.Millisecond, 1500 * time.Microsecond, 2 * time.Millisecond, 3 * time.Millisecond, 5 * time.Millisecond, 7500 * time.Microsecond,
	10 * time.Millisecond, 15 * time.Millisecond, 20 * time.Millisecond, 30 * time.Millisecond, 50 * time.Millisecond, 75 * time.Millisecond,
	100 * time.Millisecond, 150 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond, 750 * time.Millisecond,
	time.Second, 1500 * time.Millisecond, 2 * time.Second, 3 * time.Second, 5 * time.Second, 7500 * time.Millisecond,
	10 * time.Second, 15 * time.Second, 20 * time.Second, 30 * time.Second, time.Minute,
}

// Latency counts durations by class: element i holds those above LatencyBounds[i-1] and
// at most LatencyBounds[i]; the last element holds all longer ones. Latencies of
// different instances or times are merged by addition. The zero value is empty.
type Latency [len(LatencyBounds) + 1]uint64

// LatencyClass returns the element of Latency in which d is counted.
func LatencyClass(d time.Duration) int {
	i, _ := slices.BinarySearch(LatencyBounds[:], d)
	return i
}

// Merge adds the counts of other.
func (l *Latency) Merge(other Latency) {
	for i, n := range other {
		l[i] += n
	}
}

// Count returns the number of durations.
func (l *Latency) Count() (n uint64) {
	for _, k := range l {
		n += k
	}
	return n
}

// Quantile returns the upper end of the class that has the given percentage of all
// durations at or below it; 0 if there are none. Durations above the last bound count
// as the last bound.
func (l *Latency) Quantile(percent uint64) time.Duration {
	total := l.Count()
	if total == 0 {
		return 0
	}
	rank, seen := (total*percent+99)/100, uint64(0)
	for i, n := range l {
		if seen += n; seen >= rank {
			return LatencyBounds[min(i, len(LatencyBounds)-1)]
		}
	}
	return LatencyBounds[len(LatencyBounds)-1]
}
