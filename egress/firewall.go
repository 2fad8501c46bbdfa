package egress

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

// Firewall enforces what this process cannot: containers do not reach a cloud's
// metadata, and the engine, if a name resolves to something else later, fetches from
// nowhere that the policy refuses. It needs root, and its rules last until the
// machine restarts.
type Firewall struct {
	// Run runs iptables or ip6tables with arguments. An error means that it failed.
	Run func(ctx context.Context, program string, args ...string) error
	// Engine is the control group of the engine, in the form that the match "cgroup"
	// of iptables-extensions(8) needs: "system.slice/docker.service".
	Engine string
	// Inside holds the networks of stacks. Their containers reach mesh's name servers and
	// links whatever other rules there are, such as those of ufw, which drops what comes in.
	// The zero prefix: no such rule.
	Inside netip.Prefix
	// Ports are those of mesh in these networks.
	Ports []Port
}

// Port is a port of the machine.
type Port struct {
	Protocol string // "udp" or "tcp"
	Number   uint16
}

// mesh's own chains. They are reached from the kernel's chains, not from
// DOCKER-USER, which Docker creates for IPv6 only if it manages that, and empties
// with firewalld.
const (
	chainContainers = "MESH-CONTAINERS"
	chainEngine     = "MESH-ENGINE"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	program  string
	metadata []string // link-local, and where clouds have their metadata
	inside   []string // networks that the engine may not open a connection to
	is       func(netip.Addr) bool
}

var families = []family{
	{
		"iptables",
		[]string{"169.254.0.0/16"},
		[]string{"127.0.0.0/8", "169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "0.0.0.0/8"},
		netip.Addr.Is4,
	},
	{
		"ip6tables",
		[]string{"fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128"},
		[]string{"::1/128", "fe80::/10", "fc00::/7", "::/128"},
		netip.Addr.Is6,
	},
}

// Docker's bridges: its own, those of networks, including mesh's, and the one over which
// containers of networks across nodes leave their node.
var bridges = []string{"docker0", "br-+", gateway}

const gateway = "docker_gwbridge"

// Set installs the rules, replacing those that it has installed before. containers
// reports whether containers are blocked from the metadata, engine whether the
// engine is limited; err explains why not.
func (f Firewall) Set(ctx context.Context, p *Policy) (containers, engine bool, err error) {
	containers, engine = true, true
	var faults []error
	for _, fam := range families {
		if err := f.containers(ctx, fam, p); err != nil {
			faults = append(faults, fmt.Errorf("%s for containers: %w", fam.program, err))
			containers = false
		}
		if err := f.engine(ctx, fam, p); err != nil {
			faults = append(faults, fmt.Errorf("%s for the engine: %w", fam.program, err))
			engine = false
		}
	}
	return containers, engine, errors.Join(faults...)
}

// Remove removes all rules.
func (f Firewall) Remove(ctx context.Context) error {
	var faults []error
	for _, fam := range families {
		for _, j := range f.jumps(chainContainers) {
			f.drop(ctx, fam, j)
		}
		for _, j := range f.jumps(chainEngine) {
			f.drop(ctx, fam, j)
		}
		for _, chain := range []string{chainContainers, chainEngine} {
			if f.Run(ctx, fam.program, "-w", "-n", "-L", chain) != nil {
				continue // there is none
			}
			faults = append(faults, f.Run(ctx, fam.program, "-w", "-F", chain), f.Run(ctx, fam.program, "-w", "-X", chain))
		}
	}
	return errors.Join(faults...)
}

// jumps are the rules that jump to a chain: the chain that they are in, and the
// rest.
func (f Firewall) jumps(chain string) (list [][]string) {
	if chain == chainEngine {
		return [][]string{{"OUTPUT", "-m", "cgroup", "--path", f.Engine, "-m", "conntrack", "--ctstate", "NEW", "-j", chain}}
	}
	// Traffic through the machine passes FORWARD, traffic to the machine itself
	// INPUT.
	for _, b := range bridges {
		list = append(list, []string{"FORWARD", "-i", b, "-j", chain}, []string{"INPUT", "-i", b, "-j", chain})
	}
	return list
}

func (f Firewall) drop(ctx context.Context, fam family, jump []string) {
	for f.Run(ctx, fam.program, append([]string{"-w", "-D"}, jump...)...) == nil {
		// once for each time that it exists
	}
}

// chain creates a chain with the given rules, and the jumps to it.
func (f Firewall) chain(ctx context.Context, fam family, name string, rules [][]string) error {
	if f.Run(ctx, fam.program, "-w", "-n", "-L", name) != nil {
		if err := f.Run(ctx, fam.program, "-w", "-N", name); err != nil {
			return err
		}
	}
	if err := f.Run(ctx, fam.program, "-w", "-F", name); err != nil {
		return err
	}
	for _, r := range rules {
		if err := f.Run(ctx, fam.program, append([]string{"-w", "-A", name}, r...)...); err != nil {
			return err
		}
	}
	for _, j := range f.jumps(name) {
		if f.Run(ctx, fam.program, append([]string{"-w", "-C"}, j...)...) == nil {
			continue
		}
		if err := f.Run(ctx, fam.program, append([]string{"-w", "-I"}, j...)...); err != nil {
			return err
		}
	}
	return nil
}

// excepted are the rules for an admin's exceptions.
func (p *Policy) excepted(fam family) (rules [][]string) {
	for _, n := range p.nets {
		if fam.is(n.Addr()) {
			rules = append(rules, []string{"-d", n.String(), "-j", "RETURN"})
		}
	}
	return rules
}

func (f Firewall) containers(ctx context.Context, fam family, p *Policy) error {
	rules := p.excepted(fam)
	for _, n := range fam.metadata {
		rules = append(rules, []string{"-d", n, "-j", "REJECT"})
	}
	if f.Inside.IsValid() && fam.is(f.Inside.Addr()) {
		for _, p := range f.Ports {
			rules = append(rules, []string{
				"-s", f.Inside.String(), "-d", f.Inside.String(), "-m", "addrtype", "--dst-type", "LOCAL",
				"-p", p.Protocol, "--dport", strconv.Itoa(int(p.Number)), "-j", "ACCEPT",
			}, []string{"-i", gateway, "-m", "addrtype", "--dst-type", "LOCAL", "-p", p.Protocol, "--dport", strconv.Itoa(int(p.Number)), "-j", "ACCEPT"})
		}
	}
	if fam.program == "ip6tables" {
		// Neighbour discovery needs link-local addresses.
		rules = append([][]string{{"-p", "ipv6-icmp", "-j", "RETURN"}}, rules...)
	}
	return f.chain(ctx, fam, chainContainers, rules)
}

func (f Firewall) engine(ctx context.Context, fam family, p *Policy) error {
	var rules [][]string
	for _, protocol := range []string{"udp", "tcp"} { // name servers are nearly always inside
		rules = append(rules, []string{"-p", protocol, "--dport", "53", "-j", "RETURN"})
	}
	for _, b := range bridges { // what it publishes for other containers
		rules = append(rules, []string{"-o", b, "-j", "RETURN"})
	}
	rules = append(rules, p.excepted(fam)...)
	for _, n := range fam.inside {
		rules = append(rules, []string{"-d", n, "-j", "REJECT"})
	}
	rules = append(rules, []string{"-m", "addrtype", "--dst-type", "LOCAL", "-j", "REJECT"})
	return f.chain(ctx, fam, chainEngine, rules)
}
