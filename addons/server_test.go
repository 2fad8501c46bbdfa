package addons_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/client"

	"mesh"
	"mesh/addons"
	"mesh/engine"
	"mesh/enginetest"
	"mesh/runner"
)

var (
	run = enginetest.NewID("addons")
	cli *client.Client
)

func TestMain(m *testing.M) {
	enginetest.Main(m, run, func(ctx context.Context, e *enginetest.Run) ([]string, error) {
		cli = e.Client
		// A stand-in takes seconds; images that are there take none.
		out, err := exec.CommandContext(ctx, "../scripts/base-images", "postgres", "mariadb", "redis", "valkey", "rabbitmq", "memcached").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("base images: %w\n%s", err, out)
		}
		return nil, nil
	})
}

// bench is a Server of its own, and what it needs.
type bench struct {
	*addons.Server
	run *runner.Runner
	t   *testing.T
}

func newBench(t *testing.T) *bench {
	t.Helper()
	server := fmt.Sprintf("%08x", rand.Uint32()) + run
	labels := map[string]string{enginetest.Label: run}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	e := engine.Of(cli)
	r := runner.New(e, runner.Options{Server: server, Labels: labels, Logger: log})
	b := &bench{run: r, t: t, Server: addons.New(e, addons.Options{
		Server: server, Labels: labels, Logger: log, Inside: r, Patience: time.Minute,
		Attached: func(mesh.StackName) []mesh.Addon { return nil },
	})}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		all, err := b.Volumes(ctx)
		if err != nil {
			t.Error(err)
		}
		for name, volumes := range all {
			for _, v := range volumes {
				if err := b.Remove(ctx, name, v); err != nil {
					t.Error(err)
				}
			}
		}
		_ = cli.NetworkRemove(ctx, "mesh-"+server[:8]+"-addons")
	})
	return b
}

// create makes an add-on run.
func (b *bench) create(kind, version string, name mesh.AddonName) mesh.Addon {
	b.t.Helper()
	a, err := b.Plan(kind, version, name)
	if err == nil {
		a, err = b.Fetch(b.t.Context(), a, false, func(string) {})
	}
	if err == nil {
		err = b.Run(b.t.Context(), a)
	}
	if err != nil {
		b.t.Fatalf("create %s: %v", kind, err)
	}
	a.State = mesh.AddonReady
	return a
}

// restart ends the server of an add-on and starts it again.
func (b *bench) restart(a mesh.Addon) error {
	if err := b.Stop(b.t.Context(), a); err != nil {
		return err
	}
	return b.Run(b.t.Context(), a)
}

// in runs words in the container of an add-on.
func (b *bench) in(a mesh.Addon, words []string, stdin string) (string, int) {
	b.t.Helper()
	e, err := b.Shell(b.t.Context(), a, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	var out bytes.Buffer
	if words != nil {
		e.Words = words
	}
	e.Stdin, e.Stdout, e.Stderr = strings.NewReader(stdin), &out, &out
	code, err := b.run.Exec(b.t.Context(), e)
	if err != nil {
		b.t.Fatal(err)
	}
	return out.String(), code
}

// What every kind must do, on real servers. In login, USER and PASSWORD stand for those of
// an add-on.
var kinds = []struct {
	kind, version string
	write, read   string // typed into its shell
	want          string // what reading prints
	login         []string
	magic         string // how its dumps begin
}{
	{
		"postgres", "15", "CREATE TABLE t (n int); INSERT INTO t VALUES (41);", "SELECT n + 1 FROM t;", "42",
		[]string{"psql", "postgres://USER:PASSWORD@127.0.0.1/DB", "-c", "SELECT 1"},
		"PGDMP",
	},
	{
		"mariadb", "10.11", "CREATE TABLE t (n int); INSERT INTO t VALUES (41);", "SELECT n + 1 FROM t;", "42",
		[]string{"mariadb", "-h", "127.0.0.1", "-uUSER", "-pPASSWORD", "DB", "-e", "SELECT 1"},
		"/*",
	},
	{"redis", "7", "SET a 42", "GET a", "42", []string{"sh", "-c", "redis-cli -e -u redis://default:PASSWORD@127.0.0.1 ping | grep -q PONG"}, "REDIS"},
	{"valkey", "8", "SET a 42", "GET a", "42", []string{"sh", "-c", "valkey-cli -e -u redis://default:PASSWORD@127.0.0.1 ping | grep -q PONG"}, "REDIS"},
	{
		"rabbitmq", "3", "rabbitmqctl -q add_vhost made\n", "rabbitmqctl -q list_vhosts\n", "made",
		[]string{"rabbitmqctl", "-q", "authenticate_user", "USER", "PASSWORD"},
		"{",
	},
}

func (b *bench) mayLogIn(login []string, a mesh.Addon) bool {
	fill := strings.NewReplacer("USER", a.User, "PASSWORD", a.Password.Reveal(), "DB", a.Database)
	words := make([]string, len(login))
	for i, w := range login {
		words[i] = fill.Replace(w)
	}
	_, code := b.in(a, words, "")
	return code == 0
}

func TestKinds_OnRealServers(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.kind, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			a := b.create(k.kind, k.version, "data")
			if out, code := b.in(a, nil, k.write); code != 0 {
				t.Fatalf("write: %s", out)
			}
			reads := func(what string, a mesh.Addon) {
				t.Helper()
				if out, code := b.in(a, nil, k.read); code != 0 || !strings.Contains(out, k.want) {
					t.Errorf("%s: exit code %d, %q does not contain %q", what, code, out, k.want)
				}
			}
			reads("at first", a)

			// Its data outlives its server and its container.
			if err := b.restart(a); err != nil {
				t.Fatal(err)
			}
			reads("after a restart", a)

			// A dump is whole, and another server reads it.
			var dump bytes.Buffer
			if err := b.Dump(t.Context(), a, &dump); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(dump.String(), k.magic) {
				t.Errorf("a dump begins with %.20q", dump.String())
			}
			next := b.Renew(a)
			if next.Volume == a.Volume {
				t.Fatal("a new volume has the old name")
			}
			if err := b.Fill(t.Context(), next, bytes.NewReader(dump.Bytes())); err != nil {
				t.Fatal(err)
			}
			reads("restored", next)
			before, ok, err := b.Check(t.Context(), a)
			if err != nil {
				t.Error(err)
			}
			if after, _, err := b.Check(t.Context(), next); err != nil || ok && (after != before || before == "") {
				t.Errorf("%v: %q became %q", err, before, after)
			}
			if err := b.restart(next); err != nil {
				t.Fatal(err)
			}
			reads("restored and restarted", next)
			if err := b.Remove(t.Context(), next.Name, next.Volume); err != nil {
				t.Fatal(err)
			}

			// One that was cut off is no dump.
			cut := b.Renew(a)
			if err := b.Fill(t.Context(), cut, bytes.NewReader(dump.Bytes()[:dump.Len()/2])); err == nil {
				t.Error("half a dump was restored")
			}
			if err := b.Remove(t.Context(), cut.Name, cut.Volume); err != nil {
				t.Fatal(err)
			}

			// Two logins at the same time, and then the new one alone, also after a restart.
			other, err := b.Rotated(a)
			if err != nil {
				t.Fatal(err)
			}
			if !b.mayLogIn(k.login, a) || b.mayLogIn(k.login, other) {
				t.Error("before: the old login does not work, or the new one does")
			}
			for range 2 { // it may be repeated
				if err := b.Admit(t.Context(), a, other); err != nil {
					t.Fatal(err)
				}
			}
			if !b.mayLogIn(k.login, a) || !b.mayLogIn(k.login, other) {
				t.Error("meanwhile: not both logins work")
			}
			if err := b.Dismiss(t.Context(), a, other); err != nil {
				t.Fatal(err)
			}
			if b.mayLogIn(k.login, a) || !b.mayLogIn(k.login, other) {
				t.Error("afterwards: the old login works, or the new one does not")
			}
			if err := b.restart(other); err != nil {
				t.Fatal(err)
			}
			if b.mayLogIn(k.login, a) || !b.mayLogIn(k.login, other) {
				t.Error("after a restart: the old login works, or the new one does not")
			}
			reads("with another password", other)

			st, err := b.State(t.Context(), other)
			if err == nil {
				st, err = b.Figures(t.Context(), other, st)
			}
			if err != nil || st.State != "up" || st.Memory <= 0 || st.Size <= 0 || st.Connections < 0 {
				t.Errorf("%v: %+v", err, st)
			}
			all, err := b.Volumes(t.Context())
			if err != nil || len(all) != 1 || len(all["data"]) != 1 {
				t.Errorf("%v: volumes %v", err, all)
			}
		})
	}
}

// What a database runs as the account that has made it goes on after a rotation, and in a server
// that does not have the account.
func TestMariaDB_DefinersStay(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.create("mariadb", "10.11", "data")
	sql := func(a mesh.Addon, text string) string {
		t.Helper()
		out, code := b.in(a, []string{"mariadb", "-h", "127.0.0.1", "-u" + a.User, "-p" + a.Password.Reveal(), a.Database, "-N"}, text)
		if code != 0 {
			t.Errorf("%s: %s", text, out)
		}
		return out
	}
	sql(a, "CREATE TABLE t (n int); CREATE TABLE log (n int); CREATE TRIGGER tr AFTER INSERT ON t FOR EACH ROW INSERT INTO log VALUES (NEW.n); CREATE VIEW v AS SELECT n FROM t;")
	next, err := b.Rotated(a)
	if err == nil {
		err = b.Admit(t.Context(), a, next)
	}
	if err == nil {
		err = b.Dismiss(t.Context(), a, next)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := sql(next, "INSERT INTO t VALUES (41); SELECT n + 1 FROM v;"); !strings.Contains(out, "42") {
		t.Errorf("after a rotation: %q", out)
	}
	var dump bytes.Buffer
	if err := b.Dump(t.Context(), next, &dump); err != nil {
		t.Fatal(err)
	}
	copied := b.Renew(next)
	if copied, err = b.Rotated(copied); err != nil { // as of another add-on
		t.Fatal(err)
	}
	if err := b.Fill(t.Context(), copied, &dump); err != nil {
		t.Fatal(err)
	}
	if out := sql(copied, "INSERT INTO t VALUES (1); SELECT SUM(n) FROM v; SELECT COUNT(*) FROM log;"); !strings.Contains(out, "42") || !strings.Contains(out, "2") {
		t.Errorf("in another server: %q", out)
	}
}

// Memcached keeps no data, and its kind declares no health check.
func TestMemcached(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.create("memcached", "1.6", "cache")
	if err := b.Dump(t.Context(), a, &bytes.Buffer{}); err == nil {
		t.Error("it was dumped")
	}
	if _, err := b.Rotated(a); err == nil {
		t.Error("it has a password")
	}
	if at, err := b.Address(t.Context(), a); err != nil || at.Port() != 11211 {
		t.Errorf("%v, %v", at, err)
	}
	if err := b.Stop(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	a.State = mesh.AddonStopped
	if st, err := b.State(t.Context(), a); err != nil || st.State != "stopped" {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := b.Address(t.Context(), a); err == nil {
		t.Error("a stopped server has an address")
	}
	if err := b.Remove(t.Context(), a.Name, ""); err != nil {
		t.Fatal(err)
	}
	if all, err := b.Volumes(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
}
