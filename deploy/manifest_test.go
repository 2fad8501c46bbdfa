package deploy_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

func readManifest(files map[string]string) (deploy.Manifest, error) {
	return deploy.ReadManifest("", func(name string) (string, error) { return files[name], nil })
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
	if s.Health != "/up" || strings.Join(s.Packages, " ") != "ffmpeg curl" || !mesh.Is(s.Pull) || s.Drain != 10*time.Second || s.CheckTimeout != 102*time.Second || s.Dockerfile != "docker/Dockerfile" {
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
	vars := map[string]deploy.Var{"A": {Value: "x"}, "B": {Value: "y", Required: true}, "C": {}, "D": {Required: true, Secret: true}, "E": {Required: true}}
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

// The folder that mesh.toml names as root has its own files; what it has not is read at
// the top. The image is web's, and so is its stage.
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
	// A health check of app.json never has less time than others have.
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
		"a table":               {"mesh.toml", "[web]\nx = 1", "mesh.toml: web has to be a text"},
		"the branch":            {"mesh.toml", "branch = \"main\"", "mesh.toml: branch is no matter of the tree"},
		"a path that climbs":    {"mesh.toml", "root = \"../x\"", `mesh.toml: "../x" is not a path inside the repository`},
		"an absolute path":      {"mesh.toml", "dockerfile = \"/etc/passwd\"", "mesh.toml: "},
		"not JSON":              {"app.json", "{\n\"env\": ,}", "app.json:2: "},
		"a wrong type":          {"app.json", `{"env": []}`, "app.json: "},
		"a var of a wrong type": {"app.json", `{"env": {"A": 3}}`, "app.json: env.A is neither"},
		"a generator":           {"app.json", `{"env": {"A": {"generator": "uuid"}}}`, `app.json: env.A: there is no generator "uuid"`},
		"a quantity":            {"app.json", `{"formation": {"web": {"quantity": 1000}}}`, "app.json: formation.web.quantity is 1000"},
		"a service name":        {"app.json", `{"formation": {"We b": {}}}`, "app.json: "},
		"not YAML":              {"heroku.yml", "a: [", "heroku.yml: "},
		"two images":            {"heroku.yml", "build: {docker: {web: Dockerfile, worker: w/Dockerfile}}", "heroku.yml: build.docker has several Dockerfiles, and a stack has one image: Dockerfile, w/Dockerfile"},
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

func TestManifest_FolderFirst(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.SetSettings(t.Context(), "blog", func(s *mesh.Settings) error { s.Root = "web"; return nil }); err != nil {
			t.Fatal(err)
		}
		mustPush(t, w, d, map[string]string{
			"Dockerfile": "FROM scratch", "web/Dockerfile": "FROM scratch", "mesh.toml": "health = \"/top\"", "web/mesh.toml": "health = \"/web\"", "Procfile": "web: ./top",
		})
		st := stack(t, w)
		if st.Effective().Health != "/web" || st.Effective().Root != "web" {
			t.Errorf("in force %+v", st.Effective())
		}
		if r := release(t, w, st.Current); r.Services["web"].Command != "./top" {
			t.Errorf("services %+v", r.Services)
		}
		if b := w.Builder.Builds(); b[len(b)-1].Settings.Root != "web" {
			t.Errorf("built with %+v", b[len(b)-1].Settings)
		}
	})
}

func TestManifest_FailedPushDeclaresNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		w.Builder.BuildFunc = func(context.Context, mesh.Build, io.Writer) error { return failed(mesh.Failed, "no") }
		_, err := push(t, w, d, map[string]string{
			"Dockerfile": "FROM scratch", "mesh.toml": "health = \"/top\"", "app.json": `{"env": {"A": "x", "S": {"generator": "secret"}}, "formation": {"web": {"quantity": 3}}}`,
		})
		if st := stack(t, w); err == nil || st.Declared.Health != "" || len(st.Config) > 0 || st.Formation["web"] > 1 {
			t.Errorf("something has changed: %+v, %v", st, err)
		}
	})
}

func TestManifest_FailedPostdeployStaysLive(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		w.Runner.OneOffFunc = func(_ context.Context, o mesh.OneOff) (int, error) {
			if strings.Contains(strings.Join(o.Process.Cmd, " "), "after") {
				_, _ = io.WriteString(o.Stdout, "it says why\n")
				return 3, nil
			}
			return 0, nil
		}
		out, err := push(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "app.json": `{"scripts": {"predeploy": "./before", "postdeploy": "./after"}}`})
		if err != nil || stack(t, w).Current != 1 {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, want := range []string{"Predeploy: ./before", "it says why", `postdeploy failed: "./after" exited 3`, "v1 is live all the same"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})
}

// What a tree says belongs to its release: a rollback checks the old code as the old
// tree says, a promotion takes it along, and svc tells which file a command is from.
func TestManifest_GoesWithTheRelease(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		var mu sync.Mutex
		path := ""
		w.Runner.CheckedFunc = func(_ mesh.Instance, how mesh.Check) {
			mu.Lock()
			defer mu.Unlock()
			path = how.Path
		}
		checked := func(want string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if path != want {
				t.Errorf("checked at %q, want %q", path, want)
			}
		}
		mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "mesh.toml": "health = \"/old\"", "heroku.yml": "run:\n  web: ./old\n"})
		checked("/old")
		mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "mesh.toml": "health = \"/new\"", "Procfile": "web: ./new\n"})
		checked("/new")
		for n, want := range map[mesh.ReleaseNumber]mesh.Service{1: {Command: "./old", From: "heroku.yml"}, 2: {Command: "./new", From: "Procfile"}} {
			if got := release(t, w, n).Services["web"]; got != want {
				t.Errorf("%s: %+v, want %+v", n, got, want)
			}
		}
		if err := d.Rollback(t.Context(), "blog", "ci", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		checked("/old")
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.Config{"A": mesh.NewSecret("b")}, nil, false, io.Discard); err != nil {
			t.Fatal(err)
		}
		if got := stack(t, w).Effective().Health; got != "/old" {
			t.Errorf("the health check is at %q", got)
		}
		if _, err := d.CreateStack(t.Context(), "shop", "ci"); err != nil {
			t.Fatal(err)
		}
		if err := d.Promote(t.Context(), "blog", "shop", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		checked("/old")
	})
}

func TestManifest_StartCommandWinsOverTheProcfile(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "Procfile": "web: ./theirs\nworker: ./w", "mesh.toml": "start-command = \"./mine\""})
		if r := release(t, w, 1); r.Services["web"] != (mesh.Service{Command: "./mine", From: "start-command"}) || r.Services["worker"].Command != "./w" {
			t.Errorf("services %+v", r.Services)
		}
	})
}

func TestWatch_SkipsAndComparesWithWhatIsDeployed(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "web/a": "1", "docs": "1", "mesh.toml": "watch = [\"web/**\", \"Dockerfile\"]"})
		files := map[string]string{"Dockerfile": "FROM scratch", "web/a": "1", "docs": "2", "mesh.toml": "watch = [\"web/**\", \"Dockerfile\"]"}
		out, err := push(t, w, d, files)
		if err != nil || !strings.Contains(out, "Skipped: nothing that watch=web/**,Dockerfile names has changed since v1") || last(t, w).Status != mesh.StatusSkipped || stack(t, w).Current != 1 {
			t.Errorf("%v, %s\n%s", err, last(t, w).Status, out)
		}
		files["web/b"] = "new" // added
		mustPush(t, w, d, files)
		if stack(t, w).Current != 2 {
			t.Error("a new file was skipped")
		}
		files = maps.Clone(files)
		delete(files, "web/b") // removed
		mustPush(t, w, d, files)
		if stack(t, w).Current != 3 {
			t.Error("a removed file was skipped")
		}
	})
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
			if got := deploy.MatchAny([]string{pattern}, p); got == not {
				t.Errorf("%s matches %s: %v", pattern, p, got)
			}
		}
	}
}

// links is a tree with symbolic links, by path: "->target" is one.
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

// A manifest that is a link is read as the file that it leads to, whichever it is.
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
			"out of the tree":     {links{name: "->../b"}, "leads out of the repository"},
			"absolute":            {links{name: "->/etc/passwd"}, "leads out of the repository"},
			"to nothing":          {links{name: "->gone"}, `is a link to "gone", which is not in the repository`},
			"in a circle":         {links{name: "->a", "a": "->" + name}, "is not in the repository"},
			"a folder is no file": {links{name: "/", name + "/x": "y"}, ""},
			"too large":           {links{name: strings.Repeat("#\n", 200_000)}, "is larger than 256 KB"},
			"from PowerShell":     {links{name: "\xff\xfew\x00e\x00b\x00"}, "is UTF-16"},
			"in Latin-1":          {links{name: "\n" + `"caf` + "\xe9" + `"`}, `:2: "\"caf\xe9\"" is not valid UTF-8`},
		} {
			m, err := deploy.ReadTreeManifest(c.tree, "")
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
