package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
	"mesh/deploy"
	"mesh/egress"
)

// firewallState is the file in which "mesh firewall" records the rules in force, for
// the doctor, which lacks the rights to look. Like the rules, it is lost when the
// machine reboots.
const firewallState = "/run/mesh-firewall.json"

// firewallTime limits how long iptables may take; it waits for other users of its lock.
const firewallTime = time.Minute

// insidePorts are where mesh listens in the networks of stacks: names, and links.
var insidePorts = []egress.Port{{Protocol: "udp", Number: 53}, {Protocol: "tcp", Number: 53}, {Protocol: "tcp", Number: mesh.LinkPort}}

// inForce is the content of firewallState.
type inForce struct {
	Containers bool `json:"containers"` // containers cannot reach metadata services
	Engine     bool `json:"engine"`     // the engine cannot reach the machine and its network
	Names      bool `json:"names"`      // containers can reach mesh's own name servers and links
}

const firewallHelp = `usage: mesh firewall [--remove] [FLAGS OF mesh serve]

Blocks cloud metadata services for containers, and blocks builds in the Docker Engine from
fetching from this machine and its network, except for --fetch-allow. Lets containers reach
mesh's name servers and links, which ufw would block. Needs root and
iptables. The rules last until the machine restarts; mesh.service sets them at each start.
`

// firewallMain implements "mesh firewall".
func firewallMain(args []string, stdout io.Writer) error {
	remove := false
	var rest []string
	for _, a := range args {
		if a == "--remove" {
			remove = true
			continue
		}
		rest = append(rest, a)
	}
	s, err := parseSettings(rest, os.Getenv)
	if errors.Is(err, pflag.ErrHelp) {
		_, _ = io.WriteString(stdout, firewallHelp)
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), firewallTime)
	defer cancel()
	f := egress.Firewall{Run: iptables, Engine: engineGroup(), Inside: deploy.DefaultPool, Ports: insidePorts}
	if remove {
		return errors.Join(f.Remove(ctx), removeState())
	}
	containers, engine, err := f.Set(ctx, s.egress)
	data, jerr := json.Marshal(inForce{Containers: containers, Engine: engine, Names: containers})
	if jerr == nil {
		jerr = os.WriteFile(firewallState, append(data, '\n'), 0o644) //nolint:gosec // the doctor reads it as another user
	}
	if containers {
		_, _ = fmt.Fprintln(stdout, "containers cannot reach link-local and metadata addresses")
		_, _ = fmt.Fprintln(stdout, "containers can reach mesh's name servers and links")
	}
	if engine {
		_, _ = fmt.Fprintln(stdout, "builds cannot reach the machine and its network through the engine")
	}
	if err != nil {
		return mesh.Errorf(mesh.Failed, "some rules could not be set: %w", err).WithHint("run it as root, with iptables installed; the rules for the engine need cgroup v2")
	}
	return jerr
}

func removeState() error {
	if err := os.Remove(firewallState); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func iptables(ctx context.Context, program string, args ...string) error {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		line, _, _ := strings.Cut(string(bytes.TrimSpace(out)), "\n")
		return fmt.Errorf("%w: %s", err, line)
	}
	return nil
}

// engineGroup returns the control group of this machine's engine.
func engineGroup() string {
	const usual = "system.slice/docker.service"
	pid, err := os.ReadFile("/run/docker.pid")
	if err != nil {
		return usual
	}
	groups, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/cgroup")
	if err != nil {
		return usual
	}
	for line := range strings.Lines(string(groups)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/"); ok && path != "" {
			return path
		}
	}
	return usual
}

// namesBlocked reports whether ufw drops what containers send to this machine. Other
// firewalls let Docker's bridges in by default, as firewalld does.
func namesBlocked() bool {
	if firewalled().Names {
		return false
	}
	conf, err := os.ReadFile("/etc/ufw/ufw.conf") // everyone may read it
	return err == nil && ufwEnabled.Match(conf)
}

var ufwEnabled = regexp.MustCompile(`(?m)^\s*ENABLED=["']?yes`)

// firewalled returns which parts of the firewall are in force.
func firewalled() (f inForce) {
	data, err := os.ReadFile(firewallState)
	if err == nil {
		_ = json.Unmarshal(data, &f)
	}
	return f
}
