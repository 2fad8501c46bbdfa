package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// jobKey identifies a run.
type jobKey struct {
	stack mesh.StackName
	name  mesh.ServiceName
	n     int
}

func (k jobKey) String() string { return jobRunName(k.name, k.n) }

// jobRunName is the name of the container of a run, and of its lines in the log.
func jobRunName(job mesh.ServiceName, n int) string {
	return mesh.InstanceName{Service: job, Slot: n}.String()
}

// jobRuns are the runs that this process looks after: all that have not ended.
type jobRuns struct {
	starting sync.Mutex  // a run is recorded, and not claimed yet
	settled  atomic.Bool // SettleJobs was called

	mu sync.Mutex
	by map[jobKey]*jobRun
}

// jobRun is a run that somebody looks after.
type jobRun struct {
	jobKey
	stop chan string   // holds why it is to be stopped
	done chan struct{} // closed when it has ended, and that is recorded
}

// claim makes a run one that is looked after.
func (r *jobRuns) claim(k jobKey) *jobRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = map[jobKey]*jobRun{}
	}
	own := &jobRun{jobKey: k, stop: make(chan string, 1), done: make(chan struct{})}
	r.by[k] = own
	return own
}

func (r *jobRuns) release(own *jobRun) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by[own.jobKey] == own {
		delete(r.by, own.jobKey)
	}
	close(own.done)
}

func (r *jobRuns) get(k jobKey) *jobRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.by[k]
}

// halt asks for the end of a run.
func (r *jobRun) halt(why string) {
	select {
	case r.stop <- why:
	default: // somebody has asked already
	}
}

func (d *Deployer) jobEnded() {
	if d.Jobs.OnEnded != nil {
		d.Jobs.OnEnded()
	}
}

var (
	errRunGone  = errors.New("the record of the run is gone")
	errUnwanted = errors.New("the run is not wanted")
)

// maxReason is how long the reason of a run may be, in bytes.
const maxReason = 500

// StartJob records that a job was due, and starts its run without waiting for the end. The
// record comes first: nothing makes the same due time start twice. If the stack is stopped, or
// the last run has not ended and the job forbids overlaps, only that is recorded.
func (d *Deployer) StartJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName, due time.Time) error {
	started, err := d.names.start(stack)
	if err != nil {
		return err
	}
	begun := false
	defer func() {
		if !begun {
			started()
		}
	}()
	st, r, s, err := d.job(ctx, stack, name)
	if errors.Is(err, mesh.NotFound) || errors.Is(err, mesh.NoStack) || err == nil && s.Gone {
		return nil // it was removed meanwhile
	} else if err != nil {
		return err
	}
	var was time.Time
	own, err := d.recordRun(ctx, s, mesh.JobRun{Due: due.UTC(), Release: r.Number}, func(rec *mesh.JobRecord) (string, error) {
		if was = rec.Due; rec.Suspended || !due.After(was) {
			return "", errUnwanted
		}
		rec.Due = due.UTC()
		if st.Stopped {
			return "the stack is stopped", nil
		}
		return d.overlap(s.Job, *rec), nil
	})
	if errors.Is(err, errUnwanted) {
		return nil
	} else if err != nil {
		return err
	}
	begun = true
	d.background(func(ctx context.Context) { d.runJob(ctx, own, s.Job, self, was, started) })
	return nil
}

// SkipJob records that a job was due too long ago to be made up.
func (d *Deployer) SkipJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName, due time.Time) error {
	_, err := d.Store.UpdateJob(ctx, stack, name, func(rec *mesh.JobRecord) error {
		if rec.Suspended || !due.After(rec.Due) {
			return errUnwanted
		}
		rec.Due = due.UTC()
		rec.Skip(due.UTC(), d.Now().UTC(), "it was due while mesh was down, longer ago than --catch-up")
		return nil
	})
	if errors.Is(err, errUnwanted) || errors.Is(err, mesh.NoStack) {
		return nil
	}
	return err
}

// overlap returns why a job does not start now, or "".
func (d *Deployer) overlap(j mesh.Job, rec mesh.JobRecord) string {
	if open := rec.Open(); j.Overlap == mesh.OverlapForbid && len(open) > 0 {
		return jobRunName(j.Name, open[len(open)-1].Number) + " was still running"
	}
	return ""
}

// recordRun records a run that is about to start, and claims it. skip returns why it does not
// start, which is recorded; or errUnwanted if nothing is to be recorded. In both cases the
// error is errUnwanted.
func (d *Deployer) recordRun(ctx context.Context, s mesh.JobState, run mesh.JobRun, skip func(*mesh.JobRecord) (why string, err error)) (*jobRun, error) {
	d.jobs.starting.Lock() // the number of a run is known only in the transaction
	defer d.jobs.starting.Unlock()
	stack := s.Record.Stack
	why := ""
	rec, err := d.Store.UpdateJob(ctx, stack, s.Name, func(rec *mesh.JobRecord) (err error) {
		d.settleStale(rec)
		now := d.Now().UTC()
		if why, err = skip(rec); err != nil {
			return err
		}
		if why != "" {
			rec.Skip(run.Due, now, why)
			return nil
		}
		run.Status, run.Started = mesh.JobStarting, now
		rec.Add(run)
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case why != "":
		d.Logger.Info("job skipped", "stack", stack, "job", string(s.Name), "due", run.Due, "reason", why)
		return nil, errUnwanted
	}
	return d.jobs.claim(jobKey{stack, s.Name, rec.Last}), nil
}

// settleStale ends the runs of a record that nobody looks after: after a rename, say. It does
// not apply before SettleJobs.
func (d *Deployer) settleStale(rec *mesh.JobRecord) {
	if !d.jobs.settled.Load() {
		return
	}
	rec.Runs = slices.Clone(rec.Runs)
	for i, run := range rec.Runs {
		if run.Status.Open() && d.jobs.get(jobKey{rec.Stack, rec.Name, run.Number}) == nil {
			rec.Runs[i].Status, rec.Runs[i].Ended, rec.Runs[i].Reason = mesh.JobLost, d.Now().UTC(), "mesh lost sight of it"
		}
	}
}

// RunJob starts a run of a job now, whether or not it is due or suspended, and returns it.
// The returned function waits for its end, or for ctx, and returns how it ended.
func (d *Deployer) RunJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName, by mesh.KeyName) (mesh.JobRun, func(context.Context) (mesh.JobRun, error), error) {
	started, err := d.names.start(stack)
	if err != nil {
		return mesh.JobRun{}, nil, err
	}
	begun := false
	defer func() {
		if !begun {
			started()
		}
	}()
	st, r, s, err := d.job(ctx, stack, name)
	switch {
	case err != nil:
		return mesh.JobRun{}, nil, err
	case s.Gone:
		return mesh.JobRun{}, nil, noJob(stack, name)
	case st.Current == 0:
		return mesh.JobRun{}, nil, notDeployed(stack)
	}
	own, err := d.recordRun(ctx, s, mesh.JobRun{By: by, Release: r.Number}, func(rec *mesh.JobRecord) (string, error) {
		if d.overlap(s.Job, *rec) != "" {
			return "", errUnwanted
		}
		return "", nil
	})
	if errors.Is(err, errUnwanted) {
		return mesh.JobRun{}, nil, mesh.Errorf(mesh.Conflict, "a run of %s has not ended, and the job forbids overlaps", name).
			WithHint("see it with: ssh mesh run:list -a %s; or allow it: ssh mesh cron:add … --overlap allow", stack)
	} else if err != nil {
		return mesh.JobRun{}, nil, err
	}
	d.Logger.Info("job run by hand", "stack", stack, "job", string(name), "instance", own.String(), "key", string(by))
	begun = true
	d.background(func(ctx context.Context) { d.runJob(ctx, own, s.Job, by, time.Time{}, started) })
	run := func(ctx context.Context) (mesh.JobRun, error) {
		rec, err := d.jobRecord(ctx, own)
		if run := rec.Run(own.n); run != nil {
			return *run, nil
		}
		if err == nil {
			err = mesh.Errorf(mesh.NotFound, "%s was not started, or the job was removed", own.jobKey).WithHint("see: ssh mesh cron -a %s", stack)
		}
		return mesh.JobRun{}, err
	}
	now, err := run(ctx)
	return now, func(ctx context.Context) (mesh.JobRun, error) {
		select {
		case <-own.done:
			if d.life.Err() != nil {
				return mesh.JobRun{}, d.goesOn(own)
			}
			return run(ctx)
		case <-ctx.Done():
			return mesh.JobRun{}, context.Cause(ctx)
		}
	}, err
}

// goesOn is the error for somebody who waits for a run when this process ends.
func (d *Deployer) goesOn(own *jobRun) error {
	return mesh.Errorf(mesh.Unavailable, "mesh is restarting, and %s goes on", own.jobKey).WithHint("see how it ends: ssh mesh cron:info -a %s %s", own.stack, own.name)
}

// jobStart limits how long it may take to create and start the container of a run.
const jobStart = 2 * time.Minute

// runJob starts a run that was recorded, and follows it to its end. If ctx ends before the
// run has begun, the record is taken back, with was as the last due time: the next process
// makes it up. If ctx ends later, the next process adopts it. It calls started once no
// container will be started any more.
func (d *Deployer) runJob(ctx context.Context, own *jobRun, j mesh.Job, by mesh.KeyName, was time.Time, started func()) {
	defer d.jobs.release(own)
	defer started()
	if j.Overlap == mesh.OverlapReplace {
		d.replaceRuns(ctx, own)
	}
	if ctx.Err() != nil {
		d.takeBack(ctx, own, was)
		return
	}
	// From here to the record of the start nothing may be cut off: only a kill can leave it
	// open whether the run has begun.
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), jobStart)
	defer cancel()
	c, err := d.detachJob(sctx, own, j, by)
	if err != nil {
		d.endRun(sctx, own, func(run *mesh.JobRun) {
			run.Status, run.Reason = mesh.JobFailed, mesh.Clip("could not start: "+reason(err), maxReason)
		})
		return
	}
	d.changeRun(sctx, own, func(run *mesh.JobRun) { run.Status = mesh.JobRunning })
	started()
	d.follow(ctx, own, c.ID, j)
}

// replaceRuns stops the earlier runs of the same job, and waits for their ends.
func (d *Deployer) replaceRuns(ctx context.Context, own *jobRun) {
	d.jobs.mu.Lock()
	var earlier []*jobRun
	for k, run := range d.jobs.by {
		if k.stack == own.stack && k.name == own.name && k.n < own.n {
			earlier = append(earlier, run)
		}
	}
	d.jobs.mu.Unlock()
	for _, run := range earlier {
		run.halt(own.String() + " replaced it")
	}
	for _, run := range earlier {
		select {
		case <-run.done:
		case <-ctx.Done():
			return
		}
	}
}

// takeBack removes the record of a run that has not begun.
func (d *Deployer) takeBack(ctx context.Context, own *jobRun, was time.Time) {
	_, err := d.Store.UpdateJob(context.WithoutCancel(ctx), own.stack, own.name, func(rec *mesh.JobRecord) error {
		run := rec.Run(own.n)
		if run == nil || run.Status != mesh.JobStarting {
			return errRunGone
		}
		if !run.Due.IsZero() && rec.Due.Equal(run.Due) {
			rec.Due = was
		}
		rec.Runs = slices.DeleteFunc(slices.Clone(rec.Runs), func(r mesh.JobRun) bool { return r.Number == own.n })
		return nil
	})
	if err != nil && !errors.Is(err, errRunGone) && !errors.Is(err, mesh.NoStack) {
		d.Logger.Error("a run that has not begun is not taken back", "stack", own.stack, "instance", own.String(), "err", err)
	}
}

// detachJob starts the container of a run, with the release that is current now.
func (d *Deployer) detachJob(ctx context.Context, own *jobRun, j mesh.Job, by mesh.KeyName) (mesh.DetachedRun, error) {
	o, release, err := d.oneOff(ctx, mesh.Run{Stack: own.stack, By: by, Line: j.Command, As: j.As}, mesh.InstanceName{Service: own.name, Slot: own.n})
	if err != nil {
		return mesh.DetachedRun{}, err
	}
	defer release()
	o.Name = own.String()
	c, err := d.Runner.Detach(ctx, o, mesh.DetachedRun{
		Stack: own.stack, Name: o.Name, By: by, Command: j.Command, Job: own.name, JobRun: own.n,
		Until: d.Now().Add(j.Timeout + runLife), // for the case that nobody looks after it
	})
	if err == nil {
		d.Logger.Info("job started", "stack", own.stack, "instance", own.String())
	}
	return c, err
}

// engineAgain is the pause before an engine that did not answer is asked again.
const engineAgain = 5 * time.Second

// follow waits for the end of a run, stops it at its time limit or on request, and records
// how it ended. If ctx ends first, the next process goes on.
func (d *Deployer) follow(ctx context.Context, own *jobRun, id string, j mesh.Job) {
	limit := time.NewTimer(d.timeLeft(ctx, own, j))
	defer limit.Stop()
	var status mesh.JobStatus
	why := ""
	for {
		wctx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- d.Runner.AwaitRun(wctx, id) }()
		var err error
		select {
		case err = <-ended:
		case <-limit.C:
			status, why = mesh.JobTimedOut, fmt.Sprintf("stopped after %s", j.Timeout)
			err = d.Runner.Halt(ctx, id, mesh.DefaultStopTimeout)
		case why = <-own.stop:
			status = mesh.JobStopped
			err = d.Runner.Halt(ctx, id, mesh.DefaultStopTimeout)
		case <-ctx.Done():
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil && d.concludeRun(ctx, own, id, j, status, why) {
			return
		}
		if err != nil {
			d.Logger.Warn("the engine does not say whether a run has ended", "stack", own.stack, "instance", own.String(), "err", err)
		}
		fleet.Wait(ctx, engineAgain, nil)
		if status == mesh.JobTimedOut { // it did not end
			limit.Reset(0)
		}
		if status == mesh.JobStopped {
			own.halt(why)
		}
	}
}

// timeLeft returns how long a run may take from now on.
func (d *Deployer) timeLeft(ctx context.Context, own *jobRun, j mesh.Job) time.Duration {
	rec, _ := d.jobRecord(ctx, own)
	if run := rec.Run(own.n); run != nil {
		return min(j.Timeout, max(0, run.Started.Add(j.Timeout).Sub(d.Now())))
	}
	return j.Timeout
}

// jobRecord returns the record of a run's job; the zero record if there is none.
func (d *Deployer) jobRecord(ctx context.Context, own *jobRun) (mesh.JobRecord, error) {
	records, err := d.Store.Jobs(ctx, own.stack)
	for _, rec := range records {
		if rec.Name == own.name {
			return rec, nil
		}
	}
	return mesh.JobRecord{}, err
}

// concludeRun records how a run ended, keeps its output, and removes its container. It
// returns false if the run has not ended, or the engine does not answer. A kill in between
// makes the next process begin again with what is left of this.
func (d *Deployer) concludeRun(ctx context.Context, own *jobRun, id string, j mesh.Job, status mesh.JobStatus, why string) bool {
	st, err := d.Store.Stack(ctx, own.stack)
	if errors.Is(err, mesh.NoStack) {
		return true // destroyed, with everything
	}
	runs, err2 := d.Runner.Detached(ctx, own.stack)
	if err = errors.Join(err, err2); err != nil {
		d.Logger.Warn("the end of a run is not known yet", "stack", own.stack, "instance", own.String(), "err", err)
		return false
	}
	i := slices.IndexFunc(runs, func(r mesh.DetachedRun) bool { return r.ID == id })
	if i < 0 {
		d.endRun(ctx, own, func(run *mesh.JobRun) {
			run.Status, run.Reason = mesh.JobLost, "its container was removed by hand"
			if status != "" {
				run.Status, run.Reason = status, why
			}
		})
		return true
	}
	c := runs[i]
	if c.Running {
		return false
	}
	d.keepOutput(ctx, own, st, c)
	d.endRun(ctx, own, func(run *mesh.JobRun) {
		if !c.Ended.IsZero() && !c.Started.IsZero() { // the times of the engine, which has seen it
			run.Ended = run.Started.Add(max(0, c.Ended.Sub(c.Started)))
		}
		run.ExitCode, run.OOM = c.ExitCode, c.OOM
		switch {
		case c.Unborn:
			run.Status, run.Reason, run.ExitCode = mesh.JobLost, "mesh was killed before it started", 0
		case status != "":
			run.Status, run.Reason = status, why
		case c.ExitCode == 0:
			run.Status = mesh.JobSucceeded
		case !run.Ended.IsZero() && run.Ended.Sub(run.Started) >= j.Timeout:
			run.Status, run.Reason = mesh.JobTimedOut, fmt.Sprintf("stopped after %s", j.Timeout)
		default:
			run.Status = mesh.JobFailed
		}
	})
	d.removeRun(ctx, c)
	return true
}

// removeRun removes the container of a run that has ended.
func (d *Deployer) removeRun(ctx context.Context, c mesh.DetachedRun) {
	if err := d.Runner.Stop(ctx, c.ID, 0); err != nil && ctx.Err() == nil {
		d.Logger.Warn("the container of a run is not removed", "stack", c.Stack, "instance", c.Name, "err", err)
	}
}

// Of the output of a run, mesh keeps the last lines.
const (
	maxJobLines  = 10_000
	maxJobOutput = 1 << 20 // bytes
)

// keepOutput keeps what a run has printed, without the values of secret config vars.
func (d *Deployer) keepOutput(ctx context.Context, own *jobRun, st mesh.Stack, c mesh.DetachedRun) {
	var hidden []string
	configs := st.Configs()
	if r, err := d.releaseOf(ctx, st); err == nil {
		configs = append(configs, r.Configs()...)
	}
	for _, vars := range configs {
		hidden = append(hidden, vars.Hidden(func(string) bool { return true })...)
	}
	mask := mesh.NewMasker(hidden)
	var text []byte
	cut := false
	err := d.Runner.Logs(ctx, mesh.LogQuery{Stack: own.stack, Run: c.Name, Lines: maxJobLines}, func(l mesh.LogLine) error {
		text = append(append(text, mask.Replace(strings.ToValidUTF8(l.Text, "\uFFFD"))...), '\n')
		if extra := len(text) - maxJobOutput; extra > 0 {
			cut = true
			if i := slices.Index(text[extra:], '\n'); i >= 0 {
				extra += i + 1
			}
			text = text[extra:]
		}
		return nil
	})
	if cut {
		text = append([]byte("(earlier lines are in the log of the stack)\n"), text...)
	}
	if err == nil {
		var keep []int
		rec, _ := d.jobRecord(ctx, own)
		for _, run := range rec.Runs {
			keep = append(keep, run.Number)
		}
		if len(keep) == 0 {
			return // the job was removed
		}
		err = d.Store.KeepJobOutput(ctx, own.stack, own.name, own.n, text, keep)
	}
	if err != nil {
		d.Logger.Error("the output of a run is not kept", "stack", own.stack, "instance", own.String(), "err", err)
	}
}

// changeRun changes the record of a run.
func (d *Deployer) changeRun(ctx context.Context, own *jobRun, fn func(*mesh.JobRun)) (mesh.JobRun, bool) {
	var after mesh.JobRun
	_, err := d.Store.UpdateJob(context.WithoutCancel(ctx), own.stack, own.name, func(rec *mesh.JobRecord) error {
		rec.Runs = slices.Clone(rec.Runs)
		run := rec.Run(own.n)
		if run == nil || !run.Status.Open() {
			return errRunGone
		}
		fn(run)
		after = *run
		return nil
	})
	if err != nil && !errors.Is(err, errRunGone) && !errors.Is(err, mesh.NoStack) {
		d.Logger.Error("a run is not recorded", "stack", own.stack, "instance", own.String(), "err", err)
	}
	return after, err == nil
}

// endRun records the end of a run.
func (d *Deployer) endRun(ctx context.Context, own *jobRun, fn func(*mesh.JobRun)) {
	run, ok := d.changeRun(ctx, own, func(run *mesh.JobRun) {
		if fn(run); run.Ended.IsZero() {
			run.Ended = d.Now().UTC()
		}
	})
	if !ok {
		return
	}
	took := run.Took(run.Ended)
	if run.Status.Bad() {
		d.Logger.Error("job failed", "stack", own.stack, "instance", own.String(), "outcome", run.Outcome(), "duration", took)
	} else {
		d.Logger.Info("job ended", "stack", own.stack, "instance", own.String(), "outcome", run.Outcome(), "duration", took)
	}
	d.note(own.stack, "cron", "%s ended: %s", own.jobKey, run.Outcome())
	d.jobEnded()
}

// SettleJobs adopts the runs that an earlier process has left, until Run ends. Call it
// before StartJob and RunJob are called.
func (d *Deployer) SettleJobs(ctx context.Context) {
	records, err := d.Store.Jobs(ctx, "")
	if err != nil {
		if ctx.Err() == nil {
			d.Logger.Error("jobs not read", "err", err)
		}
		return
	}
	for _, rec := range records {
		for _, run := range rec.Open() {
			own := d.jobs.claim(jobKey{rec.Stack, rec.Name, run.Number})
			d.background(func(ctx context.Context) { d.adoptRun(ctx, own) })
		}
	}
	d.jobs.settled.Store(true)
	d.background(d.removeConcluded)
}

// adoptRun follows a run that another process has recorded. If it has no container, that
// process was killed before it had started one: the run is lost, and never started again.
func (d *Deployer) adoptRun(ctx context.Context, own *jobRun) {
	defer d.jobs.release(own)
	for {
		runs, err := d.Runner.Detached(ctx, own.stack)
		if err == nil {
			i := slices.IndexFunc(runs, func(r mesh.DetachedRun) bool { return r.Job == own.name && r.JobRun == own.n })
			if i < 0 {
				d.endRun(ctx, own, func(run *mesh.JobRun) { run.Status, run.Reason = mesh.JobLost, "mesh was killed before it started" })
				return
			}
			j := mesh.NewJob(own.name, "", runs[i].Command)
			if _, _, s, err := d.job(ctx, own.stack, own.name); err == nil && !s.Gone {
				j = s.Job
			}
			d.follow(ctx, own, runs[i].ID, j)
			return
		}
		if !fleet.Wait(ctx, engineAgain, nil) {
			return
		}
	}
}

// removeConcluded removes the containers of runs whose end is recorded: a process was killed
// before it could. If that fails, their time runs out.
func (d *Deployer) removeConcluded(ctx context.Context) {
	runs, err := d.Runner.Detached(ctx, "")
	if err != nil {
		return
	}
	for _, c := range runs {
		if c.Job == "" || c.Running || d.jobs.get(jobKey{c.Stack, c.Job, c.JobRun}) != nil {
			continue
		}
		d.removeRun(ctx, c)
	}
}
