package mesh_test

import (
	"errors"
	"testing"

	"mesh"
)

func TestKey_May(t *testing.T) {
	t.Parallel()
	limited := []mesh.StackName{"blog"}
	const r, d, a = mesh.AccessRead, mesh.AccessDeploy, mesh.AccessAdmin
	for _, tc := range []struct {
		name   string
		key    mesh.Key
		stack  mesh.StackName
		access [3]bool // read, deploy, admin
	}{
		{"admin on a stack", mesh.Key{Role: mesh.RoleAdmin}, "blog", [3]bool{true, true, true}},
		{"admin on the server", mesh.Key{Role: mesh.RoleAdmin}, "", [3]bool{true, true, true}},
		{"deploy on a stack", mesh.Key{Role: mesh.RoleDeploy}, "blog", [3]bool{true, true, false}},
		{"deploy on the server", mesh.Key{Role: mesh.RoleDeploy}, "", [3]bool{true, true, false}},
		{"read on a stack", mesh.Key{Role: mesh.RoleRead}, "blog", [3]bool{true, false, false}},
		{"read on the server", mesh.Key{Role: mesh.RoleRead}, "", [3]bool{true, false, false}},
		{"limited admin on its stack", mesh.Key{Role: mesh.RoleAdmin, Stacks: limited}, "blog", [3]bool{true, true, true}},
		{"limited admin elsewhere", mesh.Key{Role: mesh.RoleAdmin, Stacks: limited}, "shop", [3]bool{}},
		{"limited admin on the server", mesh.Key{Role: mesh.RoleAdmin, Stacks: limited}, "", [3]bool{}},
		{"limited deploy on its stack", mesh.Key{Role: mesh.RoleDeploy, Stacks: limited}, "blog", [3]bool{true, true, false}},
		{"limited deploy elsewhere", mesh.Key{Role: mesh.RoleDeploy, Stacks: limited}, "shop", [3]bool{}},
		{"limited deploy on the server", mesh.Key{Role: mesh.RoleDeploy, Stacks: limited}, "", [3]bool{}},
		{"limited read on its stack", mesh.Key{Role: mesh.RoleRead, Stacks: limited}, "blog", [3]bool{true, false, false}},
		{"limited read elsewhere", mesh.Key{Role: mesh.RoleRead, Stacks: limited}, "blog2", [3]bool{}},
		{"no role", mesh.Key{}, "blog", [3]bool{}},
		{"a role of another version", mesh.Key{Role: "owner"}, "blog", [3]bool{}},
	} {
		for i, access := range []mesh.Access{r, d, a} {
			if got := tc.key.May(access, tc.stack); got != tc.access[i] {
				t.Errorf("%s: May(%s) = %v", tc.name, access, got)
			}
		}
	}
}

func TestParseRole(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"admin", "deploy", "read"} {
		if role, err := mesh.ParseRole(s); err != nil || string(role) != s {
			t.Errorf("ParseRole(%q) = %q, %v", s, role, err)
		}
	}
	for _, s := range []string{"", "Admin", "root", "admin "} {
		if _, err := mesh.ParseRole(s); !errors.Is(err, mesh.Invalid) {
			t.Errorf("ParseRole(%q) = %v, want invalid", s, err)
		}
	}
}
