package command

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

// Configs changes config vars.
type Configs interface {
	// SetConfig makes one release of a batch, unless it is RecordOnly, and returns the
	// names that have changed. It writes the deployment's output to out.
	SetConfig(ctx context.Context, stack mesh.StackName, by mesh.KeyName, change mesh.ConfigChange, out io.Writer) ([]string, error)
	// SetGlobalConfig changes those of all stacks; clear removes all first. Every stack that
	// does not run with them gets a release, unless the change is RecordOnly, and each gets
	// the outcome.
	SetGlobalConfig(ctx context.Context, by mesh.KeyName, change mesh.ConfigChange, clear bool, out io.Writer, each func(mesh.Outcome)) ([]string, error)
}

var configCommands = []*definition{
	{
		topic: "config", short: "List the names of the config vars; --show adds the values", stack: true, exact: true, json: true, run: runConfig, global: true,
		long: "It lists what the instances get. A comment says which vars are those of all stacks; the stack's own win over them.\n" +
			"With -p: what the instances of a service get, and where each comes from: svc:update --env wins over the stack's.",
		flags: func(f *pflag.FlagSet) {
			f.Bool("show", false, "include the values; needs the role deploy")
			f.StringP("service", "p", "", "of this `SERVICE`")
			f.Bool("previews", false, "those that only previews get")
		},
	},
	{
		topic: "config", verb: "history", short: "List the releases that changed config vars, newest first", stack: true, json: true, run: runConfigHistory,
		flags: limitFlag,
	},
	{
		topic: "config", verb: "diff", args: "vN [vN]", short: "Compare the config vars of two releases, or of one and now",
		stack: true, json: true, min: 1, max: 2, run: runConfigDiff,
		flags: func(f *pflag.FlagSet) { f.Bool("show", false, "include the values; needs the role deploy") },
	},
	{
		topic: "config", verb: "export", short: "Print config vars and values for config:import",
		stack: true, access: mesh.AccessDeploy, prints: true, exact: true, run: runConfigExport,
		flags: func(f *pflag.FlagSet) {
			f.String("format", "shell", "the `FORMAT`: shell, envfile, json or fingerprint")
		},
	},
	{
		topic: "config", verb: "import", args: "< FILE", short: "Set config vars from standard input, as one release", long: "Standard input may have any format that config:export prints.",
		stack: true, access: mesh.AccessDeploy, run: runConfigImport,
		flags: func(f *pflag.FlagSet) {
			f.Bool("no-restart", false, "record only; takes effect with the next release")
			f.Bool("replace", false, "remove the vars that standard input does not have")
			f.String("if", "", "only if config:export --format fingerprint still prints `HASH`")
		},
	},
	{
		topic: "config", verb: "edit", short: "Edit the config vars in your editor (in the client only)",
		long: "`mesh config:edit` opens them in $VISUAL or $EDITOR, and releases what has changed when you close it, as one release.\n" +
			"If somebody else has changed them meanwhile, nothing changes, and your file is kept.",
		stack: true, access: mesh.AccessDeploy, run: runConfigEdit,
		flags: func(f *pflag.FlagSet) {
			f.Bool("no-restart", false, "record only; takes effect with the next release")
		},
	},
	{
		topic: "config", verb: "get", args: "NAME", short: "Print the value of a config var",
		stack: true, access: mesh.AccessDeploy, prints: true, exact: true, min: 1, max: 1, json: true, run: runConfigGet,
	},
	{
		topic: "config", verb: "set", args: "NAME=VALUE…", short: "Set config vars and release them, without downtime",
		long: "`NAME=-` reads the value from standard input: use it for secrets and multi-line values.\n" +
			"Over plain ssh, quote twice: `ssh mesh \"config:set -a blog MOTD='hello world'\"`. The client\n" +
			"`mesh config:set` needs no extra quoting. With --global every stack gets them, unless it has its own of that name;\n" +
			"each deployed stack that this changes gets a release, one after the other. A stack that fails, or is locked, keeps\n" +
			"what it has, and the others go on. config:set --global alone releases those that have other values by then.",
		stack: true, global: true, access: mesh.AccessDeploy, max: maxArgs, run: runConfigSet,
		flags: func(f *pflag.FlagSet) {
			f.Bool("no-restart", false, "record only; takes effect with the next release")
			f.Bool("encoded", false, "the values are base64")
			f.Bool("previews", false, "only for previews, over the stack's own; takes effect with new previews")
			f.Bool("production-only", false, "previews do not get them; NAME alone keeps its value")
		},
	},
	{
		topic: "config", verb: "unset", args: "NAME…", short: "Remove config vars, as one release",
		stack: true, global: true, access: mesh.AccessDeploy, max: maxArgs, run: runConfigUnset,
		flags: func(f *pflag.FlagSet) {
			f.Bool("all", false, "all of them, instead of names")
			f.Bool("no-restart", false, "record only; takes effect with the next release")
			f.Bool("previews", false, "those that only previews get")
		},
	},
}

// runConfigEdit is what the server says: only the client has an editor.
func runConfigEdit(_ context.Context, c *call) error {
	return mesh.Errorf(mesh.Invalid, "config:edit works in the client only, which has your editor").
		WithHint("mesh config:edit -a %[1]s; or: ssh mesh config:export -a %[1]s --format envfile > vars; edit it; ssh mesh config:import -a %[1]s --replace < vars", c.stack.Name)
}

func runConfig(ctx context.Context, c *call) error {
	show, _ := c.flags.GetBool("show")
	if show && !c.Key.May(mesh.AccessDeploy, c.stack.Name) {
		return c.denied(mesh.AccessDeploy)
	}
	if previews, _ := c.flags.GetBool("previews"); previews {
		return c.listPreviewConfig(show)
	}
	svc, err := c.configService(ctx)
	if err != nil {
		return err
	}
	global, err := c.Settings.GlobalConfig(ctx)
	if err != nil {
		return err
	}
	if show {
		if c.global {
			c.audited = append(c.audited, "--global")
		}
		c.audited = append(c.audited, "--show")
	}
	cfg := c.stack.ConfigOf(svc).Over(global)
	names := cfg.Names()
	if c.json {
		sources := map[string]string{}
		for _, n := range names {
			sources[n], _ = c.origin(svc, global, n)
		}
		out := map[string]any{"sources": sources}
		if svc != "" {
			out["service"] = svc
		}
		return c.printConfig(cfg, show, out)
	}
	switch {
	case len(names) > 0:
	case c.global:
		c.tell("there are no config vars of all stacks\n")
	case svc != "":
		c.tell("%s of %s has no config vars\n", svc, c.stack.Name)
	default:
		c.tell("%s has no config vars\n", c.stack.Name)
	}
	for _, n := range names {
		line := configLine(cfg, n, show)
		from, text := c.origin(svc, global, n)
		var notes []string
		if _, both := global[n]; !c.global && (svc != "" || from == fromServer || both) {
			notes = append(notes, text)
		}
		if !c.global && slices.Contains(c.stack.ProductionOnly, n) {
			notes = append(notes, "not for previews")
		}
		if len(notes) > 0 {
			line += "  # " + strings.Join(notes, "; ")
		}
		_, _ = fmt.Fprintln(c.Stdout, line)
	}
	return nil
}

// listPreviewConfig lists the config vars that only previews get.
func (c *call) listPreviewConfig(show bool) error {
	cfg := c.stack.PreviewConfig
	if c.json {
		return c.printConfig(cfg, show, map[string]any{})
	}
	if len(cfg) == 0 {
		c.tell("%s has no config vars for previews alone\n", c.stack.Name)
	}
	for _, n := range cfg.Names() {
		_, _ = fmt.Fprintln(c.Stdout, configLine(cfg, n, show))
	}
	return nil
}

// configLine is a config var as people read it: its name, with the value if that is shown.
func configLine(cfg mesh.Config, name string, show bool) string {
	if !show {
		return name
	}
	// Quote if necessary, so that a value of several lines stays one value.
	return name + "=" + Join([]string{cfg[name].Reveal()})
}

// printConfig prints config vars as JSON, with what out has already.
func (c *call) printConfig(cfg mesh.Config, show bool, out map[string]any) error {
	out["names"] = append([]string{}, cfg.Names()...)
	if !c.global {
		out["stack"] = c.stack.Name
	}
	if show {
		values, err := plainValues(cfg)
		if err != nil {
			return err
		}
		out["values"] = values
	}
	return c.printJSON(out)
}

// configService returns the service of -p, which must exist.
func (c *call) configService(ctx context.Context) (mesh.ServiceName, error) {
	typed, _ := c.flags.GetString("service")
	if typed == "" {
		return "", nil
	}
	svc, err := mesh.ParseServiceName(typed)
	if err != nil {
		return "", err
	}
	known := map[mesh.ServiceName]bool{}
	for name := range c.stack.Services {
		known[name] = true
	}
	if c.stack.Current > 0 {
		r, err := c.History.Release(ctx, c.stack.Name, c.stack.Current)
		if err != nil {
			return "", err
		}
		for name := range r.Services {
			known[name] = true
		}
	}
	if !known[svc] {
		return "", mesh.Errorf(mesh.NotFound, "%s has no service %q", c.stack.Name, svc).WithHint("list the services: ssh mesh svc -a %s", c.stack.Name)
	}
	return svc, nil
}

// Where a config var comes from.
const (
	fromService = "service" // svc:update --env
	fromStack   = "stack"
	fromServer  = "server" // config:set --global
)

// origin returns where a config var of a service, or of none, comes from, for programs and
// for people. global are the config vars of all stacks.
func (c *call) origin(svc mesh.ServiceName, global mesh.Config, name string) (from, text string) {
	var levels []string // the first one wins
	if _, own := c.stack.Services[svc].Config[name]; own {
		from, levels = fromService, append(levels, string(svc))
	}
	if _, own := c.stack.Config[name]; own {
		from, levels = cmp.Or(from, fromStack), append(levels, string(c.stack.Name))
	}
	if _, own := global[name]; own {
		from, levels = cmp.Or(from, fromServer), append(levels, "all stacks")
	}
	text = "set for " + levels[0]
	if len(levels) > 1 {
		text += ", over that of " + strings.Join(levels[1:], " and ")
	}
	return from, text
}

func runConfigGet(ctx context.Context, c *call) error {
	global, err := c.Settings.GlobalConfig(ctx)
	if err != nil {
		return err
	}
	v, ok := c.stack.Config.Over(global)[c.args[0]]
	if !ok {
		return mesh.Errorf(mesh.NotFound, "%s has no config var %s", c.stack.Name, mesh.Clip(c.args[0], 60)).WithHint("list them with: ssh mesh config -a %s", c.stack.Name)
	}
	if c.json {
		if err := validJSON(c.args[0], v); err != nil {
			return err
		}
		return c.printJSON(map[string]string{"name": c.args[0], "value": v.Reveal()})
	}
	_, _ = fmt.Fprintln(c.Stdout, v.Reveal())
	return nil
}

// maxValue limits standard input. It is more than a stack may hold in total.
const maxValue = 2 << 20

// assignments parses words of the form NAME=VALUE; one value may be "-", for standard
// input. option is the option that takes them, if they are not arguments, and usage is a
// command line up to the first of them.
func (c *call) assignments(words []string, option, usage string) (mesh.Config, error) {
	set := mesh.Config{}
	fromStdin := ""
	for i, a := range words {
		name, value, ok := strings.Cut(a, "=")
		if !ok {
			what := option
			if option == "" {
				what = fmt.Sprintf("argument %d", i+1)
			}
			// Do not quote it: it may be the other half of a value.
			return nil, mesh.Errorf(mesh.Invalid, "%s is not NAME=VALUE", what).
				WithHint("write NAME=VALUE; quote a value with spaces twice, ssh mesh \"%sNAME='a value'\", or read it from standard input: ssh mesh %sNAME=- < file", usage, usage)
		}
		if _, err := mesh.ParseVarName(name); err != nil {
			return nil, err
		}
		if _, twice := set[name]; twice {
			return nil, c.usage("%s is given twice", name)
		}
		if value == "-" {
			if fromStdin != "" {
				return nil, c.usage("only one value can come from standard input, and %s already does", fromStdin)
			}
			fromStdin = name
		}
		set[name] = mesh.NewSecret(value)
	}
	if fromStdin != "" {
		if c.TTY {
			return nil, mesh.Errorf(mesh.Invalid, "the value of %s must come from standard input, which is a terminal", fromStdin).
				WithHint("pipe it: ssh mesh %s%s=- < file", usage, fromStdin)
		}
		data, err := c.text("the bytes of "+fromStdin, maxValue)
		if err != nil {
			return nil, err
		}
		// echo and editors end the last line, on Windows with CR LF; that is seldom
		// part of the value. Nothing else is removed.
		set[fromStdin] = mesh.NewSecret(strings.TrimSuffix(strings.TrimSuffix(data, "\n"), "\r"))
	}
	return set, nil
}

func runConfigSet(ctx context.Context, c *call) error {
	if len(c.args) == 0 && !c.global {
		return c.usage("config:set needs %s", c.def.args)
	}
	previews, _ := c.flags.GetBool("previews")
	marks := c.flags.Changed("production-only")
	switch {
	case (previews || marks) && c.global:
		return c.usage("--global goes to all stacks, with their previews")
	case previews && marks:
		return c.usage("--previews is for previews, --production-only against them: choose one")
	}
	words, undo := c.args, func(context.Context) {}
	if marks {
		var err error
		if words, undo, err = c.markProduction(ctx); err != nil || len(words) == 0 {
			return err
		}
	}
	set, err := c.assignments(words, "", "config:set "+c.whose()+" ")
	if err != nil {
		undo(ctx)
	}
	if err != nil {
		return err
	}
	if encoded, _ := c.flags.GetBool("encoded"); encoded {
		for name, value := range set {
			data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value.Reveal()))
			if err != nil {
				return c.usage("the value of %s is not base64", name)
			}
			set[name] = mesh.NewSecret(string(data))
		}
	}
	switch {
	case c.global:
		return c.changeGlobal(ctx, mesh.ConfigChange{Set: set}, false, "set")
	case previews:
		return c.changePreviewConfig(ctx, mesh.ConfigChange{Set: set}, "set")
	}
	err = c.changeConfig(ctx, mesh.ConfigChange{Set: set}, "set")
	if err != nil {
		undo(context.WithoutCancel(ctx))
	}
	return err
}

// whose returns the option that names what a command works on.
func (c *call) whose() string {
	if c.global {
		return "--global"
	}
	return "-a " + string(c.stack.Name)
}

func runConfigUnset(ctx context.Context, c *call) error {
	for _, n := range c.args {
		if strings.Contains(n, "=") {
			return c.usage("config:unset takes names, not %q", mesh.Clip(n[:strings.IndexByte(n, '=')], 60)+"=…")
		}
	}
	all, _ := c.flags.GetBool("all")
	switch {
	case all && len(c.args) > 0:
		return c.usage("--all takes no names")
	case !all && len(c.args) == 0:
		return c.usage("config:unset needs NAME…")
	case all:
		c.audited = append(c.audited, "--all")
	}
	if c.global {
		return c.changeGlobal(ctx, mesh.ConfigChange{Unset: c.args}, all, "unset")
	}
	names := c.args
	if previews, _ := c.flags.GetBool("previews"); previews {
		if all {
			names = c.stack.PreviewConfig.Names()
		}
		return c.changePreviewConfig(ctx, mesh.ConfigChange{Unset: names}, "unset")
	}
	if all {
		names = c.stack.Config.Names()
	}
	global, gerr := c.Settings.GlobalConfig(ctx) // it only helps with an error
	for _, n := range names {
		_, own := c.stack.Config[n]
		if _, set := global[n]; gerr == nil && set && !own {
			return mesh.Errorf(mesh.NotFound, "%s has no config var %s of its own: it is set for all stacks", c.stack.Name, n).
				WithHint("give it another value: ssh mesh config:set -a %s %s=VALUE; an admin removes it with: ssh mesh config:unset --global %s", c.stack.Name, n, n)
		}
	}
	return c.changeConfig(ctx, mesh.ConfigChange{Unset: names}, "unset")
}

// changeGlobal changes the config vars of all stacks. all: remove every one of them first.
func (c *call) changeGlobal(ctx context.Context, change mesh.ConfigChange, all bool, verb string) error {
	change.RecordOnly, _ = c.flags.GetBool("no-restart")
	var failed []string
	done := 0
	changed, err := c.Configs.SetGlobalConfig(ctx, c.Key.Name, change, all, c.Stderr, func(o mesh.Outcome) {
		if done++; o.Err == nil {
			c.say("%s %s: released\n", o.Stack, o.Release)
			return
		}
		failed = append(failed, string(o.Stack))
		c.say("%s: not changed: %s\n", o.Stack, mesh.Visible(o.Err.Error()))
	})
	if err != nil {
		return err
	}
	names := strings.Join(changed, ", ")
	switch {
	case len(failed) > 0 && len(changed) > 0:
		c.say("%s %s for all stacks\n", verb, names)
	case len(failed) > 0:
	case len(changed) == 0 && done == 0:
		c.say("all stacks: nothing to change\n")
	case len(changed) == 0:
		c.say("all stacks: nothing to change, but for those above\n")
	case change.RecordOnly:
		c.say("%s %s for all stacks; takes effect with the next release of each\n", verb, names)
	case done == 0:
		c.say("%s %s for all stacks; no deployed stack needs a release for it\n", verb, names)
	default:
		c.say("%s %s for all stacks\n", verb, names)
	}
	if len(failed) == 0 {
		return nil
	}
	return mesh.Errorf(mesh.Failed, "%d of %d stacks do not run with the config vars of all stacks: %s", len(failed), done, mesh.Clip(strings.Join(failed, ", "), 300)).
		WithHint("their next release has them; to release them when they are in order: ssh mesh config:set --global")
}

func (c *call) changeConfig(ctx context.Context, change mesh.ConfigChange, verb string) error {
	change.RecordOnly, _ = c.flags.GetBool("no-restart")
	changed, err := c.Configs.SetConfig(ctx, c.stack.Name, c.Key.Name, change, c.Stderr)
	if err != nil {
		return err
	}
	st, err := c.Stacks.Stack(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	switch {
	case len(changed) == 0:
		c.say("%s: nothing to change\n", st.Name)
	case st.Current == 0, change.RecordOnly:
		c.say("%s: %s %s; takes effect with the next release\n", st.Name, verb, strings.Join(changed, ", "))
	default:
		c.say("%s %s: %s %s\n", st.Name, st.Current, verb, strings.Join(changed, ", "))
	}
	return nil
}
