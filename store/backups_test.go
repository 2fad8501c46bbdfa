package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"mesh"
	"mesh/store"
)

func aBackupPlan(subject mesh.BackupSubject) mesh.BackupPlan {
	at := time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)
	return mesh.BackupPlan{
		Subject: subject, Schedule: "0 3 * * *", Keep: 7, Recipients: []string{"age1qqq", "ssh-ed25519 AAAA"}, Set: at, SetBy: "ann",
		Place: mesh.BackupPlace{URL: "s3://bucket/prod", AccessKey: mesh.NewSecret("Planted-access"), SecretKey: mesh.NewSecret("Planted-secret")},
		State: mesh.BackupState{
			Due: at, Started: at.Add(1), Failed: at.Add(2), Failure: "away", Ended: at.Add(3),
			Last: &mesh.Backup{
				Format: 1, ID: "mesh-20261127T030000Z", Subject: subject, Server: "srv", Kind: "mesh", Version: "v1", Mesh: "v1", Created: at,
				File: "mesh-20261127T030000Z.tar.zst.age", Size: 5, Sum: "ab", Content: 9, PlainSum: "cd", Encrypted: true,
			},
		},
	}
}

// TestBackupPlans_AreSealed: they are read as they were written, and no byte of the
// credentials is in the data directory.
func TestBackupPlans_AreSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := aBackupPlan(mesh.BackupMesh)
	set := func(s *store.Store, p mesh.BackupPlan) {
		t.Helper()
		must(s.UpdateBackupPlan(t.Context(), p.Subject, func(is *mesh.BackupPlan, _ bool) error { *is = p; return nil }))(t)
	}
	closed(t, dir, func(s *store.Store) {
		if all := must(s.BackupPlans(t.Context()))(t); len(all) > 0 {
			t.Errorf("%+v", all)
		}
		set(s, want)
		set(s, mesh.BackupPlan{Subject: "shop-db", Schedule: "@daily", Keep: 1})
	})
	for _, name := range must(filepath.Glob(filepath.Join(dir, "*")))(t) {
		if data, err := os.ReadFile(name); err == nil && bytes.Contains(data, []byte("Planted")) {
			t.Errorf("%s has the credentials", name)
		}
	}
	closed(t, dir, func(s *store.Store) {
		all := must(s.BackupPlans(t.Context()))(t)
		if len(all) != 2 || !reflect.DeepEqual(all[0], want) || all[1].Subject != "shop-db" || all[1].Place != (mesh.BackupPlace{}) {
			t.Errorf("%+v, want %+v", all, want)
		}
		no := errors.New("no")
		if _, err := s.UpdateBackupPlan(t.Context(), "mesh", func(p *mesh.BackupPlan, known bool) error {
			if !known || p.State.Failure != "away" {
				t.Errorf("%+v, %v", p, known)
			}
			p.Keep = 100
			return no
		}); !errors.Is(err, no) {
			t.Error(err)
		}
		if all := must(s.BackupPlans(t.Context()))(t); all[0].Keep != 7 {
			t.Error("a change that was refused was made")
		}
		if err := s.RemoveBackupPlan(t.Context(), "shop-db"); err != nil {
			t.Error(err)
		}
		if err := s.RemoveBackupPlan(t.Context(), "shop-db"); !errors.Is(err, mesh.NotFound) {
			t.Errorf("removed twice: %v", err)
		}
		if all := must(s.BackupPlans(t.Context()))(t); len(all) != 1 {
			t.Errorf("%+v", all)
		}
	})
}
