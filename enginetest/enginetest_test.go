package enginetest

import (
	"testing"
	"time"
)

func TestBegun(t *testing.T) {
	before := time.Now()
	if got := begun(NewID("mesh")); got.Before(before) || got.After(time.Now()) {
		t.Errorf("a run that began now began at %s", got)
	}
	for _, id := range []string{"", "mesh", "a-run", "mesh-1-"} {
		if got := begun(id); time.Since(got) < longestRun {
			t.Errorf("%q began at %s, want long ago", id, got)
		}
	}
}
