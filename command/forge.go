package command

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Forges makes stacks follow repositories elsewhere.
type Forges interface {
	// FollowForge returns the stack with what it follows; it looks at it in the background.
	FollowForge(ctx context.Context, stack mesh.StackName, url, branch string) (mesh.Stack, error)
	UnfollowForge(ctx context.Context, stack mesh.StackName) error
	// SetForgeToken removes the token if it is empty.
	SetForgeToken(ctx context.Context, stack mesh.StackName, token mesh.Secret) error
	RotateForgeSecret(ctx context.Context, stack mesh.StackName) (mesh.Stack, error)
	// SyncForge looks at a branch now; empty: the one that is deployed. It writes the
	// deployment's output to out.
	SyncForge(ctx context.Context, stack mesh.StackName, branch string, out io.Writer) error
}

var forgeCommands = []*definition{
	{
		topic: "git", verb: "follow", args: "[URL]", short: "Deploy a repository at GitHub, GitLab or Gitea", stack: true, access: mesh.AccessDeploy, json: true, max: 1, run: runFollow,
		long: "mesh fetches the repository now, whenever a webhook says so (see: webhooks), and when it starts. Only what is in the branch then\n" +
			"is deployed. With build:set previews=true, other branches and pull requests of the repository itself get previews.\n" +
			"Without URL it shows what the stack follows. A private repository needs its ssh URL, and the key of git:deploy-key.",
		flags: func(f *pflag.FlagSet) {
			f.String("branch", "", "the `BRANCH` to deploy, if it is not the deploy branch")
			f.Bool("off", false, "follow nothing any more")
		},
	},
	{
		topic: "git", verb: "sync", args: "[URL] [BRANCH]", short: "Deploy what is in the followed repository now", stack: true, access: mesh.AccessDeploy, max: 2, run: runSync,
		long: "With URL, the stack follows that repository from now on (git:follow).",
	},
	{
		topic: "git", verb: "token", args: "[< FILE]", short: "Let mesh show the result of deployments at the forge",
		long: "Standard input is an access token that may set commit statuses (at GitHub also deployments). mesh keeps it encrypted and\n" +
			"never shows it.",
		stack: true, access: mesh.AccessDeploy, run: runToken,
		flags: func(f *pflag.FlagSet) { f.Bool("off", false, "forget the token; standard input is not read") },
	},
	{
		topic: "webhooks", short: "Print the URL and the secret for a forge's webhooks", stack: true, access: mesh.AccessDeploy, prints: true, json: true, run: runWebhooks,
		long: "Add them where the repository is: content type application/json; events: pushes, deleted branches, pull requests. The URL\n" +
			"must be reachable from the forge, over HTTPS.",
		flags: func(f *pflag.FlagSet) { f.Bool("rotate", false, "replace the secret; the old one is refused at once") },
	},
}

type followJSON struct {
	URL     string     `json:"url"`
	Branch  string     `json:"branch,omitempty"`
	Forge   string     `json:"forge,omitempty"`
	Token   bool       `json:"token"`
	Pending []string   `json:"pending"`
	Event   *time.Time `json:"last_event,omitempty"`
	Fault   string     `json:"fault,omitempty"`
}

func noForge(st mesh.Stack) error {
	return mesh.Errorf(mesh.NotFound, "%s follows no repository", st.Name).WithHint("ssh mesh git:follow -a %s https://github.com/OWNER/NAME", st.Name)
}

func runFollow(ctx context.Context, c *call) error {
	off, _ := c.flags.GetBool("off")
	branch, _ := c.flags.GetString("branch")
	switch {
	case off && (len(c.args) > 0 || branch != ""):
		return c.usage("--off takes no URL and no branch")
	case off:
		c.changed, c.audited = true, append(c.audited, "--off")
		if err := c.Forges.UnfollowForge(ctx, c.stack.Name); err != nil {
			return err
		}
		c.say("%s follows no repository any more; what is deployed stays\n", c.stack.Name)
		return nil
	case len(c.args) == 0 && branch != "":
		return c.usage("--branch needs the URL: git:follow URL --branch %s", branch)
	case len(c.args) == 0:
		return c.showFollowed()
	}
	if _, err := c.Forges.FollowForge(ctx, c.stack.Name, c.args[0], branch); err != nil {
		return err
	}
	c.say("%s follows %s\n", c.stack.Name, mesh.Visible(c.args[0]))
	c.tell("see what comes of it: ssh mesh logs -a %[1]s -t --source mesh; add its webhook: ssh mesh webhooks -a %[1]s\n", c.stack.Name)
	return nil
}

func (c *call) showFollowed() error {
	f := c.stack.Forge
	if f == nil {
		return noForge(c.stack)
	}
	out := followJSON{URL: f.URL, Branch: f.Branch, Forge: string(f.Known()), Token: f.Token.Reveal() != "", Pending: append([]string{}, f.Pending...), Fault: f.Fault.Why}
	if !f.Event.IsZero() {
		out.Event = &f.Event
	}
	if c.json {
		return c.printJSON(out)
	}
	row := func(k, v string) { c.say("%-13s %s\n", k, mesh.Visible(v)) }
	row("Repository:", f.URL)
	if f.Branch != "" {
		row("Branch:", f.Branch)
	}
	if out.Forge != "" {
		row("Forge:", out.Forge)
	}
	row("Last webhook:", c.when(f.Event))
	if len(f.Pending) > 0 {
		row("To look at:", strings.Join(f.Pending, " "))
	}
	if f.Fault.Why != "" {
		row("Failed:", c.when(f.Fault.At)+": "+f.Fault.Why)
	}
	if !out.Token {
		c.tell("commits get no status at the forge without a token: ssh mesh git:token -a %s < token\n", c.stack.Name)
	}
	return nil
}

func runSync(ctx context.Context, c *call) error {
	branch, args := "", c.args
	if len(args) > 0 {
		url, err := mesh.ParseForgeURL(args[0])
		switch {
		case err == nil:
			if args = args[1:]; len(args) > 0 {
				branch = args[0]
			}
			if _, err := c.Forges.FollowForge(ctx, c.stack.Name, url, branch); err != nil {
				return err
			}
		case len(args) > 1 || strings.Contains(args[0], ":"):
			return err
		default:
			branch = args[0]
		}
	}
	return c.Forges.SyncForge(ctx, c.stack.Name, branch, c.Stderr)
}

// maxToken limits an access token of a forge.
const maxToken = 4 << 10

func runToken(ctx context.Context, c *call) error {
	if off, _ := c.flags.GetBool("off"); off {
		c.changed, c.audited = true, append(c.audited, "--off")
		if err := c.Forges.SetForgeToken(ctx, c.stack.Name, mesh.Secret{}); err != nil {
			return err
		}
		c.say("%s: removed the token\n", c.stack.Name)
		return nil
	}
	if c.TTY {
		return c.usage("the token comes from standard input: ssh mesh git:token -a %s < token", c.stack.Name)
	}
	text, err := c.text("the token", maxToken)
	if err != nil {
		return err
	}
	token := strings.TrimSpace(text)
	switch {
	case token == "":
		return mesh.Errorf(mesh.Invalid, "there is no token in standard input; the one that was set stays").
			WithHint("ssh mesh git:token -a %s < token; to remove it: ssh mesh git:token -a %[1]s --off", c.stack.Name)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return mesh.Errorf(mesh.Invalid, "the token has blanks or characters that no token has").WithHint("put the token alone into a file")
	}
	if err := c.Forges.SetForgeToken(ctx, c.stack.Name, mesh.NewSecret(token)); err != nil {
		return err
	}
	c.say("%s: set the token\n", c.stack.Name)
	return nil
}

func runWebhooks(ctx context.Context, c *call) error {
	st := c.stack
	if rotate, _ := c.flags.GetBool("rotate"); rotate {
		c.changed, c.audited = true, append(c.audited, "--rotate")
		var err error
		if st, err = c.Forges.RotateForgeSecret(ctx, st.Name); err != nil {
			return err
		}
	}
	if st.Forge == nil {
		return noForge(st)
	}
	url := strings.TrimSuffix(c.OwnURL, "/") + "/hooks/" + string(st.Name)
	if c.json {
		return c.printJSON(map[string]string{"url": url, "secret": st.Forge.Secret.Reveal()})
	}
	_, _ = fmt.Fprintf(c.Stdout, "URL:     %s\nSecret:  %s\n", url, st.Forge.Secret.Reveal())
	if !strings.HasPrefix(url, "https:") {
		c.tell("this server has no HTTPS: it takes webhooks only from this machine; see: mesh serve -h, --https-addr\n")
	}
	return nil
}
