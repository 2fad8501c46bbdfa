package deploy

import (
	"context"
	"errors"
	"io"

	"mesh"
	"mesh/deploy/fleet"
)

// BackupOfVolume is the kind of a volume's backups. Their content is a tar of its files.
const BackupOfVolume = "volume"

// RestoreVolume replaces the files of a volume with those of a backup, as ImportVolume does.
// It takes "latest" for an ID.
func (d *Deployer) RestoreVolume(ctx context.Context, name mesh.VolumeName, at mesh.BackupPlace, id string, identity mesh.Secret, by mesh.KeyName) (b mesh.Backup, entries int, err error) {
	if _, err := d.Store.Volume(ctx, name); err != nil {
		return b, 0, err
	}
	r, b, err := d.openVolumeBackup(ctx, name, at, id, identity)
	if err != nil {
		return b, 0, err
	}
	defer r.Close()
	entries, err = d.importFiles(ctx, name, by, "replaced by the backup "+b.ID, r)
	return b, entries, err
}

// openVolumeBackup opens a backup of a volume: of another one if the ID says so.
func (d *Deployer) openVolumeBackup(ctx context.Context, name mesh.VolumeName, at mesh.BackupPlace, id string, identity mesh.Secret) (io.ReadCloser, mesh.Backup, error) {
	subject := mesh.VolumeSubject(name)
	if s, _, err := mesh.ParseBackupID(id); err == nil {
		subject = s
	}
	r, b, err := d.Backup.Places.Open(ctx, at, subject, "", id, identity)
	if err == nil && b.Kind != BackupOfVolume {
		err = errors.Join(mesh.Errorf(mesh.Invalid, "%s is a backup of %s, not of a volume", b.ID, b.Kind), r.Close())
	}
	return r, b, err
}

// withFiles is a Runner whose instances have their files: a volume that the engine does not
// have, because mesh was restored on another machine, gets those of its latest backup before
// an instance starts.
type withFiles struct {
	Runner
	d *Deployer
}

// Start starts an instance, once its volumes exist.
func (w withFiles) Start(ctx context.Context, spec mesh.InstanceSpec) (mesh.Instance, error) {
	for _, m := range spec.Mounts {
		if err := w.d.bringFilesBack(ctx, m); err != nil {
			return mesh.Instance{}, err
		}
	}
	return w.Runner.Start(ctx, spec)
}

var _ fleet.Runner = withFiles{}

// tryBack lets its caller alone fill or drop an engine's volume, until it calls release. If
// somebody does already, it returns a channel that is closed at the end of that.
func (d *Deployer) tryBack(engine string) (release func(), other <-chan struct{}) {
	w := &d.volumes
	w.mu.Lock()
	defer w.mu.Unlock()
	if other := w.back[engine]; other != nil {
		return nil, other
	}
	if w.back == nil {
		w.back = map[string]chan struct{}{}
	}
	mine := make(chan struct{})
	w.back[engine] = mine
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.back, engine)
		close(mine)
	}, nil
}

// claimBack is tryBack, but waits for others.
func (d *Deployer) claimBack(ctx context.Context, engine string) (release func(), err error) {
	for {
		release, other := d.tryBack(engine)
		if other == nil {
			return release, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// bringFilesBack makes sure that a volume exists in the engine, with all its files. If it has
// no backup, or one that only its owner can decrypt, nothing happens: the instance does not
// start, which says so, and nobody goes on with an empty folder.
func (d *Deployer) bringFilesBack(ctx context.Context, m mesh.Mount) error {
	if d.VolumeServer == nil || d.Backup.Places == nil {
		return nil
	}
	release, err := d.claimBack(ctx, m.Engine)
	if err != nil {
		return err
	}
	defer release()
	v, err := d.Store.Volume(ctx, m.Volume)
	if err != nil || v.Engine != m.Engine {
		return err // it has other files by now
	}
	there, err := d.VolumeServer.List(ctx)
	if err != nil {
		return err
	}
	_, exists := there[v.Engine]
	half := v.Pending == v.Engine // a server that was killed has begun to fill it
	switch {
	case exists && !half:
		return nil
	case v.Pending != "" && !half:
		return mesh.Errorf(mesh.Conflict, "the volume %s is being imported", v.Name).WithHint("wait until that has ended, and try again")
	}
	p, _, err := d.BackupPlanOf(ctx, mesh.VolumeSubject(v.Name))
	if err != nil {
		return err
	}
	at, id, err := d.newest(ctx, p, mesh.VolumeSubject(v.Name))
	if errors.Is(err, mesh.Unavailable) {
		return err // there may be a newer one than those that can be seen
	}
	var r io.ReadCloser
	var b mesh.Backup
	if err == nil {
		r, b, err = d.openVolumeBackup(ctx, v.Name, at, id, mesh.Secret{})
	}
	if err != nil && half { // what there is of it is not whole
		return mesh.Errorf(mesh.Unavailable, "the files of the volume %s are being restored, and their backup cannot be read: %w", v.Name, err)
	} else if err != nil {
		d.Logger.Warn("the files of a volume are gone, and no backup brings them back", "volume", v.Name, "place", string(d.KeptAt(p).URL), "err", err)
		return nil
	}
	defer r.Close()
	d.Logger.Warn("the files of a volume are gone; restoring its latest backup", "volume", v.Name, "backup", b.ID)
	// On record before it exists: nobody takes it for whole before it is.
	if _, err := d.Store.UpdateVolume(ctx, v.Name, func(v *mesh.Volume) error { v.Pending = v.Engine; return nil }); err != nil {
		return err
	}
	if err := d.fillFiles(ctx, v, exists, r); err != nil {
		d.dropPending(context.WithoutCancel(ctx), v.Name, v.Engine)
		var told *mesh.Error
		if errors.As(err, &told) {
			return err
		}
		return mesh.Errorf(mesh.Failed, "the backup %s of the volume %s cannot be restored: %w", b.ID, v.Name, err).WithHint("restore another one: ssh mesh volumes:backups %s", v.Name)
	}
	_, err = d.Store.UpdateVolume(context.WithoutCancel(ctx), v.Name, func(v *mesh.Volume) error { v.Pending = ""; return nil })
	return err
}

// fillFiles creates an engine's volume with the files of a tar, instead of the one that
// exists.
func (d *Deployer) fillFiles(ctx context.Context, v mesh.Volume, exists bool, r io.Reader) error {
	if exists {
		if err := d.VolumeServer.Remove(ctx, v.Engine); err != nil {
			return err
		}
	}
	if err := d.VolumeServer.Create(ctx, v.Name, v.Engine); err != nil {
		return err
	}
	_, err := d.VolumeServer.Import(ctx, v.Engine, r)
	return err
}
