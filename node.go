package mesh

import (
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// NodeName is the host name of a node, as its engine has it.
type NodeName string

// Node is a machine of the swarm that stacks run on.
type Node struct {
	ID      string // in the swarm
	Name    NodeName
	Addr    netip.Addr // where other nodes reach it
	Manager bool
	Leader  bool // of the managers
	Self    bool // mesh runs on it
	Ready   bool // its engine and the swarm hear of each other
	Drained bool // no instances are placed on it
	Engine  string
	Arch    string  // "x86_64", as the engine says
	CPUs    float64 // cores
	Memory  int64   // bytes
	Labels  map[string]string

	// Agent says since when mesh can use the node's engine; zero: it cannot.
	Agent time.Time
	// Fault says why nothing is placed on it, in a few words; empty: it is used.
	Fault string
}

// Label returns a label of the node. name is its name, role its role in the swarm: every node
// has those.
func (n Node) Label(k string) string {
	switch k {
	case "name":
		return string(n.Name)
	case "role":
		if n.Manager {
			return "manager"
		}
		return "worker"
	}
	return n.Labels[k]
}

// Swarm is what this machine's engine is in a swarm. The zero value is in none.
type Swarm struct {
	ID      string     // of the swarm
	Node    string     // the ID of this machine in it
	Addr    netip.Addr // where other nodes reach this one
	Manager bool
	Owner   string // the ID of the mesh server that uses it; empty: none does
	Ours    bool   // that is this server
	Home    string // the ID of the node that server runs on; empty: an earlier mesh did not record it
	Made    bool   // mesh has made it
}

// Cluster is what the server knows of its nodes. The zero value is one machine without
// others.
type Cluster struct {
	Enabled time.Time // zero: it is off
	By      KeyName
	Addr    netip.Addr // of this machine, for the others
	Made    bool       // mesh has made the swarm, and leaves it when the last node is gone
	// Authority signs the certificates of the wire between mesh and its agents, in PEM.
	Authority    []byte
	AuthorityKey Secret
	Invites      []Invite // for nodes that are to join
}

// Invite lets a machine fetch what it needs to join, until it expires.
type Invite struct {
	Sum   string // SHA-256 of its secret, in hex
	Until time.Time
	By    KeyName
}

// On reports whether the server has nodes.
func (c Cluster) On() bool { return !c.Enabled.IsZero() }

// What the swarm takes for labels, without blanks and what shells read.
var (
	labelName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
	labelValue = regexp.MustCompile(`^[A-Za-z0-9_.-]{0,63}$`)
)

// ParseNodeLabel reads LABEL=VALUE; VALUE may be empty. Labels that begin with "mesh." are mesh's own.
func ParseNodeLabel(s string) (name, value string, err error) {
	name, value, ok := strings.Cut(s, "=")
	switch {
	case !ok:
		return "", "", Errorf(Invalid, "%q is not LABEL=VALUE", Clip(Visible(s), 80))
	case !labelName.MatchString(name) || !labelValue.MatchString(value) || strings.HasPrefix(name, "mesh."):
		return "", "", Errorf(Invalid, "%q is not a label: use letters, digits, dots, hyphens and underscores, at most 63", Clip(Visible(s), 80))
	}
	return name, value, nil
}

func setBuildNode(s *Settings, name, v string) error {
	if v == "" || v == "none" {
		s.BuildNode = ""
		return nil
	}
	_, value, err := ParseNodeLabel(v)
	if err != nil || value == "" {
		return Errorf(Invalid, "%s: %q is not a label with its value", name, Clip(Visible(v), 80)).WithHint("use for example node=zone=b, or node=name=web2")
	}
	s.BuildNode = v
	return nil
}
