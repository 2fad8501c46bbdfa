package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"mesh"
)

// Addons creates, changes and removes add-ons. What takes long is written to out.
type Addons interface {
	CreateAddon(ctx context.Context, n mesh.NewAddon, by mesh.KeyName, out io.Writer) (mesh.Addon, error)
	// DestroyAddon returns a Conflict while a stack is attached. With backup it first makes a
	// last one, and returns its ID; empty: the kind has none.
	DestroyAddon(ctx context.Context, name mesh.AddonName, by mesh.KeyName, backup bool) (last string, err error)
	// AttachAddon and DetachAddon make a release of a stack that runs. An empty name of an
	// attachment is the kind's own, or all.
	AttachAddon(ctx context.Context, stack mesh.StackName, by mesh.KeyName, at mesh.Attachment, out io.Writer) (mesh.Attachment, error)
	DetachAddon(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.AddonName, as string, out io.Writer) ([]mesh.Attachment, error)
	SetAddon(ctx context.Context, name mesh.AddonName, c mesh.AddonChange, out io.Writer) (mesh.Addon, error)
	StopAddon(ctx context.Context, name mesh.AddonName) error
	StartAddon(ctx context.Context, name mesh.AddonName) error
	RestartAddon(ctx context.Context, name mesh.AddonName) error
}

// AddonUse looks into add-ons.
type AddonUse interface {
	// AddonUsers returns the stacks that are attached.
	AddonUsers(ctx context.Context, name mesh.AddonName) ([]mesh.StackName, error)
	// AddonState adds what the server uses if full is set, which takes up to two seconds.
	AddonState(ctx context.Context, a mesh.Addon, full bool) (mesh.AddonStatus, error)
	AddonShell(ctx context.Context, name mesh.AddonName, run mesh.Run) (int, error)
	AddonLogs(ctx context.Context, name mesh.AddonName, lines int, follow bool, w io.Writer) error
}

// AddonList reads the records of add-ons.
type AddonList interface {
	Addons(ctx context.Context) ([]mesh.Addon, error)
	// Addon returns NotFound if there is none.
	Addon(ctx context.Context, name mesh.AddonName) (mesh.Addon, error)
}

// AddonKinds knows what add-ons there can be.
type AddonKinds interface {
	All() (list []mesh.AddonKindInfo, faults []error)
	Kind(name string) (mesh.AddonKindInfo, error)
	Vars(a mesh.Addon, at mesh.Attachment) (mesh.Config, error)
	Slow(ctx context.Context, a mesh.Addon) (lines []string, ok bool, err error)
	// Form says what dumps of an add-on are, and what is not in them.
	Form(a mesh.Addon) (form, note string, err error)
}

// ofAddon adds the options of commands on one add-on to others.
func ofAddon(more func(*pflag.FlagSet)) func(*pflag.FlagSet) {
	return func(f *pflag.FlagSet) {
		f.StringP("app", "a", "", "the add-on that is attached to this `STACK`")
		f.StringP("stack", "s", "", "")
		f.String("kind", "", "")
		_ = f.MarkHidden("stack")
		_ = f.MarkHidden("kind") // of pg:psql and the like
		if more != nil {
			more(f)
		}
	}
}

var addonCommands = []*definition{
	{
		topic: "addons", short: "List the add-ons: databases and other servers for data", quiet: true, json: true, run: runAddons,
		flags: ofAddon(nil),
	},
	{
		topic: "addons", verb: "kinds", short: "List the kinds of add-ons", quiet: true, json: true, run: runAddonKinds,
		long: "An admin can declare others: see docs/addons.md.",
	},
	{
		topic: "addons", verb: "create", args: "KIND[:VERSION] [NAME]", short: "Create an add-on, and attach it to a stack",
		long: "The version is a tag of the kind's image; what runs is recorded and changes with addons:upgrade only. Without -a\n" +
			"nothing is attached. Without a name it gets that of the stack and the kind.",
		access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 2, run: runAddonCreate,
		flags: func(f *pflag.FlagSet) {
			f.StringP("app", "a", "", "attach it to this `STACK`")
			f.StringP("stack", "s", "", "")
			_ = f.MarkHidden("stack")
			f.String("version", "", "the same `VERSION` as in KIND:VERSION")
			f.String("as", "", "`NAME` of the config var: CACHE for CACHE_URL")
			f.Bool("parts", false, "also set the parts of the URL, such as PGHOST")
			f.String("memory", "", "limit the memory to a `SIZE`, such as 512m")
			f.String("cpus", "", "limit the CPU to `CORES`, such as 0.5")
			f.StringArray("set", nil, "`PARAMETER=VALUE` of the server; may be repeated")
			f.String("from", "", "with the data of a `BACKUP`, as addons:backups lists them")
			placeFlags(f, "another place of that backup, for admins")
		},
	},
	{
		topic: "addons", verb: "info", args: "[NAME]", short: "Show an add-on, and what it uses", access: mesh.AccessRead, ownCheck: true, quiet: true, json: true, max: 1, run: runAddonInfo,
		flags: ofAddon(nil),
	},
	{
		topic: "addons", verb: "url", args: "[NAME]", short: "Print the URL of an add-on, with its password", access: mesh.AccessDeploy, ownCheck: true, max: 1, run: runAddonURL,
		long:  "Stacks that are attached have it in a config var. From your machine, use it with addons:proxy.",
		flags: ofAddon(func(f *pflag.FlagSet) { f.Int("port", 0, "as seen through addons:proxy on this `PORT`") }),
	},
	{
		topic: "addons", verb: "attach", args: "NAME", short: "Let a stack reach an add-on, and tell it the URL",
		long: "The URL is set as one release: DATABASE_URL for databases. Its instances, and those of no stack that is not\n" +
			"attached, reach the add-on as NAME.mesh.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runAddonAttach,
		flags: func(f *pflag.FlagSet) {
			f.String("as", "", "`NAME` of the config var: CACHE for CACHE_URL")
			f.Bool("parts", false, "also set the parts of the URL, such as PGHOST")
		},
	},
	{
		topic: "addons", verb: "detach", args: "NAME", short: "Take an add-on and its config vars away from a stack",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runAddonDetach,
		flags: func(f *pflag.FlagSet) { f.String("as", "", "only the attachment with this `NAME`") },
	},
	{
		topic: "addons", verb: "destroy", args: "NAME", short: "Remove an add-on and its data; a last backup stays 7 days", access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, run: runAddonDestroy,
		flags: func(f *pflag.FlagSet) {
			f.String("confirm", "", "the `NAME` of the add-on again")
			_ = f.SetAnnotation("confirm", required, nil)
			f.Bool("confirmed", false, "")
			_ = f.MarkHidden("confirmed")
			f.Bool("no-backup", false, "keep no last backup")
		},
	},
	{
		topic: "addons", verb: "set", args: "NAME NAME=VALUE…", short: "Change the limits and parameters of an add-on",
		long: "memory=512m and cpus=0.5 are limits, which change while it runs. Other parameters are those of its server, such as max_connections=200; it starts again\n" +
			"with them, and goes back if it does not answer. An empty value takes one away.",
		access: mesh.AccessDeploy, ownCheck: true, min: 2, max: maxArgs, run: runAddonSet,
		keeps: func(c *call) []string { return c.args },
	},
	{topic: "addons", verb: "restart", args: "[NAME]", short: "Start the server of an add-on again", access: mesh.AccessDeploy, ownCheck: true, max: 1, flags: ofAddon(nil), run: func(ctx context.Context, c *call) error {
		return c.turnAddon(ctx, "restarted", c.Addons.RestartAddon)
	}},
	{topic: "addons", verb: "stop", args: "[NAME]", short: "Stop the server of an add-on; its data stays", access: mesh.AccessDeploy, ownCheck: true, max: 1, flags: ofAddon(nil), run: func(ctx context.Context, c *call) error {
		return c.turnAddon(ctx, "stopped", c.Addons.StopAddon)
	}},
	{topic: "addons", verb: "start", args: "[NAME]", short: "Start the server of an add-on", access: mesh.AccessDeploy, ownCheck: true, max: 1, flags: ofAddon(nil), run: func(ctx context.Context, c *call) error {
		return c.turnAddon(ctx, "started", c.Addons.StartAddon)
	}},
	{
		topic: "addons", verb: "logs", args: "[NAME]", short: "Print what the server of an add-on has printed", access: mesh.AccessRead, ownCheck: true, quiet: true, parts: true, max: 1, run: runAddonLogs,
		flags: ofAddon(func(f *pflag.FlagSet) {
			f.BoolP("tail", "t", false, "follow")
			f.IntP("lines", "n", 100, "the last `N` lines; -1 for all")
		}),
	},
	{
		topic: "addons", verb: "shell", args: "[NAME] [-- ARGUMENT…]", short: "Type into an add-on: psql, redis-cli and others",
		long:   "With ssh -t it gets a terminal; without, it reads standard input. You are its administrator.",
		access: mesh.AccessDeploy, ownCheck: true, terminal: true, parts: true, max: maxArgs, run: runAddonShell, keeps: func(c *call) []string { return c.args[:min(1, len(c.args))] },
		flags: ofAddon(nil),
	},
	{ // a command of the client, which asks where the add-on is
		topic: "addons", verb: "proxy", args: "[NAME]", short: "Open a port on your machine that leads to an add-on",
		long: "A command of the client: mesh addons:proxy NAME. With plain ssh: ssh -N -L 5432:NAME:5432 mesh. The connections of\n" +
			"your programs go through SSH, for as long as it runs.",
		access: mesh.AccessDeploy, ownCheck: true, json: true, max: 1, run: runAddonProxy,
		flags: ofAddon(func(f *pflag.FlagSet) {
			f.IntP("port", "p", 0, "the `PORT` on your machine; the add-on's own unless named")
		}),
	},
}

func runAddonProxy(ctx context.Context, c *call) error {
	a, err := c.addonOf(ctx, mesh.AccessDeploy, false)
	if err != nil {
		return err
	}
	k, err := c.AddonKinds.Kind(string(a.Kind))
	if err != nil {
		return err
	}
	if !c.json {
		return mesh.Errorf(mesh.Invalid, "addons:proxy opens a port on your machine, so run it there").
			WithHint("mesh addons:proxy %s; or with plain ssh: ssh -N -L %d:%s:%d mesh", a.Name, k.Port, a.Name, k.Port)
	}
	return c.printJSON(map[string]any{"name": a.Name, "port": k.Port})
}

// optionalStack returns the stack that is named, or that the client's checkout belongs to.
func (c *call) optionalStack() mesh.StackName {
	for _, name := range []string{"app", "stack"} {
		if s, _ := c.flags.GetString(name); s != "" {
			return mesh.StackName(s)
		}
	}
	return mesh.StackName(c.named)
}

// optionalIn returns the stack of optionalStack, or a zero one. A stack of the client's
// checkout that does not exist counts for nothing; one that was typed is an error.
func (c *call) optionalIn(stacks []mesh.Stack) (mesh.Stack, error) {
	name := c.optionalStack()
	if name == "" {
		return mesh.Stack{}, nil
	}
	seen := slices.DeleteFunc(slices.Clone(stacks), func(s mesh.Stack) bool { return !c.Key.May(mesh.AccessRead, s.Name) })
	i := slices.IndexFunc(seen, func(s mesh.Stack) bool { return s.Name == name })
	switch {
	case i >= 0:
		return seen[i], nil
	case c.flags.Changed("app") || c.flags.Changed("stack"):
		return mesh.Stack{}, noStack(string(name), seen)
	}
	return mesh.Stack{}, nil
}

// addonOf finds the add-on that a command is about: by name, by the name of its config var,
// or because the stack has only one of that kind. The key must have the access to one of
// its stacks, or to all of them if whole is set.
func (c *call) addonOf(ctx context.Context, need mesh.Access, whole bool) (mesh.Addon, error) {
	name := ""
	if len(c.args) > 0 {
		name, c.args = c.args[0], c.args[1:]
	}
	stacks, err := c.Stacks.Stacks(ctx)
	if err != nil {
		return mesh.Addon{}, err
	}
	st, err := c.optionalIn(stacks)
	if err != nil {
		return mesh.Addon{}, err
	}
	if as, err := mesh.ParseAttachmentName(name); err == nil && name != "" && name == strings.ToUpper(name) {
		for _, at := range st.Addons {
			if at.As == as {
				name = string(at.Addon)
			}
		}
	}
	if name == "" {
		var err error
		if name, err = c.onlyAddon(ctx, st); err != nil {
			return mesh.Addon{}, err
		}
	}
	a, err := c.AddonList.Addon(ctx, mesh.AddonName(name))
	if err != nil && !errors.Is(err, mesh.Damaged) {
		if c.Key.May(mesh.AccessDeploy, "") {
			return a, err
		}
		return a, noAddon(name)
	}
	if err := c.mayUseAddon(ctx, need, whole, mesh.AddonName(name), a.CreatedBy); err != nil {
		return a, err
	}
	c.audited = append(c.audited, name)
	return a, err
}

func noAddon(name string) error {
	return mesh.Errorf(mesh.NotFound, "there is no add-on %q", mesh.Clip(mesh.Visible(name), 60)).WithHint("list them with: ssh mesh addons")
}

// onlyAddon returns the name of the add-on of a stack, of the kind that is asked for.
func (c *call) onlyAddon(ctx context.Context, st mesh.Stack) (string, error) {
	kind, _ := c.flags.GetString("kind")
	if st.Name == "" {
		return "", c.usage("name the add-on, or the stack that it is attached to")
	}
	var names []string
	for _, name := range st.Reaches() {
		if a, err := c.AddonList.Addon(ctx, name); err == nil && (kind == "" || string(a.Kind) == kind) {
			names = append(names, string(name))
		}
	}
	switch len(names) {
	case 1:
		return names[0], nil
	case 0:
		return "", mesh.Errorf(mesh.NotFound, "no %s is attached to %s", cmp.Or(kind, "add-on"), st.Name).
			WithHint("create one: ssh mesh addons:create %s -a %s; or name one: ssh mesh addons", cmp.Or(kind, "postgres"), st.Name)
	}
	return "", c.usage("%s has several: name one of %s", st.Name, strings.Join(names, ", "))
}

// mayUseAddon returns an error if the key may not use an add-on: see mesh.Key.MayAddon.
func (c *call) mayUseAddon(ctx context.Context, need mesh.Access, whole bool, name mesh.AddonName, creator mesh.KeyName) error {
	users, err := c.AddonUse.AddonUsers(ctx, name)
	switch {
	case err != nil:
		return err
	case c.Key.MayAddon(need, users, creator, whole):
		return nil
	case c.Key.MayAddon(need, users, creator, false):
		return mesh.Errorf(mesh.Denied, "the key %q may not change %s, which other stacks use as well", c.Key.Name, name).WithHint("ask an admin of the server")
	case c.Key.MayAddon(mesh.AccessRead, users, creator, false):
		return c.denied(need)
	}
	return noAddon(string(name)) // whether there is one is not everybody's business
}

type addonJSON struct {
	Name        string            `json:"name"`
	Kind        string            `json:"kind"`
	Version     string            `json:"version"`
	Image       string            `json:"image"`
	ImageID     string            `json:"image_id,omitempty"`
	Digest      string            `json:"digest,omitempty"`
	State       string            `json:"state"`
	Host        string            `json:"host"`
	Port        int               `json:"port,omitempty"`
	Attached    []attachmentJSON  `json:"attached"`
	MemoryLimit int64             `json:"memory_limit,omitempty"`
	CPULimit    float64           `json:"cpu_limit,omitempty"`
	Params      map[string]string `json:"parameters,omitempty"`
	Memory      int64             `json:"memory,omitempty"`
	CPU         float64           `json:"cpu,omitempty"`
	Size        *int64            `json:"size,omitempty"`
	Connections *int              `json:"connections,omitempty"`
	MaxConns    int               `json:"max_connections,omitempty"`
	Since       *time.Time        `json:"since,omitempty"`
	Slow        []string          `json:"slow,omitempty"`
	Kept        []keptJSON        `json:"kept,omitempty"`
	Created     time.Time         `json:"created"`
	CreatedBy   string            `json:"created_by,omitempty"`
}

type attachmentJSON struct {
	Stack string `json:"stack"`
	As    string `json:"as"`
	Parts bool   `json:"parts,omitempty"`
}

type keptJSON struct {
	Version string    `json:"version"`
	Why     string    `json:"why"`
	Until   time.Time `json:"until"`
}

// addonRow describes an add-on. Of stacks it names those that the key may see.
func (c *call) addonRow(ctx context.Context, a mesh.Addon, stacks []mesh.Stack, full bool) (addonJSON, mesh.AddonStatus, error) {
	out := addonJSON{
		Name: string(a.Name), Kind: string(a.Kind), Version: a.Version, Image: a.Image, ImageID: a.ImageID, Digest: a.Digest, Host: a.Name.Host(),
		Attached: []attachmentJSON{}, MemoryLimit: a.Memory, CPULimit: a.CPUs, Params: a.Params, Created: a.Created, CreatedBy: string(a.CreatedBy),
	}
	for _, st := range stacks {
		for _, at := range st.Attachment(a.Name) {
			if c.Key.May(mesh.AccessRead, st.Name) {
				out.Attached = append(out.Attached, attachmentJSON{string(st.Name), at.As, at.Parts})
			}
		}
	}
	if k, err := c.AddonKinds.Kind(string(a.Kind)); err == nil {
		out.Port = k.Port
	}
	for _, k := range a.Kept {
		out.Kept = append(out.Kept, keptJSON{k.Version, k.Why, k.Until})
	}
	st, err := c.AddonUse.AddonState(ctx, a, full)
	switch {
	case errors.Is(err, mesh.Unavailable):
		st.State, err = "unknown: the engine does not answer", nil
	case a.State == mesh.AddonCreating || a.State == mesh.AddonDestroying:
		st.State = string(a.State)
	}
	out.State = st.State
	if full && err == nil && st.State == "up" {
		out.Memory, out.CPU, out.MaxConns = st.Memory, st.CPU, st.Limit
		if st.Size >= 0 {
			out.Size = &st.Size
		}
		if st.Connections >= 0 {
			out.Connections = &st.Connections
		}
		out.Since = &st.Since
	}
	return out, st, err
}

func runAddons(ctx context.Context, c *call) error {
	all, err := c.AddonList.Addons(ctx)
	if err != nil {
		return err
	}
	stacks, err := c.Stacks.Stacks(ctx)
	if err != nil {
		return err
	}
	of, err := c.optionalIn(stacks)
	if err != nil {
		return err
	}
	only := of.Name
	kind, _ := c.flags.GetString("kind")
	list := []addonJSON{}
	var rows [][]string
	for _, a := range all {
		if !c.Key.MayAddon(mesh.AccessRead, usersOf(stacks, a.Name), a.CreatedBy, false) || kind != "" && string(a.Kind) != kind {
			continue
		}
		row, _, err := c.addonRow(ctx, a, stacks, false)
		if err != nil {
			return err
		}
		if only != "" && !slices.ContainsFunc(row.Attached, func(at attachmentJSON) bool { return at.Stack == string(only) }) {
			continue
		}
		list = append(list, row)
		rows = append(rows, []string{row.Name, row.Kind, row.Version, row.State, cmp.Or(attachedText(row.Attached), "-"), row.Host})
	}
	if len(list) == 0 && !c.json {
		of := ""
		if only != "" {
			of = " attached to " + string(only)
		}
		c.tell("There are no add-ons%s. Create one: ssh mesh addons:create postgres -a STACK\n", of)
		return nil
	}
	return c.list(list, []string{"ADD-ON", "KIND", "VERSION", "STATE", "ATTACHED", "HOST"}, rows)
}

// usersOf returns the stacks that are attached to an add-on.
func usersOf(stacks []mesh.Stack, name mesh.AddonName) (out []mesh.StackName) {
	for _, s := range stacks {
		if len(s.Attachment(name)) > 0 {
			out = append(out, s.Name)
		}
	}
	return out
}

func attachedText(list []attachmentJSON) string {
	var all []string
	for _, at := range list {
		all = append(all, at.Stack+" as "+at.As+"_URL")
	}
	return strings.Join(all, ", ")
}

type kindJSON struct {
	Kind    string   `json:"kind"`
	Also    []string `json:"also,omitempty"`
	Image   string   `json:"image"`
	Version string   `json:"version"`
	Port    int      `json:"port"`
	Var     string   `json:"var"`
	Backups bool     `json:"backups"`
	Shell   bool     `json:"shell"`
	Own     bool     `json:"own,omitempty"`
}

func runAddonKinds(_ context.Context, c *call) error {
	kinds, faults := c.AddonKinds.All()
	list := []kindJSON{}
	var rows [][]string
	for _, k := range kinds {
		list = append(list, kindJSON{string(k.Name), k.Also, k.Image, k.Version, k.Port, k.As + "_URL", k.Dumps, k.Shell, k.Own})
		backups := "yes"
		if !k.Dumps {
			backups = "no"
		}
		rows = append(rows, []string{string(k.Name), k.Image + ":" + k.Version, k.As + "_URL", backups, cmp.Or(strings.Join(k.Also, " "), "-")})
	}
	if err := c.list(list, []string{"KIND", "IMAGE", "CONFIG VAR", "BACKUPS", "ALSO"}, rows); err != nil {
		return err
	}
	if c.Key.May(mesh.AccessAdmin, "") {
		for _, f := range faults {
			c.tell("not read: %s\n", f.Error())
		}
	}
	return nil
}

// memoryOf reads a memory limit, and cpusOf a limit in cores. what names it in an error.
func (c *call) memoryOf(what, v string) (int64, error) {
	n, err := units.RAMInBytes(v)
	if err != nil || n < leastMemory {
		return 0, c.usage("%s %q is not a size of at least 6m; use 512m or 2g, for example", what, mesh.Clip(v, 40))
	}
	return n, nil
}

func (c *call) cpusOf(what, v string) (float64, error) {
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || !(n >= leastCPUs && n <= mostCPUs) {
		return 0, c.usage("%s %q is not a number of cores; use 0.5 or 2, for example", what, mesh.Clip(v, 40))
	}
	return n, nil
}

func runAddonCreate(ctx context.Context, c *call) (err error) {
	var n mesh.NewAddon
	n.Kind, n.Version, _ = strings.Cut(c.args[0], ":")
	if ours, is := strings.CutPrefix(n.Kind, "heroku-"); is { // heroku-postgresql:essential-0
		n.Kind, n.Version = strings.TrimSuffix(ours, "ql"), ""
	}
	if v, _ := c.flags.GetString("version"); v != "" {
		if n.Version != "" && n.Version != v {
			return c.usage("%s and --version %s name different versions", mesh.Clip(c.args[0], 60), mesh.Clip(v, 60))
		}
		n.Version = v
	}
	kind, err := c.AddonKinds.Kind(n.Kind)
	if err != nil {
		return err
	}
	stack := c.optionalStack()
	if stack == "" && !c.Key.May(mesh.AccessDeploy, "") {
		return mesh.Errorf(mesh.Denied, "the key %q is limited to stacks: name the one that gets the add-on", c.Key.Name).WithHint("ssh mesh addons:create %s -a STACK", kind.Name)
	}
	at := mesh.Attachment{}
	if at.Parts, _ = c.flags.GetBool("parts"); at.Parts {
		c.audited = append(c.audited, "--parts")
	}
	if as, _ := c.flags.GetString("as"); as != "" {
		if at.As, err = mesh.ParseAttachmentName(as); err != nil {
			return err
		}
		c.audited = append(c.audited, "--as "+at.As)
	}
	if stack != "" {
		if c.stack, err = c.Stacks.Stack(ctx, stack); err != nil || !c.Key.May(mesh.AccessRead, stack) {
			return cmp.Or(err, error(&mesh.Error{Kind: mesh.NoStack, Text: fmt.Sprintf("no stack is named %q", stack)}))
		}
		if !c.Key.May(mesh.AccessDeploy, stack) {
			return c.denied(mesh.AccessDeploy)
		}
		as := cmp.Or(at.As, kind.As)
		for _, o := range c.stack.Addons {
			if o.As == as {
				return mesh.Errorf(mesh.Conflict, "%s already has an add-on attached as %s: %s", stack, as, o.Addon).WithHint("choose another name with --as NAME")
			}
		}
		if _, had := c.stack.Config[as+"_URL"]; had {
			return mesh.Errorf(mesh.Conflict, "%s already has a config var %s_URL, which the add-on would replace", stack, as).
				WithHint("choose another name with --as NAME, or unset it first: ssh mesh config:unset -a %s %s_URL", stack, as)
		}
	}
	if v, _ := c.flags.GetString("memory"); v != "" {
		if n.Memory, err = c.memoryOf("--memory", v); err != nil {
			return err
		}
	}
	if v, _ := c.flags.GetString("cpus"); v != "" {
		if n.CPUs, err = c.cpusOf("--cpus", v); err != nil {
			return err
		}
	}
	set, _ := c.flags.GetStringArray("set")
	for _, p := range set {
		name, value, ok := strings.Cut(p, "=")
		if !ok || value == "" {
			return c.usage("--set takes PARAMETER=VALUE")
		}
		if n.Params == nil {
			n.Params = map[string]string{}
		}
		n.Params[name] = value
		c.audited = append(c.audited, "--set "+name)
	}
	if n.Name, err = c.newAddonName(ctx, kind, stack); err != nil {
		return err
	}
	a, err := c.createAddon(ctx, n)
	if err != nil {
		return err
	}
	c.say("created %s: %s %s at %s\n", a.Name, a.Kind, a.Version, a.Name.Host())
	if stack == "" {
		c.tell("attach it to a stack: ssh mesh addons:attach %s -a STACK\n", a.Name)
		return nil
	}
	at.Addon = a.Name
	if at, err = c.Addons.AttachAddon(ctx, stack, c.Key.Name, at, c.Stderr); err != nil {
		c.tell("%s was created, but is not attached to %s; try again: ssh mesh addons:attach %s -a %s\n", a.Name, stack, a.Name, stack)
		return err
	}
	return c.sayAttached(ctx, a, at)
}

// createAddon creates an add-on, with the data of a backup if one is named.
func (c *call) createAddon(ctx context.Context, n mesh.NewAddon) (mesh.Addon, error) {
	id, _ := c.flags.GetString("from")
	if id == "" {
		return c.Addons.CreateAddon(ctx, n, c.Key.Name, c.Stderr)
	}
	if err := c.mayPlace(); err != nil {
		return mesh.Addon{}, err
	}
	at, err := c.fromBackup(ctx, id)
	if err != nil {
		return mesh.Addon{}, err
	}
	c.audited = append(c.audited, "--from "+id)
	return c.AddonBackups.CreateFromBackup(ctx, n, at, id, c.Key.Name, c.Stderr)
}

// newAddonName returns the name that was given, or one that is free.
func (c *call) newAddonName(ctx context.Context, kind mesh.AddonKindInfo, stack mesh.StackName) (mesh.AddonName, error) {
	if len(c.args) > 1 {
		return mesh.ParseAddonName(c.args[1])
	}
	base := string(kind.Name)
	if stack != "" {
		base = string(stack) + "-" + base
	}
	base = base[:min(len(base), 36)]
	for i := 1; ; i++ {
		name := base
		if i > 1 {
			name = fmt.Sprintf("%s-%d", base, i)
		}
		if _, err := c.AddonList.Addon(ctx, mesh.AddonName(name)); errors.Is(err, mesh.NotFound) {
			return mesh.ParseAddonName(name)
		} else if err != nil && !errors.Is(err, mesh.Damaged) {
			return "", err
		}
	}
}

func (c *call) sayAttached(ctx context.Context, a mesh.Addon, at mesh.Attachment) error {
	vars, err := c.AddonKinds.Vars(a, at)
	if err != nil {
		return err
	}
	return c.releaseLine(ctx, fmt.Sprintf("attached %s as %s", a.Name, strings.Join(vars.Names(), ", ")))
}

func runAddonAttach(ctx context.Context, c *call) (err error) {
	stack := c.stack
	a, err := c.addonOf(ctx, mesh.AccessDeploy, false)
	if err != nil {
		return err
	}
	c.args = []string{string(a.Name)}
	c.audited = nil
	at := mesh.Attachment{Addon: a.Name}
	at.Parts, _ = c.flags.GetBool("parts")
	if as, _ := c.flags.GetString("as"); as != "" {
		if at.As, err = mesh.ParseAttachmentName(as); err != nil {
			return err
		}
	}
	if at, err = c.Addons.AttachAddon(ctx, stack.Name, c.Key.Name, at, c.Stderr); err != nil {
		return err
	}
	return c.sayAttached(ctx, a, at)
}

func runAddonDetach(ctx context.Context, c *call) error {
	name := mesh.AddonName(c.args[0])
	as, _ := c.flags.GetString("as")
	if as != "" {
		var err error
		if as, err = mesh.ParseAttachmentName(as); err != nil {
			return err
		}
	}
	for _, at := range c.stack.Addons { // DATABASE_URL, as Heroku's users say
		if c.args[0] == at.As || c.args[0] == at.As+"_URL" {
			name, as = at.Addon, at.As
		}
	}
	gone, err := c.Addons.DetachAddon(ctx, c.stack.Name, c.Key.Name, name, as, c.Stderr)
	if err != nil {
		return err
	}
	var names []string
	for _, at := range gone {
		names = append(names, at.As+"_URL")
	}
	return c.releaseLine(ctx, fmt.Sprintf("detached %s, which was %s; its data stays", name, strings.Join(names, ", ")))
}

func runAddonDestroy(ctx context.Context, c *call) error {
	typed := c.args[0]
	a, err := c.addonOf(ctx, mesh.AccessDeploy, true)
	if err != nil && !errors.Is(err, mesh.Damaged) {
		return err
	}
	confirm, _ := c.flags.GetString("confirm")
	if forced, _ := c.flags.GetBool("confirmed"); forced {
		confirm = typed
	}
	if confirm != typed {
		return mesh.Errorf(mesh.Invalid, "destroying %s removes all its data; confirm with its name", typed).
			WithHint("ssh mesh addons:destroy %s --confirm %s", typed, typed)
	}
	if err != nil {
		return err
	}
	bare, _ := c.flags.GetBool("no-backup")
	if bare {
		c.audited = append(c.audited, "--no-backup")
	}
	last, err := c.Addons.DestroyAddon(ctx, a.Name, c.Key.Name, !bare)
	if err != nil {
		return err
	}
	c.say("destroyed %s\n", a.Name)
	if last != "" {
		c.tell("a last backup is kept for 7 days; bring it back with: ssh mesh addons:create %s %s --from %s\n", a.Kind, a.Name, last)
	}
	return nil
}

func runAddonSet(ctx context.Context, c *call) error {
	settings := c.args[1:]
	a, err := c.addonOf(ctx, mesh.AccessDeploy, true)
	if err != nil {
		return err
	}
	change := mesh.AddonChange{Params: map[string]string{}}
	for _, s := range settings {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return c.usage("%q is not NAME=VALUE", mesh.Clip(s, 60))
		}
		switch name {
		case "memory":
			n := int64(0)
			if value != "" {
				if n, err = c.memoryOf("memory", value); err != nil {
					return err
				}
			}
			change.Memory = &n
		case "cpus":
			n := 0.0
			if value != "" {
				if n, err = c.cpusOf("cpus", value); err != nil {
					return err
				}
			}
			change.CPUs = &n
		default:
			change.Params[name] = value
		}
	}
	if a, err = c.Addons.SetAddon(ctx, a.Name, change, c.Stderr); err != nil {
		return err
	}
	c.say("changed %s\n", a.Name)
	return nil
}

// turnAddon starts or stops an add-on.
func (c *call) turnAddon(ctx context.Context, did string, fn func(context.Context, mesh.AddonName) error) error {
	a, err := c.addonOf(ctx, mesh.AccessDeploy, true)
	if err != nil {
		return err
	}
	if err := fn(ctx, a.Name); err != nil {
		return err
	}
	c.say("%s %s\n", did, a.Name)
	return nil
}

func runAddonInfo(ctx context.Context, c *call) error {
	a, err := c.addonOf(ctx, mesh.AccessRead, false)
	if err != nil {
		return err
	}
	stacks, err := c.Stacks.Stacks(ctx)
	if err != nil {
		return err
	}
	out, st, err := c.addonRow(ctx, a, stacks, true)
	if err != nil {
		return err
	}
	if st.State == "up" && c.Key.May(mesh.AccessDeploy, mesh.StackName(first(out.Attached))) {
		if lines, ok, err := c.AddonKinds.Slow(ctx, a); ok && err == nil {
			out.Slow = lines
		}
	}
	if c.json {
		return c.printJSON(out)
	}
	row := func(k, v string) { c.say("%-12s %s\n", k, v) }
	row("Add-on:", out.Name)
	row("Kind:", out.Kind+" "+out.Version)
	row("Image:", strings.TrimSuffix(out.Image+"@"+out.Digest, "@"))
	state := out.State
	if out.Since != nil {
		state += " since " + c.when(*out.Since)
	}
	row("State:", state)
	row("Host:", fmt.Sprintf("%s:%d, from the stacks that are attached", out.Host, out.Port))
	for _, at := range out.Attached {
		row("Attached:", at.Stack+" as "+at.As+"_URL")
	}
	limits := func(used, limit string) string { return strings.TrimSuffix(used+" of "+limit, " of ") }
	if out.Memory > 0 {
		limit := ""
		if a.Memory > 0 {
			limit = units.BytesSize(float64(a.Memory))
		}
		row("Memory:", limits(units.BytesSize(float64(out.Memory)), limit))
		cpus := ""
		if a.CPUs > 0 {
			cpus = strconv.FormatFloat(a.CPUs, 'g', -1, 64)
		}
		row("CPU:", limits(fmt.Sprintf("%.2f cores", out.CPU), cpus))
	}
	if out.Size != nil {
		row("Disk:", size(*out.Size))
	}
	if out.Connections != nil {
		most := ""
		if out.MaxConns > 0 {
			most = strconv.Itoa(out.MaxConns)
		}
		row("Connections:", limits(strconv.Itoa(*out.Connections), most))
	}
	for _, p := range slices.Sorted(maps.Keys(a.Params)) {
		row("Parameter:", p+"="+a.Params[p])
	}
	for _, k := range out.Kept {
		row("Kept:", fmt.Sprintf("the data of version %s from before it was %s, until %s; go back with: ssh mesh addons:revert %s", k.Version, k.Why, c.when(k.Until), a.Name))
	}
	for _, s := range out.Slow {
		row("Slow:", s)
	}
	row("Created:", c.when(a.Created)+" by "+string(a.CreatedBy))
	return nil
}

func first(list []attachmentJSON) string {
	if len(list) == 0 {
		return ""
	}
	return list[0].Stack
}

func runAddonURL(ctx context.Context, c *call) error {
	a, err := c.addonOf(ctx, mesh.AccessDeploy, false)
	if err != nil {
		return err
	}
	k, err := c.AddonKinds.Kind(string(a.Kind))
	if err != nil {
		return err
	}
	vars, err := c.AddonKinds.Vars(a, mesh.Attachment{Addon: a.Name, As: k.As})
	if err != nil {
		return err
	}
	url := vars[k.As+"_URL"].Reveal()
	if port, _ := c.flags.GetInt("port"); port != 0 {
		url = strings.Replace(url, fmt.Sprintf("%s:%d", a.Name.Host(), k.Port), fmt.Sprintf("localhost:%d", port), 1)
	}
	_, _ = fmt.Fprintln(c.Stdout, url)
	return nil
}

func runAddonLogs(ctx context.Context, c *call) error {
	a, err := c.addonOf(ctx, mesh.AccessRead, false)
	if err != nil {
		return err
	}
	lines, _ := c.flags.GetInt("lines")
	follow, _ := c.flags.GetBool("tail")
	return c.AddonUse.AddonLogs(ctx, a.Name, lines, follow, c.Stdout)
}

func runAddonShell(ctx context.Context, c *call) error {
	dash := c.flags.ArgsLenAtDash()
	var words []string
	switch {
	case dash >= 0 && dash <= 1:
		words, c.args = c.args[dash:], c.args[:dash]
	case len(c.args) > 1:
		words, c.args = c.args[1:], c.args[:1]
	}
	a, err := c.addonOf(ctx, mesh.AccessDeploy, false)
	if err != nil {
		return err
	}
	run := c.streams("", nil)
	run.Words = words
	code, err := c.AddonUse.AddonShell(ctx, a.Name, run)
	return exit(ctx, code, err)
}
