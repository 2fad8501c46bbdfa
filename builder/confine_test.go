package builder_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/system"

	"mesh/builder"
	"mesh/engine"
)

func TestConfine_WhereTheStepsAre(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, driver          string
		security              []string
		path, parent, classic string
		fault                 string
	}{
		{name: "the engine's own", driver: "cgroupfs", path: "docker/buildkit", classic: "/docker/buildkit"},
		{name: "systemd's", driver: "systemd", path: "mesh.slice/mesh-build.slice", parent: "/mesh.slice/mesh-build.slice", classic: "mesh-build.slice"},
		{name: "rootless", driver: "systemd", security: []string{"name=seccomp,profile=builtin", "name=rootless"}, fault: "rootless"},
		{name: "none", driver: "none", fault: `its driver is "none"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path, parent, classic, err := builder.CgroupOf(system.Info{CgroupDriver: c.driver, SecurityOptions: c.security})
			if path != c.path || parent != c.parent || classic != c.classic {
				t.Errorf("got %q, %q, %q", path, parent, classic)
			}
			if (err != nil) != (c.fault != "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A server that may not set limits checks whether they are set, with either version
// of control groups.
func TestConfine_LimitsInForce(t *testing.T) {
	t.Parallel()
	const dir = "mesh.slice/mesh-build.slice"
	v1 := func(memory, pids string) map[string]string {
		return map[string]string{"memory/" + dir + "/memory.limit_in_bytes": memory, "pids/" + dir + "/pids.max": pids}
	}
	v2 := func(memory, pids string) map[string]string {
		return map[string]string{"cgroup.controllers": "memory pids", dir + "/memory.max": memory, dir + "/pids.max": pids}
	}
	limited, processesOnly := builder.New(engine.Of(cli), builder.Options{Memory: 512 << 20}), builder.New(engine.Of(cli), builder.Options{})
	for _, c := range []struct {
		name    string
		builder *builder.Builder
		files   map[string]string
		want    bool
	}{
		{"version 1", limited, v1("536870912", "4096"), true},
		{"version 2", limited, v2("536870912", "4096"), true},
		{"stricter ones", limited, v2("1048576", "100"), true},
		{"none, version 1", limited, v1("9223372036854771712", "max"), false},
		{"none, version 2", limited, v2("max", "max"), false},
		{"too much memory", limited, v2("536870913", "4096"), false},
		{"processes only, as wanted", processesOnly, v2("max", "4096"), true},
		{"no such group", limited, map[string]string{"cgroup.controllers": ""}, false},
		{"no control groups", limited, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for name, text := range c.files {
				put(t, filepath.Join(root, name), text+"\n")
			}
			if err := c.builder.InForce(root, dir); (err == nil) != c.want {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The written limits are the ones that are found.
func TestConfine_WritesWhatIsInForce(t *testing.T) {
	t.Parallel()
	b := builder.New(engine.Of(cli), builder.Options{Memory: 1 << 30, Processes: 77})
	for _, version := range []string{"1", "2"} {
		root := t.TempDir()
		if version == "2" {
			put(t, filepath.Join(root, "cgroup.controllers"), "")
		}
		if err := b.Write(root, "docker/buildkit"); err != nil {
			t.Error(err)
		}
		if err := b.InForce(root, "docker/buildkit"); err != nil {
			t.Errorf("version %s: %v", version, err)
		}
		if err := b.InForce(root, "docker"); err == nil {
			t.Errorf("version %s: there are limits above", version)
		}
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
