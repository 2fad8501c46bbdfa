package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
	"mesh/atomicfile"
)

// bucketJobs is in the bucket of a stack, so that renames and removals take it along.
var bucketJobs = []byte("jobs")

// maxJobRecords is how many jobs a stack remembers, with those that no longer exist.
const maxJobRecords = 5 * mesh.MaxJobs

// jobForm has the fields of mesh.Job.
type jobForm struct {
	Name     string        `json:"name"`
	Schedule string        `json:"schedule"`
	Command  string        `json:"command"`
	Overlap  string        `json:"overlap,omitempty"`
	Timeout  time.Duration `json:"timeout_ns"`
	CatchUp  time.Duration `json:"catch_up_ns,omitempty"`
	As       string        `json:"as,omitempty"`
	From     string        `json:"from,omitempty"`
	By       string        `json:"by,omitempty"`
	Set      time.Time     `json:"set,omitzero"`
}

func storeJob(j mesh.Job) jobForm {
	return jobForm{
		Name: string(j.Name), Schedule: j.Schedule, Command: j.Command, Overlap: string(j.Overlap), Timeout: j.Timeout, CatchUp: j.CatchUp,
		As: string(j.As), From: j.From, By: string(j.By), Set: j.Set,
	}
}

func (f jobForm) job() mesh.Job {
	return mesh.Job{
		Name: mesh.ServiceName(f.Name), Schedule: f.Schedule, Command: f.Command, Overlap: mesh.Overlap(f.Overlap), Timeout: f.Timeout, CatchUp: f.CatchUp,
		As: mesh.ServiceName(f.As), From: f.From, By: mesh.KeyName(f.By), Set: f.Set,
	}
}

func storeJobs(jobs []mesh.Job) (out []jobForm) {
	for _, j := range jobs {
		out = append(out, storeJob(j))
	}
	return out
}

func readJobs(forms []jobForm) (out []mesh.Job) {
	for _, f := range forms {
		out = append(out, f.job())
	}
	return out
}

func (f jobForm) check() error {
	return checkOneOf("the overlap of a job", f.Overlap, mesh.OverlapForbid, mesh.OverlapAllow, mesh.OverlapReplace)
}

func checkJobs(forms []jobForm) (err error) {
	for _, f := range forms {
		err = errors.Join(err, f.check())
	}
	return err
}

// jobRecordForm is the stored form of mesh.JobRecord.
type jobRecordForm struct {
	V         int          `json:"v"`
	Name      string       `json:"name"`
	Hand      *jobForm     `json:"hand,omitempty"`
	Suspended bool         `json:"suspended,omitempty"`
	Schedule  string       `json:"schedule,omitempty"`
	Due       time.Time    `json:"due,omitzero"`
	Last      int          `json:"last_run,omitempty"`
	Runs      []jobRunForm `json:"runs,omitempty"`
}

type jobRunForm struct {
	Number   int       `json:"number"`
	Due      time.Time `json:"due,omitzero"`
	By       string    `json:"by,omitempty"`
	Release  int       `json:"release,omitempty"`
	Status   string    `json:"status"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended,omitzero"`
	ExitCode int       `json:"exit_code,omitempty"`
	OOM      bool      `json:"oom,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Times    int       `json:"times,omitempty"`
}

func (f *jobRecordForm) check(key []byte) error {
	err := errors.Join(checkVersion(f.V), checkKey(key, f.Name))
	if f.Hand != nil {
		err = errors.Join(err, f.Hand.check())
	}
	for _, r := range f.Runs {
		err = errors.Join(err, checkOneOf("the status of a run", r.Status, mesh.JobStatuses()...))
	}
	return err
}

func jobDamage(stack mesh.StackName, name []byte) string {
	return fmt.Sprintf("the job %s of %s", clip(name), stack)
}

func readJobRecord(stack mesh.StackName, key, data []byte) (mesh.JobRecord, error) {
	var f jobRecordForm
	if err := parse(key, data, &f); err != nil {
		return mesh.JobRecord{}, damagedRecord(jobDamage(stack, key), err)
	}
	r := mesh.JobRecord{Stack: stack, Name: mesh.ServiceName(f.Name), Suspended: f.Suspended, Schedule: f.Schedule, Due: f.Due, Last: f.Last}
	if f.Hand != nil {
		hand := f.Hand.job()
		r.Hand = &hand
	}
	for _, run := range f.Runs {
		r.Runs = append(r.Runs, mesh.JobRun{
			Number: run.Number, Due: run.Due, By: mesh.KeyName(run.By), Release: mesh.ReleaseNumber(run.Release), Status: mesh.JobStatus(run.Status),
			Started: run.Started, Ended: run.Ended, ExitCode: run.ExitCode, OOM: run.OOM, Reason: run.Reason, Times: run.Times,
		})
	}
	return r, nil
}

func storeJobRecord(r mesh.JobRecord) *jobRecordForm {
	f := &jobRecordForm{V: 1, Name: string(r.Name), Suspended: r.Suspended, Schedule: r.Schedule, Due: r.Due, Last: r.Last}
	if r.Hand != nil {
		hand := storeJob(*r.Hand)
		f.Hand = &hand
	}
	for _, run := range r.Runs {
		f.Runs = append(f.Runs, jobRunForm{
			Number: run.Number, Due: run.Due, By: string(run.By), Release: int(run.Release), Status: string(run.Status),
			Started: run.Started, Ended: run.Ended, ExitCode: run.ExitCode, OOM: run.OOM, Reason: run.Reason, Times: run.Times,
		})
	}
	return f
}

// Jobs returns what is remembered of the jobs of a stack by name, or of all stacks if it is
// empty, except damaged records.
func (s *Store) Jobs(ctx context.Context, stack mesh.StackName) (out []mesh.JobRecord, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		of := func(k []byte) error {
			jobs := tx.Bucket(bucketStacks).Bucket(k).Bucket(bucketJobs)
			if jobs == nil {
				return nil
			}
			return jobs.ForEach(func(name, data []byte) error {
				if r, err := readJobRecord(mesh.StackName(k), name, data); err == nil {
					out = append(out, r)
				}
				return nil
			})
		}
		if stack == "" {
			return tx.Bucket(bucketStacks).ForEachBucket(of)
		}
		if _, err := stackBucket(tx, stack); err != nil {
			return err
		}
		return of([]byte(stack))
	})
	return out, err
}

// UpdateJob changes what is remembered of a job with fn, which may run more than once, and
// returns it. fn gets a new record if there is none. The error is of kind Damaged for a
// record that cannot be read. Damage elsewhere in the stack does not matter: its jobs run on.
func (s *Store) UpdateJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName, fn func(*mesh.JobRecord) error) (r mesh.JobRecord, err error) {
	err = s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := stackBucket(tx, stack)
		if err != nil {
			return err
		}
		jobs, err := b.CreateBucketIfNotExists(bucketJobs)
		if err != nil {
			return err
		}
		key := []byte(name)
		r = mesh.JobRecord{Stack: stack, Name: name}
		if data := jobs.Get(key); data != nil {
			if r, err = readJobRecord(stack, key, data); err != nil {
				return err
			}
		} else if jobs.Stats().KeyN >= maxJobRecords {
			return mesh.Errorf(mesh.Conflict, "%s remembers %d jobs, which is the limit", stack, maxJobRecords).WithHint("remove one that no longer exists: ssh mesh cron:remove -a %s NAME", stack)
		}
		if err := fn(&r); err != nil {
			return err
		}
		return put(jobs, key, storeJobRecord(r))
	})
	return r, err
}

// RemoveJob forgets a job with its runs and their output. A damaged record can be removed as
// well. If there is none, nothing happens.
func (s *Store) RemoveJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName) error {
	err := s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := stackBucket(tx, stack)
		if err != nil {
			return err
		}
		if jobs := b.Bucket(bucketJobs); jobs != nil {
			return jobs.Delete([]byte(name))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.dropJobOutput(stack, name, nil)
}

const jobFile = "job-"

func (s *Store) jobOutputPath(stack mesh.StackName, job mesh.ServiceName, n int) string {
	return filepath.Join(s.outputDir(stack), fmt.Sprintf("%s%s-%d.log", jobFile, job, n))
}

// jobOfFile reads the name of a file with the output of a run.
func jobOfFile(file string) (job mesh.ServiceName, n int, ok bool) {
	rest, ours := strings.CutPrefix(file, jobFile)
	rest, log := strings.CutSuffix(rest, ".log")
	i := strings.LastIndexByte(rest, '-')
	if !ours || !log || i < 1 {
		return "", 0, false
	}
	_, err := fmt.Sscanf(rest[i+1:], "%d", &n)
	return mesh.ServiceName(rest[:i]), n, err == nil
}

// KeepJobOutput keeps the output of a run, and drops that of other runs which are not in
// keep. It is on disk when it returns.
func (s *Store) KeepJobOutput(ctx context.Context, stack mesh.StackName, job mesh.ServiceName, n int, text []byte, keep []int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir := s.outputDir(stack)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return noRoom(err)
	}
	if err := atomicfile.Write(s.jobOutputPath(stack, job, n), text, 0o600); err != nil {
		return noRoom(err)
	}
	return s.dropJobOutput(stack, job, append(slices.Clone(keep), n))
}

// dropJobOutput removes the output of the runs of a job that are not in keep.
func (s *Store) dropJobOutput(stack mesh.StackName, job mesh.ServiceName, keep []int) error {
	dir := s.outputDir(stack)
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, f := range files {
		if of, n, ok := jobOfFile(f.Name()); ok && of == job && !slices.Contains(keep, n) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, f.Name())))
		}
	}
	return err
}

// JobOutput opens the kept output of a run. It is empty for a run that printed nothing, or
// has not ended.
func (s *Store) JobOutput(stack mesh.StackName, job mesh.ServiceName, n int) (io.ReadCloser, error) {
	f, err := os.Open(s.jobOutputPath(stack, job, n))
	if errors.Is(err, os.ErrNotExist) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return f, err
}
