package deploy_test

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"mesh"
	"mesh/deploy/deploytest"
)

// Rules reach the router at once and at the next start, follow a renamed stack, and stay
// where they are in a promotion.
func TestSetAccess(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, app)
		if err := d.Push(t.Context(), w.Commit("other", app), io.Discard); err != nil {
			t.Fatal(err)
		}
		rules := mesh.AccessRules{
			Users: []mesh.AccessUser{{Name: "me", Hash: mesh.NewSecret("hash")}}, Deny: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		}
		inForce := func(when string, stack mesh.StackName, want mesh.AccessRules) {
			t.Helper()
			if r, _ := w.Router.Route(stack); !r.Access.Equal(want) {
				t.Errorf("%s, the rules of %s are %+v", when, stack, r.Access)
			}
		}
		before, err := w.Store.Stack(t.Context(), "blog")
		if err != nil {
			t.Fatal(err)
		}
		if err := d.SetAccess(t.Context(), "blog", func(r *mesh.AccessRules) error { *r = rules; return nil }); err != nil {
			t.Fatal(err)
		}
		inForce("once set", "blog", rules)
		if st, err := w.Store.Stack(t.Context(), "blog"); err != nil || st.Current != before.Current {
			t.Errorf("it made a release: %v, %v", st.Current, err)
		}
		failed := errors.New("no")
		if err := d.SetAccess(t.Context(), "blog", func(r *mesh.AccessRules) error { r.Users[0].Name = "you"; return failed }); !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
		inForce("after a failure", "blog", rules)
		if err := d.Restart(t.Context(), "blog", "x", mesh.InstanceName{}, io.Discard); err != nil {
			t.Fatal(err)
		}
		inForce("after a deployment", "blog", rules)
		if err := d.Promote(t.Context(), "blog", "other", "x", io.Discard); err != nil {
			t.Fatal(err)
		}
		inForce("after a promotion", "other", mesh.AccessRules{})
		stop()
		w.Router = deploytest.NewRouter()
		d, _ = w.Start()
		pass(time.Minute)
		inForce("after a restart", "blog", rules)
		if err := d.RenameStack(t.Context(), "blog", "shop", "x", io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		inForce("after a rename", "shop", rules)
		if err := d.DestroyStack(t.Context(), "shop", "x"); err != nil {
			t.Fatal(err)
		}
		if err := d.Push(t.Context(), w.Commit("shop", app), io.Discard); err != nil {
			t.Fatal(err)
		}
		inForce("in a new stack of the name", "shop", mesh.AccessRules{})
	})
}

// A stack whose record cannot be read keeps serving; one that kept people out keeps
// everybody out.
func TestSetAccess_DamagedRecord(t *testing.T) {
	for name, c := range map[string]struct {
		bucket, old, now string
		rules            mesh.AccessRules
		shut             bool
	}{
		"password":             {"", `"settings"`, `"rettings"`, mesh.AccessRules{Users: []mesh.AccessUser{{Name: "me", Hash: mesh.NewSecret("hash")}}}, true},
		"the rules themselves": {"", `"access"`, `"bccess"`, mesh.AccessRules{Deny: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, true},
		"only a limit":         {"", `"settings"`, `"rettings"`, mesh.AccessRules{Limit: mesh.Rate{Requests: 1, Per: time.Second}}, false},
		"the current release":  {"releases", `"web":`, `"weB":`, mesh.AccessRules{Deny: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, false},
		"no rules":             {"", `"settings"`, `"rettings"`, mesh.AccessRules{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				d, stop := w.Start()
				mustPush(t, w, d, app)
				if err := d.SetAccess(t.Context(), "blog", func(r *mesh.AccessRules) error { *r = c.rules; return nil }); err != nil {
					t.Fatal(err)
				}
				stop()
				damage(t, w, c.bucket, c.old, c.now)
				w.Router = deploytest.NewRouter()
				_, _ = w.Start()
				pass(time.Minute)
				r, _ := w.Router.Route("blog")
				shut := len(r.Access.Deny) == 2 && r.Access.Deny[0].Bits() == 0 && r.Access.Deny[1].Bits() == 0
				if len(r.Targets) == 0 || shut != c.shut {
					t.Errorf("the route is %+v", r)
				}
				if c.bucket != "" && !r.Access.Equal(c.rules) {
					t.Errorf("the rules can be read, and are not in force: %+v", r.Access)
				}
			})
		})
	}
}
