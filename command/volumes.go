package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"mesh"
)

// Volumes creates, changes and removes volumes.
type Volumes interface {
	CreateVolume(ctx context.Context, name mesh.VolumeName, by mesh.KeyName) (mesh.Volume, error)
	// DestroyVolume returns a Conflict while a stack has the volume.
	DestroyVolume(ctx context.Context, name mesh.VolumeName, by mesh.KeyName) error
	// AttachVolume and DetachVolume make a release of a stack that runs, and write its
	// output to out.
	AttachVolume(ctx context.Context, stack mesh.StackName, by mesh.KeyName, u mesh.VolumeUse, out io.Writer) error
	DetachVolume(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.VolumeName, out io.Writer) ([]mesh.VolumeUse, error)
	// VolumeUsers returns the stacks that it is attached to.
	VolumeUsers(ctx context.Context, name mesh.VolumeName) ([]mesh.StackName, error)
	// ExportVolume writes a tar, which is whole if the error is nil.
	ExportVolume(ctx context.Context, name mesh.VolumeName, by mesh.KeyName, w io.Writer) error
	// ImportVolume replaces the files with those of a tar, or changes nothing.
	ImportVolume(ctx context.Context, name mesh.VolumeName, by mesh.KeyName, r io.Reader) (entries int, err error)
	// RevertVolume returns why the files that are back had been replaced.
	RevertVolume(ctx context.Context, name mesh.VolumeName, by mesh.KeyName) (why string, err error)
	// RestoreVolume replaces the files with those of a backup, or changes nothing. It takes
	// "latest" for an ID.
	RestoreVolume(ctx context.Context, name mesh.VolumeName, at mesh.BackupPlace, id string, identity mesh.Secret, by mesh.KeyName) (b mesh.Backup, entries int, err error)
}

// VolumeList reads the records of volumes.
type VolumeList interface {
	Volumes(ctx context.Context) ([]mesh.Volume, error)
	// Volume returns NotFound if there is none.
	Volume(ctx context.Context, name mesh.VolumeName) (mesh.Volume, error)
}

// VolumeFiles looks at the files of volumes.
type VolumeFiles interface {
	// Sizes returns the bytes that each volume takes, by the engine's name, of those that
	// can be measured from here. It reads the size of every file.
	Sizes(ctx context.Context) (map[string]int64, error)
}

var volumeCommands = []*definition{
	{
		topic: "volumes", short: "List the volumes: files that outlive the instances", quiet: true, json: true, run: runVolumes,
		flags: func(f *pflag.FlagSet) {
			f.StringP("app", "a", "", "only those of this `STACK`")
			f.StringP("stack", "s", "", "")
			_ = f.MarkHidden("stack")
			f.Bool("size", false, "measure them, which takes as long as du does")
		},
	},
	{
		topic: "volumes", verb: "create", args: "NAME", short: "Create a volume: a folder for files that outlive instances",
		access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, run: runVolumeCreate,
	},
	{
		topic: "volumes", verb: "attach", args: "NAME PATH", short: "Give the instances of a service a volume",
		long: "Makes one release. An empty volume gets what the image has in PATH, and belongs to the image's user. A volume\n" +
			"is attached to one service, which has one instance and is then deployed in another way: the old instance ends before\n" +
			"the new one starts, because two writers could damage the files. Requests wait meanwhile, up to 10 s. With --shared the\n" +
			"app must be able to share its files: instances overlap as usual, and other services of the stack may have it as well.\n" +
			"Attachments belong to the stack: a rollback keeps them.",
		stack: true, access: mesh.AccessDeploy, min: 2, max: 2, run: runVolumeAttach,
		flags: func(f *pflag.FlagSet) {
			f.StringP("service", "p", string(mesh.Web), "the `SERVICE`")
			f.Bool("shared", false, "several instances may use it at the same time")
		},
	},
	{
		topic: "volumes", verb: "detach", args: "NAME", short: "Take a volume away from a stack; its files stay",
		long:  "Makes one release.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runVolumeDetach,
	},
	{
		topic: "volumes", verb: "destroy", args: "NAME", short: "Remove a volume and all its files", access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, run: runVolumeDestroy,
		flags: func(f *pflag.FlagSet) {
			f.String("confirm", "", "the `NAME` of the volume again")
			_ = f.SetAnnotation("confirm", required, nil)
			f.Bool("confirmed", false, "")
			_ = f.MarkHidden("confirmed")
		},
	},
	{
		topic: "volumes", verb: "export", args: "NAME > FILE", short: "Write the files of a volume as tar", access: mesh.AccessDeploy, ownCheck: true, prints: true, exact: true, parts: true, min: 1, max: 1, run: runVolumeExport,
		long: "The app keeps running. What it writes meanwhile may be in the tar or not: for files that belong together, such as\n" +
			"those of SQLite, stop it first. A tar that was cut off ends with an exit status other than 0.",
	},
	{
		topic: "volumes", verb: "import", args: "NAME < FILE", short: "Replace the files of a volume with those of a tar", access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, run: runVolumeImport,
		long: "The tar may be compressed with gzip. It is unpacked beside the old files and checked to its end before it replaces\n" +
			"them; if anything fails, nothing has changed. Owners are those in the tar. A stack that has the volume must be stopped\n" +
			"(ps:stop), or what it writes meanwhile would be lost. The old files are kept for a day: volumes:revert.",
	},
	{
		topic: "volumes", verb: "revert", args: "NAME", short: "Go back to the files of before the last import", access: mesh.AccessDeploy, ownCheck: true, min: 1, max: 1, run: runVolumeRevert,
		long: "They are kept for a day. Those of now are kept as well, for another day: a second revert takes the first one back.\n" +
			"A stack that has the volume must be stopped.",
	},
}

// volumeOf finds the volume that a command is about. The key must be one that deploys
// its stack; while it has none, the key that created it has access.
func (c *call) volumeOf(ctx context.Context) (mesh.Volume, error) {
	name := mesh.VolumeName(c.args[0])
	v, err := c.VolumeList.Volume(ctx, name)
	if err != nil && !errors.Is(err, mesh.Damaged) {
		return v, err
	}
	users, uerr := c.Volumes.VolumeUsers(ctx, name)
	switch {
	case uerr != nil:
		return v, uerr
	case c.Key.MayAddon(mesh.AccessDeploy, users, v.CreatedBy, true):
		return v, err
	case c.Key.MayAddon(mesh.AccessRead, users, v.CreatedBy, false):
		return v, c.denied(mesh.AccessDeploy)
	}
	return v, noVolume(name) // whether there is one is not everybody's business
}

func noVolume(name mesh.VolumeName) error {
	return mesh.Errorf(mesh.NotFound, "there is no volume %q", mesh.Clip(mesh.Visible(string(name)), 60)).WithHint("list them with: ssh mesh volumes; create one: ssh mesh volumes:create NAME")
}

type volumeJSON struct {
	Name      string          `json:"name"`
	State     string          `json:"state"`
	Attached  []volumeUseJSON `json:"attached"`
	Size      *int64          `json:"size,omitempty"`
	Engine    string          `json:"engine_volume"`
	Kept      []keptFilesJSON `json:"kept,omitempty"`
	Created   time.Time       `json:"created"`
	CreatedBy string          `json:"created_by,omitempty"`
}

type volumeUseJSON struct {
	Stack   string `json:"stack"`
	Service string `json:"service"`
	Path    string `json:"path"`
	Shared  bool   `json:"shared"`
}

type keptFilesJSON struct {
	Why   string    `json:"why"`
	Until time.Time `json:"until"`
}

func runVolumes(ctx context.Context, c *call) error {
	all, err := c.VolumeList.Volumes(ctx)
	if err != nil {
		return err
	}
	stacks, err := c.Stacks.Stacks(ctx)
	if err != nil {
		return err
	}
	stacks = slices.DeleteFunc(stacks, func(s mesh.Stack) bool { return !c.Key.May(mesh.AccessRead, s.Name) })
	only := c.optionalStack()
	if only != "" && !slices.ContainsFunc(stacks, func(s mesh.Stack) bool { return s.Name == only }) {
		if c.flags.Changed("app") || c.flags.Changed("stack") {
			return noStack(string(only), stacks)
		}
		only = ""
	}
	var sizes map[string]int64
	measured, _ := c.flags.GetBool("size")
	if measured {
		if sizes, err = c.VolumeFiles.Sizes(ctx); err != nil {
			return err
		}
	}
	list := []volumeJSON{}
	var rows [][]string
	for _, v := range all {
		users, err := c.Volumes.VolumeUsers(ctx, v.Name)
		if err != nil {
			return err
		}
		if !c.Key.MayAddon(mesh.AccessRead, users, v.CreatedBy, false) || only != "" && !slices.Contains(users, only) {
			continue
		}
		j := volumeJSON{Name: string(v.Name), State: "not attached", Attached: []volumeUseJSON{}, Engine: v.Engine, Created: v.Created, CreatedBy: string(v.CreatedBy)}
		for _, k := range v.Kept {
			j.Kept = append(j.Kept, keptFilesJSON{k.Why, k.Until})
		}
		size := "-"
		if n, known := sizes[v.Engine]; known {
			j.Size, size = &n, units.BytesSize(float64(n))
		}
		row := func(stack, service, path, shared string) {
			cells := []string{j.Name, stack, service, path, shared, c.when(v.Created)}
			if measured {
				cells = append(cells, size)
			}
			rows = append(rows, cells)
		}
		for _, s := range stacks {
			for _, u := range s.UsesOf(v.Name) {
				j.State = "attached"
				j.Attached = append(j.Attached, volumeUseJSON{string(s.Name), string(u.Service), u.Path, u.Shared})
				row(string(s.Name), string(u.Service), u.Path, map[bool]string{true: "yes", false: "no"}[u.Shared])
			}
		}
		if len(j.Attached) == 0 {
			row("-", "-", "-", "-")
		}
		list = append(list, j)
	}
	if len(list) == 0 && !c.json {
		of := ""
		if only != "" {
			of = " attached to " + string(only)
		}
		c.tell("There are no volumes%s. Create one: ssh mesh volumes:create NAME\n", of)
		return nil
	}
	heading := []string{"VOLUME", "STACK", "SERVICE", "PATH", "SHARED", "CREATED"}
	if measured {
		heading = append(heading, "SIZE")
	}
	return c.list(list, heading, rows)
}

func runVolumeCreate(ctx context.Context, c *call) error {
	name, err := mesh.ParseVolumeName(c.args[0])
	if err != nil {
		return err
	}
	if !(mesh.Key{Role: c.Key.Role}).May(mesh.AccessDeploy, "") { // one that is limited to stacks may attach it there
		return c.denied(mesh.AccessDeploy)
	}
	if _, err := c.Volumes.CreateVolume(ctx, name, c.Key.Name); err != nil {
		return err
	}
	c.say("created %s\n", name)
	c.tell("attach it to a stack: ssh mesh volumes:attach %s -a STACK PATH\n", name)
	return nil
}

func runVolumeAttach(ctx context.Context, c *call) error {
	v, err := c.volumeOf(ctx)
	if err != nil {
		return err
	}
	u := mesh.VolumeUse{Volume: v.Name}
	svc, _ := c.flags.GetString("service")
	if u.Service, err = mesh.ParseServiceName(svc); err != nil {
		return err
	}
	if u.Path, err = mesh.ParseMountPath(c.args[1]); err != nil {
		return err
	}
	if c.flags.Changed("service") {
		c.audited = append(c.audited, "--service "+svc)
	}
	if u.Shared, _ = c.flags.GetBool("shared"); u.Shared {
		c.audited = append(c.audited, "--shared")
	}
	if err := c.Volumes.AttachVolume(ctx, c.stack.Name, c.Key.Name, u, c.Stderr); err != nil {
		return err
	}
	if !u.Shared {
		c.tell("each deployment now ends the old %s before it starts the new one; requests wait meanwhile, up to 10 s\n", u.Service)
	}
	return c.sayLinked(ctx, fmt.Sprintf("attached %s to %s at %s", u.Volume, u.Service, u.Path))
}

func runVolumeDetach(ctx context.Context, c *call) error {
	gone, err := c.Volumes.DetachVolume(ctx, c.stack.Name, c.Key.Name, mesh.VolumeName(c.args[0]), c.Stderr)
	if err != nil {
		return err
	}
	var services []string
	for _, u := range gone {
		services = append(services, string(u.Service))
	}
	return c.sayLinked(ctx, fmt.Sprintf("detached %s from %s; its files are kept", c.args[0], strings.Join(services, ", ")))
}

func runVolumeDestroy(ctx context.Context, c *call) error {
	v, err := c.volumeOf(ctx)
	if err != nil {
		return err
	}
	confirm, _ := c.flags.GetString("confirm")
	if forced, _ := c.flags.GetBool("confirmed"); forced {
		confirm = string(v.Name)
	}
	if confirm != string(v.Name) {
		return mesh.Errorf(mesh.Invalid, "destroying %s removes all its files; confirm with its name", v.Name).
			WithHint("ssh mesh volumes:destroy %s --confirm %[1]s; a copy before that: ssh mesh volumes:backup %[1]s; or: ssh mesh volumes:export %[1]s > FILE", v.Name)
	}
	if err := c.Volumes.DestroyVolume(ctx, v.Name, c.Key.Name); err != nil {
		return err
	}
	c.say("destroyed %s\n", v.Name)
	return nil
}

func runVolumeExport(ctx context.Context, c *call) error {
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "a tar cannot be printed on a terminal").WithHint("write it to a file: ssh mesh volumes:export NAME > FILE")
	}
	v, err := c.volumeOf(ctx)
	if err != nil {
		return err
	}
	return c.Volumes.ExportVolume(ctx, v.Name, c.Key.Name, c.Stdout)
}

func runVolumeImport(ctx context.Context, c *call) error {
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "a tar cannot be read from a terminal").WithHint("read it from a file: ssh mesh volumes:import NAME < FILE")
	}
	v, err := c.volumeOf(ctx)
	if err != nil {
		return err
	}
	n, err := c.Volumes.ImportVolume(ctx, v.Name, c.Key.Name, c.Upload)
	if err != nil {
		return err
	}
	c.say("imported %d files and folders into %s; the files of before are kept for a day: ssh mesh volumes:revert %s\n", n, v.Name, v.Name)
	return nil
}

func runVolumeRevert(ctx context.Context, c *call) error {
	v, err := c.volumeOf(ctx)
	if err != nil {
		return err
	}
	why, err := c.Volumes.RevertVolume(ctx, v.Name, c.Key.Name)
	if err != nil {
		return err
	}
	c.say("%s has the files again that were %s\n", v.Name, cmp.Or(why, "replaced"))
	return nil
}

// tellVolumes says what becomes of the volumes of the stack, if it has any.
func (c *call) tellVolumes(what string) {
	var names []string
	for _, u := range c.stack.Volumes {
		names = append(names, string(u.Volume))
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > 0 {
		c.tell("volumes: %s\n", fmt.Sprintf(what, strings.Join(names, ", ")))
	}
}
