// Package egress decides which addresses may be fetched from on a tenant's behalf:
// by a Dockerfile's ADD, base images, prebuilt images, submodules. Anyone who may
// push chooses these names, and the server and its engine are inside the operator's
// network, behind its firewall and beside mesh's own listeners.
//
// It refuses the machine's own addresses, loopback, link-local addresses (a cloud's
// metadata) and private ones, unless an admin allows them. Check is for components
// that fetch by themselves, such as the engine; mesh itself fetches through Dial or
// Proxy, so that a name cannot resolve to something else later. Others decide who
// fetches what.
//
//	p, err := egress.New([]string{"10.0.0.5", "git.internal"})
//	err = p.Check(ctx, "metadata.example") // a *mesh.Error with the reason
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"mesh"
)

// Policy decides which addresses may be fetched from. Make one with New; it may be
// used from several goroutines.
type Policy struct {
	// Lookup finds the addresses of a name; nil: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Own lists the machine's addresses; nil: those of its interfaces. Each check
	// calls it, because they change.
	Own func() ([]netip.Addr, error)

	nets  []netip.Prefix
	names map[string]bool
}

// New returns a policy with an admin's exceptions: networks, addresses, and host
// names, which are allowed wherever they resolve to.
func New(allow []string) (*Policy, error) {
	p := &Policy{names: map[string]bool{}}
	var faults []error
	for _, a := range allow {
		a = strings.TrimSpace(a)
		if net, err := netip.ParsePrefix(a); err == nil {
			p.nets = append(p.nets, net.Masked())
			continue
		}
		if addr, err := netip.ParseAddr(a); err == nil {
			addr = addr.Unmap()
			p.nets = append(p.nets, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		host, err := mesh.ParseHost(a)
		if a != "localhost" && (err != nil || strings.HasPrefix(a, "*")) {
			faults = append(faults, mesh.Errorf(mesh.Invalid, "%q is not a network, address or host name", mesh.Clip(a, 60)))
			continue
		}
		p.names[string(host)] = true
	}
	return p, errors.Join(faults...)
}

// Networks returns the exceptions that are networks and addresses.
func (p *Policy) Networks() []netip.Prefix { return slices.Clone(p.nets) }

// Special-purpose networks (RFC 6890 and its registries) for which netip has no
// method.
var special = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"100::/64", "2001:db8::/32", "fec0::/10",
)

// IPv6 networks whose addresses contain an IPv4 address, and where (RFC 6052, 3056,
// 4291).
var embedded = []struct {
	net netip.Prefix
	at  int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12},
	{netip.MustParsePrefix("2002::/16"), 2},
	{netip.MustParsePrefix("::/96"), 12},
}

func prefixes(list ...string) (nets []netip.Prefix) {
	for _, s := range list {
		nets = append(nets, netip.MustParsePrefix(s))
	}
	return nets
}

// refused returns the reason why an address is refused, empty if it is not.
func (p *Policy) refused(a netip.Addr, own []netip.Addr) string {
	a = a.Unmap().WithZone("")
	if slices.ContainsFunc(p.nets, func(n netip.Prefix) bool { return n.Contains(a) }) {
		return ""
	}
	if a.Is6() && !a.IsLoopback() && !a.IsUnspecified() {
		for _, e := range embedded {
			if e.net.Contains(a) {
				b := a.As16()
				if why := p.refused(netip.AddrFrom4([4]byte(b[e.at:e.at+4])), own); why != "" {
					return why
				}
			}
		}
	}
	switch {
	case a.IsLoopback(), a.IsUnspecified():
		return "the server itself"
	case slices.Contains(own, a):
		return "the server's own address"
	case a.IsLinkLocalUnicast(), a.IsLinkLocalMulticast(), a.IsInterfaceLocalMulticast():
		return "link-local"
	case a.IsPrivate():
		return "private"
	case a.IsMulticast(), slices.ContainsFunc(special, func(n netip.Prefix) bool { return n.Contains(a) }):
		return "not a public address"
	}
	return ""
}

// zoneRule restricts zones: ParseAddr accepts anything, and addresses end up in
// command lines of shells.
var zoneRule = regexp.MustCompile(`^[A-Za-z0-9._-]*$`)

// addrs finds the addresses of a host, and refuses the host if any of them is
// refused: a client may use any of them. The error is a *mesh.Error.
func (p *Policy) addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	found := []netip.Addr{}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		if !zoneRule.MatchString(a.Zone()) {
			return nil, mesh.Errorf(mesh.Invalid, "%q is not an address: its zone is not the name of an interface", mesh.Visible(mesh.Clip(host, 100))).
				WithHint("remove the %% and what follows it")
		}
		found = append(found, a)
	} else {
		lookup := p.Lookup
		if lookup == nil {
			lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
				return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
			}
		}
		if found, err = lookup(ctx, host); err != nil || len(found) == 0 {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, &mesh.Error{
				Kind: mesh.Unavailable, Text: fmt.Sprintf("the host %s cannot be found", mesh.Visible(mesh.Clip(host, 100))),
				Hint: "check the name; if it is right, the server's DNS cannot resolve it", Err: err,
			}
		}
	}
	if p.names[host] {
		return found, nil
	}
	own := p.Own
	if own == nil {
		own = interfaces
	}
	mine, err := own()
	if err != nil {
		return nil, fmt.Errorf("list the machine's addresses: %w", err)
	}
	for _, a := range found {
		if why := p.refused(a, mine); why != "" {
			name := host
			if a = a.Unmap(); a.String() != host {
				name += " (" + a.String() + ")"
			}
			return nil, mesh.Errorf(mesh.Denied, "%s is %s: builds and deploys may not fetch from there", mesh.Visible(mesh.Clip(name, 120)), why).
				WithHint("use a public address; an admin of the server can allow others with MESH_FETCH_ALLOW (--fetch-allow)")
		}
	}
	return found, nil
}

func interfaces() (own []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				own = append(own, addr.Unmap())
			}
		}
	}
	return own, err
}

// Check reports whether a host, a name or an address without a port, may be fetched
// from. It is for components that fetch by themselves. If a name resolves to
// something else afterwards, the firewall blocks it (mesh firewall).
func (p *Policy) Check(ctx context.Context, host string) error {
	_, err := p.addrs(ctx, host)
	return err
}

// Pin returns an address of a host that may be fetched from.
func (p *Policy) Pin(ctx context.Context, host string) (netip.Addr, error) {
	found, err := p.addrs(ctx, host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range found {
		if a.Unmap().Is4() { // even a machine without IPv6 has names with such addresses
			return a.Unmap(), nil
		}
	}
	return found[0], nil
}

// Dial connects to host:port if that may be fetched from, and only to an address
// that it has checked.
func (p *Policy) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %q: %w", address, err)
	}
	found, err := p.addrs(ctx, host)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	var errs []error
	for _, a := range found {
		c, err := d.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
