package deploytest

import (
	"context"
	"io"
	"maps"
	"testing"

	"mesh"
	"mesh/deploy"
)

// Archive is a Repos under test, and what the suite needs to use it.
type Archive struct {
	Repos deploy.Repos
	// Push adds a commit with these files to a stack's repository, which it creates,
	// and moves the branch main there.
	Push func(stack mesh.StackName, files map[string]string) mesh.Commit
	// Deployed sets the state that ResetBranch sees from now on.
	Deployed func(state mesh.RepoState)
	// Heads returns the commits of the branches.
	Heads func(stack mesh.StackName) map[string]mesh.Commit
}

// TestRepos is the contract of deploy.Repos.
func TestRepos(t *testing.T, w Archive) {
	t.Helper()
	ctx, r := t.Context(), w.Repos
	one := w.Push("shop", map[string]string{"a": "1", "dir/b": "22"})
	two := w.Push("shop", map[string]string{"a": "2"})
	tree, subject, release, err := r.Open(ctx, "shop", one)
	if err != nil {
		t.Fatal(err)
	}
	said, err := r.Subject(ctx, "shop", one)
	if err != nil || said == "" || said != subject {
		t.Errorf("the subject is %q and %q, %v", subject, said, err)
	}
	read := map[string]string{}
	for _, e := range tree.Entries() {
		if !e.Mode.IsRegular() {
			continue
		}
		f, err := tree.Open(e)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		_ = f.Close()
		if err != nil || int64(len(data)) != e.Size || e.ID == "" {
			t.Errorf("%s: %d bytes of %d, %v", e.Path, len(data), e.Size, err)
		}
		read[e.Path] = string(data)
	}
	release()
	release() // a second call does no harm
	if len(read) != 2 || read["a"] != "1" || read["dir/b"] != "22" {
		t.Errorf("read %v", read)
	}
	none := mesh.Commit("0123456789012345678901234567890123456789")
	if _, _, _, err := r.Open(ctx, "shop", none); err == nil {
		t.Error("opened a commit that is not there")
	}
	if _, err := r.Subject(ctx, "shop", none); err == nil {
		t.Error("the subject of a commit that is not there")
	}
	if fetched, err := r.FetchModules(ctx, "shop", two, func(string) {}); err != nil || fetched {
		t.Errorf("submodules of a tree without any: %v, %v", fetched, err)
	}

	// The deploy branch points where Deployed says, whatever was pushed.
	reset := func(stack mesh.StackName, to mesh.Commit) {
		t.Helper()
		w.Deployed(mesh.RepoState{Branch: "main", Commit: to})
		if err := r.ResetBranch(ctx, stack); err != nil || w.Heads(stack)["main"] != to {
			t.Errorf("the branch of %s is at %q, want %q, %v", stack, w.Heads(stack)["main"], to, err)
		}
	}
	reset("shop", one)
	reset("shop", "")
	reset("shop", two)
	// Previews have branches, and no others exist.
	for _, previews := range []map[string]mesh.Commit{{"feat/a": one, "fix-b": two, "new": ""}, {"feat/a": two}, {"feat": one}, {"feat/a": one, "feat/b": one}, {"feat": two, "feat/a": ""}, {}} {
		want := maps.Clone(previews)
		maps.DeleteFunc(want, func(_ string, at mesh.Commit) bool { return at == "" })
		want["main"] = two
		w.Deployed(mesh.RepoState{Branch: "main", Commit: two, Previews: previews})
		if err := r.ResetBranch(ctx, "shop"); err != nil || !maps.Equal(w.Heads("shop"), want) {
			t.Errorf("the branches are %v, want %v, %v", w.Heads("shop"), want, err)
		}
	}
	w.Deployed(mesh.RepoState{Branch: "main", Commit: one})
	if err := r.ResetBranch(ctx, "no-repository"); err != nil {
		t.Errorf("without a repository: %v", err)
	}

	// A renamed repository is complete. A second call finds nothing to do.
	for range 2 {
		if err := r.Rename(ctx, "shop", "journal"); err != nil {
			t.Fatal(err)
		}
	}
	reset("journal", one)
	if len(w.Heads("shop")) > 0 {
		t.Error("the old name is left")
	}
	for range 2 {
		if err := r.Remove(context.WithoutCancel(ctx), "journal"); err != nil {
			t.Error(err)
		}
	}
	if len(w.Heads("journal")) > 0 {
		t.Error("not removed")
	}
}
