package command

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Recipients adds and removes those who get messages about alerts.
type Recipients interface {
	// AddRecipient returns a Conflict if the name is taken, and NoStack for a stack that
	// does not exist.
	AddRecipient(ctx context.Context, r mesh.Recipient) error
	// RemoveRecipient also removes the messages that wait for it.
	RemoveRecipient(ctx context.Context, name mesh.RecipientName, by mesh.KeyName) error
}

// Notifier delivers messages to recipients. Its errors contain nothing secret.
type Notifier interface {
	// Describe returns the service at a URL, and the URL without its secrets.
	Describe(url mesh.Secret) (service, shown string, err error)
	// Allow returns an error if a fenced recipient may not be where its URL leads.
	Allow(ctx context.Context, r mesh.Recipient) error
	NewSigningKey() mesh.Secret
	// Test sends one message and waits for the outcome, for about ten seconds at most.
	Test(ctx context.Context, r mesh.Recipient) error
	Delivery(name mesh.RecipientName) mesh.Delivery
	// Forget drops what it remembers of a removed recipient.
	Forget(name mesh.RecipientName)
}

// webhook is the service whose messages are signed.
const webhook = "webhook"

// nameOnly keeps the name of a recipient for the audit log. All else may be secret.
func nameOnly(c *call) []string {
	if len(c.args) == 0 {
		return nil
	}
	if name, err := mesh.ParseRecipientName(c.args[0]); err == nil {
		return []string{string(name)}
	}
	return []string{"…"}
}

var notifyCommands = []*definition{
	{
		topic: "notify", short: "List who gets messages about alerts", quiet: true, json: true, run: runNotify,
	},
	{
		topic: "notify", verb: "add", args: "NAME URL", short: "Send messages about alerts to a URL",
		list: alertKindsHelp(),
		long: "A URL of Slack, Discord, Teams, Telegram or ntfy gets text, smtp:// mail, and any other https:// signed JSON; docs/alerts.md\n" +
			"lists the forms. With - for the URL, it is read from standard input, and no shell history keeps it. It is stored\n" +
			"encrypted, and no command prints it. A key that is not an admin's names stacks with --stack.",
		access: mesh.AccessDeploy, ownCheck: true, min: 2, max: 2, keeps: nameOnly, run: runNotifyAdd,
		flags: func(f *pflag.FlagSet) {
			f.StringArray("stack", nil, "only alerts of this `STACK`; may be repeated")
			f.String("on", "", "only these `KINDS`, such as deploy,crash; by default all")
		},
	},
	{
		topic: "notify", verb: "remove", args: "NAME", short: "Remove a recipient",
		access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, run: runNotifyRemove,
	},
	{
		topic: "notify", verb: "test", args: "NAME", short: "Send a test message to a recipient",
		access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, run: runNotifyTest,
	},
}

// alertKindsHelp returns a line for each kind of alert.
func alertKindsHelp() string {
	var b strings.Builder
	for _, s := range mesh.AlertSorts() {
		_, _ = fmt.Fprintf(&b, "%-8s %s\n", s.Kind, s.Help)
	}
	return b.String()
}

type recipientJSON struct {
	Name    string     `json:"name"`
	Service string     `json:"service"`
	To      string     `json:"to"`
	Stacks  []string   `json:"stacks"`
	On      []string   `json:"on"`
	Added   time.Time  `json:"added"`
	AddedBy string     `json:"added_by,omitempty"`
	Waiting int        `json:"waiting"`
	Lost    int        `json:"lost"`
	Sent    *time.Time `json:"sent,omitempty"`
	Failing *time.Time `json:"failing_since,omitempty"`
	Failure string     `json:"failure,omitempty"`
}

// mayUse reports whether the key has access to all that a recipient is about.
func (c *call) mayUse(r mesh.Recipient, need mesh.Access) bool {
	if len(r.Stacks) == 0 {
		return c.Key.May(mesh.AccessAdmin, "")
	}
	return !slices.ContainsFunc(r.Stacks, func(s mesh.StackName) bool { return !c.Key.May(need, s) })
}

func runNotify(ctx context.Context, c *call) error {
	all, err := c.Alerts.Recipients(ctx)
	if err != nil {
		return err
	}
	list := []recipientJSON{}
	var rows [][]string
	for _, r := range all {
		if !c.mayUse(r, mesh.AccessRead) {
			continue
		}
		d := c.Notifier.Delivery(r.Name)
		j := recipientJSON{
			Name: string(r.Name), Service: r.Service, To: r.Shown, Stacks: stackNames(r.Stacks), On: []string{}, Added: r.Added, AddedBy: string(r.AddedBy),
			Waiting: d.Waiting, Lost: d.Lost, Failure: d.Failure,
		}
		for _, k := range r.On {
			j.On = append(j.On, string(k))
		}
		state := "-"
		if !d.Sent.IsZero() {
			j.Sent, state = &d.Sent, "sent "+c.when(d.Sent)
		}
		if !d.Failed.IsZero() {
			j.Failing, state = &d.Failed, fmt.Sprintf("failing since %s: %s; %d waiting", c.when(d.Failed), d.Failure, d.Waiting)
		}
		list = append(list, j)
		rows = append(rows, []string{j.Name, j.Service, j.To, cmp.Or(strings.Join(j.Stacks, " "), "all"), cmp.Or(strings.Join(j.On, ","), "all"), state})
	}
	if len(rows) == 0 && !c.json {
		c.tell("nobody gets messages about alerts; add a recipient with: ssh mesh notify:add NAME URL\n")
		return nil
	}
	return c.list(list, []string{"RECIPIENT", "SERVICE", "TO", "STACKS", "ON", "LAST MESSAGE"}, rows)
}

func runNotifyAdd(ctx context.Context, c *call) error {
	name, err := c.recipientName()
	if err != nil {
		return err
	}
	r := mesh.Recipient{Name: name, AddedBy: c.Key.Name, Fenced: !c.Key.May(mesh.AccessAdmin, "")}
	for _, s := range c.values("stack") {
		st, err := mesh.ParseStackName(s)
		if err != nil {
			return err
		}
		if !slices.Contains(r.Stacks, st) {
			r.Stacks = append(r.Stacks, st)
		}
	}
	if len(r.Stacks) == 0 && r.Fenced && c.Key.May(mesh.AccessDeploy, mesh.StackName(c.named)) && c.named != "" {
		r.Stacks = []mesh.StackName{mesh.StackName(c.named)}
	}
	if len(r.Stacks) == 0 && r.Fenced {
		return mesh.Errorf(mesh.Denied, "the key %q may not send alerts of all stacks to a recipient", c.Key.Name).WithHint("name the stacks: ssh mesh notify:add NAME URL --stack STACK")
	}
	for _, st := range r.Stacks {
		if !c.Key.May(mesh.AccessDeploy, st) {
			c.stack.Name = st
			return c.denied(mesh.AccessDeploy)
		}
	}
	if on, _ := c.flags.GetString("on"); c.flags.Changed("on") {
		if r.On, err = mesh.ParseAlertKinds(on); err != nil {
			return err
		}
	}
	address := c.args[1]
	if address == "-" {
		if address, err = c.text("the bytes of the URL", maxPassword); err != nil {
			return err
		}
	}
	r.URL = mesh.NewSecret(strings.TrimSpace(address))
	if r.Service, r.Shown, err = c.Notifier.Describe(r.URL); err != nil {
		return err
	}
	if err := c.Notifier.Allow(ctx, r); err != nil {
		return err
	}
	if r.Service == webhook {
		r.Signing = c.Notifier.NewSigningKey()
	}
	if err := c.Recipients.AddRecipient(ctx, r); err != nil {
		return err
	}
	c.Notifier.Forget(name)
	for _, st := range r.Stacks {
		c.audited = append(c.audited, "--stack "+string(st))
	}
	c.tell("added recipient %s: %s, %s; try it: ssh mesh notify:test %s\n", r.Name, r.Service, r.Shown, r.Name)
	if r.Service == webhook {
		c.tell("its messages are signed with this key, which is shown only now:\n")
		_, err := fmt.Fprintln(c.Stdout, r.Signing.Reveal())
		return err
	}
	return nil
}

// recipientName returns the first argument. Its error does not quote what may be a URL.
func (c *call) recipientName() (mesh.RecipientName, error) {
	if strings.ContainsAny(c.args[0], ":/") {
		return "", c.usage("the name of the recipient comes first, and its URL last")
	}
	return mesh.ParseRecipientName(c.args[0])
}

// findRecipient returns a recipient that the key may change.
func (c *call) findRecipient(ctx context.Context) (mesh.Recipient, error) {
	if _, err := c.recipientName(); err != nil {
		return mesh.Recipient{}, err
	}
	all, err := c.Alerts.Recipients(ctx)
	if err != nil {
		return mesh.Recipient{}, err
	}
	i := slices.IndexFunc(all, func(r mesh.Recipient) bool { return string(r.Name) == c.args[0] })
	if i < 0 || !c.mayUse(all[i], mesh.AccessRead) {
		return mesh.Recipient{}, mesh.Errorf(mesh.NotFound, "no recipient is named %q", mesh.Clip(c.args[0], 60)).WithHint("list them with: ssh mesh notify")
	}
	if !c.mayUse(all[i], mesh.AccessDeploy) {
		return mesh.Recipient{}, c.denied(mesh.AccessDeploy)
	}
	return all[i], nil
}

func runNotifyRemove(ctx context.Context, c *call) error {
	name := mesh.RecipientName(c.args[0])
	if _, err := c.findRecipient(ctx); err != nil && !c.Key.May(mesh.AccessAdmin, "") { // an admin also removes damaged ones
		return err
	}
	if err := c.Recipients.RemoveRecipient(ctx, name, c.Key.Name); err != nil {
		return err
	}
	c.Notifier.Forget(name)
	c.say("removed recipient %s\n", name)
	return nil
}

func runNotifyTest(ctx context.Context, c *call) error {
	r, err := c.findRecipient(ctx)
	if err != nil {
		return err
	}
	if err := c.Notifier.Test(ctx, r); err != nil {
		return err
	}
	c.say("sent a test message to %s: %s, %s\n", r.Name, r.Service, r.Shown)
	return nil
}
