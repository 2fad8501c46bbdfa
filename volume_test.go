package mesh_test

import (
	"errors"
	"strings"
	"testing"

	"mesh"
)

func TestParseMountPath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/data": "/data", "/app/uploads/": "/app/uploads", "/etc/app": "/etc/app", "/devices": "/devices", "/sbin/x": "/sbin/x", "/var/lib/ü": "/var/lib/ü",
	} {
		if got, err := mesh.ParseMountPath(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for in, why := range map[string]string{
		"": "not absolute", "data": "not absolute", "./data": "not absolute", "/": "whole container", "//": "whole container", "/a/..": "whole container",
		"/a/../b": "not clean", "/a//b": "not clean", "/a/.": "not clean", "/proc": "/proc belongs", "/proc/x": "/proc belongs", "/sys/fs": "/sys belongs", "/dev/shm": "/dev belongs",
		"/etc": "/etc/hosts", "/etc/hosts": "/etc/hosts", "/etc/resolv.conf": "/etc/resolv.conf", "/sbin": "/sbin/docker-init",
		"/a\nb": "cannot be shown", "/" + strings.Repeat("x", 600): "longer than 512",
	} {
		if _, err := mesh.ParseMountPath(in); !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", in, err, why)
		}
	}
}

func TestParseVolumeName(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "mesh", "Up", "a_b", "-a", "a-", "../x", strings.Repeat("a", 41)} {
		if _, err := mesh.ParseVolumeName(bad); !errors.Is(err, mesh.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if n, err := mesh.ParseVolumeName("uploads-2"); err != nil || n != "uploads-2" {
		t.Error(n, err)
	}
}

func TestOverlaps(t *testing.T) {
	t.Parallel()
	for _, p := range []struct {
		a, b string
		want bool
	}{{"/a", "/a", true}, {"/a", "/a/b", true}, {"/a/b", "/a", true}, {"/a", "/ab", false}, {"/a/b", "/a/c", false}} {
		if got := mesh.Overlaps(p.a, p.b); got != p.want {
			t.Errorf("%s and %s: %v", p.a, p.b, got)
		}
	}
}

func TestStack_Alone(t *testing.T) {
	t.Parallel()
	s := mesh.Stack{Volumes: []mesh.VolumeUse{
		{Volume: "a", Service: "worker", Path: "/a"}, {Volume: "b", Service: "web", Path: "/b", Shared: true}, {Volume: "b", Service: "worker", Path: "/b", Shared: true},
	}}
	if u, ok := s.Alone("worker"); !ok || u.Volume != "a" {
		t.Error(u, ok)
	}
	if u, ok := s.Alone("web"); ok {
		t.Error(u)
	}
	if got := s.UsesOf("b"); len(got) != 2 || len(s.UsesOf("c")) != 0 {
		t.Error(got)
	}
}
