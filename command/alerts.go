package command

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// AlertReader reads the alerts, and who gets messages about them.
type AlertReader interface {
	// Alerts returns the newest alerts first, open and past, at most limit of them or all
	// if limit is 0; of all stacks and the server if stack is empty.
	Alerts(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.Alert, error)
	// OpenAlerts returns all open alerts, the newest first.
	OpenAlerts(ctx context.Context) ([]mesh.Alert, error)
	Recipients(ctx context.Context) ([]mesh.Recipient, error)
}

// AlertRules changes what of a stack becomes an alert.
type AlertRules interface {
	// SetAlerts changes the rules with fn, which may run more than once. They are in
	// force when it returns.
	SetAlerts(ctx context.Context, stack mesh.StackName, fn func(*mesh.AlertRules) error) (mesh.Stack, error)
}

var alertCommands = []*definition{
	{
		topic: "alerts", short: "List alerts, open ones first", quiet: true, json: true, run: runAlerts,
		long: "Without -a, it lists those of all stacks that the key may see; an admin also sees those of the server.",
		flags: func(f *pflag.FlagSet) {
			f.IntP("lines", "n", 20, "maximum number of past alerts (0: all)")
			f.StringP("app", "a", "", "only those of this `STACK`")
			f.Bool("open", false, "only those that are not over")
		},
	},
	{
		topic: "alerts", verb: "rules", short: "List the alert rules of a stack", stack: true, json: true,
		run: func(_ context.Context, c *call) error { return c.listAlertRules() },
	},
	{
		topic: "alerts", verb: "set", args: "RULE=VALUE…", short: "Change the alert rules of a stack",
		list: alertRulesHelp(), long: "In force at once. Disks, backups and the Docker Engine concern the server: their rules are fixed.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: maxArgs, json: true, run: runAlertsSet,
	},
	{
		topic: "alerts", verb: "unset", args: "RULE…", short: "Restore alert rules to their defaults",
		stack: true, access: mesh.AccessDeploy, min: 1, max: maxArgs, json: true, run: runAlertsUnset,
	},
}

// alertRulesHelp returns a line for each rule, with its default.
func alertRulesHelp() string {
	var b strings.Builder
	for _, r := range mesh.AlertRuleList() {
		_, _ = fmt.Fprintf(&b, "%-16s %s (%s)\n", r.Name+"="+r.Value, r.Help, r.Default)
	}
	return b.String()
}

type alertJSON struct {
	Number  uint64     `json:"number"`
	Kind    string     `json:"kind"`
	Stack   string     `json:"stack,omitempty"`
	About   string     `json:"about,omitempty"`
	Text    string     `json:"text"`
	Open    bool       `json:"open"`
	Since   time.Time  `json:"since"`
	Count   int        `json:"count"`
	Ended   *time.Time `json:"ended,omitempty"`
	Outcome string     `json:"outcome,omitempty"`
	Next    string     `json:"next"`
}

// maySee reports whether the key may see an alert.
func (c *call) maySee(a mesh.Alert) bool {
	if a.Stack == "" {
		return c.Key.May(mesh.AccessAdmin, "")
	}
	return c.Key.May(mesh.AccessRead, a.Stack)
}

func runAlerts(ctx context.Context, c *call) error {
	most, _ := c.flags.GetInt("lines")
	openOnly, _ := c.flags.GetBool("open")
	name, _ := c.flags.GetString("app")
	if name == "" {
		name = c.named
	}
	if name != "" {
		st, err := c.Stacks.Stack(ctx, mesh.StackName(name))
		if err != nil && !c.Key.May(mesh.AccessAdmin, "") || err == nil && !c.Key.May(mesh.AccessRead, st.Name) {
			return mesh.Errorf(mesh.NoStack, "no stack is named %q", mesh.Clip(name, 60)).WithHint("list them with: ssh mesh stacks")
		}
		if err != nil {
			return err
		}
	}
	all, err := c.Alerts.Alerts(ctx, mesh.StackName(name), 0)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(a mesh.Alert) bool { return !c.maySee(a) || openOnly && !a.Open() })
	slices.SortStableFunc(all, func(a, b mesh.Alert) int { return order01(a.Open()) - order01(b.Open()) })
	list := []alertJSON{}
	var rows [][]string
	past := 0
	for _, a := range all {
		if !a.Open() {
			if past++; most > 0 && past > most {
				break
			}
		}
		j := alertJSON{
			Number: a.Number, Kind: string(a.Kind), Stack: string(a.Stack), About: a.About, Text: a.Text, Open: a.Open(),
			Since: a.Since, Count: a.Count, Outcome: a.Outcome, Next: a.Next(),
		}
		state, on := "open", string(a.Stack)
		if !a.Open() {
			j.Ended = &a.Ended
			state = "over after " + ago(a.Ended.Sub(a.Since))
		}
		if on == "" {
			on = "-"
		}
		text := a.Text
		if a.Open() {
			text += "; next: " + a.Next()
		}
		list = append(list, j)
		rows = append(rows, []string{state, on, string(a.Kind), c.when(a.Since), text})
	}
	if len(rows) == 0 && !c.json {
		c.tell("no alerts\n")
		return nil
	}
	return c.list(list, []string{"STATE", "STACK", "KIND", "SINCE", "ALERT"}, rows)
}

// order01 orders what is true first.
func order01(first bool) int {
	if first {
		return 0
	}
	return 1
}

// tellAlerts prints a line for each open alert of the stack.
func (c *call) tellAlerts(ctx context.Context) {
	open, err := c.Alerts.OpenAlerts(ctx)
	if err != nil {
		c.Logger.Warn("alerts not read", "err", err)
	}
	for _, a := range open {
		if a.Stack == c.stack.Name {
			c.tell("alert since %s: %s; next: %s\n", c.when(a.Since), a.Text, a.Next())
		}
	}
}

type alertRuleJSON struct {
	Value   string `json:"value"`
	Default string `json:"default"`
}

func (c *call) listAlertRules() error {
	all := map[string]alertRuleJSON{}
	var rows [][]string
	for _, r := range mesh.AlertRuleList() {
		v := c.stack.Alerts.Get(r.Name)
		all[r.Name] = alertRuleJSON{v, r.Default}
		from := "default"
		if c.stack.Alerts.IsSet(r.Name) {
			from = "alerts:set"
		}
		rows = append(rows, []string{r.Name, v, from, r.Help})
	}
	return c.list(all, []string{"RULE", "VALUE", "FROM", "WHAT"}, rows)
}

func (c *call) changeAlertRules(ctx context.Context, change func(*mesh.AlertRules) error) error {
	st, err := c.AlertRules.SetAlerts(ctx, c.stack.Name, change)
	if err != nil {
		return err
	}
	c.stack = st
	return c.listAlertRules()
}

// runAlertsSet changes all rules or none.
func runAlertsSet(ctx context.Context, c *call) error {
	return c.changeAlertRules(ctx, func(r *mesh.AlertRules) error { return c.eachValue("RULE", r.Set) })
}

func runAlertsUnset(ctx context.Context, c *call) error {
	return c.changeAlertRules(ctx, func(r *mesh.AlertRules) error {
		for _, name := range c.args {
			if err := r.Set(name, ""); err != nil {
				return err
			}
		}
		return nil
	})
}
