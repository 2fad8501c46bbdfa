// Package manifest reads what a tree declares: Procfile, mesh.toml, app.json,
// heroku.yml, railpack.json and nixpacks.toml; the paths that a stack watches; and how a command line becomes the
// process of a container.
//
// It takes bytes and returns values: it has no state, starts nothing, and reads only
// the tree that it is given. Package deploy decides how a manifest is used.
//
//	m, err := manifest.OfTree(tree, "")
//	m.Services["web"] // "bin/serve --port $PORT"
package manifest

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"mesh"
)

// Manifest is what a tree declares in its Procfile, mesh.toml, app.json and heroku.yml.
type Manifest struct {
	Settings   mesh.Settings               // from mesh.toml, app.json, heroku.yml; the first file with a setting wins
	From       map[string]string           // the file that each setting is from
	Services   map[mesh.ServiceName]string // commands, including the release command
	Files      map[mesh.ServiceName]string // the file that each command is from
	Formation  mesh.Formation
	Jobs       []mesh.Job     // by name; their schedules are not checked
	Vars       map[string]Var // declared by app.json, or needed by the framework
	Addons     []Addon        // named by app.json; a push creates none
	Review     Review         // what differs in a preview
	Predeploy  string         // runs before the release command
	Postdeploy string         // runs after the release is live
	Notes      []string       // ignored parts, for the person who pushed
}

// Review is what app.json declares for previews (environments.review), over the rest.
type Review struct {
	Vars       map[string]Var
	Postdeploy string // empty: the Manifest's
}

// maxManifest is larger than any such file needs to be.
const maxManifest = 256 << 10

// Read reads the files of a tree through read, which takes a path in the tree and
// returns an empty string for a missing file. It looks in the folder root, and for
// missing files at the top of the tree. If root is empty, mesh.toml at the top may name
// it.
func Read(root string, read func(path string) (string, error)) (Manifest, error) {
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
	m, err := readFiles(func(name string) (string, error) {
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

func readFiles(read func(name string) (string, error)) (Manifest, error) {
	m := Manifest{From: map[string]string{}, Services: map[mesh.ServiceName]string{}, Files: map[mesh.ServiceName]string{}, Formation: mesh.Formation{}, Vars: map[string]Var{}}
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
	if err := m.peerFiles(read); err != nil {
		return m, err
	}
	if err := m.checkJobs(); err != nil {
		return m, err
	}
	return m, m.checkCommands()
}

// peerFiles reads the files of other builders, for a tree without a Dockerfile: with one,
// they ignore them as well.
func (m *Manifest) peerFiles(read func(name string) (string, error)) error {
	if own, err := read(mesh.DefaultDockerfile); own != "" || err != nil || m.Settings.Dockerfile != "" {
		return nil //nolint:nilerr // whoever builds reports what is wrong with it
	}
	for _, f := range []struct {
		name string
		into func(string) error
	}{{"railpack.json", m.railpack}, {"nixpacks.toml", m.nixpacks}} {
		text, err := read(f.name)
		if err != nil {
			return err
		}
		if text != "" {
			if err := f.into(strings.TrimPrefix(text, "\ufeff")); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkCommands returns an error for a command that cannot be given to a container. The
// error names its file.
func (m *Manifest) checkCommands() error {
	commands := map[string]string{"app.json: predeploy": m.Predeploy, "app.json: postdeploy": m.Postdeploy, "app.json: environments.review.scripts.postdeploy": m.Review.Postdeploy}
	for name, c := range m.Services {
		commands[m.Files[name]+": "+string(name)] = c
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

// service sets a command, unless an earlier file has set it.
func (m *Manifest) service(name mesh.ServiceName, command, file string) {
	if _, said := m.Services[name]; !said && command != "" {
		m.Services[name], m.Files[name] = command, file
	}
}

// set sets a setting, unless an earlier file has set it.
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

// OfTree reads the files of a tree, and which secret its framework needs. It follows
// links inside the tree.
func OfTree(t mesh.Tree, root string) (Manifest, error) {
	m, err := Read(root, func(name string) (string, error) { return treeFile(t, name) })
	if err != nil {
		return m, err
	}
	if root == "" {
		root = m.Settings.Root
	}
	return m, m.frameworkSecrets(t, root)
}

// treeFile returns the text of a file in a tree, or "" if it is missing. It follows
// links inside the tree.
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
		return "", mesh.Errorf(mesh.Failed, "%s is a link to %q, which points outside the repository", name, mesh.Clip(e.Link, 100)).WithHint("commit the file itself")
	case err != nil:
		return "", brokenLink(entries, name)
	case !e.Mode.IsRegular():
		return "", nil
	case e.Size > maxManifest:
		return "", mesh.Errorf(mesh.Failed, "%s is larger than %d KB", name, maxManifest>>10).WithHint("shorten it: move long commands into a script")
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

// brokenLink returns the error for a file that cannot be found. A missing file is no
// error, but a link that leads nowhere is: it was meant to be read.
func brokenLink(entries []mesh.TreeEntry, name string) error {
	for _, e := range entries {
		if e.Path == name && e.Link != "" {
			return mesh.Errorf(mesh.Failed, "%s is a link to %q, which is not in the repository", name, mesh.Clip(e.Link, 100)).
				WithHint("commit the file it points to, or remove the link: git rm %s", name)
		}
	}
	return nil
}
