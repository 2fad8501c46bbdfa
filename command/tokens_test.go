package command_test

import (
	"regexp"
	"strings"
	"testing"

	"mesh"
)

// A token is shown once; mesh keeps its hash, and the audit log neither.
func TestTokens(t *testing.T) {
	t.Parallel()
	f := stacks("blog")
	r := do(t, f, "tokens:add ci --stack blog --expires 90d")
	token := strings.TrimSpace(r.out)
	if r.status != 0 || !regexp.MustCompile(`^mesh_[a-z2-7]{52}$`).MatchString(token) || !strings.Contains(r.err, "added token ci (deploy, until ") {
		t.Fatalf("%d %q %q", r.status, r.out, r.err)
	}
	k := f.keys[len(f.keys)-1]
	if k.Token != mesh.HashToken(token) || k.Role != mesh.RoleDeploy || len(k.Stacks) != 1 || k.Expires.IsZero() || k.Fingerprint != "" {
		t.Errorf("recorded %+v", k)
	}
	if r := do(t, f, "tokens"); !strings.HasPrefix(r.out, "ci ") || strings.Contains(r.out, token) {
		t.Errorf("listed: %q", r.out)
	}
	if r := do(t, f, "ssh-keys"); strings.Contains(r.out, "ci ") {
		t.Errorf("listed as a key: %q", r.out)
	}
	for line, want := range map[string]string{
		"tokens:add x --role admin":      "cannot have the role admin",
		"tokens:add x --role boss":       `no role "boss"`,
		"tokens:add x --expires 0d":      `"0d" is not a time`,
		"tokens:add x --expires 9999999": `"9999999" is not a time`,
		"tokens:add x --expires 99999d":  `"99999d" is not a time`,
		"tokens:add 'a b'":               `"a b" is not a key name`,
		"tokens:remove laptop":           `no token is named "laptop"`,
	} {
		if r := do(t, f, line); r.status == 0 || !strings.Contains(r.err, want) {
			t.Errorf("%s: %d %q", line, r.status, r.err)
		}
	}
	if r := do(t, f, "tokens", as(mesh.Key{Name: "dev", Role: mesh.RoleDeploy})); r.status == 0 {
		t.Errorf("a deploy key sees tokens: %q", r.out)
	}
	if r := do(t, f, "tokens:remove ci"); r.status != 0 || r.out != "removed token ci\n" {
		t.Errorf("%d %q %q", r.status, r.out, r.err)
	}
}
