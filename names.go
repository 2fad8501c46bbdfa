package mesh

import (
	"cmp"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
)

// StackName names a stack. It is a DNS label of at most 40 characters, because it
// becomes the first label of the stack's own host name.
type StackName string

// ServiceName names a service of a stack ("web", "worker"). The rule is that of
// StackName.
type ServiceName string

// Web is the service that gets HTTP traffic.
const Web ServiceName = "web"

// ReleaseCommand is the Procfile entry that runs before traffic switches. It is not
// a service and cannot be scaled.
const ReleaseCommand ServiceName = "release"

// KeyName names an SSH key.
type KeyName string

// Host is a host name in the form in which the router looks it up: lower case,
// without port and final dot.
type Host string

// Commit is a full git object id in lower-case hex, or empty if a release was not
// made from a commit.
type Commit string

// ReleaseNumber counts the releases of a stack from 1; 0 is "none yet".
type ReleaseNumber int

// DeploymentNumber counts the deployments of a stack from 1; 0 is "none yet".
type DeploymentNumber int

// InstanceName is a service and the slot of an instance: "web.1".
type InstanceName struct {
	Service ServiceName
	Slot    int // counts from 1
}

var (
	labelRule  = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)
	linkRule   = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`) // RFC 1035, 2.3.1: a label has at most 63 bytes
	keyRule    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?$`)
	varRule    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	commitRule = regexp.MustCompile(`^[0-9a-f]{40}$`)
	hostRule   = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
)

const labelText = "use 1 to 40 characters a-z, 0-9 and -, beginning with a letter and not ending with -"

// reserved are the labels below the base domain that belong to mesh. "mesh" is also
// the name of the remote and of the SSH user.
var reserved = map[string]bool{"mesh": true}

// Reserved reports whether a label, a stack's name or the first one below the base
// domain, belongs to mesh.
func Reserved(label string) bool { return reserved[label] }

// ParseStackName checks s against the rule for stack names, and returns an error
// with the rule. It refuses reserved names.
func ParseStackName(s string) (StackName, error) {
	if Reserved(s) {
		return "", &Error{Kind: Invalid, Text: fmt.Sprintf("%q is reserved and cannot name a stack", s), Hint: "choose another name"}
	}
	if !labelRule.MatchString(s) {
		return "", &Error{Kind: Invalid, Text: fmt.Sprintf("%q is not a stack name", Clip(s, 60)), Hint: labelText}
	}
	return StackName(s), nil
}

// ParseServiceName checks s against the rule for service names.
func ParseServiceName(s string) (ServiceName, error) {
	if !labelRule.MatchString(s) {
		return "", &Error{Kind: Invalid, Text: fmt.Sprintf("%q is not a service name", Clip(s, 60)), Hint: labelText}
	}
	return ServiceName(s), nil
}

// ParseKeyName checks s against the rule for key names.
func ParseKeyName(s string) (KeyName, error) {
	if !keyRule.MatchString(s) {
		return "", &Error{
			Kind: Invalid, Text: fmt.Sprintf("%q is not a key name", Clip(s, 60)),
			Hint: "use 1 to 64 characters a-z, A-Z, 0-9, '.', '_', '@' and '-', beginning and ending with a letter or digit",
		}
	}
	return KeyName(s), nil
}

// ParseVarName checks s against the rule for names of config vars, that of POSIX
// environment variables (Base Definitions 8.1), and refuses names that mesh sets
// itself.
func ParseVarName(s string) (string, error) {
	switch {
	case s == "PORT":
		return "", &Error{
			Kind: Invalid, Text: "PORT cannot be set: mesh chooses the port and passes it in $PORT",
			Hint: "make the app listen on 0.0.0.0:$PORT",
		}
	case strings.HasPrefix(s, "MESH_"):
		return "", &Error{
			Kind: Invalid, Text: fmt.Sprintf("%s cannot be set: names that begin with MESH_ are reserved", Clip(s, 60)),
			Hint: "choose another name",
		}
	case !varRule.MatchString(s):
		return "", &Error{
			Kind: Invalid, Text: fmt.Sprintf("%q is not a config var name", Clip(s, 60)),
			Hint: "use letters, digits and _, not beginning with a digit",
		}
	}
	return s, nil
}

// ParseCommit checks that s is a full object id.
func ParseCommit(s string) (Commit, error) {
	if !commitRule.MatchString(s) {
		return "", &Error{Kind: Invalid, Text: fmt.Sprintf("%q is not a commit id", Clip(s, 60)), Hint: "use all 40 hexadecimal digits"}
	}
	return Commit(s), nil
}

// Short is the first seven digits, as git prints them.
func (c Commit) Short() string { return string(c[:min(7, len(c))]) }

// ParseHost brings a host name into the form in which routes are looked up, or
// returns an error with the rule that it breaks (RFC 1123, section 2.1). A leading
// "*." is allowed.
func ParseHost(s string) (Host, error) {
	bad := func(why string) (Host, error) {
		return "", &Error{Kind: Invalid, Text: fmt.Sprintf("%q is not a host name: %s", Clip(s, 80), why), Hint: "use a name such as www.example.com"}
	}
	h := strings.TrimSuffix(strings.ToLower(s), ".")
	switch {
	case h == "":
		return bad("it is empty")
	case strings.Contains(h, "://") || strings.Contains(h, "/"):
		return bad("use only the name, without scheme and path")
	case net.ParseIP(h) != nil:
		return bad("it is an address")
	case strings.Contains(h, ":"):
		return bad("use only the name, without a port")
	case len(h) > 253:
		return bad("it is longer than 253 characters")
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(h, "*."), ".") {
		if !hostRule.MatchString(label) {
			return bad(fmt.Sprintf("the part %q breaks the rule for host names", Clip(label, 64)))
		}
	}
	return Host(h), nil
}

// parseCount reads a number of at least 1, without a sign.
func parseCount(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 1 && s[0] != '+'
}

// ParseReleaseNumber reads "v12" or "12".
func ParseReleaseNumber(s string) (ReleaseNumber, error) {
	n, ok := parseCount(strings.TrimPrefix(s, "v"))
	if !ok {
		return 0, &Error{Kind: Invalid, Text: fmt.Sprintf("%q is not a release", Clip(s, 60)), Hint: "use a number such as v12; list them with: ssh mesh releases"}
	}
	return ReleaseNumber(n), nil
}

func (n ReleaseNumber) String() string {
	if n == 0 {
		return "-"
	}
	return "v" + strconv.Itoa(int(n))
}

// ParseDeploymentNumber reads "#42" or "42".
func ParseDeploymentNumber(s string) (DeploymentNumber, error) {
	n, ok := parseCount(strings.TrimPrefix(s, "#"))
	if !ok {
		return 0, &Error{Kind: Invalid, Text: fmt.Sprintf("%q is not a deployment", Clip(s, 60)), Hint: "use a number such as 42; list them with: ssh mesh deployments"}
	}
	return DeploymentNumber(n), nil
}

func (n DeploymentNumber) String() string { return "#" + strconv.Itoa(int(n)) }

func (n InstanceName) String() string { return string(n.Service) + "." + strconv.Itoa(n.Slot) }

// Compare orders instances for people: web first, then by service and slot.
func (n InstanceName) Compare(o InstanceName) int {
	if n.Service != o.Service {
		return CompareServices(n.Service, o.Service)
	}
	return cmp.Compare(n.Slot, o.Slot)
}

// CompareServices orders services for people: web first, then by name.
func CompareServices(a, b ServiceName) int {
	switch {
	case a == b:
		return 0
	case a == Web:
		return -1
	case b == Web:
		return 1
	}
	return cmp.Compare(a, b)
}

// ParseInstanceName reads "web.1".
func ParseInstanceName(s string) (InstanceName, error) {
	svc, slot, ok := strings.Cut(s, ".")
	name, err := ParseServiceName(svc)
	n, counted := parseCount(slot)
	if !ok || err != nil || !counted {
		return InstanceName{}, &Error{Kind: Invalid, Text: fmt.Sprintf("%q is not an instance", Clip(s, 60)), Hint: "use a service and a number such as web.1; list them with: ssh mesh ps"}
	}
	return InstanceName{name, n}, nil
}

// Clip cuts s to at most n bytes for an error text, without splitting a character,
// and marks the cut.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
