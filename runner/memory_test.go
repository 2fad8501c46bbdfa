package runner_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"mesh"
	"mesh/engine"
	"mesh/runner"
)

// TestMemoryUse: instances with a limit, and only those, with what they really take.
func TestMemoryUse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	eater := b.spec("eater", "keep", "20", "wait")
	eater.Memory = 64 << 20
	free := b.spec("free", "wait")
	idle := b.spec("idle", "wait")
	idle.Memory = 32 << 20
	in := b.start(eater)
	b.start(free)
	b.start(idle)
	find := func(name mesh.ServiceName) (m runner.MemoryUse, ok bool) {
		all, err := b.MemoryUse(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m.Name.Service == name {
				return m, true
			}
		}
		return m, false
	}
	eventually(t, "the eater uses its 20 MB", func() bool {
		m, ok := find("eater")
		return ok && m.Stack == b.stack && m.Limit == 64<<20 && m.Used > 18<<20 && m.Used < 50<<20
	})
	if m, ok := find("idle"); !ok || m.Limit != 32<<20 || m.Used <= 0 || m.Used > 16<<20 {
		t.Errorf("idle: %+v, %v", m, ok)
	}
	if m, ok := find("free"); ok {
		t.Errorf("an instance without a limit is listed: %+v", m)
	}
	if err := b.Stop(t.Context(), in.ID, 0); err != nil {
		t.Fatal(err)
	}
	if m, ok := find("eater"); ok {
		t.Errorf("a removed instance is listed: %+v", m)
	}
}

// BenchmarkMemoryUse is one look at 20 instances, of which ten have a limit.
func BenchmarkMemoryUse(b *testing.B) {
	id := fmt.Sprintf("%08x", rand.Uint32())
	r := runner.New(engine.Of(cli), runner.Options{Server: id + run, Labels: map[string]string{testLabel: run}})
	ctx := context.Background()
	defer func() { _ = r.RemoveStack(ctx, "bench") }()
	sub := subnet()
	for n := range 20 {
		s := mesh.InstanceSpec{Stack: "bench", Name: mesh.InstanceName{Service: "web", Slot: n + 1}, Image: app, Process: mesh.Process{Cmd: []string{"wait"}}, Subnet: sub}
		if n%2 == 0 {
			s.Memory = 32 << 20
		}
		if _, err := r.Start(ctx, s); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if all, err := r.MemoryUse(ctx); err != nil || len(all) != 10 {
			b.Fatalf("%d, %v", len(all), err)
		}
	}
}
