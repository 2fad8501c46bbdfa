package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
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

// Key is an SSH public key and its rights: who has it may sign in, or, if it is a
// certificate authority's, who has a certificate that it signed.
type Key struct {
	Name        KeyName
	Role        Role
	Stacks      []StackName // the only ones it may access, with their previews; empty: all
	Previews    []StackName // of Stacks; not recorded with the key
	Public      string      // "ssh-ed25519 AAAA…", without comment
	Fingerprint string      // "SHA256:…"
	Added       time.Time
	AddedBy     KeyName

	// Principals are not empty for a certificate authority. Its key itself signs in
	// nobody; a certificate that it signed for one of these names does.
	Principals []string

	// Token is not empty for an access token, which pushes over HTTPS and signs in nowhere
	// else: the hash of it (HashToken), in hex.
	Token   string
	Expires time.Time // of a token; zero: never
}

// Authority reports whether k is a certificate authority's.
func (k Key) Authority() bool { return len(k.Principals) > 0 }

// SignIn identifies what signs in with k, of all keys: a fingerprint, or the name of an
// authority, of which several may have the same key.
func (k Key) SignIn() string {
	switch {
	case k.Authority():
		return "certificates of " + string(k.Name)
	case k.Token != "":
		return "token " + string(k.Name)
	}
	return k.Fingerprint
}

// HashToken returns the hash of an access token, in hex. A token has 256 random bits, so
// that a fast hash is enough.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// CheckPrincipal checks a name that certificates are issued for. OpenSSH allows any text;
// a blank or a comma would be read as several.
func CheckPrincipal(s string) error {
	if s == "" || len(s) > 100 || s != Visible(s) || strings.ContainsAny(s, " \t,*?!") {
		return Errorf(Invalid, "%q is not a principal", Clip(s, 60)).WithHint("use the name that certificates are signed for: ssh-keygen -s CA -n NAME -I ID KEY.pub")
	}
	return nil
}

// May reports whether k has access to a stack, or to the server if stack is empty.
// This is the complete table of rights:
//
//	role    on its stacks    on the server
//	admin   admin            admin (none if limited to stacks)
//	deploy  deploy           create stacks by pushing (if limited, only those)
//	read    read             nothing
//
// A key limited to stacks sees no others but their previews.
func (k Key) May(a Access, stack StackName) bool {
	if len(k.Stacks) > 0 && !slices.Contains(k.Stacks, stack) && !slices.Contains(k.Previews, stack) {
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

// MayAddon reports whether k has access to an add-on that the stacks in users are attached
// to: to one of them, or to all of them if whole is set, as what changes the data of all.
// Who has it to every stack has it to every add-on. While no stack is attached, the key
// that created it also has it.
func (k Key) MayAddon(a Access, users []StackName, creator KeyName, whole bool) bool {
	if k.May(a, "") {
		return true
	}
	if len(users) == 0 {
		return k.Name == creator && (Key{Role: k.Role}).May(a, "")
	}
	may := func(s StackName) bool { return k.May(a, s) }
	if whole {
		return !slices.ContainsFunc(users, func(s StackName) bool { return !may(s) })
	}
	return slices.ContainsFunc(users, may)
}
