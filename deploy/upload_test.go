package deploy_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
)

func TestUpload_IsDeployedLikeAPush(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		tree := deploytest.Tree{"Dockerfile": "FROM scratch", "Procfile": "web: ./serve\nworker: ./work\nrelease: ./migrate"}
		up := mesh.Upload{Stack: "blog", By: "laptop", Tree: tree, ID: "0123456789abcdef", Subject: "Upload of main at 1a2b3c4"}
		var o deploytest.Output
		if err := d.Upload(t.Context(), up, &o); err != nil {
			t.Fatalf("%v\n%s", err, o.String())
		}
		sound(t, w)
		r := release(t, w, 1)
		if r.Commit != "" || r.Source != "Upload of main at 1a2b3c4" || r.Image.Ref != "mesh/blog:upload-0123456" || r.Formation["worker"] != 1 || r.Declared.Commands[mesh.ReleaseCommand] != "./migrate" {
			t.Errorf("got %+v", r)
		}
		if dep := last(t, w); dep.Kind != mesh.DeployUpload || dep.Status != mesh.StatusLive {
			t.Errorf("got %+v", dep)
		}
		// The Procfile's services are known without the tree.
		if err := d.UpdateService(t.Context(), "blog", "laptop", "worker", func(s *mesh.ServiceSettings) error { s.Command = "./other"; return nil }, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.DeleteService(t.Context(), "blog", "laptop", "worker", io.Discard); err != nil {
			t.Fatal(err)
		}
		if got := release(t, w, 3).Services["worker"].Command; got != "./work" {
			t.Errorf("the worker runs %q", got)
		}
		// A push after it: the branch follows the push, and a rollback to the upload
		// removes the branch, so that the commit can be pushed again.
		mustPush(t, w, d, app)
		if err := d.Rollback(t.Context(), "blog", "laptop", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		sound(t, w)
		if got := w.Repos.Head("blog"); got != "" {
			t.Errorf("the branch is at %s, which does not run", got)
		}
	})
}

func TestUpload_ImageHasNoTreeAndNoConfig(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		w.Builder.Shape = func(i *mesh.Image) { i.Digest = "redis@sha256:1234" }
		var o deploytest.Output
		err := d.Upload(t.Context(), mesh.Upload{Stack: "blog", By: "laptop", From: mesh.From{Ref: "redis:7"}, Subject: "Image redis:7"}, &o)
		if err != nil {
			t.Fatalf("%v\n%s", err, o.String())
		}
		sound(t, w)
		b := w.Builder.Builds()[0]
		if b.Tree != nil || b.From.Ref != "redis:7" || b.Config != nil || b.Tags[0] != "mesh/blog:deployment-1" {
			t.Errorf("got %+v", b)
		}
		if r := release(t, w, 1); r.Image.Digest != "redis@sha256:1234" {
			t.Errorf("got %+v", r)
		}
		if !strings.Contains(o.String(), "digest redis@sha256:1234") {
			t.Errorf("got %s", o.String())
		}
	})
}

// A clone has everything that people have set but the domains, and runs the same image. A
// name that is taken changes nothing.
func TestClone(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work"})
		if _, err := d.SetConfig(t.Context(), "blog", "x", mesh.ConfigChange{Set: mesh.Config{"ENV": mesh.NewSecret("staging-value")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Scale(t.Context(), "blog", "x", []mesh.Scale{{Service: "worker", To: 2}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.AddDomain(t.Context(), "blog", "www.example.com", "", mesh.Key{Role: mesh.RoleAdmin}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Lock(t.Context(), "blog", "x", "moving"); err != nil {
			t.Fatal(err)
		}
		if err := d.SetAccess(t.Context(), "blog", func(r *mesh.AccessRules) error { r.Except = []string{"/health"}; return nil }); err != nil {
			t.Fatal(err)
		}
		builds := len(w.Builder.Builds())
		for to, bare := range map[mesh.StackName]bool{"copy": false, "bare": true} {
			if err := d.Clone(t.Context(), "blog", to, "laptop", bare, io.Discard); err != nil {
				t.Fatal(err)
			}
			st, err := w.Store.Stack(t.Context(), to)
			if err != nil || st.CreatedBy != "laptop" || len(st.Domains) != 0 || len(st.Access.Except) != 1 || st.Lock != nil || st.Subnet == stack(t, w).Subnet {
				t.Errorf("%s: %+v, %v", to, st, err)
			}
			r, err := w.Store.Release(t.Context(), to, 1)
			if err != nil || r.Image.ID != release(t, w, 2).Image.ID || r.Formation["worker"] != 2 || (r.Config["ENV"].Reveal() == "staging-value") == bare {
				t.Errorf("%s: %+v, %v", to, r, err)
			}
		}
		if len(w.Builder.Builds()) != builds {
			t.Error("something was built")
		}
		for _, bad := range [][2]mesh.StackName{{"blog", "blog"}, {"blog", "copy"}, {"none", "new"}} {
			if err := d.Clone(t.Context(), bad[0], bad[1], "x", false, io.Discard); err == nil {
				t.Errorf("%v was cloned", bad)
			}
		}
		if _, err := d.CreateStack(t.Context(), "empty", "x"); err != nil {
			t.Fatal(err)
		}
		if err := d.Clone(t.Context(), "empty", "empty2", "x", false, io.Discard); err != nil {
			t.Errorf("a stack that is not deployed: %v", err)
		}
		if st, err := w.Store.Stack(t.Context(), "empty2"); err != nil || st.Current != 0 {
			t.Errorf("got %+v, %v", st, err)
		}
	})
}

func TestPromote_SameImageTargetsConfig(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./serve\nrelease: ./migrate"})
		if _, err := d.SetConfig(t.Context(), "blog", "x", mesh.ConfigChange{Set: mesh.Config{"ENV": mesh.NewSecret("staging-value")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if _, err := d.CreateStack(t.Context(), "live", "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.SetConfig(t.Context(), "live", "x", mesh.ConfigChange{Set: mesh.Config{"ENV": mesh.NewSecret("live-value")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := d.SetReleaseCommand(t.Context(), "live", "./other"); err != nil {
			t.Fatal(err)
		}
		var released []string
		w.Runner.OneOffFunc = func(_ context.Context, o mesh.OneOff) (int, error) {
			released = append(released, fmt.Sprint(o.Stack, o.Process, o.Env["ENV"].Reveal()))
			return 0, nil
		}
		builds := len(w.Builder.Builds())
		var o deploytest.Output
		if err := d.Promote(t.Context(), "blog", "live", "laptop", &o); err != nil {
			t.Fatalf("%v\n%s", err, o.String())
		}
		soundStack(t, w, "blog")
		from := release(t, w, 2)
		r, err := w.Store.Release(t.Context(), "live", 1)
		if err != nil || r.Image.ID != from.Image.ID || r.Commit != from.Commit || !r.Elsewhere || r.Config["ENV"].Reveal() != "live-value" || r.Services["web"].Command != "./serve" {
			t.Errorf("got %+v, %v", r, err)
		}
		if len(w.Builder.Builds()) != builds {
			t.Error("something was built")
		}
		if len(released) != 1 || !strings.Contains(released[0], "live") || !strings.Contains(released[0], "./other") || !strings.Contains(released[0], "live-value") {
			t.Errorf("released %q", released)
		}
		// The target's repository does not have the commit, and is not changed.
		if s, err := d.RepoState(t.Context(), "live"); err != nil || s.Commit != "" {
			t.Errorf("got %+v, %v", s, err)
		}
		for _, bad := range [][2]mesh.StackName{{"blog", "blog"}, {"none", "live"}, {"blog", "none"}} {
			if err := d.Promote(t.Context(), bad[0], bad[1], "laptop", io.Discard); err == nil {
				t.Errorf("%v was promoted", bad)
			}
		}
	})
}

// Promoted, uploaded and prebuilt images have no commit in the repository: the deploy
// branch must be absent, or git would call a push up to date.
func TestRepoState_NamesOnlyWhatRuns(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		own := release(t, w, 1).Commit
		if _, err := d.CreateStack(t.Context(), "stage", "x"); err != nil {
			t.Fatal(err)
		}
		other := w.Commit("stage", map[string]string{"Procfile": "web: ./other"})
		if err := d.Push(t.Context(), other, io.Discard); err != nil {
			t.Fatal(err)
		}
		at := func(when string, want mesh.Commit) {
			t.Helper()
			if s, err := d.RepoState(t.Context(), "blog"); err != nil || s.Branch != "main" || s.Commit != want {
				t.Errorf("%s: got %+v, %v; want %q", when, s, err, want)
			}
			sound(t, w)
		}
		at("pushed", own)
		if err := d.Promote(t.Context(), "stage", "blog", "x", io.Discard); err != nil {
			t.Fatal(err)
		}
		at("promoted", "")
		if _, err := d.SetConfig(t.Context(), "blog", "x", mesh.ConfigChange{Set: mesh.Config{"A": mesh.NewSecret("b")}}, io.Discard); err != nil {
			t.Fatal(err)
		}
		at("promoted, and its config changed", "")
		if err := d.Rollback(t.Context(), "blog", "x", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		at("rolled back", own)
		if err := d.Upload(t.Context(), mesh.Upload{Stack: "blog", By: "x", From: mesh.From{Ref: "redis:7"}, Subject: "Image redis:7"}, io.Discard); err != nil {
			t.Fatal(err)
		}
		at("a prebuilt image", "")
		if err := d.Push(t.Context(), mesh.Push{Stack: "blog", By: "x", Branch: "main", Commit: own}, io.Discard); err != nil {
			t.Fatal(err)
		}
		w.Repos.Move("blog", mesh.RepoState{Branch: "main", Commit: own}) // the receiver's part
		at("pushed again", own)
	})
}
