package command

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"mesh"
)

// Each row leads to a command that exists, or says something; no row hides a command of
// ours, and no word that asks leads to a command that changes something.
func TestWords_AreSane(t *testing.T) {
	t.Parallel()
	for _, v := range vocabularies() {
		seen := map[string]bool{}
		for _, row := range v.words {
			if (row.same == "") == (row.say == "") {
				t.Errorf("%s: %s has %q and %q", v.tool, row.typed, row.same, row.say)
			}
			for way := range strings.SplitSeq(row.typed, ", ") {
				words := strings.Fields(strings.ReplaceAll(strings.TrimSuffix(way, "*"), ":", " "))
				if seen[normal(way)] {
					t.Errorf("%s has %s twice", v.tool, way)
				}
				seen[normal(way)] = true
				if d, _ := exact(words); d != nil && !strings.HasSuffix(way, "*") {
					t.Errorf("%s: %s is our own %s", v.tool, way, d.name())
				}
				if row.same == "" {
					continue
				}
				d, rest, err := find(strings.Fields(row.same))
				if err != nil {
					t.Errorf("%s: %s leads to %s: %v", v.tool, way, row.same, err)
					continue
				}
				if _, verb, _ := strings.Cut(strings.ReplaceAll(way, " ", ":"), ":"); slices.Contains(reports, verb) && !d.harmless() && !slices.Contains(rest, "--show") {
					t.Errorf("%s: %s asks, and leads to %s", v.tool, way, d.name())
				}
				fs := pflag.NewFlagSet("", pflag.ContinueOnError)
				if d.flags != nil {
					d.flags(fs)
				}
				for _, o := range rest {
					if strings.HasPrefix(o, "-") && o != "--json" && o != "-t" && ownOption(fs, o) == nil {
						t.Errorf("%s: %s leads to %s, which has no option %s", v.tool, way, d.name(), o)
					}
				}
			}
		}
	}
	for name, options := range theirOptions {
		d := lookup(strings.Split(name+":", ":")[0], strings.Split(name+":", ":")[1])
		if d == nil {
			t.Errorf("options of %s, which is no command", name)
			continue
		}
		c := &call{Commands: &Commands{}, def: d}
		if err := c.parse(nil); err != nil {
			t.Fatal(err)
		}
		for _, o := range options {
			if ours := strings.Fields(o.ours); len(ours) > 0 && o.ours != argument && ownOption(c.flags, ours[0]) == nil {
				t.Errorf("%s: %s leads to %s, which it does not have", name, o.typed, o.ours)
			}
		}
	}
}

// What people of other tools type, and what they get: a command line of ours, or what the
// hint contains.
func TestWords_Typed(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"create shop": "stacks:create shop", "apps:clone a b": "stacks:clone a b", "fork -a a b": "stacks:clone -a a b", "apps:delete shop": "stacks:destroy shop", "stack delete shop": "stacks:destroy shop",
		"config:show shop": "config --show shop", "config show shop": "config --show shop", "config:add A=1": "config:set A=1", "config:keys": "config",
		"apps:report shop": "stacks:info shop", "report shop": "stacks:info shop", "ps:report shop": "ps shop", "domains:report shop": "domains shop",
		"domains report shop": "domains shop", "certs:show": "certs", "git:report shop": "build shop", "ssh-keys:info": "ssh-keys", "registry:report": "registry",
		"restart web.1": "ps:restart web.1", "scale web=2": "ps:scale web=2", "ps:exec -a shop": "enter -a shop", "run:inside web.1 bash": "enter web.1 bash",
		"run:detached -a shop rake x": "run --detach -a shop rake x", "releases:output v2": "deployments:show v2", "releases:rollback v2": "rollback v2",
		"pipelines:promote -a stage -t live": "promote -a stage -t live", "lock status": "lock --show", "lock status -a shop": "lock --show -a shop",
		"lock release": "unlock", "lock the door": "lock the door", "lock release of v2 is broken": "lock release of v2 is broken",
		"lock acquire -a shop -m moving": "lock -a shop moving", "apps:locked shop": "lock --show shop", "apps:exists shop": "stacks:exists shop",
		"git:set shop deploy-branch main": "build:set -a shop branch=main", "git:set -a shop deploy-branch main": "build:set -a shop branch=main",
		"git:set shop deploy-branch": "build:unset -a shop branch", "builder:set shop build-dir web": "build:set -a shop root=web", "builder:set shop selected dockerfile": "build -a shop",
		"builder-dockerfile:set shop dockerfile-path D": "build:set -a shop dockerfile=D", "ps:set shop stop-timeout-seconds 45": "build:set -a shop stop-timeout=45s",
		"git:from-image shop nginx:1": "deploy -a shop --image nginx:1", "git:load-image -a shop app:1": "deploy -a shop --load app:1", "git:public-key": "git:deploy-key",
		"resource:limit --memory 512 --process-type worker shop": "svc:update -a shop --memory 512m worker",
		"resource:limit -a shop --cpu 2 --process-type=web":      "svc:update -a shop --cpus 2 web",
		"resource:limit-clear --process-type web shop":           "svc:update -a shop --memory  --cpus  web",
		"redirect:set shop a.example b.example 301":              "domains:add -a shop --redirect-to b.example a.example",
		"endpoint create h.example":                              "domains:add h.example", "maintenance:enable shop": "maintenance:on shop", "app maintenance": "maintenance:on", "app live": "maintenance:off",
		"app logs -a shop": "logs -a shop", "app details": "ps", "app exec -a shop --reuse -i ls -l": "enter -a shop web.1 ls -l", "app exec ls": "run ls", "redeploy": "ps:rebuild",
		"details": "stacks:info", "prune all": "gc", "prune": "gc", "repo:purge-cache shop": "build:cache --clear", "events": "audit", "status": "stacks", "url shop": "urls shop",
		"access": "access", "access list": "access", "access:list": "access", "access shop": "access shop", "members": "ssh-keys", "http-auth:report shop": "access shop", "auth:whoami": "whoami", "stack config set A=1": "config:set A=1", "deployments show v2": "deployments:show v2",
		"pg": "addons --kind postgres", "pg:psql -a shop": "addons:shell --kind postgres -a shop", "psql": "addons:shell --kind postgres", "redis cli": "addons:shell --kind redis",
		"addons:create heroku-postgresql": "addons:create heroku-postgresql", "postgres:create db": "addons:create postgres db", "addons:add redis": "addons:create redis",
		"postgres:link db shop": "addons:attach db -a shop", "mongo:destroy db": "addons:destroy db", "pg backups download": "addons:export --kind postgres",
		"svc create -n x --schedule @hourly -- y $Z": "cron:add x @hourly -- y $Z", "svc create -a shop --schedule 0 3 * * * -n x --timeout 5m -- y": "cron:add -a shop --timeout 5m x 0 3 * * * -- y",
		"svc create -n mail -- ./mail all": "svc:update --command ./mail all mail", "exec web.1 ls": "enter web.1 ls", "images": "releases", "secrets print": "config --show",
	} {
		d, rest, err := find(strings.Fields(line))
		if err != nil {
			t.Errorf("%s: %v", line, err)
		} else if got := strings.TrimSpace(d.name() + " " + strings.Join(rest, " ")); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
	for line, hint := range map[string]string{
		"elasticsearch:create x": "docs/addons.md", "accessory boot db": "addons:create", "postgres:expose db": "addons:proxy", "pg:promote x": "--as DATABASE",
		"storage:mount shop /x:/y": "volumes:attach", "scheduler:add": "cron:add", "svc create --schedule @hourly -- y": "-n cleanup", "letsencrypt:enable shop": "by itself", "certs:auto:enable": "by itself",
		"proxy:ports-set shop http:80:5000": "$PORT", "ports:add": "$PORT", "nginx:show-config shop": "$PORT", "nginx:access-logs shop": "--source router", "network:create x": "private network", "checks:disable shop": "always checks",
		"docker-options:add shop deploy --privileged": "--memory", "buildpacks:set x": "Dockerfile", "builder-pack:set shop x y": "Dockerfile", "logs:vector-start": "drains:add -a STACK URL", "reviewapps:enable": "previews=true",
		"features": "no optional", "labs:enable x": "no optional", "ci": "release command", "git:remote -a shop": "git remote add mesh", "env push": "config:import",
		"setup": "push", "server exec ls": "one server", "container:push web": "docker save", "local": "docker", "compose up": "Procfile", "git:set shop keep-git-dir true": "build -a STACK",
		"git:set --global deploy-branch main": "stacks --json", "pipelines:create": "promote TO", "create stack --dockerfile": "stacks:create NAME", "login": "no accounts", "access:add ann@example.com": "ssh-keys:add NAME", "access remove ann@example.com": "ssh-keys:add NAME", "http-auth:enable shop ann pw": "access:set", "ps:autoscale:enable": "ps:scale",
	} {
		_, _, err := find(strings.Fields(line))
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != mesh.Invalid || !strings.Contains(e.Hint, hint) {
			t.Errorf("%s: %v (%+v), want %q", line, err, e, hint)
		}
	}
}

// A word that asks is not answered with a command that changes something, with a colon
// or without.
func TestUnknown_SuggestsNoChangeToWhoAsks(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"config:shwo", "confi:get", "ps:statsu", "stacks:lst", "domain:ls-all", "cert:shw", "builds:lits", "svc:shows", "stacks reports", "ssh-keys listt", "deploy:show", "lock:shows"} {
		for _, words := range [][]string{strings.Fields(line), strings.Fields(strings.ReplaceAll(line, ":", " "))} {
			_, _, err := find(words)
			var e *mesh.Error
			if !errors.As(err, &e) {
				continue // a command that takes arguments
			}
			if _, did, ok := strings.Cut(e.Hint, "did you mean "); ok {
				name, _, _ := strings.Cut(did, "?")
				if d, _ := exact([]string{name}); d == nil || !d.harmless() {
					t.Errorf("%q: %s", words, e.Hint)
				}
			}
		}
	}
}

// Options of other tools are taken where they have a meaning here or make no difference.
func TestTheirs(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"logs --num 3": "-n 3", "logs --num=3": "-n=3", "logs -d web.1": "-p web.1", "logs --dyno-name web.1 -t": "-p web.1 -t", "logs --process-type web --no-color": "-p web",
		"logs -f": "-t", "logs -s app": "--source app", "logs -s heroku -t": "--source mesh -t", "logs -s shop": "-s shop", "logs -q --force-colors -n 2": "-q -n 2", "config -j": "--show --json", "config -s": "--show", "config -s -a shop": "--show -a shop", "config -s shop": "-s shop",
		"config -a shop -s": "-a shop --show", "ps:restart -d web.1": "web.1", "ps:restart -p web -a shop": "-a shop web", "stacks:destroy -c shop": "--confirm shop", "stacks:destroy shop --force": "shop --confirmed",
		"stacks:create -a shop": "shop", "stacks:create shop --region eu --no-remote": "shop", "run -x -- ls -x": "-- ls -x", "run --no-tty -e A=1 ls --no-tty": "-e A=1 ls --no-tty",
		"run -it bash": "bash", "promote -a stage -t live": "-a stage live", "svc:update --command -q web": "--command -q web", "config:set A=1 -- --force": "A=1 -- --force",
		"releases --num 3": "-n 3", "lock --force": "", "enter -it web.1 -- ls -t": "web.1 -- ls -t", "logs -n -1": "-n -1", "registry:login ghcr.io -u me": "ghcr.io me",
	} {
		words := strings.Fields(line)
		d, rest := exact(words)
		if d == nil {
			d, rest, _ = find(words)
		}
		c := &call{Commands: &Commands{}, def: d}
		if err := c.parse(nil); err != nil {
			t.Fatal(err)
		}
		if got := c.theirs(rest); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}
