package repos

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"mesh"
	"mesh/repos/repostest"
)

func TestOpen_TreesAtTheLimits(t *testing.T) {
	t.Parallel()
	r, w := stackRepo(t), repostest.New(t)
	link := w.Object("blob", strings.Repeat("l", 4096))
	tree := w.Tree(80, "040000", "tree", w.Tree(100, "120000", "blob", link, ""), "")
	push(t, w, r, "blog", w.Git("commit-tree", "-m", "links", tree)+":refs/heads/links")
	push(t, w, r, "blog", w.Git("commit-tree", "-m", "deep", w.Nest(w.Tree(1, "100644", "blob", link, "f"), "d", 99))+":refs/heads/deep")
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
