package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Previews changes the previews of a stack, and the config vars that they get.
type Previews interface {
	// KeepPreview keeps a preview from expiring and from making room, or no longer does.
	KeepPreview(ctx context.Context, name mesh.StackName, keep bool) (mesh.Stack, error)
	// EndPreview destroys the preview of a branch, and writes a line about it to out.
	EndPreview(ctx context.Context, of mesh.StackName, branch string, by mesh.KeyName, out io.Writer) error
	// SetPreviewConfig changes the config vars that new previews get besides those of the
	// stack, and returns the names that have changed.
	SetPreviewConfig(ctx context.Context, stack mesh.StackName, change mesh.ConfigChange) ([]string, error)
	// MarkProduction marks config vars that previews do not get, or removes the marks. undo
	// takes back what it has changed.
	MarkProduction(ctx context.Context, stack mesh.StackName, names []string, only bool) (undo func(context.Context), err error)
}

// PreviewList reads the records of previews.
type PreviewList interface {
	// Previews returns the previews of a stack, by name.
	Previews(ctx context.Context, of mesh.StackName) ([]mesh.Stack, error)
}

var previewCommands = []*definition{
	{
		topic: "previews", short: "List the previews of a stack: branches that run beside it", stack: true, json: true, run: runPreviews,
		long: "`build:set previews=true` makes a push to any other branch a preview: a stack of its own, with its own URL and with\n" +
			"the config vars that the stack had when the preview was created. A preview is destroyed with its branch\n" +
			"(`git push mesh :BRANCH`), or previews-ttl after the last push to it.",
	},
	{
		topic: "previews", verb: "keep", args: "BRANCH", short: "Keep a preview until somebody destroys it", stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runPreviewKeep,
		flags: func(f *pflag.FlagSet) { f.Bool("off", false, "let it expire again, previews-ttl from now") },
	},
	{
		topic: "previews", verb: "destroy", args: "BRANCH", short: "Destroy a preview and everything that belongs to it", stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runPreviewDestroy,
	},
}

// previewJSON is the JSON form of a preview.
type previewJSON struct {
	Branch  string     `json:"branch"`
	Stack   string     `json:"stack"`
	State   string     `json:"state"`
	URL     string     `json:"url"`
	Commit  string     `json:"commit,omitempty"`
	Release string     `json:"release,omitempty"`
	Created time.Time  `json:"created"`
	Pushed  time.Time  `json:"pushed"`
	Expires *time.Time `json:"expires,omitempty"` // absent: it is kept
}

// parent returns the stack that has the previews that a command is about: a preview leads
// to the one that it belongs to.
func (c *call) parent(ctx context.Context) (mesh.Stack, error) {
	if c.stack.Preview == nil {
		return c.stack, nil
	}
	if of := c.stack.Preview.Of; !c.Key.May(c.def.access, of) {
		return mesh.Stack{}, mesh.Errorf(mesh.Denied, "the key %q may use %s, but not the other previews of %s", c.Key.Name, c.stack.Name, of).WithHint("ask an admin for access to %s", of)
	}
	return c.Stacks.Stack(ctx, c.stack.Preview.Of)
}

func runPreviews(ctx context.Context, c *call) error {
	parent, err := c.parent(ctx)
	if err != nil {
		return err
	}
	all, err := c.PreviewList.Previews(ctx, parent.Name)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b mesh.Stack) int {
		return cmp.Or(b.Preview.Pushed.Compare(a.Preview.Pushed), strings.Compare(string(a.Name), string(b.Name)))
	})
	list := []previewJSON{}
	var rows [][]string
	for _, st := range all {
		s, err := c.describe(ctx, st)
		if err != nil {
			return err
		}
		p := previewJSON{Branch: st.Preview.Branch, Stack: s.Name, State: s.State, URL: s.URL, Commit: s.Commit, Release: s.Release, Created: st.Created, Pushed: st.Preview.Pushed}
		expires := "kept"
		if !st.Preview.Kept {
			at := p.Pushed.Add(parent.Effective().PreviewsLive())
			p.Expires, expires = &at, c.in(at)
		}
		list = append(list, p)
		rows = append(rows, []string{p.Branch, p.Stack, p.State, cmp.Or(mesh.Commit(p.Commit).Short(), "-"), c.when(p.Pushed), expires, p.URL})
	}
	if len(all) == 0 {
		c.tell("%s has no previews; %s\n", parent.Name, previewsHint(parent))
	}
	return c.list(list, []string{"BRANCH", "STACK", "STATE", "COMMIT", "PUSHED", "EXPIRES", "URL"}, rows)
}

// in is a time to come, as when is one that has passed.
func (c *call) in(t time.Time) string {
	if !c.view.person {
		return t.UTC().Format(time.RFC3339)
	}
	return "in " + ago(max(0, t.Sub(c.Now())))
}

// previewsHint says how a stack gets previews.
func previewsHint(st mesh.Stack) string {
	if st.Effective().Previews == nil {
		return fmt.Sprintf("for one of each branch that is pushed: ssh mesh build:set -a %s previews=true", st.Name)
	}
	return fmt.Sprintf("push a branch: git push mesh BRANCH (previews=%s)", st.Effective().Get("previews"))
}

// previewOf finds the preview that a command is about, by its branch or its name.
func (c *call) previewOf(ctx context.Context) (mesh.Stack, error) {
	parent, err := c.parent(ctx)
	if err != nil {
		return mesh.Stack{}, err
	}
	all, err := c.PreviewList.Previews(ctx, parent.Name)
	if err != nil {
		return mesh.Stack{}, err
	}
	for _, named := range []func(mesh.Stack) string{
		func(s mesh.Stack) string { return s.Preview.Branch },
		func(s mesh.Stack) string { return string(s.Name) },
	} {
		if i := slices.IndexFunc(all, func(s mesh.Stack) bool { return named(s) == c.args[0] }); i >= 0 {
			return all[i], nil
		}
	}
	return mesh.Stack{}, mesh.Errorf(mesh.NotFound, "%s has no preview of %q", parent.Name, mesh.Clip(mesh.Visible(c.args[0]), 60)).
		WithHint("list them with: ssh mesh previews -a %s", parent.Name)
}

func runPreviewKeep(ctx context.Context, c *call) error {
	st, err := c.previewOf(ctx)
	if err != nil {
		return err
	}
	off, _ := c.flags.GetBool("off")
	if off {
		c.audited = append(c.audited, "--off")
	}
	if st, err = c.Previews.KeepPreview(ctx, st.Name, !off); err != nil {
		return err
	}
	if off {
		parent, err := c.parent(ctx)
		if err != nil {
			return err
		}
		c.say("%s expires %s from now, or from the next push\n", st.Name, mesh.FormatAge(parent.Effective().PreviewsLive()))
		return nil
	}
	c.say("%s is kept until it, its branch or %s is destroyed\n", st.Name, st.Preview.Of)
	return nil
}

func runPreviewDestroy(ctx context.Context, c *call) error {
	st, err := c.previewOf(ctx)
	if err != nil {
		return err
	}
	if err := c.Previews.EndPreview(ctx, st.Preview.Of, st.Preview.Branch, c.Key.Name, io.Discard); err != nil {
		return err
	}
	c.say("destroyed %s\n", st.Name)
	return nil
}

// changePreviewConfig changes the config vars that new previews get.
func (c *call) changePreviewConfig(ctx context.Context, change mesh.ConfigChange, verb string) error {
	c.audited = append(c.audited, "--previews")
	parent, err := c.parent(ctx)
	if err != nil {
		return err
	}
	changed, err := c.Previews.SetPreviewConfig(ctx, parent.Name, change)
	if err != nil {
		return err
	}
	if len(changed) == 0 {
		c.say("%s: nothing to change for previews\n", parent.Name)
		return nil
	}
	c.say("%s: %s %s for previews that are created from now on\n", parent.Name, verb, strings.Join(changed, ", "))
	return nil
}

// markProduction handles config:set --production-only: it marks the vars, and returns the
// arguments that also set a value. undo takes the marks back.
func (c *call) markProduction(ctx context.Context) (rest []string, undo func(context.Context), err error) {
	only, _ := c.flags.GetBool("production-only")
	var names []string
	for _, a := range c.args {
		name, _, sets := strings.Cut(a, "=")
		has := slices.ContainsFunc(c.stack.Configs(), func(c mesh.Config) bool { _, has := c[name]; return has })
		if !sets && !has {
			return nil, nil, mesh.Errorf(mesh.NotFound, "%s has no config var %s", c.stack.Name, mesh.Clip(mesh.Visible(name), 60)).
				WithHint("give it a value: ssh mesh config:set -a %s --production-only NAME=VALUE", c.stack.Name)
		}
		names = append(names, name)
		if sets {
			rest = append(rest, a)
		}
	}
	undo, err = c.Previews.MarkProduction(ctx, c.stack.Name, names, only)
	if err != nil {
		return nil, nil, err
	}
	c.audited = append(c.audited, fmt.Sprintf("--production-only=%t", only))
	if len(rest) == 0 {
		if only {
			c.say("%s: previews that are created from now on do not get %s\n", c.stack.Name, strings.Join(names, ", "))
		} else {
			c.say("%s: previews that are created from now on get %s\n", c.stack.Name, strings.Join(names, ", "))
		}
	}
	return rest, undo, nil
}
