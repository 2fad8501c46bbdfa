package mesh

import (
	"slices"
	"time"
)

// Role is what a key may do.
type Role string

// The roles, each including those after it.
const (
	RoleAdmin  Role = "admin"
	RoleDeploy Role = "deploy"
	RoleRead   Role = "read"
)

// ParseRole checks s.
func ParseRole(s string) (Role, error) {
	if r := Role(s); r == RoleAdmin || r == RoleDeploy || r == RoleRead {
		return r, nil
	}
	return "", &Error{Kind: Invalid, Text: `there is no role "` + Clip(s, 40) + `"`, Hint: "choose admin, deploy or read"}
}

// Access is what an action needs.
type Access int

// The levels of access. Key.May lists what each role has.
const (
	AccessRead   Access = iota // see a stack: state, logs, deployments, clone; names of config vars
	AccessDeploy               // change a stack: push, config and its values, scale, rollback, run, domains
	AccessAdmin                // change the server: keys, destroying stacks
)

func (a Access) String() string {
	return [...]string{"read", "deploy", "admin"}[a]
}

// Key is an SSH public key and its rights.
type Key struct {
	Name        KeyName
	Role        Role
	Stacks      []StackName // the only ones it may access; empty: all
	Public      string      // "ssh-ed25519 AAAA…", without comment
	Fingerprint string      // "SHA256:…"
	Added       time.Time
	AddedBy     KeyName
}

// May reports whether k has access to a stack, or to the server if stack is empty.
// This is the complete table of rights:
//
//	role    on its stacks    on the server
//	admin   admin            admin (none if limited to stacks)
//	deploy  deploy           create stacks by pushing (if limited, only those)
//	read    read             nothing
//
// A key limited to stacks sees no other stack.
func (k Key) May(a Access, stack StackName) bool {
	if len(k.Stacks) > 0 && !slices.Contains(k.Stacks, stack) {
		return false
	}
	switch k.Role {
	case RoleAdmin:
		return true
	case RoleDeploy:
		return a <= AccessDeploy
	case RoleRead:
		return a <= AccessRead
	}
	return false
}
