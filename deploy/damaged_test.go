package deploy_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
	"mesh/deploy/deploytest"
	"mesh/store"
)

// damage changes the first value of a stack that contains old, in the named bucket, or
// the stack's own record if no bucket is named.
func damage(t *testing.T, w *deploytest.World, bucket, old, now string) {
	t.Helper()
	damageIn(t, w, old, now, func(tx *bbolt.Tx) *bbolt.Bucket {
		b := tx.Bucket([]byte("stacks")).Bucket([]byte("blog"))
		if bucket != "" {
			b = b.Bucket([]byte(bucket))
		}
		return b
	})
}

// damageMeta damages the config vars of all stacks.
func damageMeta(t *testing.T, w *deploytest.World) {
	t.Helper()
	damageIn(t, w, `"config":"`, `"config":"AAAA`, func(tx *bbolt.Tx) *bbolt.Bucket { return tx.Bucket([]byte("meta")) })
}

func damageIn(t *testing.T, w *deploytest.World, old, now string, in func(*bbolt.Tx) *bbolt.Bucket) {
	t.Helper()
	dir := w.Store.Dir()
	if err := w.Store.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dir, "mesh.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := false
	err = db.Update(func(tx *bbolt.Tx) error {
		b := in(tx)
		c := b.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if bytes.Contains(v, []byte(old)) {
				done = true
				return b.Put(k, bytes.Replace(v, []byte(old), []byte(now), 1))
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil || !done {
		t.Fatalf("not damaged: %v", err)
	}
	if w.Store, err = store.Open(dir); err != nil {
		t.Fatal(err)
	}
}

// One bad bit in a record keeps one stack from being changed, and nothing from serving.
func TestReconcile_DamagedRecordIsHeld(t *testing.T) {
	for name, c := range map[string]struct{ bucket, old, now string }{
		"a name in the stack":      {"", `"settings"`, `"rettings"`},
		"the current release":      {"", `"current":1`, `"current":3`},
		"a value in the stack":     {"", `"last_deployment":1`, `"last_deployment":3`},
		"what the release runs":    {"releases", `"web":`, `"weB":`},
		"the deployment":           {"deployments", `"status":"live"`, `"status":"lire"`},
		"the image of the release": {"releases", `sha256:`, `sha254:`},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				d, stop := w.Start()
				mustPush(t, w, d, app)
				if err := d.Push(t.Context(), w.Commit("other", app), io.Discard); err != nil {
					t.Fatal(err)
				}
				stop()
				before := w.Runner.Names()
				damage(t, w, c.bucket, c.old, c.now)
				w.Router = deploytest.NewRouter()
				d, _ = w.Start()
				pass(time.Minute)
				if got := w.Runner.Names(); got != before {
					t.Errorf("instances are %s, and were %s", got, before)
				}
				if got := w.Router.Targets("blog"); !strings.Contains(got, "c1") {
					t.Errorf("blog is routed to %q", got)
				}
				if r, _ := w.Router.Route("blog"); r.Down != "" || !slices.Contains(r.Hosts, "blog.localhost") {
					t.Errorf("its route is %+v", r)
				}
				for what, err := range map[string]error{
					"push":    d.Push(t.Context(), w.Commit("blog", app), io.Discard),
					"restart": d.Restart(t.Context(), "blog", "x", mesh.InstanceName{}, io.Discard),
				} {
					if !errors.Is(err, mesh.Damaged) || !strings.Contains(err.Error(), "blog") {
						t.Errorf("%s: %v", what, err)
					}
				}
				if err := d.Push(t.Context(), w.Commit("other", app), io.Discard); err != nil {
					t.Errorf("the other stack: %v", err)
				}
				if _, _, err := d.Collect(t.Context(), false); err != nil {
					t.Errorf("gc: %v", err)
				}
				if w.Builder.Tagged("mesh/blog:v1") == "" {
					t.Error("gc removed its image")
				}
				// The one action that needs no record.
				if err := d.DestroyStack(t.Context(), "blog", "x"); err != nil {
					t.Errorf("destroy: %v", err)
				}
				if got := w.Runner.Names(); strings.Contains(got, "blog") {
					t.Errorf("left: %s", got)
				}
			})
		})
	}
}
