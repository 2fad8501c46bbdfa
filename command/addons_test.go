package command_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"mesh"
	"mesh/command"
)

// fakeAddons has add-ons, and remembers what was done to them.
type fakeAddons struct {
	list []mesh.Addon
	did  []string
}

func (f *fakeAddons) note(format string, args ...any) {
	f.did = append(f.did, fmt.Sprintf(format, args...))
}

func (f *fakeAddons) Addons(context.Context) ([]mesh.Addon, error) { return f.list, nil }

func (f *fakeAddons) Addon(_ context.Context, name mesh.AddonName) (mesh.Addon, error) {
	for _, a := range f.list {
		if a.Name == name {
			return a, nil
		}
	}
	return mesh.Addon{}, mesh.Errorf(mesh.NotFound, "there is no add-on %q", name)
}

func (f *fakeAddons) All() ([]mesh.AddonKindInfo, []error) {
	return []mesh.AddonKindInfo{{Name: "postgres", Also: []string{"pg"}, Image: "postgres", Version: "17", Port: 5432, As: "DATABASE", Dumps: true, Shell: true}, {Name: "redis", Image: "redis", Version: "7", Port: 6379, As: "REDIS"}}, nil
}

func (f *fakeAddons) Kind(name string) (mesh.AddonKindInfo, error) {
	all, _ := f.All()
	for _, k := range all {
		if string(k.Name) == name || len(k.Also) > 0 && k.Also[0] == name {
			return k, nil
		}
	}
	return mesh.AddonKindInfo{}, mesh.Errorf(mesh.NotFound, "there is no kind of add-on %q", name)
}

func (f *fakeAddons) Vars(a mesh.Addon, at mesh.Attachment) (mesh.Config, error) {
	return mesh.Config{at.As + "_URL": mesh.NewSecret("postgres://u:secret@" + a.Name.Host() + ":5432/db")}, nil
}

func (f *fakeAddons) Slow(context.Context, mesh.Addon) ([]string, bool, error) {
	return nil, false, nil
}

func (f *fakeAddons) AddonUsers(context.Context, mesh.AddonName) ([]mesh.StackName, error) {
	return nil, nil
}

func (f *fakeAddons) AddonState(context.Context, mesh.Addon, bool) (mesh.AddonStatus, error) {
	return mesh.AddonStatus{State: "up", Size: -1, Connections: -1}, nil
}

func (f *fakeAddons) AddonShell(_ context.Context, name mesh.AddonName, run mesh.Run) (int, error) {
	f.note("shell %s %q", name, run.Words)
	return 0, nil
}

func (f *fakeAddons) AddonLogs(_ context.Context, name mesh.AddonName, lines int, follow bool, _ io.Writer) error {
	f.note("logs %s %d %v", name, lines, follow)
	return nil
}

func (f *fakeAddons) CreateAddon(_ context.Context, n mesh.NewAddon, _ mesh.KeyName, _ io.Writer) (mesh.Addon, error) {
	f.note("create %s:%s %s memory=%d %v", n.Kind, n.Version, n.Name, n.Memory, n.Params)
	return mesh.Addon{Name: n.Name, Kind: mesh.AddonKind(n.Kind), Version: n.Version}, nil
}

func (f *fakeAddons) DestroyAddon(_ context.Context, name mesh.AddonName, _ mesh.KeyName, backup bool) (string, error) {
	f.note("destroy %s %v", name, backup)
	return "", nil
}

func (f *fakeAddons) AttachAddon(_ context.Context, stack mesh.StackName, _ mesh.KeyName, at mesh.Attachment, _ io.Writer) (mesh.Attachment, error) {
	if at.As == "" {
		at.As = "DATABASE"
	}
	f.note("attach %s to %s as %s", at.Addon, stack, at.As)
	return at, nil
}

func (f *fakeAddons) DetachAddon(_ context.Context, stack mesh.StackName, _ mesh.KeyName, name mesh.AddonName, as string, _ io.Writer) ([]mesh.Attachment, error) {
	f.note("detach %s from %s as %q", name, stack, as)
	return []mesh.Attachment{{Addon: name, As: "DATABASE"}}, nil
}

func (f *fakeAddons) SetAddon(_ context.Context, name mesh.AddonName, c mesh.AddonChange, _ io.Writer) (mesh.Addon, error) {
	f.note("set %s %v", name, c.Params)
	return mesh.Addon{Name: name}, nil
}

func (f *fakeAddons) StopAddon(_ context.Context, name mesh.AddonName) error {
	f.note("stop %s", name)
	return nil
}

func (f *fakeAddons) StartAddon(_ context.Context, name mesh.AddonName) error {
	f.note("start %s", name)
	return nil
}

func (f *fakeAddons) RestartAddon(_ context.Context, name mesh.AddonName) error {
	f.note("restart %s", name)
	return nil
}

func (f *fakeAddons) DumpAddon(_ context.Context, name mesh.AddonName, _ mesh.KeyName, _ io.Writer) error {
	f.note("dump %s", name)
	return nil
}

func (f *fakeAddons) RestoreAddon(_ context.Context, name mesh.AddonName, _ string, _ io.Reader, _ io.Writer) error {
	f.note("restore %s", name)
	return nil
}

func (f *fakeAddons) CloneAddon(_ context.Context, from, to mesh.AddonName, _ mesh.KeyName, _ io.Writer) (mesh.Addon, error) {
	f.note("clone %s %s", from, to)
	return mesh.Addon{Name: to}, nil
}

func (f *fakeAddons) UpgradeAddon(_ context.Context, name mesh.AddonName, version string, _ mesh.KeyName, _ io.Writer) (mesh.Addon, error) {
	f.note("upgrade %s %s", name, version)
	return mesh.Addon{Name: name, ImageID: "new"}, nil
}

func (f *fakeAddons) RevertAddon(_ context.Context, name mesh.AddonName, _ io.Writer) error {
	f.note("revert %s", name)
	return nil
}

func (f *fakeAddons) RotateAddon(_ context.Context, name mesh.AddonName, _ mesh.KeyName, _ io.Writer) error {
	f.note("rotate %s", name)
	return nil
}

func (f *fakeAddons) RestoreBackup(_ context.Context, name mesh.AddonName, at mesh.BackupPlace, id string, _ mesh.Secret, _ io.Writer) error {
	f.note("restore %s from %s in %s", name, id, at.URL)
	return nil
}

func (f *fakeAddons) CreateFromBackup(_ context.Context, n mesh.NewAddon, at mesh.BackupPlace, id string, _ mesh.KeyName, _ io.Writer) (mesh.Addon, error) {
	f.note("create %s %s from %s in %s", n.Kind, n.Name, id, at.URL)
	return mesh.Addon{Name: n.Name, Kind: mesh.AddonKind(n.Kind)}, nil
}
func (f *fakeAddons) Form(mesh.Addon) (form, note string, err error) { return "form", "", nil }

func (f *fakeAddons) wire(set *command.Commands) {
	set.Addons, set.AddonUse, set.AddonList, set.AddonKinds, set.AddonData, set.AddonBackups = f, f, f, f, f, f
}

// What people type who know Heroku or Dokku does what they mean.
func TestAddons_Words(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"addons:create postgres:16 -a shop":                              "create postgres:16 shop-postgres memory=0 map[]; attach shop-postgres to shop as DATABASE",
		"addons:create heroku-postgresql:essential-0 -a shop":            "create postgres: shop-postgres memory=0 map[]; attach shop-postgres to shop as DATABASE",
		"addons:add redis --as CACHE -a shop":                            "create redis: shop-redis memory=0 map[]; attach shop-redis to shop as CACHE",
		"pg:create lollipop":                                             "create postgres: lollipop memory=0 map[]",
		"postgres:create lollipop --image-version 15.3":                  "create postgres:15.3 lollipop memory=0 map[]",
		"postgres create lollipop --memory 512m --set max_connections=9": "create postgres: lollipop memory=536870912 map[max_connections:9]",
		"postgres:link db shop":                                          "attach db to shop as DATABASE",
		"postgres:link db shop --alias BLUE":                             "attach db to shop as BLUE",
		"postgres:unlink db shop":                                        `detach db from shop as ""`,
		"addons:detach DATABASE_URL -a shop":                             `detach db from shop as "DATABASE"`,
		"pg:psql -a shop":                                                `shell db []`,
		"psql -a shop":                                                   `shell db []`,
		"pg:psql DATABASE_URL -a shop":                                   `shell db []`,
		`pg:psql -a shop -- -c "SELECT 1"`:                               `shell db ["-c" "SELECT 1"]`,
		"postgres:connect db":                                            `shell db []`,
		"pg:info -a shop":                                                "",
		"postgres:logs db -f --num 5":                                    "logs db 5 true",
		"postgres:export db":                                             "dump db",
		"pg:backups:download -a shop":                                    "dump db",
		"postgres:import db":                                             "restore db",
		"postgres:clone db staging":                                      "clone db staging",
		"addons:upgrade db:17":                                           "upgrade db 17",
		"pg:credentials:rotate -a shop":                                  "rotate db",
		"postgres:destroy db --force":                                    "destroy db true",
		"addons:destroy db --confirm db":                                 "destroy db true",
		"addons:set db memory=1g work_mem=8MB":                           "set db map[work_mem:8MB]",
	} {
		f := &fake{stacks: []mesh.Stack{{Name: "shop", Addons: []mesh.Attachment{{Addon: "db", As: "DATABASE"}}}, {Name: "other"}}}
		if strings.Contains(line, "create") || strings.Contains(line, "addons:add") {
			f.stacks[0].Addons = nil
		}
		f.addons.list = []mesh.Addon{{Name: "db", Kind: "postgres", Version: "16"}, {Name: "cache", Kind: "redis"}}
		r := do(t, f, line)
		if r.status != 0 {
			t.Errorf("%s: %s", line, r.err)
			continue
		}
		if got := strings.Join(f.addons.did, "; "); got != want {
			t.Errorf("%s\ndid  %s\nwant %s", line, got, want)
		}
	}
}

// What cannot be done is refused before anything is done.
func TestAddons_Refusals(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"addons:create nosuch":                   `there is no kind of add-on "nosuch"`,
		"addons:create postgres:16 --version 17": "name different versions",
		"addons:create postgres db2 --memory 1k": "is not a size",
		"addons:create postgres db2 --cpus many": "is not a number of cores",
		"addons:create postgres db2 --set x":     "--set takes PARAMETER=VALUE",
		"addons:create postgres Bad_Name":        "is not a name for an add-on",
		"addons:create postgres -a shop":         "already has an add-on attached as DATABASE: db",
		"addons:create redis -a other":           "already has a config var REDIS_URL",
		"addons:destroy db":                      "confirm with its name",
		"addons:destroy db --confirm dc":         "confirm with its name",
		"addons:info nosuch":                     `there is no add-on "nosuch"`,
		"addons:info":                            "name the add-on",
		"redis:cli -a shop":                      "no redis is attached to shop",
		"addons:set db memory":                   "is not NAME=VALUE",
		"addons:attach db -a shop --as 1X":       "is not a name for an attachment",
		"addons:proxy db":                        "run it there",
		"postgres:expose db":                     "there is no command",
		"pg:nonsense":                            "there is no command",
		"addons:clone db Bad_Name":               "is not a name for an add-on",
	} {
		f := &fake{stacks: []mesh.Stack{
			{Name: "shop", Addons: []mesh.Attachment{{Addon: "db", As: "DATABASE"}}},
			{Name: "other", Config: mesh.Config{"REDIS_URL": mesh.NewSecret("mine")}},
		}}
		f.addons.list = []mesh.Addon{{Name: "db", Kind: "postgres", Version: "16"}}
		r := do(t, f, line)
		if r.status == 0 || !strings.Contains(r.err, want) {
			t.Errorf("%s: %s, want %q", line, r.err, want)
		}
		if len(f.addons.did) > 0 {
			t.Errorf("%s did %q", line, f.addons.did)
		}
	}
}
