package command

import (
	"context"
	"errors"

	"github.com/spf13/pflag"

	"mesh"
)

var volumeBackupCommands = []*definition{
	{
		topic: "volumes", verb: "backup", args: "NAME", short: "Make a backup of the files of a volume now", access: mesh.AccessDeploy, ownCheck: true, json: true, min: 1, max: 1, keeps: nothingKept,
		run: func(ctx context.Context, c *call) error { return c.ofVolume(ctx, false, runBackupRun) },
		long: "It is a tar, compressed, with a checksum. The app keeps running: see volumes:export. Without --to it goes where the\n" +
			"schedule says, or into the folder backups of the data directory.",
		flags: func(f *pflag.FlagSet) {
			placeFlags(f, "another place, for admins")
			encryptFlag(f)
		},
	},
	{
		topic: "volumes", verb: "backups", args: "NAME", short: "List the backups of a volume", access: mesh.AccessDeploy, ownCheck: true, quiet: true, json: true, min: 1, max: 1,
		run:   func(ctx context.Context, c *call) error { return c.ofVolume(ctx, true, runBackupList) },
		long:  "Those in the folder backups of a volume that was destroyed are there for a week.",
		flags: func(f *pflag.FlagSet) { placeFlags(f, "another place, for admins") },
	},
	{
		topic: "volumes", verb: "schedule", args: "NAME [SCHEDULE]", short: "Back a volume up on a schedule; without one, show it", access: mesh.AccessDeploy, ownCheck: true, json: true, changes: true, min: 1, max: maxArgs, keeps: nothingKept,
		run: func(ctx context.Context, c *call) error { return c.ofVolume(ctx, false, runBackupSchedule) },
		long: "SCHEDULE has five fields, minute hour day month weekday, or is @daily, @weekly and the like. Without --to backups\n" +
			"are in the folder backups of the data directory. A failed backup is an alert.",
		flags: func(f *pflag.FlagSet) {
			placeFlags(f, "where backups are kept, for admins")
			f.Int("keep", defaultKeep, "how many `BACKUPS` to keep; older ones are removed")
			encryptFlag(f)
		},
	},
	{
		topic: "volumes", verb: "unschedule", args: "NAME", short: "Make no more backups of a volume on a schedule", access: mesh.AccessDeploy, ownCheck: true, changes: true, min: 1, max: 1,
		run:  func(ctx context.Context, c *call) error { return c.ofVolume(ctx, false, runBackupUnschedule) },
		long: "Backups that were made stay where they are.",
	},
	{
		topic: "volumes", verb: "restore", args: "NAME BACKUP|latest", short: "Replace the files of a volume with those of a backup", access: mesh.AccessDeploy, ownCheck: true, min: 2, max: 2, keeps: nothingKept,
		run: func(ctx context.Context, c *call) error { return c.ofVolume(ctx, false, runVolumeRestore) },
		long: "They are unpacked beside the old files and checked to the end before they replace them; if anything fails, nothing\n" +
			"has changed. A stack that has the volume must be stopped (ps:stop). The old files are kept for a day: volumes:revert.",
		flags: func(f *pflag.FlagSet) {
			placeFlags(f, "another place, for admins")
			f.String("identity", "", "`-`: read an age or SSH key that decrypts it from standard input")
		},
	},
}

// ofVolume runs a command on backups for the volume that is named first, and takes its name
// from the arguments. gone: one that was destroyed will do.
func (c *call) ofVolume(ctx context.Context, gone bool, run func(context.Context, *call) error) error {
	v, err := c.volumeOf(ctx)
	name := v.Name
	if gone && errors.Is(err, mesh.NotFound) && c.Key.May(mesh.AccessDeploy, "") {
		name, err = mesh.ParseVolumeName(c.args[0])
	}
	if err == nil {
		err = c.mayPlace()
	}
	if err != nil {
		return err
	}
	c.subject, c.made, c.args = mesh.VolumeSubject(name), v.Created, c.args[1:]
	c.audited = append(c.audited, string(name))
	return run(ctx, c)
}

func runVolumeRestore(ctx context.Context, c *call) error {
	id := c.args[0]
	c.audited = append(c.audited, id)
	identity, err := c.identity()
	if err != nil {
		return err
	}
	at, err := c.placeOf(ctx, id)
	if err != nil {
		return err
	}
	name, _ := c.subject.Volume()
	b, n, err := c.Volumes.RestoreVolume(ctx, name, at, id, identity, c.Key.Name)
	if err != nil {
		return err
	}
	c.say("restored %d files and folders of %s into %s; the files of before are kept for a day: ssh mesh volumes:revert %s\n", n, b.ID, name, name)
	return nil
}
