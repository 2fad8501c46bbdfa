package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"mesh"
)

// BackupOptions are what a Deployer makes backups with. Without Places it makes none.
type BackupOptions struct {
	Places    BackupPlaces
	Sources   []BackupSource // the first that has a subject is asked
	Schedules Schedules
	Folder    string // absolute; for the backups of plans without a place, a folder for each subject
	Server    string // the ID of this server
	Version   string // of mesh

	OnPlans func() // called when a schedule was set or removed; may be nil
	OnEnded func() // called when BackupFaults may return something else; does not block; may be nil
}

// BackupSource writes what is backed up. Its methods may be called from several goroutines.
type BackupSource interface {
	// Content says what Dump writes of a subject. It is NotFound for a subject that this
	// source does not have.
	Content(ctx context.Context, subject mesh.BackupSubject) (mesh.BackupContent, error)
	// Dump writes it, until ctx ends. After an error, what it has written is thrown away.
	Dump(ctx context.Context, subject mesh.BackupSubject, w io.Writer) error
	// Inspect reads the content of a backup of this source to its end, and returns what it
	// is, for people. It returns an error if it could not be restored.
	Inspect(ctx context.Context, b mesh.Backup, r io.Reader) (string, error)
}

// BackupPlaces keeps backups. Its methods may be called from several goroutines, and their
// errors contain no secret.
type BackupPlaces interface {
	// Prepare makes a place ready to be written to, and checks recipients.
	Prepare(ctx context.Context, at mesh.BackupPlace, recipients []string) error
	// Take makes a backup of what dump writes. After an error nothing is left of it, and
	// earlier ones are as they were.
	Take(ctx context.Context, at mesh.BackupPlace, about mesh.Backup, ext string, recipients []string, dump func(context.Context, io.Writer) error) (mesh.Backup, error)
	// Keep removes the older whole backups of made's subject and server, beyond n with made,
	// and returns their IDs.
	Keep(ctx context.Context, at mesh.BackupPlace, made mesh.Backup, n int) ([]string, error)
	List(ctx context.Context, at mesh.BackupPlace) ([]mesh.Backup, error)
	// Open returns the content of a backup: only a read that returns io.EOF proves it.
	Open(ctx context.Context, at mesh.BackupPlace, subject mesh.BackupSubject, server, id string, identity mesh.Secret) (io.ReadCloser, mesh.Backup, error)
	// Expire removes the backups of some subjects, made before a time, from the folders of
	// subjects below a folder.
	Expire(ctx context.Context, below string, whose func(mesh.BackupSubject) bool, before time.Time) error
	// Remove removes a backup.
	Remove(ctx context.Context, at mesh.BackupPlace, made mesh.Backup) error
	// Verify reads a backup again: the one with an ID, or the latest of a subject and server.
	// inspect may be nil.
	Verify(ctx context.Context, at mesh.BackupPlace, subject mesh.BackupSubject, server, id string, identity mesh.Secret, inspect func(mesh.Backup, io.Reader) (string, error)) (mesh.BackupCheck, error)
}

// Schedules reads schedules.
type Schedules interface {
	// Check returns an error of kind Invalid, with the reason, for what is not a schedule.
	Check(schedule string) error
	// Next returns the first time after t, or zero.
	Next(schedule string, t time.Time) time.Time
	// Interval returns the longest time between two starts, around t.
	Interval(schedule string, t time.Time) time.Duration
}

// BackupStore holds the plans for backups.
type BackupStore interface {
	BackupPlans(ctx context.Context) ([]mesh.BackupPlan, error)
	// UpdateBackupPlan changes a plan with fn, which may run more than once. known is false
	// if there is none.
	UpdateBackupPlan(ctx context.Context, subject mesh.BackupSubject, fn func(p *mesh.BackupPlan, known bool) error) (mesh.BackupPlan, error)
	// RemoveBackupPlan is NotFound if there is none.
	RemoveBackupPlan(ctx context.Context, subject mesh.BackupSubject) error
}

// backupRuns are the backups that run: one of a subject at a time.
type backupRuns struct {
	began time.Time // when this process did
	mu    sync.Mutex
	by    map[mesh.BackupSubject]*backupRun
}

type backupRun struct {
	since time.Time
	end   chan struct{}
}

// claim reserves a subject, until release is called. If it is taken, it returns by whom.
func (r *backupRuns) claim(subject mesh.BackupSubject, now time.Time) (other *backupRun, release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.by[subject]; other != nil {
		return other, nil
	}
	own := &backupRun{since: now, end: make(chan struct{})}
	if r.by == nil {
		r.by = map[mesh.BackupSubject]*backupRun{}
	}
	r.by[subject] = own
	return nil, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.by, subject)
		close(own.end)
	}
}

// busy returns a channel that is closed when a backup that runs now has ended, or nil if none
// runs.
func (r *backupRuns) busy() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range r.by {
		return run.end
	}
	return nil
}

// BackupRuns reports whether a backup of a subject runs, and since when.
func (d *Deployer) BackupRuns(subject mesh.BackupSubject) (since time.Time, runs bool) {
	d.backups.mu.Lock()
	defer d.backups.mu.Unlock()
	if run := d.backups.by[subject]; run != nil {
		return run.since, true
	}
	return time.Time{}, false
}

// source returns what dumps a subject.
func (d *Deployer) source(ctx context.Context, subject mesh.BackupSubject) (BackupSource, mesh.BackupContent, error) {
	for _, s := range d.Backup.Sources {
		c, err := s.Content(ctx, subject)
		if err == nil {
			return s, c, nil
		} else if !errors.Is(err, mesh.NotFound) {
			return nil, c, err
		}
	}
	return nil, mesh.BackupContent{}, mesh.Errorf(mesh.NotFound, "there is nothing named %q to back up", mesh.Clip(string(subject), 60)).WithHint("use mesh, or the name of an add-on")
}

// BackupPlanOf returns the plan of a subject. ok is false if there is none.
func (d *Deployer) BackupPlanOf(ctx context.Context, subject mesh.BackupSubject) (p mesh.BackupPlan, ok bool, err error) {
	all, err := d.Store.BackupPlans(ctx)
	for _, p := range all {
		if p.Subject == subject {
			return p, true, nil
		}
	}
	return mesh.BackupPlan{Subject: subject}, false, err
}

// KeptAt returns where the backups of a plan are.
func (d *Deployer) KeptAt(p mesh.BackupPlan) mesh.BackupPlace { return p.Kept(d.Backup.Folder) }

// NextBackup returns when a plan is due, or zero.
func (d *Deployer) NextBackup(p mesh.BackupPlan) time.Time {
	after := d.Now()
	if p.State.Due.After(after) {
		after = p.State.Due
	}
	return d.Backup.Schedules.Next(p.Schedule, after)
}

// ScheduleBackup records when and where backups of p.Subject are made, instead of what was
// recorded before, and returns the plan. It refuses a schedule, a place, credentials or
// recipients that do not work. Times before now do not count.
func (d *Deployer) ScheduleBackup(ctx context.Context, p mesh.BackupPlan) (mesh.BackupPlan, error) {
	if _, _, err := d.source(ctx, p.Subject); err != nil {
		return p, err
	}
	if err := d.Backup.Schedules.Check(p.Schedule); err != nil {
		return p, err
	}
	if p.Keep < 1 {
		return p, mesh.Errorf(mesh.Invalid, "at least one backup must be kept").WithHint("--keep 7")
	}
	if err := d.Backup.Places.Prepare(ctx, d.KeptAt(p), p.Recipients); err != nil {
		return p, err
	}
	p.Set = d.Now().UTC()
	set, err := d.Store.UpdateBackupPlan(ctx, p.Subject, func(is *mesh.BackupPlan, known bool) error {
		state := mesh.BackupState{Started: is.State.Started}
		if known && d.KeptAt(*is).URL == d.KeptAt(p).URL {
			state = is.State
		}
		state.Due = p.Set
		*is = p
		is.State = state
		return nil
	})
	if err != nil {
		return p, err
	}
	d.Logger.Info("backups scheduled", "subject", string(p.Subject), "schedule", p.Schedule, "place", string(d.KeptAt(p).URL), "keep", p.Keep, "key", string(p.SetBy))
	d.backupsChanged(true)
	return set, nil
}

// UnscheduleBackup removes the plan of a subject. Its backups stay, and one that runs goes on.
func (d *Deployer) UnscheduleBackup(ctx context.Context, subject mesh.BackupSubject, by mesh.KeyName) error {
	if err := d.Store.RemoveBackupPlan(ctx, subject); err != nil {
		return err
	}
	d.Logger.Info("backups unscheduled", "subject", string(subject), "key", string(by))
	d.backupsChanged(true)
	return nil
}

func (d *Deployer) backupsChanged(plans bool) {
	if plans && d.Backup.OnPlans != nil {
		d.Backup.OnPlans()
	}
	if d.Backup.OnEnded != nil {
		d.Backup.OnEnded()
	}
}

// RunBackup makes a backup now. With a place, it goes there, for these recipients, and no
// older ones are removed; without, it is a run of the subject's plan. If one of the subject
// runs already, RunBackup returns a Conflict.
func (d *Deployer) RunBackup(ctx context.Context, subject mesh.BackupSubject, to *mesh.BackupPlace, recipients []string) (mesh.BackupRun, error) {
	p, known, err := d.BackupPlanOf(ctx, subject)
	if err != nil {
		return mesh.BackupRun{}, err
	}
	planned := to == nil
	switch {
	case planned && !known:
		return mesh.BackupRun{}, mesh.Errorf(mesh.NotFound, "%s has no schedule for backups, and no place is named", subject).WithHint("name one: --to PLACE")
	case !planned:
		p = mesh.BackupPlan{Subject: subject, Place: *to, Recipients: recipients}
	}
	other, release := d.backups.claim(subject, d.Now())
	if other != nil {
		return mesh.BackupRun{}, mesh.Errorf(mesh.Conflict, "a backup of %s is running since %s", subject, other.since.UTC().Format(time.RFC3339)).WithHint("wait until it has ended")
	}
	defer release()
	if !planned {
		return d.backUp(ctx, p)
	}
	started := d.Now().UTC()
	if err := d.updateBackup(ctx, p, func(s *mesh.BackupState) error { s.Started = started; return nil }); err != nil {
		return mesh.BackupRun{}, err
	}
	run, err := d.backUp(ctx, p)
	if err != nil && ctx.Err() != nil { // whoever wanted it left, and knows
		d.recordBackup(ctx, p, func(s *mesh.BackupState) error { s.Started = time.Time{}; return nil })
		return run, err
	}
	d.endBackup(ctx, p, run, err)
	return run, err
}

var errDue = errors.New("it was due before")

// StartBackup records that the plan of a subject was due, and makes its backup in the
// background: nothing makes the same due time start twice, unless mesh is stopped meanwhile
// and takes the record back. If a backup of the subject runs, it waits for its end.
func (d *Deployer) StartBackup(ctx context.Context, subject mesh.BackupSubject, due time.Time) error {
	var was time.Time
	p, err := d.Store.UpdateBackupPlan(ctx, subject, func(p *mesh.BackupPlan, known bool) error {
		switch {
		case !known:
			return mesh.Errorf(mesh.NotFound, "%s has no schedule for backups", subject)
		case !due.After(p.State.Due):
			return errDue
		}
		was, p.State.Due, p.State.Started = p.State.Due, due.UTC(), d.Now().UTC()
		return nil
	})
	if errors.Is(err, errDue) {
		return nil
	} else if err != nil {
		return err
	}
	d.background(func(ctx context.Context) { d.scheduled(ctx, p, due, was) })
	return nil
}

// SkipBackup records that the plan of a subject was due too long ago.
func (d *Deployer) SkipBackup(ctx context.Context, subject mesh.BackupSubject, due time.Time) error {
	_, err := d.Store.UpdateBackupPlan(ctx, subject, func(p *mesh.BackupPlan, known bool) error {
		if !known {
			return mesh.Errorf(mesh.NotFound, "%s has no schedule for backups", subject)
		}
		if due.After(p.State.Due) {
			p.State.Due = due.UTC()
		}
		return nil
	})
	return err
}

// scheduled makes a backup that was due.
func (d *Deployer) scheduled(ctx context.Context, p mesh.BackupPlan, due, was time.Time) {
	// Nothing is recorded of a run that mesh itself stops: the next process makes it up.
	takeBack := func() {
		d.Logger.Info("backup stopped with mesh; the next process makes it up", "subject", string(p.Subject), "due", due.UTC())
		d.recordBackup(ctx, p, func(s *mesh.BackupState) error {
			s.Started = time.Time{}
			if s.Due.Equal(due) {
				s.Due = was
			}
			return nil
		})
	}
	for {
		other, release := d.backups.claim(p.Subject, d.Now())
		if other == nil {
			defer release()
			break
		}
		select {
		case <-other.end:
		case <-ctx.Done():
			takeBack()
			return
		}
	}
	run, err := d.backUp(ctx, p)
	if err != nil && ctx.Err() != nil {
		takeBack()
		return
	}
	d.endBackup(ctx, p, run, err)
}

// backUp makes a backup, and removes those that are too many.
func (d *Deployer) backUp(ctx context.Context, p mesh.BackupPlan) (mesh.BackupRun, error) {
	begun, place := d.Now(), d.KeptAt(p)
	run := mesh.BackupRun{Place: place.URL}
	source, content, err := d.source(ctx, p.Subject)
	if err == nil {
		about := mesh.Backup{Subject: p.Subject, Server: d.Backup.Server, Kind: content.Kind, Version: content.Version, Mesh: d.Backup.Version}
		run.Backup, err = d.Backup.Places.Take(ctx, place, about, content.Ext, p.Recipients, func(ctx context.Context, w io.Writer) error {
			return source.Dump(ctx, p.Subject, w)
		})
	}
	run.Took = d.Now().Sub(begun)
	switch {
	case err != nil && ctx.Err() != nil:
		d.Logger.Warn("backup cut", "subject", string(p.Subject), "place", string(place.URL), "duration", run.Took, "err", context.Cause(ctx))
		return run, err
	case err != nil:
		d.Logger.Error("backup failed", "subject", string(p.Subject), "place", string(place.URL), "duration", run.Took, "err", err)
		return run, err
	}
	if p.Keep > 0 {
		if run.Removed, err = d.Backup.Places.Keep(ctx, place, run.Backup, p.Keep); err != nil {
			run.Warning = "older backups were not removed: " + reason(err)
			d.Logger.Warn("older backups not removed", "subject", string(p.Subject), "place", string(place.URL), "err", err)
		}
	}
	d.Logger.Info("backup made", "subject", string(p.Subject), "backup", run.Backup.ID, "place", string(place.URL), "size", run.Backup.Size, "duration", run.Took)
	return run, nil
}

// reason returns why something failed, in a line.
func reason(err error) string {
	var told *mesh.Error
	text := err.Error()
	if errors.As(err, &told) {
		text = told.Text
	}
	return mesh.Clip(mesh.Visible(text), 500)
}

// endBackup records how a run of a plan ended.
func (d *Deployer) endBackup(ctx context.Context, p mesh.BackupPlan, run mesh.BackupRun, err error) {
	now := d.Now().UTC()
	d.recordBackup(ctx, p, func(s *mesh.BackupState) error {
		s.Started = time.Time{}
		if err != nil {
			s.Failed, s.Failure = now, reason(err)
			return nil
		}
		s.Failed, s.Failure, s.Last, s.Ended = time.Time{}, "", &run.Backup, now
		return nil
	})
	d.backupsChanged(false)
}

// recordBackup is updateBackup for what has already happened: if it cannot be recorded, that
// is logged.
func (d *Deployer) recordBackup(ctx context.Context, p mesh.BackupPlan, fn func(*mesh.BackupState) error) {
	if err := d.updateBackup(context.WithoutCancel(ctx), p, fn); err != nil && !errors.Is(err, mesh.NotFound) {
		d.Logger.Error("the outcome of a backup is not recorded", "subject", string(p.Subject), "err", err)
	}
}

// updateBackup changes the state of a plan. Of a plan with another place by now, it changes
// nothing but that no run is in progress.
func (d *Deployer) updateBackup(ctx context.Context, p mesh.BackupPlan, fn func(*mesh.BackupState) error) error {
	_, err := d.Store.UpdateBackupPlan(ctx, p.Subject, func(is *mesh.BackupPlan, known bool) error {
		if !known {
			return mesh.Errorf(mesh.NotFound, "%s has no schedule for backups", p.Subject)
		}
		if d.KeptAt(*is).URL != d.KeptAt(p).URL {
			is.State.Started = time.Time{}
			return nil
		}
		return fn(&is.State)
	})
	return err
}

// SettleBackups records that runs failed which a killed process has left. Call it before
// StartBackup is called.
func (d *Deployer) SettleBackups(ctx context.Context) {
	plans, err := d.Store.BackupPlans(ctx)
	if err != nil {
		if ctx.Err() == nil {
			d.Logger.Error("schedules for backups not read", "err", err)
		}
		return
	}
	for _, p := range plans {
		if p.State.Started.IsZero() {
			continue
		}
		other, release := d.backups.claim(p.Subject, d.Now())
		if other != nil {
			continue // this process has begun another one
		}
		started := p.State.Started
		d.recordBackup(ctx, p, func(s *mesh.BackupState) error {
			if s.Started.Equal(started) {
				s.Started, s.Failed, s.Failure = time.Time{}, d.Now().UTC(), "mesh was killed while it ran"
			}
			return nil
		})
		release()
		d.Logger.Error("a backup was cut: mesh was killed while it ran", "subject", string(p.Subject))
		d.backupsChanged(false)
	}
}

// How long a process has to make up what it has missed, and a run to end, before an old
// backup is a fault.
const (
	makeUpTime = 10 * time.Minute
	longestRun = 24 * time.Hour
)

// BackupFaults returns what is wrong with the plans: those whose last run failed, and those
// without a success for twice their interval.
func (d *Deployer) BackupFaults(ctx context.Context) (out []mesh.BackupFault, err error) {
	plans, err := d.Store.BackupPlans(ctx)
	now := d.Now()
	for _, p := range plans {
		if text := d.backupFault(p, now); text != "" {
			out = append(out, mesh.BackupFault{Subject: p.Subject, Text: text})
		}
	}
	return out, err
}

func (d *Deployer) backupFault(p mesh.BackupPlan, now time.Time) string {
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	if s := p.State; !s.Failed.IsZero() {
		return fmt.Sprintf("the backup of %s to %s failed: %s", p.Subject, d.KeptAt(p).URL, cmp.Or(s.Failure, "no reason is recorded"))
	}
	since := p.Set
	if p.State.Ended.After(since) {
		since = p.State.Ended
	}
	times := d.Backup.Schedules
	if second := times.Next(p.Schedule, times.Next(p.Schedule, since)); !p.State.Due.After(now) && (second.IsZero() || now.Before(second)) {
		return "" // the usual case: an interval takes thousands of times as long to find
	}
	interval := times.Interval(p.Schedule, since)
	running, runs := d.BackupRuns(p.Subject)
	patient := now.Sub(d.backups.began) < makeUpTime || runs && now.Sub(running) < longestRun
	switch next := d.NextBackup(p); {
	case interval == 0, patient:
	case now.Sub(since) > 2*interval && p.State.Ended.IsZero():
		return fmt.Sprintf("no backup of %s has been made since its schedule was set at %s", p.Subject, at(p.Set))
	case now.Sub(since) > 2*interval:
		return fmt.Sprintf("the last backup of %s is from %s, more than twice its interval ago", p.Subject, at(p.State.Ended))
	case next.Sub(now) > 2*interval+time.Hour:
		return fmt.Sprintf("the clock was set back: the next backup of %s is due only at %s", p.Subject, at(next))
	}
	return ""
}

// ListBackups returns the backups in a place, the newest first.
func (d *Deployer) ListBackups(ctx context.Context, at mesh.BackupPlace) ([]mesh.Backup, error) {
	return d.Backup.Places.List(ctx, at)
}

// RemoveBackup removes a backup from a place.
func (d *Deployer) RemoveBackup(ctx context.Context, at mesh.BackupPlace, made mesh.Backup) error {
	return d.Backup.Places.Remove(ctx, at, made)
}

// VerifyBackup reads a backup again: the one with an ID, or the latest that this server has
// made of a subject. Its content is read as a restore reads it, unless it is encrypted and
// identity is empty.
func (d *Deployer) VerifyBackup(ctx context.Context, at mesh.BackupPlace, subject mesh.BackupSubject, id string, identity mesh.Secret) (mesh.BackupCheck, error) {
	return d.Backup.Places.Verify(ctx, at, subject, d.Backup.Server, id, identity, func(b mesh.Backup, r io.Reader) (string, error) {
		source, content, err := d.source(ctx, b.Subject)
		if errors.Is(err, mesh.NotFound) || err == nil && content.Kind != b.Kind {
			return "", discard(r) // of an add-on that does not exist any more, only the checksums count
		} else if err != nil {
			return "", err
		}
		return source.Inspect(ctx, b, r)
	})
}

func discard(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}
