package receiver

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"mesh"
)

// object writes one git object without a look at what it says.
func (w *work) object(kind string, content string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "git", "hash-object", "-t", kind, "-w", "--stdin", "--literally")
	cmd.Dir, cmd.Stdin = w.dir, strings.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("hash-object: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// mktree makes a tree of n entries that all are the same object.
func (w *work) mktree(n int, mode, kind, id, prefix string) string {
	w.t.Helper()
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "%s %s %s\t%s%06d\n", mode, kind, id, prefix, i)
	}
	cmd := exec.CommandContext(w.t.Context(), "git", "mktree")
	cmd.Dir, cmd.Stdin = w.dir, &b
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("mktree: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// nested puts a tree into folders of the given name, depth deep.
func (w *work) nested(tree, name string, depth int) string {
	for range depth {
		tree = w.mktree(1, "040000", "tree", tree, name)
	}
	return tree
}

func TestPush_TreesBeyondTheLimits(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	blob := r.object("blob", "x")
	wide := r.mktree(1000, "100644", "blob", blob, "f")
	long := r.object("blob", strings.Repeat("l", 4097))
	fits := r.object("blob", strings.Repeat("l", 4000))
	thousandLinks := r.mktree(1000, "120000", "blob", fits, "l")
	doubling := wide
	for range 60 { // 2^60 times a thousand files, in 61 objects
		doubling = r.mktree(2, "040000", "tree", doubling, "d")
	}
	for name, c := range map[string]struct{ tree, want string }{
		"files":  {r.mktree(251, "040000", "tree", wide, "d"), "the tree has more than 250000 files and folders"},
		"beyond": {doubling, "the tree has more than 250000 files and folders"},
		"link":   {r.mktree(1, "120000", "blob", long, "to"), `the target of the link "to000000" is longer than 4096 bytes`},
		"links":  {r.mktree(9, "040000", "tree", thousandLinks, "d"), "the paths and links of the tree are longer than 32 MB together"},
		"names":  {r.nested(r.mktree(200, "040000", "tree", wide, "d"), strings.Repeat("n", 200), 1), "the paths and links of the tree are longer than 32 MB together"},
		"depth":  {r.nested(wide, "d", 100), "the tree has folders more than 100 deep"},
		"path":   {r.nested(wide, strings.Repeat("p", 240), 20), "the tree has a path longer than 4096 bytes"},
	} {
		commit := r.git("commit-tree", "-m", name, c.tree)
		out, err := r.try("push", "mesh", commit+":refs/heads/main")
		if err == nil || !strings.Contains(out, "! [remote rejected]") || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		out, err = r.try("push", "mesh", commit+":refs/tags/"+name)
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s as a tag: %v\n%s", name, err, out)
		}
	}
	big := r.object("commit", fmt.Sprintf("tree %s\nauthor A <a@example.com> 1 +0000\ncommitter A <a@example.com> 1 +0000\n\n%s", wide, strings.Repeat("m", 1<<20)))
	tag := r.object("tag", fmt.Sprintf("object %s\ntype commit\ntag v1\ntagger A <a@example.com> 1 +0000\n\n%s", r.commit("sound"), strings.Repeat("m", 1<<20)))
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

func TestOpen_TreesAtTheLimits(t *testing.T) {
	t.Parallel()
	r, w := stackRepo(t), newWork(t)
	link := w.object("blob", strings.Repeat("l", 4096))
	tree := w.mktree(80, "040000", "tree", w.mktree(100, "120000", "blob", link, ""), "")
	w.push(r, "blog", w.git("commit-tree", "-m", "links", tree)+":refs/heads/links")
	w.push(r, "blog", w.git("commit-tree", "-m", "deep", w.nested(w.mktree(1, "100644", "blob", link, "f"), "d", 99))+":refs/heads/deep")
	heads, err := r.heads("blog")
	if err != nil {
		t.Fatal(err)
	}
	tr, _, release, err := r.Open(t.Context(), "blog", heads["links"])
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if n := len(tr.Entries()); n != 80+8000 {
		t.Errorf("%d entries", n)
	}
	for _, e := range tr.Entries() {
		if e.Link != "" && len(e.Link) != 4096 {
			t.Fatalf("a link of %d bytes", len(e.Link))
		}
	}
	deep, _, releaseDeep, err := r.Open(t.Context(), "blog", heads["deep"])
	if err != nil {
		t.Fatal(err)
	}
	defer releaseDeep()
	if n := len(deep.Entries()); n != 100 {
		t.Errorf("%d entries in the deep tree", n)
	}
}

func TestUnpack_TreesBeyondTheLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		add  func(w *tar.Writer) error
		want string
	}{
		"links": {func(w *tar.Writer) error {
			for i := range 8300 {
				if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("l%d", i), Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("x", 4096)}); err != nil {
					return err
				}
			}
			return nil
		}, "the paths and links of the tree are longer than 32 MB together"},
		"folders that are not named": {func(w *tar.Writer) error {
			for i := range 3000 {
				if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%d/%sf", i, strings.Repeat("d/", 98))}); err != nil {
					return err
				}
			}
			return nil
		}, "the tree has more than 250000 files and folders"},
		"depth": {func(w *tar.Writer) error {
			return w.WriteHeader(&tar.Header{Name: strings.Repeat("d/", 101) + "f"})
		}, "the tree has folders more than 100 deep"},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := errors.Join(c.add(w), w.Close()); err != nil {
			t.Fatal(err)
		}
		_, _, _, err := openRepos(t).Unpack(t.Context(), &b)
		if !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
