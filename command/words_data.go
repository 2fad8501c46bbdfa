package command

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

// dataTopics are the topics of other tools for one kind of data, with the kind: Heroku's pg
// and redis, the plugins of Dokku.
var dataTopics = map[string]string{
	"pg": "postgres", "postgres": "postgres", "postgresql": "postgres", "psql": "postgres", "redis": "redis", "valkey": "valkey", "mysql": "mysql",
	"mariadb": "mariadb", "mongo": "mongodb", "mongodb": "mongodb", "rabbitmq": "rabbitmq", "memcached": "memcached", "meilisearch": "meilisearch", "minio": "minio",
}

// dataVerb is what a verb of such a topic means here.
type dataVerb struct {
	same string // the command; the kind follows as an option
	say  string // or what there is instead
}

var dataVerbs = map[string]dataVerb{
	"": {same: "addons"}, "list": {same: "addons"}, "ls": {same: "addons"}, "links": {same: "addons"}, "app-links": {same: "addons"}, "linked": {same: "addons"},
	"info": {same: "addons:info"}, "report": {same: "addons:info"}, "ps": {same: "addons:info"}, "diagnose": {same: "addons:info"}, "exists": {same: "addons:info"},
	"locks": {same: "addons:info"}, "outliers": {same: "addons:info"}, "bloat": {same: "addons:info"}, "stats": {same: "addons:info"},
	"psql": {same: "addons:shell"}, "cli": {same: "addons:shell"}, "connect": {same: "addons:shell"}, "enter": {same: "addons:shell"}, "shell": {same: "addons:shell"}, "console": {same: "addons:shell"},
	"logs": {same: "addons:logs"}, "start": {same: "addons:start"}, "stop": {same: "addons:stop"}, "restart": {same: "addons:restart"}, "pause": {same: "addons:stop"},
	"export": {same: "addons:export"}, "import": {same: "addons:import"}, "clone": {same: "addons:clone"}, "upgrade": {same: "addons:upgrade"},
	"destroy": {same: "addons:destroy"}, "credentials": {same: "addons:url"}, "credentials:url": {same: "addons:url"}, "credentials:rotate": {same: "addons:rotate"},
	"backup": {same: "addons:backup"}, "backups": {same: "addons:backups"}, "backups:capture": {same: "addons:backup"}, "backups:info": {same: "addons:backups"},
	"backups:download": {same: "addons:export"}, "backups:restore": {same: "addons:restore"}, "backups:schedule": {same: "addons:schedule"}, "backups:schedules": {same: "addons:schedule"},
	"backups:unschedule": {same: "addons:unschedule"}, "backup-unschedule": {same: "addons:unschedule"}, "restore": {same: "addons:restore"},
	"backup-schedule": {say: sayBackups}, "backup-auth": {say: sayBackups}, "backup-deauth": {say: sayBackups}, "backup-set-encryption": {say: sayBackups},
	"backups:url":    {say: "fetch a dump: ssh mesh addons:export NAME > FILE"},
	"backups:delete": {say: "old backups are removed by themselves: ssh mesh addons:schedule NAME --keep 7"},
	"expose":         {say: sayTunnel}, "unexpose": {say: sayTunnel}, "tunnel": {say: sayTunnel},
	"promote":            {say: "attach it under the name that the app reads: ssh mesh addons:attach NAME -a STACK --as DATABASE"},
	"copy":               {say: "copy the data into a new add-on: ssh mesh addons:clone NAME NEW"},
	"push":               {say: "send a dump: pg_dump -Fc DATABASE | ssh mesh addons:import NAME"},
	"pull":               {say: "fetch a dump: ssh mesh addons:export NAME | pg_restore -d DATABASE"},
	"reset":              {say: "detach it, destroy it and create another: ssh mesh help addons"},
	"wait":               {say: "nothing to wait for: addons:create returns when the server answers"},
	"kill":               {say: "end a statement in its shell: ssh mesh addons:shell NAME"},
	"killall":            {say: "end statements in its shell, or restart it: ssh mesh addons:restart NAME"},
	"set":                {say: "change its parameters: ssh mesh addons:set NAME PARAMETER=VALUE"},
	"settings":           {say: "change its parameters: ssh mesh addons:set NAME PARAMETER=VALUE"},
	"maxmemory":          {say: "change its parameters: ssh mesh addons:set NAME maxmemory-policy=allkeys-lru"},
	"maintenance":        {say: "mesh changes no add-on by itself; upgrade it when you like: ssh mesh addons:upgrade NAME"},
	"follow":             {say: "mesh has no replicas"},
	"connection-pooling": {say: "mesh has no pooler of its own; run one as a service of a stack that the add-on is attached to"},
}

// sayBackups is what there is instead of separate commands for places and keys.
const sayBackups = "the place and the encryption are options of the schedule: ssh mesh addons:schedule NAME '0 3 * * *' --to s3://BUCKET/PREFIX --access-key ID --secret-key - --encrypt age1…"

// sayTunnel is what there is instead of a public port.
const sayTunnel = "add-ons have no public port; open one on your machine: mesh addons:proxy NAME, or: ssh -N -L 5432:NAME:5432 mesh"

// dataWords returns our words for those of a topic for one kind of data. The last kept of
// them stand at the end of words as well.
func dataWords(words []string) (ours []string, kept int, ok bool, err error) {
	first, verb, joined := strings.Cut(words[0], ":")
	kind, is := dataTopics[first]
	if !is {
		return nil, 0, false, nil
	}
	rest := words[1:]
	switch {
	case first == "psql":
		verb = "psql"
	case !joined && len(rest) > 0 && !strings.HasPrefix(rest[0], "-"):
		verb, rest = rest[0], rest[1:]
	}
	if verb == "credentials" || verb == "backups" { // "pg backups download"
		if len(rest) > 0 && dataVerbs[verb+":"+rest[0]] != (dataVerb{}) {
			verb, rest = verb+":"+rest[0], rest[1:]
		}
	}
	switch verb {
	case "create":
		return slices.Concat([]string{"addons:create", kind}, rest), len(rest), true, nil
	case "link", "unlink":
		return linkWords(verb, rest)
	}
	v, known := dataVerbs[verb]
	switch {
	case !known:
		return nil, 0, true, &mesh.Error{Kind: mesh.Invalid, Text: "there is no command \"" + mesh.Clip(typedWords(words, 2), 60) + "\"", Hint: "list those of add-ons with: ssh mesh help addons"}
	case v.say != "":
		return nil, 0, true, &mesh.Error{Kind: mesh.Invalid, Text: "there is no command \"" + mesh.Clip(typedWords(words, 2), 60) + "\"", Hint: v.say}
	}
	return slices.Concat([]string{v.same}, kindOption(v.same, kind), rest), len(rest), true, nil
}

// kindOption names the kind to commands that look for an add-on by it.
func kindOption(same, kind string) []string {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	if d, _ := exact([]string{same}); d != nil && d.flags != nil {
		d.flags(fs)
	}
	if fs.Lookup("kind") == nil {
		return nil
	}
	return []string{"--kind", kind}
}

// linkWords are for Dokku's link NAME STACK [--alias NAME].
func linkWords(verb string, rest []string) (ours []string, kept int, ok bool, err error) {
	to := "addons:attach"
	if verb == "unlink" {
		to = "addons:detach"
	}
	alias, rest, named := take(rest, "--alias", "-A")
	if named {
		rest = append(rest, "--as", alias)
	}
	if ops := operands(rest); len(ops) >= 2 && !strings.HasPrefix(rest[0], "-") && !strings.HasPrefix(rest[1], "-") {
		rest = slices.Concat(rest[:1], []string{"-a"}, rest[1:])
	}
	return append([]string{to}, rest...), 0, true, nil
}
