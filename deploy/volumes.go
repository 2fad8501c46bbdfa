package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// maxMounts limits the volumes of a service.
const maxMounts = 10

// VolumeServer keeps the files of volumes in the engine. Its methods may be called from
// several goroutines; those that change a volume are called for one volume at a time.
type VolumeServer interface {
	// Plan returns a new name for the engine. Create creates an empty volume with it.
	Plan(name mesh.VolumeName) string
	Create(ctx context.Context, name mesh.VolumeName, engine string) error
	// Remove removes an engine's volume and its files. A missing one is no error; one that
	// a container uses is a Conflict.
	Remove(ctx context.Context, engine string) error
	// List returns the name of each of this server's volumes in the engine, by that there.
	List(ctx context.Context) (map[string]mesh.VolumeName, error)
	// Users returns the running containers that use an engine's volume.
	Users(ctx context.Context, engine string) ([]mesh.VolumeUser, error)
	// Export writes all files as tar; it is whole if the error is nil. Import fills a new
	// volume from a tar, which it checks to its end, and returns how many files there were.
	Export(ctx context.Context, engine string, w io.Writer) error
	Import(ctx context.Context, engine string, r io.Reader) (entries int, err error)
	// Tidy removes what a killed server has left of its reading and writing.
	Tidy(ctx context.Context) error
}

// VolumeStore holds the records of volumes.
type VolumeStore interface {
	Volumes(ctx context.Context) ([]mesh.Volume, error)
	// Volume returns NotFound if there is none, and Damaged.
	Volume(ctx context.Context, name mesh.VolumeName) (mesh.Volume, error)
	// AddVolume returns a Conflict if the name is taken.
	AddVolume(ctx context.Context, v mesh.Volume) error
	// UpdateVolume changes a volume with fn, which may run more than once.
	UpdateVolume(ctx context.Context, name mesh.VolumeName, fn func(*mesh.Volume) error) (mesh.Volume, error)
	RemoveVolume(ctx context.Context, name mesh.VolumeName) error
}

// volumeWork is who changes which volume. The zero value is ready.
type volumeWork struct {
	mu      sync.Mutex
	changes map[mesh.VolumeName]string // its attachments or its record
	content map[mesh.VolumeName]string // its files, or which of them instances get
	back    map[string]chan struct{}   // the engine's volumes that are being filled from a backup; closed at the end
}

// claimVolumes takes volumes for a change of their records, or of their content, until the
// returned function is called. doing completes "uploads is being".
func (d *Deployer) claimVolumes(doing string, content bool, names ...mesh.VolumeName) (release func(), err error) {
	w := &d.volumes
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changes == nil {
		w.changes, w.content = map[mesh.VolumeName]string{}, map[mesh.VolumeName]string{}
	}
	busy := w.changes
	if content {
		busy = w.content
	}
	for _, name := range names {
		if what, taken := busy[name]; taken {
			return nil, mesh.Errorf(mesh.Conflict, "the volume %s is being %s", name, what).WithHint("wait until that has ended, and try again")
		}
	}
	for _, name := range names {
		busy[name] = doing
	}
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, name := range names {
			delete(busy, name)
		}
	}), nil
}

// VolumeUsers returns the stacks that a volume is attached to: at most one.
func (d *Deployer) VolumeUsers(ctx context.Context, name mesh.VolumeName) (out []mesh.StackName, err error) {
	stacks, err := d.Store.Stacks(ctx)
	for _, s := range stacks {
		if len(s.UsesOf(name)) > 0 {
			out = append(out, s.Name)
		}
	}
	return out, err
}

// CreateVolume creates an empty volume.
func (d *Deployer) CreateVolume(ctx context.Context, name mesh.VolumeName, by mesh.KeyName) (mesh.Volume, error) {
	release, err := d.claimVolumes("created", false, name)
	if err != nil {
		return mesh.Volume{}, err
	}
	defer release()
	v := mesh.Volume{Name: name, Engine: d.VolumeServer.Plan(name), Created: d.Now().UTC(), CreatedBy: by}
	if err := d.VolumeServer.Create(ctx, name, v.Engine); err != nil {
		return v, err
	}
	if err := d.Store.AddVolume(ctx, v); err != nil {
		d.dropFiles(context.WithoutCancel(ctx), name, v.Engine)
		return v, err
	}
	d.Logger.Info("volume created", "volume", name, "key", string(by))
	return v, nil
}

// dropFiles removes an engine's volume that no record needs.
func (d *Deployer) dropFiles(ctx context.Context, name mesh.VolumeName, engine string) {
	if err := d.VolumeServer.Remove(ctx, engine); err != nil {
		d.Logger.Warn("a volume of the engine was not removed", "volume", name, "engine", engine, "err", err)
	}
}

// DestroyVolume removes a volume and all its files. It is a Conflict while a stack has it.
func (d *Deployer) DestroyVolume(ctx context.Context, name mesh.VolumeName, by mesh.KeyName) error {
	release, err := d.claimWhole("destroyed", name)
	if err != nil {
		return err
	}
	defer release()
	v, err := d.Store.Volume(ctx, name)
	if err != nil {
		return err
	}
	if users, err := d.VolumeUsers(ctx, name); err != nil {
		return err
	} else if len(users) > 0 {
		return mesh.Errorf(mesh.Conflict, "%s is attached to %s", name, users[0]).WithHint("detach it first: ssh mesh volumes:detach %s -a %s", name, users[0])
	}
	if err := d.free(ctx, name, v.Engine, nobody, nil); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	engines := []string{v.Engine}
	for _, k := range v.Kept {
		engines = append(engines, k.Engine)
	}
	if v.Pending != "" {
		engines = append(engines, v.Pending)
	}
	for _, e := range engines {
		if err := d.VolumeServer.Remove(ctx, e); err != nil {
			return err
		}
	}
	if err := d.Store.RemoveVolume(ctx, name); err != nil {
		return err
	}
	if err := d.UnscheduleBackup(ctx, mesh.VolumeSubject(name), by); err != nil && !errors.Is(err, mesh.NotFound) {
		d.Logger.Warn("schedule for backups not removed", "volume", name, "err", err)
	}
	d.Logger.Info("volume destroyed", "volume", name, "key", string(by))
	return nil
}

// claimWhole takes a volume for a change of its record and its content.
func (d *Deployer) claimWhole(doing string, name mesh.VolumeName) (release func(), err error) {
	first, err := d.claimVolumes(doing, false, name)
	if err != nil {
		return nil, err
	}
	second, err := d.claimVolumes(doing, true, name)
	if err != nil {
		first()
		return nil, err
	}
	return func() { second(); first() }, nil
}

// AttachVolume gives the instances of a service a volume. If the stack runs, that is a new
// release, whose instances have it from their start; if it fails, nothing changes.
func (d *Deployer) AttachVolume(ctx context.Context, stack mesh.StackName, by mesh.KeyName, u mesh.VolumeUse, out io.Writer) error {
	release, err := d.claimVolumes("attached", false, u.Volume)
	if err != nil {
		return err
	}
	defer release()
	if _, err := d.Store.Volume(ctx, u.Volume); err != nil {
		return err
	}
	users, err := d.VolumeUsers(ctx, u.Volume)
	if err != nil {
		return err
	}
	for _, o := range users {
		if o != stack {
			return mesh.Errorf(mesh.Conflict, "%s is attached to another stack", u.Volume).
				WithHint("a volume belongs to one stack at a time; detach it there first, or create another: ssh mesh volumes:create NAME")
		}
	}
	return d.remount(ctx, stack, by, "Attach "+string(u.Volume), out, func(s mesh.Stack, r mesh.Release) (mesh.Stack, error) {
		return withVolume(s, r, u)
	})
}

// withVolume returns the stack with another attachment; r is its current release, or zero.
func withVolume(s mesh.Stack, r mesh.Release, u mesh.VolumeUse) (mesh.Stack, error) {
	if _, ok := r.Services[u.Service]; r.Services != nil && !ok {
		return s, noService(s.Name, u.Service, r)
	}
	n := 0
	for _, o := range s.Volumes {
		switch {
		case o.Volume == u.Volume && o.Service == u.Service:
			return s, mesh.Errorf(mesh.Conflict, "%s is already attached to %s of %s, at %s", u.Volume, u.Service, s.Name, o.Path)
		case o.Volume == u.Volume && (!o.Shared || !u.Shared):
			return s, mesh.Errorf(mesh.Conflict, "%s is attached to %s of %s as well, and would have two writers", u.Volume, o.Service, s.Name).
				WithHint("if the app can share its files, detach it and attach it to both with --shared")
		case o.Service == u.Service && mesh.Overlaps(o.Path, u.Path):
			return s, mesh.Errorf(mesh.Conflict, "%s of %s has the volume %s at %s, which overlaps with %s", u.Service, s.Name, o.Volume, o.Path, u.Path)
		case o.Service == u.Service:
			n++
		}
	}
	if n >= maxMounts {
		return s, mesh.Errorf(mesh.Invalid, "%s of %s has %d volumes, which is the limit", u.Service, s.Name, maxMounts)
	}
	s.Volumes = append(slices.Clone(s.Volumes), u)
	slices.SortFunc(s.Volumes, mesh.VolumeUse.Compare)
	if r.Services != nil {
		s.Formation = formation(s, r.Services)
	}
	return s, oneWriter(s, s.Formation)
}

// oneWriter returns an error if a service with a volume that is not shared has several
// instances.
func oneWriter(s mesh.Stack, f mesh.Formation) error {
	for _, u := range s.Volumes {
		if n := f[u.Service]; !u.Shared && n > 1 {
			return mesh.Errorf(mesh.Conflict, "%s of %s cannot have %d instances: several writers could damage the files of its volume %s", u.Service, s.Name, n, u.Volume).
				WithHint("scale it to one: ssh mesh ps:scale -a %s %s=1; or, if the app can share its files, attach the volume with --shared", s.Name, u.Service)
		}
	}
	return nil
}

// DetachVolume takes a volume away from a stack, which keeps its files. If the stack runs,
// that is a new release. It returns where the volume was.
func (d *Deployer) DetachVolume(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.VolumeName, out io.Writer) ([]mesh.VolumeUse, error) {
	release, err := d.claimVolumes("detached", false, name)
	if err != nil {
		return nil, err
	}
	defer release()
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return nil, err
	}
	gone := st.UsesOf(name)
	if len(gone) == 0 {
		return nil, mesh.Errorf(mesh.NotFound, "%s is not attached to %s", mesh.Clip(mesh.Visible(string(name)), 60), stack).WithHint("see what is: ssh mesh volumes -a %s", stack)
	}
	return gone, d.remount(ctx, stack, by, "Detach "+string(name), out, func(s mesh.Stack, _ mesh.Release) (mesh.Stack, error) {
		s.Volumes = slices.DeleteFunc(slices.Clone(s.Volumes), func(o mesh.VolumeUse) bool { return o.Volume == name })
		return s, nil
	})
}

// remount changes the volumes of a stack.
func (d *Deployer) remount(ctx context.Context, stack mesh.StackName, by mesh.KeyName, subject string, out io.Writer, change func(mesh.Stack, mesh.Release) (mesh.Stack, error)) error {
	return d.relinked(ctx, stack, by, subject, mesh.ConfigChange{}, out, change, func(s *mesh.Stack, next mesh.Stack) { s.Volumes = next.Volumes }, nil)
}

// ExportVolume writes the files of a volume as tar. It is whole if the error is nil.
func (d *Deployer) ExportVolume(ctx context.Context, name mesh.VolumeName, by mesh.KeyName, w io.Writer) error {
	v, err := d.WholeVolume(ctx, name)
	if err != nil {
		return err
	}
	d.Logger.Info("volume exported", "volume", name, "key", string(by))
	if err := d.VolumeServer.Export(ctx, v.Engine, w); err != nil {
		return err
	}
	return d.stillWhole(ctx, v)
}

// WholeVolume returns the record of a volume whose files are all there. While they are being
// restored, after they were lost, the error is Unavailable.
func (d *Deployer) WholeVolume(ctx context.Context, name mesh.VolumeName) (mesh.Volume, error) {
	v, err := d.Store.Volume(ctx, name)
	if err == nil && v.Pending != "" && v.Pending == v.Engine {
		err = mesh.Errorf(mesh.Unavailable, "the files of %s are being restored", name).WithHint("try again when that has ended: ssh mesh logs --source mesh")
	}
	return v, err
}

// stillWhole returns an error if a volume has got other files since, or its files were lost: what was
// read of it may be half.
func (d *Deployer) stillWhole(ctx context.Context, was mesh.Volume) error {
	v, err := d.WholeVolume(ctx, was.Name)
	if err == nil && v.Engine != was.Engine {
		err = mesh.Errorf(mesh.Conflict, "%s has got other files meanwhile", was.Name).WithHint("try again")
	}
	return err
}

// maxKeptFiles is how often a volume's earlier files are kept. The oldest go first.
const maxKeptFiles = 3

// ImportVolume replaces the files of a volume with those of a tar. They are unpacked into
// another volume of the engine, and replace the old ones once the tar was read to its end.
// The old ones are kept for a day. Nothing may use the volume meanwhile: what an instance
// writes would be lost. If anything fails, nothing has changed.
func (d *Deployer) ImportVolume(ctx context.Context, name mesh.VolumeName, by mesh.KeyName, r io.Reader) (entries int, err error) {
	return d.importFiles(ctx, name, by, "replaced by an import", r)
}

// importFiles is ImportVolume; why is what the old files are kept with.
func (d *Deployer) importFiles(ctx context.Context, name mesh.VolumeName, by mesh.KeyName, why string, r io.Reader) (entries int, err error) {
	release, err := d.claimWhole("imported", name)
	if err != nil {
		return 0, err
	}
	defer release()
	v, err := d.Store.Volume(ctx, name)
	if err != nil {
		return 0, err
	}
	if err := d.unused(ctx, v); err != nil {
		return 0, err
	}
	next := d.VolumeServer.Plan(name)
	// On record before it exists, so that a server that is killed here removes it.
	if _, err := d.Store.UpdateVolume(ctx, name, func(v *mesh.Volume) error { v.Pending = next; return nil }); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			d.dropPending(context.WithoutCancel(ctx), name, next)
		}
	}()
	if err := d.VolumeServer.Create(ctx, name, next); err != nil {
		return 0, err
	}
	if entries, err = d.VolumeServer.Import(ctx, next, r); err != nil {
		return 0, err
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	d.Logger.Info("volume imported", "volume", name, "key", string(by))
	return entries, d.swapFiles(context.WithoutCancel(ctx), name, next, why)
}

// dropPending removes what an import that failed has made.
func (d *Deployer) dropPending(ctx context.Context, name mesh.VolumeName, engine string) {
	err := d.VolumeServer.Remove(ctx, engine)
	if err == nil {
		_, err = d.Store.UpdateVolume(ctx, name, func(v *mesh.Volume) error { v.Pending = ""; return nil })
	}
	if err != nil {
		d.Logger.Warn("what an interrupted import has left is not removed; the next start does it", "volume", name, "engine", engine, "err", err)
	}
}

// unused returns an error if instances or one-off commands use a volume, or will without
// being asked.
func (d *Deployer) unused(ctx context.Context, v mesh.Volume) error {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return err
	}
	for _, s := range stacks {
		if len(s.UsesOf(v.Name)) > 0 && s.Current > 0 && !s.Stopped {
			return mesh.Errorf(mesh.Conflict, "%s is attached to %s, which runs: what it writes meanwhile would be lost", v.Name, s.Name).
				WithHint("stop it first: ssh mesh ps:stop -a %s; and start it afterwards: ssh mesh ps:start -a %s", s.Name, s.Name)
		}
	}
	return d.free(ctx, v.Name, v.Engine, nobody, nil)
}

// freeTime limits how long to wait for containers that still use a volume: as long as
// instances may take to retire.
const freeTime = 5 * time.Minute

func nobody(string) bool { return false }

// free waits until only ours use an engine's volume: instances that a release has left behind
// end by themselves. A one-off command, or a container that mesh did not start, is an error.
// say, which may be nil, is called once if it must wait.
func (d *Deployer) free(ctx context.Context, name mesh.VolumeName, engine string, ours func(id string) bool, say func(mesh.VolumeUser)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freeTime, mesh.Errorf(mesh.Unavailable, "old instances still use the volume %s", name))
	defer cancel()
	for {
		users, err := d.VolumeServer.Users(ctx, engine)
		if err != nil {
			return err
		}
		users = slices.DeleteFunc(users, func(u mesh.VolumeUser) bool { return ours(u.ID) })
		if len(users) == 0 {
			return nil
		}
		if u := users[0]; u.Kind != "instance" {
			return mesh.Errorf(mesh.Conflict, "%s uses the volume %s, which has one writer at a time", u.Name, name).WithHint("wait until it has ended, or stop it, and try again")
		}
		if say != nil {
			say(users[0])
			say = nil
		}
		if !fleet.Wait(ctx, 100*time.Millisecond, nil) {
			return context.Cause(ctx)
		}
	}
}

// swapFiles makes other files those of a volume, and keeps those that it had for a day.
func (d *Deployer) swapFiles(ctx context.Context, name mesh.VolumeName, next, why string) error {
	var over []mesh.KeptFiles
	_, err := d.Store.UpdateVolume(ctx, name, func(v *mesh.Volume) error {
		v.Kept = slices.DeleteFunc(v.Kept, func(k mesh.KeptFiles) bool { return k.Engine == next })
		v.Kept = append(v.Kept, mesh.KeptFiles{Engine: v.Engine, Why: why, Until: d.Now().Add(keepTime).UTC()})
		if n := len(v.Kept) - maxKeptFiles; n > 0 {
			over, v.Kept = slices.Clone(v.Kept[:n]), v.Kept[n:]
		}
		v.Engine, v.Pending = next, ""
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range over {
		d.dropFiles(ctx, name, k.Engine)
	}
	return nil
}

// RevertVolume goes back to the files that a volume had before its last import, or before
// the last revert. The files that it has now are kept for a day as well.
func (d *Deployer) RevertVolume(ctx context.Context, name mesh.VolumeName, by mesh.KeyName) (why string, err error) {
	release, err := d.claimWhole("taken back", name)
	if err != nil {
		return "", err
	}
	defer release()
	v, err := d.Store.Volume(ctx, name)
	if err != nil {
		return "", err
	}
	if len(v.Kept) == 0 {
		return "", mesh.Errorf(mesh.NotFound, "%s has no earlier files: they are kept for a day after an import", name)
	}
	if err := d.unused(ctx, v); err != nil {
		return "", err
	}
	k := v.Kept[len(v.Kept)-1]
	there, err := d.VolumeServer.List(ctx)
	if err != nil {
		return "", err
	}
	if _, ok := there[k.Engine]; !ok {
		return "", mesh.Errorf(mesh.NotFound, "the earlier files of %s are gone: somebody has removed %s from the engine", name, k.Engine)
	}
	d.Logger.Info("volume taken back", "volume", name, "key", string(by))
	return k.Why, d.swapFiles(context.WithoutCancel(ctx), name, k.Engine, "replaced by a revert")
}

// mounts returns what the instances of each service of a stack mount.
func (d *Deployer) mounts(ctx context.Context, st mesh.Stack) (map[mesh.ServiceName][]mesh.Mount, error) {
	if len(st.Volumes) == 0 {
		return nil, nil
	}
	out := map[mesh.ServiceName][]mesh.Mount{}
	for _, u := range st.Volumes {
		v, err := d.Store.Volume(ctx, u.Volume)
		if err != nil {
			return nil, err
		}
		out[u.Service] = append(out[u.Service], mesh.Mount{Volume: v.Name, Engine: v.Engine, Path: u.Path, Shared: u.Shared})
	}
	return out, nil
}

// borrow returns what a one-off command with the settings of a service mounts, and takes
// those volumes that are not shared until the returned function is called. They are refused
// while anything else uses them.
func (d *Deployer) borrow(ctx context.Context, st mesh.Stack, as mesh.ServiceName) (mounts []mesh.Mount, release func(), err error) {
	release = func() {}
	if as == "" || len(st.Volumes) == 0 {
		return nil, release, nil
	}
	all, err := d.mounts(ctx, st)
	if err != nil {
		return nil, release, err
	}
	var alone []mesh.VolumeName
	for _, m := range all[as] {
		if m.Shared {
			continue
		}
		if st.Stopped {
			if err := d.free(ctx, m.Volume, m.Engine, nobody, nil); err != nil {
				return nil, release, err
			}
		}
		users, err := d.VolumeServer.Users(ctx, m.Engine)
		if err != nil {
			return nil, release, err
		}
		if len(users) > 0 {
			return nil, release, mesh.Errorf(mesh.Conflict, "%s uses the volume %s, which has one writer at a time", users[0].Name, m.Volume).
				WithHint("run it in the instance: ssh mesh enter -a %s %s; or without -p, which has no volumes", st.Name, as)
		}
		alone = append(alone, m.Volume)
	}
	taken, err := d.claimVolumes("used by a one-off command or a deployment", true, alone...)
	if err != nil {
		return nil, release, err
	}
	return all[as], taken, nil
}

// reconcileVolumes removes what interrupted imports have left, and reports volumes of the
// engine that no record has: the record may be what is missing.
func (d *Deployer) reconcileVolumes(ctx context.Context) error {
	if d.VolumeServer == nil {
		return nil
	}
	records, err := d.Store.Volumes(ctx)
	if err != nil {
		return err
	}
	there, err := d.VolumeServer.List(ctx)
	if err != nil {
		return err
	}
	for _, v := range records {
		delete(there, v.Engine)
		for _, k := range v.Kept {
			delete(there, k.Engine)
		}
		if v.Pending != "" {
			delete(there, v.Pending)
			d.settleImport(ctx, v)
		}
	}
	for engine, name := range there {
		d.volumes.mu.Lock()
		_, busy := d.volumes.changes[name]
		d.volumes.mu.Unlock()
		if !busy {
			d.Logger.Warn("the engine has a volume without a record; leaving it alone", "volume", name, "engine", engine)
		}
	}
	return nil
}

// settleImport removes what an interrupted import, or restore, of a volume has left, unless it
// is going on.
func (d *Deployer) settleImport(ctx context.Context, was mesh.Volume) {
	back, busy := d.tryBack(was.Pending)
	if busy != nil {
		return // an instance waits for it
	}
	defer back()
	release, err := d.claimWhole("cleaned", was.Name)
	if err != nil {
		return // it is being imported
	}
	defer release()
	// Read again: it may have ended meanwhile, and those may be the volume's files now.
	if v, err := d.Store.Volume(ctx, was.Name); err == nil && v.Pending == was.Pending {
		d.Logger.Info("removing what an interrupted import of a volume has left", "volume", v.Name)
		d.dropPending(ctx, v.Name, v.Pending)
	}
}

// expireVolumes removes earlier files of volumes whose time is up, every hour until ctx ends.
func (d *Deployer) expireVolumes(ctx context.Context) {
	if d.VolumeServer == nil {
		return
	}
	hourly(ctx, func() {
		d.dropKeptFiles(ctx)
		if err := d.VolumeServer.Tidy(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, mesh.Unavailable) {
			d.Logger.Warn("helpers of volumes not removed", "err", err)
		}
	})
}

func (d *Deployer) dropKeptFiles(ctx context.Context) {
	records, err := d.Store.Volumes(ctx)
	if err != nil {
		d.Logger.Warn("earlier files of volumes not removed", "err", err)
	}
	for _, v := range records {
		for _, k := range v.Kept {
			if d.Now().Before(k.Until) {
				continue
			}
			release, err := d.claimWhole("cleaned", v.Name)
			if err != nil {
				break // the next round does it
			}
			// Read again: it may be the volume's own files now, by volumes:revert.
			now, err := d.Store.Volume(ctx, v.Name)
			if err != nil || now.Engine == k.Engine || !slices.ContainsFunc(now.Kept, func(o mesh.KeptFiles) bool { return o.Engine == k.Engine }) {
				release()
				continue
			}
			if err = d.VolumeServer.Remove(ctx, k.Engine); err == nil {
				_, err = d.Store.UpdateVolume(ctx, v.Name, func(r *mesh.Volume) error {
					r.Kept = slices.DeleteFunc(r.Kept, func(o mesh.KeptFiles) bool { return o.Engine == k.Engine })
					return nil
				})
			}
			release()
			if err != nil {
				d.Logger.Warn("earlier files of a volume not removed", "volume", v.Name, "engine", k.Engine, "err", err)
			}
		}
	}
}

// volumeNames returns the volumes that the specs mount.
func volumeNames(specs []mesh.InstanceSpec) (out []mesh.VolumeName) {
	for _, s := range specs {
		for _, m := range s.Mounts {
			out = append(out, m.Volume)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// aloneIn returns the engine's volumes that the specs are to have for themselves, with their
// names.
func aloneIn(specs []mesh.InstanceSpec) map[string]mesh.VolumeName {
	out := map[string]mesh.VolumeName{}
	for _, s := range specs {
		for _, m := range s.Mounts {
			if !m.Shared {
				out[m.Engine] = m.Volume
			}
		}
	}
	return out
}

// describeVolumes is "the volume uploads has" or "the volumes a, b have".
func describeVolumes(alone map[string]mesh.VolumeName) string {
	var names []string
	for _, n := range alone {
		names = append(names, string(n))
	}
	slices.Sort(names)
	if len(names) == 1 {
		return "the volume " + names[0] + " has"
	}
	return fmt.Sprintf("the volumes %s have", joined(names))
}
