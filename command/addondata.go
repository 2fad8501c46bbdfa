package command

import (
	"context"
	"io"
	"strings"

	"mesh"
)

// AddonData copies, replaces and moves the data of add-ons. What takes long is written to
// out.
type AddonData interface {
	// DumpAddon writes all data; it is whole if the error is nil.
	DumpAddon(ctx context.Context, name mesh.AddonName, by mesh.KeyName, w io.Writer) error
	// RestoreAddon replaces the data with that of a dump, or changes nothing. why says
	// where it is from.
	RestoreAddon(ctx context.Context, name mesh.AddonName, why string, r io.Reader, out io.Writer) error
	CloneAddon(ctx context.Context, from, to mesh.AddonName, by mesh.KeyName, out io.Writer) (mesh.Addon, error)
	// UpgradeAddon fetches the newest image with the same tag if version is empty.
	UpgradeAddon(ctx context.Context, name mesh.AddonName, version string, by mesh.KeyName, out io.Writer) (mesh.Addon, error)
	// RevertAddon goes back to what was before the last restore or upgrade.
	RevertAddon(ctx context.Context, name mesh.AddonName, out io.Writer) error
	RotateAddon(ctx context.Context, name mesh.AddonName, by mesh.KeyName, out io.Writer) error
}

var addonDataCommands = []*definition{
	{
		topic: "addons", verb: "export", args: "[NAME] > FILE", short: "Print all data of an add-on, as its own tools write it", access: mesh.AccessDeploy, ownCheck: true, exact: true, parts: true, max: 1, run: runAddonExport,
		long:  "PostgreSQL: pg_dump -Fc; MySQL and MariaDB: SQL; Redis and Valkey: RDB; MongoDB: an archive of mongodump. It keeps\nrunning meanwhile. A dump that was cut off ends with an exit status other than 0.",
		flags: ofAddon(nil),
	},
	{
		topic: "addons", verb: "import", args: "[NAME] < FILE", short: "Replace the data of an add-on with that of a dump", access: mesh.AccessDeploy, ownCheck: true, max: 1, run: runAddonImport,
		long: "For PostgreSQL a file of pg_dump -Fc, as heroku pg:backups:download gives it, or plain SQL. It is read into a new\n" +
			"volume, while the stacks use the old data; then they are switched. If anything fails, nothing has changed. The old\n" +
			"data is kept for a day: addons:revert.",
		flags: ofAddon(nil),
	},
	{
		topic: "addons", verb: "clone", args: "NAME NEW", short: "Create an add-on with the data of another one", access: mesh.AccessDeploy, ownCheck: true, min: 2, max: 2, run: runAddonClone,
		long:  "The other one keeps running. NEW is attached to nothing: staging can have the data of production.",
		flags: ofAddon(nil),
	},
	{
		topic: "addons", verb: "upgrade", args: "NAME[:VERSION]", short: "Run a newer image, or another version", access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, run: runAddonUpgrade,
		long: "Without a version: the newest image with the tag that it has, on the same data. Another major version gets a dump of\n" +
			"the data in a volume of its own, which must have as many rows in each table; the stacks are without it meanwhile, for\n" +
			"a time that is told before. Go back with addons:revert, within a day.",
		flags: ofAddon(nil),
	},
	{
		topic: "addons", verb: "revert", args: "NAME", short: "Go back to before the last restore, import or upgrade", access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, run: runAddonRevert,
		long:  "The data of before is kept for a day. What was written since is kept as well, for another day.",
		flags: ofAddon(nil),
	},
	{
		topic: "addons", verb: "rotate", args: "[NAME]", short: "Change the password of an add-on", access: mesh.AccessDeploy, ownCheck: true, max: 1, run: runAddonRotate,
		long:  "Every stack that is attached gets a release with the new one. The old one works until the last stack has it.",
		flags: ofAddon(nil),
	},
}

func runAddonExport(ctx context.Context, c *call) error {
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "a dump cannot be printed on a terminal").WithHint("write it to a file: ssh mesh addons:export NAME > FILE")
	}
	a, err := c.addonOf(ctx, mesh.AccessDeploy, false)
	if err != nil {
		return err
	}
	form, note, err := c.AddonKinds.Form(a)
	if err != nil {
		return err
	}
	if err := c.AddonData.DumpAddon(ctx, a.Name, c.Key.Name, c.Stdout); err != nil {
		return err
	}
	if note != "" {
		form += ", " + note
	}
	c.tell("exported %s: %s\n", a.Name, form)
	return nil
}

func runAddonImport(ctx context.Context, c *call) error {
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "a dump cannot be read from a terminal").WithHint("read it from a file: ssh mesh addons:import NAME < FILE")
	}
	a, err := c.addonOf(ctx, mesh.AccessDeploy, true)
	if err != nil {
		return err
	}
	if err := c.AddonData.RestoreAddon(ctx, a.Name, "replaced by an import", c.Upload, c.Stderr); err != nil {
		return err
	}
	c.say("imported the dump into %s; the data of before is kept for a day: ssh mesh addons:revert %s\n", a.Name, a.Name)
	return nil
}

func runAddonClone(ctx context.Context, c *call) error {
	to, err := mesh.ParseAddonName(c.args[1])
	if err != nil {
		return err
	}
	a, err := c.addonOf(ctx, mesh.AccessDeploy, false)
	if err != nil {
		return err
	}
	c.audited = append(c.audited, string(to))
	next, err := c.AddonData.CloneAddon(ctx, a.Name, to, c.Key.Name, c.Stderr)
	if err != nil {
		return err
	}
	c.say("cloned %s to %s: %s %s at %s\n", a.Name, next.Name, next.Kind, next.Version, next.Name.Host())
	c.tell("attach it to a stack: ssh mesh addons:attach %s -a STACK\n", next.Name)
	return nil
}

func runAddonUpgrade(ctx context.Context, c *call) error {
	name, version, _ := strings.Cut(c.args[0], ":")
	c.args[0] = name
	a, err := c.addonOf(ctx, mesh.AccessDeploy, true)
	if err != nil {
		return err
	}
	if version != "" {
		c.audited = append(c.audited, version)
	}
	next, err := c.AddonData.UpgradeAddon(ctx, a.Name, version, c.Key.Name, c.Stderr)
	if err != nil {
		return err
	}
	if next.ImageID == a.ImageID {
		c.say("%s is up to date: %s\n", a.Name, a.Image)
		return nil
	}
	c.say("upgraded %s to %s; go back within a day: ssh mesh addons:revert %s\n", a.Name, next.Image, a.Name)
	return nil
}

func runAddonRevert(ctx context.Context, c *call) error {
	a, err := c.addonOf(ctx, mesh.AccessDeploy, true)
	if err != nil {
		return err
	}
	if err := c.AddonData.RevertAddon(ctx, a.Name, c.Stderr); err != nil {
		return err
	}
	if a, err = c.AddonList.Addon(ctx, a.Name); err != nil {
		return err
	}
	c.say("%s is as before: %s\n", a.Name, a.Image)
	return nil
}

func runAddonRotate(ctx context.Context, c *call) error {
	a, err := c.addonOf(ctx, mesh.AccessDeploy, true)
	if err != nil {
		return err
	}
	if err := c.AddonData.RotateAddon(ctx, a.Name, c.Key.Name, c.Stderr); err != nil {
		return err
	}
	c.say("%s has another password, and so have the stacks that use it\n", a.Name)
	return nil
}
