package mesh

import (
	"fmt"
	"slices"
	"time"
)

// Overlap says what happens when a job is due while its last run has not ended.
type Overlap string

// The overlaps.
const (
	OverlapForbid  Overlap = "forbid"  // the run is skipped
	OverlapAllow   Overlap = "allow"   // both run
	OverlapReplace Overlap = "replace" // the old run is stopped first
)

// ParseOverlap reads an overlap; empty is OverlapForbid.
func ParseOverlap(s string) (Overlap, error) {
	switch o := Overlap(s); o {
	case "":
		return OverlapForbid, nil
	case OverlapForbid, OverlapAllow, OverlapReplace:
		return o, nil
	}
	return "", Errorf(Invalid, "there is no overlap %q", Clip(s, 40)).WithHint("use forbid, allow or replace")
}

// Limits of jobs.
const (
	MaxJobs           = 100 // of a stack
	MaxJobRuns        = 20  // kept of a job
	DefaultJobTimeout = time.Hour
	MaxJobTimeout     = 24 * time.Hour
	DefaultCatchUp    = time.Hour
	MaxCatchUp        = 24 * time.Hour
)

// Job is a command that a stack runs on a schedule, in a container of its own with the
// current release.
type Job struct {
	Name     ServiceName // the rule is that of services
	Schedule string
	Command  string // for the image's shell, as written
	Overlap  Overlap
	Timeout  time.Duration // after which a run is stopped; above 0
	CatchUp  time.Duration // how late a run may start that was missed; 0: a missed run is skipped
	As       ServiceName   // whose limits and config vars it gets; empty: none
	From     string        // the file that declares it; empty: added by hand
	By       KeyName       // who added it by hand
	Set      time.Time     // when it was added by hand
}

// NewJob returns a job with the defaults.
func NewJob(name ServiceName, schedule, command string) Job {
	return Job{Name: name, Schedule: schedule, Command: command, Overlap: OverlapForbid, Timeout: DefaultJobTimeout, CatchUp: DefaultCatchUp}
}

// Check returns what is wrong with the job, but for its schedule.
func (j Job) Check() error {
	if _, err := ParseServiceName(string(j.Name)); err != nil {
		return err
	}
	if _, err := ParseOverlap(string(j.Overlap)); err != nil {
		return err
	}
	switch {
	case j.Name == Web || j.Name == ReleaseCommand || j.Name == "run":
		return Errorf(Invalid, "a job cannot be named %q", j.Name).WithHint("choose another name, such as cleanup")
	case j.Command == "":
		return Errorf(Invalid, "the job %s has no command", j.Name).WithHint(`ssh mesh cron:add %s "@hourly" -- COMMAND`, j.Name)
	case j.Timeout < time.Second || j.Timeout > MaxJobTimeout:
		return Errorf(Invalid, "the time limit of the job %s is %s; it must be 1s to %s", j.Name, j.Timeout, MaxJobTimeout).WithHint("--timeout 10m")
	case j.CatchUp < 0 || j.CatchUp > MaxCatchUp:
		return Errorf(Invalid, "the catch-up of the job %s is %s; it must be 0s to %s", j.Name, j.CatchUp, MaxCatchUp).WithHint("--catch-up 1h, or --catch-up 0s to skip what was missed")
	}
	return CheckCommand(j.Command)
}

// JobStatus is how far a run of a job is.
type JobStatus string

// The statuses. All but the first two are final.
const (
	JobStarting  JobStatus = "starting" // it is recorded; its container may not exist yet
	JobRunning   JobStatus = "running"
	JobSucceeded JobStatus = "succeeded"
	JobFailed    JobStatus = "failed"    // its command ended with another exit code than 0, or could not start
	JobTimedOut  JobStatus = "timed out" // it was stopped after its time limit
	JobStopped   JobStatus = "stopped"   // somebody stopped it, or a later run replaced it
	JobLost      JobStatus = "lost"      // mesh was killed before it started, or its container is gone
	JobSkipped   JobStatus = "skipped"   // it was due and did not start
)

// JobStatuses returns all statuses.
func JobStatuses() []JobStatus {
	return []JobStatus{JobStarting, JobRunning, JobSucceeded, JobFailed, JobTimedOut, JobStopped, JobLost, JobSkipped}
}

// Open reports whether the run has not ended.
func (s JobStatus) Open() bool { return s == JobStarting || s == JobRunning }

// Bad reports whether people must hear about it.
func (s JobStatus) Bad() bool { return s == JobFailed || s == JobTimedOut || s == JobLost }

// JobRun is one run of a job.
type JobRun struct {
	Number   int       // counts from 1 for each job; that of its container, as in cleanup.7
	Due      time.Time // zero: somebody started it by hand
	By       KeyName   // who started it by hand
	Release  ReleaseNumber
	Status   JobStatus
	Started  time.Time // when it was recorded; of a skipped one, the last time
	Ended    time.Time
	ExitCode int
	OOM      bool
	Reason   string // why it failed, was stopped or skipped
	Times    int    // of a skipped one: how often in a row
}

// Took returns how long the run took, or has taken so far.
func (r JobRun) Took(now time.Time) time.Duration {
	if r.Status == JobSkipped {
		return 0
	}
	if r.Ended.IsZero() {
		return now.Sub(r.Started)
	}
	return r.Ended.Sub(r.Started)
}

// Outcome returns how the run ended, in a few words.
func (r JobRun) Outcome() string {
	switch {
	case r.Status == JobFailed && r.Reason == "" && r.OOM:
		return fmt.Sprintf("exit %d, out of memory", r.ExitCode)
	case r.Status == JobFailed && r.Reason == "", r.Status == JobSucceeded:
		return fmt.Sprintf("exit %d", r.ExitCode)
	case r.Status == JobSkipped && r.Times > 1:
		return fmt.Sprintf("skipped %d times: %s", r.Times, r.Reason)
	case r.Reason != "":
		return fmt.Sprintf("%s: %s", r.Status, r.Reason)
	}
	return string(r.Status)
}

// JobRecord is what a stack remembers of a job. It outlives the releases that declare the
// job.
type JobRecord struct {
	Stack     StackName
	Name      ServiceName
	Hand      *Job // as added by hand; nil: only releases declare it
	Suspended bool
	Schedule  string    // that Due is about, with its time zone; empty: the job does not exist
	Due       time.Time // the last due time that is settled
	Last      int       // the number of the last run
	Runs      []JobRun  // the newest last
}

// Run returns a run by its number.
func (r *JobRecord) Run(n int) *JobRun {
	i := slices.IndexFunc(r.Runs, func(run JobRun) bool { return run.Number == n })
	if i < 0 {
		return nil
	}
	return &r.Runs[i]
}

// Open returns the runs that have not ended.
func (r JobRecord) Open() (open []JobRun) {
	for _, run := range r.Runs {
		if run.Status.Open() {
			open = append(open, run)
		}
	}
	return open
}

// Latest returns the last run that was not skipped, or nil.
func (r JobRecord) Latest() *JobRun {
	for i := len(r.Runs) - 1; i >= 0; i-- {
		if r.Runs[i].Status != JobSkipped {
			return &r.Runs[i]
		}
	}
	return nil
}

// Add adds a run with the next number, and returns it. The oldest runs that have ended are
// dropped beyond MaxJobRuns.
func (r *JobRecord) Add(run JobRun) JobRun {
	r.Last++
	run.Number = r.Last
	r.Runs = append(slices.Clone(r.Runs), run)
	for i := 0; len(r.Runs) > MaxJobRuns && i < len(r.Runs)-1; {
		if r.Runs[i].Status.Open() {
			i++
			continue
		}
		r.Runs = slices.Delete(r.Runs, i, i+1)
	}
	return run
}

// Skip records that the job was due and did not start. Skips in a row for the same reason
// are one run.
func (r *JobRecord) Skip(due, now time.Time, why string) {
	if n := len(r.Runs); n > 0 && r.Runs[n-1].Status == JobSkipped && r.Runs[n-1].Reason == why {
		r.Runs = slices.Clone(r.Runs)
		last := &r.Runs[n-1]
		last.Due, last.Started, last.Ended, last.Times = due, now, now, last.Times+1
		return
	}
	r.Add(JobRun{Due: due, Status: JobSkipped, Started: now, Ended: now, Reason: why, Times: 1})
}

// JobState is a job as people see it: what it is, and how it fares.
type JobState struct {
	Job
	Record JobRecord
	Gone   bool      // no job of this name exists any more; Job has only the name
	Next   time.Time // zero: it is not due by itself
	Why    string    // why it is not due: "suspended", "the stack is stopped"
	Notes  []string  // for people: an unreadable time zone, an overridden declaration
}

// JobFault is what is wrong with a job.
type JobFault struct {
	Stack StackName
	Name  ServiceName
	Text  string
}
