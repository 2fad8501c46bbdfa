package deploy

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"mesh"
)

// lastTime is how long the backups of an add-on that was destroyed are kept.
const lastTime = 7 * 24 * time.Hour

// folderOf is the place on this server for the backups of an add-on.
func (d *Deployer) folderOf(name mesh.AddonName) mesh.BackupPlace {
	return d.KeptAt(mesh.BackupPlan{Subject: mesh.BackupSubject(name)})
}

// lastBackup makes a backup of an add-on that is about to be destroyed.
func (d *Deployer) lastBackup(ctx context.Context, a mesh.Addon) (id string, err error) {
	if _, _, err := d.AddonServer.Form(a); err != nil {
		return "", nil //nolint:nilerr // it has nothing that lasts
	}
	at := d.folderOf(a.Name)
	run, err := d.RunBackup(ctx, mesh.BackupSubject(a.Name), &at, nil)
	var e *mesh.Error
	if errors.As(err, &e) {
		f := *e
		f.Text, f.Hint = "the last backup of "+string(a.Name)+" cannot be made: "+e.Text, strings.TrimPrefix(e.Hint+"\nor destroy it without one: --no-backup", "\n")
		return "", &f
	}
	return run.Backup.ID, err
}

// dropBackups removes the backups of add-ons and volumes that do not exist any more, once
// they are a week old, in the folder of this server.
func (d *Deployer) dropBackups(ctx context.Context) {
	if d.Backup.Places == nil {
		return
	}
	records, err := d.Store.Addons(ctx)
	volumes, verr := d.Store.Volumes(ctx)
	if err = errors.Join(err, verr); err == nil {
		exists := map[mesh.BackupSubject]bool{mesh.BackupMesh: true}
		for _, a := range records {
			exists[mesh.BackupSubject(a.Name)] = true
		}
		for _, v := range volumes {
			exists[mesh.VolumeSubject(v.Name)] = true
		}
		for _, damage := range d.Store.Damaged() {
			if damage.Stack == "" {
				return // which add-ons and volumes there are is not sure
			}
		}
		err = d.Backup.Places.Expire(ctx, d.Backup.Folder, func(s mesh.BackupSubject) bool { return !exists[s] }, d.Now().Add(-lastTime))
	}
	if err != nil && ctx.Err() == nil {
		d.Logger.Warn("backups of what was destroyed not removed", "err", err)
	}
}

// opened opens a backup and checks that an add-on can have its data. One without a version
// can have that of any.
func (d *Deployer) opened(ctx context.Context, a mesh.Addon, at mesh.BackupPlace, id string, identity mesh.Secret) (io.ReadCloser, mesh.Backup, error) {
	subject := mesh.BackupSubject(a.Name)
	if s, _, err := mesh.ParseBackupID(id); err == nil {
		subject = s
	}
	r, b, err := d.Backup.Places.Open(ctx, at, subject, "", id, identity)
	if err != nil {
		return nil, b, err
	}
	switch {
	case b.Kind != string(a.Kind):
		err = mesh.Errorf(mesh.Invalid, "%s is a backup of %s, and %s is %s", b.ID, b.Kind, a.Name, a.Kind)
	case a.Version != "" && majorOf(b.Version) > majorOf(a.Version):
		err = mesh.Errorf(mesh.Conflict, "%s was made by %s %s, and %s is %s", b.ID, b.Kind, b.Version, a.Name, a.Version).
			WithHint("upgrade it first: ssh mesh addons:upgrade %s:%s", a.Name, b.Version)
	}
	if err != nil {
		return nil, b, errors.Join(err, r.Close())
	}
	return r, b, nil
}

// majorOf is the first number of a version, or 0 if it begins with none.
func majorOf(version string) int {
	text := strings.TrimPrefix(version, "v")
	if i := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		text = text[:i]
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

// RestoreBackup replaces the data of an add-on with that of a backup: see RestoreAddon. A
// backup of another kind, or of a later version, is refused.
func (d *Deployer) RestoreBackup(ctx context.Context, name mesh.AddonName, at mesh.BackupPlace, id string, identity mesh.Secret, out io.Writer) error {
	a, err := d.ready(ctx, name)
	if err != nil {
		return err
	}
	r, b, err := d.opened(ctx, a, at, id, identity)
	if err != nil {
		return err
	}
	defer r.Close()
	return d.RestoreAddon(ctx, name, "restored from "+b.ID, r, out)
}

// CreateFromBackup creates an add-on with the data of a backup. Without a version it gets
// that of the backup.
func (d *Deployer) CreateFromBackup(ctx context.Context, n mesh.NewAddon, at mesh.BackupPlace, id string, by mesh.KeyName, out io.Writer) (mesh.Addon, error) {
	a, err := d.plan(n, by)
	if err != nil {
		return a, err
	}
	like := a
	like.Version = n.Version
	r, b, err := d.opened(ctx, like, at, id, mesh.Secret{})
	if err != nil {
		return a, err
	}
	defer r.Close()
	if n.Version == "" && b.Version != "" {
		n.Version = b.Version
		if a, err = d.plan(n, by); err != nil {
			return a, err
		}
	}
	return d.newAddon(ctx, a, out, "created", func(ctx context.Context, a mesh.Addon) error {
		return d.AddonServer.Fill(ctx, a, r)
	})
}

// newest returns the newest whole backup of a subject that this server has made, in the place of its
// plan or, as after a restore of a backup with dumps, in its own folder.
func (d *Deployer) newest(ctx context.Context, p mesh.BackupPlan, subject mesh.BackupSubject) (at mesh.BackupPlace, id string, err error) {
	places := []mesh.BackupPlace{d.KeptAt(p)}
	if own := d.KeptAt(mesh.BackupPlan{Subject: subject}); own.URL != places[0].URL {
		places = append(places, own)
	}
	var best mesh.Backup
	for _, place := range places {
		all, err := d.Backup.Places.List(ctx, place)
		if err != nil {
			return at, "", err
		}
		for _, b := range all {
			if b.Subject == subject && b.Whole() && (b.Server == "" || b.Server == d.Backup.Server) && b.Created.After(best.Created) {
				best, at = b, place
			}
		}
	}
	switch {
	case best.ID == "":
		return at, "", mesh.Errorf(mesh.NotFound, "%s has no whole backup of %s by this server", places[0].URL, subject)
	case best.Encrypted:
		return at, "", mesh.Errorf(mesh.Denied, "the newest, %s in %s, is encrypted", best.ID, at.URL)
	}
	return at, best.ID, nil
}

// runKept makes an add-on run with the data that it has, or that its backups have.
func (d *Deployer) runKept(ctx context.Context, a mesh.Addon) error {
	a, err := d.bringBack(ctx, a)
	if err != nil {
		return err
	}
	return d.AddonServer.Run(ctx, a)
}

// bringBack makes sure that an add-on has its image and its data, on a machine where they
// are missing: after mesh restore on a new one. The data is that of the latest backup. An
// add-on whose data is gone never begins with none without being told to.
func (d *Deployer) bringBack(ctx context.Context, a mesh.Addon) (mesh.Addon, error) {
	had := a.ImageID
	a, err := d.AddonServer.Fetch(ctx, a, false, func(string) {})
	if err != nil {
		return a, err
	}
	if a.ImageID != had {
		if _, err := d.Store.UpdateAddon(ctx, a.Name, func(r *mesh.Addon) error { r.ImageID, r.Digest = a.ImageID, a.Digest; return nil }); err != nil {
			return a, err
		}
	}
	lost, err := d.AddonServer.Lost(ctx, a)
	if err != nil || !lost {
		return a, err
	}
	if _, _, err := d.AddonServer.Form(a); err != nil {
		return a, nil //nolint:nilerr // it begins with nothing, as after a restart
	}
	gone := func(err error) error {
		return mesh.Errorf(mesh.NotFound, "the data of %s is gone, and no backup brings it back: %w", a.Name, err).
			WithHint("restore one: ssh mesh addons:restore %s BACKUP --to PLACE; or a dump: ssh mesh addons:import %s < FILE", a.Name, a.Name)
	}
	p, _, err := d.BackupPlanOf(ctx, mesh.BackupSubject(a.Name))
	if err != nil {
		return a, err
	}
	at, id, err := d.newest(ctx, p, mesh.BackupSubject(a.Name))
	if errors.Is(err, mesh.Unavailable) {
		return a, err // there may be a newer one than those that can be seen
	}
	if err != nil {
		return a, gone(err)
	}
	r, b, err := d.opened(ctx, a, at, id, mesh.Secret{})
	if err != nil {
		return a, gone(err)
	}
	defer r.Close()
	d.Logger.Warn("the volume of an add-on is gone; restoring its latest backup", "addon", a.Name, "backup", b.ID)
	next, err := d.renew(ctx, a, a) // until it is whole, it is not what the stacks reach, and what a killed server leaves is no data
	if err != nil {
		return a, err
	}
	if err := d.AddonServer.Fill(ctx, next, r); err != nil {
		d.unfill(ctx, next)
		return a, gone(err)
	}
	if a, err = d.Store.UpdateAddon(ctx, a.Name, func(r *mesh.Addon) error { r.Volume, r.Pending = next.Volume, ""; return nil }); err != nil {
		return a, err
	}
	return a, d.AddonServer.Reach(ctx, a)
}
