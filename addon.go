package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// AddonName names an add-on. The rule is that of StackName: it is the first label of the
// host name that stacks reach the add-on by.
type AddonName string

// Host is the name by which the instances of attached stacks reach the add-on.
func (n AddonName) Host() string { return string(n) + ".mesh" }

// ParseAddonName checks the name of an add-on.
func ParseAddonName(s string) (AddonName, error) {
	if s == "mesh" || !labelRule.MatchString(s) {
		return "", &Error{Kind: Invalid, Text: fmt.Sprintf("%q is not a name for an add-on", Clip(s, 60)), Hint: labelText}
	}
	return AddonName(s), nil
}

// AddonKind is the kind of an add-on: "postgres", "redis".
type AddonKind string

// AddonState is what an add-on is meant to be. Whether it is, AddonStatus says.
type AddonState string

// The states of an add-on.
const (
	AddonCreating   AddonState = "creating"   // recorded, but never ready yet
	AddonReady      AddonState = "ready"      // its server runs
	AddonStopped    AddonState = "stopped"    // addons:stop
	AddonDestroying AddonState = "destroying" // what is left of it is being removed
)

// Addon is a server for data beside the stacks: a container of an image that others make,
// with a volume that outlives it. It is a value: nobody changes a copy read from the store.
type Addon struct {
	Name      AddonName
	Kind      AddonKind
	Version   string // the tag of its image: "16"
	Image     string // the reference: "postgres:16"
	ImageID   string // what runs: an update of the tag does not change it
	Digest    string // of the image in its registry, "sha256:…"; empty: it was not pulled from one
	State     AddonState
	User      string // that stacks sign in as; empty: the kind has no users
	Database  string // empty: the kind has no databases
	Password  Secret
	Old       Login             // still accepted, because a stack may not have the new one yet; zero: none
	Admin     Secret            // the password of the server's administrator, which no stack gets
	Volume    string            // the engine's volume with the data; empty: the kind keeps nothing
	Memory    int64             // bytes; 0: no limit
	CPUs      float64           // cores; 0: no limit
	Params    map[string]string // parameters of the server
	Pending   string            // the engine's volume that a change fills; empty: none does
	Kept      []KeptVolume      // earlier data, which is removed later
	Preview   StackName         // that it was made for, and is destroyed with; empty: none
	Created   time.Time
	CreatedBy KeyName
}

// Login is how stacks sign in to an add-on.
type Login struct {
	User     string
	Password Secret
}

// IsZero reports whether there is none.
func (l Login) IsZero() bool { return l.User == "" && l.Password.Reveal() == "" }

// Login is how stacks sign in.
func (a Addon) Login() Login { return Login{a.User, a.Password} }

// With returns the add-on with another login.
func (a Addon) With(l Login) Addon {
	a.User, a.Password = l.User, l.Password
	return a
}

// NewAddon is what somebody asks for.
type NewAddon struct {
	Kind    string // or one of its other names
	Version string // empty: the kind's own
	Name    AddonName
	Memory  int64   // bytes; 0: no limit
	CPUs    float64 // cores; 0: no limit
	Params  map[string]string
}

// AddonChange changes the limits and parameters of an add-on.
type AddonChange struct {
	Memory *int64
	CPUs   *float64
	Params map[string]string // an empty value takes one away
}

// Apply returns the add-on with the change.
func (c AddonChange) Apply(a Addon) Addon {
	if c.Memory != nil {
		a.Memory = *c.Memory
	}
	if c.CPUs != nil {
		a.CPUs = *c.CPUs
	}
	params := maps.Clone(a.Params)
	if params == nil {
		params = map[string]string{}
	}
	for name, v := range c.Params {
		if v == "" {
			delete(params, name)
		} else {
			params[name] = v
		}
	}
	a.Params = params
	return a
}

// KeptVolume is the data that an add-on had before it was restored or upgraded.
type KeptVolume struct {
	Volume  string // empty: the data is the same, only the image was another
	Image   string // what ran on it
	ImageID string
	Version string
	Why     string // "restored from b1", "upgraded to 17"
	Until   time.Time
}

// Attachment makes an add-on known to a stack: its instances reach it, and get its URL in
// config vars.
type Attachment struct {
	Addon AddonName
	As    string // the prefix of the config vars: "DATABASE" for DATABASE_URL
	Parts bool   // also the parts of the URL, in the variables that the kind's programs read (PGHOST)
}

// ParseAttachmentName checks the prefix of an attachment's config vars. A name that ends in
// _URL stands for the prefix before it.
func ParseAttachmentName(s string) (string, error) {
	as := strings.TrimSuffix(strings.ToUpper(s), "_URL")
	if !varRule.MatchString(as) || len(as) > 64 {
		return "", &Error{
			Kind: Invalid, Text: fmt.Sprintf("%q is not a name for an attachment", Clip(s, 60)),
			Hint: "use at most 64 letters, digits and underscores, such as --as CACHE, which sets CACHE_URL",
		}
	}
	return as, nil
}

// Attachment returns the attachments of the stack to an add-on.
func (s Stack) Attachment(name AddonName) (out []Attachment) {
	for _, a := range s.Addons {
		if a.Addon == name {
			out = append(out, a)
		}
	}
	return out
}

// Reaches returns the add-ons that the stack is attached to, by name, each once.
func (s Stack) Reaches() []AddonName {
	var out []AddonName
	for _, a := range s.Addons {
		out = append(out, a.Addon)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Compare orders attachments by the add-on and the name.
func (a Attachment) Compare(o Attachment) int {
	return cmp.Or(cmp.Compare(a.Addon, o.Addon), cmp.Compare(a.As, o.As))
}

// AddonStatus is what an add-on does now.
type AddonStatus struct {
	State       string    // "up", "stopped", "crashed (exit 1)", "missing"
	Runs        bool      // or the engine is about to start it again
	Since       time.Time // of a running server: when it started; zero: unknown
	Memory      int64     // bytes in use; 0: unknown
	CPU         float64   // cores in use; 0: unknown
	Size        int64     // bytes of the volume on the disk; -1: unknown
	Connections int       // open ones; -1: the kind cannot tell
	Limit       int       // of connections; 0: the kind cannot tell
	Restarts    int       // by the engine, since the container exists
}

// AddonKindInfo describes a kind, for people.
type AddonKindInfo struct {
	Name    AddonKind
	Also    []string // other names
	Image   string   // without a tag
	Version string   // what is created unless another is named
	Port    int
	As      string // the prefix of its config vars
	Own     bool   // declared by the admin of this server
	Dumps   bool   // it can be backed up
	Shell   bool   // it has a program to type into
}

// AddonFault is something about an add-on that people must hear about, as long as it is so.
type AddonFault struct {
	Name AddonName
	Text string // a sentence without a full stop
}
