package command

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"mesh"
)

// Freezer keeps deployments or requests away from a stack.
type Freezer interface {
	// Lock returns a Conflict if the stack is locked, Unlock if it is not.
	Lock(ctx context.Context, stack mesh.StackName, by mesh.KeyName, why string) (mesh.Stack, error)
	Unlock(ctx context.Context, stack mesh.StackName) error
	// SetMaintenance answers all requests with 503 and page, which is HTML; empty means
	// mesh's own page. It does not concern the clients in spared.
	SetMaintenance(ctx context.Context, stack mesh.StackName, on bool, page string, spared []netip.Prefix) error
}

var freezeCommands = []*definition{
	{
		topic: "maintenance", short: "Show whether a stack is in maintenance", stack: true, json: true, run: runMaintenance,
	},
	{
		topic: "maintenance", verb: "on", short: "Answer all requests with 503; instances keep running", stack: true, access: mesh.AccessDeploy,
		long: "It takes effect at once, without a release; open requests and WebSockets continue. Clients at an address of --allow\n" +
			"see the app as always, if the access rules admit them. Repeat the command to change the page and the addresses.",
		run: func(ctx context.Context, c *call) error { return c.maintain(ctx, true) },
		flags: func(f *pflag.FlagSet) {
			f.StringArray("allow", nil, "serve clients of this `CIDR` or address; may be repeated, or joined with commas")
			f.Bool("page", false, "show browsers the HTML on standard input: maintenance:on --page < page.html")
		},
	},
	{
		topic: "maintenance", verb: "off", short: "Serve requests again", stack: true, access: mesh.AccessDeploy,
		run: func(ctx context.Context, c *call) error { return c.maintain(ctx, false) },
	},
	{
		topic: "lock", args: "[REASON…]", short: "Block releases: pushes, rollbacks and config changes", stack: true, access: mesh.AccessRead, changes: true, max: maxArgs, run: runLock,
		long:  "If the stack is already locked, it prints by whom, since when and why. --show only prints that.",
		flags: func(f *pflag.FlagSet) { f.Bool("show", false, "print whether the stack is locked, and change nothing") },
	},
	{
		topic: "unlock", short: "Allow releases again", stack: true, access: mesh.AccessDeploy, run: runUnlock,
	},
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

type maintenanceJSON struct {
	Maintenance bool           `json:"maintenance"`
	Allow       []string       `json:"allow"`
	Stack       mesh.StackName `json:"stack"`
}

func runMaintenance(_ context.Context, c *call) error {
	if c.json {
		return c.printJSON(maintenanceJSON{c.stack.Maintained, append([]string{}, texts(c.stack.Spared)...), c.stack.Name})
	}
	_, _ = fmt.Fprintln(c.Stdout, onOff(c.stack.Maintained))
	if len(c.stack.Spared) > 0 {
		_, _ = fmt.Fprintf(c.Stdout, "except for: %s\n", strings.Join(texts(c.stack.Spared), ", "))
	}
	return nil
}

// allowed reads the options --allow, sorted and without repetitions.
func (c *call) allowed() (list []netip.Prefix, err error) {
	for _, v := range c.values("allow") {
		for s := range strings.SplitSeq(v, ",") {
			p, err := mesh.ParsePrefix(strings.TrimSpace(s))
			if err != nil {
				return nil, err
			}
			list = append(list, p)
		}
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	if list = slices.Compact(list); len(list) > mesh.MaxAccessPrefixes {
		return nil, mesh.Errorf(mesh.Invalid, "--allow takes at most %d addresses, not %d", mesh.MaxAccessPrefixes, len(list)).
			WithHint("use networks such as 192.0.2.0/24")
	}
	return list, nil
}

func texts(list []netip.Prefix) (out []string) {
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

// maxPage limits a custom maintenance page, in bytes: it is kept in the store.
const maxPage = 256 << 10

func (c *call) maintain(ctx context.Context, on bool) error {
	page, spared := "", []netip.Prefix(nil)
	if on {
		var err error
		if spared, err = c.allowed(); err != nil {
			return err
		}
		for _, p := range spared {
			c.audited = append(c.audited, "--allow "+p.String())
		}
	}
	if own, _ := c.flags.GetBool("page"); on && own {
		data, err := io.ReadAll(io.LimitReader(c.Upload, maxPage+1))
		if err != nil {
			return err
		}
		switch {
		case len(data) == 0:
			return c.usage("no page on standard input")
		case len(data) > maxPage:
			return mesh.Errorf(mesh.Invalid, "the page is longer than %d KiB", maxPage>>10).WithHint("put images and styles elsewhere")
		case !utf8.Valid(data):
			return mesh.Errorf(mesh.Invalid, "the page is not UTF-8")
		}
		page = string(data)
	}
	if err := c.Freezer.SetMaintenance(ctx, c.stack.Name, on, page, spared); err != nil {
		return err
	}
	if len(spared) > 0 {
		c.say("%s: maintenance is on, except for %s\n", c.stack.Name, strings.Join(texts(spared), ", "))
		return nil
	}
	c.say("%s: maintenance is %s\n", c.stack.Name, onOff(on))
	return nil
}

func runLock(ctx context.Context, c *call) error {
	if show, _ := c.flags.GetBool("show"); show || c.stack.Lock != nil && len(c.args) == 0 {
		c.say("%s\n", lockLine(c.stack))
		return nil
	}
	if !c.Key.May(mesh.AccessDeploy, c.stack.Name) {
		return c.denied(mesh.AccessDeploy)
	}
	c.changed = true
	st, err := c.Freezer.Lock(ctx, c.stack.Name, c.Key.Name, mesh.Clip(strings.Join(c.args, " "), 200))
	if err != nil {
		return err
	}
	c.say("%s is locked by %s since %s\n", st.Name, st.Lock.By, st.Lock.Since.Format(time.RFC3339))
	return nil
}

func lockLine(st mesh.Stack) string {
	if st.Lock == nil {
		return fmt.Sprintf("%s is not locked", st.Name)
	}
	line := fmt.Sprintf("%s is locked by %s since %s", st.Name, st.Lock.By, st.Lock.Since.Format(time.RFC3339))
	if st.Lock.Why != "" {
		line += ": " + mesh.Visible(st.Lock.Why)
	}
	return line
}

func runUnlock(ctx context.Context, c *call) error {
	if err := c.Freezer.Unlock(ctx, c.stack.Name); err != nil {
		return err
	}
	c.say("unlocked %s\n", c.stack.Name)
	return nil
}
