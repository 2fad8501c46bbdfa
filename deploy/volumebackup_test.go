package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// shelf is a vault whose backups have a content.
type shelf struct {
	vault

	mu      sync.Mutex
	kind    string
	content string // empty: there is no backup
}

func (s *shelf) Open(_ context.Context, at mesh.BackupPlace, subject mesh.BackupSubject, _, id string, _ mesh.Secret) (io.ReadCloser, mesh.Backup, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content == "" {
		return nil, mesh.Backup{}, mesh.Errorf(mesh.NotFound, "%s has no backup %s of %s", at.URL, id, subject)
	}
	return io.NopCloser(strings.NewReader(s.content)), mesh.Backup{ID: id, Subject: subject, Kind: s.kind}, nil
}

func (s *shelf) List(context.Context, mesh.BackupPlace) ([]mesh.Backup, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content == "" {
		return nil, nil
	}
	return []mesh.Backup{{ID: "latest", Subject: mesh.VolumeSubject("uploads"), Kind: s.kind, Created: time.Unix(1, 0)}}, nil
}

func (s *shelf) has(kind, content string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kind, s.content = kind, content
}

// A volume that the engine has lost gets the files of its latest backup before an instance
// starts, all of them or none. Without a backup it stays away.
func TestVolume_BackFromItsBackup(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		s := &shelf{}
		w.Options.Backup = deploy.BackupOptions{Places: s, Sources: []deploy.BackupSource{s}, Folder: "/backups"}
		d, v, stop := volumeWorld(t, w)
		files := func() string {
			t.Helper()
			var b bytes.Buffer
			if err := d.ExportVolume(t.Context(), "uploads", "ci", &b); err != nil {
				t.Error(err)
			}
			return b.String()
		}
		rec := func() mesh.Volume {
			t.Helper()
			r, err := w.Store.Volume(t.Context(), "uploads")
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		engine := rec().Engine
		// again loses the volume while blog is stopped, and starts it.
		again := func() error {
			t.Helper()
			if err := d.Stop(t.Context(), "blog", "ci", io.Discard); err != nil && !errors.Is(err, mesh.Conflict) {
				t.Fatal(err)
			}
			synctest.Wait()
			v.Lose(engine)
			return d.Start(t.Context(), "blog", "ci", io.Discard)
		}
		s.has("volume", "of the backup")
		if err := again(); err != nil || files() != "of the backup" || v.Names() != engine || rec().Pending != "" {
			t.Errorf("%v, %q, %s, pending %q", err, files(), v.Names(), rec().Pending)
		}
		if err := d.Stop(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		s.has("volume", "not asked for")
		if err := d.Start(t.Context(), "blog", "ci", io.Discard); err != nil || files() != "of the backup" {
			t.Errorf("with all its files: %v, %q", err, files())
		}
		// It is not made without files: the runner refuses to start then.
		for _, kind := range []string{"", "postgres"} {
			if s.has(kind, kind); again() != nil || v.Names() != "" {
				t.Errorf("with a backup of %q, the engine has %s", kind, v.Names())
			}
		}
		s.has("volume", "of the backup")
		v.ImportFunc = func(string) error { return errors.New("the engine has gone away") }
		if err := again(); err == nil || v.Names() != "" || rec().Pending != "" {
			t.Errorf("cut off: %v, %s, pending %q", err, v.Names(), rec().Pending)
		}
		v.ImportFunc = nil
		if err := again(); err != nil || files() != "of the backup" {
			t.Errorf("%v, %q", err, files())
		}

		// A server that was killed in the middle.
		stop()
		half := func(fn func(d *deploy.Deployer)) {
			t.Helper()
			for _, c := range w.Runner.Containers() {
				w.Runner.Vanish(c.ID)
			}
			v.Lose(engine)
			if err := v.Create(t.Context(), "uploads", engine); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Store.UpdateVolume(t.Context(), "uploads", func(v *mesh.Volume) error { v.Pending = v.Engine; return nil }); err != nil {
				t.Fatal(err)
			}
			d, stop = w.Start()
			synctest.Wait()
			fn(d)
			stop()
		}
		half(func(*deploy.Deployer) {
			pass(time.Minute)
			if files() != "of the backup" || rec().Pending != "" || len(w.Runner.Containers()) != 3 {
				t.Errorf("after a kill: %q, pending %q, %d instances", files(), rec().Pending, len(w.Runner.Containers()))
			}
		})
	})
}

// A backup replaces the files of a volume as an import does.
func TestVolume_Restore(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		s := &shelf{}
		w.Options.Backup = deploy.BackupOptions{Places: s, Sources: []deploy.BackupSource{s}, Folder: "/backups"}
		d, _, _ := volumeWorld(t, w)
		at := mesh.BackupPlace{URL: "/backups/volume.uploads"}
		restore := func() error {
			_, _, err := d.RestoreVolume(t.Context(), "uploads", at, "latest", mesh.Secret{}, "ci")
			return err
		}
		if err := restore(); !errors.Is(err, mesh.NotFound) {
			t.Errorf("without a backup: %v", err)
		}
		s.has("postgres", "x")
		if err := restore(); !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), "is a backup of postgres, not of a volume") {
			t.Errorf("of an add-on: %v", err)
		}
		s.has("volume", "files")
		if err := restore(); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "which runs") {
			t.Errorf("beside web: %v", err)
		}
		if err := d.Stop(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := errors.Join(restore(), d.ExportVolume(t.Context(), "uploads", "ci", &b)); err != nil || b.String() != "files" {
			t.Errorf("%v, %q", err, b.String())
		}
		if why, err := d.RevertVolume(t.Context(), "uploads", "ci"); err != nil || why != "replaced by the backup latest" {
			t.Errorf("%q, %v", why, err)
		}
	})
}
