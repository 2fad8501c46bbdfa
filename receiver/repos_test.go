package receiver

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
)

func openRepos(t testing.TB) *Repos {
	t.Helper()
	r, err := OpenRepos(t.TempDir(), 0, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// work is somebody's checkout.
type work struct {
	t    *testing.T
	dir  string
	tick int
}

func newWork(t *testing.T) *work {
	w := &work{t: t, dir: t.TempDir()}
	w.git("init", "-q", "-b", "main")
	return w
}

func (w *work) git(args ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "git", args...)
	cmd.Dir = w.dir
	w.tick++
	date := time.Date(2026, 1, 1, 0, 0, w.tick, 0, time.UTC).Format(time.RFC3339) // commits sort by it
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=file",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (w *work) write(name string, data []byte, mode fs.FileMode) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, mode)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *work) commit(message string) mesh.Commit {
	w.t.Helper()
	w.git("add", "-A")
	w.git("commit", "-q", "--allow-empty", "--cleanup=verbatim", "-m", message)
	return mesh.Commit(w.git("rev-parse", "HEAD"))
}

// push sends commits into the stack's repository past the hooks.
func (w *work) push(r *Repos, stack mesh.StackName, refspecs ...string) {
	w.t.Helper()
	w.git(append([]string{"push", "-q", "-f", r.path(stack)}, refspecs...)...)
}

// stackRepo makes the repository of blog.
func stackRepo(t *testing.T) *Repos {
	t.Helper()
	r := openRepos(t)
	if err := r.ensure("blog"); err != nil {
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
	w := newWork(t)
	first := w.commit("first")
	none := func() (mesh.RepoState, error) {
		return mesh.RepoState{}, mesh.Errorf(mesh.NoStack, "no stack")
	}
	leave1, err := r.enter("blog")
	if err != nil || !r.Exists("blog") {
		t.Fatal(err)
	}
	leave2, err := r.enter("blog")
	if err != nil {
		t.Fatal(err)
	}
	w.push(r, "blog", "main")
	if err := leave1(func() (mesh.RepoState, error) { t.Error("asked while a push is under way"); return none() }); err != nil {
		t.Fatal(err)
	}
	if refs(t, r)["refs/heads/main"] != first {
		t.Error("the branch was reset while a push is under way")
	}
	if err := leave2(func() (mesh.RepoState, error) { return mesh.RepoState{Branch: "main"}, nil }); err != nil {
		t.Fatal(err)
	}
	if got := refs(t, r); got["refs/heads/main"] != "" || got[keptRefs+string(first)] != first {
		t.Errorf("what is not deployed: %v", got)
	}
	leave, err := r.enter("blog")
	if err != nil {
		t.Fatal(err)
	}
	if err := leave(none); err != nil || r.Exists("blog") {
		t.Errorf("the repository of no stack is left: %v", err)
	}
	if leave, err = r.enter("blog"); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("store")
	if err := leave(func() (mesh.RepoState, error) { return mesh.RepoState{}, failed }); !errors.Is(err, failed) || !r.Exists("blog") {
		t.Errorf("with a store that fails: %v", err)
	}
	if err := r.Remove(t.Context(), "blog"); err != nil || r.Exists("blog") {
		t.Error("not removed")
	}
	if err := r.Remove(t.Context(), "blog"); err != nil {
		t.Errorf("removed twice: %v", err)
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := newWork(t)
	one := w.commit("one")
	two := w.commit("two")
	w.push(r, "blog", "main:refs/heads/main", "main:refs/heads/other", string(one)+":refs/heads/deep/er", "main:refs/tags/v1")
	reset := func(branch string, c mesh.Commit) map[string]mesh.Commit {
		t.Helper()
		if err := r.Reset(t.Context(), "blog", mesh.RepoState{Branch: branch, Commit: c}); err != nil {
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
	// Branches in packed-refs are branches, too.
	w.push(r, "blog", "main:refs/heads/packed")
	if _, err := r.run(t.Context(), "blog", "pack-refs", "--all"); err != nil {
		t.Fatal(err)
	}
	if got := reset("main", one); got["refs/heads/packed"] != "" || got["refs/heads/main"] != one {
		t.Errorf("packed: %v", got)
	}
	if err := r.Reset(t.Context(), "none", mesh.RepoState{Branch: "main", Commit: one}); err != nil {
		t.Errorf("no repository: %v", err)
	}
}

func TestRefuse_PutsBackAndKeepsFive(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := newWork(t)
	good := w.commit("good")
	w.push(r, "blog", "main")
	state := mesh.RepoState{Branch: "main", Commit: good}
	var bad []mesh.Commit
	for i := range 7 {
		bad = append(bad, w.commit(fmt.Sprint("bad ", i)))
		w.push(r, "blog", "main")
		if err := r.refuse(t.Context(), "blog", mesh.RefUpdate{Ref: "refs/heads/main", Old: good, New: bad[i]}, state); err != nil {
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
	// Somebody has pushed since: their commit stays.
	w.push(r, "blog", "main")
	if err := r.refuse(t.Context(), "blog", mesh.RefUpdate{Ref: "refs/heads/main", New: bad[3]}, state); err != nil {
		t.Fatal(err)
	}
	if got := refs(t, r)["refs/heads/main"]; got != bad[6] {
		t.Errorf("a newer push was taken back to %s", got)
	}
	// An older commit that is refused again stays among the kept.
	if err := r.refuse(t.Context(), "blog", mesh.RefUpdate{Ref: "refs/heads/main", New: bad[0]}, state); err != nil {
		t.Fatal(err)
	}
	if got := refs(t, r)[keptRefs+string(bad[0])]; got != bad[0] {
		t.Error("a commit that was just refused is not kept")
	}
	// A branch that is none of the stack's goes.
	w.push(r, "blog", "main:refs/heads/x")
	if err := r.refuse(t.Context(), "blog", mesh.RefUpdate{Ref: "refs/heads/x", New: bad[6]}, state); err != nil || refs(t, r)["refs/heads/x"] != "" {
		t.Errorf("%v, %v", err, refs(t, r))
	}
	if r.kept("none") != nil {
		t.Error("kept commits of no repository")
	}
}

func TestOpenRepos_RemovesWhatAKilledGitLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	r, err := OpenRepos(dir, 0, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.ensure("blog"); err != nil {
		t.Fatal(err)
	}
	w := newWork(t)
	c := w.commit("one")
	w.push(r, "blog", "main")
	left := []string{"blog.git/objects/tmp_objdir-incoming-x/pack/p", "blog.git/objects/pack/tmp_pack_x", "blog.git/refs/heads/main.lock", "blog.git/HEAD.lock", "blog.git/packed-refs.lock", "shop.git.new/HEAD"}
	for _, p := range left {
		path := filepath.Join(dir, "repos", p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if r, err = OpenRepos(dir, 0, log); err != nil {
		t.Fatal(err)
	}
	for _, p := range left {
		if _, err := os.Stat(filepath.Join(dir, "repos", p)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", p, err)
		}
	}
	if err := r.Reset(t.Context(), "blog", mesh.RepoState{Branch: "main"}); err != nil {
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
		cmd := r.git(t.Context(), "blog", []string{in}, "receive-pack")
		if slices.Contains(cmd.Env, in) != passes {
			t.Errorf("%s: environment %q", in, cmd.Env)
		}
		if !slices.Equal(cmd.Args[len(cmd.Args)-3:], []string{"receive-pack", "--", r.path("blog")}) {
			t.Errorf("arguments %q", cmd.Args)
		}
	}
}

func TestOpen_TreeInOrder(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := newWork(t)
	big := make([]byte, 3<<20)
	if _, err := rand.Read(big); err != nil {
		t.Fatal(err)
	}
	w.write("a/x", []byte("in a"), 0o644)
	w.write("a/y/z", []byte("deep"), 0o644)
	w.write("a.b", []byte("after a/ in bytes, before it for git"), 0o644)
	w.write("a0", nil, 0o644)
	w.write("bin/run", []byte("#!/bin/sh\n"), 0o755)
	w.write("big", big, 0o644)
	w.write("grüße\n", []byte("name"), 0o644)
	if err := errors.Join(os.Symlink("../nowhere/at all", filepath.Join(w.dir, "link")), os.Symlink("a", filepath.Join(w.dir, "dirlink"))); err != nil {
		t.Fatal(err)
	}
	w.git("update-index", "--add", "--cacheinfo", "160000,"+string(idA)+",module")
	w.git("add", "-A", "--", ":!module")
	w.git("commit", "-q", "-m", "one")
	c := mesh.Commit(w.git("rev-parse", "HEAD"))
	w.push(r, "blog", "main")
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
		"dirlink Lrwxrwxrwx 0 → a", "grüße\n -rw-r--r-- 4", "link Lrwxrwxrwx 0 → ../nowhere/at all", "module drwxr-xr-x 0 @ " + string(idA),
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
	if _, err := tree.Open(mesh.TreeEntry{Path: "x", ID: string(idB)}); err == nil {
		t.Error("a file that is not there")
	}
	if _, _, _, err := r.Open(t.Context(), "blog", idB); err == nil {
		t.Error("a commit that is not there")
	}
}

// More than 100 objects stay one pack with git's defaults, and less are exploded;
// here it is a pack always.
func TestOpen_ManyFilesInOnePack(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := newWork(t)
	for i := range 300 {
		w.write(fmt.Sprintf("d%d/f%03d", i%7, i), fmt.Appendf(nil, "file %d", i), 0o644)
	}
	c := w.commit("many")
	w.push(r, "blog", "main")
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
	w := newWork(t)
	for message, want := range map[string]string{
		"Fix header\n\nbody":            "Fix header",
		"\n\n  spaced  \nx":             "spaced",
		"\x1b[31mred\x07\x1b]0;title\a": `\x1b[31mred\x07\x1b]0;title\x07`,
		"c1 \u009b31m control":          `c1 \u009b31m control`,
		strings.Repeat("x", 100):        strings.Repeat("x", 72) + "…",
		"grüße 世界":                      "grüße 世界",
	} {
		c := w.commit(message)
		w.push(r, "blog", "main")
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
	w := newWork(t)
	w.write("f", []byte("x"), 0o644)
	c := w.commit("one")
	w.git("tag", "-a", "-m", "x", "v1")
	w.git("tag", "-a", "-m", "x", "v2", "v1")
	w.git("tag", "-a", "-m", "x", "tree", "HEAD^{tree}")
	w.push(r, "blog", "main", "v1", "v2", "tree")
	got := refs(t, r)
	for _, tag := range []string{"refs/heads/main", "refs/tags/v1", "refs/tags/v2"} {
		if p, err := r.peel("blog", got[tag]); err != nil || p != c {
			t.Errorf("%s peels to %s, %v", tag, p, err)
		}
	}
	if p, err := r.peel("blog", got["refs/tags/tree"]); err == nil {
		t.Errorf("a tagged tree peels to %s", p)
	}
}

// The repository of a stack that nobody destroyed is given away, not deleted: what is
// missing may be the record.
func TestPrune_DeletesOnlyWhatWasDestroyed(t *testing.T) {
	t.Parallel()
	r, err := OpenRepos(t.TempDir(), 0, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []mesh.StackName{"kept", "was", "destroyed", "unheard-of"} {
		if err := r.ensure(name); err != nil {
			t.Fatal(err)
		}
	}
	var aside []string
	err = r.Prune([]mesh.Stack{{Name: "kept"}, {Name: "now", Was: "was"}}, []mesh.StackName{"destroyed", "was"}, func(path string) error {
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
