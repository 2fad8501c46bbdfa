package command_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"mesh"
	"mesh/command"
)

func (f *fake) AppJSON(string) (command.AppFile, error) { return f.appFile, f.appFault }

type imported struct {
	Created   bool
	Release   string
	Set       []string
	LeftOut   []struct{ Name, Why, Command string } `json:"left_out"`
	Required  []struct{ Name, Command string }
	Generated []string
	Addons    []struct{ Name, Why, Command string }
	Scale     string
}

func importJSON(t *testing.T, f *fake, line, in string) imported {
	t.Helper()
	r := do(t, f, line+" --json", stdin(in))
	if r.status != 0 {
		t.Fatalf("%s: %s", line, r.err)
	}
	var out imported
	if err := json.Unmarshal([]byte(r.out), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Which vars belong to an add-on is decided by their names and by the scheme of the URL: a
// database elsewhere, or a file, stays a config var.
func TestImport_LeftOut(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"DATABASE_URL=postgres://h/d":                     "ssh mesh addons:create postgres -a shop",
		"DATABASE_URL=postgresql+psycopg2://h/d":          "ssh mesh addons:create postgres -a shop",
		"DATABASE_URL=sqlite:///app/db":                   "set",
		"DATABASE_URL=":                                   "ssh mesh addons:create postgres -a shop",
		"HEROKU_POSTGRESQL_AMBER_URL=postgres://h/d":      "ssh mesh addons:create postgres -a shop --as HEROKU_POSTGRESQL_AMBER",
		"DATABASE_CONNECTION_POOL_URL=postgres://h/d":     "mesh has no pooler: use DATABASE_URL",
		"REDIS_URL=rediss://h":                            "ssh mesh addons:create redis -a shop",
		"REDIS_TLS_URL=rediss://h":                        "ssh mesh addons:create redis -a shop --as REDIS_TLS",
		"REDISTOGO_URL=redis://h":                         "ssh mesh addons:create redis -a shop --as REDISTOGO",
		"MONGODB_URI=mongodb+srv://cluster.example.com/d": "set",
		"MONGO_URL=mongodb+srv://cluster.example.com/d":   "set",
		"PORT=1":                         "mesh sets it",
		"MESH_STACK=x":                   "mesh sets names that begin with MESH_",
		"SOURCE_VERSION=x":               "mesh sets it",
		"HEROKU_SLUG_SIZE=x":             "set by Heroku",
		"DOKKU_PROXY_PORT=80":            "a setting of Dokku",
		"DOKKU_REDIS_TEAL_URL=redis://h": "ssh mesh addons:create redis -a shop --as DOKKU_REDIS_TEAL",
		"DOKKU_DOCS_URL=https://h":       "a setting of Dokku",
		"BUILDPACK_URL=x":                "mesh has no buildpacks",
		"LD_LIBRARY_PATH=x":              "the image has its own",
		"SENDGRID_API_KEY=x":             "set",
		"PAPERTRAIL_API_TOKEN=x":         "set",
	} {
		name, value, _ := strings.Cut(line, "=")
		data, err := json.Marshal(map[string]string{name: value})
		if err != nil {
			t.Fatal(err)
		}
		f := &fake{stacks: []mesh.Stack{{Name: "shop"}}}
		out := importJSON(t, f, "import:heroku -a shop", string(data))
		got := ""
		if slices.Equal(out.Set, []string{name}) {
			got = "set"
		}
		for _, l := range out.LeftOut {
			got += l.Command + l.Why
		}
		if got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

// An app.json adds what nobody has set, and the config vars of the app win.
func TestImport_AppFile(t *testing.T) {
	t.Parallel()
	f := &fake{
		stacks: []mesh.Stack{{Name: "shop", Config: mesh.Config{"OWN": mesh.NewSecret("1")}, Addons: []mesh.Attachment{{Addon: "db", As: "DATABASE"}}}},
		global: mesh.Config{"ALL": mesh.NewSecret("1")},
		appFile: command.AppFile{
			Values:    mesh.Config{"OWN": mesh.NewSecret("2"), "ALL": mesh.NewSecret("2"), "NEW": mesh.NewSecret("2"), "BOTH": mesh.NewSecret("default")},
			Required:  []string{"DATABASE_URL", "OWN", "KEY", "REDIS_URL"},
			Generated: []string{"SECRET", "OWN"},
			Formation: mesh.Formation{"web": 2, "worker": 1},
			Addons:    []command.WantedAddon{{Plan: "heroku-postgresql:mini"}, {Plan: "rediscloud", As: "cache"}, {Plan: "sendgrid"}},
		},
	}
	f.addons.list = []mesh.Addon{{Name: "db", Kind: "postgres"}}
	var both string
	f.setConfig = func(set mesh.Config, _ []string, _ bool) ([]string, error) {
		both = set["BOTH"].Reveal()
		return set.Names(), nil
	}
	out := importJSON(t, f, "import:heroku -a shop", `{"BOTH": "mine", "DATABASE_URL": "postgres://h/d"} {"env": {}, "name": "shop"}`)
	if got := strings.Join(out.Set, " "); got != "BOTH NEW" || both != "mine" {
		t.Errorf("set %s, BOTH=%s", got, both)
	}
	if len(out.LeftOut) != 1 || out.LeftOut[0].Why != "the add-on db sets it" {
		t.Errorf("left out %v", out.LeftOut)
	}
	if len(out.Required) != 2 || out.Required[0].Command != "ssh mesh config:set -a shop KEY=- < FILE" || out.Required[1].Command != "ssh mesh addons:create redis -a shop" {
		t.Errorf("required %v", out.Required)
	}
	if !slices.Equal(out.Generated, []string{"SECRET"}) || out.Scale != "ssh mesh ps:scale -a shop web=2 worker=1" {
		t.Errorf("generated %v, scale %q", out.Generated, out.Scale)
	}
	if len(out.Addons) != 3 || out.Addons[0].Why != "attached: db" || out.Addons[1].Command != "ssh mesh addons:create redis -a shop --as CACHE" || out.Addons[2].Why == "" {
		t.Errorf("add-ons %v", out.Addons)
	}
}

// Bad input is refused before the stack is created, and no error has a value.
func TestImport_Refusals(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                "no config vars on standard input",
		"{}":                              "",
		"A='hidden'":                      "line 1: it is not a JSON object",
		"[\"hidden\"]":                    "it is not a JSON object",
		"\"hidden\"":                      "it is not a JSON object",
		"{\"A\": \"hidden\"":              "the JSON is faulty or cut off",
		"{\n\"A\": \"hidden\",\n\"B\" 1}": "line 3: the JSON is faulty or cut off",
		`{"A": ["hidden"]}`:               "the value of A is a list",
		`{"A": {"hidden": 1}}`:            "the value of A is an object",
		`{"A": 15}`:                       "the value of A is a number",
		`{"A": null}`:                     "the value of A is null",
		`{"A": true}`:                     "the value of A is true",
		`{"A": "hidden", "A": "x"}`:       "A is in it twice",
		`{"A": "hidden"} {"A": "x"}`:      "A is on standard input twice",
		`{"1A": "hidden"}`:                `"1A" is not a config var name`,
		`{"A": "hidden\u0000"}`:           "contains a NUL byte",
		`{"env": {}} {"env": {}}`:         "more than one app.json",
		"\xff\xfe{":                       "UTF-16",
		`{"A": "` + strings.Repeat("x", 1<<20) + `"}`:   "longer than 1024 KB",
		`{"A": "` + strings.Repeat("x", 200_000) + `"}`: "the kernel's limit for one config var",
	} {
		f := &fake{}
		r := do(t, f, "import:heroku -a fresh", stdin(in))
		if want == "" {
			if r.status != 0 || r.out != "fresh: nothing to set\n" {
				t.Errorf("%.40q: %s%s", in, r.out, r.err)
			}
			continue
		}
		if r.status == 0 || !strings.Contains(r.err, want) || strings.Contains(r.err, "hidden") {
			t.Errorf("%.40q: %s, want %q", in, r.err, want)
		}
		if len(f.did) > 0 || strings.Contains(strings.Join(f.audited, " "), "hidden") {
			t.Errorf("%.40q: did %q, audited %q", in, f.did, f.audited)
		}
	}
	f := &fake{stacks: []mesh.Stack{{Name: "shop"}}, appFault: mesh.Errorf(mesh.Failed, "app.json: env.A must be a string")}
	if r := do(t, f, "import:heroku -a shop", stdin(`{"env": {"A": 3}}`)); r.status != 2 || !strings.Contains(r.err, "env.A") {
		t.Errorf("%d %s", r.status, r.err)
	}
	if r := do(t, f, "import:heroku -a shop --keep B", stdin(`{"A": "x"}`)); r.status != 2 || !strings.Contains(r.err, "standard input has no such var") {
		t.Errorf("%d %s", r.status, r.err)
	}
	if r := do(t, f, "import:heroku -a shop --keep PORT", stdin(`{"PORT": "5000"}`)); r.status != 2 || !strings.Contains(r.err, "PORT cannot be set") {
		t.Errorf("%d %s", r.status, r.err)
	}
}
