package manifest_test

import (
	"slices"
	"strings"
	"testing"

	"mesh/deploy/manifest"
)

func readAll(files map[string]string) (manifest.Manifest, error) {
	return manifest.Read("", func(name string) (string, error) { return files[name], nil })
}

// What nixpacks.toml and railpack.json mean here is used, and the rest is named.
func TestRead_PeerFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		set   map[string]string
		web   string
		notes []string // beginnings
	}{
		"nixpacks.toml": {
			map[string]string{"nixpacks.toml": "providers = ['node']\n[variables]\nA = 'b'\n[phases.setup]\nnixPkgs = ['...', 'ffmpeg']\naptPkgs = ['...', 'libpq5', 'curl']\n[phases.install]\ncmds = ['npm ci', 'npm i x']\n[phases.build]\ncmds = ['...', 'make']\n[start]\ncmd = 'node a.js'\n"},
			map[string]string{"packages": "libpq5,curl", "install-command": "npm ci && npm i x", "build-command": ""},
			"node a.js",
			[]string{"nixpacks.toml: phases.build.cmds is not used (make)", "nixpacks.toml: phases.setup.nixPkgs is not used", "nixpacks.toml: providers is not used", "nixpacks.toml: variables.A is not used"},
		},
		"railpack.json": {
			map[string]string{"railpack.json": `{"$schema": "x", "provider": "node", "packages": {"node": "22"}, "buildAptPackages": ["git"], "deploy": {"startCommand": "node b.js", "aptPackages": ["...", "ffmpeg"]},
				"steps": {"install": {"commands": [{"cmd": "npm ci", "customName": "x"}]}, "build": {"commands": ["npm run build", {"src": ".", "dest": "."}]}}}`},
			map[string]string{"build-packages": "git", "packages": "ffmpeg", "install-command": "npm ci", "build-command": ""},
			"node b.js",
			[]string{"railpack.json: provider is not used", "railpack.json: steps.build.commands is not used (npm run build)"},
		},
		"the repository's own files win": {
			map[string]string{"railpack.json": `{"deploy": {"startCommand": "node b.js", "aptPackages": ["ffmpeg"]}}`, "Procfile": "web: mine", "mesh.toml": "packages = ['curl']"},
			map[string]string{"packages": "curl"},
			"mine",
			nil,
		},
		"with a Dockerfile they say nothing": {
			map[string]string{"nixpacks.toml": "[start]\ncmd = 'node a.js'\n[x]\ny = 1\n", "Dockerfile": "FROM scratch"},
			map[string]string{"packages": ""},
			"",
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := readAll(c.files)
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range c.set {
				if m.Settings.Get(k) != v {
					t.Errorf("%s=%q, want %q", k, m.Settings.Get(k), v)
				}
			}
			if m.Services["web"] != c.web {
				t.Errorf("web: %q", m.Services["web"])
			}
			slices.Sort(m.Notes)
			if !slices.EqualFunc(m.Notes, c.notes, strings.HasPrefix) {
				t.Errorf("notes %q", m.Notes)
			}
		})
	}
	for name, text := range map[string]string{"nixpacks.toml": "a = \n", "railpack.json": "{"} {
		if _, err := readAll(map[string]string{name: text}); err == nil || !strings.HasPrefix(err.Error(), name+":") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
