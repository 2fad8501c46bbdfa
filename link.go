package mesh

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// LinkPort is the TCP port of every link, on the gateway of the network that uses it. It
// is the port that instances have, so a link is used as a service of the stack itself is.
const LinkPort = Port

// Link lets a stack's instances reach a service of another stack over HTTP, under a name
// of their own.
type Link struct {
	To      StackName
	Service ServiceName // web, or a service that listens on $PORT
	As      string      // the host name: a DNS label
}

// NewLink returns the link to a service under its usual name: that of the stack, and for a
// service other than web with its name behind it.
func NewLink(to StackName, service ServiceName) Link {
	l := Link{To: to, Service: service, As: string(to)}
	if service != Web {
		l.As += "-" + string(service)
	}
	return l
}

// ParseLinkName checks the name of a link, which is a host name without a dot.
func ParseLinkName(s string) (string, error) {
	if !linkRule.MatchString(s) {
		return "", &Error{
			Kind: Invalid, Text: fmt.Sprintf("%q is not a name for a link", Clip(s, 60)),
			Hint: "use at most 63 lower-case letters, digits and hyphens, such as blog",
		}
	}
	return s, nil
}

// Var is the config var that tells the app where the link leads.
func (l Link) Var() string {
	return strings.ToUpper(strings.ReplaceAll(l.As, "-", "_")) + "_URL"
}

// URL is the value of Var.
func (l Link) URL() string { return fmt.Sprintf("http://%s:%d", l.As, LinkPort) }

// String names what the link leads to: "blog", or "blog/worker".
func (l Link) String() string {
	if l.Service == Web {
		return string(l.To)
	}
	return string(l.To) + "/" + string(l.Service)
}

// Compare orders links by what they lead to.
func (l Link) Compare(o Link) int {
	return cmp.Or(cmp.Compare(l.To, o.To), cmp.Compare(l.Service, o.Service), cmp.Compare(l.As, o.As))
}

// Door is a link from the side of the stack that it leads to: the requests of the stack
// From for the host As go to Service.
type Door struct {
	From    StackName
	As      string
	Service ServiceName
}

// Resolution is what a name means to the instances of a stack.
type Resolution struct {
	Addrs []netip.Addr // of healthy instances; may be empty
	Link  bool         // the name of a link, which mesh itself serves
}
