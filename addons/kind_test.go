package addons

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mesh"
)

func TestKinds(t *testing.T) {
	t.Parallel()
	kinds, err := builtIn()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []mesh.AddonKind{"postgres", "mysql", "mariadb", "redis", "valkey", "mongodb", "rabbitmq", "memcached", "meilisearch", "minio"} {
		if kinds[name] == nil {
			t.Errorf("there is no kind %s", name)
		}
	}
	seen := map[string]mesh.AddonKind{}
	for name, k := range kinds {
		for _, n := range append([]string{string(name)}, k.Also...) {
			if other, taken := seen[n]; taken {
				t.Errorf("%q names both %s and %s", n, other, name)
			}
			seen[n] = name
		}
		// Everyone on the machine sees the words of a program.
		for _, p := range []*program{k.Healthy, k.Setup, k.Add, k.Drop, k.Check, k.Open, k.Slow, k.Shell} {
			if p != nil && strings.Contains(strings.Join(p.Run, " "), "PASSWORD}") {
				t.Errorf("%s: a password is among the words of %q", name, p.Run[0])
			}
		}
		if words := strings.Join(append(k.Command, k.Parameter...), " "); strings.Contains(words, "PASSWORD}") || strings.Contains(words, "ADMIN}") {
			t.Errorf("%s: a password is among the words of its command", name)
		}
	}
}

func TestOwnKinds(t *testing.T) {
	t.Parallel()
	const sound = `
image = "registry.example.com/team/clickhouse"
version = "24.8"
port = 9000
volume = "/var/lib/clickhouse"
as = "CLICKHOUSE"
vars = { URL = "clickhouse://${HOST}:${PORT}" }
`
	cases := []struct{ name, file, text, fault string }{
		{"sound", "clickhouse.toml", sound, ""},
		{"unknown key", "x.toml", sound + "color = 1\n", "line 8: there is no key color"},
		{"no TOML", "x.toml", sound + "what is this\n", "line 8"},
		{"unknown name", "x.toml", strings.Replace(sound, "${HOST}", "${HOTS}", 1), "${HOTS} means nothing"},
		{"no port", "x.toml", strings.Replace(sound, "9000", "0", 1), "port = 0 is not a port"},
		{"bad file name", "X y.toml", sound, "the file's name is not that of a kind"},
		{"dump without restore", "x.toml", sound + "dump = { run = [\"dump\"] }\n", "a dump that cannot be restored is no backup"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			kinds, faults := ownKinds(dir)
			if c.fault == "" {
				if len(faults) > 0 || kinds["clickhouse"] == nil {
					t.Fatalf("kinds %v, faults %v", kinds, faults)
				}
				return
			}
			if len(faults) != 1 || len(kinds) != 0 || !strings.Contains(faults[0].Error(), c.fault) || !strings.Contains(faults[0].Error(), c.file) {
				t.Fatalf("kinds %v, faults %v; want one with %q", kinds, faults, c.fault)
			}
		})
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	kinds, err := builtIn()
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		kind    mesh.AddonKind
		begin   string
		program string // empty: refused
		refusal string
	}{
		{"postgres", "PGDMP\x01\x0e", "pg_restore", ""},
		{"postgres", "--\n-- PostgreSQL database dump\n", "psql", ""},
		{"postgres", "\x1f\x8b\x08", "", "a gzip file"},
		{"postgres", "REDIS0010", "", "a dump of Redis"},
		{"mysql", "-- MySQL dump 10.13", "mysql", ""},
		{"mysql", "PGDMP", "", "a dump of PostgreSQL"},
		{"mariadb", "/*!999999\\- enable the sandbox mode */", "mariadb", ""},
		{"redis", "REDIS0011", "", ""}, // a file, not a program
		{"redis", "SET a 1", "", "not a dump of redis"},
		{"valkey", "REDIS0011", "", ""},
		{"mongodb", "\x6d\xe2\x99\x81", "sh", ""},
		{"rabbitmq", "{\"users\":[]}", "sh", ""},
	}
	for _, c := range cases {
		how, err := kinds[c.kind].reads(mesh.Addon{Name: "db", Kind: c.kind}, []byte(c.begin))
		switch {
		case c.refusal != "":
			if err == nil || !strings.Contains(err.Error(), c.refusal) {
				t.Errorf("%s, %q: %v, want %q", c.kind, c.begin, err, c.refusal)
			}
		case err != nil:
			t.Errorf("%s, %q: %v", c.kind, c.begin, err)
		case c.program == "" && how.File == "":
			t.Errorf("%s, %q: no file", c.kind, c.begin)
		case c.program != "" && how.Run[0] != c.program:
			t.Errorf("%s, %q: %s, want %s", c.kind, c.begin, how.Run[0], c.program)
		}
	}
}
