package command_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"mesh"
)

func (f *fake) GlobalConfig(context.Context) (mesh.Config, error) { return f.global, nil }

func (f *fake) SetGlobalConfig(_ context.Context, _ mesh.KeyName, c mesh.ConfigChange, clear bool, _ io.Writer, each func(mesh.Outcome)) ([]string, error) {
	f.do("global %v %v %v %v", c.Set.Names(), c.Unset, clear, c.RecordOnly)
	for _, o := range f.outcomes {
		each(o)
	}
	return append(c.Set.Names(), c.Unset...), nil
}

func TestGlobalConfig(t *testing.T) {
	t.Parallel()
	root := mesh.Key{Name: "root", Role: mesh.RoleAdmin}
	live, ill := mesh.Outcome{Stack: "blog", Release: 5}, mesh.Outcome{Stack: "shop", Err: mesh.Errorf(mesh.Failed, "check failed: web.1 exited 3")}
	for _, tc := range []struct {
		line     string
		outcomes []mesh.Outcome
		status   int
		did      string
		says     []string
	}{
		{"config:set --global A=hush B=-", []mesh.Outcome{live}, 0, "global [A B] [] false false", []string{"blog v5: released\n", "set A, B for all stacks\n"}},
		{"config set --global A=hush", nil, 0, "global [A] [] false false", []string{"no deployed stack needs a release"}},
		{"config:set --no-restart --global A=hush", nil, 0, "global [A] [] false true", []string{"takes effect with the next release of each"}},
		{"config:set --global A=hush", []mesh.Outcome{ill, live}, 1, "global [A] [] false false", []string{
			"shop: not changed: check failed: web.1 exited 3\n", "1 of 2 stacks do not run with the config vars of all stacks: shop", "ssh mesh config:set --global",
		}},
		{"config:set --global", nil, 0, "global [] [] false false", []string{"nothing to change"}},
		{"config:set --global", []mesh.Outcome{live}, 0, "global [] [] false false", []string{"blog v5: released"}},
		{"config:unset --global A", []mesh.Outcome{live}, 0, "global [] [A] false false", []string{"unset A for all stacks"}},
		{"config:unset --global --all", nil, 0, "global [] [] true false", nil},
		{"-a blog config:unset --global A", nil, 0, "global [] [A] false false", nil}, // by the client in a checkout
		{"config:unset --global --all A", nil, 2, "", []string{"--all takes no names"}},
		{"config:unset --global", nil, 2, "", []string{"config:unset needs NAME…"}},
		{"config:set --global -a blog A=hush", nil, 2, "", []string{"leave out the stack"}},
		{"config:set --global hush", nil, 2, "", []string{"argument 1 is not NAME=VALUE", "config:set --global NAME=- < file"}},
		{"config:set", nil, 2, "", []string{"config:set needs NAME=VALUE…"}},
	} {
		f := stacks("blog")
		f.outcomes = tc.outcomes
		r := do(t, f, tc.line, as(root), stdin("two\n"))
		if did := strings.Join(f.did, "; "); r.status != tc.status || did != tc.did || strings.Contains(r.out+r.err, "hush") {
			t.Errorf("%s: %d, did %q, %s%s", tc.line, r.status, did, r.out, r.err)
		}
		for _, text := range tc.says {
			if !strings.Contains(r.out+r.err, text) {
				t.Errorf("%s: %q is not in %s%s", tc.line, text, r.out, r.err)
			}
		}
		if strings.Contains(strings.Join(f.audited, ""), "hush") {
			t.Errorf("%s: %q", tc.line, f.audited)
		}
	}
}

// Only admins of the whole server see and change the config vars of all stacks; those of a
// stack see which ones it gets.
func TestGlobalConfig_Rights(t *testing.T) {
	t.Parallel()
	for _, k := range []mesh.Key{
		{Name: "reader", Role: mesh.RoleRead},
		{Name: "deployer", Role: mesh.RoleDeploy},
		{Name: "limited", Role: mesh.RoleAdmin, Stacks: []mesh.StackName{"blog"}},
	} {
		for _, line := range []string{
			"config --global", "config --global --show", "config --global --json", "config:set --global A=1", "config:unset --global A", "config:set --global",
			"-a blog config:set --global A=1", "config:unset --global --all", "config --global -p web",
		} {
			f := stacks("blog")
			f.global = mesh.Config{"A": mesh.NewSecret("hush")}
			r := do(t, f, line, as(k))
			if r.status != 1 || !strings.Contains(r.err, "--global\n") || len(f.did) > 0 || strings.Contains(r.out, "A") || strings.Contains(r.out+r.err, "hush") {
				t.Errorf("%s, %s: %d, %v, %s%s", k.Name, line, r.status, f.did, r.out, r.err)
			}
			if len(f.audited) != 1 || !strings.Contains(f.audited[0], "--global") {
				t.Errorf("%s, %s: %q", k.Name, line, f.audited)
			}
		}
	}
	f := stacks("blog")
	f.global = mesh.Config{"A": mesh.NewSecret("all"), "B": mesh.NewSecret("all")}
	f.stacks[0].Config = mesh.Config{"B": mesh.NewSecret("own"), "C": mesh.NewSecret("own")}
	f.stacks[0].Services = map[mesh.ServiceName]mesh.ServiceSettings{"web": {Config: mesh.Config{"B": mesh.NewSecret("web")}}}
	for line, want := range map[string]string{
		"config":               "A  # set for all stacks\nB  # set for blog, over that of all stacks\nC\n",
		"config -p web --show": "A=all  # set for all stacks\nB=web  # set for web, over that of blog and all stacks\nC=own  # set for blog\n",
		"config --global":      "A\nB\n",
		"config --global -s":   "A=all\nB=all\n",
		"config:get A":         "all\n",
		"config:get B":         "own\n",
		"config:export":        "export B='own'\nexport C='own'\n",
	} {
		if r := do(t, f, line, as(mesh.Key{Name: "root", Role: mesh.RoleAdmin})); r.status != 0 || r.out != want {
			t.Errorf("%s: %d, %q, %s", line, r.status, r.out, r.err)
		}
	}
	if r := do(t, f, "config --json"); !strings.Contains(r.out, `"A": "server"`) || !strings.Contains(r.out, `"C": "stack"`) || strings.Contains(r.out, "own") {
		t.Errorf("%s", r.out)
	}
	if r := do(t, f, "config:unset A"); r.status != 1 || !strings.Contains(r.err, "blog has no config var A of its own: it is set for all stacks") {
		t.Errorf("%d, %s", r.status, r.err)
	}
	if r := do(t, f, "config:unset --all"); r.status != 0 || !strings.Contains(r.out, "unset B, C") {
		t.Errorf("%d, %s%s", r.status, r.out, r.err)
	}
	// What releases show.
	with := func(n mesh.ReleaseNumber, global string) mesh.Release {
		return mesh.Release{Stack: "blog", Number: n, Global: mesh.Config{"A": mesh.NewSecret(global), "B": mesh.NewSecret(global)}, Config: mesh.Config{"B": mesh.NewSecret("own")}}
	}
	f.releases = []mesh.Release{with(2, "two"), with(1, "one")}
	f.stacks[0].Current = 2
	for line, want := range map[string]string{
		"config:history":           "for all stacks changes A ",
		"config:diff v1 v2":        "~A  # for all stacks\n",
		"config:diff v1 v2 --show": "-A=one  # for all stacks\n+A=two  # for all stacks\n",
		"config:diff v1 v2 --json": `"server": {`,
		"releases:info v2":         "A (for all stacks)\n",
		"rollback v1 --dry-run":    "config   of all stacks: changes A",
		"releases:info v2 --json":  `"server_config": [`,
		"config:diff v2":           "~A  # for all stacks\n",
		"config:history --json":    `"changed": [`,
	} {
		if r := do(t, f, line); r.status != 0 || !strings.Contains(r.out+r.err, want) || strings.Contains(r.out, "B (for all") {
			t.Errorf("%s: %d, %s%s", line, r.status, r.out, r.err)
		}
	}
}
