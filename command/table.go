package command

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

// definition is one command: a row of the table.
type definition struct {
	topic, verb string
	args        string // for the usage line
	short       string
	list        string // lines in columns, each with its line end, before long; may be empty
	long        string // more help; may be empty

	access   mesh.Access
	stack    bool // works on a stack
	global   bool // works on all stacks instead, with --global: for admins of the server
	ownCheck bool // checks rights by itself
	creates  bool // works on a stack that need not exist
	terminal bool // reads keys from a terminal itself
	verbatim bool // options end at the first argument: what follows is a command
	quiet    bool // not audited: changes nothing
	prints   bool // changes nothing, although it needs more than AccessRead
	changes  bool // changes something, although AccessRead is enough to ask
	exact    bool // prints data, passed on byte for byte unless a person looks at it
	parts    bool // may continue while another process takes over: see Request.Parted
	json     bool
	min, max int                  // number of arguments, not counting the stack
	keeps    func(*call) []string // the arguments that the audit log keeps; nil: all of them
	flags    func(*pflag.FlagSet)
	run      func(context.Context, *call) error
}

func (d *definition) name() string {
	if d.verb == "" {
		return d.topic
	}
	return d.topic + ":" + d.verb
}

// usage returns the whole command line, with its options.
func (d *definition) usage() string {
	u := d.name()
	if d.stack {
		if u += " [-a STACK]"; d.global {
			u = d.name() + " [-a STACK | --global]"
		}
	}
	if d.flags != nil {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		fs.SortFlags = false
		d.flags(fs)
		fs.VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			o := "--" + f.Name
			if f.Shorthand != "" {
				o = "-" + f.Shorthand
			}
			value, _ := pflag.UnquoteUsage(f)
			switch {
			case f.Value.Type() == "bool":
			case f.NoOptDefVal != "":
				o += "[=" + value + "]"
			default:
				o += " " + value
			}
			if _, must := f.Annotations[required]; !must {
				o = "[" + o + "]"
			}
			if f.Value.Type() == "stringArray" {
				o += "…"
			}
			u += " " + o
		})
	}
	if d.json {
		u += " [--json]"
	}
	if d.args != "" {
		u += " " + d.args
	}
	return u
}

// line returns the command line without its options, for lists.
func (d *definition) line() string {
	return strings.TrimSuffix(d.name()+" "+d.args, " ")
}

// required is the annotation of an option that must be given.
const required = "mesh_required"

const maxArgs = 10_000

// topics holds the topics and their synonyms.
var topics = map[string][]string{
	"stacks":      {"stack", "app", "apps"},
	"deployments": {"deployment", "builds"},
	"releases":    {"release"},
	"domains":     {"domain", "endpoint"},
	"ssh-keys":    {"key", "keys", "ssh-key"},
	"certs":       {"cert", "certificate", "certificates"},
	"registry":    {"registries"},
	"logs":        {"log"},
	"addons":      {"addon"},
	"volumes":     {"volume"},
	"alerts":      {"alert"},
	"notify":      {"recipients"},
	"svc":         {"service", "services"},
}

// table returns all commands. It is a function because help is one of them and reads
// it.
func table() []*definition {
	return slices.Concat(stackCommands, linkCommands, configCommands, importCommands, psCommands, copyCommands, addonCommands, addonDataCommands, addonBackupCommands, volumeCommands, volumeBackupCommands, nodeCommands, previewCommands, canaryCommands, switchCommands, forgeCommands, metricsCommands, topCommands, runCommands, cronCommands, serviceCommands, publishCommands, deployCommands, releaseCommands, logCommands, drainCommands, alertCommands, notifyCommands, domainCommands, certCommands, accessCommands, freezeCommands, buildCommands, gcCommands, keyCommands, tokenCommands, registryCommands, auditCommands, backupCommands, doctorCommands, upgradeCommands, completionCommands, serverCommands())
}

// topic resolves a first word to the topic's own name.
func topic(word string) string {
	for name, also := range topics {
		if slices.Contains(also, word) {
			return name
		}
	}
	return word
}

// find looks up "topic:verb", "topic verb" or "topic", or a word of another tool, and
// returns the remaining words.
func find(words []string) (*definition, []string, error) {
	if d, rest := exact(words); d != nil {
		return d, rest, nil
	}
	if ours, _, ok, err := translate(words); err != nil {
		return nil, nil, err
	} else if ok {
		words = ours
		if d, rest := exact(words); d != nil {
			return d, rest, nil
		}
	}
	first, verb, joined := strings.Cut(words[0], ":")
	d, rest := lookup(topic(first), ""), words[1:]
	if d == nil {
		return nil, nil, unknown(words)
	}
	if !joined && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		verb = rest[0]
	}
	switch {
	case d.max == 0 && slices.Contains(reports, verb):
		if !joined {
			rest = rest[1:]
		}
	case joined, verb != "" && d.max == 0 && !d.stack && !single(d.topic):
		return nil, nil, unknown(words)
	}
	return d, rest, nil
}

// exact looks up "topic:verb" and "topic verb", and "topic" if nothing else is meant.
func exact(words []string) (*definition, []string) {
	first, verb, joined := strings.Cut(words[0], ":")
	name, rest := topic(first), words[1:]
	if joined {
		return lookup(name, verb), rest
	}
	if len(rest) == 0 || rest[0] == "" || strings.HasPrefix(rest[0], "-") {
		return lookup(name, ""), rest
	}
	return lookup(name, rest[0]), rest[1:]
}

// lookup returns the command with a topic and a verb, or nil.
func lookup(topic, verb string) *definition {
	all := table()
	i := slices.IndexFunc(all, func(d *definition) bool { return d.topic == topic && d.verb == verb })
	if i < 0 && verb == "list" {
		i = slices.IndexFunc(all, func(d *definition) bool { return d.topic == topic && d.verb == "" })
	}
	if i < 0 {
		return nil
	}
	return all[i]
}

// unknown returns the error for words that are no command, with the nearest one by
// letters. Whoever asks is not led to a command that changes something.
func unknown(words []string) error {
	typed := typedWords(words, 2)
	e := &mesh.Error{Kind: mesh.Invalid, Text: fmt.Sprintf("there is no command %q", mesh.Clip(typed, 60)), Hint: "list all with: ssh mesh help"}
	question := asks(typed)
	near := func(canonical string) (best string) {
		dist := 3
		if len(canonical) < 5 {
			dist = 2
		}
		for _, d := range table() {
			n := distance(canonical, d.name())
			if n == 2 && anagrams(canonical, d.name()) {
				n = 1 // two letters that changed places
			}
			if n < dist && (d.harmless() || !question) {
				best, dist = d.name(), n
			}
		}
		return best
	}
	canonical := normal(typed)
	best := near(canonical)
	first, _, _ := strings.Cut(canonical, ":")
	if best == "" {
		best = near(first)
	}
	if best == first {
		best = "" // it has no such verb
	}
	switch {
	case best != "":
		e.Hint = fmt.Sprintf("did you mean %s? List all with: ssh mesh help", best)
	case slices.ContainsFunc(table(), func(d *definition) bool { return d.topic == first }):
		e.Hint = fmt.Sprintf("list those of %s with: ssh mesh help %s", first, first)
	}
	return e
}

// help prints the commands of a topic, or one command in full.
func (c *call) help(w io.Writer, about string, one *definition) error {
	if one != nil {
		_, _ = fmt.Fprintf(w, "usage: ssh mesh %s\n\n%s.\n", one.usage(), one.short)
		if one.list != "" {
			_, _ = fmt.Fprintf(w, "\n%s", one.list)
		}
		if one.long != "" {
			_, _ = fmt.Fprintf(w, "\n%s\n", one.long)
		}
		if f := flagUsages(one); f != "" {
			_, _ = fmt.Fprintf(w, "\n%s", f)
		}
		return nil
	}
	found := false
	last := ""
	for _, d := range table() {
		if about != "" && d.topic != about {
			continue
		}
		if about == "" && d.topic != last && last != "" {
			_, _ = fmt.Fprintln(w)
		}
		last, found = d.topic, true
		_, _ = fmt.Fprintf(w, "  %-52s %s\n", d.line(), d.short)
	}
	if !found {
		return unknown([]string{about})
	}
	return nil
}

func flagUsages(d *definition) string {
	if d.flags == nil {
		return ""
	}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.SortFlags = false
	d.flags(fs)
	return fs.FlagUsages()
}

// Document prints the whole table as a Markdown page, for docs/commands.md.
func Document(w io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	p(`# Commands

<!-- Printed from the command table by "make docs". Do not edit. -->

Every command works over SSH (%[1]sssh mesh CMD%[1]s), over the local socket and as the
client (%[1]smesh CMD%[1]s), as %[1]stopic:verb%[1]s or %[1]stopic verb%[1]s.

The stack is, first hit wins: %[1]s-a NAME%[1]s (or %[1]s-s%[1]s); the SSH user name, if it is a stack; the
first argument, if it names a stack that the key may see; the only stack that the key may see.

Exit status: 0 done, 1 failed, 2 usage, 20 no such stack, 130 cancelled; %[1]srun%[1]s gives the
command's own. Data goes to stdout, headings, talk and errors to stderr. %[1]s--json%[1]s where noted.

A role of *read* sees a stack, *deploy* changes it, *admin* changes the server.
`, "`")
	last := ""
	for _, d := range table() {
		if d.topic != last {
			last = d.topic
			p("\n## %s\n\n", d.topic)
			if also := topics[d.topic]; len(also) > 0 {
				p("Also called %s.\n\n", strings.Join(also, ", "))
			}
		}
		p("### `%s`\n\n%s.", d.usage(), d.short)
		p(" Needs *%s*.", d.access)
		if d.json {
			p(" Has `--json`.")
		}
		p("\n\n")
		if d.list != "" {
			p("```\n%s```\n\n", d.list)
		}
		if d.long != "" {
			p("%s\n\n", d.long)
		}
		if f := flagUsages(d); f != "" {
			p("```\n%s```\n\n", f)
		}
	}
}
