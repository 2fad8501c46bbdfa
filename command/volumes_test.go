package command_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
)

// fakeVolumes are the volumes of a fake, and do nothing but note what they are asked.
type fakeVolumes struct {
	*fake
	all   []mesh.Volume
	noted *[]string
}

func (f fakeVolumes) note(format string, args ...any) error {
	*f.noted = append(*f.noted, fmt.Sprintf(format, args...))
	return nil
}

func (f fakeVolumes) Volumes(context.Context) ([]mesh.Volume, error) { return f.all, nil }

func (f fakeVolumes) Volume(_ context.Context, name mesh.VolumeName) (mesh.Volume, error) {
	i := slices.IndexFunc(f.all, func(v mesh.Volume) bool { return v.Name == name })
	if i < 0 {
		return mesh.Volume{}, mesh.Errorf(mesh.NotFound, "there is no volume %q", name)
	}
	return f.all[i], nil
}

func (f fakeVolumes) VolumeUsers(_ context.Context, name mesh.VolumeName) (out []mesh.StackName, err error) {
	for _, s := range f.stacks {
		if len(s.UsesOf(name)) > 0 {
			out = append(out, s.Name)
		}
	}
	return out, nil
}

func (f fakeVolumes) Sizes(context.Context) (map[string]int64, error) {
	return map[string]int64{"e-uploads": 5 << 20}, nil
}

func (f fakeVolumes) CreateVolume(_ context.Context, name mesh.VolumeName, by mesh.KeyName) (mesh.Volume, error) {
	return mesh.Volume{Name: name}, f.note("create %s by %s", name, by)
}

func (f fakeVolumes) DestroyVolume(_ context.Context, name mesh.VolumeName, _ mesh.KeyName) error {
	return f.note("destroy %s", name)
}

func (f fakeVolumes) AttachVolume(_ context.Context, stack mesh.StackName, _ mesh.KeyName, u mesh.VolumeUse, _ io.Writer) error {
	return f.note("attach %s to %s %s at %s %v", u.Volume, stack, u.Service, u.Path, u.Shared)
}

func (f fakeVolumes) DetachVolume(_ context.Context, stack mesh.StackName, _ mesh.KeyName, name mesh.VolumeName, _ io.Writer) ([]mesh.VolumeUse, error) {
	return []mesh.VolumeUse{{Volume: name, Service: "web"}}, f.note("detach %s from %s", name, stack)
}

func (f fakeVolumes) ExportVolume(_ context.Context, name mesh.VolumeName, _ mesh.KeyName, w io.Writer) error {
	_, err := io.WriteString(w, "TAR\x1b")
	return err
}

func (f fakeVolumes) ImportVolume(_ context.Context, name mesh.VolumeName, _ mesh.KeyName, r io.Reader) (int, error) {
	b, err := io.ReadAll(r)
	_ = f.note("import %q into %s", b, name)
	return 3, err
}

func (f fakeVolumes) RevertVolume(_ context.Context, name mesh.VolumeName, _ mesh.KeyName) (string, error) {
	return "replaced by an import", f.note("revert %s", name)
}

func (f fakeVolumes) RestoreVolume(_ context.Context, name mesh.VolumeName, at mesh.BackupPlace, id string, _ mesh.Secret, _ mesh.KeyName) (mesh.Backup, int, error) {
	return mesh.Backup{ID: "volume." + string(name) + "-20261127T030000Z"}, 4, f.note("restore %s from %s in %s", name, id, at.URL)
}

// volumeFake has uploads, attached to blog, and spare, which mate has created.
func volumeFake() (*fake, *[]string) {
	f := stacks("blog", "shop")
	f.stacks[0].Volumes = []mesh.VolumeUse{{Volume: "uploads", Service: "web", Path: "/data"}, {Volume: "uploads", Service: "worker", Path: "/in", Shared: true}}
	made := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var noted []string
	f.volumes = fakeVolumes{f, []mesh.Volume{
		{Name: "spare", Engine: "e-spare", Created: made, CreatedBy: "mate"},
		{Name: "uploads", Engine: "e-uploads", Created: made, CreatedBy: "laptop", Kept: []mesh.KeptFiles{{Engine: "x", Why: "replaced by an import", Until: now}}},
	}, &noted}
	return f, &noted
}

func TestVolumes_List(t *testing.T) {
	t.Parallel()
	f, _ := volumeFake()
	for line, want := range map[string]string{
		"volumes":         "spare    -      -        -      -       2026-03-01T12:00:00Z\nuploads  blog   web      /data  no      2026-03-01T12:00:00Z\nuploads  blog   worker   /in    yes     2026-03-01T12:00:00Z\n",
		"volumes -a shop": "",
	} {
		if r := do(t, f, line); r.status != 0 || r.out != want {
			t.Errorf("%s: %d, %q, %q", line, r.status, r.out, r.err)
		}
	}
	if r := do(t, f, "volumes --size -a blog"); !strings.Contains(r.out, "5MiB") || strings.Contains(r.out, "spare") {
		t.Errorf("%q", r.out)
	}
	r := do(t, f, "volumes --json --size")
	for _, want := range []string{`"state": "not attached"`, `"state": "attached"`, `"shared": true`, `"size": 5242880`, `"why": "replaced by an import"`, `"engine_volume": "e-spare"`} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%s is not in %s", want, r.out)
		}
	}
}

func TestVolumes_Commands(t *testing.T) {
	t.Parallel()
	f, noted := volumeFake()
	mate := mesh.Key{Name: "mate", Role: mesh.RoleDeploy, Stacks: []mesh.StackName{"shop"}}
	for _, c := range []struct {
		line, note, out, err string
		status               int
		opts                 []option
	}{
		{line: "volumes:create new", note: "create new by laptop", out: "created new\n"},
		{line: "volumes:create New", status: 2, err: `"New" is not a name for a volume`},
		{line: "volumes:create new", note: "create new by mate", out: "created new\n", opts: []option{as(mate)}},
		{line: "volumes:create new", status: 1, err: "may not use volumes:create", opts: []option{as(mesh.Key{Name: "eye", Role: mesh.RoleRead})}},
		{line: "volumes:attach spare -a shop /data/", note: "attach spare to shop web at /data false", err: "requests wait meanwhile"},
		{line: "volumes:attach spare -a shop -p worker --shared /data", note: "attach spare to shop worker at /data true"},
		{line: "volumes:attach spare -a shop /proc", status: 2, err: "/proc belongs to the Docker Engine"},
		{line: "volumes:attach uploads -a shop /data", status: 1, err: `there is no volume "uploads"`, opts: []option{as(mate)}},
		{line: "volumes:attach spare -a shop /data", note: "attach spare to shop web at /data false", opts: []option{as(mate)}},
		{line: "volumes:detach uploads -a blog", note: "detach uploads from blog", out: "blog: detached uploads from web; its files are kept; takes effect with the first release\n"},
		{line: "volumes:destroy spare", status: 2, err: "removes all its files; confirm with its name"},
		{line: "volumes:destroy spare --confirm spare", note: "destroy spare", out: "destroyed spare\n"},
		{line: "volumes:destroy nosuch --confirm nosuch", status: 1, err: `there is no volume "nosuch"`},
		{line: "volumes:export uploads", out: "TAR\x1b"},
		{line: "volumes:export uploads", status: 1, err: `there is no volume "uploads"`, opts: []option{as(mate)}},
		{line: "volumes:import spare", note: `import "x" into spare`, out: "imported 3 files and folders into spare; the files of before are kept for a day: ssh mesh volumes:revert spare\n", opts: []option{stdin("x")}},
		{line: "volumes:revert spare", note: "revert spare", out: "spare has the files again that were replaced by an import\n"},
		{line: "volumes:restore uploads latest", note: "restore uploads from latest in /data/backups/volume.uploads", out: "restored 4 files and folders of volume.uploads-20261127T030000Z into uploads; the files of before are kept for a day: ssh mesh volumes:revert uploads\n"},
		{line: "volumes:restore uploads latest --to /mnt/x", note: "restore uploads from latest in /mnt/x"},
		{line: "volumes:restore spare latest --to /mnt/x", status: 1, err: "only an admin chooses where backups are kept", opts: []option{as(mate)}},
		{line: "volumes:restore spare volume.uploads-20261127T030000Z", status: 1, err: `is a backup of the volume uploads, and the key "mate" is limited to stacks`, opts: []option{as(mate)}},
		{line: "volumes:restore spare volume.spare-20261127T030000Z", note: "restore spare from volume.spare-20261127T030000Z in /data/backups/volume.spare", opts: []option{as(mate)}},
		{line: "volumes:restore uploads", status: 2, err: "volumes:restore"},
		{line: "volumes:restore nosuch latest", status: 1, err: `there is no volume "nosuch"`},
		{line: "volumes:backup uploads", status: 1, err: `there is no volume "uploads"`, opts: []option{as(mate)}},
		{line: "volumes:backups gone-before", err: "has no backups"},
		{line: "volumes:schedule uploads", err: "volumes:schedule uploads"},
		{line: "storage:list", out: do(t, f, "volumes").out},
		{line: "storage:report blog", out: do(t, f, "volumes -a blog").out},
		{line: "storage:unmount uploads -a blog", note: "detach uploads from blog"},
		{line: "volume ls", out: do(t, f, "volumes").out},
		{line: "volume rm spare --confirm spare", note: "destroy spare"},
	} {
		*noted = nil
		r := do(t, f, c.line, c.opts...)
		if r.status != c.status || strings.Join(*noted, "; ") != c.note || c.out != "" && r.out != c.out || !strings.Contains(r.err+fmt.Sprint(r.fault), c.err) {
			t.Errorf("%s: %d, %q, %q, %q %v; want %d, %q, %q, %q", c.line, r.status, *noted, r.out, r.err, r.fault, c.status, c.note, c.out, c.err)
		}
	}
}
