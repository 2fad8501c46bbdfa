package enginetest_test

import (
	"slices"
	"sync"
	"testing"

	"mesh/enginetest"
)

// part is a test, or a part of one, that ends when it is told to.
type part struct {
	testing.TB
	name string
	ends []func()
}

func (p *part) Name() string     { return p.name }
func (p *part) Cleanup(f func()) { p.ends = append(p.ends, f) }

func (p *part) end() {
	for _, f := range slices.Backward(p.ends) {
		f()
	}
}

// Alone waits for the tests that are building, and for subtests that they start later.
// Other tests build again once the test that was alone has ended.
func TestAlone(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var mu sync.Mutex
	var order []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, what)
	}
	first, second := &part{TB: t, name: "TestA"}, &part{TB: t, name: "TestA/part/of it"}
	enginetest.Beside(first)
	var done sync.WaitGroup
	done.Go(func() {
		alone := &part{TB: t, name: "TestB"}
		enginetest.Alone(alone)
		note("B in")
		enginetest.Beside(&part{TB: t, name: "TestB/part"})
		note("B out")
		alone.end()
	})
	enginetest.Beside(second)
	done.Go(func() {
		other := &part{TB: t, name: "TestC"}
		enginetest.Beside(other)
		note("C in")
		other.end()
	})
	first.end()
	note("A out")
	second.end()
	done.Wait()
	i := slices.Index(order, "B in")
	if slices.Index(order, "A out") > i || order[i+1] != "B out" {
		t.Errorf("order %q", order)
	}
}
