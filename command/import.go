package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

// AppFiles reads app.json as a push reads it.
type AppFiles interface {
	// AppJSON returns an error that names the faulty field.
	AppJSON(text string) (AppFile, error)
}

// AppFile is what an app.json declares.
type AppFile struct {
	Values    mesh.Config // vars with a value
	Generated []string    // vars that the first push makes a value for
	Required  []string    // vars that must be set, and have no value
	Formation mesh.Formation
	Addons    []WantedAddon
	Notes     []string // about vars that cannot be set
}

// WantedAddon is an add-on of app.json.
type WantedAddon struct {
	Plan string // such as heroku-postgresql:essential-0
	As   string // the name of its config var without _URL; may be empty
}

// maxImport limits what is imported at once, in bytes: as much as a stack may hold.
const maxImport = 1 << 20

var importCommands = []*definition{
	{
		topic: "import", verb: "heroku", args: "< FILE", short: "Set the config vars of a Heroku app, as one release",
		long: "`heroku config --json -a APP | ssh mesh import:heroku -a STACK` sets all but those of add-ons, and of the platform,\n" +
			"and prints what to type for each of them. It creates the stack if there is none.\n" +
			"An app.json on standard input, alone or after the config vars, adds its defaults for vars that are not set, and\n" +
			"the commands for its add-ons and its formation.",
		stack: true, creates: true, access: mesh.AccessDeploy, json: true, flags: importFlags,
		run: func(ctx context.Context, c *call) error {
			return c.importConfig(ctx, "heroku config --json -a APP", "heroku config -s")
		},
	},
	{
		topic: "import", verb: "dokku", args: "< FILE", short: "Set the config vars of a Dokku app, as one release",
		long: "`ssh dokku@OLD config:export --format json APP | ssh mesh import:dokku -a STACK` sets all but those of linked\n" +
			"services and of Dokku itself, and prints what to type for each of them. It creates the stack if there is none.",
		stack: true, creates: true, access: mesh.AccessDeploy, json: true, flags: importFlags,
		run: func(ctx context.Context, c *call) error {
			return c.importConfig(ctx, "ssh dokku@OLD config:export --format json APP", "dokku config:export")
		},
	},
}

func importFlags(f *pflag.FlagSet) {
	f.StringArray("keep", nil, "set this `NAME` although an add-on or the platform sets it; may be repeated")
	f.Bool("no-restart", false, "record only; takes effect with the next release")
}

// importJSON is the result of an import.
type importJSON struct {
	Stack     string        `json:"stack"`
	Created   bool          `json:"created"`
	Release   string        `json:"release,omitempty"` // empty: takes effect with the next release
	Set       []string      `json:"set"`
	LeftOut   []leftOutJSON `json:"left_out"`
	Required  []leftOutJSON `json:"required"`
	Generated []string      `json:"generated"` // by the first push
	Addons    []leftOutJSON `json:"addons"`    // of app.json
	Scale     string        `json:"scale,omitempty"`
}

// leftOutJSON is something that was not imported, with the reason or with what to type.
type leftOutJSON struct {
	Name    string `json:"name"`
	Why     string `json:"why,omitempty"`
	Command string `json:"command,omitempty"`
}

// importConfig sets the config vars that another platform has printed. source is the command
// that prints them there, and shell the one whose output config:import reads.
func (c *call) importConfig(ctx context.Context, source, shell string) error {
	pipe := source + " | ssh mesh " + c.def.name() + " -a " + string(c.stack.Name)
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "the config vars must come from standard input, which is a terminal").WithHint("%s", pipe)
	}
	text, err := c.text("the config vars", maxImport)
	if err != nil {
		return err
	}
	if text, err = plainText(text); err != nil {
		return err
	}
	objects, err := readObjects(text)
	if err != nil {
		return mesh.Errorf(mesh.Invalid, "standard input is not what %s prints: %w", source, err).
			WithHint("%s; for the output of %s: ssh mesh config:import -a %s", pipe, shell, c.stack.Name)
	}
	if len(objects) == 0 {
		return mesh.Errorf(mesh.Invalid, "no config vars on standard input").WithHint("%s", pipe)
	}
	config := mesh.Config{}
	var file AppFile
	apps := 0
	for _, o := range objects {
		if o.appFile() {
			if apps++; apps > 1 {
				return mesh.Errorf(mesh.Invalid, "standard input has more than one app.json").WithHint("send one at a time")
			}
			if file, err = c.AppFiles.AppJSON(o.text); err != nil {
				return invalid(err)
			}
			continue
		}
		if err := o.into(config); err != nil {
			return err
		}
	}
	st, err := c.Stacks.Stack(ctx, c.stack.Name)
	missing := errors.Is(err, mesh.NoStack)
	if err != nil && !missing {
		return err
	}
	if missing {
		st = c.stack
	}
	out := importJSON{
		Stack: string(c.stack.Name), Set: []string{}, LeftOut: []leftOutJSON{}, Required: []leftOutJSON{}, Generated: []string{}, Addons: []leftOutJSON{},
	}
	left, err := c.leftOut(ctx, st, config.Over(file.Values))
	if err != nil {
		return err
	}
	keep := c.values("keep")
	for _, name := range keep {
		if _, is := config.Over(file.Values)[name]; !is {
			return c.usage("--keep %s: standard input has no such var", mesh.Clip(mesh.Visible(name), 60))
		}
		c.audited = append(c.audited, "--keep "+name)
	}
	set := mesh.Config{}
	global, err := c.Settings.GlobalConfig(ctx)
	if err != nil {
		return err
	}
	for name, v := range config.Over(file.Values.Without(st.Config.Over(global))) {
		if l, is := left[name]; is && !slices.Contains(keep, name) {
			out.LeftOut = append(out.LeftOut, l)
			continue
		}
		if err := mesh.CheckVar(name, v); err != nil {
			return err
		}
		set[name] = v
	}
	slices.SortFunc(out.LeftOut, func(a, b leftOutJSON) int { return strings.Compare(a.Name, b.Name) })
	attached, err := c.attachedVars(ctx, st)
	if err != nil {
		return err
	}
	if err := c.declaredByApp(&out, st, set.Over(st.Config).Over(global), attached, file); err != nil {
		return err
	}
	// Nothing has been changed up to here, and what follows has been checked.
	if missing {
		if _, err := c.Lifecycle.CreateStack(ctx, c.stack.Name, c.Key.Name); err != nil {
			return err
		}
		out.Created = true
		c.tell("created %s\n", c.stack.Name)
	}
	change := mesh.ConfigChange{Set: set}
	change.RecordOnly, _ = c.flags.GetBool("no-restart")
	if len(set) > 0 {
		if out.Set, err = c.Configs.SetConfig(ctx, c.stack.Name, c.Key.Name, change, c.Stderr); err != nil {
			return err
		}
		if st, err = c.Stacks.Stack(ctx, c.stack.Name); err != nil {
			return err
		}
	}
	if len(out.Set) > 0 && st.Current > 0 && !change.RecordOnly {
		out.Release = st.Current.String()
	}
	if c.json {
		return c.printJSON(out)
	}
	c.sayImported(out, file.Notes)
	return nil
}

// declaredByApp adds what an app.json wants besides the vars that have a value. has are the
// vars that are set afterwards.
func (c *call) declaredByApp(out *importJSON, st mesh.Stack, has mesh.Config, attached map[string]mesh.AddonName, file AppFile) error {
	for _, name := range file.Required {
		_, is := has[name]
		if _, there := attached[name]; is || there {
			continue
		}
		w, err := c.whyNot(st, name, "")
		switch {
		case err != nil:
			return err
		case w.Name == "":
			w = leftOutJSON{Name: name, Command: fmt.Sprintf("ssh mesh config:set -a %s %s=- < FILE", st.Name, name)}
		}
		out.Required = append(out.Required, w)
	}
	for _, name := range file.Generated {
		if _, is := has[name]; !is {
			out.Generated = append(out.Generated, name)
		}
	}
	for _, a := range file.Addons {
		out.Addons = append(out.Addons, c.wanted(st, a))
	}
	if len(file.Formation) > 0 {
		out.Scale = fmt.Sprintf("ssh mesh ps:scale -a %s %s", st.Name, file.Formation)
	}
	return nil
}

func (c *call) sayImported(out importJSON, notes []string) {
	names := strings.Join(out.Set, ", ")
	switch {
	case len(out.Set) == 0:
		c.say("%s: nothing to set\n", out.Stack)
	case out.Release == "":
		c.say("%s: set %s; takes effect with the next release\n", out.Stack, names)
	default:
		c.say("%s %s: set %s\n", out.Stack, out.Release, names)
	}
	list := func(title string, rows []leftOutJSON) {
		if len(rows) == 0 {
			return
		}
		c.say("%s\n", title)
		wide := 0
		for _, r := range rows {
			wide = max(wide, len(r.Name))
		}
		for _, r := range rows {
			text := r.Command
			if r.Why != "" && text != "" {
				text += "    # " + r.Why
			} else if text == "" {
				text = r.Why
			}
			c.say("  %-*s  %s\n", wide, r.Name, text)
		}
	}
	list("left out:", out.LeftOut)
	list("required by app.json and not set:", out.Required)
	list("add-ons of app.json:", out.Addons)
	if len(out.Generated) > 0 {
		c.say("the first push generates %s\n", strings.Join(out.Generated, ", "))
	}
	if out.Scale != "" {
		c.say("a push with this app.json starts what its formation says; without app.json:\n  %s\n", out.Scale)
	}
	for _, n := range notes {
		c.tell("%s\n", n)
	}
}

// invalid makes an error about a file an error in the input.
func invalid(err error) error {
	var e *mesh.Error
	if !errors.As(err, &e) {
		return err
	}
	f := *e
	f.Kind = mesh.Invalid
	return &f
}

// object is a JSON object of standard input.
type object struct {
	text   string
	names  []string // in order
	values map[string]json.RawMessage
}

// readObjects reads JSON objects one after the other. Its errors quote names, never values.
func readObjects(text string) (list []object, err error) {
	dec := json.NewDecoder(strings.NewReader(text))
	at := func(why string) error {
		return mesh.Errorf(mesh.Invalid, "line %d: %s", 1+strings.Count(text[:min(len(text), int(dec.InputOffset()))], "\n"), why)
	}
	for {
		start, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil || start != json.Delim('{') {
			return nil, at("it is not a JSON object")
		}
		o := object{values: map[string]json.RawMessage{}}
		begin := int(dec.InputOffset()) - 1
		for dec.More() {
			key, err := dec.Token()
			name, is := key.(string)
			if err != nil || !is {
				return nil, at("it is not a JSON object")
			}
			var v json.RawMessage
			if err := dec.Decode(&v); err != nil {
				return nil, at("the JSON is faulty or cut off")
			}
			if _, twice := o.values[name]; twice {
				return nil, at(mesh.Clip(mesh.Visible(name), 60) + " is in it twice")
			}
			o.names, o.values[name] = append(o.names, name), v
		}
		if _, err := dec.Token(); err != nil {
			return nil, at("the JSON is faulty or cut off")
		}
		o.text = text[begin:dec.InputOffset()]
		list = append(list, o)
	}
}

// appFileFields are the fields of app.json whose values are no text, and describing those that
// are.
var (
	appFileFields = []string{"addons", "buildpacks", "cron", "env", "environments", "formation", "healthchecks", "keywords", "scripts"}
	describing    = []string{"$schema", "description", "image", "logo", "name", "repository", "stack", "success_url", "website"}
)

// appFile reports whether an object is an app.json. Config vars are text, and so are only
// fields of app.json that describe the app.
func (o object) appFile() bool {
	all := len(o.names) > 0
	for _, name := range o.names {
		text := bytes.HasPrefix(o.values[name], []byte(`"`))
		if slices.Contains(appFileFields, name) && !text {
			return true
		}
		all = all && slices.Contains(describing, name)
	}
	return all
}

// into adds config vars, whose values must be text.
func (o object) into(config mesh.Config) error {
	for _, name := range o.names {
		var v any
		if err := json.Unmarshal(o.values[name], &v); err != nil {
			return err
		}
		text, is := v.(string)
		if !is {
			what := map[byte]string{'{': "an object", '[': "a list", 't': "true", 'f': "false", 'n': "null"}[o.values[name][0]]
			if what == "" {
				what = "a number"
			}
			return mesh.Errorf(mesh.Invalid, "the value of %s is %s; config vars are text", mesh.Clip(mesh.Visible(name), 60), what).WithHint(`it must look like {"NAME": "value"}`)
		}
		if _, twice := config[name]; twice {
			return mesh.Errorf(mesh.Invalid, "%s is on standard input twice", mesh.Clip(mesh.Visible(name), 60)).WithHint("send the config vars of one app")
		}
		config[name] = mesh.NewSecret(text)
	}
	return nil
}
