package command

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// AddonBackups restores backups of add-ons.
type AddonBackups interface {
	// RestoreBackup replaces the data of an add-on with that of a backup, or changes
	// nothing. It takes "latest" for an ID.
	RestoreBackup(ctx context.Context, name mesh.AddonName, at mesh.BackupPlace, id string, identity mesh.Secret, out io.Writer) error
	// CreateFromBackup creates an add-on with the data of a backup.
	CreateFromBackup(ctx context.Context, n mesh.NewAddon, at mesh.BackupPlace, id string, by mesh.KeyName, out io.Writer) (mesh.Addon, error)
}

var addonBackupCommands = []*definition{
	{
		topic: "addons", verb: "backup", args: "[NAME]", short: "Make a backup of an add-on now", access: mesh.AccessDeploy, ownCheck: true, json: true, max: 1, keeps: nothingKept,
		run: func(ctx context.Context, c *call) error { return c.ofAddon(ctx, false, runBackupRun) },
		long: "It is the kind's own dump, compressed, with a checksum. Without --to it goes where the schedule says, or into the\n" +
			"folder backups of the data directory.",
		flags: ofAddon(func(f *pflag.FlagSet) {
			placeFlags(f, "another place, for admins")
			encryptFlag(f)
		}),
	},
	{
		topic: "addons", verb: "backups", args: "[NAME]", short: "List the backups of an add-on", access: mesh.AccessDeploy, ownCheck: true, quiet: true, json: true, max: 1,
		run:   func(ctx context.Context, c *call) error { return c.ofAddon(ctx, true, runBackupList) },
		long:  "Those of an add-on that was destroyed are there for a week: addons:create KIND --from BACKUP.",
		flags: ofAddon(func(f *pflag.FlagSet) { placeFlags(f, "another place, for admins") }),
	},
	{
		topic: "addons", verb: "schedule", args: "NAME [SCHEDULE]", short: "Back an add-on up on a schedule; without one, show it", access: mesh.AccessDeploy, ownCheck: true, json: true, changes: true, min: 1, max: maxArgs, keeps: nothingKept,
		run: func(ctx context.Context, c *call) error { return c.ofAddon(ctx, false, runBackupSchedule) },
		long: "SCHEDULE has five fields, minute hour day month weekday, or is @daily, @weekly and the like. Without --to backups\n" +
			"are in the folder backups of the data directory. A failed backup is an alert.",
		flags: func(f *pflag.FlagSet) {
			placeFlags(f, "where backups are kept, for admins")
			f.Int("keep", defaultKeep, "how many `BACKUPS` to keep; older ones are removed")
			encryptFlag(f)
		},
	},
	{
		topic: "addons", verb: "unschedule", args: "NAME", short: "Make no more backups of an add-on on a schedule", access: mesh.AccessDeploy, ownCheck: true, changes: true, min: 1, max: 1,
		run:   func(ctx context.Context, c *call) error { return c.ofAddon(ctx, false, runBackupUnschedule) },
		long:  "Backups that were made stay where they are.",
		flags: ofAddon(nil),
	},
	{
		topic: "addons", verb: "restore", args: "NAME [BACKUP | latest] [< FILE]", short: "Replace the data of an add-on with that of a backup", access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 2, run: runAddonRestore, keeps: nothingKept,
		long: "It is read into a new volume, and checked, while the stacks use the old data; then they are switched. If anything\n" +
			"fails, nothing has changed. The old data is kept for a day: addons:revert. Without BACKUP it reads a dump from\n" +
			"standard input, as addons:import does.",
		flags: ofAddon(func(f *pflag.FlagSet) {
			placeFlags(f, "another place, for admins")
			f.String("identity", "", "`-`: read an age or SSH key that decrypts it from standard input")
		}),
	},
}

// ofAddon runs a command on backups for an add-on. gone: one that was destroyed will do.
func (c *call) ofAddon(ctx context.Context, gone bool, run func(context.Context, *call) error) error {
	name := ""
	if len(c.args) > 0 {
		name = c.args[0]
	}
	a, err := c.addonOf(ctx, mesh.AccessDeploy, !gone)
	switch {
	case err == nil:
		c.subject = mesh.BackupSubject(a.Name)
	case gone && errors.Is(err, mesh.NotFound) && name != "" && c.Key.May(mesh.AccessDeploy, ""):
		parsed, perr := mesh.ParseAddonName(name)
		if perr != nil {
			return err
		}
		c.subject = mesh.BackupSubject(parsed)
	default:
		return err
	}
	if err := c.mayPlace(); err != nil {
		return err
	}
	return run(ctx, c)
}

// mayPlace refuses places other than mesh's own folder to those who are not admins: mesh
// writes there as itself.
func (c *call) mayPlace() error {
	named := func(option string) bool { return c.flags.Changed(option) }
	if slices.ContainsFunc([]string{"to", "access-key", "secret-key", "endpoint", "region"}, named) && !c.Key.May(mesh.AccessAdmin, "") {
		return mesh.Errorf(mesh.Denied, "only an admin chooses where backups are kept").WithHint("leave out --to: they are kept on the server; or fetch a copy: ssh mesh addons:export NAME > FILE, ssh mesh volumes:export NAME > FILE")
	}
	return nil
}

func runAddonRestore(ctx context.Context, c *call) error {
	a, err := c.addonOf(ctx, mesh.AccessDeploy, true)
	if err != nil {
		return err
	}
	if err := c.mayPlace(); err != nil {
		return err
	}
	if len(c.args) == 0 {
		if c.TTY {
			return c.usage("name a backup, or read a dump from a file")
		}
		c.args = []string{string(a.Name)}
		return runAddonImport(ctx, c)
	}
	id := c.args[0]
	c.audited = append(c.audited, id)
	identity, err := c.identity()
	if err != nil {
		return err
	}
	c.subject = mesh.BackupSubject(a.Name)
	c.made = a.Created
	at, err := c.placeOf(ctx, id)
	if err != nil {
		return err
	}
	if err := c.AddonBackups.RestoreBackup(ctx, a.Name, at, id, identity, c.Stderr); err != nil {
		return err
	}
	c.say("restored %s; the data of before is kept for a day: ssh mesh addons:revert %s\n", a.Name, a.Name)
	return nil
}

// placeOf returns the place of a backup that the data of c.subject is to come from. Those of other subjects in the same place, and of one that had its name before,
// are not for keys that are limited to stacks.
func (c *call) placeOf(ctx context.Context, id string) (at mesh.BackupPlace, err error) {
	if s, _, err := mesh.ParseBackupID(id); err == nil && s != c.subject && !c.Key.May(mesh.AccessDeploy, "") {
		return at, mesh.Errorf(mesh.Denied, "%s is a backup of %s, and the key %q is limited to stacks", id, s, c.Key.Name).WithHint("name one of %s", c.subject)
	}
	plan, planned, err := c.Backups.BackupPlanOf(ctx, c.subject)
	if err != nil {
		return at, err
	}
	if at, _, err = c.placeGiven(plan, planned); err != nil || c.Key.May(mesh.AccessDeploy, "") {
		return at, err
	}
	all, err := c.Backups.ListBackups(ctx, at) // the newest first
	if err != nil {
		return at, err
	}
	i := slices.IndexFunc(all, func(b mesh.Backup) bool { return b.Subject == c.subject && b.Whole() && (id == "latest" || b.ID == id) })
	if i >= 0 && all[i].Created.Before(c.made.Truncate(time.Second)) {
		return at, mesh.Errorf(mesh.Denied, "%s was made before %s was created: it may be of another one with that name", all[i].ID, c.subject).WithHint("ask an admin to restore it")
	}
	return at, nil
}

// fromBackup returns the place and the ID of the backup that --from names.
func (c *call) fromBackup(ctx context.Context, id string) (at mesh.BackupPlace, err error) {
	subject, _, err := mesh.ParseBackupID(id)
	if err != nil {
		return at, err
	}
	if subject == mesh.BackupMesh {
		return at, mesh.Errorf(mesh.Invalid, "%s is a backup of the server itself", id).WithHint("restore it with: mesh restore")
	}
	plan, planned, err := c.Backups.BackupPlanOf(ctx, subject)
	if err != nil {
		return at, err
	}
	c.subject = subject
	if at, _, err = c.placeGiven(plan, planned); err != nil {
		return at, err
	}
	other, err := c.AddonList.Addon(ctx, mesh.AddonName(subject))
	if errors.Is(err, mesh.NotFound) && c.Key.May(mesh.AccessDeploy, "") {
		return at, nil
	} else if err != nil {
		return at, err
	}
	return at, c.mayUseAddon(ctx, mesh.AccessDeploy, false, other.Name, other.CreatedBy)
}
