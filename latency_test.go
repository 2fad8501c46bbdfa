package mesh_test

import (
	"testing"
	"time"

	"mesh"
)

func TestLatency_ClassesAndQuantiles(t *testing.T) {
	t.Parallel()
	for i, b := range mesh.LatencyBounds {
		if got := mesh.LatencyClass(b); got != i {
			t.Errorf("%s is in class %d, not %d", b, got, i)
		}
		if got := mesh.LatencyClass(b + 1); got != i+1 {
			t.Errorf("just above %s is in class %d, not %d", b, got, i+1)
		}
	}
	var a, b mesh.Latency
	for range 95 {
		a[mesh.LatencyClass(4*time.Millisecond)]++
	}
	for range 5 {
		b[mesh.LatencyClass(2*time.Minute)]++
	}
	if a.Quantile(50) != 5*time.Millisecond || (&mesh.Latency{}).Quantile(50) != 0 {
		t.Errorf("median %s", a.Quantile(50))
	}
	a.Merge(b)
	if a.Count() != 100 || a.Quantile(95) != 5*time.Millisecond || a.Quantile(96) != time.Minute {
		t.Errorf("merged: %d, p95 %s, p96 %s", a.Count(), a.Quantile(95), a.Quantile(96))
	}
}
