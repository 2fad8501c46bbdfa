package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

var _ deploy.VolumeServer = (*deploytest.Volumes)(nil)

// volumeWorld has blog, whose web has the volume uploads at /data.
func volumeWorld(t *testing.T, w *deploytest.World) (*deploy.Deployer, *deploytest.Volumes, func()) {
	t.Helper()
	v := deploytest.NewVolumes(w.Runner)
	w.Options.VolumeServer = v
	d, stop := w.Start()
	if _, err := d.CreateVolume(t.Context(), "uploads", "ci"); err != nil {
		t.Fatal(err)
	}
	mustPush(t, w, d, twoServices)
	if out, err := attach(t, d, mesh.VolumeUse{Volume: "uploads", Service: "web", Path: "/data"}); err != nil || strings.Contains(out, "Ending") {
		t.Fatal(err, out)
	}
	return d, v, stop
}

func attach(t *testing.T, d *deploy.Deployer, u mesh.VolumeUse) (string, error) {
	t.Helper()
	var out deploytest.Output
	err := d.AttachVolume(t.Context(), "blog", "ci", u, &out)
	synctest.Wait()
	return out.String(), err
}

// webs returns the containers of web, with their states.
func webs(w *deploytest.World) string {
	var out []string
	for _, c := range w.Runner.Containers() {
		if c.Name.Service == mesh.Web {
			out = append(out, c.ID+" "+string(c.State))
		}
	}
	return strings.Join(out, ", ")
}

// reset moves the branch back, as the receiver does after a push that failed.
func reset(t *testing.T, w *deploytest.World) {
	t.Helper()
	if err := w.Repos.ResetBranch(t.Context(), "blog"); err != nil {
		t.Error(err)
	}
}

// The old instance of a service with a volume ends before the new one starts, and only that
// of this service. Requests wait meanwhile.
func TestVolume_OneWriter(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _, _ := volumeWorld(t, w)
		sound(t, w)
		old := webs(w)
		var atCheck []string
		w.Runner.CheckFunc = func(_ context.Context, in mesh.Instance) (string, error) {
			if in.Name.Service == mesh.Web {
				r, _ := w.Router.Route("blog")
				atCheck = append(atCheck, fmt.Sprintf("%s; %d targets, down %v", webs(w), len(r.Targets), r.Down))
			}
			return "GET / 200", nil
		}
		out, err := push(t, w, d, twoServices)
		if err != nil {
			t.Fatal(err, out)
		}
		want := strings.Replace(old, "running", "exited", 1)
		if len(atCheck) != 1 || !strings.HasPrefix(atCheck[0], want+", ") || !strings.HasSuffix(atCheck[0], "0 targets, down 0") && !strings.HasSuffix(atCheck[0], "0 targets, down ") {
			t.Errorf("at the check: %q, want %q first and no target", atCheck, want)
		}
		for _, line := range []string{"-----> Ending web.1 first: the volume uploads has one writer; requests wait up to 10 s\n", "web×1 was away"} {
			if !strings.Contains(out, line) {
				t.Errorf("%q is not in\n%s", line, out)
			}
		}
		if i, j := strings.Index(out, "worker.1 healthy"), strings.Index(out, "Ending web.1"); i < 0 || i > j {
			t.Errorf("web was ended before the others were healthy:\n%s", out)
		}
		w.Runner.CheckFunc = nil
		sound(t, w)
		if err := d.Restart(t.Context(), "blog", "ci", mesh.InstanceName{Service: "worker"}, io.Discard); err != nil {
			t.Error(err)
		}
		before := webs(w)
		if _, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: "worker", To: 2}}, io.Discard); err != nil || webs(w) != before {
			t.Errorf("%v: %s, was %s", err, webs(w), before)
		}
		sound(t, w)
	})
}

// An instance that fails leaves the old one, in its own container.
func TestVolume_FailedCheckBringsTheOldOneBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _, _ := volumeWorld(t, w)
		old := webs(w)
		w.Runner.CheckFunc = func(_ context.Context, in mesh.Instance) (string, error) {
			if in.Name.Service == mesh.Web && !strings.HasPrefix(old, in.ID+" ") {
				return "", failed(mesh.Failed, "it does not answer")
			}
			return "GET / 200", nil
		}
		out, err := push(t, w, d, twoServices)
		if !errors.Is(err, mesh.Failed) || !strings.Contains(out, "Starting web.1 again, as before") || !strings.Contains(out, "still serving") {
			t.Errorf("%v\n%s", err, out)
		}
		if webs(w) != old {
			t.Errorf("%s, want %s", webs(w), old)
		}
		reset(t, w)
		sound(t, w)
		w.Runner.CheckFunc = nil
		mustPush(t, w, d, twoServices)
		sound(t, w)
	})
}

// An instance that crashes again and again, and waits for its next try, does not come back
// beside the new one.
func TestVolume_CrashingInstanceIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _, _ := volumeWorld(t, w)
		for range 4 {
			id, _, _ := strings.Cut(webs(w), " ")
			w.Runner.Crash(id, 1)
			synctest.Wait()
			pass(500 * time.Millisecond)
		}
		mustPush(t, w, d, twoServices)
		pass(time.Hour)
		sound(t, w)
	})
}

// A client that goes away while the old instance has ended leaves it as it was.
func TestVolume_CancelledInBetween(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		ctx, cancel := context.WithCancel(t.Context())
		armed := false
		w.Options.OnStep = func(s deploy.Step, _ string) {
			if s == deploy.StepParked && armed {
				cancel()
			}
		}
		d, _, _ := volumeWorld(t, w)
		old := webs(w)
		armed = true
		if err := d.Push(ctx, w.Commit("blog", twoServices), io.Discard); !errors.Is(err, mesh.Cancelled) {
			t.Error(err)
		}
		if webs(w) != old {
			t.Errorf("%s, want %s", webs(w), old)
		}
		reset(t, w)
		sound(t, w)
	})
}

func TestVolume_Refuses(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _, _ := volumeWorld(t, w)
		refused := func(what string, err error, kind mesh.Kind, text string) {
			t.Helper()
			if !errors.Is(err, kind) || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want %q", what, err, text)
			}
		}
		scale := func(svc mesh.ServiceName, n int) error {
			_, err := d.Scale(t.Context(), "blog", "ci", []mesh.Scale{{Service: svc, To: n}}, io.Discard)
			return err
		}
		refused("two instances", scale("web", 2), mesh.Conflict, "several writers could damage the files of its volume uploads")
		for n := range 10 {
			name := mesh.VolumeName(fmt.Sprintf("v%d", n))
			if _, err := d.CreateVolume(t.Context(), name, "ci"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.CreateVolume(t.Context(), "v1", "ci"); !errors.Is(err, mesh.Conflict) {
			t.Error(err)
		}
		try := func(u mesh.VolumeUse) error { _, err := attach(t, d, u); return err }
		refused("again", try(mesh.VolumeUse{Volume: "uploads", Service: "web", Path: "/x"}), mesh.Conflict, "already attached to web of blog")
		refused("a second writer", try(mesh.VolumeUse{Volume: "uploads", Service: "worker", Path: "/x", Shared: true}), mesh.Conflict, "two writers")
		refused("inside", try(mesh.VolumeUse{Volume: "v1", Service: "web", Path: "/data/x"}), mesh.Conflict, "overlaps")
		refused("no volume", try(mesh.VolumeUse{Volume: "nosuch", Service: "web", Path: "/x"}), mesh.NotFound, "nosuch")
		refused("no service", try(mesh.VolumeUse{Volume: "v1", Service: "nosuch", Path: "/x"}), mesh.NotFound, "no service")
		if err := scale("worker", 2); err != nil {
			t.Fatal(err)
		}
		refused("several instances", try(mesh.VolumeUse{Volume: "v1", Service: "worker", Path: "/x"}), mesh.Conflict, "worker of blog cannot have 2 instances")
		for n := range 9 {
			if err := try(mesh.VolumeUse{Volume: mesh.VolumeName(fmt.Sprintf("v%d", n)), Service: "web", Path: fmt.Sprintf("/v%d", n), Shared: true}); err != nil {
				t.Fatal(err)
			}
		}
		refused("too many", try(mesh.VolumeUse{Volume: "v9", Service: "web", Path: "/v9"}), mesh.Invalid, "10 volumes, which is the limit")
		if err := d.Push(t.Context(), w.Commit("api", twoServices), io.Discard); err != nil {
			t.Fatal(err)
		}
		refused("another stack", d.AttachVolume(t.Context(), "api", "ci", mesh.VolumeUse{Volume: "v1", Service: "web", Path: "/x", Shared: true}, io.Discard), mesh.Conflict, "attached to another stack")
		refused("attached", d.DestroyVolume(t.Context(), "uploads", "ci"), mesh.Conflict, "uploads is attached to blog")
		_, err := d.DetachVolume(t.Context(), "api", "ci", "uploads", io.Discard)
		refused("not attached", err, mesh.NotFound, "uploads is not attached to api")
		_, err = d.RunCommand(t.Context(), mesh.Run{Stack: "blog", As: "web", Line: "x", Words: []string{"x"}})
		refused("a command beside web", err, mesh.Conflict, "web.1 uses the volume uploads")
		var got []mesh.Mount
		w.Runner.OneOffFunc = func(_ context.Context, o mesh.OneOff) (int, error) { got = o.Mounts; return 0, nil }
		if _, err := d.RunCommand(t.Context(), mesh.Run{Stack: "blog", Line: "x", Words: []string{"x"}}); err != nil || len(got) > 0 {
			t.Errorf("%v: %v", err, got)
		}
		// While a command has it, nothing else gets it.
		if err := d.Stop(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		w.Runner.OneOffFunc = func(_ context.Context, o mesh.OneOff) (int, error) {
			got = o.Mounts
			refused("a start beside a command", d.Start(t.Context(), "blog", "ci", io.Discard), mesh.Conflict, "the volume uploads is being used by a one-off command")
			return 0, nil
		}
		if _, err := d.RunCommand(t.Context(), mesh.Run{Stack: "blog", As: "web", Line: "x", Words: []string{"x"}}); err != nil || len(got) != 10 {
			t.Errorf("%v: %v", err, got)
		}
		if err := d.Start(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Error(err)
		}
		sound(t, w)
	})
}

// The files of before an import are kept for a day, and an import that fails, or whose server
// ends, leaves nothing.
func TestVolume_Import(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, v, stop := volumeWorld(t, w)
		text := func() string {
			t.Helper()
			var b bytes.Buffer
			if err := d.ExportVolume(t.Context(), "uploads", "ci", &b); err != nil {
				t.Error(err)
			}
			return b.String()
		}
		into := func(s string) error {
			_, err := d.ImportVolume(t.Context(), "uploads", "ci", strings.NewReader(s))
			return err
		}
		if err := into("one"); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "which runs") {
			t.Errorf("beside web: %v", err)
		}
		if err := d.Stop(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := into("one"); err != nil || text() != "one" {
			t.Errorf("%v, %q", err, text())
		}
		names := v.Names()
		v.ImportFunc = func(string) error { return failed(mesh.Invalid, "cut off") }
		if err := into("two"); !errors.Is(err, mesh.Invalid) || text() != "one" || v.Names() != names {
			t.Errorf("%v, %q, %s, was %s", err, text(), v.Names(), names)
		}
		v.ImportFunc = func(string) error {
			for what, err := range map[string]error{
				"start": d.Start(t.Context(), "blog", "ci", io.Discard), "destroy": d.DestroyVolume(t.Context(), "uploads", "ci"),
				"detach": func() error {
					_, err := d.DetachVolume(t.Context(), "blog", "ci", "uploads", io.Discard)
					return err
				}(),
			} {
				if !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "being imported") {
					t.Errorf("%s during an import: %v", what, err)
				}
			}
			return nil
		}
		if err := into("two"); err != nil || text() != "two" {
			t.Errorf("%v, %q", err, text())
		}
		v.ImportFunc = nil
		if why, err := d.RevertVolume(t.Context(), "uploads", "ci"); err != nil || why != "replaced by an import" || text() != "one" {
			t.Errorf("%q, %v, %q", why, err, text())
		}
		if why, err := d.RevertVolume(t.Context(), "uploads", "ci"); err != nil || why != "replaced by a revert" || text() != "two" {
			t.Errorf("%q, %v, %q", why, err, text())
		}
		if err := d.Start(t.Context(), "blog", "ci", io.Discard); err != nil {
			t.Fatal(err)
		}
		rec, err := w.Store.Volume(t.Context(), "uploads")
		if err != nil || len(rec.Kept) == 0 {
			t.Fatal(rec, err)
		}
		for _, c := range w.Runner.Containers() {
			if c.Name.Service == mesh.Web && c.Spec.Mounts[0].Engine != rec.Engine {
				t.Errorf("web has %v, want %s", c.Spec.Mounts, rec.Engine)
			}
		}
		pass(26 * time.Hour)
		if _, err := d.RevertVolume(t.Context(), "uploads", "ci"); !errors.Is(err, mesh.NotFound) || v.Names() != rec.Engine {
			t.Errorf("%v, %s, want %s alone", err, v.Names(), rec.Engine)
		}
		// As a server leaves it that is killed in the middle; and one that nobody knows.
		stop()
		if err := errors.Join(v.Create(t.Context(), "uploads", "half"), v.Create(t.Context(), "unknown", "unknown-1")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Store.UpdateVolume(t.Context(), "uploads", func(v *mesh.Volume) error { v.Pending = "half"; return nil }); err != nil {
			t.Fatal(err)
		}
		w.Start()
		if v.Names() != rec.Engine+" unknown-1" {
			t.Errorf("after the restart: %s", v.Names())
		}
		sound(t, w)
	})
}

// Attachments belong to the stack: a rollback and a rename keep them, a clone and another
// stack do not have them, and a destroyed stack leaves the volume.
func TestVolume_FollowsItsStack(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, v, _ := volumeWorld(t, w)
		if err := d.Rollback(t.Context(), "blog", "ci", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		mounted := func(name mesh.StackName) (n int) {
			synctest.Wait()
			for _, c := range w.Runner.Containers() {
				if c.Stack == name {
					n += len(c.Spec.Mounts)
				}
			}
			return n
		}
		if n := mounted("blog"); n != 1 {
			t.Errorf("%d mounts after a rollback", n)
		}
		var out deploytest.Output
		if err := d.RenameStack(t.Context(), "blog", "journal", "ci", &out); err != nil || !strings.Contains(out.String(), "Ending web.1 first") {
			t.Errorf("%v\n%s", err, out.String())
		}
		soundStack(t, w, "journal")
		if n := mounted("journal"); n != 1 {
			t.Errorf("%d mounts after a rename", n)
		}
		if err := d.Clone(t.Context(), "journal", "copy", "ci", false, io.Discard); err != nil || mounted("copy") != 0 {
			t.Errorf("%v: %d mounts of a clone", err, mounted("copy"))
		}
		if err := d.DestroyStack(t.Context(), "journal", "ci"); err != nil {
			t.Fatal(err)
		}
		if users, err := d.VolumeUsers(t.Context(), "uploads"); err != nil || len(users) > 0 || v.Names() == "" {
			t.Errorf("%v, %v, %q", users, err, v.Names())
		}
		if err := d.DestroyVolume(t.Context(), "uploads", "ci"); err != nil || v.Names() != "" {
			t.Errorf("%v, %q", err, v.Names())
		}
	})
}
