package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
	"mesh/store"
)

// edit rewrites the values of a closed database. fn gets the names of the buckets
// and the key, and the value, and returns the new value.
func edit(t *testing.T, dir string, fn func(path []string, v []byte) []byte) {
	t.Helper()
	db := must(bbolt.Open(filepath.Join(dir, "mesh.db"), 0o600, &bbolt.Options{NoSync: true}))(t)
	err := db.Update(func(tx *bbolt.Tx) error {
		var all func(path []string, b *bbolt.Bucket) error
		all = func(path []string, b *bbolt.Bucket) error {
			set := map[string][]byte{}
			err := b.ForEach(func(k, v []byte) error {
				at := append(slices.Clone(path), string(k))
				if v == nil {
					return all(at, b.Bucket(k))
				}
				if n := fn(at, slices.Clone(v)); !bytes.Equal(n, v) {
					set[string(k)] = n
				}
				return nil
			})
			for k, v := range set {
				err = errors.Join(err, b.Put([]byte(k), v))
			}
			return err
		}
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error { return all([]string{string(name)}, b) })
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// populated makes a data directory with a record of every kind.
func populated(t *testing.T, dir string) {
	closed(t, dir, func(s *store.Store) {
		ctx := t.Context()
		for _, name := range []mesh.StackName{"blog", "shop"} {
			st := fullStack()
			st.Name, st.Domains, st.Redirects, st.Endpoints = name, []mesh.Host{mesh.Host(name) + ".example"}, nil, nil
			create(t, s, st)
			for n := range mesh.ReleaseNumber(2) {
				d := must(s.BeginDeployment(ctx, mesh.Deployment{Stack: name, Kind: mesh.DeployPush, Status: mesh.StatusRunning}))(t)
				r := release(n + 1)
				r.Stack = name
				must(s.Commit(ctx, d, &r, nil))(t)
			}
		}
		must(s.UpdateServerSettings(ctx, func(v *mesh.ServerSettings) error { v.DefaultStack = "blog"; return nil }))(t)
		must(s.UpdateGlobalConfig(ctx, func(mesh.Config, error) (mesh.Config, error) { return mesh.Config{"G": mesh.NewSecret("hush")}, nil }))(t)
		must(s.UpdateBackupPlan(ctx, "mesh", func(p *mesh.BackupPlan, _ bool) error { *p = aBackupPlan("mesh"); return nil }))(t)
		create(t, s, mesh.Stack{Name: "gone"})
		err := errors.Join(
			s.DestroyStack(ctx, "gone"),
			s.AddKey(ctx, mesh.Key{Name: "laptop", Role: mesh.RoleAdmin, Public: "ssh-ed25519 AAAA", Fingerprint: "SHA256:x", Added: time.Unix(1e9, 0)}),
			s.PutRegistry(ctx, mesh.Registry{Host: "ghcr.io", User: "robot", Password: mesh.NewSecret("hush-hush")}),
			s.AddRecipient(ctx, mesh.Recipient{Name: "team", Service: "slack", URL: mesh.NewSecret("https://hooks.slack.com/hush"), Stacks: []mesh.StackName{"blog"}}),
			s.AddVolume(ctx, mesh.Volume{Name: "uploads", Engine: "mesh-1-volume-uploads-x"}),
			s.AddAudit(ctx, mesh.AuditEntry{At: time.Unix(1e9, 0), Action: "did", Result: "ok"}))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.RecordAlert(ctx, crash("blog"), []mesh.Notice{to("team", crash("blog"))}); err != nil {
			t.Fatal(err)
		}
	})
}

// rekey gives the entry at path, a value or a bucket, another key.
func rekey(t *testing.T, dir string, path []string, key string) {
	t.Helper()
	db := must(bbolt.Open(filepath.Join(dir, "mesh.db"), 0o600, &bbolt.Options{NoSync: true}))(t)
	var move func(from, to *bbolt.Bucket) error
	move = func(from, to *bbolt.Bucket) error {
		return from.ForEach(func(k, v []byte) error {
			if v != nil {
				return to.Put(k, v)
			}
			sub, err := to.CreateBucket(k)
			if err != nil {
				return err
			}
			return move(from.Bucket(k), sub)
		})
	}
	err := db.Update(func(tx *bbolt.Tx) error {
		last := path[len(path)-1]
		if len(path) == 1 {
			b, err := tx.CreateBucket([]byte(key))
			if err != nil {
				return err
			}
			return errors.Join(move(tx.Bucket([]byte(last)), b), tx.DeleteBucket([]byte(last)))
		}
		b := tx.Bucket([]byte(path[0]))
		for _, p := range path[1 : len(path)-1] {
			b = b.Bucket([]byte(p))
		}
		if v := b.Get([]byte(last)); v != nil {
			return errors.Join(b.Put([]byte(key), slices.Clone(v)), b.Delete([]byte(last)))
		}
		to, err := b.CreateBucket([]byte(key))
		if err != nil {
			return err
		}
		return errors.Join(move(b.Bucket([]byte(last)), to), b.DeleteBucket([]byte(last)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// Each key of a database, including those of buckets, loses a bit.
func TestOpen_NoFlippedKeyIsBelieved(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	populated(t, whole)
	sound := open(t, whole)
	want := everything(t, sound)
	data := must(os.ReadFile(filepath.Join(whole, "mesh.db")))(t)
	secret := must(os.ReadFile(filepath.Join(whole, "secret.key")))(t)
	scratch := t.TempDir()
	write(t, filepath.Join(scratch, "mesh.db"), string(data))
	seen := map[string][]string{}
	edit(t, scratch, func(path []string, v []byte) []byte {
		for n := 1; n <= len(path); n++ {
			seen[strings.Join(path[:n], "\x00")] = path[:n]
		}
		return v
	})
	rnd := rand.New(rand.NewPCG(6, 6))
	for _, at := range slices.Sorted(maps.Keys(seen)) {
		path := seen[at]
		last := []byte(path[len(path)-1])
		last[rnd.IntN(len(last))] ^= 1 << rnd.IntN(8)
		dir := t.TempDir()
		write(t, filepath.Join(dir, "mesh.db"), string(data))
		write(t, filepath.Join(dir, "secret.key"), string(secret))
		rekey(t, dir, path, string(last))
		what := fmt.Sprintf("%q became %q", path, last)
		s, err := store.Open(dir)
		if err != nil {
			var e *mesh.Error
			if !errors.As(err, &e) || e.Hint == "" {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		if got := everything(t, s); got != want && len(s.Damaged()) == 0 {
			t.Errorf("%s: reads\n%s\nwant\n%s", what, got, want)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// everything is all that a store reports about itself.
func everything(t *testing.T, s *store.Store) string {
	ctx := t.Context()
	var b strings.Builder
	stacks, err := s.Stacks(ctx)
	fmt.Fprintln(&b, err)
	for _, st := range stacks {
		st.Revision = 0 // says only when it was read
		st.Config = mesh.Config{"A": mesh.NewSecret(""), fmt.Sprint(len(st.Config)): mesh.NewSecret("")}
		rs, rerr := s.Releases(ctx, st.Name, 0)
		ds, derr := s.Deployments(ctx, st.Name, 0)
		fmt.Fprintf(&b, "%+v\n%+v %v\n%+v %v\n", st, rs, rerr, ds, derr)
	}
	keys, kerr := s.Keys(ctx)
	regs, rerr := s.Registries(ctx)
	audit, aerr := s.AuditLog(ctx, "", 0)
	gone, gerr := s.Destroyed(ctx)
	fmt.Fprintf(&b, "%+v %v\n%+v %v\n%+v %v\n%+v %v\n", keys, kerr, regs, rerr, audit, aerr, gone, gerr)
	settings, serr := s.ServerSettings(ctx)
	global, glerr := s.GlobalConfig(ctx)
	fmt.Fprintf(&b, "%+v %v\n%s %s %v\n", settings, serr, global.Names(), global["G"].Reveal(), glerr)
	for _, name := range []mesh.StackName{"blog", "shop"} {
		hosts, herr := s.DomainsOf(name)
		fmt.Fprintln(&b, hosts, herr)
	}
	return b.String()
}

// Each value of a database loses a bit, at several places. Nothing may be read that
// was not written: it is refused, reported as damaged, or rebuilt; and nothing is
// lost.
func TestOpen_NoFlippedBitIsBelieved(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	populated(t, whole)
	sound := open(t, whole)
	want := everything(t, sound)
	type place struct {
		path []string
		len  int
	}
	snapshot := must(sound.Snapshot(t.Context()))(t)
	defer snapshot.Close()
	dbBytes := must(os.ReadFile(filepath.Join(whole, "mesh.db")))(t)
	key := must(os.ReadFile(filepath.Join(whole, "secret.key")))(t)
	var places []place
	scratch := t.TempDir()
	write(t, filepath.Join(scratch, "mesh.db"), string(dbBytes))
	edit(t, scratch, func(path []string, v []byte) []byte {
		places = append(places, place{path, len(v)})
		return v
	})
	if len(places) < 20 {
		t.Fatalf("only %d values", len(places))
	}
	try := func(t *testing.T, p place, at int, bit byte) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "mesh.db"), string(dbBytes))
		write(t, filepath.Join(dir, "secret.key"), string(key))
		write(t, filepath.Join(dir, "repos", "blog.git", "HEAD"), "x")
		edit(t, dir, func(path []string, v []byte) []byte {
			if slices.Equal(path, p.path) {
				v[at] ^= bit
			}
			return v
		})
		what := fmt.Sprintf("%q byte %d ^ %#x", p.path, at, bit)
		s, err := store.Open(dir)
		if err != nil {
			var e *mesh.Error
			if !errors.As(err, &e) || e.Hint == "" || p.path[0] != "meta" {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		defer s.Close()
		damaged := s.Damaged()
		if got := everything(t, s); got != want && len(damaged) == 0 {
			t.Errorf("%s: reads\n%s\nwant\n%s", what, got, want)
		}
		for _, d := range damaged {
			if d.Stack == "" {
				continue
			}
			if _, err := s.UpdateStack(t.Context(), d.Stack, func(*mesh.Stack) error { return nil }); !errors.Is(err, mesh.Damaged) {
				t.Errorf("%s: changed all the same: %v", what, err)
			}
			other := mesh.StackName("blog")
			if d.Stack == "blog" {
				other = "shop"
			}
			if _, err := s.UpdateStack(t.Context(), other, func(*mesh.Stack) error { return nil }); err != nil {
				t.Errorf("%s: %s cannot be changed: %v", what, other, err)
			}
		}
		if !exists(filepath.Join(dir, "repos", "blog.git", "HEAD")) {
			t.Errorf("%s: a repository is gone", what)
		}
	}
	for i, p := range places {
		t.Run(strings.Map(func(r rune) rune {
			if r < '!' || r > '~' {
				return '.'
			}
			return r
		}, strings.Join(p.path, ",")), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(5, uint64(i)))
			for range min(p.len, 6) {
				try(t, p, rnd.IntN(p.len), 1<<rnd.IntN(8))
			}
		})
	}
}
