package builder_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/builder"
	"mesh/engine"
	"mesh/enginetest"
)

// limited is a bench with its own limits.
func limited(t *testing.T, o builder.Options) *bench {
	t.Helper()
	b := newBench(t)
	n := stacks.Add(1)
	o.Server, o.Logger = fmt.Sprintf("%s-%d", run, n), slog.New(slog.NewTextHandler(t.Output(), nil))
	b.Builder = builder.New(engine.Of(cli), o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Collect(ctx, b.stack, nil); err != nil {
			t.Errorf("collect: %v", err)
		}
	})
	return b
}

func TestBuild_TakesTooLong(t *testing.T) {
	t.Parallel()
	// Time enough for a busy machine to begin the step.
	b := limited(t, builder.Options{Timeout: 15 * time.Second})
	_, _, err := b.build(b.fresh(tree{"Dockerfile": from("RUN echo before; sleep 3600")}))
	var e *mesh.Error
	if !errors.As(err, &e) || e.Kind != mesh.Failed || e.Text != "the build took longer than 15s, in 'RUN echo before; sleep 3600'" || len(e.Output) != 1 || e.Output[0] != "before" {
		t.Errorf("got %v", err)
	}
}

// The limits apply to all builds of the engine.
func TestBuild_ThatForksWithoutEnd(t *testing.T) {
	enginetest.Alone(t)
	// The limit is the default one: servers of other tests on the engine also set
	// it.
	b := limited(t, builder.Options{})
	_, _, err := b.build(b.fresh(tree{"Dockerfile": from("RUN i=0; while [ $i -lt 5000 ]; do sleep 60 & i=$((i+1)); done; echo all there")}))
	var e *mesh.Error
	if !errors.As(err, &e) || e.Kind != mesh.Failed || !strings.Contains(e.Text, "' exited ") || e.Hint != "it starts too many processes: all builds together may have 4096" {
		t.Errorf("got %v", err)
	}
}

func TestBuild_ThatTakesTooMuchMemory(t *testing.T) {
	enginetest.Alone(t)
	b := limited(t, builder.Options{Memory: 512 << 20})
	defer unlimited(t)
	_, _, err := b.build(b.fresh(tree{"Dockerfile": from("RUN dd if=/dev/zero of=/dev/null bs=1000M count=1")}))
	var e *mesh.Error
	if !errors.As(err, &e) || e.Kind != mesh.Failed || !strings.Contains(e.Text, "' exited 137") && !strings.Contains(e.Text, "' ran out of memory") || e.Hint != "it was killed, most likely because it used too much memory: all builds together may use 512 MB" {
		t.Errorf("got %v", err)
	}
}

// unlimited removes the limits of builds, which outlive the builder.
func unlimited(t *testing.T) {
	t.Helper()
	for path, value := range map[string]string{"pids/docker/buildkit/pids.max": "max", "memory/docker/buildkit/memory.limit_in_bytes": "-1", "docker/buildkit/pids.max": "max", "docker/buildkit/memory.max": "max"} {
		if err := os.WriteFile("/sys/fs/cgroup/"+path, []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
}

func TestSweep_TouchesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	mine, other := newBench(t), newBench(t)
	a, _ := mine.must(mine.fresh(tree{"Dockerfile": from("RUN echo a")}))
	kept, _ := mine.must(mine.fresh(tree{"Dockerfile": from("RUN echo kept")}))
	theirs, _ := other.must(other.fresh(tree{"Dockerfile": from("RUN echo theirs")}))
	keep := func(_ mesh.StackName, id string) bool { return id == kept.ID }
	for _, dry := range []bool{true, false} {
		gone, err := mine.Sweep(t.Context(), keep, dry)
		if err != nil || len(gone) != 1 || gone[0].ID != a.ID || gone[0].Stack != mine.stack || gone[0].Size == 0 {
			t.Errorf("gone %+v, %v", gone, err)
		}
		if there, err := mine.Present(t.Context(), a.ID); err != nil || there != dry {
			t.Errorf("dry %v, and the image is there: %v, %v", dry, there, err)
		}
	}
	for _, id := range []string{kept.ID, theirs.ID} {
		if there, err := mine.Present(t.Context(), id); err != nil || !there {
			t.Errorf("%s is gone: %v", id, err)
		}
	}
}

func TestRoomAndCache(t *testing.T) {
	t.Parallel()
	b := limited(t, builder.Options{MinFree: 1 << 20, MaxCache: 1 << 40})
	free, need, known, err := b.Room(t.Context())
	if err != nil || !known || free <= 0 || need != 1<<20 {
		t.Errorf("free %d, need %d, %v, %v", free, need, known, err)
	}
	_, limit, err := b.Cache(t.Context())
	if err != nil || limit != 1<<40 {
		t.Errorf("limit %d, %v", limit, err)
	}
	if freed, err := b.PruneCache(t.Context(), false); err != nil || freed != 0 {
		t.Errorf("a cache below its limit was pruned: %d, %v", freed, err)
	}
}

// With control groups version 2, later BuildKits report it themselves, without a
// code.
func TestBuild_ThatRanOutOfMemory(t *testing.T) {
	t.Parallel()
	b := builder.New(engine.Of(cli), builder.Options{Memory: 512 << 20})
	err := b.Cause(t.Context(), "RUN make", errors.New(`process "/bin/sh -c make" did not complete successfully: cannot allocate memory`))
	var e *mesh.Error
	if !errors.As(err, &e) || e.Kind != mesh.Failed || e.Text != "'RUN make' ran out of memory" || e.Hint != "it was killed, most likely because it used too much memory: all builds together may use 512 MB" {
		t.Errorf("got %v", err)
	}
}
