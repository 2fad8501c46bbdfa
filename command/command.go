// Package command is what people type: one table of commands, from which the
// dispatch, the help, the documentation and the suggestions come. The same
// commands with the same output run over ssh, the local socket and the client.
//
// It parses, checks rights, finds the stack that is meant, and prints. What a
// command does is done by the Deployer, and what it shows comes from the State
// and the Logs that it is given.
package command

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Stacks reads the stacks.
type Stacks interface {
	// Damaged lists the records that are not what was written. A stack whose own record
	// is one of them is not among Stacks.
	Damaged() []mesh.Damage
	Stacks(ctx context.Context) ([]mesh.Stack, error)
	// Stack fails with NoStack when there is none, and with Damaged when its record
	// cannot be read.
	Stack(ctx context.Context, name mesh.StackName) (mesh.Stack, error)
}

// Commands are all commands and what they work with: what they read, and whoever makes
// the changes, by topic. All fields but Certs must be set.
type Commands struct {
	Stacks     Stacks
	History    History
	Keys       KeyList
	Registries RegistryList
	AuditLog   AuditReader
	Logs       Logs
	Traffic    Traffic

	Lifecycle   Lifecycle
	Configs     Configs
	Builds      Builds
	Processes   Processes
	Services    Services
	Endpoints   Endpoints
	Hosts       Hosts
	Freezer     Freezer
	Deploys     Deploys
	Deployments Deployments
	OneOffs     OneOffs
	Keyring     Keyring
	SignIns     SignIns
	Auditor     Auditor
	Lives       Lives
	Collector   Collector
	Uploads     Uploads
	DeployKeys  DeployKeys
	Certs       Certs // nil: the server takes no requests over TLS
	Server      Server

	Version string
	URL     func(mesh.Host) string // how people reach a host
	Logger  *slog.Logger
	Now     func() time.Time
}

// call is one run of a command.
type call struct {
	*Commands
	mesh.Request
	def   *definition
	flags *pflag.FlagSet
	args  []string
	rest  string     // of verbatim commands: args as they stand in the line
	named string     // the stack in front of the command
	stack mesh.Stack // of commands that work on one
	json  bool
	acted bool // the command was begun

	audited []string // of its options, what the audit log keeps
	view    screen

	starts []int // of the words of Line

	raw, rawErr io.Writer // stdout without the terminal's line ends, and stderr
}

// Run runs a command line. The error's kind makes the exit status; a mesh.ExitCode
// needs no more words.
func (s *Commands) Run(ctx context.Context, req mesh.Request) error {
	if req.Upload == nil {
		req.Upload = req.Stdin
	}
	c := &call{Commands: s, Request: req, raw: req.Stdout, rawErr: req.Stderr, view: screenOf(req)}
	switch {
	case req.TTY:
		c.Stdout = crlf{req.Stdout}
		c.Stderr = c.Stdout // one screen has one order
	case c.view.person:
		c.Stderr = c.Stdout
	case req.Flush != nil:
		o := &order{ctx: ctx, flush: req.Flush}
		c.Stdout, c.Stderr = ordered{req.Stdout, o, false}, ordered{req.Stderr, o, true}
	}
	c.Stderr = harmless{c.Stderr}
	exact := c.Stdout
	c.Stdout = harmless{c.Stdout}
	err := c.run(ctx, exact)
	if c.acted || c.def != nil && errors.Is(err, mesh.Denied) {
		c.audit(ctx, err)
	}
	var exit mesh.ExitCode
	if err == nil || errors.As(err, &exit) {
		return err
	}
	err = c.withUsage(err)
	if req.TTY {
		s.PrintError(c.Stderr, err)
		return mesh.ExitCode(mesh.ExitStatus(err))
	}
	return err
}

func (c *call) run(ctx context.Context, exact io.Writer) error {
	line, starts, err := split(c.Line)
	if err != nil {
		return err
	}
	words, err := c.leading(line)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		words = []string{"stacks"}
	}
	def, rest, err := find(words)
	if err != nil {
		return err
	}
	c.def, c.starts = def, starts
	if def.exact && !c.view.person {
		c.Stdout = exact
	}
	if err := c.parse(rest); err != nil {
		return err
	}
	if help, _ := c.flags.GetBool("help"); help {
		return c.help(c.Stdout, def.topic, def)
	}
	if def.stack {
		if c.stack, c.args, err = c.findStack(ctx, c.args); err != nil {
			return err
		}
		if !c.Key.May(def.access, c.stack.Name) {
			return c.denied(def.access)
		}
	} else if def.access > mesh.AccessRead && !c.Key.May(def.access, "") && !def.ownCheck {
		return c.denied(def.access)
	}
	if def.verbatim {
		c.rest = c.lineOf(c.args)
	}
	if n := len(c.args); n < def.min || n > def.max {
		return c.usage("%s", argCount(def, c.args))
	}
	c.acted = true
	if c.TTY && !def.terminal {
		var stop context.CancelFunc
		ctx, stop = c.interruptible(ctx)
		defer stop()
	}
	if def.parts && c.Parted != nil {
		c.Parted()
	}
	return def.run(ctx, c)
}

// lineOf is the last words of the command line as they stand in it. One word with
// blanks is a command line, quoted whole.
func (c *call) lineOf(last []string) string {
	switch n := len(last); {
	case n == 0:
		return ""
	case n == 1 && strings.ContainsAny(last[0], " \t\n"):
		return last[0]
	default:
		return c.Line[c.starts[len(c.starts)-n]:]
	}
}

// StackOption looks for an option that names the stack (-a, -s, --app, --stack) at the
// front of words, and returns the name and how many words it takes: 0 if there is none.
// The name is empty if it is missing.
func StackOption(words []string) (name string, n int) {
	if len(words) == 0 {
		return "", 0
	}
	switch option, value, joined := strings.Cut(words[0], "="); option {
	case "-a", "-s", "--app", "--stack":
		if joined || len(words) == 1 {
			return value, 1
		}
		return words[1], 2
	}
	return "", 0
}

// leading takes the stack off the front of a command line, where the client puts
// the one that the checkout names. The last one wins: it is what was typed.
func (c *call) leading(words []string) ([]string, error) {
	for {
		name, n := StackOption(words)
		switch {
		case n == 0:
			return words, nil
		case name == "" && n == len(words):
			return nil, mesh.Errorf(mesh.Invalid, "%s needs the name of a stack", words[0])
		}
		c.named, words = name, words[n:]
	}
}

func argCount(def *definition, args []string) string {
	if len(args) < def.min {
		return def.name() + " needs more arguments"
	}
	return fmt.Sprintf("%s takes no argument %q", def.name(), mesh.Clip(args[def.max], 60))
}

func (c *call) denied(need mesh.Access) error {
	return mesh.Errorf(mesh.Denied, "the key %q may not use %s", c.Key.Name, c.def.name()).
		WithHint("it has the role %s; ask an admin for %s", c.Key.Role, need)
}

// usage is an error in the arguments: exit status 2 and the usage line.
func (c *call) usage(format string, args ...any) error {
	return mesh.Errorf(mesh.Invalid, format, args...).WithHint("usage: ssh mesh %s", c.def.usage())
}

// withUsage adds the usage line to an error in the arguments that lacks it.
func (c *call) withUsage(err error) error {
	var e *mesh.Error
	var reported *mesh.Reported
	if c.def == nil || !errors.As(err, &e) || e.Kind != mesh.Invalid || errors.As(err, &reported) || strings.Contains(e.Hint, "usage: ") {
		return err
	}
	f := *e
	f.Hint = strings.TrimPrefix(e.Hint+"\nusage: ssh mesh "+c.def.usage(), "\n")
	return &f
}

func (c *call) parse(words []string) error {
	fs := pflag.NewFlagSet(c.def.name(), pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.SortFlags = false
	if c.def.stack {
		fs.StringP("app", "a", "", "the `STACK` that is meant")
		fs.StringP("stack", "s", "", "the same")
	}
	if c.def.json {
		fs.Bool("json", false, "print JSON")
	}
	fs.BoolP("help", "h", false, "print help")
	if c.def.flags != nil {
		c.def.flags(fs)
	}
	fs.SetInterspersed(!c.def.verbatim)
	c.flags = fs
	if err := fs.Parse(words); err != nil {
		text, _, _ := strings.Cut(err.Error(), " flag: ") // behind it stands what Go's parsers say
		return c.usage("%s", strings.TrimSuffix(text, "\n"))
	}
	c.args = fs.Args()
	c.json, _ = fs.GetBool("json")
	return nil
}

// findStack finds the stack that is meant: by option, by SSH user, by the first
// argument, or because there is only one.
func (c *call) findStack(ctx context.Context, args []string) (mesh.Stack, []string, error) {
	app, _ := c.flags.GetString("app")
	if s, _ := c.flags.GetString("stack"); s != "" {
		if app != "" && app != s {
			return mesh.Stack{}, nil, c.usage("-a %s and -s %s name two stacks", mesh.Clip(app, 60), mesh.Clip(s, 60))
		}
		app = s
	}
	if app == "" {
		app = c.named
	}
	all, err := c.Stacks.Stacks(ctx)
	if err != nil {
		return mesh.Stack{}, nil, err
	}
	all = slices.DeleteFunc(all, func(s mesh.Stack) bool { return !c.Key.May(mesh.AccessRead, s.Name) })
	byName := func(name string) (mesh.Stack, bool) {
		i := slices.IndexFunc(all, func(s mesh.Stack) bool { return string(s.Name) == name })
		if i < 0 {
			return mesh.Stack{}, false
		}
		return all[i], true
	}
	if app != "" {
		st, ok := byName(app)
		if name, err := mesh.ParseStackName(app); !ok && err == nil && c.def.creates && c.Key.May(mesh.AccessDeploy, name) {
			return mesh.Stack{Name: name}, args, nil
		}
		if st.Name = mesh.StackName(app); !ok && c.unreadable(st.Name) != "" {
			if c.def.topic == "stacks" && c.def.verb == "destroy" {
				return st, args, nil // it takes no more than the name
			}
			_, err := c.Stacks.Stack(ctx, st.Name)
			return st, nil, err
		}
		if !ok {
			return st, nil, noStack(app, all)
		}
		return st, args, nil
	}
	if st, ok := byName(c.User); ok {
		return st, args, nil
	}
	if len(args) > 0 && c.flags.ArgsLenAtDash() != 0 {
		if st, ok := byName(args[0]); ok {
			args = args[1:]
			if c.def.verbatim && len(args) > 0 && args[0] == "--" {
				args = args[1:]
			}
			return st, args, nil
		}
	}
	switch len(all) {
	case 1:
		return all[0], args, nil
	case 0:
		return mesh.Stack{}, nil, &mesh.Error{Kind: mesh.NoStack, Text: "there is no stack yet", Hint: "push one: git remote add mesh ssh://mesh@HOST:PORT/NAME && git push mesh main"}
	}
	var names []string
	for _, s := range all {
		names = append(names, string(s.Name))
	}
	return mesh.Stack{}, nil, c.usage("which stack? there are %s; name one with -a", mesh.Clip(strings.Join(names, ", "), 400))
}

// unreadable tells which damaged record keeps a stack from being read, to those who may
// read the stack.
func (c *call) unreadable(name mesh.StackName) string {
	for _, d := range c.Stacks.Damaged() {
		if d.Whole && d.Stack == name && name != "" && c.Key.May(mesh.AccessRead, name) {
			return d.What
		}
	}
	return ""
}

func noStack(name string, all []mesh.Stack) error {
	e := mesh.Errorf(mesh.NoStack, "no stack is named %q", mesh.Clip(name, 60)).WithHint("list all with: ssh mesh stacks")
	best, dist := "", 3
	for _, s := range all {
		if d := distance(name, string(s.Name)); d < dist {
			best, dist = string(s.Name), d
		}
	}
	if best != "" {
		e.Hint = fmt.Sprintf("there is %q; list all with: ssh mesh stacks", best)
	}
	return e
}

// distance is the Levenshtein distance of two words.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// PrintError tells a person what is wrong and what to do about it. What is no
// fault of theirs goes to the log, and they see a short id of it.
func (s *Commands) PrintError(w io.Writer, err error) {
	var reported *mesh.Reported
	if errors.As(err, &reported) {
		return
	}
	var e *mesh.Error
	if err = mesh.TellNoRoom(err); !errors.As(err, &e) {
		if errors.Is(err, context.Canceled) {
			return
		}
		var b [4]byte
		_, _ = rand.Read(b[:])
		id := hex.EncodeToString(b[:])
		s.Logger.Error("command failed", "id", id, "err", err)
		_, _ = fmt.Fprintf(w, "error: mesh itself failed (id %s)\nhint:  the server's log has the details under that id\n", id)
		return
	}
	_, _ = fmt.Fprintf(w, "error: %s\n", mesh.Visible(e.Text))
	for l := range strings.SplitSeq(e.Hint, "\n") {
		switch {
		case strings.HasPrefix(l, "usage: "):
			_, _ = fmt.Fprintln(w, mesh.Visible(l))
		case l != "":
			_, _ = fmt.Fprintf(w, "hint:  %s\n", mesh.Visible(l))
		}
	}
}

// list prints what a listing command has found: v for a program, rows for a person.
func (c *call) list(v any, heading []string, rows [][]string) error {
	if c.json {
		return c.printJSON(v)
	}
	c.table(heading, rows)
	return nil
}

// printJSON prints v for a program.
func (c *call) printJSON(v any) error {
	enc := json.NewEncoder(c.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
