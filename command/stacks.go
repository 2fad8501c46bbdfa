package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Lifecycle creates, renames and destroys stacks.
type Lifecycle interface {
	// CreateStack returns a Conflict if the name is taken.
	CreateStack(ctx context.Context, name mesh.StackName, by mesh.KeyName) (mesh.Stack, error)
	// DestroyStack cancels the stack's deployments, and returns when it cannot be
	// served any more.
	DestroyStack(ctx context.Context, name mesh.StackName, by mesh.KeyName) error
	// RenameStack is a deployment: it writes its output to out.
	RenameStack(ctx context.Context, name, to mesh.StackName, by mesh.KeyName, out io.Writer) error
	// Clone creates a stack like another one, without its config vars if bare, and
	// deploys its image. It writes the deployment's output to out.
	Clone(ctx context.Context, from, to mesh.StackName, by mesh.KeyName, bare bool, out io.Writer) error
}

var stackCommands = []*definition{
	{
		topic: "stacks", short: "List the stacks", json: true, run: runStacks,
		flags: func(f *pflag.FlagSet) {
			f.Bool("all-domains", false, "list every host, and the stack that it leads to")
		},
	},
	{
		topic: "stacks", verb: "create", args: "NAME", short: "Create a stack (the first push does this as well)",
		access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, run: runStacksCreate,
	},
	{
		topic: "stacks", verb: "exists", args: "NAME", short: "Check whether a stack exists: exit status 0 or 20",
		quiet: true, min: 1, max: 1, run: runStacksExists,
	},
	{
		topic: "stacks", verb: "info", short: "Show a stack", stack: true, json: true, run: runStacksInfo,
	},
	{
		topic: "stacks", verb: "set-release-command", args: "-- [COMMAND…]",
		short: "Set the command that runs before a push goes live", long: "Without words, the release command of the Procfile is used.",
		stack: true, access: mesh.AccessDeploy, verbatim: true, max: maxArgs, run: runSetReleaseCommand,
	},
	{
		topic: "stacks", verb: "clone", args: "NEW", short: "Create a stack like this one, with the same image",
		long: "NEW gets the image, config vars, settings, services, number of instances and access rules, but no domains.\n" +
			"Its release command runs, with the config vars of NEW.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runStacksClone,
		flags: func(f *pflag.FlagSet) { f.Bool("no-config", false, "leave out the config vars") },
	},
	{
		topic: "stacks", verb: "rename", args: "NEW", short: "Rename a stack, with its host, remote and limited keys",
		long:  "mesh starts new instances beside the old ones, so the stack's own domains lose no request. Its host below\nthe base domain changes at once.",
		stack: true, access: mesh.AccessAdmin, min: 1, max: 1, run: runStacksRename,
	},
	{
		topic: "stacks", verb: "destroy",
		short: "Remove a stack and everything that belongs to it",
		stack: true, access: mesh.AccessAdmin, run: runStacksDestroy,
		flags: func(f *pflag.FlagSet) {
			f.String("confirm", "", "the `NAME` of the stack again")
			_ = f.SetAnnotation("confirm", required, nil)
			f.Bool("confirmed", false, "") // --force of other tools: the stack was typed once
			_ = f.MarkHidden("confirmed")
		},
	},
}

// stackJSON is the JSON form of a stack.
type stackJSON struct {
	Name       string         `json:"name"`
	State      string         `json:"state"`
	Release    string         `json:"release,omitempty"`
	Commit     string         `json:"commit,omitempty"`
	URL        string         `json:"url"`
	Domains    []string       `json:"domains"`
	Formation  map[string]int `json:"formation"`
	Instances  int            `json:"instances"`
	Branch     string         `json:"branch,omitempty"`
	Created    time.Time      `json:"created"`
	LastDeploy *time.Time     `json:"last_deploy,omitempty"`
	LockedBy   string         `json:"locked_by,omitempty"`
	Links      []linkJSON     `json:"links,omitempty"`
	LinkedFrom []string       `json:"linked_from,omitempty"`
	Spared     []string       `json:"maintenance_allow,omitempty"`
	Ports      []portJSON     `json:"tcp_ports,omitempty"`
	Asleep     *time.Time     `json:"asleep_since,omitempty"`
	PreviewOf  string         `json:"preview_of,omitempty"`
	Jobs       []string       `json:"jobs,omitempty"`    // in stacks:info
	Damaged    string         `json:"damaged,omitempty"` // its damaged record
}

func (c *call) describe(ctx context.Context, st mesh.Stack) (stackJSON, error) {
	out := stackJSON{Name: string(st.Name), State: "not deployed", Created: st.Created, Branch: st.Settings.Branch, Domains: []string{}, Formation: map[string]int{}, Spared: texts(st.Spared)}
	for _, p := range st.Ports {
		out.Ports = append(out.Ports, portJSON{p.Number, string(p.Service), c.Ports.PortFault(p.Number)})
	}
	for _, h := range c.Hosts.Domains(st) {
		out.Domains = append(out.Domains, string(h))
	}
	out.URL = c.URL(mesh.Host(out.Domains[0]))
	if st.Preview != nil {
		out.PreviewOf = string(st.Preview.Of)
	}
	if st.Lock != nil {
		out.LockedBy = string(st.Lock.By)
	}
	if st.Current == 0 {
		return out, nil
	}
	r, err := c.History.Release(ctx, st.Name, st.Current)
	if err != nil {
		return out, err
	}
	out.Release, out.Commit, out.LastDeploy = r.Number.String(), string(r.Commit), &r.Created
	for s, n := range r.Formation {
		out.Formation[string(s)] = n
	}
	up, all := 0, 0
	for _, in := range c.Processes.Status(st.Name) {
		all++
		if in.State == mesh.Up {
			up++
		}
	}
	out.Instances = up
	switch {
	case st.Maintained:
		out.State = "maintenance"
	case st.Stopped:
		out.State = "stopped"
	case !st.Asleep.IsZero():
		at := st.Asleep
		out.State, out.Asleep = "asleep", &at
	case all > 0 && up == 0:
		out.State = "crashed"
	case up < all:
		out.State = "degraded"
	default:
		out.State = "running"
	}
	return out, nil
}

func runStacks(ctx context.Context, c *call) error {
	all, err := c.Stacks.Stacks(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(s mesh.Stack) bool { return !c.Key.May(mesh.AccessRead, s.Name) })
	if hosts, _ := c.flags.GetBool("all-domains"); hosts {
		return c.allDomains(all)
	}
	list := make([]stackJSON, 0, len(all))
	for _, st := range all {
		s, err := c.describe(ctx, st)
		if errors.Is(err, mesh.Damaged) {
			continue // listed below
		}
		if err != nil {
			return err
		}
		list = append(list, s)
	}
	list = append(list, c.damagedStacks(list)...)
	if c.json {
		return c.printJSON(list)
	}
	if len(list) == 0 {
		_, _ = fmt.Fprintln(c.Stderr, "No stacks yet. Push one: git remote add mesh ssh://mesh@HOST:PORT/NAME && git push mesh main")
		return nil
	}
	var rows [][]string
	for _, s := range list {
		release, last := s.Release, "-"
		if release == "" {
			release = "-"
		}
		if s.LastDeploy != nil {
			last = c.when(*s.LastDeploy)
		}
		total := 0
		for _, n := range s.Formation {
			total += n
		}
		rows = append(rows, []string{s.Name, s.State, release, fmt.Sprintf("%d/%d", s.Instances, total), last, s.URL})
	}
	c.table([]string{"STACK", "STATE", "RELEASE", "UP", "DEPLOYED", "URL"}, rows)
	return nil
}

type hostJSON struct {
	Host       string `json:"host"`
	Stack      string `json:"stack"`
	RedirectTo string `json:"redirect_to,omitempty"`
}

// allDomains prints the hosts of all stacks.
func (c *call) allDomains(all []mesh.Stack) error {
	list := []hostJSON{}
	var rows [][]string
	for _, st := range all {
		for _, h := range c.Hosts.Domains(st) {
			list = append(list, hostJSON{string(h), string(st.Name), string(st.Redirects[h])})
			rows = append(rows, []string{string(h), string(st.Name), cmp.Or(string(st.Redirects[h]), "-")})
		}
	}
	return c.list(list, []string{"HOST", "STACK", "REDIRECTS TO"}, rows)
}

// damagedStacks returns the stacks that cannot be read. Other stacks with a damaged
// record are marked in the list.
func (c *call) damagedStacks(list []stackJSON) (out []stackJSON) {
	for _, d := range c.Stacks.Damaged() {
		if d.Stack == "" || !c.Key.May(mesh.AccessRead, d.Stack) {
			continue
		}
		named := func(s stackJSON) bool { return s.Name == string(d.Stack) }
		if i := slices.IndexFunc(list, named); i >= 0 {
			if list[i].Damaged == "" {
				list[i].Damaged = d.What
				c.tell("%s cannot be changed: %s is damaged\n", d.Stack, d.What)
			}
			continue
		}
		if slices.ContainsFunc(out, named) {
			continue
		}
		own := c.Hosts.Domains(mesh.Stack{Name: d.Stack})
		out = append(out, stackJSON{Name: string(d.Stack), State: "damaged", URL: c.URL(own[0]), Domains: []string{string(own[0])}, Formation: map[string]int{}, Damaged: d.What})
		c.tell("%s cannot be read: %s is damaged; see: ssh mesh doctor\n", d.Stack, d.What)
	}
	return out
}

func runStacksCreate(ctx context.Context, c *call) error {
	name, err := mesh.ParseStackName(c.args[0])
	if err != nil {
		return err
	}
	if !c.Key.May(mesh.AccessDeploy, name) {
		return c.denied(mesh.AccessDeploy)
	}
	st, err := c.Lifecycle.CreateStack(ctx, name, c.Key.Name)
	if err != nil {
		return err
	}
	c.say("created %s; after the first push it will be at %s\n", st.Name, c.URL(c.Hosts.Domains(st)[0]))
	return nil
}

// runStacksExists does not tell a stack that the key may not see from none.
func runStacksExists(ctx context.Context, c *call) error {
	name := mesh.StackName(c.args[0])
	if c.Key.May(mesh.AccessRead, name) {
		_, err := c.Stacks.Stack(ctx, name)
		if !errors.Is(err, mesh.NoStack) {
			return nil // one that is damaged exists
		}
	}
	return mesh.ExitCode(mesh.ExitStatus(mesh.NoStack))
}

// runURLs prints the address of each host of a stack.
func runURLs(_ context.Context, c *call) error {
	urls := []string{}
	for _, h := range c.Hosts.Domains(c.stack) {
		urls = append(urls, c.URL(h))
	}
	for _, p := range c.stack.Ports {
		urls = append(urls, c.portURL(p))
	}
	if c.json {
		return c.printJSON(urls)
	}
	for _, u := range urls {
		_, _ = fmt.Fprintln(c.Stdout, u)
	}
	return nil
}

// newName returns the name that a stack is to get, if the key may use it.
func (c *call) newName(need mesh.Access, verb string) (mesh.StackName, error) {
	to, err := mesh.ParseStackName(c.args[0])
	if err == nil && !c.Key.May(need, to) {
		err = mesh.Errorf(mesh.Denied, "the key %q is limited to other stacks and may not use the name %s", c.Key.Name, to).
			WithHint("ask an admin of the server to %s it", verb)
	}
	return to, err
}

func runStacksRename(ctx context.Context, c *call) error {
	to, err := c.newName(mesh.AccessAdmin, "rename")
	if err != nil {
		return err
	}
	if err := c.Lifecycle.RenameStack(ctx, c.stack.Name, to, c.Key.Name, c.Stderr); err != nil {
		return err
	}
	st, err := c.Stacks.Stack(ctx, to)
	if err != nil {
		return err
	}
	was := c.stack.Name
	c.stack.Name, c.args = to, []string{"-a", string(was), string(to)} // for the audit log: nobody has the old name now
	c.say("renamed %s to %s: %s\n", was, to, c.URL(c.Hosts.Domains(st)[0]))
	return nil
}

func runStacksClone(ctx context.Context, c *call) error {
	to, err := c.newName(mesh.AccessDeploy, "clone")
	if err != nil {
		return err
	}
	bare, _ := c.flags.GetBool("no-config")
	if bare {
		c.audited = []string{"--no-config"}
	}
	if err := c.Lifecycle.Clone(ctx, c.stack.Name, to, c.Key.Name, bare, c.Stderr); err != nil {
		return err
	}
	st, err := c.Stacks.Stack(ctx, to)
	if err != nil {
		return err
	}
	c.say("cloned %s to %s: %s\n", c.stack.Name, to, c.URL(c.Hosts.Domains(st)[0]))
	c.tellVolumes("the new stack has none of them: %s")
	return nil
}

func runStacksInfo(ctx context.Context, c *call) error {
	s, err := c.describe(ctx, c.stack)
	if err != nil {
		return err
	}
	if s.Links, s.LinkedFrom, err = c.linksOf(ctx, c.stack); err != nil {
		return err
	}
	jobs, err := c.Jobs.JobsOf(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if !j.Gone {
			s.Jobs = append(s.Jobs, string(j.Name))
		}
	}
	if c.json {
		return c.printJSON(s)
	}
	row := func(k, v string) { c.say("%-11s %s\n", k, v) }
	row("Stack:", s.Name)
	if len(s.Spared) > 0 {
		row("State:", s.State+", except for "+strings.Join(s.Spared, ", "))
	} else {
		row("State:", s.State)
	}
	row("URL:", s.URL)
	if s.Release != "" {
		row("Release:", s.Release)
		if s.Commit != "" {
			row("Commit:", s.Commit)
		}
		row("Deployed:", c.when(*s.LastDeploy))
		row("Formation:", formationLine(s.Formation))
	}
	if s.LockedBy != "" {
		row("Locked by:", s.LockedBy)
	}
	if s.PreviewOf != "" {
		row("Preview of:", s.PreviewOf)
	}
	if s.Branch != "" {
		row("Branch:", mesh.Visible(s.Branch))
	}
	if len(s.Domains) > 1 {
		row("Domains:", strings.Join(s.Domains[1:], " "))
	}
	for _, l := range c.stack.Links {
		row("Link:", fmt.Sprintf("%s, at %s", l, l.URL()))
	}
	if len(s.LinkedFrom) > 0 {
		row("Linked by:", strings.Join(s.LinkedFrom, " "))
	}
	for _, p := range s.Ports {
		row("TCP:", portsText([]portJSON{p})+" → "+p.Service)
	}
	if len(s.Jobs) > 0 {
		row("Jobs:", strings.Join(s.Jobs, " "))
	}
	row("Created:", c.when(s.Created))
	return nil
}

func formationLine(f map[string]int) string {
	form := mesh.Formation{}
	for k, n := range f {
		form[mesh.ServiceName(k)] = n
	}
	return form.String()
}

func runStacksDestroy(ctx context.Context, c *call) error {
	confirm, _ := c.flags.GetString("confirm")
	if forced, _ := c.flags.GetBool("confirmed"); forced && c.typed {
		confirm = string(c.stack.Name)
	}
	if confirm != string(c.stack.Name) {
		return mesh.Errorf(mesh.Invalid, "destroying %s cannot be undone; confirm with its name", c.stack.Name).
			WithHint("ssh mesh stacks:destroy -a %s --confirm %s", c.stack.Name, c.stack.Name)
	}
	if err := c.Lifecycle.DestroyStack(ctx, c.stack.Name, c.Key.Name); err != nil {
		return err
	}
	c.say("destroyed %s\n", c.stack.Name)
	c.tellVolumes("they are kept: %s; remove one with: ssh mesh volumes:destroy NAME --confirm NAME")
	return nil
}
