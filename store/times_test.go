package store_test

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"mesh"
	"mesh/store"
)

func TestFileTimes(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	ctx := context.Background()
	if _, err := s.CreateStack(ctx, mesh.Stack{Name: "blog"}, func(_ []mesh.Stack, st mesh.Stack) (mesh.Stack, error) { return st, nil }); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 123, time.UTC)
	want := mesh.FileTimes{
		First: at, Whole: true, Latest: at.Add(time.Hour),
		Files: map[uint64]mesh.FileTime{1: {Of: 2, Since: at, Time: at.Add(time.Minute)}, 1 << 63: {Of: 3, Since: at, Time: at, Back: true}},
		Past:  []uint64{7, 1<<64 - 1},
	}
	has := func(stack mesh.StackName, want mesh.FileTimes) {
		t.Helper()
		got, err := s.FileTimes(ctx, stack)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s remembers %+v, %v\nwant %+v", stack, got, err, want)
		}
	}
	has("blog", mesh.FileTimes{})
	if err := s.KeepFileTimes(ctx, "blog", want); err != nil {
		t.Fatal(err)
	}
	has("blog", want)

	// It moves with the stack.
	d, err := s.BeginDeployment(ctx, mesh.Deployment{Stack: "blog", Kind: mesh.DeployRename, Status: mesh.StatusRunning})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.RenameStack(ctx, d, "journal", func(*mesh.Stack) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.FinishRename(ctx, "journal"); err != nil {
		t.Fatal(err)
	}
	has("journal", want)
	has("blog", mesh.FileTimes{})

	// A file that is damaged anywhere counts as missing.
	path := filepath.Join(dir, "times", "journal")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		bad := append([]byte(nil), data...)
		bad[i] ^= 0x10
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		has("journal", mesh.FileTimes{})
		if err := os.WriteFile(path, data[:i], 0o600); err != nil {
			t.Fatal(err)
		}
		has("journal", mesh.FileTimes{})
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	has("journal", want)

	if err := s.DestroyStack(ctx, "journal"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file of a stack that is gone is still there: %v", err)
	}
}
