package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mesh"
	"mesh/cron"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// vault is a place and what is dumped into it, in memory.
type vault struct {
	mu      sync.Mutex
	made    []mesh.Backup // newest first
	dump    func(context.Context, io.Writer) error
	fails   error
	checked int
}

func (v *vault) Prepare(context.Context, mesh.BackupPlace, []string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.checked++
	return v.fails
}

func (v *vault) Take(ctx context.Context, _ mesh.BackupPlace, about mesh.Backup, _ string, _ []string, dump func(context.Context, io.Writer) error) (mesh.Backup, error) {
	if err := dump(ctx, io.Discard); err != nil {
		return mesh.Backup{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fails != nil {
		return mesh.Backup{}, v.fails
	}
	about.Created = time.Now().UTC()
	about.ID = mesh.BackupID(about.Subject, about.Created)
	v.made = append([]mesh.Backup{about}, v.made...)
	return about, nil
}

func (v *vault) Keep(_ context.Context, _ mesh.BackupPlace, _ mesh.Backup, n int) (removed []string, _ error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, b := range v.made[min(n, len(v.made)):] {
		removed = append(removed, b.ID)
	}
	v.made = v.made[:min(n, len(v.made))]
	return removed, nil
}

func (v *vault) List(context.Context, mesh.BackupPlace) ([]mesh.Backup, error) { return v.made, nil }

func (v *vault) Remove(_ context.Context, _ mesh.BackupPlace, made mesh.Backup) error {
	v.made = slices.DeleteFunc(v.made, func(b mesh.Backup) bool { return b.ID == made.ID })
	return nil
}

func (v *vault) Verify(_ context.Context, _ mesh.BackupPlace, subject mesh.BackupSubject, _, _ string, _ mesh.Secret, inspect func(mesh.Backup, io.Reader) (string, error)) (mesh.BackupCheck, error) {
	what, err := inspect(mesh.Backup{Subject: subject, Kind: "mesh"}, strings.NewReader("content"))
	return mesh.BackupCheck{Content: what}, err
}

func (v *vault) Open(_ context.Context, _ mesh.BackupPlace, subject mesh.BackupSubject, _, id string, _ mesh.Secret) (io.ReadCloser, mesh.Backup, error) {
	return io.NopCloser(strings.NewReader("content")), mesh.Backup{ID: id, Subject: subject, Kind: "mesh"}, nil
}

func (v *vault) Expire(context.Context, string, func(mesh.BackupSubject) bool, time.Time) error {
	return nil
}

func (v *vault) Content(_ context.Context, s mesh.BackupSubject) (mesh.BackupContent, error) {
	if s != mesh.BackupMesh && s != "shop-db" {
		return mesh.BackupContent{}, mesh.Errorf(mesh.NotFound, "no")
	}
	return mesh.BackupContent{Kind: "mesh", Ext: "tar"}, nil
}

func (v *vault) Dump(ctx context.Context, _ mesh.BackupSubject, w io.Writer) error {
	v.mu.Lock()
	dump := v.dump
	v.mu.Unlock()
	if dump != nil {
		return dump(ctx, w)
	}
	return nil
}

func (v *vault) Inspect(_ context.Context, _ mesh.Backup, r io.Reader) (string, error) {
	b, err := io.ReadAll(r)
	return string(b), err
}

func (v *vault) set(fn func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fn()
}

// times are the days and hours at which backups were made, oldest first.
func (v *vault) times() (out []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, b := range slices.Backward(v.made) {
		out = append(out, b.Created.Format("02T15:04"))
	}
	return out
}

type times struct{}

func (times) Check(s string) error { _, err := cron.Parse(s); return err }
func (times) Next(s string, t time.Time) time.Time {
	c, _ := cron.Parse(s)
	return c.Next(t)
}

func (times) Interval(s string, t time.Time) time.Duration {
	c, _ := cron.Parse(s)
	return c.Interval(t)
}

// withVault starts a server with a loop for its schedules. stop ends both, as a stop of mesh
// does.
func withVault(t *testing.T, w *deploytest.World, v *vault) (d *deploy.Deployer, stop func()) {
	t.Helper()
	var loop *cron.Loop
	w.Options.Backup = deploy.BackupOptions{
		Places: v, Sources: []deploy.BackupSource{v}, Schedules: times{}, Folder: "/data/backups", Server: "srv", Version: "v1",
		OnPlans: func() { loop.Changed() },
	}
	d, end := w.Start()
	loop = cron.New(cron.Options{
		Entries: func(ctx context.Context) (out []cron.Entry, err error) {
			plans, err := w.Store.BackupPlans(ctx)
			for _, p := range plans {
				s, err := cron.Parse(p.Schedule)
				if err != nil {
					t.Error(err)
				}
				out = append(out, cron.Entry{Name: string(p.Subject), Schedule: s, Last: p.State.Due})
			}
			return out, err
		},
		Start: func(ctx context.Context, name string, due time.Time) error {
			return d.StartBackup(ctx, mesh.BackupSubject(name), due)
		},
		Skip: func(ctx context.Context, name string, due time.Time) error {
			return d.SkipBackup(ctx, mesh.BackupSubject(name), due)
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d.SettleBackups(ctx)
	go func() { done <- loop.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		end()
	})
	t.Cleanup(stop)
	return d, stop
}

func nightly(place mesh.PlaceURL) mesh.BackupPlan {
	return mesh.BackupPlan{Subject: mesh.BackupMesh, Schedule: "TZ=UTC 0 3 * * *", Place: mesh.BackupPlace{URL: place}, Keep: 3, SetBy: "ann"}
}

func mustSchedule(t *testing.T, d *deploy.Deployer, p mesh.BackupPlan) {
	t.Helper()
	if _, err := d.ScheduleBackup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// planOf returns the plan of the server.
func planOf(t *testing.T, d *deploy.Deployer) mesh.BackupPlan {
	t.Helper()
	p, ok, err := d.BackupPlanOf(t.Context(), mesh.BackupMesh)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	return p
}

func faults(t *testing.T, d *deploy.Deployer) string {
	t.Helper()
	all, err := d.BackupFaults(t.Context())
	if err != nil {
		t.Error(err)
	}
	return fmt.Sprint(all)
}

func equal(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestBackup_OnItsSchedule(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		v := &vault{}
		d, _ := withVault(t, w, v)
		mustSchedule(t, d, nightly("/backup"))
		time.Sleep(5 * 24 * time.Hour)
		equal(t, "three are kept", v.times(), "03T03:00", "04T03:00", "05T03:00")
		p := planOf(t, d)
		if p.State.Last == nil || p.State.Last.ID != "mesh-20000105T030000Z" || p.State.Last.Server != "srv" || !p.State.Started.IsZero() || faults(t, d) != "[]" {
			t.Errorf("%+v, %s", p.State, faults(t, d))
		}
		if next := d.NextBackup(p); !next.Equal(time.Date(2000, 1, 6, 3, 0, 0, 0, time.UTC)) {
			t.Error(next)
		}
		if err := d.UnscheduleBackup(t.Context(), mesh.BackupMesh, "ann"); err != nil {
			t.Error(err)
		}
		time.Sleep(3 * 24 * time.Hour)
		equal(t, "without a schedule", v.times(), "03T03:00", "04T03:00", "05T03:00")
	})
}

func TestBackup_ScheduleRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		v := &vault{}
		d, _ := withVault(t, w, v)
		mustSchedule(t, d, nightly("/backup"))
		before := planOf(t, d)
		for what, p := range map[string]mesh.BackupPlan{
			"often":   {Subject: "mesh", Schedule: "* * * * *", Keep: 1},
			"keep":    {Subject: "mesh", Schedule: "@daily"},
			"subject": {Subject: "nothing", Schedule: "@daily", Keep: 1},
		} {
			if _, err := d.ScheduleBackup(t.Context(), p); !errors.Is(err, mesh.Invalid) && !errors.Is(err, mesh.NotFound) {
				t.Errorf("%s: %v", what, err)
			}
		}
		v.set(func() { v.fails = errors.New("no such bucket") })
		if _, err := d.ScheduleBackup(t.Context(), nightly("/other")); err == nil {
			t.Error("a place that does not work")
		}
		if after := planOf(t, d); after.Place != before.Place || after.Schedule != before.Schedule {
			t.Errorf("%+v", after)
		}
		// A plan without a place uses a folder named after its subject.
		v.set(func() { v.fails = nil })
		if p, err := d.ScheduleBackup(t.Context(), mesh.BackupPlan{Subject: "shop-db", Schedule: "@daily", Keep: 1}); err != nil || d.KeptAt(p).URL != "/data/backups/shop-db" {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

func TestBackup_OneOfASubjectAtATime(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		v := &vault{}
		d, _ := withVault(t, w, v)
		mustSchedule(t, d, nightly("/backup"))
		v.set(func() { v.dump = func(context.Context, io.Writer) error { time.Sleep(30 * time.Minute); return nil } })
		time.Sleep(2*time.Hour + 50*time.Minute)
		done := make(chan error, 1)
		go func() {
			_, err := d.RunBackup(t.Context(), mesh.BackupMesh, nil, nil)
			done <- err
		}()
		time.Sleep(5 * time.Minute)
		var e *mesh.Error
		if _, err := d.RunBackup(t.Context(), mesh.BackupMesh, nil, nil); !errors.As(err, &e) || e.Kind != mesh.Conflict || !strings.Contains(e.Text, "running since 2000-01-01T02:50:00Z") {
			t.Error(err)
		}
		if _, err := d.RunBackup(t.Context(), "shop-db", &mesh.BackupPlace{URL: "/x"}, nil); err != nil {
			t.Errorf("of another subject: %v", err)
		}
		// What is due meanwhile waits.
		idle := make(chan error, 1)
		go func() { idle <- d.WaitIdle(t.Context()) }()
		synctest.Wait()
		if len(idle) > 0 {
			t.Error("idle while a backup runs")
		}
		time.Sleep(2 * time.Hour)
		if err := errors.Join(<-done, <-idle); err != nil {
			t.Error(err)
		}
		equal(t, "made", v.times()[len(v.times())-2:], "01T03:25", "01T03:50")
	})
}

// A failure is recorded with its reason, and is a fault until the next success. A backup by
// hand to another place is none.
func TestBackup_Fails(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		v := &vault{}
		d, _ := withVault(t, w, v)
		mustSchedule(t, d, nightly("/backup"))
		time.Sleep(28 * time.Hour)
		v.set(func() { v.fails = mesh.Errorf(mesh.Unavailable, "the disk of /backup is full") })
		time.Sleep(24 * time.Hour)
		p := planOf(t, d)
		if p.State.Failure != "the disk of /backup is full" || p.State.Failed.IsZero() || p.State.Last == nil || len(v.times()) != 2 {
			t.Errorf("%+v", p.State)
		}
		if got := faults(t, d); got != "[{mesh the backup of mesh to /backup failed: the disk of /backup is full}]" {
			t.Error(got)
		}
		v.set(func() { v.fails = nil })
		if _, err := d.RunBackup(t.Context(), mesh.BackupMesh, &mesh.BackupPlace{URL: "/elsewhere"}, nil); err != nil {
			t.Error(err)
		}
		if faults(t, d) == "[]" {
			t.Error("another place ends it")
		}
		if _, err := d.RunBackup(t.Context(), mesh.BackupMesh, nil, nil); err != nil || faults(t, d) != "[]" {
			t.Errorf("%v, %s", err, faults(t, d))
		}
		// Whoever leaves gives up a backup, which is no fault.
		ctx, cancel := context.WithCancel(t.Context())
		v.set(func() {
			v.dump = func(ctx context.Context, _ io.Writer) error { cancel(); <-ctx.Done(); return ctx.Err() }
		})
		if _, err := d.RunBackup(ctx, mesh.BackupMesh, nil, nil); !errors.Is(err, context.Canceled) || faults(t, d) != "[]" || !planOf(t, d).State.Started.IsZero() {
			t.Errorf("%v, %s", err, faults(t, d))
		}
	})
}

// Nothing was made for two intervals: a fault, whatever the reason. What a restart is about
// to make up is none yet.
func TestBackup_TooOld(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		v := &vault{}
		d, stop := withVault(t, w, v)
		mustSchedule(t, d, nightly("/backup"))
		time.Sleep(28 * time.Hour)
		stop()
		time.Sleep(72 * time.Hour)
		again := w.Deployer() // without a loop
		if got := faults(t, again); got != "[]" {
			t.Errorf("at the start: %s", got)
		}
		time.Sleep(11 * time.Minute)
		if got := faults(t, again); !strings.Contains(got, "the last backup of mesh is from 2000-01-02T03:00:00Z, more than twice its interval ago") {
			t.Error(got)
		}
	})
}

// After the clock was set back for long, the next backup is far away: that is a fault.
func TestBackup_ClockSetBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withVault(t, w, &vault{})
		mustSchedule(t, d, nightly("/backup"))
		if err := d.SkipBackup(t.Context(), mesh.BackupMesh, time.Date(2003, 1, 1, 3, 0, 0, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got := faults(t, d); !strings.Contains(got, "the clock was set back: the next backup of mesh is due only at 2003-01-02T03:00:00Z") {
			t.Error(got)
		}
		mustSchedule(t, d, nightly("/backup"))
		if got := faults(t, d); got != "[]" {
			t.Errorf("set again: %s", got)
		}
	})
}

// A stop in the middle takes the start back, and the next process makes it up, once.
func TestBackup_StopInTheMiddle(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		v := &vault{}
		d, stop := withVault(t, w, v)
		mustSchedule(t, d, nightly("/backup"))
		set := planOf(t, d).State.Due
		var starts atomic.Int32
		v.set(func() {
			v.dump = func(ctx context.Context, _ io.Writer) error { starts.Add(1); <-ctx.Done(); return context.Cause(ctx) }
		})
		time.Sleep(3*time.Hour + time.Minute)
		if p := planOf(t, d); starts.Load() != 1 || p.State.Started.IsZero() || !p.State.Due.Equal(time.Date(2000, 1, 1, 3, 0, 0, 0, time.UTC)) {
			t.Fatalf("%d, %+v", starts.Load(), p.State)
		}
		stop()
		if p := planOf(t, d); !p.State.Due.Equal(set) || !p.State.Started.IsZero() || !p.State.Failed.IsZero() {
			t.Errorf("%+v", p.State)
		}
		v.set(func() { v.dump = nil })
		time.Sleep(10 * time.Minute)
		d, _ = withVault(t, w, v)
		time.Sleep(6 * time.Hour)
		equal(t, "made up", v.times(), "01T03:11")
		if faults(t, d) != "[]" {
			t.Error(faults(t, d))
		}
	})
}

// A killed process has recorded the start and no end: that is a failure, and nothing starts
// for the same due time again.
func TestBackup_Killed(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		v := &vault{}
		d, stop := withVault(t, w, v)
		mustSchedule(t, d, nightly("/backup"))
		stop()
		if _, err := w.Store.UpdateBackupPlan(t.Context(), mesh.BackupMesh, func(p *mesh.BackupPlan, _ bool) error {
			p.State.Due = time.Date(2000, 1, 1, 3, 0, 0, 0, time.UTC)
			p.State.Started = p.State.Due
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3*time.Hour + time.Minute)
		d, _ = withVault(t, w, v)
		time.Sleep(12 * time.Hour)
		equal(t, "made", v.times())
		if got := faults(t, d); !strings.Contains(got, "mesh was killed while it ran") {
			t.Error(got)
		}
		if err := d.StartBackup(t.Context(), mesh.BackupMesh, time.Date(2000, 1, 1, 3, 0, 0, 0, time.UTC)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		equal(t, "started twice", v.times())
		time.Sleep(12 * time.Hour)
		equal(t, "the next one", v.times(), "02T03:00")
		if faults(t, d) != "[]" {
			t.Error(faults(t, d))
		}
	})
}

func TestBackup_VerifyReadsTheContent(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withVault(t, w, &vault{})
		for subject, want := range map[mesh.BackupSubject]string{"mesh": "content", "gone-db": ""} {
			got, err := d.VerifyBackup(t.Context(), mesh.BackupPlace{URL: "/backup"}, subject, "latest", mesh.Secret{})
			if err != nil || got.Content != want {
				t.Errorf("%s: %+v, %v", subject, got, err)
			}
		}
	})
}
