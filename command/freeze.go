package command

import (
	"context"
	"fmt"
	"io"
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
	// mesh's own page.
	SetMaintenance(ctx context.Context, stack mesh.StackName, on bool, page string) error
}

var freezeCommands = []*definition{
	{
		topic: "maintenance", short: "Show whether a stack is in maintenance", stack: true, json: true, run: runMaintenance,
	},
	{
		topic: "maintenance", verb: "on", short: "Answer all requests with 503; instances keep running", stack: true, access: mesh.AccessDeploy,
		run: func(ctx context.Context, c *call) error { return c.maintain(ctx, true) },
		flags: func(f *pflag.FlagSet) {
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

func runMaintenance(_ context.Context, c *call) error {
	if c.json {
		return c.printJSON(map[string]any{"stack": c.stack.Name, "maintenance": c.stack.Maintained})
	}
	_, _ = fmt.Fprintln(c.Stdout, onOff(c.stack.Maintained))
	return nil
}

// maxPage limits a custom maintenance page, in bytes: it is kept in the store.
const maxPage = 256 << 10

func (c *call) maintain(ctx context.Context, on bool) error {
	page := ""
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
	if err := c.Freezer.SetMaintenance(ctx, c.stack.Name, on, page); err != nil {
		return err
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
