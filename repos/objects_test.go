package repos

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mesh"
	"mesh/repos/repostest"
)

// pushPack pushes main as one more pack, as the server stores every push.
func pushPack(t *testing.T, w *repostest.Checkout, r *Repos) {
	t.Helper()
	push(t, w, r, "blog", "main")
	if _, err := r.run(t.Context(), "blog", "repack", "-d", "-q"); err != nil {
		t.Fatal(err)
	}
}

// Other pushes make and remove files beside the ones that are read: keep files of
// packs, locks of refs, packs whose index is still to come.
func TestStorage_BesideOtherPushes(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := repostest.New(t)
	w.Write("f", []byte("x"), 0o644)
	c := w.Commit("one")
	pushPack(t, w, r)
	repo := r.path("blog")
	arriving := filepath.Join(repo, "objects", "pack", "pack-"+strings.Repeat("a", 40)+".pack")
	if err := os.WriteFile(arriving, []byte("PACK"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(repo, "refs", "heads", "other.lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, file := range []string{"objects/pack/x.keep", "refs/heads/main.lock"} {
				path := filepath.Join(repo, file)
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Error(err)
				}
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for range 2000 {
		if got, err := r.Peel("blog", c); err != nil || got != c {
			t.Errorf("the commit is %s, %v", got, err)
			break
		}
		if heads, err := r.heads("blog"); err != nil || len(heads) != 1 || heads["main"] != c {
			t.Errorf("the branches are %v, %v", heads, err)
			break
		}
	}
	close(stop)
	<-stopped
}

// A tree stays readable when its packs are replaced by one.
func TestOpen_RepackedUnderAReader(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := repostest.New(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), largeObject/8)
	w.Write("big", big, 0o644)
	w.Write("small", []byte("x"), 0o644)
	w.Commit("one")
	pushPack(t, w, r)
	w.Write("small", []byte("y"), 0o644)
	c := w.Commit("two")
	pushPack(t, w, r)
	tree, _, release, err := r.Open(t.Context(), "blog", c)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := r.run(t.Context(), "blog", "repack", "-a", "-d", "-q"); err != nil {
		t.Fatal(err)
	}
	for _, e := range tree.Entries() {
		f, err := tree.Open(e)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if err != nil || f.Close() != nil || int64(len(data)) != e.Size {
			t.Errorf("%s has %d bytes, %v", e.Path, len(data), err)
		}
	}
}

// What cannot be read is an error, never an absent object: a tree would go unweighed, a
// release's commit unpinned.
func TestStorage_UnreadableIsNotAbsent(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	w := repostest.New(t)
	w.Write("f", []byte("x"), 0o644)
	c := w.Commit("one")
	pushPack(t, w, r)
	indexes, err := filepath.Glob(filepath.Join(r.path("blog"), "objects", "pack", "*.idx"))
	if err != nil || len(indexes) != 1 {
		t.Fatalf("%v, %v", indexes, err)
	}
	if err := os.Chmod(indexes[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(indexes[0], []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Weigh(t.Context(), "blog", c); err == nil {
		t.Error("a tree that cannot be read was weighed")
	}
	if err := r.pin(t.Context(), "blog", []mesh.Commit{c}); err == nil {
		t.Error("a commit that cannot be read was taken for absent")
	}
}
