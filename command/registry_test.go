package command_test

import (
	"slices"
	"strings"
	"testing"

	"mesh"
)

func TestRegistry(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	if r := do(t, f, "registry:login https://GHCR.io/ robot", stdin("planted-pass\n")); r.status != 0 || r.out != "signed in to ghcr.io as robot\n" {
		t.Errorf("got %d %s%s", r.status, r.out, r.err)
	}
	if !slices.Contains(f.did, "sign in to ghcr.io as robot by laptop") || f.registries[0].Password.Reveal() != "planted-pass" {
		t.Errorf("did %q", f.did)
	}
	do(t, f, "registry login index.docker.io me", stdin("x"))
	f.registries[0].Added, f.registries[1].Added = now, now
	golden(t, "registry", do(t, f, "registry").out)
	golden(t, "registry.json", do(t, f, "registry --json").out)
	if r := do(t, f, "registries:logout docker.io"); r.status != 0 || !slices.Contains(f.did, "sign out of docker.io by laptop") {
		t.Errorf("got %d %s%q", r.status, r.err, f.did)
	}
	for line, text := range map[string]string{
		"registry:login":               "needs HOST USER",
		"registry:login ghcr.io":       "needs HOST USER",
		"registry:login not/a/host x":  "not the host of a registry",
		"registry:login ghcr.io a:b":   "is not a user name",
		"registry:login ghcr.io me":    "no password on standard input",
		"registry:login ghcr.io me pw": "does not take the argument",
		"registry:logout ../x":         "not the host of a registry",
	} {
		if r := do(t, f, line); r.status != 2 || !strings.Contains(r.err, text) {
			t.Errorf("%s: %d %s", line, r.status, r.err)
		}
	}
	if r := do(t, f, "registry", as(mesh.Key{Name: "ci", Role: mesh.RoleDeploy})); r.status != 1 {
		t.Errorf("a deploy key sees %s", r.out)
	}
	if r := do(t, f, "registry:login ghcr.io me", terminal); r.status != 2 || !strings.Contains(r.out, "terminal") {
		t.Errorf("got %d %s", r.status, r.out)
	}
}
