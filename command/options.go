package command

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

// option is an option of another tool.
type option struct {
	typed string // the ways to write it, separated by blanks
	ours  string // ours, with which it is the same; empty: it makes no difference here
	value bool   // it makes no difference, and takes a value
	// Also if we have an option with that name: only with one of these values, which
	// become ours, or only without any.
	values map[string]string
	bare   bool
}

// means reports whether an option means this one, with what follows it: a value if has.
func (o option) means(name, value string, has bool) bool {
	if !slices.Contains(strings.Fields(o.typed), name) {
		return false
	}
	_, listed := o.values[value]
	return (o.values == nil || has && listed) && (!o.bare || !has || strings.HasPrefix(value, "-"))
}

// wins reports whether it counts although we have an option with that name.
func (o option) wins() bool { return o.ours == argument || o.values != nil || o.bare }

// argument stands for an option whose value is an argument here.
const argument = "argument"

// harmlessOptions are the options of other tools that make no difference anywhere.
var harmlessOptions = []option{
	{typed: "--no-color --no-colors --force-colors --color -q --quiet --force -f --yes -y --no-input --no-wait --wait --no-tty --no-remote --verbose"},
}

// theirOptions are the options of other tools by command.
var theirOptions = map[string][]option{
	"logs": {
		{typed: "--num --limit", ours: "-n"},
		{typed: "-d --dyno --dyno-name --process-type --type --service", ours: "-p"},
		{typed: "-f --follow", ours: "-t"},
		{typed: "-s", ours: "--source", values: herokuSources},
	},
	"run:logs":         {{typed: "--num", ours: "-n"}, {typed: "-f --follow", ours: "-t"}},
	"config":           {{typed: "-j", ours: "--show --json"}, {typed: "--shell --merged", ours: "--show"}, {typed: "-s", ours: "--show", bare: true}, {typed: "--expanded"}},
	"config:get":       {{typed: "-j", ours: "--json"}, {typed: "-s --shell --quoted"}},
	"config:set":       {{typed: "--restart --stdin"}},
	"config:unset":     {{typed: "--restart"}},
	"ps":               {{typed: "-j", ours: "--json"}, {typed: "--extended"}},
	"ps:scale":         {{typed: "--skip-deploy"}},
	"ps:restart":       {{typed: "-d --dyno --dyno-name -p --process-type --ps", ours: argument}},
	"releases":         {{typed: "--num --limit", ours: "-n"}, {typed: "-j", ours: "--json"}, {typed: "--extended"}},
	"deployments":      {{typed: "--num --limit", ours: "-n"}, {typed: "-j", ours: "--json"}},
	"deployments:show": {{typed: "--tail -t", ours: "-f"}},
	"audit":            {{typed: "--num --limit --lines", ours: "-n"}},
	"stacks":           {{typed: "-A --all -j"}},
	"stacks:create": {
		{typed: "-a --app -s --stack -n --name", ours: argument},
		{typed: "--region --team -t --space -r --remote", value: true},
	},
	"addons:destroy": {{typed: "-c", ours: "--confirm"}, {typed: "--force -f -y --yes", ours: "--confirmed"}},
	"addons:logs":    {{typed: "--num", ours: "-n"}, {typed: "-f --follow", ours: "-t"}},
	"addons:create":  {{typed: "--image-version -I", ours: "--version"}, {typed: "-n --name", ours: argument}},
	"addons:shell":   {{typed: "-c --command", ours: argument}},
	"addons":         {{typed: "-A --all"}},
	"stacks:info":    {{typed: "-j", ours: "--json"}, {typed: "--shell"}},
	"stacks:destroy": {{typed: "-c", ours: "--confirm"}, {typed: "--force -f -y --yes", ours: "--confirmed"}},
	"run": {
		{typed: "-x --exit-code -i -t -it -ti --interactive --tty --rm --no-notify --no-launcher --force-tty --disable-tty"},
		{typed: "--detached", ours: "-d"},
		{typed: "--process-type --service", ours: "-p"},
		{typed: "--size --ttl-seconds", value: true},
	},
	"enter":          {{typed: "-i -t -it -ti --interactive --tty"}},
	"promote":        {{typed: "-t --to", ours: argument}},
	"domains:add":    {{typed: "--cert --sni-endpoint", value: true}},
	"notify:add":     {{typed: "-a --app -s", ours: "--stack"}},
	"registry:login": {{typed: "-u --username", ours: argument}, {typed: "--password-stdin --global"}},
	"rollback":       {{typed: "-v --version", ours: argument}},
	"svc:update":     {{typed: "--cpu", ours: "--cpus"}, {typed: "-c", ours: "--command"}},
	"domains":        {{typed: "--expanded --csv"}},
	"ssh-keys":       {{typed: "-l --long"}},
}

// herokuSources are Heroku's sources of log lines, which its -s names. That is our option
// for the stack.
var herokuSources = map[string]string{"app": sourceApp, "router": sourceRouter, "heroku": sourceMesh, "mesh": sourceMesh}

// theirs returns words with the options of other tools replaced by ours. Options of the
// command itself stay, and so does what follows the options of a verbatim command.
func (c *call) theirs(words []string) []string {
	known := slices.Concat(theirOptions[c.def.name()], harmlessOptions)
	var out, args []string
	for i := 0; i < len(words); i++ {
		w := words[i]
		if w == "--" || w == "-" || !strings.HasPrefix(w, "-") {
			if c.def.verbatim || w == "--" {
				return slices.Concat(out, args, words[i:])
			}
			out = append(out, w)
			continue
		}
		name, value, joined := strings.Cut(w, "=")
		has := joined || i+1 < len(words)
		if has && !joined {
			value = words[i+1]
		}
		o, foreign := findOption(known, name, value, has)
		if f := ownOption(c.flags, name); f != nil && (!foreign || !o.wins()) {
			out = append(out, w)
			if !joined && f.NoOptDefVal == "" && i+1 < len(words) && (len(name) == 2 || strings.HasPrefix(name, "--")) {
				i++
				out = append(out, words[i])
			}
			continue
		}
		switch {
		case !foreign:
			out = append(out, w)
		case o.ours == argument:
			if !joined {
				i++
			}
			args = append(args, value)
		case o.ours == "":
			if o.value && !joined {
				i++
			}
		case o.values != nil:
			if !joined {
				i++
			}
			out = append(out, o.ours, o.values[value])
		case joined:
			out = append(out, o.ours+"="+value)
		default:
			out = append(out, strings.Fields(o.ours)...)
			if f := ownOption(c.flags, strings.Fields(o.ours)[0]); f != nil && f.NoOptDefVal == "" && i+1 < len(words) {
				i++
				out = append(out, words[i])
			}
		}
	}
	return append(out, args...)
}

func findOption(all []option, name, value string, has bool) (option, bool) {
	i := slices.IndexFunc(all, func(o option) bool { return o.means(name, value, has) })
	if i < 0 {
		return option{}, false
	}
	return all[i], true
}

// ownOption returns the option of a command with a name such as "-n" or "--lines".
func ownOption(fs *pflag.FlagSet, name string) *pflag.Flag {
	if long, ok := strings.CutPrefix(name, "--"); ok {
		return fs.Lookup(long)
	}
	if len(name) < 2 {
		return nil
	}
	return fs.ShorthandLookup(name[1:2])
}

// optionName is what an option may look like in an error: anything else may be half of
// a value.
var optionName = regexp.MustCompile(`^--?[A-Za-z][A-Za-z0-9-]{0,40}$`)

// instead says what there is instead of an option that mesh does not have.
var instead = map[string]string{
	"--buildpack": sayPacks, "--buildpacks": sayPacks, "--schedule": sayCron, "--all": sayAllStacks, "--global": sayAllStacks,
	"--remote": "name the stack with -a STACK", "-r": "name the stack with -a STACK",
	"--file": "read the value from standard input: ssh mesh config:set -a STACK KEY=- < file",
}

// badOption returns the error for options that cannot be parsed, from pflag's own.
func (c *call) badOption(err error) error {
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var wrong *pflag.InvalidValueError
	name := ""
	switch {
	case errors.As(err, &unknown):
		if name = "-" + unknown.GetSpecifiedName(); unknown.GetSpecifiedShortnames() == "" {
			name = "-" + name
		}
	case errors.As(err, &missing):
		return c.usage("%s needs a value", shown(missing.GetFlag()))
	case errors.As(err, &wrong):
		return c.usage("%s does not take %q", shown(wrong.GetFlag()), mesh.Clip(wrong.GetValue(), 40))
	}
	if !optionName.MatchString(name) {
		return c.usage("an option that %s does not have begins with a dash; put -- before arguments that begin with one", c.def.name())
	}
	text := fmt.Sprintf("%s has no option %s", c.def.name(), name)
	if hint := instead[name]; hint != "" {
		return mesh.Errorf(mesh.Invalid, "%s", text).WithHint("%s", hint)
	}
	if near := nearest(c.flags, name); near != "" {
		text += "; did you mean " + near + "?"
	}
	return c.usage("%s", text)
}

// shown is how an option is written.
func shown(f *pflag.Flag) string {
	if f.Shorthand != "" {
		return fmt.Sprintf("-%s (--%s)", f.Shorthand, f.Name)
	}
	return "--" + f.Name
}

// nearest returns the option of a command that a wrong one most likely means.
func nearest(fs *pflag.FlagSet, name string) string {
	best, dist := "", 3
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || len(name) < 4 {
			return
		}
		long := strings.TrimPrefix(name, "--")
		n := distance(f.Name, long)
		if strings.HasPrefix(f.Name, long) || strings.HasPrefix(long, f.Name) {
			n = 1
		}
		if n < dist {
			best, dist = shown(f), n
		}
	})
	return best
}
