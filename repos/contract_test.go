package repos

import (
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
	"mesh/repos/repostest"
)

func TestRepos_Contract(t *testing.T) {
	t.Parallel()
	var state mesh.RepoState
	r := openIn(t, t.TempDir(), &state)
	w := repostest.New(t)
	deploytest.TestRepos(t, deploytest.Archive{
		Repos: r,
		Push: func(stack mesh.StackName, files map[string]string) mesh.Commit {
			if err := r.Ensure(stack); err != nil {
				t.Fatal(err)
			}
			w.Git("rm", "-rq", "--ignore-unmatch", ".")
			for name, text := range files {
				w.Write(name, []byte(text), 0o644)
			}
			c := w.Commit("files")
			push(t, w, r, stack, "main")
			return c
		},
		Deployed: func(s mesh.RepoState) { state = s },
		Heads: func(stack mesh.StackName) map[string]mesh.Commit {
			if !r.Exists(stack) {
				return nil
			}
			heads, err := r.heads(stack)
			if err != nil {
				t.Error(err)
			}
			return heads
		},
	})
}
