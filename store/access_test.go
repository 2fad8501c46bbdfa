package store_test

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
	"mesh/store"
)

func accessRules() mesh.AccessRules {
	return mesh.AccessRules{
		Users: []mesh.AccessUser{{Name: "me", Hash: mesh.NewSecret("$2a$10$planted-hash")}, {Name: "you", Hash: mesh.NewSecret("$2a$10$planted-other")}},
		Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Deny: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/128")},
		Except: []string{"/café", "/health"}, Limit: mesh.Rate{Requests: 30, Per: time.Minute, PerClient: true},
	}
}

func ruled(t *testing.T, s *store.Store, rules mesh.AccessRules) {
	t.Helper()
	must(s.UpdateStack(t.Context(), "blog", func(st *mesh.Stack) error { st.Access = rules; return nil }))(t)
}

func TestAccess_ComesBackAsItWas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closed(t, dir, func(s *store.Store) {
		create(t, s, fullStack())
		ruled(t, s, accessRules())
	})
	data, err := os.ReadFile(filepath.Join(dir, "mesh.db"))
	if err != nil || bytes.Contains(data, []byte("planted-")) || !bytes.Contains(data, []byte("/health")) {
		t.Errorf("a hash is in the file, or the rules are not: %v", err)
	}
	s := open(t, dir)
	got := must(s.Stack(t.Context(), "blog"))(t)
	if !got.Access.Equal(accessRules()) {
		t.Errorf("got %+v", got.Access)
	}
	if found := s.Damaged(); len(found) > 0 {
		t.Errorf("damaged: %+v", found)
	}
	if ok := must(s.Guarded("blog"))(t); !ok {
		t.Error("not known to be guarded")
	}
	d := must(s.BeginDeployment(t.Context(), mesh.Deployment{Stack: "blog", Kind: mesh.DeployRename, Status: mesh.StatusRunning, Created: at}))(t)
	d.Ended = at
	renamed := must(s.RenameStack(t.Context(), d, "shop", func(*mesh.Stack) error { return nil }))(t)
	if !renamed.Access.Equal(accessRules()) || !must(s.Guarded("shop"))(t) || must(s.Guarded("blog"))(t) {
		t.Errorf("renamed: %+v", renamed.Access)
	}
	for _, rules := range []mesh.AccessRules{{Except: []string{"/x"}, Limit: mesh.Rate{Requests: 1, Per: time.Second}}, {}} {
		got := must(s.UpdateStack(t.Context(), "shop", func(st *mesh.Stack) error { st.Access = rules; return nil }))(t)
		if !got.Access.Equal(rules) || must(s.Guarded("shop"))(t) {
			t.Errorf("got %+v", got.Access)
		}
	}
	if err := s.DestroyStack(t.Context(), "shop"); err != nil || must(s.Guarded("shop"))(t) {
		t.Errorf("destroyed: %v", err)
	}
}

// A stack without rules has the record that an earlier mesh wrote, and reads.
func TestAccess_OldRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closed(t, dir, func(s *store.Store) { create(t, s, fullStack()) })
	record(t, dir, func(v []byte) []byte {
		if bytes.Contains(v, []byte("access")) {
			t.Errorf("the record is %s", v)
		}
		return v
	})
	if got := must(open(t, dir).Stack(t.Context(), "blog"))(t); !got.Access.IsZero() {
		t.Errorf("got %+v", got.Access)
	}
}

// Rules that cannot be read are not taken for none.
func TestAccess_Damaged(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(string) string{
		"the field": func(v string) string { return strings.Replace(v, `"access":`, `"acces_":`, 1) },
		"a prefix":  func(v string) string { return unsum(strings.Replace(v, `10.0.0.0/8`, `10.0.0.0/x`, 1)) },
		"the limit": func(v string) string {
			return unsum(strings.Replace(v, `"per_ns":60000000000`, `"per_ns":60000000001`, 1))
		},
		"a sealed hash":   func(v string) string { return unsum(strings.Replace(v, `"hash":"`, `"hash":"AAAA`, 1)) },
		"a missing hash":  func(v string) string { return unsum(strings.Replace(v, `"hash":"`, `"hash":"","_":"`, 1)) },
		"another's hash":  func(v string) string { return unsum(strings.Replace(v, `"name":"me"`, `"name":"eve"`, 1)) },
		"the whole thing": func(string) string { return "x" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			closed(t, dir, func(s *store.Store) {
				create(t, s, fullStack())
				ruled(t, s, accessRules())
			})
			record(t, dir, func(v []byte) []byte { return []byte(change(string(v))) })
			s := must(store.Open(dir))(t)
			defer s.Close()
			if _, err := s.Stack(t.Context(), "blog"); !errors.Is(err, mesh.Damaged) {
				t.Errorf("got %v", err)
			}
			if found := s.Damaged(); len(found) == 0 || !found[0].Whole {
				t.Errorf("found %+v", found)
			}
			if !must(s.Guarded("blog"))(t) {
				t.Error("not known to be guarded")
			}
		})
	}
}

// unsum removes the checksum of a record.
func unsum(v string) string {
	i := strings.LastIndex(v, `,"sum":"`)
	return v[:i] + "}"
}

// record changes the record of blog.
func record(t *testing.T, dir string, change func([]byte) []byte) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "mesh.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("stacks")).Bucket([]byte("blog"))
		return b.Put([]byte("record"), change(bytes.Clone(b.Get([]byte("record")))))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}
