package manifest

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/tailscale/hujson"
)

// The files of nixpacks (https://nixpacks.com/docs/configuration/file) and railpack
// (https://railpack.com/config/file) say how to build a tree without a Dockerfile. What
// means the same here is read; the rest is named.

const (
	sayDetects  = "mesh detects the language; correct what it finds in mesh.toml"
	sayPackages = `name Debian packages in mesh.toml: packages = ["ffmpeg"]`
	saySteps    = "write one command in mesh.toml: install-command or build-command"
	sayCaches   = "mesh caches what the language's tools download"
)

var nixpacksFields = fields{
	"phases.setup.aptPkgs": "", "phases.install.cmds": "", "phases.build.cmds": "", "start.cmd": "",
	"phases.setup.nixPkgs": sayPackages, "phases.setup.nixLibs": sayPackages, "phases.*.cacheDirectories": sayCaches, "phases.*.dependsOn": "", "phases.*.cmds": saySteps,
	"phases.*.aptPkgs": sayPackages, "providers": sayDetects, "buildImage": sayBase, "start.runImage": sayBase, "variables": sayConfig, "variables.*": sayConfig,
}

var railpackFields = fields{
	"$schema": "", "buildAptPackages": "", "deploy.aptPackages": "", "deploy.startCommand": "", "steps.install.commands": "", "steps.build.commands": "",
	"packages.*": "", // builder/detect reads them
	"provider":   sayDetects, "deploy.variables": sayConfig, "deploy.variables.*": sayConfig, "deploy.base": sayBase, "deploy.base.*": sayBase, "deploy.inputs": sayDetects, "deploy.paths": sayDetects,
	"caches": sayCaches, "caches.*": sayCaches, "secrets": "config vars reach the build by themselves", "steps.*": saySteps,
}

func (m *Manifest) nixpacks(text string) error {
	const file = "nixpacks.toml"
	var n struct {
		Phases map[string]struct {
			Cmds    []string
			AptPkgs []string `toml:"aptPkgs"`
		}
		Start struct{ Cmd string }
	}
	var all map[string]any
	err := errors.Join(toml.Unmarshal([]byte(text), &n), toml.Unmarshal([]byte(text), &all))
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, _ := at.Position()
		return bad(file, line, strings.TrimPrefix(at.Error(), "toml: "))
	} else if err != nil {
		return bad(file, 0, err.Error())
	}
	m.unused(file, nixpacksFields, all)
	m.service("web", n.Start.Cmd, file)
	return errors.Join(
		m.set(file, "packages", strings.Join(explicit(n.Phases["setup"].AptPkgs), ",")),
		m.set(file, "install-command", m.joined(file, "phases.install.cmds", n.Phases["install"].Cmds)),
		m.set(file, "build-command", m.joined(file, "phases.build.cmds", n.Phases["build"].Cmds)),
	)
}

func (m *Manifest) railpack(text string) error {
	const file = "railpack.json"
	var r struct {
		BuildAptPackages []string
		Deploy           struct {
			AptPackages  []string
			StartCommand string
		}
		Steps map[string]struct{ Commands []json.RawMessage }
	}
	var all map[string]any
	plain, err := hujson.Standardize([]byte(text)) // it may have comments
	if err == nil {
		err = errors.Join(json.Unmarshal(plain, &r), json.Unmarshal(plain, &all))
	}
	if err != nil {
		return bad(file, 0, strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "hujson: ")), " "))
	}
	m.unused(file, railpackFields, all)
	m.service("web", r.Deploy.StartCommand, file)
	commands := func(step string) (list []string) {
		for _, raw := range r.Steps[step].Commands {
			var line string
			var long struct{ Cmd string }
			switch {
			case json.Unmarshal(raw, &line) == nil:
			case json.Unmarshal(raw, &long) == nil && long.Cmd != "":
				line = long.Cmd
			default: // it copies a file, or sets a path
				line = "..."
			}
			list = append(list, line)
		}
		return list
	}
	return errors.Join(
		m.set(file, "build-packages", strings.Join(explicit(r.BuildAptPackages), ",")),
		m.set(file, "packages", strings.Join(explicit(r.Deploy.AptPackages), ",")),
		m.set(file, "install-command", m.joined(file, "steps.install.commands", commands("install"))),
		m.set(file, "build-command", m.joined(file, "steps.build.commands", commands("build"))),
	)
}

// more stands for what the tool itself would do, in lists of both files.
const more = "..."

// explicit are the entries of a list without that.
func explicit(list []string) (out []string) {
	for _, l := range list {
		if l != more {
			out = append(out, l)
		}
	}
	return out
}

// joined is a list of commands as one. A list that adds to what the tool detects has no
// equal here, and is named.
func (m *Manifest) joined(file, field string, cmds []string) string {
	if len(explicit(cmds)) != len(cmds) {
		if len(explicit(cmds)) > 0 {
			m.note("%s: %s is not used (%s): %s", file, field, strings.Join(explicit(cmds), "; "), saySteps)
		}
		return ""
	}
	return strings.Join(cmds, " && ")
}
