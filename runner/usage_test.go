package runner_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mesh"
	"mesh/engine"
	"mesh/runner"
)

// usageOf waits until a container has used some processor time, and returns that.
func usageOf(t *testing.T, r *runner.Runner, id string) mesh.Usage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		got, err := r.Usage(ctx, []string{id, "0123456789ab"})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > 1 {
			t.Fatalf("a container that does not exist uses %v", got)
		}
		if u, ok := got[id]; ok && u.CPU > 0 && u.Memory > 0 {
			return u
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for name, groups := range map[string]string{"control groups": "", "the engine": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, func(o *runner.Options) { o.Groups = groups })
			spec := b.spec("web", "-c", "while :; do :; done")
			spec.Image, spec.Process = shell, mesh.Process{Entrypoint: []string{"/bin/sh"}, Cmd: spec.Process.Cmd}
			in := b.start(spec)
			first := usageOf(t, b.Runner, in.ID)
			if first.Memory < 50<<10 || first.Memory > 100<<20 {
				t.Errorf("a shell takes %d bytes", first.Memory)
			}
			eventually(t, "it uses more", func() bool { return usageOf(t, b.Runner, in.ID).CPU > first.CPU+20*time.Millisecond })
			if err := b.Stop(t.Context(), in.ID, time.Millisecond); err != nil {
				t.Fatal(err)
			}
			if got, err := b.Usage(t.Context(), []string{in.ID}); err != nil || len(got) > 0 {
				t.Errorf("stopped, it uses %v, %v", got, err)
			}
		})
	}
}

func TestDisk(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec("web", "-c", "i=0; while [ $i -lt 2000 ]; do echo 0123456789012345678901234567890123456789012345678901234567890123; i=$((i+1)); done > /file; sleep 1000")
	spec.Image, spec.Process = shell, mesh.Process{Entrypoint: []string{"/bin/sh"}, Cmd: spec.Process.Cmd}
	in := b.start(spec)
	eventually(t, "the file is counted", func() bool {
		got, err := b.Disk(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(got) == 1 && got[in.ID] >= 130_000 && got[in.ID] < 1_000_000
	})
}

// The files of the other layouts, as kernels and engines have them.
func TestUsage_Layouts(t *testing.T) {
	t.Parallel()
	const id = "702aab05d1b25f50b61ac22c281ac09334888882aae2fdde1ec2b6b002ca2fe8"
	v2 := map[string]string{
		"cpu.stat":       "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
		"memory.current": "20971520\n", "memory.stat": "anon 8388608\nfile 12582912\nactive_file 8388608\ninactive_file 4194304\n",
	}
	cpu1 := map[string]string{"cpuacct.usage": "2500000000\n"}
	memory1 := map[string]string{
		"memory.usage_in_bytes": "20971520\n", "memory.stat": "cache 12582912\ninactive_file 1\ntotal_cache 12582912\ntotal_inactive_file 4194304\n",
	}
	for name, folders := range map[string]map[string]map[string]string{
		"version 2":              {"docker/" + id: v2},
		"version 2 with systemd": {"system.slice/docker-" + id + ".scope": v2},
		"version 1":              {"cpuacct/docker/" + id: cpu1, "memory/docker/" + id: memory1},
		"version 1 with systemd": {"cpuacct/system.slice/docker-" + id + ".scope": cpu1, "memory/system.slice/docker-" + id + ".scope": memory1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for folder, files := range folders {
				if err := os.MkdirAll(filepath.Join(root, folder), 0o700); err != nil {
					t.Fatal(err)
				}
				for file, content := range files {
					if err := os.WriteFile(filepath.Join(root, folder, file), []byte(content), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			b := newBench(t, func(o *runner.Options) { o.Groups = root })
			got, err := b.Usage(t.Context(), []string{id})
			if want := (mesh.Usage{CPU: 2500 * time.Millisecond, Memory: 16 << 20}); err != nil || got[id] != want {
				t.Errorf("%v, %v, want %v", got, err, want)
			}
		})
	}
}

func BenchmarkUsage(b *testing.B) {
	for name, groups := range map[string]string{"groups": "", "engine": b.TempDir()} {
		b.Run(name, func(b *testing.B) {
			server := fmt.Sprintf("%08x", rand.Uint32())
			r := runner.New(engine.Of(cli), runner.Options{Server: server + run, Labels: map[string]string{testLabel: run}, Groups: groups})
			ctx := context.Background()
			defer func() { _ = r.RemoveStack(ctx, "bench") }()
			var ids []string
			sub := subnet()
			for n := range 20 {
				in, err := r.Start(ctx, mesh.InstanceSpec{
					Stack: "bench", Name: mesh.InstanceName{Service: "web", Slot: n + 1}, Image: app, Process: mesh.Process{Cmd: []string{"wait"}}, Subnet: sub,
				})
				if err != nil {
					b.Fatal(err)
				}
				ids = append(ids, in.ID)
			}
			for b.Loop() {
				if got, err := r.Usage(ctx, ids); err != nil || len(got) != len(ids) {
					b.Fatal(len(got), err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(len(ids)), "µs/container")
		})
	}
}
