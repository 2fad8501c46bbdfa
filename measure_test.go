package mesh_test

import (
	"testing"
	"time"

	"mesh"
)

func TestMeasure_BesideAndThen(t *testing.T) {
	t.Parallel()
	a := mesh.Measure{Samples: 1, Status: [6]uint64{2: 20}, InFlight: 3, CPU: 5 * time.Second, Memory: 100}
	b := mesh.Measure{Samples: 1, Status: [6]uint64{2: 10, 5: 10}, InFlight: 1, CPU: time.Second, Memory: 50}
	both := a
	both.Beside(b)
	if both.Samples != 1 || both.Rate() != 4 || both.InFlight != 4 || both.Memory != 150 || both.Cores() != .6 {
		t.Errorf("beside: %+v", both)
	}
	next := a
	next.Then(b)
	if next.Samples != 2 || next.Rate() != 2 || next.InFlight != 3 || next.Memory != 100 || next.Cores() != .3 || next.Requests() != 40 {
		t.Errorf("then: %+v", next)
	}
	if none := (&mesh.Measure{}); none.Rate() != 0 || none.Cores() != 0 {
		t.Error("nothing known is not zero")
	}
}
