package repos

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mesh"
	"mesh/repos/repostest"
)

// openRepos opens repositories in a new folder. state returns what is deployed, and may
// be changed while nothing else runs.
func openRepos(t testing.TB) *Repos { return openIn(t, t.TempDir(), &mesh.RepoState{}) }

func openIn(t testing.TB, dir string, state *mesh.RepoState) *Repos {
	t.Helper()
	r, err := Open(Options{
		Dir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Deployed: func(context.Context, mesh.StackName) (mesh.RepoState, error) { return *state, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// push sends commits into the stack's repository past the hooks.
func push(t *testing.T, w *repostest.Checkout, r *Repos, stack mesh.StackName, refspecs ...string) {
	t.Helper()
	w.Git(append([]string{"push", "-q", "-f", r.path(stack)}, refspecs...)...)
}

// stackRepo creates the repository of blog.
func stackRepo(t *testing.T) *Repos {
	t.Helper()
	r := openRepos(t)
	if err := r.Ensure("blog"); err != nil {
		t.Fatal(err)
	}
	return r
}

func refs(t *testing.T, r *Repos) map[string]mesh.Commit {
	t.Helper()
	out, err := r.run(t.Context(), "blog", "for-each-ref", "--format=%(refname) %(objectname)")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]mesh.Commit{}
	for l := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), " ")
		m[k] = mesh.Commit(v)
	}
	return m
}

func TestRepos_EnterAndLeave(t *testing.T) {
	t.Parallel()
	r := openRepos(t)
	w := repostest.New(t)
	first := w.Commit("first")
	deployed := func(state mesh.RepoState, err error) {
		r.Deployed = func(context.Context, mesh.StackName) (mesh.RepoState, error) { return state, err }
	}
	enter := func(keep bool) func(context.Context) error {
		t.Helper()
		leave, err := r.Enter("blog", keep)
		if err != nil || !r.Exists("blog") {
			t.Fatal(err)
		}
		return leave
	}
	none := mesh.Errorf(mesh.NoStack, "no stack")
	deployed(mesh.RepoState{}, none)
	leave1, leave2 := enter(false), enter(false)
	push(t, w, r, "blog", "main")
	if err := leave1(t.Context()); err != nil {
		t.Fatal(err)
	}
	if refs(t, r)["refs/heads/main"] != first {
		t.Error("the branch was reset while a push is under way")
	}
	deployed(mesh.RepoState{Branch: "main"}, nil)
	if err := leave2(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := refs(t, r); got["refs/heads/main"] != "" || got[keptRefs+string(first)] != first {
		t.Errorf("what is not deployed: %v", got)
	}
	deployed(mesh.RepoState{}, none)
	if err := enter(true)(t.Context()); err != nil || !r.Exists("blog") {
		t.Errorf("the repository of a stack to come was removed: %v", err)
	}
	if err := enter(false)(t.Context()); err != nil || r.Exists("blog") {
		t.Errorf("the repository of no stack is left: %v", err)
	}
	failed := errors.New("store")
	deployed(mesh.RepoState{}, failed)
	if err := enter(false)(t.Context()); !errors.Is(err, failed) || !r.Exists("blog") {
		t.Errorf("with a store that fails: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	leave := enter(false)
	cancel()
	deployed(mesh.RepoState{Branch: "main", Commit: first}, nil)
	push(t, w, r, "blog", "main:refs/heads/other")
	if err := leave(gone); err != nil || refs(t, r)["refs/heads/other"] != "" || refs(t, r)["refs/heads/main"] != first {
		t.Errorf("after a pusher that is gone: %v, %v", refs(t, r), err)
	}
	for range 2 {
		if err := r.Remove(t.Context(), "blog"); err != nil || r.Exists("blog") {
			t.Errorf("not removed: %v", err)
		}
	}
}

func TestResetBranch(t *testing.T) {
	t.Parallel()
	var state mesh.RepoState
	r := openIn(t, t.TempDir(), &state)
	if err := r.Ensure("blog"); err != nil {
		t.Fatal(err)
	}
	w := repostest.New(t)
	one := w.Commit("one")
	two := w.Commit("two")
	push(t, w, r, "blog", "main:refs/heads/main", "main:refs/heads/other", string(one)+":refs/heads/deep/er", "main:refs/tags/v1")
	reset := func(branch string, c mesh.Commit) map[string]mesh.Commit {
		t.Helper()
		state = mesh.RepoState{Branch: branch, Commit: c}
		if err := r.ResetBranch(t.Context(), "blog"); err != nil {
			t.Fatal(err)
		}
		return refs(t, r)
	}
	for range 2 {
		got := reset("main", one)
		if got["refs/heads/main"] != one || got["refs/heads/other"] != "" || got["refs/heads/deep/er"] != "" || got["refs/tags/v1"] != two || got[keptRefs+string(two)] != two {
			t.Errorf("got %v", got)
		}
	}
	if got := reset("other", two); got["refs/heads/other"] != two || got["refs/heads/main"] != "" {
		t.Errorf("another deploy branch: %v", got)
	}
	if head, err := os.ReadFile(filepath.Join(r.path("blog"), "HEAD")); err != nil || string(head) != "ref: refs/heads/other\n" {
		t.Errorf("HEAD is %q, %v", head, err)
	}
	if got := reset("main", ""); got["refs/heads/main"] != "" || got["refs/heads/other"] != "" {
		t.Errorf("nothing deployed: %v", got)
	}
	if got := reset("main", one); got["refs/heads/main"] != one {
		t.Errorf("made again: %v", got)
	}
	// Branches in packed-refs count as well.
	push(t, w, r, "blog", "main:refs/heads/packed")
	if _, err := r.run(t.Context(), "blog", "pack-refs", "--all"); err != nil {
		t.Fatal(err)
	}
	if got := reset("main", one); got["refs/heads/packed"] != "" || got["refs/heads/main"] != one {
		t.Errorf("packed: %v", got)
	}
	if err := r.ResetBranch(t.Context(), "none"); err != nil {
		t.Errorf("no repository: %v", err)
	}
}

func TestUndo_PutsBackAndKeepsFive(t *testing.T) {
	t.Parallel()
	var state mesh.RepoState
	r := openIn(t, t.TempDir(), &state)
	if err := r.Ensure("blog"); err != nil {
		t.Fatal(err)
	}
	w := repostest.New(t)
	good := w.Commit("good")
	push(t, w, r, "blog", "main")
	state = mesh.RepoState{Branch: "main", Commit: good}
	var bad []mesh.Commit
	for i := range 7 {
		bad = append(bad, w.Commit(fmt.Sprint("bad ", i)))
		push(t, w, r, "blog", "main")
		if err := r.Undo(t.Context(), "blog", mesh.RefUpdate{Ref: "refs/heads/main", Old: good, New: bad[i]}); err != nil {
			t.Fatal(err)
		}
		if got := refs(t, r); got["refs/heads/main"] != good {
			t.Fatalf("after %d: %v", i, got)
		}
	}
	want := slices.Clone(bad[2:])
	slices.Reverse(want)
	if got := r.kept("blog"); !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	// Another push came since: its commit stays.
	push(t, w, r, "blog", "main")
	if err := r.Undo(t.Context(), "blog", mesh.RefUpdate{Ref: "refs/heads/main", New: bad[3]}); err != nil {
		t.Fatal(err)
	}
	if got := refs(t, r)["refs/heads/main"]; got != bad[6] {
		t.Errorf("a newer push was taken back to %s", got)
	}
	// An older commit that is refused again stays among the kept.
	if err := r.Undo(t.Context(), "blog", mesh.RefUpdate{Ref: "refs/heads/main", New: bad[0]}); err != nil {
		t.Fatal(err)
	}
	if got := refs(t, r)[keptRefs+string(bad[0])]; got != bad[0] {
		t.Error("a commit that was just refused is not kept")
	}
	// A branch that does not belong to the stack is removed.
	push(t, w, r, "blog", "main:refs/heads/x")
	if err := r.Undo(t.Context(), "blog", mesh.RefUpdate{Ref: "refs/heads/x", New: bad[6]}); err != nil || refs(t, r)["refs/heads/x"] != "" {
		t.Errorf("%v, %v", err, refs(t, r))
	}
	if r.kept("none") != nil {
		t.Error("kept commits of no repository")
	}
}

func TestOpen_RemovesWhatAKilledGitLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openIn(t, dir, &mesh.RepoState{Branch: "main"})
	if err := r.Ensure("blog"); err != nil {
		t.Fatal(err)
	}
	w := repostest.New(t)
	c := w.Commit("one")
	push(t, w, r, "blog", "main")
	left := []string{"blog.git/objects/tmp_objdir-incoming-x/pack/p", "blog.git/objects/pack/tmp_pack_x", "blog.git/refs/heads/main.lock", "blog.git/HEAD.lock", "blog.git/packed-refs.lock", "shop.git.new/HEAD"}
	for _, p := range left {
		path := filepath.Join(dir, "repos", p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	r = openIn(t, dir, &mesh.RepoState{Branch: "main"})
	for _, p := range left {
		if _, err := os.Stat(filepath.Join(dir, "repos", p)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", p, err)
		}
	}
	if err := r.ResetBranch(t.Context(), "blog"); err != nil {
		t.Error(err)
	}
	if refs(t, r)[keptRefs+string(c)] != c {
		t.Error("a commit is lost")
	}
}

func TestGit_EnvironmentIsItsOwn(t *testing.T) {
	t.Parallel()
	r := openRepos(t)
	for in, passes := range map[string]bool{
		"GIT_PROTOCOL=version=2": true, "GIT_PROTOCOL=version=3": false, "GIT_PROTOCOL=version=2:x": false, "GIT_PROTOCOL=": false, "GIT_CONFIG_COUNT=1": false,
		"GIT_SSH_COMMAND=id": false, "LD_PRELOAD=x": false, "PATH=/tmp": false, "GIT_DIR=/": false,
	} {
		cmd := r.Git(t.Context(), "blog", []string{in}, "receive-pack")
		if slices.Contains(cmd.Env, in) != passes {
			t.Errorf("%s: environment %q", in, cmd.Env)
		}
		if !slices.Equal(cmd.Args[len(cmd.Args)-3:], []string{"receive-pack", "--", r.path("blog")}) {
			t.Errorf("arguments %q", cmd.Args)
		}
	}
}

// A copy of the files alone is a repository as well.
func TestOpen_WithoutEmptyFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openIn(t, dir, &mesh.RepoState{Branch: "main"})
	if err := r.Ensure("blog"); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"objects", "refs"} {
		if err := os.RemoveAll(filepath.Join(dir, "repos", "blog.git", folder)); err != nil {
			t.Fatal(err)
		}
	}
	r = openIn(t, dir, &mesh.RepoState{Branch: "main"})
	w := repostest.New(t)
	w.Commit("one")
	push(t, w, r, "blog", "main")
}

func TestOpen_TreeInOrder(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := repostest.New(t)
	big := make([]byte, 3<<20)
	if _, err := rand.Read(big); err != nil {
		t.Fatal(err)
	}
	w.Write("a/x", []byte("in a"), 0o644)
	w.Write("a/y/z", []byte("deep"), 0o644)
	w.Write("a.b", []byte("after a/ in bytes, before it for git"), 0o644)
	w.Write("a0", nil, 0o644)
	w.Write("bin/run", []byte("#!/bin/sh\n"), 0o755)
	w.Write("big", big, 0o644)
	w.Write("grüße\n", []byte("name"), 0o644)
	if err := errors.Join(os.Symlink("../nowhere/at all", filepath.Join(w.Dir, "link")), os.Symlink("a", filepath.Join(w.Dir, "dirlink"))); err != nil {
		t.Fatal(err)
	}
	w.Git("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("a", 40)+",module")
	w.Git("add", "-A", "--", ":!module")
	w.Git("commit", "-q", "-m", "one")
	c := mesh.Commit(w.Git("rev-parse", "HEAD"))
	push(t, w, r, "blog", "main")
	tree, subject, release, err := r.Open(t.Context(), "blog", c)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if subject != "one" {
		t.Errorf("subject %q", subject)
	}
	var got []string
	for _, e := range tree.Entries() {
		line := fmt.Sprintf("%s %v %d", e.Path, e.Mode, e.Size)
		if e.Link != "" {
			line += " → " + e.Link
		}
		if e.Module != "" {
			line += " @ " + e.Module
		}
		got = append(got, line)
		if e.Mode.IsRegular() != (len(e.ID) == 40) && e.Mode&fs.ModeSymlink == 0 {
			t.Errorf("%s has the id %q", e.Path, e.ID)
		}
	}
	want := []string{
		"a drwxr-xr-x 0", "a/x -rw-r--r-- 4", "a/y drwxr-xr-x 0", "a/y/z -rw-r--r-- 4", "a.b -rw-r--r-- 36", "a0 -rw-r--r-- 0", "big -rw-r--r-- 3145728", "bin drwxr-xr-x 0", "bin/run -rwxr-xr-x 10",
		"dirlink Lrwxrwxrwx 0 → a", "grüße\n -rw-r--r-- 4", "link Lrwxrwxrwx 0 → ../nowhere/at all", "module drwxr-xr-x 0 @ " + strings.Repeat("a", 40),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, e := range tree.Entries() {
		if !e.Mode.IsRegular() {
			continue
		}
		f, err := tree.Open(e)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if err = errors.Join(err, f.Close()); err != nil || int64(len(data)) != e.Size {
			t.Errorf("%s: %d bytes of %d, %v", e.Path, len(data), e.Size, err)
		}
		if e.Path == "big" && !bytes.Equal(data, big) {
			t.Error("big is something else")
		}
	}
	if _, err := tree.Open(mesh.TreeEntry{Path: "x", ID: string(mesh.Commit(strings.Repeat("b", 40)))}); err == nil {
		t.Error("a file that is not there")
	}
	if _, _, _, err := r.Open(t.Context(), "blog", mesh.Commit(strings.Repeat("b", 40))); err == nil {
		t.Error("a commit that is not there")
	}
}

// By default git keeps more than 100 objects as one pack and unpacks fewer; here it is
// always a pack.
func TestOpen_ManyFilesInOnePack(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := repostest.New(t)
	for i := range 300 {
		w.Write(fmt.Sprintf("d%d/f%03d", i%7, i), fmt.Appendf(nil, "file %d", i), 0o644)
	}
	c := w.Commit("many")
	push(t, w, r, "blog", "main")
	tree, _, release, err := r.Open(t.Context(), "blog", c)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if n := len(tree.Entries()); n != 307 {
		t.Errorf("%d entries", n)
	}
	// Several readers at once.
	done := make(chan error)
	for k := range 4 {
		go func() {
			var all error
			for i, e := range tree.Entries() {
				if i%4 != k || !e.Mode.IsRegular() {
					continue
				}
				f, err := tree.Open(e)
				if err != nil {
					all = errors.Join(all, err)
					continue
				}
				data, err := io.ReadAll(f)
				if all = errors.Join(all, err, f.Close()); int64(len(data)) != e.Size {
					all = errors.Join(all, fmt.Errorf("%s: %q", e.Path, data))
				}
			}
			done <- all
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestOpen_SubjectIsPrintable(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := repostest.New(t)
	for message, want := range map[string]string{
		"Fix header\n\nbody":            "Fix header",
		"\n\n  spaced  \nx":             "spaced",
		"\x1b[31mred\x07\x1b]0;title\a": `\x1b[31mred\x07\x1b]0;title\x07`,
		"c1 \u009b31m control":          `c1 \u009b31m control`,
		strings.Repeat("x", 100):        strings.Repeat("x", 72) + "…",
		"grüße 世界":                      "grüße 世界",
	} {
		c := w.Commit(message)
		push(t, w, r, "blog", "main")
		_, subject, release, err := r.Open(t.Context(), "blog", c)
		if err != nil {
			t.Fatal(err)
		}
		release()
		if strings.TrimSpace(subject) != want {
			t.Errorf("%q is shown as %q, want %q", message, subject, want)
		}
	}
}

func TestPeel(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := repostest.New(t)
	w.Write("f", []byte("x"), 0o644)
	c := w.Commit("one")
	w.Git("tag", "-a", "-m", "x", "v1")
	w.Git("tag", "-a", "-m", "x", "v2", "v1")
	w.Git("tag", "-a", "-m", "x", "tree", "HEAD^{tree}")
	push(t, w, r, "blog", "main", "v1", "v2", "tree")
	got := refs(t, r)
	for _, tag := range []string{"refs/heads/main", "refs/tags/v1", "refs/tags/v2"} {
		if p, err := r.Peel("blog", got[tag]); err != nil || p != c {
			t.Errorf("%s peels to %s, %v", tag, p, err)
		}
	}
	if p, err := r.Peel("blog", got["refs/tags/tree"]); err == nil {
		t.Errorf("a tagged tree peels to %s", p)
	}
}

// The repository of a stack that nobody destroyed is moved aside, not deleted: the
// record may be what is missing.
func TestPrune_DeletesOnlyWhatWasDestroyed(t *testing.T) {
	t.Parallel()
	r := openRepos(t)
	for _, name := range []mesh.StackName{"kept", "was", "destroyed", "unheard-of"} {
		if err := r.Ensure(name); err != nil {
			t.Fatal(err)
		}
	}
	var aside []string
	err := r.Prune([]mesh.Stack{{Name: "kept"}, {Name: "now", Was: "was"}}, []mesh.StackName{"destroyed", "was"}, func(path string) error {
		aside = append(aside, filepath.Base(path))
		return nil
	})
	if err != nil || !slices.Equal(aside, []string{"unheard-of.git"}) {
		t.Errorf("moved aside: %v, %v", aside, err)
	}
	for name, want := range map[mesh.StackName]bool{"kept": true, "was": true, "destroyed": false, "unheard-of": true} {
		if r.Exists(name) != want {
			t.Errorf("%s exists: %v", name, !want)
		}
	}
}
