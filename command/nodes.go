package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"mesh"
)

// Nodes are the machines that stacks run on.
type Nodes interface {
	// NodeList returns them, this machine first, and how many instances each has, by its ID.
	// It is a Conflict if the server has one machine.
	NodeList(ctx context.Context) (all []mesh.Node, instances map[string]int, err error)
	// EnableNodes and DisableNodes move the running stacks, and write what they do to out.
	// An invalid address is chosen by mesh.
	EnableNodes(ctx context.Context, addr netip.Addr, by mesh.KeyName, out io.Writer) error
	DisableNodes(ctx context.Context, by mesh.KeyName, out io.Writer) error
	// InviteNode returns where a machine fetches what it needs to join, until it expires, and
	// the hash of the public key there, as curl takes it. The URL contains a secret.
	InviteNode(ctx context.Context, by mesh.KeyName) (url mesh.Secret, pin string, until time.Time, err error)
	// DrainNode and RemoveNode start what runs on a node elsewhere, before it ends there.
	DrainNode(ctx context.Context, name string, by mesh.KeyName, out io.Writer) error
	ActivateNode(ctx context.Context, name string, by mesh.KeyName) error
	RemoveNode(ctx context.Context, name string, by mesh.KeyName, out io.Writer) error
	// LabelNode sets labels; those without a value are removed.
	LabelNode(ctx context.Context, name string, labels map[string]string, by mesh.KeyName) error
}

var nodeCommands = []*definition{
	{
		topic: "nodes", short: "List the machines that stacks run on", access: mesh.AccessAdmin, quiet: true, json: true, run: runNodes,
	},
	{
		topic: "nodes", verb: "enable", short: "Let this server have more machines", access: mesh.AccessAdmin, changes: true, run: runNodesEnable,
		long: "Makes this machine's Docker Engine the manager of a swarm, or takes the swarm that it manages, and moves the running\n" +
			"stacks, one at a time, into networks that reach over all nodes: beside the old instances, without downtime. ADDRESS is\n" +
			"where other machines reach this one; it should be in a private network.",
		flags: func(f *pflag.FlagSet) { f.String("advertise-addr", "", "the `ADDRESS` of this machine for the others") },
	},
	{
		topic: "nodes", verb: "disable", short: "Go back to this machine alone", access: mesh.AccessAdmin, changes: true, run: runNodesDisable,
		long: "Starts all instances on this machine, beside the old ones, and makes the other nodes leave the swarm.",
	},
	{
		topic: "nodes", verb: "join", short: "Print the line that makes a machine a node", access: mesh.AccessAdmin, prints: true, json: true, run: runNodesJoin,
		long: "Paste it on the new machine, as root, within an hour. It installs nothing: it checks the machine's Docker Engine, loads\n" +
			"mesh's agent, joins the swarm, and says what is missing.",
	},
	{
		topic: "nodes", verb: "drain", args: "NODE", short: "Move everything away from a node", access: mesh.AccessAdmin, changes: true, min: 1, max: 1, run: runNodesDrain,
		long: "Its instances are started on other nodes, and end once those serve. Nothing is placed on it until nodes:activate.\n" +
			"Services with volumes stay on the machine of mesh.",
	},
	{
		topic: "nodes", verb: "activate", args: "NODE", short: "Place instances on a node again", access: mesh.AccessAdmin, min: 1, max: 1, run: runNodesActivate,
	},
	{
		topic: "nodes", verb: "remove", args: "NODE", short: "Move everything away from a node, and make it leave", access: mesh.AccessAdmin, changes: true, min: 1, max: 1, run: runNodesRemove,
		long: "A node that is dead is forgotten.",
	},
	{
		topic: "nodes", verb: "label", args: "NODE NAME=VALUE…", short: "Set labels of a node, for svc:update --on; NAME= removes one", access: mesh.AccessAdmin, min: 2, max: maxArgs, run: runNodesLabel,
	},
}

type nodeJSON struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Role      string            `json:"role"`
	State     string            `json:"state"`
	Why       string            `json:"why,omitempty"`
	Address   string            `json:"address"`
	Engine    string            `json:"engine"`
	Arch      string            `json:"arch"`
	Instances int               `json:"instances"`
	CPUs      float64           `json:"cpus"`
	Memory    int64             `json:"memory_bytes"`
	Labels    map[string]string `json:"labels"`
	Self      bool              `json:"self"`
	Agent     *time.Time        `json:"agent_since,omitempty"`
}

// nodeState says in a word whether instances are placed on a node.
func nodeState(n mesh.Node) string {
	switch {
	case !n.Ready:
		return "down"
	case n.Drained:
		return "drained"
	case n.Fault != "":
		return "not used"
	}
	return "ready"
}

func runNodes(ctx context.Context, c *call) error {
	all, instances, err := c.Nodes.NodeList(ctx)
	if err != nil {
		return err
	}
	list := []nodeJSON{}
	var rows [][]string
	for _, n := range all {
		j := nodeJSON{
			ID: n.ID, Name: string(n.Name), Role: n.Label("role"), State: nodeState(n), Why: n.Fault, Address: n.Addr.String(), Engine: n.Engine, Arch: n.Arch,
			Instances: instances[n.ID], CPUs: n.CPUs, Memory: n.Memory, Labels: n.Labels, Self: n.Self, Agent: orNil(n.Agent),
		}
		list = append(list, j)
		var labels []string
		for k, v := range n.Labels {
			labels = append(labels, k+"="+v)
		}
		state := j.State
		if n.Fault != "" {
			state += ": " + n.Fault
		}
		if n.Self {
			labels = append(labels, "(mesh)")
		}
		rows = append(rows, []string{
			j.Name, j.Role, state, j.Address, j.Engine, strconv.Itoa(j.Instances), strconv.FormatFloat(j.CPUs, 'g', 3, 64), units.BytesSize(float64(j.Memory)), joinSorted(labels),
		})
	}
	return c.list(list, []string{"NODE", "ROLE", "STATE", "ADDRESS", "ENGINE", "INSTANCES", "CPUS", "MEMORY", "LABELS"}, rows)
}

func joinSorted(words []string) string {
	slices.Sort(words)
	return cmp.Or(strings.Join(words, " "), "-")
}

func runNodesEnable(ctx context.Context, c *call) error {
	var addr netip.Addr
	if v, _ := c.flags.GetString("advertise-addr"); v != "" {
		var err error
		if addr, err = netip.ParseAddr(v); err != nil || !addr.Is4() || addr.IsLoopback() || addr.IsUnspecified() {
			return c.usage("%q is not an address at which other machines reach this one", v)
		}
		c.audited = append(c.audited, "--advertise-addr "+v)
	}
	if err := c.Nodes.EnableNodes(ctx, addr, c.Key.Name, c.Stderr); err != nil {
		return err
	}
	c.say("nodes enabled\n")
	c.tell("add a machine: ssh mesh nodes:join\n")
	return nil
}

func runNodesDisable(ctx context.Context, c *call) error {
	if err := c.Nodes.DisableNodes(ctx, c.Key.Name, c.Stderr); err != nil {
		return err
	}
	c.say("everything runs on this machine\n")
	return nil
}

func runNodesJoin(ctx context.Context, c *call) error {
	url, pin, until, err := c.Nodes.InviteNode(ctx, c.Key.Name)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("curl -fsSk --pinnedpubkey '%s' %s | sh", pin, url.Reveal())
	if c.json {
		return c.printJSON(map[string]any{"line": line, "until": until})
	}
	_, _ = fmt.Fprintln(c.Stdout, line)
	c.tell("Paste it on the new machine, as root, before %s. It has a secret in it.\n", until.Format(time.RFC3339))
	return nil
}

func runNodesDrain(ctx context.Context, c *call) error {
	if err := c.Nodes.DrainNode(ctx, c.args[0], c.Key.Name, c.Stderr); err != nil {
		return err
	}
	c.say("%s is drained; use it again with: ssh mesh nodes:activate %s\n", c.args[0], c.args[0])
	return nil
}

func runNodesActivate(ctx context.Context, c *call) error {
	if err := c.Nodes.ActivateNode(ctx, c.args[0], c.Key.Name); err != nil {
		return err
	}
	c.say("%s gets instances again\n", c.args[0])
	c.tell("what runs stays where it is; to spread a stack anew: ssh mesh ps:restart -a STACK\n")
	return nil
}

func runNodesRemove(ctx context.Context, c *call) error {
	if err := c.Nodes.RemoveNode(ctx, c.args[0], c.Key.Name, c.Stderr); err != nil {
		return err
	}
	c.say("removed %s\n", c.args[0])
	return nil
}

// ownLabels are labels that every node has.
var ownLabels = []string{"name", "role"}

func runNodesLabel(ctx context.Context, c *call) error {
	labels := map[string]string{}
	for _, arg := range c.args[1:] {
		k, v, err := mesh.ParseNodeLabel(arg)
		if err != nil {
			return err
		}
		if slices.Contains(ownLabels, k) {
			return c.usage("every node has the label %s already", k)
		}
		labels[k] = v
	}
	if err := c.Nodes.LabelNode(ctx, c.args[0], labels, c.Key.Name); err != nil {
		return err
	}
	c.say("labelled %s\n", c.args[0])
	c.tell("what runs stays where it is; to place a stack anew: ssh mesh ps:restart -a STACK\n")
	return nil
}
