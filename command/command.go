// Package command implements everything that people type. Dispatch, help, documentation
// and suggestions all come from one table of commands. The same commands run over SSH,
// over the local socket and in the client, with the same output.
//
// It parses command lines, checks rights, finds the stack, and prints. It leaves the
// work to the values in Commands, which read and change the state.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Stacks reads the stacks.
type Stacks interface {
	// Damaged returns the records that are not what was written. A stack whose own
	// record is damaged is missing from Stacks.
	Damaged() []mesh.Damage
	Stacks(ctx context.Context) ([]mesh.Stack, error)
	// Stack returns NoStack if there is no such stack, and Damaged if its record cannot
	// be read.
	Stack(ctx context.Context, name mesh.StackName) (mesh.Stack, error)
}

// Commands runs the commands. Its fields read and change the state, by topic. All
// fields but Certs are required.
type Commands struct {
	Stacks     Stacks
	History    History
	Keys       KeyList
	Registries RegistryList
	AuditLog   AuditReader
	Logs       Logs
	Traffic    Traffic
	Measures   Measures
	Alerts     AlertReader

	Lifecycle    Lifecycle
	Configs      Configs
	Builds       Builds
	Processes    Processes
	Services     Services
	Endpoints    Endpoints
	Links        Links
	Ports        Ports
	Settings     SettingsReader
	ServerSetter ServerSetter
	Hosts        Hosts
	AccessRules  AccessRules
	AlertRules   AlertRules
	Recipients   Recipients
	Notifier     Notifier
	Freezer      Freezer
	Deploys      Deploys
	Deployments  Deployments
	OneOffs      OneOffs
	Jobs         Jobs
	Files        Files
	Keyring      Keyring
	SignIns      SignIns
	Auditor      Auditor
	Lives        Lives
	Collector    Collector
	Uploads      Uploads
	DeployKeys   DeployKeys
	Addons       Addons
	AddonUse     AddonUse
	AddonList    AddonList
	AddonKinds   AddonKinds
	AddonData    AddonData
	AddonBackups AddonBackups
	Volumes      Volumes
	VolumeList   VolumeList
	VolumeFiles  VolumeFiles
	Nodes        Nodes
	Previews     Previews
	PreviewList  PreviewList
	Canaries     Canaries
	Stages       Stages
	Forges       Forges
	AppFiles     AppFiles
	Drains       Drains
	DrainList    DrainList
	DrainSender  DrainSender
	Backups      Backups
	Certs        Certs // nil: the server does not serve TLS
	Server       Server

	Resolver Resolver // nil: DNS is not asked

	Version string
	URL     func(mesh.Host) string // returns the URL of a host
	OwnURL  string                 // of mesh's own host
	Logger  *slog.Logger
	Now     func() time.Time
}

// call is one run of a command.
type call struct {
	*Commands
	mesh.Request
	def     *definition
	flags   *pflag.FlagSet
	args    []string
	rest    string     // of verbatim commands: args as in the line
	named   string     // the stack named before the command
	stack   mesh.Stack // of commands that work on a stack
	typed   bool       // the stack was named in the command itself
	json    bool
	global  bool               // --global: on all stacks, and stack is zero
	acted   bool               // the command has begun
	subject mesh.BackupSubject // of backups; empty: the server
	made    time.Time          // when the add-on or volume that subject is was created
	changed bool               // it changes something, although it has no arguments

	audited []string // the options that the audit log keeps
	view    screen

	starts []int // of the words of Line

	raw, rawErr io.Writer // stdout without the line ends of a terminal, and stderr
}

// Run runs a command line. The kind of its error decides the exit status; a
// mesh.ExitCode is not printed.
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

// Check returns an error if a command line, without options in front that name a stack,
// has no command or options that the command does not take. The client asks before it
// sends much.
func Check(words []string) error {
	def, rest, err := find(words)
	if err != nil {
		return err
	}
	c := &call{Commands: &Commands{}, def: def}
	return c.parse(rest)
}

// Terminal reports whether a command line, without options in front that name a stack, is
// one that uses a terminal if there is one.
func Terminal(words []string) bool {
	if len(words) == 0 {
		return false
	}
	def, _, err := find(words)
	return err == nil && def.terminal
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
		words, c.Line, starts, line = []string{"stacks"}, "stacks", []int{0}, []string{"stacks"}
	}
	if c.Line, words, starts, err = ourLine(c.Line, words, starts[len(line)-len(words):]); err != nil {
		return err
	}
	def, rest, err := find(words)
	if err != nil {
		return c.orStack(ctx, words, err)
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
	if c.global, _ = c.flags.GetBool("global"); c.global && def.global {
		if err := c.wholeServer(); err != nil {
			return err
		}
	} else if def.stack {
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
		if def.verb == "" && def.max == 0 && !single(def.topic) {
			return unknown(append([]string{def.topic}, c.args...)) // "domains create" is no more than "domains:create"
		}
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

// lineOf returns the last words of the command line as they stand in it. A single word
// with blanks is a whole command line in quotes.
func (c *call) lineOf(last []string) string {
	if len(last) == 1 && strings.ContainsAny(last[0], " \t\n") {
		return last[0]
	}
	return lastOf(c.Line, c.starts, len(last))
}

func argCount(def *definition, args []string) string {
	if len(args) < def.min {
		return fmt.Sprintf("%s needs %s", def.name(), def.args)
	}
	return fmt.Sprintf("%s does not take the argument %q", def.name(), mesh.Clip(args[def.max], 60))
}

// wholeServer checks that a command with --global names no stack, and that the key is an
// admin's and not limited. A client in a checkout names the stack in front: that counts for
// nothing here.
func (c *call) wholeServer() error {
	for _, name := range []string{"app", "stack"} {
		if c.flags.Changed(name) {
			return c.usage("--global is for all stacks: leave out the stack")
		}
	}
	may := c.Key.May(mesh.AccessAdmin, "")
	if !may || c.def.access > mesh.AccessRead {
		c.audited = append(c.audited, "--global")
	}
	if !may {
		return c.denied(mesh.AccessAdmin)
	}
	return nil
}

func (c *call) denied(need mesh.Access) error {
	what := c.def.name()
	if c.global {
		what += " --global"
	}
	e := mesh.Errorf(mesh.Denied, "the key %q may not use %s", c.Key.Name, what)
	if unlimited := (mesh.Key{Name: c.Key.Name, Role: c.Key.Role}); unlimited.May(need, c.stack.Name) {
		return e.WithHint("it is limited to %s; ask an admin of the server", mesh.Clip(strings.Join(stackNames(c.Key.Stacks), ", "), 200))
	}
	return e.WithHint("it has the role %s; ask an admin for %s", c.Key.Role, need)
}

// usage returns an error in the arguments: exit status 2 and the usage line.
func (c *call) usage(format string, args ...any) error {
	return mesh.Errorf(mesh.Invalid, format, args...).WithHint("usage: ssh mesh %s", c.def.usage())
}

// values returns the values of an option that may be repeated, as they were typed.
// pflag's GetStringArray takes a single empty value for none.
func (c *call) values(option string) []string {
	if v, ok := c.flags.Lookup(option).Value.(pflag.SliceValue); ok {
		return v.GetSlice()
	}
	return nil
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
		fs.StringP("app", "a", "", "the `STACK`")
		fs.StringP("stack", "s", "", "the same")
	}
	if c.def.global {
		fs.Bool("global", false, "of all stacks; for admins of the server")
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
	if err := fs.Parse(c.theirs(words)); err != nil {
		return c.badOption(err)
	}
	c.args = fs.Args()
	c.json, _ = fs.GetBool("json")
	return nil
}
