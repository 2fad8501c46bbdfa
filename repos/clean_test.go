package repos

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mesh"
)

// Large leftovers of refused pushes are removed; what a branch or a release needs
// stays.
func TestClean_KeepsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	git := func(stdin string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", r.path("blog")}, args...)...)
		cmd.Env = append(r.env(), "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t")
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("git %v: %v", args, err)
		}
		return strings.TrimSpace(string(out))
	}
	// commit makes a commit of a file that does not compress, in a separate pack.
	commit := func(name string) mesh.Commit {
		noise := make([]byte, 100_000)
		_, _ = rand.Read(noise)
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, noise, 0o600); err != nil {
			t.Fatal(err)
		}
		blob := git("", "hash-object", "-w", path)
		c := git("", "commit-tree", "-m", name, git("100644 blob "+blob+"\t"+name+"\n", "mktree"))
		git(c+"\n", "pack-objects", "--revs", "-q", filepath.Join(r.path("blog"), "objects", "pack", "pack"))
		git("", "prune-packed")
		return mesh.Commit(c)
	}
	branch, released, refused, absent := commit("branch"), commit("released"), commit("refused"), mesh.Commit(hex.EncodeToString(make([]byte, 20)))
	git("", "update-ref", "refs/heads/main", string(branch))
	r.Needed = func(context.Context, mesh.StackName) ([]mesh.Commit, error) {
		return []mesh.Commit{released, absent}, nil
	}
	has := func(c mesh.Commit) bool {
		_, err := r.run(t.Context(), "blog", "cat-file", "-e", string(c)+"^{tree}")
		return err == nil
	}
	clean := func(slack int64) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := r.clean(t.Context(), "blog", slack); err != nil {
			t.Fatal(err)
		}
	}
	clean(cleanSlack)
	if !has(refused) {
		t.Error("a small repository was cleaned")
	}
	clean(1000)
	if !has(branch) || !has(released) {
		t.Errorf("lost: the branch %v, the release %v", !has(branch), !has(released))
	}
	if has(refused) {
		t.Error("what nothing needs is still there")
	}
	before := packBytes(r.path("blog"))
	more := commit("more")
	clean(1000) // less than twice what it was
	if !has(more) || packBytes(r.path("blog")) <= before {
		t.Error("cleaned again, though it has hardly grown")
	}
	if out := git("", "fsck", "--strict"); strings.Contains(out, "missing") {
		t.Error(out)
	}
}
