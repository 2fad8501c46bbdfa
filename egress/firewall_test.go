package egress_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"mesh/egress"
)

// namespace is a separate network in which iptables works without root.
type namespace struct {
	t   *testing.T
	pid string
}

func newNamespace(t *testing.T) namespace {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "unshare", "-rn", "sh", "-c", "echo in; exec cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	return namespace{t, strconv.Itoa(cmd.Process.Pid)}
}

func (n namespace) run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", n.pid, "-U", "--preserve-credentials", "-n", program}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (n namespace) rules(program string) string {
	n.t.Helper()
	out, err := exec.CommandContext(n.t.Context(), "nsenter", "-t", n.pid, "-U", "--preserve-credentials", "-n", program, "-S").CombinedOutput()
	if err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// With the real iptables: rules for containers, set again without duplicates, and
// removed. Whether the engine's control group can be matched depends on the machine,
// and is logged.
func TestFirewall(t *testing.T) {
	t.Parallel()
	n := newNamespace(t)
	p := policy(t, nil, "169.254.10.0/24", "fd00:ec2::254")
	f := egress.Firewall{
		Run: n.run, Engine: "system.slice/docker.service", Inside: netip.MustParsePrefix("10.213.0.0/16"),
		Ports: []egress.Port{{Protocol: "udp", Number: 53}, {Protocol: "tcp", Number: 8080}},
	}
	for range 2 {
		containers, engine, err := f.Set(t.Context(), p)
		if !containers || engine != (err == nil) {
			t.Fatalf("containers %v, engine %v: %v", containers, engine, err)
		}
	}
	four, six := n.rules("iptables"), n.rules("ip6tables")
	for _, want := range []string{
		"-A FORWARD -i docker0 -j MESH-CONTAINERS", "-A FORWARD -i br-+ -j MESH-CONTAINERS", "-A INPUT -i docker0 -j MESH-CONTAINERS", "-A INPUT -i br-+ -j MESH-CONTAINERS",
		"-A FORWARD -i docker_gwbridge -j MESH-CONTAINERS", "-A INPUT -i docker_gwbridge -j MESH-CONTAINERS",
		"-A MESH-CONTAINERS -i docker_gwbridge -p udp -m addrtype --dst-type LOCAL -m udp --dport 53 -j ACCEPT",
		"-A MESH-CONTAINERS -s 10.213.0.0/16 -d 10.213.0.0/16 -p udp -m addrtype --dst-type LOCAL -m udp --dport 53 -j ACCEPT",
		"-A MESH-CONTAINERS -s 10.213.0.0/16 -d 10.213.0.0/16 -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 8080 -j ACCEPT",
		"-A MESH-CONTAINERS -d 169.254.10.0/24 -j RETURN\n-A MESH-CONTAINERS -d 169.254.0.0/16 -j REJECT",
	} {
		if strings.Count(four, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, four)
		}
	}
	for _, want := range []string{"-A MESH-CONTAINERS -p ipv6-icmp -j RETURN", "-A MESH-CONTAINERS -d fd00:ec2::254/128 -j RETURN", "-A MESH-CONTAINERS -d fe80::/10 -j REJECT"} {
		if strings.Count(six, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, six)
		}
	}
	if err := f.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if four, six := n.rules("iptables"), n.rules("ip6tables"); strings.Contains(four+six, "MESH") {
		t.Errorf("left:\n%s%s", four, six)
	}
}

// The iptables calls for the engine, in order: name servers and containers first,
// then an admin's exceptions, then what is refused.
func TestFirewall_RulesForTheEngine(t *testing.T) {
	t.Parallel()
	var rules []string
	f := egress.Firewall{Engine: "system.slice/docker.service", Run: func(_ context.Context, program string, args ...string) error {
		line := strings.Join(args, " ")
		if program == "iptables" && (strings.HasPrefix(line, "-w -A MESH-ENGINE") || strings.HasPrefix(line, "-w -I OUTPUT")) {
			rules = append(rules, line)
		}
		if args[1] == "-C" || args[1] == "-n" {
			return fmt.Errorf("not there")
		}
		return nil
	}}
	if containers, engine, err := f.Set(t.Context(), policy(t, nil, "10.0.0.5")); !containers || !engine || err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-w -A MESH-ENGINE -p udp --dport 53 -j RETURN", "-w -A MESH-ENGINE -p tcp --dport 53 -j RETURN",
		"-w -A MESH-ENGINE -o docker0 -j RETURN", "-w -A MESH-ENGINE -o br-+ -j RETURN", "-w -A MESH-ENGINE -o docker_gwbridge -j RETURN", "-w -A MESH-ENGINE -d 10.0.0.5/32 -j RETURN",
		"-w -A MESH-ENGINE -d 127.0.0.0/8 -j REJECT", "-w -A MESH-ENGINE -d 169.254.0.0/16 -j REJECT", "-w -A MESH-ENGINE -d 10.0.0.0/8 -j REJECT",
		"-w -A MESH-ENGINE -d 172.16.0.0/12 -j REJECT", "-w -A MESH-ENGINE -d 192.168.0.0/16 -j REJECT", "-w -A MESH-ENGINE -d 100.64.0.0/10 -j REJECT",
		"-w -A MESH-ENGINE -d 0.0.0.0/8 -j REJECT", "-w -A MESH-ENGINE -m addrtype --dst-type LOCAL -j REJECT",
		"-w -I OUTPUT -m cgroup --path system.slice/docker.service -m conntrack --ctstate NEW -j MESH-ENGINE",
	}
	if strings.Join(rules, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", strings.Join(rules, "\n"))
	}
}
