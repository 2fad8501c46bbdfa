package deploy_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mesh"
	"mesh/deploy/deploytest"
)

// After a prune, or a restore on an empty engine, mesh builds the needed images by
// itself, each as a new release with the same config, one image at a time.
func TestAgain_BuildsWhatIsGoneByItself(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		files := map[string]string{"Procfile": "web: ./serve\nrelease: ./migrate"}
		mustPush(t, w, d, files)
		for _, name := range []mesh.StackName{"shop", "tick"} {
			if err := d.Push(t.Context(), w.Commit(name, files), io.Discard); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.SetConfig(t.Context(), "blog", "x", mesh.ConfigChange{Set: mesh.Config{"NOW": mesh.NewSecret("in force")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err := d.SetConfig(t.Context(), "blog", "x", mesh.ConfigChange{Set: mesh.Config{"LATER": mesh.NewSecret("recorded")}, RecordOnly: true}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Lock(t.Context(), "blog", "x", "frozen"); err != nil {
			t.Fatal(err)
		}
		stop()
		for _, c := range w.Runner.Containers() {
			w.Runner.Vanish(c.ID)
		}
		w.Builder.Lose()
		w.Router = deploytest.NewRouter()
		building, most := 0, 0
		w.Builder.BuildFunc = func(ctx context.Context, b mesh.Build, _ io.Writer) error {
			building++
			most = max(most, building)
			defer func() { building-- }()
			if b.Stack == "blog" {
				if got := d.Status("blog")[0]; got.State != mesh.NoImage || !strings.Contains(got.Why, "rebuilding it") {
					t.Errorf("ps says %+v", got)
				}
				if s, err := d.RepoState(ctx, "blog"); err != nil || s.Commit != "" {
					t.Errorf("a push of the commit would be a no-op: %+v, %v", s, err)
				}
			}
			<-time.After(5 * time.Second)
			return nil
		}
		w.Runner.OneOffFunc = func(context.Context, mesh.OneOff) (int, error) {
			t.Error("the release command runs again")
			return 0, nil
		}
		d = w.Deployer()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		if err := d.Reconcile(ctx); err != nil {
			t.Fatal(err)
		}
		go func() { done <- d.Run(ctx) }()
		pass(time.Minute)
		for _, name := range []mesh.StackName{"blog", "shop", "tick"} {
			soundStack(t, w, name)
			if l := d.Loss(name); l != "" {
				t.Errorf("%s: %s", name, l)
			}
		}
		if most != 1 {
			t.Errorf("%d builds at once", most)
		}
		r := release(t, w, 3)
		if r.By != "mesh" || !strings.Contains(r.Description, "the image of v2 was missing") || r.Config["NOW"].Reveal() != "in force" || len(r.Config) != 1 {
			t.Errorf("got %+v", r)
		}
		if st := stack(t, w); st.Config["LATER"].Reveal() != "recorded" || st.Lock == nil {
			t.Errorf("got %+v", st)
		}
		if dep := last(t, w); dep.Kind != mesh.DeployRebuild || dep.By != "mesh" || dep.Status != mesh.StatusLive {
			t.Errorf("got %+v", dep)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A failed build is reported and tried again at growing intervals; meanwhile a push of
// the same commit is possible.
func TestAgain_FailureIsToldAndTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		var tries atomic.Int32
		var well atomic.Bool
		w.Builder.BuildFunc = func(context.Context, mesh.Build, io.Writer) error {
			if tries.Add(1); !well.Load() {
				return failed(mesh.Failed, "npm is down")
			}
			return nil
		}
		w.Builder.Lose()
		w.Runner.Vanish("c1")
		pass(30 * time.Second)
		if got := d.Status("blog")[0]; got.State != mesh.NoImage || !strings.Contains(got.Why, "npm is down") {
			t.Errorf("ps says %+v", got)
		}
		if f := d.Findings(t.Context()); len(f) != 2 || !strings.Contains(f[1].What, "npm is down") || f[1].Mend != "rebuild it: ssh mesh ps:rebuild -a blog" {
			t.Errorf("doctor says %+v", f)
		}
		if w.Repos.Head("blog") != "" {
			t.Error("a push of the same commit would be a no-op")
		}
		pass(2 * time.Hour)
		if n := tries.Load(); n < 5 || n > 12 {
			t.Errorf("%d tries in two hours", n)
		}
		well.Store(true)
		pass(time.Hour)
		sound(t, w)
	})
}

// If mesh has no source for an image, it says which command brings it back, and does
// not try.
func TestAgain_NoSource(t *testing.T) {
	for name, c := range map[string]struct {
		up   mesh.Upload
		hint string
	}{
		"a tree":     {mesh.Upload{Tree: deploytest.Tree(app), ID: "0123456789abcdef", Subject: "Upload of main"}, "tar c . | ssh mesh deploy -a blog"},
		"an archive": {mesh.Upload{From: mesh.From{Ref: "redis:7", Archive: strings.NewReader("")}, Subject: "Image redis:7, loaded"}, "docker save redis:7 | ssh mesh deploy -a blog --load redis:7"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *deploytest.World) {
				d, _ := w.Start()
				c.up.Stack, c.up.By = "blog", "x"
				if err := d.Upload(t.Context(), c.up, io.Discard); err != nil {
					t.Fatal(err)
				}
				w.Builder.Lose()
				w.Runner.Vanish("c1")
				pass(time.Hour)
				if got := d.Status("blog")[0]; got.State != mesh.NoImage || !strings.Contains(got.Why, c.hint) {
					t.Errorf("ps says %+v", got)
				}
				if n := len(w.Builder.Builds()); n != 1 {
					t.Errorf("%d builds", n)
				}
				err := d.Rebuild(t.Context(), "blog", "x", false, io.Discard)
				var e *mesh.Error
				if !errors.As(err, &e) || !strings.Contains(e.Hint, c.hint) {
					t.Errorf("rebuild: %v", err)
				}
				if ds, err := w.Store.Deployments(t.Context(), "blog", 0); err != nil || len(ds) != 1 {
					t.Errorf("%d deployments, %v", len(ds), err)
				}
			})
		})
	}
}

// A prebuilt image is pulled again by its digest; a promoted one is built from the
// repository that has its commit.
func TestAgain_DigestAndPromoted(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		if _, err := d.CreateStack(t.Context(), "live", "x"); err != nil {
			t.Fatal(err)
		}
		if err := d.Promote(t.Context(), "blog", "live", "x", io.Discard); err != nil {
			t.Fatal(err)
		}
		w.Builder.Shape = func(i *mesh.Image) {
			if strings.Contains(i.Ref, "redis") {
				i.Digest = "redis@sha256:1234"
			}
		}
		if err := d.Upload(t.Context(), mesh.Upload{Stack: "redis", By: "x", From: mesh.From{Ref: "redis:7"}, Subject: "Image redis:7"}, io.Discard); err != nil {
			t.Fatal(err)
		}
		w.Builder.Lose()
		for _, c := range w.Runner.Containers() {
			w.Runner.Vanish(c.ID)
		}
		pass(time.Minute)
		for _, name := range []mesh.StackName{"blog", "live", "redis"} {
			soundStack(t, w, name)
		}
		builds := w.Builder.Builds()
		asked := ""
		for _, b := range builds[2:] {
			asked += string(b.Stack) + " " + b.From.Ref + b.Commit.Short() + "; "
		}
		if !strings.Contains(asked, "redis redis@sha256:1234") {
			t.Errorf("asked for %s", asked)
		}
	})
}

// The image of a stopped stack is not built until the stack starts; a rollback also
// builds.
func TestAgain_StartAndRollbackBuild(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./other"})
		if err := d.Stop(t.Context(), "blog", "x", io.Discard); err != nil {
			t.Fatal(err)
		}
		w.Builder.Lose()
		pass(10 * time.Minute)
		if n := len(w.Builder.Builds()); n != 2 || d.Loss("blog") == "" {
			t.Errorf("%d builds, ps says %q", n, d.Loss("blog"))
		}
		if err := d.Start(t.Context(), "blog", "x", io.Discard); err != nil {
			t.Fatal(err)
		}
		sound(t, w)
		if st := stack(t, w); st.Current != 3 || st.Stopped || release(t, w, 3).Commit != release(t, w, 2).Commit {
			t.Errorf("got %+v", st)
		}
		pass(10 * time.Minute)
		if d.Loss("blog") != "" {
			t.Errorf("ps says %q", d.Loss("blog"))
		}
		if err := d.Rollback(t.Context(), "blog", "x", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		sound(t, w)
		if r := release(t, w, 4); r.Commit != release(t, w, 1).Commit || w.Repos.Head("blog") != r.Commit {
			t.Errorf("got %+v", r)
		}
	})
}

// A server that is stopped while it makes an image again ends.
func TestAgain_EndsWithTheServer(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, app)
		began := make(chan struct{})
		w.Builder.BuildFunc = func(ctx context.Context, _ mesh.Build, _ io.Writer) error {
			close(began)
			<-ctx.Done()
			return context.Cause(ctx)
		}
		w.Builder.Lose()
		w.Runner.Vanish("c1")
		<-began
		stop()
		if dep := last(t, w); dep.Status != mesh.StatusCancelled {
			t.Errorf("got %+v", dep)
		}
	})
}
