package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"

	"mesh"
)

// Manifest is what a tree says of itself: its Procfile, mesh.toml, app.json and
// heroku.yml.
type Manifest struct {
	Settings   mesh.Settings               // of mesh.toml, app.json, heroku.yml: the first that speaks counts
	From       map[string]string           // which file decided a setting
	Services   map[mesh.ServiceName]string // commands, the release command among them
	source     map[mesh.ServiceName]string
	Formation  mesh.Formation
	Vars       map[string]Var // that app.json wants
	Predeploy  string         // runs before the release command
	Postdeploy string         // runs when the release is live
	Notes      []string       // what is not understood, for the one who pushed
}

// Var is a config var that app.json describes.
type Var struct {
	Value    string // to begin with
	Required bool   // there has to be one
	Secret   bool   // one is made up
}

// maxManifest is more than any such file needs.
const maxManifest = 256 << 10

// ReadManifest reads the files of a tree through read, which takes a path in it and
// gives an empty text for what is not there. They are those of the folder root, which
// mesh.toml at the top names when it is empty, and what is not there of the tree
// itself.
func ReadManifest(root string, read func(path string) (string, error)) (Manifest, error) {
	var top Manifest
	if root == "" {
		text, err := read("mesh.toml")
		if err != nil {
			return top, err
		}
		top.From = map[string]string{}
		if err := top.meshTOML(strings.TrimPrefix(text, "\ufeff")); err != nil {
			return top, err
		}
		root = top.Settings.Root
	}
	m, err := readManifest(func(name string) (string, error) {
		if root != "" {
			if text, err := read(root + "/" + name); text != "" || err != nil {
				return text, err
			}
		}
		return read(name)
	})
	if top.Settings.Root != "" {
		m.Settings.Root, m.From["root"] = top.Settings.Root, "mesh.toml"
	}
	return m, err
}

func readManifest(read func(name string) (string, error)) (Manifest, error) {
	m := Manifest{From: map[string]string{}, Services: map[mesh.ServiceName]string{}, source: map[mesh.ServiceName]string{}, Formation: mesh.Formation{}, Vars: map[string]Var{}}
	for _, f := range []struct {
		name string
		into func(*Manifest, string) error
	}{{"Procfile", (*Manifest).procfile}, {"mesh.toml", (*Manifest).meshTOML}, {"app.json", (*Manifest).appJSON}, {"heroku.yml", (*Manifest).herokuYML}} {
		text, err := read(f.name)
		if err != nil {
			return m, err
		}
		if text == "" {
			continue
		}
		if err := f.into(&m, strings.TrimPrefix(text, "\ufeff")); err != nil {
			return m, err
		}
	}
	return m, m.checkCommands()
}

// checkCommands refuses a command that no container could be given, and says where it
// stands.
func (m *Manifest) checkCommands() error {
	commands := map[string]string{"app.json: predeploy": m.Predeploy, "app.json: postdeploy": m.Postdeploy}
	for name, c := range m.Services {
		commands[m.source[name]+": "+string(name)] = c
	}
	for _, where := range slices.Sorted(maps.Keys(commands)) {
		var e *mesh.Error
		if err := mesh.CheckCommand(commands[where]); errors.As(err, &e) {
			return &mesh.Error{Kind: mesh.Failed, Text: where + ": " + e.Text, Hint: e.Hint, Err: err}
		}
	}
	return nil
}

func (m *Manifest) procfile(text string) error {
	found, err := ParseProcfile(text)
	for name, c := range found {
		m.service(name, c, "Procfile")
	}
	return err
}

// service takes a command, unless a file before this one has named it.
func (m *Manifest) service(name mesh.ServiceName, command, file string) {
	if _, said := m.Services[name]; !said && command != "" {
		m.Services[name], m.source[name] = command, file
	}
}

// set takes a setting, unless a file before this one has said it.
func (m *Manifest) set(file, name, value string) error {
	if m.Settings.Get(name) != "" {
		return nil
	}
	if err := m.Settings.Set(name, value); err != nil {
		var e *mesh.Error
		if errors.As(err, &e) {
			return &mesh.Error{Kind: mesh.Failed, Text: file + ": " + e.Text, Hint: e.Hint, Err: err}
		}
		return err
	}
	if m.Settings.Get(name) != "" {
		m.From[name] = file
	}
	return nil
}

func (m *Manifest) note(format string, args ...any) {
	m.Notes = append(m.Notes, fmt.Sprintf(format, args...))
}

func bad(file string, line int, text string) *mesh.Error {
	if line > 0 {
		return mesh.Errorf(mesh.Failed, "%s:%d: %s", file, line, text)
	}
	return mesh.Errorf(mesh.Failed, "%s: %s", file, text)
}

// meshTOML reads settings under their names of build:set.
func (m *Manifest) meshTOML(text string) error {
	var all map[string]any
	err := toml.Unmarshal([]byte(text), &all)
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, _ := at.Position()
		return bad("mesh.toml", line, strings.TrimPrefix(at.Error(), "toml: "))
	} else if err != nil {
		return bad("mesh.toml", 0, err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var value string
		switch v := all[name].(type) {
		case string:
			value = v
		case bool, int64, float64:
			value = fmt.Sprint(v)
		case []any:
			var words []string
			for _, w := range v {
				words = append(words, fmt.Sprint(w))
			}
			value = strings.Join(words, ",")
		default:
			return bad("mesh.toml", 0, fmt.Sprintf("%s has to be a text, a list or a truth value", mesh.Clip(name, 60)))
		}
		if name == "branch" {
			return bad("mesh.toml", 0, "branch is no matter of the tree").WithHint("set it with: ssh mesh build:set branch=NAME")
		}
		if err := m.set("mesh.toml", name, value); err != nil {
			return err
		}
	}
	return nil
}

// appJSON reads what Heroku and Dokku have in app.json, as far as it makes sense
// here.
func (m *Manifest) appJSON(text string) error {
	var j struct {
		Env       map[string]json.RawMessage
		Formation map[string]struct {
			Quantity *int
			Command  string
		}
		Healthchecks map[string][]struct {
			Type, Path                  string
			Timeout, Wait, InitialDelay *float64 // seconds
			Attempts                    *int
		}
		Scripts struct {
			Predeploy, Postdeploy string
			Dokku                 struct{ Predeploy, Postdeploy string }
		}
	}
	err := json.Unmarshal([]byte(text), &j)
	var at *json.SyntaxError
	if errors.As(err, &at) {
		return bad("app.json", 1+strings.Count(text[:min(len(text), int(at.Offset))], "\n"), err.Error())
	} else if err != nil {
		return bad("app.json", 0, strings.TrimPrefix(err.Error(), "json: "))
	}
	for _, name := range slices.Sorted(maps.Keys(j.Env)) {
		raw := j.Env[name]
		if _, err := mesh.ParseVarName(name); err != nil {
			m.note("app.json: env.%s is not used: %v", mesh.Clip(name, 40), err)
			continue
		}
		v := struct {
			Value, Generator string
			Required         *bool
		}{}
		if err := json.Unmarshal(raw, &v.Value); err != nil {
			if err := json.Unmarshal(raw, &v); err != nil {
				return bad("app.json", 0, fmt.Sprintf("env.%s is neither a text nor an object with value, required or generator", name))
			}
		}
		if v.Generator != "" && v.Generator != "secret" {
			return bad("app.json", 0, fmt.Sprintf("env.%s: there is no generator %q", name, mesh.Clip(v.Generator, 40)))
		}
		// Heroku: required unless it says otherwise, when it is an object.
		required := v.Required != nil && *v.Required || v.Required == nil && strings.HasPrefix(strings.TrimSpace(string(raw)), "{")
		m.Vars[name] = Var{Value: v.Value, Required: required, Secret: v.Generator == "secret"}
	}
	for name, f := range j.Formation {
		svc, err := mesh.ParseServiceName(name)
		if err != nil {
			return bad("app.json", 0, err.Error())
		}
		if f.Quantity != nil {
			if *f.Quantity < 0 || *f.Quantity > 100 {
				return bad("app.json", 0, fmt.Sprintf("formation.%s.quantity is %d; it has to be 0 to 100", svc, *f.Quantity))
			}
			m.Formation[svc] = *f.Quantity
		}
		m.service(svc, f.Command, "app.json")
	}
	for name, checks := range j.Healthchecks {
		for _, c := range checks {
			if mesh.ServiceName(name) != mesh.Web || c.Path == "" {
				m.note("app.json: healthchecks.%s %s is not used: only a path of web is", mesh.Clip(name, 40), mesh.Clip(c.Type, 20))
				continue
			}
			if err := m.set("app.json", "health", c.Path); err != nil {
				return err
			}
			// Dokku gives each of three attempts five seconds, and waits five between
			// them. Here there is a time for all of them, and never less than by default.
			or := func(f *float64, def float64) float64 {
				if f == nil {
					return def
				}
				return max(0, *f)
			}
			attempts := 3
			if c.Attempts != nil {
				attempts = *c.Attempts
			}
			all := or(c.InitialDelay, 0) + float64(max(1, attempts))*(or(c.Timeout, 5)+or(c.Wait, 5))
			if limit := time.Duration(min(all, 3600) * float64(time.Second)); limit > mesh.DefaultCheckTimeout {
				if err := m.set("app.json", "check-timeout", limit.Round(time.Second).String()); err != nil {
					return err
				}
			}
		}
	}
	first := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	m.Predeploy = first(j.Scripts.Dokku.Predeploy, j.Scripts.Predeploy)
	m.Postdeploy = first(j.Scripts.Dokku.Postdeploy, j.Scripts.Postdeploy)
	return nil
}

// herokuYML reads build.docker, release and run. A stack has one image: that of
// web, or the only one.
func (m *Manifest) herokuYML(text string) error {
	var y struct {
		Setup any
		Build struct {
			Docker map[string]any
			Config map[string]any
		}
		Release struct {
			Image   string
			Command yaml.Node
		}
		Run map[string]yaml.Node
	}
	if err := yaml.Unmarshal([]byte(text), &y); err != nil {
		return bad("heroku.yml", 0, strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " "))
	}
	files := map[string]bool{}
	dockerfile, stage := "", ""
	for _, name := range slices.Sorted(maps.Keys(y.Build.Docker)) {
		file, target := "", ""
		switch v := y.Build.Docker[name].(type) {
		case string:
			file = v
		case map[string]any:
			file, _ = v["dockerfile"].(string)
			target, _ = v["target"].(string)
		}
		if file == "" {
			return bad("heroku.yml", 0, fmt.Sprintf("build.docker.%s names no Dockerfile", mesh.Clip(name, 40)))
		}
		files[file] = true
		if dockerfile == "" || name == string(mesh.Web) {
			dockerfile, stage = file, target
		}
	}
	if len(files) > 1 {
		return bad("heroku.yml", 0, "build.docker has several Dockerfiles, and a stack has one image: "+strings.Join(slices.Sorted(maps.Keys(files)), ", ")).
			WithHint("give each a stack of its own with dockerfile=, or use one image with a service for each command")
	}
	if dockerfile != "" {
		if err := errors.Join(m.set("heroku.yml", "dockerfile", dockerfile), m.set("heroku.yml", "target", stage)); err != nil {
			return err
		}
	}
	if len(y.Build.Config) > 0 {
		m.note("heroku.yml: build.config is not used: set config vars, and declare them with ARG")
	}
	if y.Setup != nil {
		m.note("heroku.yml: setup is not used")
	}
	m.service(mesh.ReleaseCommand, commandOf(y.Release.Command), "heroku.yml")
	for name, n := range y.Run {
		svc, err := mesh.ParseServiceName(name)
		if err != nil {
			return bad("heroku.yml", 0, err.Error())
		}
		if n.Kind == yaml.MappingNode {
			var v struct{ Command yaml.Node }
			if err := n.Decode(&v); err != nil {
				return bad("heroku.yml", n.Line, err.Error())
			}
			n = v.Command
		}
		m.service(svc, commandOf(n), "heroku.yml")
	}
	return nil
}

// commandOf is a command that is one text, or a list of lines.
func commandOf(n yaml.Node) string {
	var one string
	if n.Kind == 0 {
		return ""
	}
	if n.Decode(&one) == nil {
		return one
	}
	var list []string
	if n.Decode(&list) != nil {
		return ""
	}
	return strings.Join(list, " && ")
}

// manifest reads that of a tree.
func manifest(t mesh.Tree, root string) (Manifest, error) {
	return ReadManifest(root, func(name string) (string, error) { return treeFile(t, name) })
}

// treeFile is the text of a file in a tree, with links followed inside the tree, or
// empty when there is none.
func treeFile(t mesh.Tree, name string) (string, error) {
	entries := t.Entries()
	e, err := mesh.FollowLinks(name, func(path string) (mesh.TreeEntry, bool) {
		i := slices.IndexFunc(entries, func(e mesh.TreeEntry) bool { return e.Path == path })
		if i < 0 {
			return mesh.TreeEntry{}, false
		}
		return entries[i], true
	})
	switch {
	case errors.Is(err, mesh.ErrOutside):
		return "", mesh.Errorf(mesh.Failed, "%s is a link to %q, which leads out of the repository", name, mesh.Clip(e.Link, 100)).WithHint("commit the file itself")
	case err != nil:
		return "", brokenLink(entries, name)
	case !e.Mode.IsRegular():
		return "", nil
	case e.Size > maxManifest:
		return "", mesh.Errorf(mesh.Failed, "%s is larger than %d KB", name, maxManifest>>10).WithHint("shorten it: commands of more than a line are better off in a script")
	}
	r, err := t.Open(e)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return string(data), mesh.CheckText(name, data)
}

// brokenLink is what there is to say of a file that cannot be found: nothing when there is
// none, but a link that leads nowhere was meant to be read.
func brokenLink(entries []mesh.TreeEntry, name string) error {
	for _, e := range entries {
		if e.Path == name && e.Link != "" {
			return mesh.Errorf(mesh.Failed, "%s is a link to %q, which is not in the repository", name, mesh.Clip(e.Link, 100)).
				WithHint("commit the file it should lead to, or remove the link: git rm %s", name)
		}
	}
	return nil
}
