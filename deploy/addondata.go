package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"mesh"
)

// keepTime is how long the data that an add-on had before a restore or an upgrade is kept.
const keepTime = 24 * time.Hour

// maxKept is how many earlier volumes an add-on keeps. The oldest goes first.
const maxKept = 3

// DumpAddon writes all data of an add-on, while it runs, in the kind's own form. The dump is
// whole if the error is nil.
func (d *Deployer) DumpAddon(ctx context.Context, name mesh.AddonName, by mesh.KeyName, w io.Writer) error {
	a, err := d.ready(ctx, name)
	if err != nil {
		return err
	}
	d.Logger.Info("add-on dumped", "addon", name, "key", string(by))
	return d.AddonServer.Dump(ctx, a, w)
}

// RestoreAddon replaces the data of an add-on with that of a dump. It is read into a new
// volume, beside the old data, which serves until the new is there, and is kept for a day
// afterwards. If anything fails, nothing has changed. why describes it, for people:
// "restored from b1".
func (d *Deployer) RestoreAddon(ctx context.Context, name mesh.AddonName, why string, r io.Reader, out io.Writer) error {
	a, release, err := d.claimReady(ctx, name, "restored")
	if err != nil {
		return err
	}
	defer release()
	if _, _, err := d.AddonServer.Form(a); err != nil {
		return err
	}
	say := sayer(out)
	next, err := d.renew(ctx, a, a)
	if err != nil {
		return err
	}
	say("Reading the dump beside the data that " + string(name) + " has now")
	err = d.AddonServer.Fill(ctx, next, r)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		d.unfill(ctx, next)
		return err
	}
	return d.switchData(ctx, a, next, why, func() {}, say)
}

// renew returns an add-on, like another one, with a volume of its own to fill, and records that: if
// mesh is killed meanwhile, the next start removes that volume, and no other.
func (d *Deployer) renew(ctx context.Context, a, like mesh.Addon) (mesh.Addon, error) {
	next := d.AddonServer.Renew(like)
	_, err := d.Store.UpdateAddon(ctx, a.Name, func(r *mesh.Addon) error { r.Pending = next.Volume; return nil })
	return next, err
}

// unfill removes the volume of a change that failed, unless it has earlier data.
func (d *Deployer) unfill(ctx context.Context, next mesh.Addon) {
	if keeps(next, next.Volume) {
		return
	}
	ctx = context.WithoutCancel(ctx)
	err := d.AddonServer.Remove(ctx, next.Name, next.Volume)
	if err == nil {
		_, err = d.Store.UpdateAddon(ctx, next.Name, func(r *mesh.Addon) error {
			if r.Pending == next.Volume {
				r.Pending = ""
			}
			return nil
		})
	}
	if err != nil {
		d.Logger.Warn("volume not removed; the next start does it", "addon", next.Name, "volume", next.Volume, "err", err)
	}
}

// keptOf is what an add-on goes back to with RevertAddon: its image, on the data that it has.
func keptOf(was mesh.Addon, why string, now time.Time) mesh.KeptVolume {
	return mesh.KeptVolume{Image: was.Image, ImageID: was.ImageID, Version: was.Version, Why: why, Until: now.Add(keepTime).UTC()}
}

// switchData makes other data that of an add-on: it records that, lets the stacks reach the
// new server instead of the old one, and stops the old one, which is kept for a day. It
// finishes even if ctx ends. shown ends what hides the add-on already.
func (d *Deployer) switchData(ctx context.Context, was, next mesh.Addon, why string, shown func(), say func(string)) error {
	ctx = context.WithoutCancel(ctx)
	began := d.Now()
	own := d.hide(was.Name)
	show := func() { // that of who has called this ends as well: the new server is to be reached
		own()
		shown()
	}
	defer show()
	if err := d.AddonServer.Hide(ctx, was); err != nil {
		d.unfill(ctx, next)
		show()
		return errors.Join(err, d.AddonServer.Reach(ctx, was))
	}
	kept := keptOf(was, why, began)
	kept.Volume = was.Volume
	lost, err := d.AddonServer.Lost(ctx, was)
	if err != nil {
		lost = false // it may be there
	}
	var over []mesh.KeptVolume
	a, err := d.Store.UpdateAddon(ctx, was.Name, func(r *mesh.Addon) error {
		r.Volume, r.Version, r.Image, r.ImageID, r.Digest, r.State = next.Volume, next.Version, next.Image, next.ImageID, next.Digest, mesh.AddonReady
		r.Pending = ""
		r.Kept = slices.DeleteFunc(slices.Clone(r.Kept), func(k mesh.KeptVolume) bool { return k.Volume == next.Volume || k.Volume == "" })
		if !lost {
			r.Kept = append(r.Kept, kept)
		}
		if n := len(r.Kept) - maxKept; n > 0 {
			over, r.Kept = r.Kept[:n], r.Kept[n:]
		}
		return nil
	})
	show()
	if err != nil {
		d.unfill(ctx, next)
		return errors.Join(err, d.AddonServer.Reach(ctx, was))
	}
	if err := d.AddonServer.Run(ctx, a); err != nil {
		return err
	}
	say(fmt.Sprintf("The stacks were without it for %s", seconds(d.Now().Sub(began))))
	if err := d.AddonServer.Stop(ctx, was); err != nil {
		d.Logger.Warn("the server of earlier data was not stopped", "addon", was.Name, "volume", was.Volume, "err", err)
	}
	for _, k := range over {
		if err := d.AddonServer.Remove(ctx, was.Name, k.Volume); err != nil {
			d.Logger.Warn("earlier data of an add-on not removed; the next start does it", "addon", was.Name, "volume", k.Volume, "err", err)
		}
	}
	d.Logger.Info("add-on has other data", "addon", was.Name, "why", why)
	return nil
}

// hide keeps an add-on from the stacks that are attached to it, whatever starts in them, until show
// is called, which may be more than once: what they wrote would be lost.
func (d *Deployer) hide(name mesh.AddonName) (show func()) {
	d.addons.mu.Lock()
	defer d.addons.mu.Unlock()
	if d.addons.hidden == nil {
		d.addons.hidden = map[mesh.AddonName]int{}
	}
	d.addons.hidden[name]++
	return sync.OnceFunc(func() {
		d.addons.mu.Lock()
		defer d.addons.mu.Unlock()
		if d.addons.hidden[name]--; d.addons.hidden[name] == 0 {
			delete(d.addons.hidden, name)
		}
	})
}

// RevertAddon goes back to the data, and the version, that an add-on had before its last
// restore or upgrade. What was written since is kept for a day as well.
func (d *Deployer) RevertAddon(ctx context.Context, name mesh.AddonName, out io.Writer) error {
	a, release, err := d.claimReady(ctx, name, "taken back")
	if err != nil {
		return err
	}
	defer release()
	if len(a.Kept) == 0 {
		return mesh.Errorf(mesh.NotFound, "%s has no earlier data: it is kept for a day after a restore or an upgrade", name).
			WithHint("restore a backup: ssh mesh addons:backups %s", name)
	}
	k := a.Kept[len(a.Kept)-1]
	old := a
	old.Version, old.Image, old.ImageID, old.Digest = k.Version, k.Image, k.ImageID, ""
	if k.Volume == "" { // an upgrade of the image alone
		return d.switchImage(ctx, a, old, "taken back from "+a.Version, sayer(out))
	}
	old.Volume = k.Volume
	if lost, err := d.AddonServer.Lost(ctx, old); err != nil {
		return err
	} else if lost {
		return mesh.Errorf(mesh.NotFound, "the earlier data of %s, %s, is not on this machine", name, k.Why).
			WithHint("restore a backup: ssh mesh addons:backups %s", name)
	}
	if err := d.AddonServer.Run(ctx, old); err != nil { // no stack reaches it yet
		return err
	}
	return d.switchData(ctx, a, old, "taken back from what was "+k.Why, func() {}, sayer(out))
}

// CloneAddon creates an add-on with the data that another one has at this moment.
func (d *Deployer) CloneAddon(ctx context.Context, from, to mesh.AddonName, by mesh.KeyName, out io.Writer) (mesh.Addon, error) {
	return d.cloneAddon(ctx, from, to, by, "", out)
}

// cloneAddon is CloneAddon for a preview, or for none.
func (d *Deployer) cloneAddon(ctx context.Context, from, to mesh.AddonName, by mesh.KeyName, preview mesh.StackName, out io.Writer) (mesh.Addon, error) {
	a, err := d.ready(ctx, from)
	if err != nil {
		return a, err
	}
	if _, _, err := d.AddonServer.Form(a); err != nil {
		return a, err
	}
	next, err := d.AddonServer.Plan(string(a.Kind), a.Version, to)
	if err != nil {
		return next, err
	}
	next.Memory, next.CPUs, next.Params, next.ImageID, next.Digest = a.Memory, a.CPUs, a.Params, a.ImageID, a.Digest
	next.Created, next.CreatedBy, next.Preview = d.Now().UTC(), by, preview
	return d.newAddon(ctx, next, out, "cloned", func(ctx context.Context, next mesh.Addon) error {
		return d.pour(ctx, a, next)
	})
}

// pour fills an add-on with the data of another one, which keeps running.
func (d *Deployer) pour(ctx context.Context, from, to mesh.Addon) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, w := io.Pipe()
	dumped := make(chan error, 1)
	go func() {
		err := d.AddonServer.Dump(ctx, from, w)
		_ = w.CloseWithError(err) // so that half a dump is not taken for a whole one
		dumped <- err
	}()
	err := d.AddonServer.Fill(ctx, to, r)
	_ = r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	if err != nil {
		cancel(err)
	}
	if derr := <-dumped; derr != nil && (err == nil || !errors.Is(derr, io.ErrClosedPipe) && context.Cause(ctx) == nil) {
		return derr
	}
	return err
}

// UpgradeAddon makes an add-on run another version of its image, or, without one, the
// newest with the tag that it has. A version that reads the data of the one before takes
// its volume; another one gets a dump of it, in a volume of its own, and must then have the
// same rows. If it does not answer, the old one serves again.
func (d *Deployer) UpgradeAddon(ctx context.Context, name mesh.AddonName, version string, by mesh.KeyName, out io.Writer) (mesh.Addon, error) {
	a, release, err := d.claimReady(ctx, name, "upgraded")
	if err != nil {
		return a, err
	}
	defer release()
	if a.State != mesh.AddonReady {
		return a, mesh.Errorf(mesh.Conflict, "%s is stopped", name).WithHint("start it first: ssh mesh addons:start %s", name)
	}
	say := sayer(out)
	major := version != "" && !sameMajor(a.Version, version)
	if version == "" {
		version = a.Version
	}
	next, err := d.AddonServer.Upgraded(a, version)
	if err != nil {
		return a, err
	}
	if next, err = d.AddonServer.Fetch(ctx, next, true, say); err != nil {
		return a, err
	}
	if next.ImageID == a.ImageID {
		say(fmt.Sprintf("%s runs this image already: nothing to do", name))
		return a, nil
	}
	d.Logger.Info("add-on upgrade begins", "addon", name, "from", a.Version, "to", version, "key", string(by))
	if major && a.Volume != "" {
		err = d.upgradeByDump(ctx, a, next, say)
	} else {
		err = d.switchImage(ctx, a, next, "upgraded to "+version, say)
	}
	if err != nil {
		return a, err
	}
	return d.Store.Addon(context.WithoutCancel(ctx), name)
}

// sameMajor reports whether two tags have the same first number, and what is not a number
// in front of it: "16.2" and "16.3-alpine", "v1.2" and "v1.10".
func sameMajor(a, b string) bool {
	major := func(s string) string {
		i := strings.IndexAny(s, ".-")
		if i < 0 {
			return s
		}
		return s[:i]
	}
	return major(a) == major(b)
}

// switchImage makes an add-on run another image on the data that it has. If that does not
// answer, the old one runs again.
func (d *Deployer) switchImage(ctx context.Context, was, next mesh.Addon, why string, say func(string)) error {
	ctx = context.WithoutCancel(ctx)
	began := d.Now()
	say(fmt.Sprintf("Starting %s with %s; it does not answer for some seconds", was.Name, next.Image))
	if err := d.AddonServer.Run(ctx, next); err != nil {
		say("Going back to " + was.Image)
		if berr := d.AddonServer.Run(ctx, was); berr != nil {
			d.Logger.Error("add-on does not run as before", "addon", was.Name, "err", berr)
		}
		return err
	}
	_, err := d.Store.UpdateAddon(ctx, was.Name, func(r *mesh.Addon) error {
		r.Version, r.Image, r.ImageID, r.Digest = next.Version, next.Image, next.ImageID, next.Digest
		r.Kept = append(slices.DeleteFunc(slices.Clone(r.Kept), func(k mesh.KeptVolume) bool { return k.Volume == "" }), keptOf(was, why, began))
		return nil
	})
	if err == nil {
		say(fmt.Sprintf("The stacks were without it for %s", seconds(d.Now().Sub(began))))
	}
	return err
}

// dumpRate is how fast data passes through a dump and a restore, in bytes a second: for the
// estimate of how long that takes: 293 MB of PostgreSQL took 42 s on two busy cores
// (make bench-addons).
const dumpRate = 7 << 20

// upgradeByDump reads a dump of an add-on into a server of another version. The stacks are
// cut off meanwhile: what they would write would be lost.
func (d *Deployer) upgradeByDump(ctx context.Context, was, like mesh.Addon, say func(string)) error {
	if _, _, err := d.AddonServer.Form(was); err != nil {
		return err
	}
	st, err := d.AddonServer.State(ctx, was)
	if err == nil {
		st, err = d.AddonServer.Figures(ctx, was, st)
	}
	if err != nil {
		return err
	}
	next, err := d.renew(ctx, was, like)
	if err != nil {
		return err
	}
	say(fmt.Sprintf("Moving the data of %s to %s; the stacks are without it for about %s", was.Name, next.Image, (5*time.Second + time.Duration(max(0, st.Size))*time.Second/dumpRate).Round(time.Second)))
	show := d.hide(was.Name)
	defer show()
	undo := func(err error) error {
		uctx := context.WithoutCancel(ctx)
		say("Going back to " + was.Image)
		d.unfill(uctx, next)
		show()
		return errors.Join(err, d.AddonServer.Reach(uctx, was))
	}
	began := d.Now()
	if err := d.AddonServer.Hide(ctx, was); err != nil {
		return undo(err)
	}
	before, checks, err := d.AddonServer.Check(ctx, was)
	if err == nil {
		err = d.pour(ctx, was, next)
	}
	if err != nil {
		return undo(err)
	}
	if checks {
		after, _, err := d.AddonServer.Check(ctx, next)
		if err != nil {
			return undo(err)
		}
		if after != before {
			return undo(mesh.Errorf(mesh.Failed, "the data is not the same in %s: %s", next.Image, difference(before, after)))
		}
		say(fmt.Sprintf("Checked: %d tables have as many rows as before", strings.Count(before, "\n")))
	}
	if ctx.Err() != nil {
		return undo(context.Cause(ctx))
	}
	if err := d.switchData(ctx, was, next, "upgraded to "+next.Version, show, func(string) {}); err != nil {
		return err
	}
	say(fmt.Sprintf("The stacks were without it for %s", seconds(d.Now().Sub(began))))
	return nil
}

// difference returns the first line that differs.
func difference(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for i := range max(len(a), len(b)) {
		var was, is string
		if i < len(a) {
			was = a[i]
		}
		if i < len(b) {
			is = b[i]
		}
		if was != is {
			return fmt.Sprintf("%q instead of %q", mesh.Clip(mesh.Visible(is), 100), mesh.Clip(mesh.Visible(was), 100))
		}
	}
	return "no line differs"
}

// RotateAddon gives an add-on another password, and every stack that is attached a release
// with it. Both passwords are accepted until the last stack has the new one; then the old
// one is not. If a stack fails, all go back to the old one. A rotation that a killed server
// has begun is finished by the next one.
func (d *Deployer) RotateAddon(ctx context.Context, name mesh.AddonName, by mesh.KeyName, out io.Writer) error {
	a, release, err := d.claimReady(ctx, name, "given another password")
	if err != nil {
		return err
	}
	defer release()
	if !a.Old.IsZero() {
		return mesh.Errorf(mesh.Conflict, "the last change of the password of %s is not finished", name).WithHint("it is finished when mesh starts, or the engine is back: ssh mesh doctor")
	}
	users, err := d.AddonUsers(ctx, name)
	if err != nil {
		return err
	}
	for _, u := range users { // before anything begins
		if st, err := d.Store.Stack(ctx, u); err != nil {
			return err
		} else if st.Lock != nil {
			return locked(st)
		}
	}
	next, err := d.AddonServer.Rotated(a)
	if err != nil {
		return err
	}
	if err := d.AddonServer.Admit(ctx, a, next); err != nil {
		return err
	}
	old, err := d.setLogin(context.WithoutCancel(ctx), name, next.Login(), a.Login())
	if err != nil {
		return errors.Join(err, d.AddonServer.Dismiss(context.WithoutCancel(ctx), next, a))
	}
	if err := d.finishRotation(ctx, old, by, out); err != nil {
		sayer(out)("Going back to the old password")
		back := context.WithoutCancel(ctx)
		a, berr := d.setLogin(back, name, a.Login(), next.Login())
		if berr == nil {
			berr = d.finishRotation(back, a, by, out)
		}
		if berr != nil {
			d.Logger.Error("the password of an add-on is half changed: both work", "addon", name, "err", berr)
		}
		return err
	}
	d.Logger.Info("add-on has another password", "addon", name, "key", string(by))
	return nil
}

// setLogin records how stacks sign in, and how those do that do not know it yet.
func (d *Deployer) setLogin(ctx context.Context, name mesh.AddonName, login, old mesh.Login) (mesh.Addon, error) {
	return d.Store.UpdateAddon(ctx, name, func(r *mesh.Addon) error {
		r.User, r.Password, r.Old = login.User, login.Password, old
		return nil
	})
}

// leaveTime is how long a rotation waits for old instances: requests end within half of it, and
// upgraded connections may last for hours.
const leaveTime = time.Minute

// finishRotation gives every attached stack the password on record, and then ends the old
// one.
func (d *Deployer) finishRotation(ctx context.Context, a mesh.Addon, by mesh.KeyName, out io.Writer) error {
	users, err := d.AddonUsers(ctx, a.Name)
	if err != nil {
		return err
	}
	for _, u := range users {
		if err := d.give(ctx, u, by, a, out); err != nil {
			return err
		}
	}
	wait, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	for _, u := range users {
		d.fleet.Left(wait, u) // old instances may still finish requests
	}
	ctx = context.WithoutCancel(ctx)
	if err := d.AddonServer.Dismiss(ctx, a.With(a.Old), a); err != nil {
		return err
	}
	_, err = d.setLogin(ctx, a.Name, a.Login(), mesh.Login{})
	return err
}

// resumeRotation finishes a rotation that a killed server has begun.
func (d *Deployer) resumeRotation(ctx context.Context, a mesh.Addon) error {
	// A server that has started since knows only the one on record.
	if err := d.AddonServer.Admit(ctx, a, a.With(a.Old)); err != nil {
		return err
	}
	return d.finishRotation(ctx, a, self, nil)
}

// give makes a release of a stack in which the config vars of an add-on are as they are on
// record, unless it has them already.
func (d *Deployer) give(ctx context.Context, stack mesh.StackName, by mesh.KeyName, a mesh.Addon, out io.Writer) error {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	change := mesh.ConfigChange{Set: mesh.Config{}}
	for _, at := range st.Attachment(a.Name) {
		vars, err := d.AddonServer.Vars(a, at)
		if err != nil {
			return err
		}
		for n, v := range vars {
			if !v.Equal(st.Config[n]) {
				change.Set[n] = v
			}
		}
	}
	if len(change.Set) == 0 {
		return nil
	}
	same := func(s mesh.Stack, _ mesh.Release) (mesh.Stack, error) { return s, nil }
	return d.reattach(ctx, stack, by, "Take the new password of "+string(a.Name), change, out, same)
}
