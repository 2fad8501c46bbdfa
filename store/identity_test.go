package store_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/store"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// A power cut, a full disk or a wrong restore can leave a directory where the state
// is gone and the rest is there. Starting afresh beside it deleted every repository.
func TestOpen_RefusesToBeginAnewBesideOtherParts(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, dir string){
		"empty":   func(t *testing.T, dir string) { write(t, filepath.Join(dir, "mesh.db"), "") },
		"missing": func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, "mesh.db")) },
		"only repos/ left": func(t *testing.T, dir string) {
			_, _ = os.Remove(filepath.Join(dir, "mesh.db")), os.Remove(filepath.Join(dir, "secret.key"))
		},
		"of another server": func(t *testing.T, dir string) {
			other := t.TempDir()
			fill(t, other)
			for _, f := range []string{"mesh.db", "secret.key"} {
				data := must(os.ReadFile(filepath.Join(other, f)))(t)
				write(t, filepath.Join(dir, f), string(data))
			}
		},
		"of another server, the key not": func(t *testing.T, dir string) {
			other := t.TempDir()
			fill(t, other)
			write(t, filepath.Join(dir, "mesh.db"), string(must(os.ReadFile(filepath.Join(other, "mesh.db")))(t)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			fill(t, dir)
			repo := filepath.Join(dir, "repos", "blog.git", "HEAD")
			write(t, repo, "ref: refs/heads/main\n")
			lose(t, dir)
			before := tree(t, dir)
			s, err := store.Open(dir)
			if err == nil {
				_ = s.Close()
				t.Fatal("it was opened")
			}
			var e *mesh.Error
			if !errors.As(err, &e) || e.Hint == "" {
				t.Errorf("got %v, without a hint", err)
			}
			if after := tree(t, dir); after != before {
				t.Errorf("the directory has changed:\n%s\nwas\n%s", after, before)
			}
		})
	}
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil {
			rel, _ := filepath.Rel(dir, p)
			b.WriteString(rel + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestStartOver_MovesAsideAndBeginsAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir)
	write(t, filepath.Join(dir, "repos", "blog.git", "HEAD"), "x")
	write(t, filepath.Join(dir, "ssh_host_ed25519_key"), "x")
	now := time.Unix(1e9, 0)
	if moved := must(store.StartOver(dir, now))(t); len(moved) != 0 {
		t.Errorf("a server with a state lost %v", moved)
	}
	write(t, filepath.Join(dir, "mesh.db"), "")
	if moved := must(store.StartOver(dir, now))(t); len(moved) < 3 {
		t.Errorf("moved only %v", moved)
	}
	s := open(t, dir)
	if all := must(s.Stacks(t.Context()))(t); len(all) != 0 {
		t.Errorf("the new state has %v", all)
	}
	for _, path := range []string{"ssh_host_ed25519_key", "lost/20010909T014640Z-repos/blog.git/HEAD", "lost/20010909T014640Z-secret.key"} {
		if !exists(filepath.Join(dir, path)) {
			t.Errorf("%s is gone", path)
		}
	}
}

func TestLost_IsKeptForThirtyDays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := time.Unix(1e9, 0)
	for range 2 {
		write(t, filepath.Join(dir, "x"), "x")
		must(store.MoveAside(dir, filepath.Join(dir, "x"), "a-thing", at))(t)
	}
	write(t, filepath.Join(dir, "lost", "somebody's"), "x")
	if gone := must(store.PurgeLost(dir, at.Add(store.LostFor-time.Second)))(t); len(gone) != 0 {
		t.Errorf("%v went early", gone)
	}
	if gone := must(store.PurgeLost(dir, at.Add(store.LostFor)))(t); len(gone) != 2 {
		t.Errorf("went: %v", gone)
	}
	if left := must(store.Lost(dir))(t); len(left) != 1 || left[0] != "somebody's" {
		t.Errorf("left: %v", left)
	}
}

// A data directory of an earlier mesh has no identities, no checksums and no proof.
func TestOpen_TakesOverAnEarlierDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir)
	edit(t, dir, func(path []string, v []byte) []byte {
		if i := strings.LastIndex(string(v), `,"sum":"`); i > 0 {
			return []byte(string(v[:i]) + "}")
		}
		return v
	})
	for _, part := range []string{"repos", "logs", "lines", "certs", "times"} {
		if err := os.Remove(filepath.Join(dir, part, ".mesh-server")); err != nil {
			t.Fatal(err)
		}
	}
	s := must(store.Open(dir))(t)
	if st := must(s.Stack(t.Context(), "blog"))(t); st.Current != 20 || len(s.Damaged()) != 0 {
		t.Errorf("reads %v, damaged: %v", st.Current, s.Damaged())
	}
	if !exists(filepath.Join(dir, "repos", ".mesh-server")) {
		t.Error("repos/ was not taken over")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	bare := 0
	edit(t, dir, func(path []string, v []byte) []byte {
		if json.Valid(v) && v[0] == '{' && !strings.Contains(string(v), `,"sum":"`) {
			bare++
		}
		return v
	})
	if bare > 0 {
		t.Errorf("%d records have no checksum", bare)
	}
}
