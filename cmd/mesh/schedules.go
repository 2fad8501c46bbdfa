package main

import (
	"context"
	"strings"
	"time"

	"mesh"
	"mesh/cron"
	"mesh/deploy"
)

// What the entries of schedules are called: "backup mesh", "job shop cleanup".
const (
	backupEntry = "backup "
	jobEntry    = "job "
)

func backupOfEntry(name string) mesh.BackupSubject {
	return mesh.BackupSubject(strings.TrimPrefix(name, backupEntry))
}

// jobOfEntry reads the name of an entry. ok is false if it is not a job's.
func jobOfEntry(name string) (stack mesh.StackName, job mesh.ServiceName, ok bool) {
	rest, ok := strings.CutPrefix(name, jobEntry)
	a, b, _ := strings.Cut(rest, " ")
	return mesh.StackName(a), mesh.ServiceName(b), ok
}

// newSchedules returns the loop that starts what is due: backups and jobs.
func (c *control) newSchedules() *cron.Loop {
	return cron.New(cron.Options{
		Logger: c.log, Now: c.now,
		Entries: func(ctx context.Context) ([]cron.Entry, error) {
			out, err := c.backupEntries(ctx)
			if err != nil {
				return nil, err
			}
			jobs, err := c.deployer.DueJobs(ctx)
			if err != nil {
				return nil, err
			}
			return append(out, c.jobEntries(jobs)...), nil
		},
		Start: func(ctx context.Context, name string, due time.Time) error {
			if stack, job, ok := jobOfEntry(name); ok {
				return c.deployer.StartJob(ctx, stack, job, due)
			}
			return c.deployer.StartBackup(ctx, backupOfEntry(name), due)
		},
		Skip: func(ctx context.Context, name string, due time.Time) error {
			if stack, job, ok := jobOfEntry(name); ok {
				return c.deployer.SkipJob(ctx, stack, job, due)
			}
			return c.deployer.SkipBackup(ctx, backupOfEntry(name), due)
		},
	})
}

// backupEntries returns the schedules of backups.
func (c *control) backupEntries(ctx context.Context) (out []cron.Entry, err error) {
	plans, err := c.store.BackupPlans(ctx)
	for _, p := range plans {
		s, err := cron.Parse(p.Schedule)
		if err != nil { // of a later mesh, say
			c.log.Error("a schedule cannot be read: nothing is started on it", "what", backupEntry+string(p.Subject), "err", err)
			continue
		}
		out = append(out, cron.Entry{Name: backupEntry + string(p.Subject), Schedule: s, Last: p.State.Due})
	}
	return out, err
}

// jobEntries returns the schedules of jobs.
func (c *control) jobEntries(jobs []deploy.DueJob) (out []cron.Entry) {
	for _, j := range jobs {
		name := jobEntry + string(j.Stack) + " " + string(j.Name)
		s, err := cron.ParseEvery(j.Schedule, cron.EachStart)
		if err != nil {
			c.log.Error("a schedule cannot be read: nothing is started on it", "what", name, "err", err)
			continue
		}
		out = append(out, cron.Entry{Name: name, Schedule: s, Last: j.Last, MostLate: max(j.CatchUp, time.Nanosecond)})
	}
	return out
}

// runSchedules starts what is due until ctx ends. What runs by then goes on.
func (c *control) runSchedules(ctx context.Context) error {
	c.deployer.SettleBackups(ctx)
	c.deployer.SettleJobs(ctx)
	return c.schedules.Run(ctx)
}

// jobOptions are how the deployer runs jobs.
func (c *control) jobOptions() deploy.JobOptions {
	return deploy.JobOptions{
		Times:    jobTimes{},
		OnChange: func() { c.schedules.Changed() }, // they exist when the deployer is used
		OnEnded:  func() { c.watcher.JobsChanged() },
	}
}

// jobTimes reads the schedules of jobs for the deployer.
type jobTimes struct{}

func (jobTimes) Check(text string) error {
	_, err := cron.ParseEvery(text, cron.EachStart)
	return err
}

func (jobTimes) Next(text string, t time.Time) time.Time {
	s, err := cron.ParseEvery(text, cron.EachStart)
	if err != nil {
		return time.Time{}
	}
	return s.Next(t)
}

func (jobTimes) In(text, zone string) (string, bool) { return cron.InZone(text, zone) }
