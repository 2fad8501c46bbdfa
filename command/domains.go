package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Hosts reads and changes the host names of a stack. Changes take effect at once.
type Hosts interface {
	// Domains returns all host names of a stack, the one below the base domain first.
	Domains(st mesh.Stack) []mesh.Host
	// AddDomain routes a host to a stack if the key may give it away. If to, another
	// host of the stack, is given, requests are redirected there.
	AddDomain(ctx context.Context, name mesh.StackName, host, to mesh.Host, key mesh.Key) error
	RemoveDomain(ctx context.Context, name mesh.StackName, host mesh.Host) error
	// SetDomains replaces all hosts but the one below the base domain, at once, and
	// returns those added and removed.
	SetDomains(ctx context.Context, name mesh.StackName, hosts []mesh.Host, key mesh.Key) (added, removed []mesh.Host, err error)
}

// Resolver asks DNS; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

var domainCommands = []*definition{
	{
		topic: "domains", short: "List the host names of a stack", stack: true, json: true, run: runDomains,
	},
	{
		topic: "domains", verb: "add", args: "HOST", short: "Add a host name to a stack",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runDomainsAdd,
		flags: func(f *pflag.FlagSet) {
			f.String("redirect-to", "", "redirect requests to this other `HOST` of the stack")
		},
	},
	{
		topic: "domains", verb: "set", args: "HOST…", short: "Replace the host names of a stack, all at once",
		long:  "The stack's own name below the base domain stays. A host that stays keeps its redirect.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: maxArgs, run: runDomainsSet,
	},
	{
		topic: "domains", verb: "remove", args: "HOST", short: "Remove a host name from a stack",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runDomainsRemove,
	},
	{
		topic: "urls", short: "Print the URLs of a stack, its own host first", stack: true, json: true, exact: true, run: runURLs,
	},
}

func runDomains(_ context.Context, c *call) error {
	hosts := c.Hosts.Domains(c.stack)
	if c.json {
		out := map[string]any{"stack": c.stack.Name, "domains": hosts}
		if len(c.stack.Redirects) > 0 {
			out["redirects"] = c.stack.Redirects
		}
		return c.printJSON(out)
	}
	for _, h := range hosts {
		if to := c.stack.Redirects[h]; to != "" {
			c.say("%s -> %s\n", h, to)
			continue
		}
		_, _ = fmt.Fprintln(c.Stdout, h)
	}
	return nil
}

func runDomainsAdd(ctx context.Context, c *call) error {
	host, err := mesh.ParseHost(c.args[0])
	if err != nil {
		return err
	}
	var to mesh.Host
	if s, _ := c.flags.GetString("redirect-to"); s != "" {
		if to, err = mesh.ParseHost(s); err != nil {
			return err
		}
	}
	if err := c.Hosts.AddDomain(ctx, c.stack.Name, host, to, c.Key); err != nil {
		return err
	}
	if to != "" {
		c.say("redirected %s to %s\n", host, to)
		return nil
	}
	c.say("added %s to %s: %s\n", host, c.stack.Name, c.URL(host))
	c.tellDNS(ctx, host)
	return nil
}

func runDomainsSet(ctx context.Context, c *call) error {
	var hosts []mesh.Host
	for _, s := range c.args {
		h, err := mesh.ParseHost(s)
		if err != nil {
			return err
		}
		hosts = append(hosts, h)
	}
	added, removed, err := c.Hosts.SetDomains(ctx, c.stack.Name, hosts, c.Key)
	if err != nil {
		return err
	}
	for _, h := range removed {
		c.say("removed %s from %s\n", h, c.stack.Name)
	}
	for _, h := range added {
		c.say("added %s to %s: %s\n", h, c.stack.Name, c.URL(h))
		c.tellDNS(ctx, h)
	}
	if len(added)+len(removed) == 0 {
		c.say("%s: nothing to change\n", c.stack.Name)
	}
	return nil
}

// lookupTime limits the questions to DNS about a new host.
const lookupTime = 3 * time.Second

// tellDNS says what is wrong with the DNS records of a new host. It should lead where the
// stack's own host below the base domain leads. If that leads nowhere, as on a machine to
// try mesh on, there is nothing to compare.
func (c *call) tellDNS(ctx context.Context, host mesh.Host) {
	for _, s := range c.dnsFaults(ctx, host) {
		c.tell("DNS: %s\n", s)
	}
}

// dnsFaults returns what is wrong with the records of a host, a sentence each.
func (c *call) dnsFaults(ctx context.Context, host mesh.Host) (faults []string) {
	if c.Resolver == nil || strings.Contains(string(host), "*") {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	own := c.Hosts.Domains(c.stack)[0]
	if strings.HasSuffix(string(own), ".localhost") {
		return nil // RFC 6761: never in DNS
	}
	want, err := c.addresses(ctx, own)
	if err != nil || len(want) == 0 || slices.ContainsFunc(want, netip.Addr.IsLoopback) {
		return nil
	}
	got, err := c.addresses(ctx, host)
	var notFound *net.DNSError
	switch {
	case errors.As(err, &notFound) && notFound.IsNotFound, err == nil && len(got) == 0:
		return []string{fmt.Sprintf("%s has no A or AAAA record yet; %s leads to %s", host, own, list(want))}
	case err != nil:
		return []string{fmt.Sprintf("%s cannot be looked up now; it must lead to %s, as %s does", host, list(want), own)}
	default:
		wrong := slices.DeleteFunc(got, func(a netip.Addr) bool { return slices.Contains(want, a) })
		for _, a := range wrong {
			record := "A"
			if a.Is6() {
				record = "AAAA"
			}
			faults = append(faults, fmt.Sprintf("the %s record of %s leads to %s; %s leads to %s", record, host, a, own, list(want)))
		}
		return faults
	}
}

// addresses returns the addresses of a host, sorted.
func (c *call) addresses(ctx context.Context, host mesh.Host) ([]netip.Addr, error) {
	all, err := c.Resolver.LookupNetIP(ctx, "ip", string(host))
	for i, a := range all {
		all[i] = a.Unmap()
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all), err
}

func list(all []netip.Addr) string {
	var texts []string
	for _, a := range all {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}

func runDomainsRemove(ctx context.Context, c *call) error {
	host, err := mesh.ParseHost(c.args[0])
	if err != nil {
		return err
	}
	if err := c.Hosts.RemoveDomain(ctx, c.stack.Name, host); err != nil {
		return err
	}
	c.say("removed %s from %s\n", host, c.stack.Name)
	return nil
}
