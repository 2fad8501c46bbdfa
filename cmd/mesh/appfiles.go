package main

import (
	"maps"
	"slices"
	"strings"

	"mesh"
	"mesh/command"
	"mesh/deploy/manifest"
)

// appFiles reads app.json for import:heroku with the parser that pushes use.
type appFiles struct{}

// AppJSON returns what an app.json declares.
func (appFiles) AppJSON(text string) (command.AppFile, error) {
	m, err := manifest.Read("", func(path string) (string, error) {
		if path == "app.json" {
			return text, nil
		}
		return "", nil
	})
	if err != nil {
		return command.AppFile{}, err
	}
	file := command.AppFile{Values: mesh.Config{}, Formation: m.Formation}
	for _, name := range slices.Sorted(maps.Keys(m.Vars)) {
		switch v := m.Vars[name]; {
		case v.Value != "":
			file.Values[name] = mesh.NewSecret(v.Value)
		case v.Secret:
			file.Generated = append(file.Generated, name)
		case v.Required:
			file.Required = append(file.Required, name)
		}
	}
	for _, a := range m.Addons {
		file.Addons = append(file.Addons, command.WantedAddon{Plan: a.Plan, As: a.As})
	}
	for _, n := range m.Notes {
		if strings.HasPrefix(n, "app.json: env.") {
			file.Notes = append(file.Notes, n)
		}
	}
	return file, nil
}
