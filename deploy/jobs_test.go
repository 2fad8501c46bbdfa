package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
	"mesh/cron"
	"mesh/deploy"
	"mesh/deploy/deploytest"
)

// jobTimes reads schedules as cmd/mesh does.
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

// withJobs starts a deployer with the loop that starts jobs, as a server does. stop ends
// both.
func withJobs(t *testing.T, w *deploytest.World) (d *deploy.Deployer, stop func()) {
	t.Helper()
	var loop *cron.Loop
	w.Options.Jobs = deploy.JobOptions{Times: jobTimes{}, OnChange: func() { loop.Changed() }}
	w.Options.OnEnded = func(mesh.Deployment) { loop.Changed() }
	loop = cron.New(cron.Options{
		Entries: func(ctx context.Context) (out []cron.Entry, err error) {
			jobs, err := d.DueJobs(ctx)
			for _, j := range jobs {
				s, err := cron.ParseEvery(j.Schedule, cron.EachStart)
				if err != nil {
					t.Error(err)
				}
				out = append(out, cron.Entry{Name: string(j.Stack+" ") + string(j.Name), Schedule: s, Last: j.Last, MostLate: max(j.CatchUp, 1)})
			}
			return out, err
		},
		Start: func(ctx context.Context, name string, due time.Time) error {
			stack, job, _ := strings.Cut(name, " ")
			return d.StartJob(ctx, mesh.StackName(stack), mesh.ServiceName(job), due)
		},
		Skip: func(ctx context.Context, name string, due time.Time) error {
			stack, job, _ := strings.Cut(name, " ")
			return d.SkipJob(ctx, mesh.StackName(stack), mesh.ServiceName(job), due)
		},
	})
	d, end := w.Start()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d.SettleJobs(ctx)
	go func() { done <- loop.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		end()
	})
	t.Cleanup(stop)
	pass(time.Millisecond)
	return d, stop
}

func addJob(t *testing.T, d *deploy.Deployer, name mesh.ServiceName, schedule string, change func(*mesh.Job)) {
	t.Helper()
	j := mesh.NewJob(name, schedule, "./"+string(name))
	j.By = "ann"
	if change != nil {
		change(&j)
	}
	if _, err := d.AddJob(t.Context(), "blog", j); err != nil {
		t.Fatal(err)
	}
	pass(time.Millisecond)
}

// runsOf returns the runs of a job: "1 succeeded, 2 running".
func runsOf(t *testing.T, w *deploytest.World, name mesh.ServiceName) string {
	t.Helper()
	all, err := w.Store.Jobs(t.Context(), "blog")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, rec := range all {
		if rec.Name == name {
			for _, run := range rec.Runs {
				text := fmt.Sprintf("%d %s", run.Number, run.Status)
				if run.Status == mesh.JobSkipped {
					text += fmt.Sprintf(" x%d", run.Times)
				}
				out = append(out, text)
			}
		}
	}
	return strings.Join(out, ", ")
}

func wantRuns(t *testing.T, w *deploytest.World, name mesh.ServiceName, want string) {
	t.Helper()
	if got := runsOf(t, w, name); got != want {
		t.Errorf("after %s: runs of %s: %q, want %q", time.Now().UTC().Format("15:04:05"), name, got, want)
	}
}

// running returns the names of the runs that the engine has.
func running(t *testing.T, w *deploytest.World) string {
	t.Helper()
	runs, err := w.Runner.Detached(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range runs {
		out = append(out, r.Name)
	}
	return strings.Join(out, " ")
}

// Jobs start at their times and no others; exit, output and duration of a run are kept.
func TestJobs_RunAtTheirTimes(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		mustPush(t, w, d, app)
		addJob(t, d, "tidy", "TZ=UTC */10 * * * *", nil) // it is midnight in a bubble
		pass(10*time.Minute - time.Second)
		wantRuns(t, w, "tidy", "")
		pass(time.Second)
		wantRuns(t, w, "tidy", "1 running")
		if got := running(t, w); got != "tidy.1" {
			t.Errorf("running %q", got)
		}
		pass(90 * time.Second)
		w.Runner.EndRun("tidy.1", 0)
		pass(time.Second)
		wantRuns(t, w, "tidy", "1 succeeded")
		if got := running(t, w); got != "" {
			t.Errorf("left %q", got)
		}
		all, err := d.JobsOf(t.Context(), "blog")
		if err != nil || len(all) != 1 || all[0].Record.Runs[0].Took(time.Now()).Round(time.Second) != 90*time.Second || all[0].Record.Runs[0].Release != 1 {
			t.Errorf("%v, %+v", err, all)
		}
		r, err := d.JobOutput("blog", "tidy", 1)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		_ = r.Close()
		if string(text) != "output of tidy.1\n" {
			t.Errorf("output %q", text)
		}
		// A failure is a fault until a later run succeeds.
		pass(9 * time.Minute)
		w.Runner.EndRun("tidy.2", 3)
		pass(time.Second)
		faults, _ := d.JobFaults(t.Context())
		if len(faults) != 1 || !strings.Contains(faults[0].Text, "tidy.2 failed: exit 3") {
			t.Errorf("faults %v", faults)
		}
		pass(10 * time.Minute)
		w.Runner.EndRun("tidy.3", 0)
		pass(time.Second)
		if faults, _ := d.JobFaults(t.Context()); len(faults) > 0 {
			t.Errorf("faults %v", faults)
		}
		wantRuns(t, w, "tidy", "1 succeeded, 2 failed, 3 succeeded")
	})
}

// Only the last runs are kept, with their output.
func TestJobs_KeepTwenty(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		mustPush(t, w, d, app)
		addJob(t, d, "tidy", "* * * * *", nil)
		for i := range 25 {
			pass(time.Minute)
			w.Runner.EndRun(fmt.Sprintf("tidy.%d", i+1), 0)
			pass(time.Second)
		}
		all, _ := w.Store.Jobs(t.Context(), "blog")
		if runs := all[0].Runs; len(runs) != 20 || runs[0].Number != 6 || runs[19].Number != 25 {
			t.Errorf("%d runs: %+v", len(runs), runs)
		}
		for n, want := range map[int]string{5: "", 6: "output of tidy.6\n", 25: "output of tidy.25\n"} {
			r, err := d.JobOutput("blog", "tidy", n)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(r)
			_ = r.Close()
			if string(text) != want {
				t.Errorf("output of %d: %q", n, text)
			}
		}
	})
}

func TestJobs_Overlap(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		mustPush(t, w, d, app)
		for name, o := range map[mesh.ServiceName]mesh.Overlap{"never": mesh.OverlapForbid, "both": mesh.OverlapAllow, "fresh": mesh.OverlapReplace} {
			addJob(t, d, name, "TZ=UTC */10 * * * *", func(j *mesh.Job) { j.Overlap = o })
		}
		pass(31 * time.Minute)
		wantRuns(t, w, "never", "1 running, 2 skipped x2")
		wantRuns(t, w, "both", "1 running, 2 running, 3 running")
		wantRuns(t, w, "fresh", "1 stopped, 2 stopped, 3 running")
		all, _ := d.JobsOf(t.Context(), "blog")
		for _, s := range all {
			if s.Name == "never" && s.Record.Runs[1].Reason != "never.1 was still running" {
				t.Errorf("%+v", s.Record.Runs)
			}
		}
		if _, _, err := d.RunJob(t.Context(), "blog", "never", "ann"); !errors.Is(err, mesh.Conflict) {
			t.Errorf("by hand: %v", err)
		}
		// The time limit ends them all.
		pass(40 * time.Minute)
		if got := runsOf(t, w, "never"); !strings.HasPrefix(got, "1 timed out, ") {
			t.Errorf("never: %s", got)
		}
		if got := runsOf(t, w, "both"); !strings.HasPrefix(got, "1 timed out, 2 running") {
			t.Errorf("both: %s", got)
		}
	})
}

// What was missed while mesh was down is made up once, if it is not too late.
func TestJobs_CatchUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := withJobs(t, w)
		mustPush(t, w, d, app)
		addJob(t, d, "often", "TZ=UTC */10 * * * *", nil)
		addJob(t, d, "rare", "TZ=UTC 0 1 * * *", nil)
		addJob(t, d, "never", "TZ=UTC */10 * * * *", func(j *mesh.Job) { j.CatchUp = 0 })
		stop()
		pass(2*time.Hour + 5*time.Minute) // often was due twelve times, rare an hour and five minutes ago
		_, stop = withJobs(t, w)
		wantRuns(t, w, "often", "1 running")
		wantRuns(t, w, "rare", "1 skipped x1")
		wantRuns(t, w, "never", "1 skipped x1")
		pass(time.Minute)
		wantRuns(t, w, "often", "1 running")
		w.Runner.EndRun("often.1", 0)
		stop()
		pass(23*time.Hour + 30*time.Minute) // rare was due 36 minutes ago
		_, _ = withJobs(t, w)
		wantRuns(t, w, "rare", "1 skipped x1, 2 running")
	})
}

// Killed at each step, a due time starts at most once; a run that had begun is adopted.
func TestJobs_Killed(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := withJobs(t, w)
		mustPush(t, w, d, app)
		addJob(t, d, "tidy", "TZ=UTC */10 * * * *", nil)
		addJob(t, d, "slow", "TZ=UTC */10 * * * *", nil)
		addJob(t, d, "born", "TZ=UTC */10 * * * *", nil)
		pass(10 * time.Minute)
		stop()
		// The engine has what a kill would leave: nothing, a run, and a container that was
		// created and not started.
		runs, _ := w.Runner.Detached(t.Context(), "")
		for _, r := range runs {
			if r.Job == "tidy" {
				w.Runner.Vanish(r.ID)
			}
		}
		w.Runner.LeaveUnborn("born.1")
		for _, name := range []mesh.ServiceName{"tidy", "born"} {
			if _, err := w.Store.UpdateJob(t.Context(), "blog", name, func(rec *mesh.JobRecord) error {
				rec.Runs[0].Status = mesh.JobStarting
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		pass(2 * time.Minute)
		d, stop = withJobs(t, w)
		wantRuns(t, w, "tidy", "1 lost")
		wantRuns(t, w, "born", "1 lost")
		wantRuns(t, w, "slow", "1 running")
		if got := running(t, w); got != "slow.1" {
			t.Errorf("running %q", got)
		}
		faults, _ := d.JobFaults(t.Context())
		if len(faults) != 2 {
			t.Errorf("faults %v", faults)
		}
		// It ends while mesh is down: its exit and duration are known all the same.
		stop()
		pass(time.Minute)
		w.Runner.EndRun("slow.1", 4)
		pass(time.Minute)
		d, stop = withJobs(t, w)
		wantRuns(t, w, "slow", "1 failed")
		all, _ := d.JobsOf(t.Context(), "blog")
		for _, s := range all {
			if s.Name == "slow" && (s.Record.Runs[0].ExitCode != 4 || s.Record.Runs[0].Took(time.Now()).Round(time.Minute) != 3*time.Minute) {
				t.Errorf("%+v", s.Record.Runs)
			}
		}
		// A container that a process could not remove after the record is removed.
		if got := running(t, w); got != "" {
			t.Errorf("left %q", got)
		}
		// The time limit holds across processes.
		pass(6 * time.Minute)
		wantRuns(t, w, "slow", "1 failed, 2 running")
		stop()
		pass(3 * time.Hour)
		_, _ = withJobs(t, w)
		pass(time.Minute)
		if got := runsOf(t, w, "slow"); !strings.HasPrefix(got, "1 failed, 2 timed out") {
			t.Errorf("slow: %s", got)
		}
	})
}

// If the engine does not answer, a run fails, and is not repeated; the end of one that runs is
// found out later.
func TestJobs_EngineAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		mustPush(t, w, d, app)
		addJob(t, d, "tidy", "TZ=UTC */10 * * * *", nil)
		pass(10 * time.Minute)
		w.Runner.SetAway(true)
		w.Runner.EndRun("tidy.1", 0)
		pass(5 * time.Minute)
		wantRuns(t, w, "tidy", "1 running")
		w.Runner.SetAway(false)
		pass(10 * time.Second)
		wantRuns(t, w, "tidy", "1 succeeded")
		w.Runner.SetAway(true)
		pass(5 * time.Minute)
		wantRuns(t, w, "tidy", "1 succeeded, 2 failed")
		w.Runner.SetAway(false)
		pass(4 * time.Minute)
		wantRuns(t, w, "tidy", "1 succeeded, 2 failed")
	})
}

// Declared jobs come and go with their release, hand-made ones win, and a suspension holds
// for the name. Nothing is made up from before a release.
func TestJobs_BelongToReleases(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		mustPush(t, w, d, app)
		pass(5*time.Minute - 2*time.Millisecond)
		with := map[string]string{"Dockerfile": "FROM scratch\n", "app.json": `{"cron": [{"name": "report", "command": "./report", "schedule": "TZ=UTC */4 * * * *"}]}`}
		mustPush(t, w, d, with)
		pass(time.Second)
		wantRuns(t, w, "report", "") // due a minute before its release
		pass(3 * time.Minute)
		wantRuns(t, w, "report", "1 running")
		w.Runner.EndRun("report.1", 0)
		if err := d.Rollback(t.Context(), "blog", "ann", 1, io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(30 * time.Minute)
		wantRuns(t, w, "report", "1 succeeded")
		if _, _, err := d.RunJob(t.Context(), "blog", "report", "ann"); !errors.Is(err, mesh.NotFound) {
			t.Errorf("run of a job that is gone: %v", err)
		}
		if err := d.Rollback(t.Context(), "blog", "ann", 2, io.Discard); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		wantRuns(t, w, "report", "1 succeeded") // not made up
		pass(4 * time.Minute)
		wantRuns(t, w, "report", "1 succeeded, 2 running")
		w.Runner.EndRun("report.2", 0)
		if _, err := d.SuspendJob(t.Context(), "blog", "report", true, "ann"); err != nil {
			t.Fatal(err)
		}
		mustPush(t, w, d, map[string]string{"Dockerfile": "FROM scratch\n", "again": "x", "app.json": with["app.json"]})
		pass(30 * time.Minute)
		wantRuns(t, w, "report", "1 succeeded, 2 succeeded")
		if _, err := d.SuspendJob(t.Context(), "blog", "report", false, "ann"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		wantRuns(t, w, "report", "1 succeeded, 2 succeeded")
		if _, err := d.RemoveJob(t.Context(), "blog", "report", "ann"); !errors.Is(err, mesh.Conflict) {
			t.Errorf("removed: %v", err)
		}
		addJob(t, d, "report", "TZ=UTC @daily", nil)
		pass(time.Hour)
		wantRuns(t, w, "report", "1 succeeded, 2 succeeded")
		if from, err := d.RemoveJob(t.Context(), "blog", "report", "ann"); err != nil || from != "app.json" {
			t.Errorf("removed: %q, %v", from, err)
		}
		pass(time.Second)
		wantRuns(t, w, "report", "1 succeeded, 2 succeeded")
		pass(4 * time.Minute)
		wantRuns(t, w, "report", "1 succeeded, 2 succeeded, 3 running")
		// A schedule that never comes refuses the push before the build.
		out, err := push(t, w, d, map[string]string{"Dockerfile": "FROM scratch\n", "mesh.toml": "[cron.x]\nschedule = \"0 0 30 2 *\"\ncommand = \"./x\"\n"})
		if err == nil || !strings.Contains(err.Error(), `mesh.toml: the job x: the schedule "0 0 30 2 *" never comes`) || strings.Contains(out, "Building") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// A stopped stack runs no jobs, and says so; one in maintenance or locked does.
func TestJobs_StoppedStack(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		mustPush(t, w, d, app)
		addJob(t, d, "tidy", "TZ=UTC */10 * * * *", nil)
		if _, err := w.Store.UpdateStack(t.Context(), "blog", func(s *mesh.Stack) error {
			s.Stopped = true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		pass(25 * time.Minute)
		wantRuns(t, w, "tidy", "1 skipped x2")
		all, _ := d.JobsOf(t.Context(), "blog")
		if all[0].Why != "the stack is stopped" || !all[0].Next.IsZero() {
			t.Errorf("%+v", all[0])
		}
		if _, err := w.Store.UpdateStack(t.Context(), "blog", func(s *mesh.Stack) error {
			s.Stopped, s.Maintained, s.Lock = false, true, &mesh.Lock{By: "ann", Since: time.Now()}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Minute)
		wantRuns(t, w, "tidy", "1 skipped x2, 2 running")
	})
}

// What production does on a clock, a preview of it does only when it is told to.
func TestJobs_OfAPreview(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		files := map[string]string{"Dockerfile": "FROM scratch\n", "mesh.toml": "[cron.mail]\nschedule = \"TZ=UTC */10 * * * *\"\ncommand = \"./mail\"\n"}
		mustPush(t, w, d, files)
		setBlog(t, d, "previews=true")
		if out, err := pushBranch(t, w, d, "x", files); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		pass(25 * time.Minute)
		for stack, want := range map[mesh.StackName]string{"blog": "", "blog--x": "suspended"} {
			all, err := d.JobsOf(t.Context(), stack)
			if err != nil || len(all) != 1 || all[0].Why != want || (len(all[0].Record.Runs) > 0) != (want == "") {
				t.Errorf("%s: %+v, %v", stack, all, err)
			}
		}
		if _, err := d.SuspendJob(t.Context(), "blog--x", "mail", false, "ann"); err != nil {
			t.Fatal(err)
		}
		if out, err := pushBranch(t, w, d, "x", files); err != nil { // which suspends it no more
			t.Fatalf("%v\n%s", err, out)
		}
		pass(25 * time.Minute)
		if all, err := d.JobsOf(t.Context(), "blog--x"); err != nil || all[0].Why != "" || len(all[0].Record.Runs) == 0 {
			t.Errorf("resumed: %+v, %v", all, err)
		}
	})
}

// The config var TZ is the zone of schedules that name none. A change of it makes nothing up.
func TestJobs_TimeZone(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		mustPush(t, w, d, app)
		set := func(zone string) {
			t.Helper()
			if _, err := d.SetConfig(t.Context(), "blog", "ann", mesh.ConfigChange{Set: mesh.Config{"TZ": mesh.NewSecret(zone)}}, io.Discard); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		set("Asia/Tokyo")
		addJob(t, d, "tidy", "30 9 * * *", nil) // 00:30 UTC
		addJob(t, d, "own", "TZ=UTC 30 9 * * *", nil)
		all, _ := d.JobsOf(t.Context(), "blog")
		for i, want := range []string{"09:30", "00:30"} {
			if got := all[i].Next.UTC().Format("15:04"); got != want {
				t.Errorf("%s: %s, want %s", all[i].Name, got, want)
			}
		}
		pass(20 * time.Minute)
		set("Asia/Kolkata") // 09:30 is at 04:00 UTC
		pass(15 * time.Minute)
		wantRuns(t, w, "tidy", "")
		pass(3*time.Hour + 30*time.Minute)
		wantRuns(t, w, "tidy", "1 running")
		set("Asia/Tokyo")
		wantRuns(t, w, "tidy", "1 running")
	})
}

func TestJobs_Limits(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		mustPush(t, w, d, map[string]string{"Procfile": "web: ./serve\nworker: ./work"})
		j := mesh.NewJob("worker", "@daily", "./x")
		if _, err := d.AddJob(t.Context(), "blog", j); !errors.Is(err, mesh.Conflict) {
			t.Errorf("the name of a service: %v", err)
		}
		for i := range mesh.MaxJobs {
			j.Name = mesh.ServiceName(fmt.Sprintf("job%d", i))
			if _, err := d.AddJob(t.Context(), "blog", j); err != nil {
				t.Fatal(err)
			}
		}
		j.Name = "more"
		if _, err := d.AddJob(t.Context(), "blog", j); !errors.Is(err, mesh.Conflict) {
			t.Errorf("more than the limit: %v", err)
		}
		j.Name = "job3"
		if changed, err := d.AddJob(t.Context(), "blog", j); err != nil || !changed {
			t.Errorf("a change at the limit: %v, %v", changed, err)
		}
	})
}

// A stack is destroyed with the run that is just starting: nothing is left of it.
func TestJobs_DestroyedWhileStarting(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		mustPush(t, w, d, app)
		addJob(t, d, "tidy", "@daily", nil)
		if _, _, err := d.RunJob(t.Context(), "blog", "tidy", "ann"); err != nil {
			t.Fatal(err)
		}
		if err := d.DestroyStack(t.Context(), "blog", "ann"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if _, _, err := d.RunJob(t.Context(), "blog", "tidy", "ann"); !errors.Is(err, mesh.NoStack) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// Two at once start one run; a stop by hand keeps the record.
func TestRunJob_TwoAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := withJobs(t, w)
		mustPush(t, w, d, app)
		addJob(t, d, "tidy", "@daily", nil)
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				_, _, err := d.RunJob(t.Context(), "blog", "tidy", "ann")
				errs <- err
			}()
		}
		if a, b := <-errs, <-errs; (a == nil) == (b == nil) {
			t.Errorf("%v, %v", a, b)
		}
		pass(time.Second)
		if got := running(t, w); got != "tidy.1" {
			t.Errorf("running %q", got)
		}
		if err := d.StopRun(t.Context(), "blog", "tidy.1"); err != nil {
			t.Fatal(err)
		}
		wantRuns(t, w, "tidy", "1 stopped")
		if faults, _ := d.JobFaults(t.Context()); len(faults) > 0 {
			t.Errorf("faults %v", faults)
		}
		// Removed while it runs: the run goes on, and leaves no record.
		if _, _, err := d.RunJob(t.Context(), "blog", "tidy", "ann"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if _, err := d.RemoveJob(t.Context(), "blog", "tidy", "ann"); err != nil {
			t.Fatal(err)
		}
		w.Runner.EndRun("tidy.2", 0)
		pass(time.Second)
		wantRuns(t, w, "tidy", "")
		if got := running(t, w); got != "" {
			t.Errorf("left %q", got)
		}
	})
}

// Whoever waits for a run when mesh stops hears that it goes on.
func TestRunJob_WaitEndsWithMesh(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := withJobs(t, w)
		mustPush(t, w, d, app)
		addJob(t, d, "tidy", "@daily", nil)
		_, wait, err := d.RunJob(t.Context(), "blog", "tidy", "ann")
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		stop()
		if _, err := wait(t.Context()); !errors.Is(err, mesh.Unavailable) || !strings.Contains(err.Error(), "tidy.1 goes on") {
			t.Errorf("waited: %v", err)
		}
		_, _ = withJobs(t, w)
		wantRuns(t, w, "tidy", "1 running")
		w.Runner.EndRun("tidy.1", 0)
		pass(time.Second)
		wantRuns(t, w, "tidy", "1 succeeded")
	})
}

// A replacement that waits for the old run's end when mesh stops is taken back, and made up.
func TestJobs_ReplacementIsTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, stop := withJobs(t, w)
		mustPush(t, w, d, app)
		addJob(t, d, "fresh", "TZ=UTC */10 * * * *", func(j *mesh.Job) { j.Overlap = mesh.OverlapReplace })
		pass(10 * time.Minute)
		wantRuns(t, w, "fresh", "1 running")
		w.Runner.SetAway(true) // the old run cannot be stopped
		pass(10 * time.Minute)
		wantRuns(t, w, "fresh", "1 running, 2 starting")
		stop()
		wantRuns(t, w, "fresh", "1 running")
		w.Runner.SetAway(false)
		pass(time.Minute)
		_, _ = withJobs(t, w)
		pass(time.Second)
		wantRuns(t, w, "fresh", "1 stopped, 3 running")
	})
}
