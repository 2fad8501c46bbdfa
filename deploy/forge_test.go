package deploy_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

const forgeURL = "https://forge.example/ann/blog"

var web = map[string]string{"Procfile": "web: ./serve"}

// follows makes blog follow a repository, and waits until it is looked at.
func follows(t *testing.T, d *deploy.Deployer, url, branch string) {
	t.Helper()
	if _, err := d.FollowForge(t.Context(), "blog", url, branch); err != nil {
		t.Fatal(err)
	}
	pass(time.Second)
}

// told sends a webhook about a branch of blog's repository.
func told(t *testing.T, d *deploy.Deployer, branch string) {
	t.Helper()
	if err := d.ForgeEvent(t.Context(), "blog", mesh.ForgeEvent{Kind: mesh.Gitea, Branch: branch}); err != nil {
		t.Fatal(err)
	}
}

// isLive reports whether a commit is that of the current release of a stack.
func isLive(t *testing.T, w *deploytest.World, stack mesh.StackName, c mesh.Commit) bool {
	t.Helper()
	st, err := w.Store.Stack(t.Context(), stack)
	if errors.Is(err, mesh.NoStack) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.Store.Release(t.Context(), stack, st.Current)
	return err == nil && r.Commit == c
}

func pending(t *testing.T, w *deploytest.World) []string {
	t.Helper()
	st, err := w.Store.Stack(t.Context(), "blog")
	if err != nil {
		t.Fatal(err)
	}
	return st.Forge.Pending
}

// What is pushed while the branch is fetched or deployed is deployed after it.
func TestForge_APushMeanwhileIsNotLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, web)
		w.Repos.Elsewhere("main", web)
		var last mesh.Commit
		w.Builder.BuildFunc = func(context.Context, mesh.Build, io.Writer) error {
			if last == "" {
				last = w.Repos.Elsewhere("main", web)
				told(t, d, "main")
			}
			return nil
		}
		follows(t, d, forgeURL, "")
		pass(10 * time.Second)
		if !isLive(t, w, "blog", last) || len(pending(t, w)) > 0 {
			t.Errorf("the last commit is live: %v, to look at: %q", isLive(t, w, "blog", last), pending(t, w))
		}
		// Another repository, followed while the first one is fetched.
		next := mesh.Commit("")
		w.Repos.FetchFunc = func(string) error {
			w.Repos.FetchFunc = nil
			next = w.Repos.Elsewhere("main", web)
			_, err := d.FollowForge(t.Context(), "blog", forgeURL+"2", "")
			return err
		}
		w.Repos.Elsewhere("main", web)
		told(t, d, "main")
		pass(time.Minute)
		if !isLive(t, w, "blog", next) || len(pending(t, w)) > 0 {
			t.Errorf("of the other repository: %v, %q", isLive(t, w, "blog", next), pending(t, w))
		}
	})
}

// A branch that cannot be settled keeps no other one waiting, and leaves no deployments.
func TestForge_OneBranchDoesNotBlockOthers(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, web)
		setBlog(t, d, "previews=true")
		w.Repos.Elsewhere("main", web)
		follows(t, d, forgeURL, "")
		w.Repos.FetchFunc = func(branch string) error {
			if branch == "bad" {
				return failed(mesh.Unavailable, "the repository cannot be fetched")
			}
			return nil
		}
		w.Repos.Elsewhere("bad", web)
		told(t, d, "bad")
		pass(time.Hour)
		good := w.Repos.Elsewhere("main", web)
		told(t, d, "main")
		pass(time.Second)
		if !isLive(t, w, "blog", good) || !slices.Equal(pending(t, w), []string{"bad"}) {
			t.Errorf("main is live: %v, to look at: %q", isLive(t, w, "blog", good), pending(t, w))
		}
		// A lock concerns the stack, not its previews.
		if _, err := d.Lock(t.Context(), "blog", "ci", ""); err != nil {
			t.Fatal(err)
		}
		before, err := w.Store.Deployments(t.Context(), "blog", 1000)
		if err != nil {
			t.Fatal(err)
		}
		next, fix := w.Repos.Elsewhere("main", web), w.Repos.Elsewhere("fix", web)
		told(t, d, "main")
		pass(time.Hour)
		told(t, d, "fix")
		pass(time.Second)
		if after, err := w.Store.Deployments(t.Context(), "blog", 1000); err != nil || len(after) != len(before) {
			t.Errorf("%d deployments while it was locked, %v", len(after)-len(before), err)
		}
		if !isLive(t, w, "blog--fix", fix) || isLive(t, w, "blog", next) {
			t.Error("the preview waits for the lock, or main does not")
		}
		if err := d.Unlock(t.Context(), "blog"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if !isLive(t, w, "blog", next) {
			t.Error("nobody looked when it was unlocked")
		}
	})
}

// A branch with a preview is never deployed as the stack itself.
func TestForge_PreviewsAreNotTheStack(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		if _, err := d.CreateStack(t.Context(), "blog", "ci"); err != nil {
			t.Fatal(err)
		}
		setBlog(t, d, "previews=true")
		w.Builder.BuildFunc = func(context.Context, mesh.Build, io.Writer) error { return failed(mesh.Failed, "no build") }
		w.Repos.Elsewhere("main", web)
		fix := w.Repos.Elsewhere("fix", web)
		follows(t, d, forgeURL, "")
		w.Builder.BuildFunc = nil
		told(t, d, "fix")
		pass(10 * time.Minute)
		if err := d.SyncForge(t.Context(), "blog", "fix", io.Discard); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "has not deployed main yet") {
			t.Errorf("asked for: %v", err)
		}
		if st, err := w.Store.Stack(t.Context(), "blog"); err != nil || st.Current != 0 || st.Settings.Branch != "" {
			t.Fatalf("fix was deployed as the stack: %+v, %v", st.Settings, err)
		}
		main := w.Repos.Elsewhere("main", web)
		told(t, d, "main")
		pass(time.Minute)
		if !isLive(t, w, "blog", main) || !isLive(t, w, "blog--fix", fix) || len(pending(t, w)) > 0 {
			t.Errorf("main %v, fix %v, to look at: %q", isLive(t, w, "blog", main), isLive(t, w, "blog--fix", fix), pending(t, w))
		}
		// Another branch is followed than the deploy branch.
		release := w.Repos.Elsewhere("release", web)
		follows(t, d, forgeURL, "release")
		w.Repos.Elsewhere("main", web)
		told(t, d, "main")
		pass(time.Minute)
		if !isLive(t, w, "blog", release) {
			t.Error("main was deployed over release")
		}
	})
}

// A start destroys no preview that was pushed by hand.
func TestForge_AStartKeepsWhatWasPushedByHand(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := w.Start()
		mustPush(t, w, d, web)
		setBlog(t, d, "previews=true")
		w.Repos.Elsewhere("main", web)
		w.Repos.Elsewhere("theirs", web)
		follows(t, d, forgeURL, "")
		told(t, d, "theirs")
		if out, err := pushBranch(t, w, d, "ours", web); err != nil {
			t.Fatal(err, out)
		}
		pass(time.Second)
		if got := previewsOf(t, w); got != "blog--ours:1 blog--theirs:1" {
			t.Fatal(got)
		}
		w.Repos.Elsewhere("theirs", nil)
		stop()
		w.Start()
		pass(time.Minute)
		if got := previewsOf(t, w); got != "blog--ours:1" {
			t.Errorf("after a start: %s", got)
		}
	})
}

// What only tries creates no preview, and destroys none for it.
func TestPreview_ATryCreatesNone(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, web)
		setBlog(t, d, "previews=true", "previews-max=1")
		if out, err := pushBranch(t, w, d, "one", web); err != nil {
			t.Fatal(err, out)
		}
		p := w.Commit("blog", web)
		for _, p := range []mesh.Push{{Stack: "blog", By: "ci", Branch: "two", Commit: p.Commit, DryRun: true}, {Stack: "blog", By: "ci", Branch: "two", Commit: p.Commit, NoSwitch: true}} {
			if err := d.Push(t.Context(), p, io.Discard); !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), "has no preview of two yet") {
				t.Errorf("%+v: %v", p, err)
			}
		}
		if err := d.Push(t.Context(), mesh.Push{Stack: "blog", By: "ci", Branch: "one", Commit: p.Commit, DryRun: true}, io.Discard); err != nil {
			t.Error(err)
		}
		if got := previewsOf(t, w); got != "blog--one:1" {
			t.Errorf("%s", got)
		}
	})
}
