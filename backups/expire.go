package backups

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"mesh"
)

// Expire removes the whole backups, made before a time, of those subjects that whose accepts,
// from the folders of subjects below a folder. Nothing else is touched. A folder that is empty
// afterwards is removed as well.
func (b *Backups) Expire(ctx context.Context, below string, whose func(mesh.BackupSubject) bool, before time.Time) error {
	entries, err := os.ReadDir(below)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var faults []error
	for _, e := range entries {
		subject, err := mesh.ParseBackupSubject(e.Name())
		if err != nil || !e.IsDir() || !whose(subject) {
			continue
		}
		dir := filepath.Join(below, e.Name())
		p, err := b.place(mesh.BackupPlace{URL: mesh.PlaceURL(dir)})
		if err != nil {
			return err
		}
		all, err := b.list(ctx, p, string(subject)+"-")
		if err != nil {
			faults = append(faults, err)
			continue
		}
		for _, c := range all {
			if c.Subject == subject && c.Whole() && c.Created.Before(before) {
				faults = append(faults, p.remove(ctx, c.File+descriptionExt), p.remove(ctx, c.File))
			}
		}
		_ = os.Remove(dir) // it is not empty while another backup is there
	}
	return errors.Join(faults...)
}
