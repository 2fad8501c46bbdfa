package command

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"mesh"
)

// foreign says why config vars of another platform are not set here.
type foreign struct {
	names string // a name, or a pattern of path.Match
	kind  string // of the add-on that sets it; "?": by the scheme of the URL
	same  string // the var that has the same server, if both are there
	why   string
}

// foreigners are the vars of Heroku, of its add-ons for data, and of Dokku. The first row that
// matches counts. Of vars that other add-ons set, nothing here can take the place.
var foreigners = []foreign{
	{names: "PORT", why: "mesh sets it"},
	{names: "DYNO", why: "mesh sets it"},
	{names: "SOURCE_VERSION", why: "mesh sets it"},
	{names: "GIT_REV", why: "mesh sets it"},
	{names: "MESH_*", why: "mesh sets names that begin with MESH_"},

	{names: "DATABASE_URL", kind: "?"},
	{names: "*_CONNECTION_POOL_URL", why: "mesh has no pooler: use DATABASE_URL"},
	{names: "HEROKU_POSTGRESQL_*_URL", kind: "?"},
	{names: "REDIS_URL", kind: "?"},
	{names: "REDIS_TLS_URL", kind: "?", same: "REDIS_URL"},
	{names: "HEROKU_REDIS_*_URL", kind: "?"},
	{names: "REDISCLOUD_URL", kind: "?"},
	{names: "REDISTOGO_URL", kind: "?"},
	{names: "REDISGREEN_URL", kind: "?"},
	{names: "OPENREDIS_URL", kind: "?"},
	{names: "CLEARDB_*URL", kind: "?"},
	{names: "JAWSDB_MARIA*URL", kind: "mariadb"},
	{names: "JAWSDB_*URL", kind: "?"},
	{names: "CLOUDAMQP_URL", kind: "?"},
	{names: "CLOUDAMQP_*", why: "belongs to the add-on CloudAMQP"},
	{names: "RABBITMQ_URL", kind: "?"},
	{names: "MONGO_URL", kind: "?"},
	{names: "MEMCACHIER_*", kind: "memcached"},
	{names: "MEMCACHEDCLOUD_*", kind: "memcached"},
	{names: "MEMCACHED_URL", kind: "?"},
	{names: "DOKKU_*_URL", kind: "?", why: "a setting of Dokku"},

	{names: "HEROKU_*", why: "set by Heroku"},
	{names: "DOKKU_*", why: "a setting of Dokku"},
	{names: "BUILDPACK_URL", why: "mesh has no buildpacks"},
	{names: "PATH", why: "the image has its own"},
	{names: "GEM_PATH", why: "the image has its own"},
	{names: "GEM_HOME", why: "the image has its own"},
	{names: "LIBRARY_PATH", why: "the image has its own"},
	{names: "LD_LIBRARY_PATH", why: "the image has its own"},
	{names: "PYTHONHOME", why: "the image has its own"},
}

// kindsByName are the kinds of add-ons that set a var, for vars without a value.
var kindsByName = map[string]string{
	"DATABASE_URL": "postgres", "REDIS_URL": "redis", "REDISCLOUD_URL": "redis", "REDISTOGO_URL": "redis", "CLOUDAMQP_URL": "rabbitmq", "RABBITMQ_URL": "rabbitmq",
	"MONGO_URL": "mongodb", "MEMCACHED_URL": "memcached",
}

// schemes are the kinds of add-ons by the scheme of their URL.
var schemes = map[string]string{
	"postgres": "postgres", "postgresql": "postgres", "postgis": "postgres", "mysql": "mysql", "mysql2": "mysql", "mariadb": "mariadb",
	"redis": "redis", "rediss": "redis", "amqp": "rabbitmq", "amqps": "rabbitmq", "mongodb": "mongodb", "memcached": "memcached",
}

// herokuAddons are the kinds for the add-ons that app.json names.
var herokuAddons = map[string]string{
	"heroku-postgresql": "postgres", "crunchy-postgres": "postgres", "heroku-redis": "redis", "heroku-key-value-store": "redis", "rediscloud": "redis",
	"redistogo": "redis", "openredis": "redis", "upstash-redis": "redis", "cleardb": "mysql", "jawsdb": "mysql", "jawsdb-maria": "mariadb",
	"cloudamqp": "rabbitmq", "memcachier": "memcached", "memcachedcloud": "memcached", "ormongo": "mongodb",
}

// kindOfURL returns the kind of add-on that a URL leads to, or an empty string. Python's
// libraries name the driver as well: postgresql+psycopg2. mongodb+srv leads to a hosted
// service, which is no add-on.
func kindOfURL(url string) string {
	scheme, _, is := strings.Cut(url, "://")
	if !is || scheme == "mongodb+srv" {
		return ""
	}
	scheme, _, _ = strings.Cut(strings.ToLower(scheme), "+")
	return schemes[scheme]
}

// leftOut returns the config vars of another platform that are not set, by name.
func (c *call) leftOut(ctx context.Context, st mesh.Stack, config mesh.Config) (map[string]leftOutJSON, error) {
	left := map[string]leftOutJSON{}
	servers := map[string]string{} // the var that first had a URL
	for _, f := range foreigners {
		for _, name := range config.Names() {
			if _, done := left[name]; done {
				continue
			}
			if is, _ := path.Match(f.names, name); !is {
				continue
			}
			l, err := c.whyNot(st, name, config[name].Reveal())
			if err != nil {
				return nil, err
			}
			if l.Name == "" {
				continue
			}
			url := config[name].Reveal()
			first, same := servers[url]
			_, both := config[f.same]
			switch {
			case l.Command == "":
			case same:
				l = leftOutJSON{Name: name, Why: "the same server as " + first}
			case both:
				l = leftOutJSON{Name: name, Why: "the same server as " + f.same + ", which needs no TLS here"}
			default:
				servers[url] = name
			}
			left[name] = l
		}
	}
	attached, err := c.attachedVars(ctx, st)
	for name, addon := range attached {
		if _, is := config[name]; is {
			left[name] = leftOutJSON{Name: name, Why: "the add-on " + string(addon) + " sets it"}
		}
	}
	return left, err
}

// attachedVars returns the vars that the add-ons of a stack set, with the add-on of each.
func (c *call) attachedVars(ctx context.Context, st mesh.Stack) (map[string]mesh.AddonName, error) {
	all := map[string]mesh.AddonName{}
	for _, at := range st.Addons {
		a, err := c.AddonList.Addon(ctx, at.Addon)
		if err != nil {
			return nil, err
		}
		vars, err := c.AddonKinds.Vars(a, at)
		if err != nil {
			return nil, err
		}
		for name := range vars {
			all[name] = at.Addon
		}
	}
	return all, nil
}

// whyNot says why a var is not set. It returns an empty name for one that is set.
func (c *call) whyNot(st mesh.Stack, name, value string) (leftOutJSON, error) {
	i := slices.IndexFunc(foreigners, func(f foreign) bool { is, _ := path.Match(f.names, name); return is })
	if i < 0 {
		return leftOutJSON{}, nil
	}
	f := foreigners[i]
	kind := f.kind
	if kind == "?" {
		kind = kindOfURL(value)
		if value == "" { // required by an app.json
			kind = kindsByName[name]
		}
	}
	switch {
	case kind == "" && f.why == "":
		return leftOutJSON{}, nil // a server elsewhere, or a file
	case kind == "":
		return leftOutJSON{Name: name, Why: f.why}, nil
	}
	return c.insteadOf(st, name, kind)
}

// insteadOf returns what creates an add-on that sets a var.
func (c *call) insteadOf(st mesh.Stack, name, kind string) (leftOutJSON, error) {
	k, err := c.AddonKinds.Kind(kind)
	if err != nil {
		return leftOutJSON{}, err
	}
	l := leftOutJSON{Name: name, Command: fmt.Sprintf("ssh mesh addons:create %s -a %s", kind, st.Name)}
	as, isURL := strings.CutSuffix(name, "_URL")
	switch {
	case !isURL:
		l.Why = "sets " + k.As + "_URL"
	case as != k.As:
		l.Command += " --as " + as
	}
	return l, nil
}

// wanted returns what creates an add-on of app.json.
func (c *call) wanted(st mesh.Stack, a WantedAddon) leftOutJSON {
	l := leftOutJSON{Name: a.Plan}
	service, _, _ := strings.Cut(a.Plan, ":")
	kind := service
	if ours, known := herokuAddons[service]; known {
		kind = ours
	}
	k, err := c.AddonKinds.Kind(kind)
	if err != nil {
		l.Why = "mesh has no add-on of this kind; keep the service, and set its config vars"
		return l
	}
	as := k.As
	if a.As != "" {
		as = strings.ToUpper(a.As)
	}
	for _, at := range st.Addons {
		if at.As == as {
			l.Why = "attached: " + string(at.Addon)
			return l
		}
	}
	l.Command = fmt.Sprintf("ssh mesh addons:create %s -a %s", k.Name, st.Name)
	if as != k.As {
		l.Command += " --as " + as
	}
	return l
}
