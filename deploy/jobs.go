package deploy

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"mesh"
)

// JobOptions are what a Deployer runs jobs with.
type JobOptions struct {
	Times    JobTimes // nil: no schedule is checked, and nothing is due
	OnChange func()   // called when DueJobs may return something else; does not block; may be nil
	OnEnded  func()   // called when JobFaults may return something else; does not block; may be nil
}

// JobTimes reads the schedules of jobs.
type JobTimes interface {
	// Check returns an error of kind Invalid, with the reason, for what is not a schedule.
	Check(schedule string) error
	// Next returns the first time after t, or zero.
	Next(schedule string, t time.Time) time.Time
	// In returns a schedule that names no time zone in this one. ok is false if the zone does
	// not exist.
	In(schedule, zone string) (in string, ok bool)
}

// JobStore holds what is remembered of jobs. Destroying and renaming a stack keep it in step.
type JobStore interface {
	// Jobs returns the records of a stack, or of all stacks if it is empty, except damaged
	// ones.
	Jobs(ctx context.Context, stack mesh.StackName) ([]mesh.JobRecord, error)
	// UpdateJob changes a record with fn, which does no I/O and may run more than once; it
	// gets a new one if there is none.
	UpdateJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName, fn func(*mesh.JobRecord) error) (mesh.JobRecord, error)
	// RemoveJob removes a record and the output of its runs.
	RemoveJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName) error
	// KeepJobOutput keeps the output of a run, and drops that of runs not in keep.
	KeepJobOutput(ctx context.Context, stack mesh.StackName, job mesh.ServiceName, n int, text []byte, keep []int) error
	JobOutput(stack mesh.StackName, job mesh.ServiceName, n int) (io.ReadCloser, error)
}

// DueJob is a job with what decides when it is due.
type DueJob struct {
	Stack    mesh.StackName
	Name     mesh.ServiceName
	Schedule string    // with its time zone
	Last     time.Time // until then, everything is settled
	CatchUp  time.Duration
}

// forgetJob is how long the runs of a job that no longer exists are remembered.
const forgetJob = 30 * 24 * time.Hour

func (d *Deployer) jobsChanged() {
	if d.Jobs.OnChange != nil {
		d.Jobs.OnChange()
	}
}

// releaseOf returns the current release of a stack; the zero release if it has none.
func (d *Deployer) releaseOf(ctx context.Context, st mesh.Stack) (mesh.Release, error) {
	if st.Current == 0 {
		return mesh.Release{}, nil
	}
	return d.Store.Release(ctx, st.Name, st.Current)
}

// jobsOf returns the jobs of a stack by name: those added by hand win over those that the
// release declares. Jobs that no longer exist are those with Gone.
func (d *Deployer) jobsOf(r mesh.Release, records []mesh.JobRecord) (out []mesh.JobState) {
	for _, rec := range records {
		s := mesh.JobState{Job: mesh.Job{Name: rec.Name}, Record: rec, Gone: true}
		if rec.Hand != nil {
			s.Job, s.Gone = *rec.Hand, false
		}
		out = append(out, s)
	}
	for _, j := range r.Declared.Jobs {
		i := slices.IndexFunc(out, func(s mesh.JobState) bool { return s.Name == j.Name })
		switch {
		case i < 0:
			out = append(out, mesh.JobState{Job: j, Record: mesh.JobRecord{Stack: r.Stack, Name: j.Name}})
		case out[i].Gone:
			out[i].Job, out[i].Gone = j, false
		default:
			out[i].Notes = append(out[i].Notes, "it overrides the job of that name in "+j.From)
		}
	}
	slices.SortFunc(out, func(a, b mesh.JobState) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return out
}

// zoned returns the schedule of a job in the time zone of its release: the config var TZ.
func (d *Deployer) zoned(r mesh.Release, schedule string) (in string, ok bool) {
	zone := r.ConfigOf("")["TZ"]
	return d.Jobs.Times.In(schedule, zone.Reveal())
}

// JobsOf returns the jobs of a stack by name, with those that no longer exist and had runs.
func (d *Deployer) JobsOf(ctx context.Context, stack mesh.StackName) ([]mesh.JobState, error) {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return nil, err
	}
	r, err := d.releaseOf(ctx, st)
	if err != nil {
		return nil, err
	}
	records, err := d.Store.Jobs(ctx, stack)
	if err != nil {
		return nil, err
	}
	all := d.jobsOf(r, records)
	now := d.Now()
	for i := range all {
		s := &all[i]
		if s.Gone {
			s.Why = "no longer declared"
			continue
		}
		schedule, ok := d.zoned(r, s.Schedule)
		if !ok {
			s.Notes = append(s.Notes, "the config var TZ is not the name of a time zone: times are in that of the server")
		}
		switch {
		case s.Record.Suspended:
			s.Why = "suspended"
		case st.Stopped:
			s.Why = "the stack is stopped"
		case st.Current == 0:
			s.Why = "nothing is deployed"
		default:
			s.Next = d.Jobs.Times.Next(schedule, laterOf(now, s.Record.Due))
		}
	}
	return all, nil
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// job returns a job of a stack, with the stack and its release.
func (d *Deployer) job(ctx context.Context, stack mesh.StackName, name mesh.ServiceName) (st mesh.Stack, r mesh.Release, s mesh.JobState, err error) {
	if st, err = d.Store.Stack(ctx, stack); err != nil {
		return st, r, s, err
	}
	if r, err = d.releaseOf(ctx, st); err != nil {
		return st, r, s, err
	}
	records, err := d.Store.Jobs(ctx, stack)
	if err != nil {
		return st, r, s, err
	}
	for _, s := range d.jobsOf(r, records) {
		if s.Name == name {
			return st, r, s, nil
		}
	}
	return st, r, s, noJob(stack, name)
}

func noJob(stack mesh.StackName, name mesh.ServiceName) error {
	return mesh.Errorf(mesh.NotFound, "%s has no job %q", stack, mesh.Clip(string(name), 60)).WithHint("list them with: ssh mesh cron -a %s", stack)
}

// DueJobs returns the jobs of all stacks that may be due. It first records of each job whose
// schedule is new since when it counts: what was due before its release, or before it was
// added, is not made up.
func (d *Deployer) DueJobs(ctx context.Context) (out []DueJob, err error) {
	records, err := d.Store.Jobs(ctx, "")
	if err != nil {
		return nil, err
	}
	of := map[mesh.StackName][]mesh.JobRecord{}
	for _, r := range records {
		of[r.Stack] = append(of[r.Stack], r)
	}
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return nil, err
	}
	for _, st := range stacks {
		r, err := d.releaseOf(ctx, st)
		if err != nil {
			if ctx.Err() == nil {
				d.Logger.Error("the jobs of a stack cannot be read: none is started", "stack", st.Name, "err", err)
			}
			continue
		}
		for _, s := range d.jobsOf(r, of[st.Name]) {
			rec, err := d.settleJob(ctx, st, r, s)
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, mesh.NoStack) {
					d.Logger.Error("a job is not started: it cannot be recorded", "stack", st.Name, "job", string(s.Name), "err", err)
				}
				continue
			}
			if !s.Gone && !rec.Suspended && st.Current > 0 {
				out = append(out, DueJob{Stack: st.Name, Name: s.Name, Schedule: rec.Schedule, Last: rec.Due, CatchUp: s.CatchUp})
			}
		}
	}
	return out, nil
}

// settleJob brings the record of a job in step with its schedule.
func (d *Deployer) settleJob(ctx context.Context, st mesh.Stack, r mesh.Release, s mesh.JobState) (mesh.JobRecord, error) {
	schedule := ""
	if !s.Gone && st.Current > 0 {
		schedule, _ = d.zoned(r, s.Schedule)
	}
	if schedule == s.Record.Schedule {
		if s.Gone && d.forgotten(s.Record) {
			return s.Record, d.Store.RemoveJob(ctx, st.Name, s.Name)
		}
		return s.Record, nil
	}
	return d.Store.UpdateJob(ctx, st.Name, s.Name, func(rec *mesh.JobRecord) error {
		// A preview would do what production does as well: send the same mail twice.
		if st.Preview != nil && rec.Hand == nil && rec.Schedule == "" && rec.Due.IsZero() {
			rec.Suspended = true
		}
		rec.Schedule = schedule
		if schedule != "" {
			rec.Due = laterOf(rec.Due, laterOf(s.Set, r.Created)).UTC()
		}
		return nil
	})
}

// forgotten reports whether nobody needs the record of a job that no longer exists.
func (d *Deployer) forgotten(rec mesh.JobRecord) bool {
	if rec.Suspended || len(rec.Open()) > 0 {
		return false
	}
	last := rec.Due
	if n := len(rec.Runs); n > 0 {
		last = laterOf(last, rec.Runs[n-1].Started)
	}
	return d.Now().Sub(last) > forgetJob
}

// AddJob adds a job by hand, or changes the one that was added by hand. It wins over a job of
// the same name that a release declares. Times before now do not count.
func (d *Deployer) AddJob(ctx context.Context, stack mesh.StackName, j mesh.Job) (changed bool, err error) {
	if err := j.Check(); err != nil {
		return false, err
	}
	if err := d.Jobs.Times.Check(j.Schedule); err != nil {
		return false, err
	}
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return false, err
	}
	r, err := d.releaseOf(ctx, st)
	if err != nil {
		return false, err
	}
	if err := d.jobNameFree(st, r, j.Name); err != nil {
		return false, err
	}
	if _, known := r.Services[j.As]; j.As != "" && st.Current > 0 && !known {
		return false, noService(stack, j.As, r)
	}
	records, err := d.Store.Jobs(ctx, stack)
	if err != nil {
		return false, err
	}
	n := 0
	for _, s := range d.jobsOf(r, records) {
		if !s.Gone && s.Name != j.Name {
			n++
		}
	}
	if n >= mesh.MaxJobs {
		return false, mesh.Errorf(mesh.Conflict, "%s has %d jobs, which is the limit", stack, mesh.MaxJobs).WithHint("remove one: ssh mesh cron:remove -a %s NAME", stack)
	}
	j.Schedule, j.From, j.Set = strings.Join(strings.Fields(j.Schedule), " "), "", d.Now().UTC()
	_, err = d.Store.UpdateJob(ctx, stack, j.Name, func(rec *mesh.JobRecord) error {
		changed = rec.Hand != nil
		rec.Hand = &j
		return nil
	})
	if err != nil {
		return false, err
	}
	d.Logger.Info("job added", "stack", stack, "job", string(j.Name), "schedule", j.Schedule, "key", string(j.By))
	d.jobsChanged()
	return changed, nil
}

// jobNameFree refuses the name of a service: the log could not tell them apart.
func (d *Deployer) jobNameFree(st mesh.Stack, r mesh.Release, name mesh.ServiceName) error {
	_, released := r.Services[name]
	_, set := st.Services[name]
	if released || set {
		return mesh.Errorf(mesh.Conflict, "%s has a service named %q", st.Name, name).WithHint("choose another name for the job")
	}
	return nil
}

// RemoveJob removes a job that was added by hand, or forgets one that no longer exists. It
// returns the file that declares a job of the same name, which counts from now on, or "". A
// run in progress goes on.
func (d *Deployer) RemoveJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName, by mesh.KeyName) (declared string, err error) {
	_, r, s, err := d.job(ctx, stack, name)
	if err != nil {
		return "", err
	}
	if i := slices.IndexFunc(r.Declared.Jobs, func(j mesh.Job) bool { return j.Name == name }); i >= 0 {
		declared = r.Declared.Jobs[i].From
	}
	switch {
	case declared == "":
		err = d.Store.RemoveJob(ctx, stack, name)
	case s.Record.Hand == nil:
		return "", mesh.Errorf(mesh.Conflict, "the job %s of %s is declared in %s", name, stack, declared).
			WithHint("remove it there and push, or suspend it: ssh mesh cron:suspend -a %s %s", stack, name)
	default:
		_, err = d.Store.UpdateJob(ctx, stack, name, func(rec *mesh.JobRecord) error {
			rec.Hand, rec.Due = nil, laterOf(rec.Due, d.Now()).UTC()
			return nil
		})
	}
	if err != nil {
		return "", err
	}
	d.Logger.Info("job removed", "stack", stack, "job", string(name), "key", string(by))
	d.jobsChanged()
	d.jobEnded()
	return declared, nil
}

// SuspendJob makes a job start no more by itself, or again. It holds for the name, whatever
// later releases declare. Times while it was suspended are not made up. changed is false if
// the job is as wanted already.
func (d *Deployer) SuspendJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName, suspended bool, by mesh.KeyName) (changed bool, err error) {
	_, _, s, err := d.job(ctx, stack, name)
	if err != nil {
		return false, err
	}
	if s.Gone && suspended {
		return false, noJob(stack, name)
	}
	_, err = d.Store.UpdateJob(ctx, stack, name, func(rec *mesh.JobRecord) error {
		if changed = rec.Suspended != suspended; !changed {
			return nil
		}
		rec.Suspended = suspended
		if !suspended {
			rec.Due = laterOf(rec.Due, d.Now()).UTC()
		}
		return nil
	})
	if err != nil || !changed {
		return false, err
	}
	d.Logger.Info("job suspended or resumed", "stack", stack, "job", string(name), "suspended", suspended, "key", string(by))
	d.jobsChanged()
	d.jobEnded()
	return true, nil
}

// JobOutput opens the kept output of a run that has ended.
func (d *Deployer) JobOutput(stack mesh.StackName, job mesh.ServiceName, n int) (io.ReadCloser, error) {
	return d.Store.JobOutput(stack, job, n)
}

// JobFaults returns the jobs whose last run failed, of those that exist and are not suspended.
func (d *Deployer) JobFaults(ctx context.Context) (out []mesh.JobFault, err error) {
	records, err := d.Store.Jobs(ctx, "")
	for _, rec := range records {
		if rec.Schedule == "" || rec.Suspended {
			continue
		}
		for _, run := range slices.Backward(rec.Runs) {
			if run.Status == mesh.JobSkipped || run.Status == mesh.JobStopped || run.Status.Open() {
				continue
			}
			if run.Status.Bad() {
				out = append(out, mesh.JobFault{Stack: rec.Stack, Name: rec.Name, Text: "the job " + jobRunName(rec.Name, run.Number) + " failed: " + run.Outcome()})
			}
			break
		}
	}
	return out, err
}

// cloneJobs gives a new stack the jobs of another that were added by hand, and those names
// that are suspended.
func (d *Deployer) cloneJobs(ctx context.Context, from, to mesh.StackName, by mesh.KeyName) error {
	records, err := d.Store.Jobs(ctx, from)
	if err != nil {
		return err
	}
	for _, rec := range records {
		if rec.Hand == nil && !rec.Suspended {
			continue
		}
		_, err := d.Store.UpdateJob(ctx, to, rec.Name, func(own *mesh.JobRecord) error {
			if own.Suspended = rec.Suspended; rec.Hand != nil {
				hand := *rec.Hand
				hand.By, hand.Set = by, d.Now().UTC()
				own.Hand = &hand
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
