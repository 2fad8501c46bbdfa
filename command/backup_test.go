package command_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
)

// fakeBackups is a plan and what is in its place.
type fakeBackups struct {
	*fake
	plan    *mesh.BackupPlan
	list    []mesh.Backup
	at      mesh.BackupPlace // of the last command
	to      *mesh.BackupPlace
	keys    []string
	failure error
	removed []string // by RemoveBackup
}

func (b *fakeBackups) BackupPlanOf(_ context.Context, subject mesh.BackupSubject) (mesh.BackupPlan, bool, error) {
	if b.plan == nil {
		return mesh.BackupPlan{Subject: subject}, false, nil
	}
	return *b.plan, true, nil
}
func (b *fakeBackups) NextBackup(mesh.BackupPlan) time.Time            { return now.Add(time.Hour) }
func (b *fakeBackups) KeptAt(p mesh.BackupPlan) mesh.BackupPlace       { return p.Kept("/data/backups") }
func (b *fakeBackups) BackupRuns(mesh.BackupSubject) (time.Time, bool) { return time.Time{}, false }
func (b *fakeBackups) ScheduleBackup(_ context.Context, p mesh.BackupPlan) (mesh.BackupPlan, error) {
	if b.failure != nil {
		return p, b.failure
	}
	b.plan = &p
	return p, nil
}

func (b *fakeBackups) UnscheduleBackup(context.Context, mesh.BackupSubject, mesh.KeyName) error {
	if b.plan == nil {
		return mesh.Errorf(mesh.NotFound, "mesh has no schedule for backups")
	}
	b.plan = nil
	return nil
}

func (b *fakeBackups) RunBackup(_ context.Context, _ mesh.BackupSubject, to *mesh.BackupPlace, keys []string) (mesh.BackupRun, error) {
	b.to, b.keys = to, keys
	at := b.plan
	if to == nil && at == nil {
		return mesh.BackupRun{}, mesh.Errorf(mesh.NotFound, "no schedule")
	}
	place := mesh.PlaceURL("/backup")
	if to != nil {
		place = to.URL
	}
	return mesh.BackupRun{Backup: aBackup, Place: place, Took: 1500 * time.Millisecond, Removed: []string{"mesh-20260225T030000Z"}}, nil
}

func (b *fakeBackups) RemoveBackup(_ context.Context, at mesh.BackupPlace, made mesh.Backup) error {
	b.removed = append(b.removed, made.ID+" from "+string(at.URL))
	return nil
}

func (b *fakeBackups) ListBackups(_ context.Context, at mesh.BackupPlace) ([]mesh.Backup, error) {
	b.at = at
	return b.list, nil
}

func (b *fakeBackups) VerifyBackup(_ context.Context, at mesh.BackupPlace, _ mesh.BackupSubject, id string, identity mesh.Secret) (mesh.BackupCheck, error) {
	b.at = at
	return mesh.BackupCheck{Backup: aBackup, Place: at.URL, Read: identity.Reveal() != "", Content: id, Took: time.Second}, nil
}

var aBackup = mesh.Backup{
	Format: 1, ID: "mesh-20260304T030000Z", Subject: "mesh", Kind: "mesh", Created: time.Date(2026, 3, 4, 3, 0, 0, 0, time.UTC), File: "mesh-20260304T030000Z.tar.zst",
	Size: 2_000_000, Content: 7_000_000, Sum: "ab",
}

// aPlan goes to an S3 server.
func aPlan(t *testing.T) *mesh.BackupPlan {
	t.Helper()
	url, err := mesh.ParsePlaceURL("s3://bucket/prod", "https://s3.example", "")
	if err != nil {
		t.Fatal(err)
	}
	return &mesh.BackupPlan{
		Subject: mesh.BackupMesh, Schedule: "0 3 * * *", Keep: 5, Recipients: []string{"age1qqq"}, Set: now.Add(-time.Hour), SetBy: "ann",
		Place: mesh.BackupPlace{URL: url, AccessKey: mesh.NewSecret("Planted-id"), SecretKey: mesh.NewSecret("Planted-secret")},
		State: mesh.BackupState{Last: &aBackup, Ended: now, Failed: now, Failure: "the S3 server\x1b[2J is away"},
	}
}

func withBackups(plan *mesh.BackupPlan) (*fake, *fakeBackups) {
	f := full()
	f.backups = &fakeBackups{fake: f, plan: plan}
	return f, f.backups
}

func TestBackupSchedule(t *testing.T) {
	t.Parallel()
	f, b := withBackups(nil)
	r := do(t, f, "backup:schedule")
	if r.status != 0 || !strings.Contains(r.err, "no backups are scheduled") {
		t.Errorf("none: %+v", r)
	}
	for line, want := range map[string]string{
		`backup:schedule "0 3 * * *"`:                                                  "where are backups kept",
		`backup:schedule --keep 3`:                                                     "begin with one",
		`backup:schedule "0 3 * * *" --to backup`:                                      "is not an absolute folder",
		`backup:schedule "0 3 * * *" --to /backup --keep 0`:                            "--keep is between",
		`backup:schedule "0 3 * * *" --to /backup --access-key a --secret-key Planted`: "a folder has no access key",
		`backup:schedule "0 3 * * *" --to s3://bucket --access-key a`:                  "belong together",
		`backup:schedule "0 3 * * *" --to s3://bucket --access-key a --secret-key -`:   "is empty",
		`backup:schedule "0 3 * * *" --access-key a --secret-key Planted`:              "need --to s3://",
		`backup:schedule "0 3 * * *" --to /backup --encrypt ssh-ed25519 AAAA ann`:      "first word of an SSH key",
		`backup:list`:                  "name a place",
		`backup:verify --identity KEY`: "--identity takes -",
	} {
		r := do(t, f, line)
		if r.status != 2 || !strings.Contains(r.err+textOf(r), want) || strings.Contains(r.err, "Planted") {
			t.Errorf("%s: %+v", line, r)
		}
	}
	r = do(t, f, `backup:schedule "TZ=UTC  0 3 * * *" --to s3://bucket/prod --endpoint https://s3.example --access-key ID --secret-key - --encrypt age1qqq --encrypt "ssh-ed25519 AAAA ann"`, stdin("Planted-secret\n"))
	if r.status != 0 || !strings.Contains(r.out, "scheduled backups to s3://bucket/prod?endpoint=https%3A%2F%2Fs3.example, the next one at 2026-03-04T13:00:00Z") {
		t.Fatalf("%+v", r)
	}
	p := *b.plan
	if p.Schedule != "TZ=UTC 0 3 * * *" || p.Keep != 7 || p.Place.SecretKey.Reveal() != "Planted-secret" || p.Place.AccessKey.Reveal() != "ID" || p.SetBy != "laptop" ||
		!slices.Equal(p.Recipients, []string{"age1qqq", "ssh-ed25519 AAAA ann"}) {
		t.Errorf("%+v", p)
	}
	if got := f.audited[len(f.audited)-1]; strings.Contains(got, "Planted") || !strings.Contains(got, "backup:schedule TZ=UTC 0 3 * * * --keep 7 --encrypt for 2 --to s3://bucket/prod?endpoint=https%3A%2F%2Fs3.example") {
		t.Errorf("audited %q", got)
	}
	// What is left out stays: above all, encryption. ssh takes quotes away.
	do(t, f, `backup:schedule 0 4 * * * --keep 3`)
	q := *b.plan
	if q.Schedule != "0 4 * * *" || q.Keep != 3 || q.Place != p.Place || len(q.Recipients) != 2 {
		t.Errorf("%+v", q)
	}
	r = do(t, f, `backup:schedule --to /backup --encrypt none`)
	if q = *b.plan; q.Schedule != "0 4 * * *" || q.Place != (mesh.BackupPlace{URL: "/backup"}) || q.Recipients != nil || !strings.Contains(r.err, "not encrypted") {
		t.Errorf("%+v, %+v", q, r)
	}
	if r = do(t, f, "backup:unschedule"); r.out != "removed the schedule for backups; its backups stay in /backup\n" || b.plan != nil {
		t.Errorf("%+v", r)
	}
	if r = do(t, f, "backup:unschedule"); r.status != 1 {
		t.Errorf("%+v", r)
	}
}

func textOf(r ran) string {
	if r.fault == nil {
		return ""
	}
	return r.fault.Text + " " + r.fault.Hint
}

func TestBackupSchedule_Shows(t *testing.T) {
	t.Parallel()
	f, _ := withBackups(aPlan(t))
	r := do(t, f, "backup:schedule")
	want := `Schedule:      0 3 * * *
Place:         s3://bucket/prod?endpoint=https%3A%2F%2Fs3.example
Keep:          5
Encrypted:     for age1qqq
Next:          2026-03-04T13:00:00Z
Last:          mesh-20260304T030000Z, 2026-03-04T03:00:00Z, 2.0 MB
Failed:        2026-03-04T12:00:00Z: the S3 server\x1b[2J is away
`
	if r.out != want {
		t.Errorf("%s\nwant\n%s", r.out, want)
	}
	r = do(t, f, "backup:schedule --json")
	if strings.Contains(r.out, "Planted") || !strings.Contains(r.out, `"failure": "the S3 server`) || !strings.Contains(r.out, `"whole": true`) {
		t.Errorf("%s", r.out)
	}
}

func TestBackupRun_Where(t *testing.T) {
	t.Parallel()
	f, b := withBackups(aPlan(t))
	r := do(t, f, "backup:run")
	if b.to != nil || r.out != "made /backup/mesh-20260304T030000Z: 2.0 MB in 1.5 s (7.0 MB before compression)\nremoved mesh-20260225T030000Z\n" {
		t.Errorf("%+v, %+v", b.to, r)
	}
	do(t, f, "backup:run --to s3://bucket/prod --endpoint https://s3.example")
	if b.to != nil {
		t.Errorf("the same place: %+v", b.to)
	}
	do(t, f, "backup:run --to /mnt")
	if b.to == nil || *b.to != (mesh.BackupPlace{URL: "/mnt"}) || !slices.Equal(b.keys, []string{"age1qqq"}) {
		t.Errorf("another place gets no credentials, and is encrypted all the same: %+v %q", b.to, b.keys)
	}
	do(t, f, "backup:run --to s3://bucket/prod --endpoint https://evil.example")
	if b.to == nil || b.to.SecretKey.Reveal() != "" {
		t.Errorf("another server gets the credentials: %+v", b.to)
	}
	do(t, f, "backup:run --encrypt none")
	if b.to == nil || b.to.SecretKey.Reveal() != "Planted-secret" || len(b.keys) != 0 {
		t.Errorf("the place of the plan, otherwise encrypted: %+v", b.to)
	}
	if got := f.audited[len(f.audited)-1]; got != "laptop -: backup:run mesh-20260304T030000Z: ok" && !strings.Contains(got, "backup:run mesh-20260304T030000Z") {
		t.Errorf("audited %q", got)
	}
}

func TestBackupList(t *testing.T) {
	t.Parallel()
	f, b := withBackups(aPlan(t))
	half := aBackup
	half.ID, half.Fault, half.Encrypted = "mesh-20260303T030000Z", "unfinished", true
	b.list = []mesh.Backup{aBackup, half}
	r := do(t, f, "backup:list")
	want := `mesh-20260304T030000Z  9h   2026-03-04T03:00:00Z  2.0 MB  no         whole
mesh-20260303T030000Z  9h   2026-03-04T03:00:00Z  2.0 MB  yes        unfinished
Failed:        2026-03-04T12:00:00Z: the S3 server\x1b[2J is away
`
	if r.out != want || b.at.SecretKey.Reveal() != "Planted-secret" {
		t.Errorf("%s\nwant\n%s", r.out, want)
	}
	if r = do(t, f, "backup:list --json"); !strings.Contains(r.out, `"fault": "unfinished"`) || strings.Contains(r.out, "Planted") {
		t.Errorf("%s", r.out)
	}
	do(t, f, "backup:list --to /elsewhere")
	if b.at != (mesh.BackupPlace{URL: "/elsewhere"}) {
		t.Errorf("%+v", b.at)
	}
	b.list = nil
	if r = do(t, f, "backup:list"); !strings.Contains(r.err, "has no backups") {
		t.Errorf("%+v", r)
	}
	r = do(t, f, "backup:verify")
	if r.out != "mesh-20260304T030000Z is whole: latest (2.0 MB read in 1.0 s)\n" || !strings.Contains(r.err, "only its stored bytes") {
		t.Errorf("%+v", r)
	}
	r = do(t, f, "backup:verify mesh-20260304T030000Z --identity -", stdin("AGE-SECRET-KEY-Planted"))
	if r.status != 0 || r.err != "" || strings.Contains(strings.Join(f.audited, "\n"), "Planted") {
		t.Errorf("%+v", r)
	}
}

func TestBackups_NeedAnAdmin(t *testing.T) {
	t.Parallel()
	f, _ := withBackups(aPlan(t))
	for _, line := range []string{"backup:schedule", "backup:schedule @daily --to /x", "backup:unschedule", "backup:run", "backup:list", "backup:verify"} {
		for _, key := range []mesh.Key{{Name: "bob", Role: mesh.RoleDeploy}, {Name: "eve", Role: mesh.RoleAdmin, Stacks: []mesh.StackName{"blog"}}} {
			if r := do(t, f, line, as(key)); r.status != 1 || !strings.Contains(textOf(r), "may not use") {
				t.Errorf("%s by %s: %+v", line, key.Name, r)
			}
		}
	}
}
