package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// outcomes is what a change of the config vars of all stacks came to, as text.
func outcomes(t *testing.T, d *deploy.Deployer, c mesh.ConfigChange, clear bool) (string, error) {
	t.Helper()
	var all []string
	changed, err := d.SetGlobalConfig(t.Context(), "ci", c, clear, io.Discard, func(o mesh.Outcome) {
		line := fmt.Sprint(o.Stack, " ", o.Release)
		if o.Err != nil {
			line = fmt.Sprint(o.Stack, " failed")
		}
		all = append(all, line)
	})
	return fmt.Sprint(changed, " ", strings.Join(all, ", ")), err
}

func vars(kv ...string) mesh.Config {
	c := mesh.Config{}
	for i := 0; i < len(kv); i += 2 {
		c[kv[i]] = mesh.NewSecret(kv[i+1])
	}
	return c
}

// global begins with the stacks api, blog and shop deployed, and web of each.
func global(t *testing.T, w *deploytest.World) *deploy.Deployer {
	t.Helper()
	d, _ := w.Start()
	deployAll(t, w, d)
	return d
}

func deployAll(t *testing.T, w *deploytest.World, d *deploy.Deployer) {
	t.Helper()
	for _, name := range []mesh.StackName{"api", "blog", "shop"} {
		if err := d.Push(t.Context(), w.Commit(name, app), io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.CreateStack(t.Context(), "new", "ci"); err != nil {
		t.Fatal(err)
	}
}

// gets returns the values of a var in the instances of all stacks.
func gets(t *testing.T, w *deploytest.World, name string) string {
	t.Helper()
	values := map[string]string{}
	for _, st := range []mesh.StackName{"api", "blog", "shop"} {
		soundStack(t, w, st)
	}
	for _, c := range w.Runner.Containers() {
		values[string(c.Stack)] = c.Spec.Env[name].Reveal()
	}
	return fmt.Sprint(values)
}

func TestGlobalConfig_EachStackThatItChanges(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d := global(t, w)
		expect := func(c mesh.ConfigChange, want string) {
			t.Helper()
			if got, err := outcomes(t, d, c, false); err != nil || got != want {
				t.Errorf("%s, %v; want %s", got, err, want)
			}
		}
		if _, err := d.SetConfig(t.Context(), "shop", "ci", mesh.ConfigChange{Set: vars("A", "own")}, io.Discard); err != nil {
			t.Fatal(err)
		}
		expect(mesh.ConfigChange{Set: vars("A", "1")}, "[A] api v2, blog v2")
		if got := gets(t, w, "A"); got != "map[api:1 blog:1 shop:own]" {
			t.Errorf("got %s", got)
		}
		expect(mesh.ConfigChange{Set: vars("A", "1")}, "[] ")
		expect(mesh.ConfigChange{Set: vars("A", "2", "B", "x"), Unset: []string{"B"}}, "[A] api v3, blog v3")
		// Recorded only: a later change, and whatever else makes a release, take it.
		expect(mesh.ConfigChange{Set: vars("C", "1"), RecordOnly: true}, "[C] ")
		if err := d.Restart(t.Context(), "blog", "ci", mesh.InstanceName{}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 2}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if got := gets(t, w, "C"); got != "map[api: blog: shop:]" {
			t.Errorf("got %s", got)
		}
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: vars("D", "1")}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if got := gets(t, w, "C"); got != "map[api: blog:1 shop:]" {
			t.Errorf("got %s", got)
		}
		expect(mesh.ConfigChange{}, "[] api v4, shop v3")
		// A service's own win over both, and a build and the first release get them as well.
		if err := setService(t, d, "web", map[string]string{"C": "web"}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.Push(t.Context(), w.Commit("new", app), io.Discard); err != nil {
			t.Fatal(err)
		}
		if got := gets(t, w, "C"); got != "map[api:1 blog:web new:1 shop:1]" {
			t.Errorf("got %s", got)
		}
		builds := w.Builder.Builds()
		if got := builds[len(builds)-1].Config["C"].Reveal(); got != "1" {
			t.Errorf("the build had %q", got)
		}
		// What a stack removes of its own uncovers that of all stacks.
		if _, err := d.SetConfig(t.Context(), "shop", "ci", mesh.ConfigChange{Unset: []string{"A"}}, io.Discard); err != nil || gets(t, w, "A") != "map[api:2 blog:2 new:2 shop:2]" {
			t.Errorf("%v, %s", err, gets(t, w, "A"))
		}
		if got, err := outcomes(t, d, mesh.ConfigChange{}, true); err != nil || got != "[A C] api v5, blog v7, new v2, shop v5" {
			t.Errorf("%s, %v", got, err)
		}
		if got := gets(t, w, "A"); got != "map[api: blog: new: shop:]" {
			t.Errorf("got %s", got)
		}
	})
}

// A stack that fails or is locked does not keep the others, and gets them later.
func TestGlobalConfig_OneFailsTheOthersGoOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d := global(t, w)
		if _, err := d.Lock(t.Context(), "blog", "ci", "moving"); err != nil {
			t.Fatal(err)
		}
		ill := true
		w.Runner.CheckFunc = func(_ context.Context, in mesh.Instance) (string, error) {
			if ill && in.Stack == "api" {
				return "", mesh.Errorf(mesh.Failed, "web.1 answers 503")
			}
			return "", nil
		}
		if got, err := outcomes(t, d, mesh.ConfigChange{Set: vars("A", "1")}, false); err != nil || got != "[A] api failed, blog failed, shop v2" {
			t.Errorf("%s, %v", got, err)
		}
		if got := gets(t, w, "A"); got != "map[api: blog: shop:1]" {
			t.Errorf("got %s", got)
		}
		ill = false
		if err := d.Unlock(t.Context(), "blog"); err != nil {
			t.Fatal(err)
		}
		if got, err := outcomes(t, d, mesh.ConfigChange{Set: vars("A", "1")}, false); err != nil || got != "[] api v2, blog v2" {
			t.Errorf("%s, %v", got, err)
		}
		if got := gets(t, w, "A"); got != "map[api:1 blog:1 shop:1]" {
			t.Errorf("got %s", got)
		}
		// A stopped stack gets its release, and stays stopped.
		if err := d.Stop(t.Context(), "shop", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		if got, err := outcomes(t, d, mesh.ConfigChange{Set: vars("A", "2")}, false); err != nil || got != "[A] api v3, blog v3, shop v3" || gets(t, w, "A") != "map[api:2 blog:2]" {
			t.Errorf("%s, %v, %s", got, err, gets(t, w, "A"))
		}
		// Somebody who hangs up has set them, and stops the releases.
		ctx, cancel := context.WithCancel(t.Context())
		var after []error
		_, err := d.SetGlobalConfig(ctx, "ci", mesh.ConfigChange{Set: vars("A", "3")}, false, io.Discard, func(o mesh.Outcome) {
			cancel()
			after = append(after, o.Err)
		})
		if err != nil || len(after) != 3 || after[0] != nil || !errors.Is(after[1], mesh.Cancelled) || !errors.Is(after[2], mesh.Cancelled) {
			t.Errorf("%v, %v", err, after)
		}
	})
}

func TestGlobalConfig_Refusals(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d := global(t, w)
		large := mesh.Config{}
		for i := range 3 {
			large[fmt.Sprint("V", i)] = mesh.NewSecret(strings.Repeat("x", 100<<10))
		}
		for text, c := range map[string]mesh.ConfigChange{
			"mesh chooses the port":           {Set: vars("PORT", "1")},
			"MESH_":                           {Set: vars("MESH_STACK", "1")},
			"the limit is 262144":             {Set: large},
			"there is no config var NOSUCH":   {Set: vars("A", "1"), Unset: []string{"NOSUCH"}},
			"BIG would take 131077 bytes":     {Set: vars("BIG", strings.Repeat("x", 128<<10))},
			"the value of NUL contains a NUL": {Set: vars("NUL", "a\x00b")},
		} {
			if got, err := outcomes(t, d, c, false); err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %s, %v", text, got, err)
			}
		}
		if cfg, err := w.Store.GlobalConfig(t.Context()); err != nil || len(cfg) != 0 {
			t.Errorf("%v, %v", cfg.Names(), err)
		}
		for _, st := range []mesh.StackName{"api", "blog", "shop"} {
			if rs, err := w.Store.Releases(t.Context(), st, 0); err != nil || len(rs) != 1 {
				t.Errorf("%s: %d releases, %v", st, len(rs), err)
			}
		}
	})
}

// A rollback brings back a stack's config vars, not those of all stacks: an old one may be
// a password that does not work any more.
func TestGlobalConfig_RollbackKeepsThem(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d := global(t, w)
		for _, v := range []string{"old", "new"} {
			if _, err := outcomes(t, d, mesh.ConfigChange{Set: vars("A", v)}, false); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: vars("B", "own")}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err := outcomes(t, d, mesh.ConfigChange{Set: vars("A", "newest")}, false); err != nil {
			t.Fatal(err)
		}
		var o deploytest.Output
		// Without a number: v3, the newest that differs in more than those of all stacks.
		if err := d.Rollback(t.Context(), "blog", "ci", 0, &o); err != nil {
			t.Fatal(err)
		}
		r := release(t, w, 6)
		if r.Description != "Rollback to v3" || len(r.Config) != 0 || gets(t, w, "A") != "map[api:newest blog:newest shop:newest]" {
			t.Errorf("%+v, %s", r, gets(t, w, "A"))
		}
		if !strings.Contains(o.String(), "the config vars of all stacks stay as they are now, which compared to v3 changes A") {
			t.Errorf("printed\n%s", o.String())
		}
		// A clone and a promoted image have those of now.
		if err := d.Clone(t.Context(), "blog", "copy", "ci", true, io.Discard); err != nil {
			t.Fatal(err)
		}
		if r, err := w.Store.Release(t.Context(), "copy", 1); err != nil || r.ConfigOf("web")["A"].Reveal() != "newest" {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// A deployment in progress has read the old ones, and must not be the last.
func TestGlobalConfig_DuringADeployment(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		q := newQueue(t, w)
		m := w.Commit("first", app)
		first := q.do(func(ctx context.Context, out io.Writer) error { return q.d.Push(ctx, m, out) })
		blog := q.push()
		m2 := w.Commit("never", app)
		never := q.do(func(ctx context.Context, out io.Writer) error { return q.d.Push(ctx, m2, out) })
		got := ""
		set := q.do(func(context.Context, io.Writer) (err error) {
			got, err = outcomes(t, q.d, mesh.ConfigChange{Set: vars("A", "1")}, false)
			return err
		})
		never.cancel()
		for _, p := range []*pushed{first, blog} {
			q.waits(set)
			q.free <- struct{}{}
			if err := q.ended(p); err != nil {
				t.Error(err)
			}
		}
		_ = q.ended(never)
		if err := q.ended(set); err != nil || got != "[A] blog v3, first v2" {
			t.Errorf("%s, %v", got, err)
		}
	})
}

// What app.json asks for may be set for all stacks.
func TestGlobalConfig_SatisfiesAppJSON(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d := global(t, w)
		if _, err := outcomes(t, d, mesh.ConfigChange{Set: vars("NEEDED", "1", "WITH", "global")}, false); err != nil {
			t.Fatal(err)
		}
		mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch", "app.json": `{"env": {"NEEDED": {"required": true}, "WITH": "default", "OTHER": "default"}}`})
		if got := gets(t, w, "WITH"); got != "map[api:global blog:global shop:global]" || len(stack(t, w).Config) != 1 {
			t.Errorf("got %s, %v", got, stack(t, w).Config.Names())
		}
	})
}

// If they cannot be read, no new release is made, and what runs keeps running.
func TestGlobalConfig_Damaged(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		first, stop := w.Start()
		deployAll(t, w, first)
		if _, err := outcomes(t, first, mesh.ConfigChange{Set: vars("A", "1")}, false); err != nil {
			t.Fatal(err)
		}
		stop()
		damageMeta(t, w)
		d, _ := w.Start()
		if _, err := push(t, w, d, map[string]string{"Dockerfile": "FROM scratch\n\n"}); !errors.Is(err, mesh.Damaged) {
			t.Errorf("a push: %v", err)
		}
		if _, err := outcomes(t, d, mesh.ConfigChange{Set: vars("B", "1")}, false); !errors.Is(err, mesh.Damaged) {
			t.Errorf("setting one: %v", err)
		}
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "web", To: 2}}, io.Discard); err != nil {
			t.Error(err)
		}
		if got := gets(t, w, "A"); got != "map[api:1 blog:1 shop:1]" {
			t.Errorf("got %s", got)
		}
		if got, err := outcomes(t, d, mesh.ConfigChange{Set: vars("B", "1")}, true); err != nil || got != "[B] api v3, blog v4, shop v3" {
			t.Errorf("%s, %v", got, err)
		}
	})
}
