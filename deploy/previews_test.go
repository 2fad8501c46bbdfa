package deploy_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// setBlog changes the settings of blog.
func setBlog(t *testing.T, d *deploy.Deployer, values ...string) {
	t.Helper()
	_, err := d.SetSettings(t.Context(), "blog", func(s *mesh.Settings) (err error) {
		for _, v := range values {
			name, value, _ := strings.Cut(v, "=")
			err = errors.Join(err, s.Set(name, value))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// pushBranch pushes a commit to a branch of blog.
func pushBranch(t *testing.T, w *deploytest.World, d *deploy.Deployer, branch string, files map[string]string) (out string, err error) {
	t.Helper()
	p := w.Commit("blog", files)
	w.Repos.Move("blog", mesh.RepoState{Branch: branch, Commit: p.Commit})
	p.Branch = branch
	var o deploytest.Output
	err = d.Push(t.Context(), p, &o)
	pass(0)
	return o.String(), err
}

// previewsOf lists the previews of blog, with their states.
func previewsOf(t *testing.T, w *deploytest.World) string {
	t.Helper()
	all, err := w.Store.Previews(t.Context(), "blog")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, st := range all {
		out = append(out, fmt.Sprintf("%s:%d", st.Name, st.Current))
	}
	return strings.Join(out, " ")
}

func TestPreview_IsAStackOfItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		files := map[string]string{
			"Procfile": "web: ./serve\nworker: ./work",
			"app.json": `{"formation": {"web": {"quantity": 3}}, "env": {"FROM_FILE": "all"}, "scripts": {"postdeploy": "./always"},
				"environments": {"review": {"env": {"FROM_FILE": "review", "MODE": "review", "SAID": "review"}, "scripts": {"postdeploy": "./seed"}}}}`,
		}
		mustPush(t, w, d, files)
		for name, value := range map[string]string{"MODE": "live", "PAY": "secret", "SAID": "live"} {
			if _, err := d.SetConfig(t.Context(), "blog", "ci", mesh.ConfigChange{Set: mesh.Config{name: mesh.NewSecret(value)}}, io.Discard); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.MarkProduction(t.Context(), "blog", []string{"PAY"}, true); err != nil {
			t.Fatal(err)
		}
		if _, err := d.SetPreviewConfig(t.Context(), "blog", mesh.ConfigChange{Set: mesh.Config{"SAID": mesh.NewSecret("previews")}}); err != nil {
			t.Fatal(err)
		}
		setBlog(t, d, "previews=true", "health=/up")
		out, err := pushBranch(t, w, d, "feat/x", files)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		st, err := w.Store.Stack(t.Context(), "blog--feat-x")
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, name := range st.Config.Names() {
			got += name + "=" + st.Config[name].Reveal() + " "
		}
		if got != "FROM_FILE=review MODE=review SAID=previews " {
			t.Errorf("its config vars are %s", got)
		}
		r, err := w.Store.Release(t.Context(), st.Name, st.Current)
		if err != nil || r.Formation["web"] != 1 || r.Formation["worker"] != 1 || st.Settings.Health != "/up" || st.Settings.Branch != "feat/x" || st.Effective().Previews != nil {
			t.Errorf("%v, %+v, %+v", err, r.Formation, st.Settings)
		}
		if !strings.Contains(out, "./seed") || strings.Contains(out, "./always") {
			t.Errorf("the first push runs: %s", out)
		}
		if out, err = pushBranch(t, w, d, "feat/x", files); err != nil || strings.Contains(out, "./seed") || strings.Contains(out, "./always") {
			t.Errorf("the second push runs: %v, %s", err, out)
		}
		if heads := w.Repos.Heads("blog"); heads["feat/x"] == "" || heads["main"] == "" || heads["feat/x"] == heads["main"] {
			t.Errorf("the branches are %v", heads)
		}
		// A rollback of the preview moves its branch.
		if err := d.Rollback(t.Context(), st.Name, "ci", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		if heads := w.Repos.Heads("blog"); heads["feat/x"] != r.Commit {
			t.Errorf("after a rollback, the branches are %v, want %s", heads, r.Commit)
		}
		soundStack(t, w, "blog--feat-x")
		sound(t, w)
		if err := d.DestroyStack(t.Context(), "blog", "ci"); err != nil {
			t.Fatal(err)
		}
		if all, err := w.Store.Stacks(t.Context()); err != nil || len(all) > 0 || w.Runner.Names() != "" {
			t.Errorf("left: %v, %v, %s", all, err, w.Runner.Names())
		}
	})
}

func TestPreview_Expires(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, app)
		setBlog(t, d, "previews=true", "previews-ttl=3h")
		for _, b := range []string{"a", "b", "c"} {
			if out, err := pushBranch(t, w, d, b, app); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		if _, err := d.KeepPreview(t.Context(), "blog--c", true); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Hour)
		if _, err := pushBranch(t, w, d, "b", app); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour + 2*time.Minute)
		if got := previewsOf(t, w); got != "blog--b:2 blog--c:1" {
			t.Errorf("after 3 h: %s", got)
		}
		if heads := w.Repos.Heads("blog"); len(heads) != 3 {
			t.Errorf("the branches are %v", heads)
		}
		// A time that passes while mesh is down counts.
		stop()
		pass(3 * time.Hour)
		d, _ = w.Start()
		pass(2 * time.Minute)
		if got := previewsOf(t, w); got != "blog--c:1" {
			t.Errorf("after a restart: %s", got)
		}
		if _, err := d.KeepPreview(t.Context(), "blog--c", false); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		if got := previewsOf(t, w); got != "blog--c:1" {
			t.Errorf("an hour after it is no longer kept: %s", got)
		}
		pass(2*time.Hour + time.Minute)
		if got := previewsOf(t, w); got != "" {
			t.Errorf("3 h after it is no longer kept: %s", got)
		}
		sound(t, w)
	})
}

// Whatever comes at once, there are never more than previews-max, and no push that is
// accepted loses its preview to another one that deploys.
func TestPreview_RoomForManyAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		setBlog(t, d, "previews=true", "previews-max=2")
		var pushes []mesh.Push
		for i := range 6 {
			p := w.Commit("blog", app)
			p.Branch = fmt.Sprintf("b%d", i%5) // one branch twice
			pushes = append(pushes, p)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var errs []error
		for _, p := range pushes {
			wg.Go(func() {
				err := d.Push(t.Context(), p, io.Discard)
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			})
		}
		wg.Wait()
		pass(time.Minute)
		all, err := w.Store.Previews(t.Context(), "blog")
		if err != nil || len(all) == 0 || len(all) > 2 {
			t.Errorf("%d previews, %v", len(all), err)
		}
		for _, err := range errs {
			if err != nil && !errors.Is(err, mesh.Conflict) && !errors.Is(err, mesh.Cancelled) && !errors.Is(err, mesh.NoStack) {
				t.Errorf("a push failed with %v", err)
			}
		}
		for _, st := range all {
			soundStack(t, w, st.Name)
		}
	})
}

func TestPreview_NamesThatAreTaken(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		setBlog(t, d, "previews=true")
		if _, err := d.CreateStack(t.Context(), "blog--x", "ci"); err != nil {
			t.Fatal(err)
		}
		if _, err := pushBranch(t, w, d, "x", app); err != nil {
			t.Fatal(err)
		}
		got := previewsOf(t, w)
		if !strings.HasPrefix(got, "blog--x-") || !strings.HasSuffix(got, ":1") {
			t.Errorf("the preview is %s", got)
		}
		if _, err := pushBranch(t, w, d, "x", app); err != nil || strings.Contains(previewsOf(t, w), " ") || !strings.HasSuffix(previewsOf(t, w), ":2") {
			t.Errorf("pushed again: %s, %v", previewsOf(t, w), err)
		}
	})
}

// A preview whose stack is gone, as after a kill in the middle of its destruction, goes too.
func TestPreview_Orphan(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, app)
		setBlog(t, d, "previews=true")
		if _, err := pushBranch(t, w, d, "x", app); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := w.Store.DestroyStack(t.Context(), "blog"); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Start()
		pass(2 * time.Minute)
		if all, err := w.Store.Stacks(t.Context()); err != nil || len(all) > 0 || w.Runner.Names() != "" {
			t.Errorf("left: %v, %v, %q", all, err, w.Runner.Names())
		}
	})
}

func TestAdmitRef_Previews(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		key := mesh.Key{Name: "ci", Role: mesh.RoleDeploy}
		const c = mesh.Commit("0123456789012345678901234567890123456789")
		admit := func(branch string, to mesh.Commit) string {
			t.Helper()
			err := d.AdmitRef(t.Context(), key, "blog", mesh.RefUpdate{Ref: "refs/heads/" + branch, New: to})
			if err == nil {
				return ""
			}
			var e *mesh.Error
			if !errors.As(err, &e) || e.Hint == "" && to != "" {
				t.Errorf("%s: %v", branch, err)
			}
			return e.Text
		}
		if got := admit("feat/x", c); !strings.Contains(got, "blog deploys main only") {
			t.Errorf("without previews: %q", got)
		}
		setBlog(t, d, "previews=feat/*")
		if got := admit("feat/x", c); got != "" {
			t.Errorf("a branch with previews: %q", got)
		}
		if got := admit("fix", c); !strings.Contains(got, "previews of feat/* only") {
			t.Errorf("a branch without: %q", got)
		}
		if got := admit("feat/x", ""); !strings.Contains(got, "has no branch feat/x") {
			t.Errorf("a branch that does not exist, deleted: %q", got)
		}
		if _, err := pushBranch(t, w, d, "feat/x", app); err != nil {
			t.Fatal(err)
		}
		if got := admit("feat/x", ""); got != "" {
			t.Errorf("a preview's branch, deleted: %q", got)
		}
		if got := admit("main", ""); !strings.Contains(got, "cannot be deleted") {
			t.Errorf("the deploy branch, deleted: %q", got)
		}
		setBlog(t, d, "previews=true")
		for branch, beside := range map[string]string{"feat": "feat/x", "feat/x/y": "feat/x", "main/next": "main", "feat/xy": "", "ma": ""} {
			if got := admit(branch, c); beside == "" && got != "" || beside != "" && got != "git cannot have the branch "+branch+" beside "+beside {
				t.Errorf("%s: %q", branch, got)
			}
		}
		// A branch that was set is the deploy branch; git cannot have the preview's then.
		setBlog(t, d, "branch=feat")
		if got := keysOf(w.Repos.Heads("blog")); !slices.Equal(got, []string{"feat"}) {
			t.Errorf("with another deploy branch, the branches are %v", got)
		}
		if got := admit("feat/x", c); got != "git cannot have the branch feat/x beside feat" {
			t.Errorf("beside the deploy branch: %q", got)
		}
		if got := admit("feat", c); got != "" {
			t.Errorf("the deploy branch: %q", got)
		}
		setBlog(t, d, "branch=main", "previews=feat/*")
		if err := d.AdmitPush(t.Context(), key, "blog--feat-x"); !errors.Is(err, mesh.Denied) {
			t.Errorf("a push to a preview: %v", err)
		}
		if _, err := d.Lock(t.Context(), "blog", "ci", ""); err != nil {
			t.Fatal(err)
		}
		if err := d.AdmitPush(t.Context(), key, "blog"); err != nil {
			t.Errorf("locked: %v", err)
		}
		if got := admit("feat/x", c); got != "" {
			t.Errorf("locked, a preview: %q", got)
		}
		if got := admit("main", c); !strings.Contains(got, "locked") {
			t.Errorf("locked, the deploy branch: %q", got)
		}
		if err := d.EndPreview(t.Context(), "blog", "feat/x", "ci", io.Discard); err != nil || previewsOf(t, w) != "" {
			t.Errorf("destroyed: %v, %s", err, previewsOf(t, w))
		}
		if !slices.Equal(keysOf(w.Repos.Heads("blog")), []string{"main"}) {
			t.Errorf("the branches are %v", w.Repos.Heads("blog"))
		}
	})
}

func keysOf(m map[string]mesh.Commit) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
