package receiver

import (
	"fmt"
	"strings"
	"testing"
)

func TestPush_TreesBeyondTheLimits(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	blob := r.Object("blob", "x")
	wide := r.Tree(1000, "100644", "blob", blob, "f")
	long := r.Object("blob", strings.Repeat("l", 4097))
	fits := r.Object("blob", strings.Repeat("l", 4000))
	thousandLinks := r.Tree(1000, "120000", "blob", fits, "l")
	doubling := wide
	for range 60 { // 2^60 times a thousand files, in 61 objects
		doubling = r.Tree(2, "040000", "tree", doubling, "d")
	}
	for name, c := range map[string]struct{ tree, want string }{
		"files":  {r.Tree(251, "040000", "tree", wide, "d"), "the tree has more than 250000 files and folders"},
		"beyond": {doubling, "the tree has more than 250000 files and folders"},
		"link":   {r.Tree(1, "120000", "blob", long, "to"), `the target of the link "to000000" is longer than 4096 bytes`},
		"links":  {r.Tree(9, "040000", "tree", thousandLinks, "d"), "the paths and links of the tree are longer than 32 MB together"},
		"names":  {r.Nest(r.Tree(200, "040000", "tree", wide, "d"), strings.Repeat("n", 200), 1), "the paths and links of the tree are longer than 32 MB together"},
		"depth":  {r.Nest(wide, "d", 100), "the tree has folders more than 100 deep"},
		"path":   {r.Nest(wide, strings.Repeat("p", 240), 20), "the tree has a path longer than 4096 bytes"},
	} {
		commit := r.Git("commit-tree", "-m", name, c.tree)
		out, err := r.try("push", "mesh", commit+":refs/heads/main")
		if err == nil || !strings.Contains(out, "! [remote rejected]") || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		out, err = r.try("push", "mesh", commit+":refs/tags/"+name)
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s as a tag: %v\n%s", name, err, out)
		}
	}
	big := r.Object("commit", fmt.Sprintf("tree %s\nauthor A <a@example.com> 1 +0000\ncommitter A <a@example.com> 1 +0000\n\n%s", wide, strings.Repeat("m", 1<<20)))
	tag := r.Object("tag", fmt.Sprintf("object %s\ntype commit\ntag v1\ntagger A <a@example.com> 1 +0000\n\n%s", r.Commit("sound"), strings.Repeat("m", 1<<20)))
	for ref, id := range map[string]string{"refs/heads/main": big, "refs/tags/v1": tag} {
		if out, err := r.try("push", "mesh", id+":"+ref); err == nil || !strings.Contains(out, "a commit or a tag may have 1 MB") {
			t.Errorf("%s: %v\n%s", ref, err, out)
		}
	}
	if got := r.d.got; len(got) != 0 {
		t.Errorf("deployed: %v", got)
	}
	if out, err := r.try("push", "mesh", "main"); err != nil {
		t.Errorf("a sound push afterwards: %v\n%s", err, out)
	}
}
