package command_test

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"mesh"
)

// fakeJobs keeps jobs in a list, and runs of them that end at once.
type fakeJobs struct{ all *[]mesh.JobState }

func (f fakeJobs) find(name mesh.ServiceName) *mesh.JobState {
	i := slices.IndexFunc(*f.all, func(s mesh.JobState) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &(*f.all)[i]
}

func (f fakeJobs) JobsOf(context.Context, mesh.StackName) ([]mesh.JobState, error) {
	return *f.all, nil
}

func (f fakeJobs) AddJob(_ context.Context, stack mesh.StackName, j mesh.Job) (bool, error) {
	if err := j.Check(); err != nil {
		return false, err
	}
	if s := f.find(j.Name); s != nil {
		s.Job = j
		return true, nil
	}
	*f.all = append(*f.all, mesh.JobState{Job: j, Record: mesh.JobRecord{Stack: stack, Name: j.Name}, Next: now.Add(time.Hour)})
	return false, nil
}

func (f fakeJobs) RemoveJob(_ context.Context, _ mesh.StackName, name mesh.ServiceName, _ mesh.KeyName) (string, error) {
	*f.all = slices.DeleteFunc(*f.all, func(s mesh.JobState) bool { return s.Name == name })
	return "", nil
}

func (f fakeJobs) SuspendJob(_ context.Context, _ mesh.StackName, name mesh.ServiceName, suspended bool, _ mesh.KeyName) (bool, error) {
	s := f.find(name)
	was := s.Record.Suspended
	s.Record.Suspended = suspended
	return was != suspended, nil
}

func (f fakeJobs) RunJob(_ context.Context, stack mesh.StackName, name mesh.ServiceName, by mesh.KeyName) (mesh.JobRun, func(context.Context) (mesh.JobRun, error), error) {
	s := f.find(name)
	if s == nil {
		return mesh.JobRun{}, nil, mesh.Errorf(mesh.NotFound, "%s has no job %q", stack, name)
	}
	run := s.Record.Add(mesh.JobRun{By: by, Release: 2, Status: mesh.JobFailed, ExitCode: 3, Started: now, Ended: now.Add(2 * time.Second)})
	return run, func(context.Context) (mesh.JobRun, error) { return run, nil }, nil
}

func (f fakeJobs) JobOutput(mesh.StackName, mesh.ServiceName, int) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("output\n")), nil
}

func TestCronAdd_Reads(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		`cron:add -a blog cleanup @hourly -- ./cleanup $A "b c"`:                        `cleanup|@hourly|./cleanup $A "b c"|forbid|1h0m0s|1h0m0s`,
		`cron:add -a blog cleanup @hourly ./cleanup -x`:                                 `cleanup|@hourly|./cleanup -x|forbid|1h0m0s|1h0m0s`,
		`cron:add -a blog cleanup @every 10m ./cleanup`:                                 `cleanup|@every 10m|./cleanup|forbid|1h0m0s|1h0m0s`,
		`cron:add -a blog cleanup 0 3 * * * -- ./cleanup`:                               `cleanup|0 3 * * *|./cleanup|forbid|1h0m0s|1h0m0s`,
		`cron:add -a blog cleanup "0 3 * * *" ./cleanup`:                                `cleanup|0 3 * * *|./cleanup|forbid|1h0m0s|1h0m0s`,
		`cron:add -a blog --overlap replace --timeout 5m cleanup @daily -- a`:           `cleanup|@daily|a|replace|5m0s|1h0m0s`,
		`cron:add -a blog cleanup 0 3 * * * --catch-up 0s --overlap allow -- a`:         `cleanup|0 3 * * *|a|allow|1h0m0s|0s`,
		`svc create -a blog -n cleanup --schedule "@hourly" -- ./cleanup $A "b c"`:      `cleanup|@hourly|./cleanup $A "b c"|forbid|1h0m0s|1h0m0s`,
		`svc:create -a blog --schedule TZ=UTC 0 3 * * * --name cleanup -- ./cleanup`:    `cleanup|TZ=UTC 0 3 * * *|./cleanup|forbid|1h0m0s|1h0m0s`,
		`service create -a blog -n cleanup --timeout 9m --schedule=@daily -- ./cleanup`: `cleanup|@daily|./cleanup|forbid|9m0s|1h0m0s`,
	} {
		f := full()
		if r := do(t, f, line); r.status != 0 || !strings.Contains(r.out, "added the job cleanup of blog; next at 2026-03-04T13:00:00Z") {
			t.Errorf("%s: %+v", line, r)
			continue
		}
		j := f.jobs[0].Job
		if got := strings.Join([]string{string(j.Name), j.Schedule, j.Command, string(j.Overlap), j.Timeout.String(), j.CatchUp.String()}, "|"); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

func TestCronAdd_Refuses(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"cron:add -a blog cleanup 0 3 * * * ./cleanup":               "a -- must be between",
		"cron:add -a blog cleanup @hourly --":                        "no command",
		"cron:add -a blog cleanup":                                   "needs NAME SCHEDULE",
		"cron:add -a blog Clean_up @hourly -- a":                     "is not a name for a job",
		"cron:add -a blog web @hourly -- a":                          "cannot be named",
		"cron:add -a blog cleanup @hourly --overlap maybe -- a":      `there is no overlap "maybe"`,
		"cron:add -a blog cleanup @hourly --timeout 25h -- a":        "must be 1s to 24h",
		"cron:add -a blog cleanup @hourly --timeout soon -- a":       "invalid argument",
		"cron:add -a blog cleanup @hourly --catch-up -1s -- a":       "must be 0s to",
		"cron:add -a blog cleanup @hourly --overlap allow more -- a": `"more" is neither`,
		"svc create -a blog --schedule @hourly -- a":                 "needs a name, a schedule",
		"svc create -a blog -n x --schedule -- a":                    "needs a name, a schedule",
		"svc create -a blog -n x --schedule @hourly":                 "needs a name, a schedule",
		"cron:info -a blog nothing":                                  `has no job "nothing"`,
		"cron:run -a blog nothing":                                   `has no job "nothing"`,
		"cron:logs -a blog nothing":                                  `has no job "nothing"`,
		"cron:suspend -a blog nothing":                               `has no job "nothing"`,
	} {
		f := full()
		if r := do(t, f, line); r.fault == nil || !strings.Contains(r.fault.Text, want) || len(f.jobs) > 0 {
			t.Errorf("%s: %+v, want %q", line, r, want)
		}
	}
}

func TestCron_Shows(t *testing.T) {
	t.Parallel()
	f := full()
	j := mesh.NewJob("cleanup", "@hourly", "./cleanup")
	j.From = "app.json"
	f.jobs = []mesh.JobState{{Job: j, Next: now.Add(time.Hour), Record: mesh.JobRecord{Name: "cleanup"}}}
	if r := do(t, f, "cron:run -a blog cleanup"); r.status != 3 || r.out != "output\n" || !strings.Contains(r.err, "cleanup.1: exit 3 after 2s") {
		t.Errorf("run: %+v", r)
	}
	f.jobs[0].Record.Skip(now, now, "cleanup.1 was still running")
	f.jobs[0].Record.Skip(now, now, "cleanup.1 was still running")
	r := do(t, f, "cron -a blog")
	for _, part := range []string{"cleanup", "@hourly", "2026-03-04T13:00:00Z", "skipped 2 times: cleanup.1 was still running", "app.json", "./cleanup"} {
		if !strings.Contains(r.out, part) {
			t.Errorf("no %q in %s", part, r.out)
		}
	}
	r = do(t, f, "cron:info -a blog cleanup")
	for _, part := range []string{"Timeout:   1h0m0s", "Next:      2026-03-04T13:00:00Z", "by laptop", "exit 3", "v2", "2s"} {
		if !strings.Contains(r.out, part) {
			t.Errorf("no %q in %s", part, r.out)
		}
	}
	r = do(t, f, "cron:info -a blog --json cleanup")
	for _, part := range []string{`"next": "2026-03-04T13:00:00Z"`, `"exit_code": 3`, `"seconds": 2`, `"times": 2`, `"from": "app.json"`} {
		if !strings.Contains(r.out, part) {
			t.Errorf("no %q in %s", part, r.out)
		}
	}
	if r := do(t, f, "cron:logs -a blog cleanup --run 9"); r.fault == nil || !strings.Contains(r.fault.Text, "cleanup.9 is not kept") {
		t.Errorf("logs: %+v", r)
	}
	if r := do(t, f, "cron:resume -a blog cleanup"); r.status != 0 || !strings.Contains(r.err, "not suspended") {
		t.Errorf("resume: %+v", r)
	}
	if r := do(t, f, "cron:suspend -a blog cleanup"); r.status != 0 || !f.jobs[0].Record.Suspended {
		t.Errorf("suspend: %+v", r)
	}
	reader := mesh.Key{Name: "ann", Role: mesh.RoleRead}
	for line, status := range map[string]int{"cron": 0, "cron:info cleanup": 0, "cron:logs cleanup": 0, "cron:run cleanup": 5, "cron:remove cleanup": 5, "cron:suspend cleanup": 5, "cron:add x @daily -- a": 5} {
		name, rest, _ := strings.Cut(line, " ")
		if r := do(t, f, name+" -a blog "+rest, as(reader)); (r.status == 0) != (status == 0) {
			t.Errorf("a reader, %s: %+v", line, r)
		}
	}
}
