package store_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
	"mesh/store"
)

func TestJobs(t *testing.T) {
	t.Parallel()
	dir, ctx := t.TempDir(), t.Context()
	at := time.Unix(1e9, 0).UTC()
	hand := mesh.Job{
		Name: "tidy", Schedule: "@daily", Command: "./tidy", Overlap: mesh.OverlapReplace, Timeout: time.Minute, CatchUp: time.Hour,
		As: "worker", By: "laptop", Set: at,
	}
	want := mesh.JobRecord{
		Stack: "blog", Name: "tidy", Hand: &hand, Suspended: true, Schedule: "TZ=UTC @daily", Due: at, Last: 7,
		Runs: []mesh.JobRun{
			{Number: 6, Due: at, Release: 2, Status: mesh.JobFailed, Started: at, Ended: at.Add(time.Second), ExitCode: 137, OOM: true, Reason: "x"},
			{Number: 7, By: "ann", Status: mesh.JobSkipped, Started: at, Ended: at, Times: 3},
		},
	}
	read := func(s *store.Store, n int) string {
		t.Helper()
		r := must(s.JobOutput("blog", "tidy", n))(t)
		defer func() { _ = r.Close() }()
		return string(must(io.ReadAll(r))(t))
	}
	closed(t, dir, func(s *store.Store) {
		if _, err := s.UpdateJob(ctx, "blog", "tidy", func(*mesh.JobRecord) error { return nil }); !errors.Is(err, mesh.NoStack) {
			t.Error(err)
		}
		create(t, s, mesh.Stack{Name: "blog"})
		create(t, s, mesh.Stack{Name: "other"})
		must(s.UpdateJob(ctx, "blog", "tidy", func(r *mesh.JobRecord) error {
			if r.Stack != "blog" || r.Name != "tidy" || r.Hand != nil {
				t.Errorf("a new record: %+v", r)
			}
			*r = want
			return nil
		}))(t)
		if _, err := s.UpdateJob(ctx, "blog", "none", func(*mesh.JobRecord) error { return io.EOF }); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		for n := range 4 {
			if err := s.KeepJobOutput(ctx, "blog", "tidy", n, []byte{byte('0' + n)}, []int{2, 3}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.KeepJobOutput(ctx, "blog", "tidy-2", 1, []byte("else"), nil); err != nil {
			t.Fatal(err)
		}
	})
	closed(t, dir, func(s *store.Store) {
		for _, stack := range []mesh.StackName{"", "blog"} {
			if got := must(s.Jobs(ctx, stack))(t); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
				t.Errorf("%+v", got)
			}
		}
		if read(s, 1) != "" || read(s, 2) != "2" || read(s, 3) != "3" {
			t.Error("other output is kept than wanted")
		}
		// A rename takes all of it along.
		d := must(s.BeginDeployment(ctx, mesh.Deployment{Stack: "blog", Kind: mesh.DeployRename, Status: mesh.StatusRunning}))(t)
		must(s.RenameStack(ctx, d, "shop", func(*mesh.Stack) error { return nil }))(t)
		must(s.FinishRename(ctx, "shop"))(t)
		if got := must(s.Jobs(ctx, "shop"))(t); len(got) != 1 || got[0].Stack != "shop" || got[0].Last != 7 {
			t.Errorf("after a rename: %+v", got)
		}
		r := must(s.JobOutput("shop", "tidy", 3))(t)
		if text := string(must(io.ReadAll(r))(t)); text != "3" {
			t.Errorf("output after a rename: %q", text)
		}
		_ = r.Close()
		if err := s.RemoveJob(ctx, "shop", "tidy"); err != nil {
			t.Error(err)
		}
		if got := must(s.Jobs(ctx, ""))(t); len(got) != 0 {
			t.Errorf("after the removal: %+v", got)
		}
		r = must(s.JobOutput("shop", "tidy-2", 1))(t)
		if text := string(must(io.ReadAll(r))(t)); text != "else" {
			t.Errorf("output of another job: %q", text)
		}
		_ = r.Close()
		if found := s.Damaged(); len(found) > 0 {
			t.Errorf("damaged: %+v", found)
		}
	})
}

// A damaged record of a job is reported, and its job is not run; the others of the stack are
// there, and it can be removed.
func TestJobs_Damaged(t *testing.T) {
	t.Parallel()
	dir, ctx := t.TempDir(), t.Context()
	closed(t, dir, func(s *store.Store) {
		create(t, s, mesh.Stack{Name: "blog"})
		for _, name := range []mesh.ServiceName{"bad", "good"} {
			must(s.UpdateJob(ctx, "blog", name, func(r *mesh.JobRecord) error { r.Due = time.Unix(1e9, 0); return nil }))(t)
		}
	})
	db, err := bbolt.Open(filepath.Join(dir, "mesh.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("stacks")).Bucket([]byte("blog")).Bucket([]byte("jobs"))
		return b.Put([]byte("bad"), bytes.Replace(b.Get([]byte("bad")), []byte("2001"), []byte("2031"), 1))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	s := must(store.Open(dir))(t)
	t.Cleanup(func() { _ = s.Close() })
	if found := s.Damaged(); len(found) != 1 || found[0].Stack != "blog" || found[0].What != "the job bad of blog" || found[0].Whole {
		t.Errorf("damaged: %+v", found)
	}
	if got := must(s.Jobs(ctx, ""))(t); len(got) != 1 || got[0].Name != "good" {
		t.Errorf("%+v", got)
	}
	if _, err := s.UpdateJob(ctx, "blog", "bad", func(*mesh.JobRecord) error { return nil }); !errors.Is(err, mesh.Damaged) {
		t.Errorf("changed: %v", err)
	}
	must(s.UpdateJob(ctx, "blog", "good", func(r *mesh.JobRecord) error { r.Last = 3; return nil }))(t)
	if err := s.RemoveJob(ctx, "blog", "bad"); err != nil {
		t.Error(err)
	}
	if err := s.Check(); err != nil || len(s.Damaged()) > 0 {
		t.Errorf("after the removal: %v, %+v", err, s.Damaged())
	}
}
