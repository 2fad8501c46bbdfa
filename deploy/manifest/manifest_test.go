package manifest

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
)

func readManifest(files map[string]string) (Manifest, error) {
	return Read("", func(name string) (string, error) { return files[name], nil })
}

func TestManifest_Reads(t *testing.T) {
	t.Parallel()
	m, err := readManifest(map[string]string{
		"Procfile":  "web: ./serve\n",
		"mesh.toml": "health = \"/up\"\npackages = [\"ffmpeg\", \"curl\"]\npull = true\ndrain = \"10s\"\n",
		"app.json": `{"env": {"A": "x", "B": {"value": "y"}, "C": {"required": false}, "D": {"generator": "secret"}, "E": {"description": "."}, "PORT": "80"},
			"formation": {"web": {"quantity": 2}, "worker": {"quantity": 0, "command": "./work"}},
			"healthchecks": {"web": [{"type": "startup", "path": "/json", "timeout": 5, "attempts": 10, "initialDelay": 2}], "worker": [{"type": "liveness"}]},
			"scripts": {"predeploy": "a", "postdeploy": "b", "dokku": {"predeploy": "c"}}}`,
		"heroku.yml": "setup: {addons: []}\nbuild:\n  docker:\n    web: docker/Dockerfile\n  config: {X: y}\nrelease:\n  command: [./a, ./b]\nrun:\n  web: ./other\n  clock: {command: [./tick]}\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	s := m.Settings
	if s.Health != "/up" || strings.Join(s.Packages, " ") != "ffmpeg curl" || !mesh.IsTrue(s.Pull) || s.Drain != 10*time.Second || s.CheckTimeout != 102*time.Second || s.Dockerfile != "docker/Dockerfile" {
		t.Errorf("settings %+v", s)
	}
	if m.From["health"] != "mesh.toml" || m.From["check-timeout"] != "app.json" || m.From["dockerfile"] != "heroku.yml" {
		t.Errorf("decided by %v", m.From)
	}
	want := map[mesh.ServiceName]string{"web": "./serve", "worker": "./work", "clock": "./tick", "release": "./a && ./b"}
	if !maps.Equal(m.Services, want) {
		t.Errorf("services %v", m.Services)
	}
	if m.Predeploy != "c" || m.Postdeploy != "b" || m.Formation["web"] != 2 || m.Formation["worker"] != 0 {
		t.Errorf("got %+v", m)
	}
	vars := map[string]Var{"A": {Value: "x"}, "B": {Value: "y", Required: true}, "C": {}, "D": {Required: true, Secret: true}, "E": {Required: true}}
	if !maps.Equal(m.Vars, vars) {
		t.Errorf("vars %+v", m.Vars)
	}
	notes := strings.Join(m.Notes, "\n")
	for _, part := range []string{"env.PORT is not used", "healthchecks.worker liveness", "build.config", "setup"} {
		if !strings.Contains(notes, part) {
			t.Errorf("no note of %s in %q", part, m.Notes)
		}
	}
}

// The root folder that mesh.toml names has its own files; missing ones are read at the
// top. The image is web's, and so is its stage.
func TestManifest_RootAndWeb(t *testing.T) {
	t.Parallel()
	m, err := readManifest(map[string]string{
		"mesh.toml": "root = \"web\"\nhealth = \"/top\"\n", "Procfile": "web: ./top\n", "web/Procfile": "worker: ./below\n",
		"web/app.json": `{"env": {"NEEDED": {"required": true}}}`,
		"heroku.yml":   "build:\n  docker:\n    admin: {dockerfile: Dockerfile, target: admin}\n    web: {dockerfile: Dockerfile, target: web}\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	if m.Settings.Root != "web" || m.From["root"] != "mesh.toml" || m.Settings.Health != "/top" || m.Settings.Target != "web" {
		t.Errorf("settings %+v", m.Settings)
	}
	if !maps.Equal(m.Services, map[mesh.ServiceName]string{"worker": "./below"}) || !m.Vars["NEEDED"].Required {
		t.Errorf("services %v, vars %v", m.Services, m.Vars)
	}
	// A health check of app.json never has less time than others.
	m, err = readManifest(map[string]string{"app.json": `{"healthchecks": {"web": [{"path": "/up", "timeout": 0.5}]}}`})
	if err != nil || m.Settings.Health != "/up" || m.Settings.CheckTimeout != 0 {
		t.Errorf("%+v, %v", m.Settings, err)
	}
}

func TestManifest_Refuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, text, want string }{
		"not TOML":              {"mesh.toml", "a = 1\nroot = \n", "mesh.toml:2: "},
		"an unknown setting":    {"mesh.toml", "rot = \"web\"", `mesh.toml: there is no build setting "rot"`},
		"a table":               {"mesh.toml", "[web]\nx = 1", "mesh.toml: web must be a string"},
		"the branch":            {"mesh.toml", "branch = \"main\"", "mesh.toml: branch cannot be set in mesh.toml"},
		"a path that climbs":    {"mesh.toml", "root = \"../x\"", `mesh.toml: "../x" is not a path inside the repository`},
		"an absolute path":      {"mesh.toml", "dockerfile = \"/etc/passwd\"", "mesh.toml: "},
		"not JSON":              {"app.json", "{\n\"env\": ,}", "app.json:2: "},
		"a wrong type":          {"app.json", `{"env": []}`, "app.json: "},
		"a var of a wrong type": {"app.json", `{"env": {"A": 3}}`, "app.json: env.A must be a string, or an object"},
		"a generator":           {"app.json", `{"env": {"A": {"generator": "uuid"}}}`, `app.json: env.A: there is no generator "uuid"`},
		"a quantity":            {"app.json", `{"formation": {"web": {"quantity": 1000}}}`, "app.json: formation.web.quantity is 1000"},
		"a service name":        {"app.json", `{"formation": {"We b": {}}}`, "app.json: "},
		"not YAML":              {"heroku.yml", "a: [", "heroku.yml: "},
		"two images":            {"heroku.yml", "build: {docker: {web: Dockerfile, worker: w/Dockerfile}}", "heroku.yml: build.docker has several Dockerfiles, but a stack has one image: Dockerfile, w/Dockerfile"},
		"no Dockerfile named":   {"heroku.yml", "build: {docker: {web: {target: x}}}", "heroku.yml: build.docker.web names no Dockerfile"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := readManifest(map[string]string{c.file: c.text})
			if !errors.Is(err, mesh.Failed) || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestWatch_Patterns(t *testing.T) {
	t.Parallel()
	for pattern, paths := range map[string]string{
		"web/**":   "web/a web/a/b !weba !x/web/a !web.txt",
		"web":      "web web/a !x/web",
		"*.go":     "a.go !a/b.go !a.gob",
		"**/*.go":  "a.go a/b.go a/b/c.go !a.txt",
		"a/*/c":    "a/b/c a/b/c/d !a/c !a/b/b/c",
		"/go.mod":  "go.mod !x/go.mod",
		"**":       "a a/b",
		"a/**/z":   "a/z a/b/c/z !b/z",
		"[":        "![ !a",
		"web/*.md": "web/a.md !web/x/a.md",
	} {
		for p := range strings.FieldsSeq(paths) {
			p, not := strings.CutPrefix(p, "!")
			if got := matchAny([]string{pattern}, p); got == not {
				t.Errorf("%s matches %s: %v", pattern, p, got)
			}
		}
	}
}

// links is a tree with symbolic links, by path: "->target" is a link.
type links map[string]string

func (l links) Entries() (entries []mesh.TreeEntry) {
	for _, p := range slices.Sorted(maps.Keys(l)) {
		e := mesh.TreeEntry{Path: p, Mode: 0o644, Size: int64(len(l[p]))}
		if to, ok := strings.CutPrefix(l[p], "->"); ok {
			e = mesh.TreeEntry{Path: p, Mode: fs.ModeSymlink | 0o777, Link: to}
		} else if l[p] == "/" {
			e = mesh.TreeEntry{Path: p, Mode: fs.ModeDir | 0o755}
		}
		entries = append(entries, e)
	}
	return entries
}

func (l links) Open(e mesh.TreeEntry) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(l[e.Path])), nil
}

// Any manifest that is a link is read as the file that it leads to.
func TestManifest_Links(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"Procfile": "worker: run\n", "mesh.toml": "health = \"/up\"\n", "app.json": `{"scripts":{"predeploy":"p"}}`, "heroku.yml": "run:\n  worker: run\n"} {
		for how, c := range map[string]struct {
			tree links
			want string // of the error
		}{
			"a link":              {links{name: "->conf/it", "conf": "/", "conf/it": text}, ""},
			"below a link":        {links{name: "->conf/it", "conf": "->real", "real": "/", "real/it": text}, ""},
			"a link to a link":    {links{name: "->a", "a": "->./b", "b": text}, ""},
			"up and down":         {links{name: "->x/../b", "x": "/", "b": text}, ""},
			"out of the tree":     {links{name: "->../b"}, "points outside the repository"},
			"absolute":            {links{name: "->/etc/passwd"}, "points outside the repository"},
			"to nothing":          {links{name: "->gone"}, `is a link to "gone", which is not in the repository`},
			"in a circle":         {links{name: "->a", "a": "->" + name}, "is not in the repository"},
			"a folder is no file": {links{name: "/", name + "/x": "y"}, ""},
			"too large":           {links{name: strings.Repeat("#\n", 200_000)}, "is larger than 256 KB"},
			"from PowerShell":     {links{name: "\xff\xfew\x00e\x00b\x00"}, "is UTF-16"},
			"in Latin-1":          {links{name: "\n" + `"caf` + "\xe9" + `"`}, `:2: "\"caf\xe9\"" is not valid UTF-8`},
		} {
			m, err := OfTree(c.tree, "")
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), name) {
					t.Errorf("%s, %s: %v", name, how, err)
				}
				continue
			}
			empty := len(m.Services) == 0 && m.Settings.Health == "" && m.Predeploy == ""
			if err != nil || empty != (how == "a folder is no file") {
				t.Errorf("%s, %s: %+v, %v", name, how, m, err)
			}
		}
	}
}

// Every field that has no effect is named, with what to do instead; others are not.
func TestManifest_UnusedFields(t *testing.T) {
	t.Parallel()
	m, err := readManifest(map[string]string{
		"app.json": `{"name": "shop", "description": "x", "website": "https://x.example", "addons": ["heroku-postgresql", {"plan": "heroku-redis:mini"}], "buildpacks": [{"url": "heroku/ruby"}],
			"cron": [{"command": "echo hi", "schedule": "@hourly"}], "environments": {"review": {"addons": ["x"]}, "test": {}}, "stack": "heroku-24", "image": "heroku/ruby",
			"env": {"A": {"description": "a", "value": "1", "required": false}}, "formation": {"web": {"quantity": 2, "size": "standard-1x"}},
			"scripts": {"postdeploy": "./p", "pr-predestroy": "./d", "dokku": {"predeploy": "./q"}}, "healthchecks": {"web": [{"path": "/up", "type": "startup"}]}, "typo": 1, "nothing": null}`,
		"heroku.yml": "setup:\n  addons:\n    - plan: heroku-postgresql\n  config:\n    A: b\nbuild:\n  docker:\n    web: Dockerfile\n  config:\n    A: b\n  languages: [ruby]\nrelease:\n  image: web\n  command: [./a]\nrun:\n  web: ./w\n  worker:\n    command: [./x]\n    image: web\nextra: 1\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, n := range m.Notes {
		path, say, ok := strings.Cut(n, " is not used")
		if !ok || !strings.Contains(say, ": ") {
			t.Errorf("it does not say what to do instead: %s", n)
		}
		named = append(named, path)
	}
	want := []string{
		"app.json: addons", "app.json: buildpacks", "app.json: environments.review.addons", "app.json: environments.test", "app.json: formation.web.size", "app.json: image",
		"app.json: scripts.pr-predestroy", "app.json: stack", "app.json: typo",
		"heroku.yml: build.config", "heroku.yml: build.languages", "heroku.yml: extra", "heroku.yml: release.image", "heroku.yml: run.worker.image", "heroku.yml: setup.addons", "heroku.yml: setup.config",
	}
	slices.Sort(named)
	slices.Sort(want)
	if !slices.Equal(named, want) {
		t.Errorf("named %q,\nwant %q", named, want)
	}
	for _, part := range []string{"(heroku-postgresql, heroku-redis:mini): a push creates no add-ons", "(heroku/ruby): mesh builds with the Dockerfile"} {
		if !slices.ContainsFunc(m.Notes, func(n string) bool { return strings.Contains(n, part) }) {
			t.Errorf("no note has %q: %q", part, m.Notes)
		}
	}
}
