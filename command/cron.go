package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Jobs runs commands on schedules.
type Jobs interface {
	JobsOf(ctx context.Context, stack mesh.StackName) ([]mesh.JobState, error)
	// AddJob reports whether it changed a job that had been added by hand before.
	AddJob(ctx context.Context, stack mesh.StackName, j mesh.Job) (changed bool, err error)
	// RemoveJob returns the file that declares a job of the same name, or "".
	RemoveJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName, by mesh.KeyName) (declared string, err error)
	// SuspendJob reports whether that changed anything.
	SuspendJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName, suspended bool, by mesh.KeyName) (changed bool, err error)
	// RunJob starts a run. The returned function waits for its end, or for ctx.
	RunJob(ctx context.Context, stack mesh.StackName, name mesh.ServiceName, by mesh.KeyName) (mesh.JobRun, func(context.Context) (mesh.JobRun, error), error)
	// JobOutput opens the output of a run that has ended.
	JobOutput(stack mesh.StackName, job mesh.ServiceName, n int) (io.ReadCloser, error)
}

var cronCommands = []*definition{
	{
		topic: "cron", short: "List the jobs, when each is due, and how it fares", stack: true, quiet: true, json: true, run: runCron,
		long: "A job is a command that runs on a schedule, in a container of its own, with the current release. Jobs come\n" +
			"from cron:add, or from cron in app.json or mesh.toml; those belong to their release. Times are in the zone\n" +
			"of the config var TZ, or of TZ=ZONE in front of a schedule, or of the server.",
	},
	{
		topic: "cron", verb: "info", args: "NAME", short: "Show a job with its last 20 runs", stack: true, quiet: true, json: true, min: 1, max: 1, run: runCronInfo,
	},
	{
		topic: "cron", verb: "add", args: "NAME SCHEDULE [--] COMMAND…", short: "Add a job, or change one that was added so",
		long: "The schedule has five fields, minute hour day month weekday, or is @hourly, @daily, @weekly, @monthly or\n" +
			"@every 10m. Options come before NAME. A job added by hand wins over a declared one of the same name.",
		stack: true, access: mesh.AccessDeploy, verbatim: true, min: 3, max: maxArgs, run: runCronAdd,
		flags: func(f *pflag.FlagSet) {
			f.String("overlap", "", "if a run has not ended: `forbid|allow|replace`; forbid is the default")
			f.Duration("timeout", mesh.DefaultJobTimeout, "stop a run after this `TIME`")
			f.Duration("catch-up", mesh.DefaultCatchUp, "make up a missed run if it is less than this `TIME` late")
			f.StringP("type", "p", "", "with the config vars, limits and volumes of this `SERVICE`")
		},
	},
	{
		topic: "cron", verb: "run", args: "NAME", short: "Run a job now, and print its output",
		long:  "The exit status is that of the job. The run goes on if the connection ends.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runCronRun, parts: true,
		flags: func(f *pflag.FlagSet) { f.BoolP("detach", "d", false, "do not wait; print the name of the run") },
	},
	{
		topic: "cron", verb: "suspend", args: "NAME", short: "Start a job no more by itself, whatever releases declare",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runCronSuspend,
	},
	{
		topic: "cron", verb: "resume", args: "NAME", short: "Start a suspended job on its schedule again",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runCronResume,
	},
	{
		topic: "cron", verb: "remove", args: "NAME", short: "Remove a job that was added with cron:add, and its runs",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runCronRemove,
	},
	{
		topic: "cron", verb: "logs", args: "NAME", short: "Print the output of the last run of a job",
		long:  "Of each job the last 20 runs are kept. The output of a run in progress is that so far.",
		stack: true, quiet: true, exact: true, min: 1, max: 1, run: runCronLogs,
		flags: func(f *pflag.FlagSet) {
			f.Int("run", 0, "the run with this `NUMBER`, as in cron:info NAME")
		},
	},
}

type jobJSON struct {
	Name      string       `json:"name"`
	Schedule  string       `json:"schedule,omitempty"`
	Command   string       `json:"command,omitempty"`
	From      string       `json:"from,omitempty"` // "app.json", "mesh.toml", "cron:add"
	Overlap   string       `json:"overlap,omitempty"`
	Timeout   string       `json:"timeout,omitempty"`
	CatchUp   string       `json:"catch_up,omitempty"`
	Type      string       `json:"type,omitempty"`
	Suspended bool         `json:"suspended,omitempty"`
	Next      time.Time    `json:"next,omitzero"`
	Why       string       `json:"why_not,omitempty"` // why there is no next one
	Notes     []string     `json:"notes,omitempty"`
	Runs      []jobRunJSON `json:"runs"` // the newest first
}

type jobRunJSON struct {
	Number   int       `json:"number"`
	Name     string    `json:"name"`
	Status   string    `json:"status"`
	Due      time.Time `json:"due,omitzero"`
	By       string    `json:"by,omitempty"`
	Release  string    `json:"release,omitempty"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended,omitzero"`
	Seconds  float64   `json:"seconds"`
	ExitCode *int      `json:"exit_code,omitempty"`
	OOM      bool      `json:"oom,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Times    int       `json:"times,omitempty"`
}

func (c *call) jobJSON(s mesh.JobState) jobJSON {
	j := jobJSON{
		Name: string(s.Name), Schedule: s.Schedule, Command: s.Command, From: s.From, Overlap: string(s.Overlap), Type: string(s.As),
		Suspended: s.Record.Suspended, Next: s.Next, Why: s.Why, Notes: s.Notes, Runs: []jobRunJSON{},
	}
	if !s.Gone {
		j.From, j.Timeout, j.CatchUp = cmp.Or(s.From, "cron:add"), s.Timeout.String(), s.CatchUp.String()
	}
	for i := len(s.Record.Runs) - 1; i >= 0; i-- {
		r := s.Record.Runs[i]
		run := jobRunJSON{
			Number: r.Number, Name: jobRunName(s.Name, r.Number), Status: string(r.Status), Due: r.Due, By: string(r.By), Started: r.Started,
			Ended: r.Ended, Seconds: r.Took(c.Now()).Seconds(), OOM: r.OOM, Reason: r.Reason, Times: r.Times,
		}
		if r.Release > 0 {
			run.Release = r.Release.String()
		}
		if r.Status == mesh.JobSucceeded || r.Status == mesh.JobFailed && r.Reason == "" {
			run.ExitCode = &r.ExitCode
		}
		j.Runs = append(j.Runs, run)
	}
	return j
}

func jobRunName(job mesh.ServiceName, n int) string { return string(job) + "." + strconv.Itoa(n) }

// lasted is the duration of a run, short.
func lasted(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// job finds a job of the stack by its name.
func (c *call) job(ctx context.Context, typed string) (mesh.JobState, error) {
	name, err := mesh.ParseServiceName(typed)
	if err != nil {
		return mesh.JobState{}, mesh.Errorf(mesh.Invalid, "%q is not the name of a job", mesh.Clip(typed, 60)).WithHint("list them with: ssh mesh cron -a %s", c.stack.Name)
	}
	all, err := c.Jobs.JobsOf(ctx, c.stack.Name)
	if err != nil {
		return mesh.JobState{}, err
	}
	for _, s := range all {
		if s.Name == name {
			return s, nil
		}
	}
	return mesh.JobState{}, mesh.Errorf(mesh.NotFound, "%s has no job %q", c.stack.Name, name).WithHint("list them with: ssh mesh cron -a %s", c.stack.Name)
}

func runCron(ctx context.Context, c *call) error {
	all, err := c.Jobs.JobsOf(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	list := []jobJSON{}
	var rows [][]string
	for _, s := range all {
		if s.Gone && len(s.Record.Runs) == 0 && !s.Record.Suspended {
			continue
		}
		j := c.jobJSON(s)
		list = append(list, j)
		next, last, took, outcome := "-", "-", "-", "-"
		switch {
		case !s.Next.IsZero():
			next = c.in(s.Next)
		case s.Why != "":
			next = "(" + s.Why + ")"
		}
		if n := len(s.Record.Runs); n > 0 {
			r := s.Record.Runs[n-1]
			last, outcome = c.when(r.Started), r.Outcome()
			if r.Status != mesh.JobSkipped {
				took = lasted(r.Took(c.Now()))
			}
		}
		rows = append(rows, []string{j.Name, cmp.Or(s.Schedule, "-"), next, last, took, outcome, cmp.Or(j.From, "-"), mesh.Clip(s.Command, 60)})
	}
	if c.json {
		return c.printJSON(list)
	}
	if len(rows) == 0 {
		c.tell("%s has no jobs; add one with: ssh mesh cron:add -a %s NAME \"@hourly\" -- COMMAND\n", c.stack.Name, c.stack.Name)
		return nil
	}
	c.table([]string{"JOB", "SCHEDULE", "NEXT", "LAST", "TOOK", "EXIT", "FROM", "COMMAND"}, rows)
	for _, s := range all {
		for _, n := range s.Notes {
			c.tell("%s: %s\n", s.Name, n)
		}
	}
	return nil
}

func runCronInfo(ctx context.Context, c *call) error {
	s, err := c.job(ctx, c.args[0])
	if err != nil {
		return err
	}
	j := c.jobJSON(s)
	if c.json {
		return c.printJSON(j)
	}
	line := func(name, value string) {
		if value != "" {
			c.say("%-10s %s\n", name+":", value)
		}
	}
	line("Job", j.Name)
	line("Schedule", j.Schedule)
	line("Command", j.Command)
	line("From", j.From)
	line("Type", j.Type)
	line("Overlap", j.Overlap)
	line("Timeout", j.Timeout)
	line("Catch-up", j.CatchUp)
	if s.Next.IsZero() {
		line("Next", cmp.Or(s.Why, "never"))
	} else {
		line("Next", c.in(s.Next))
	}
	for _, n := range s.Notes {
		line("Note", n)
	}
	var rows [][]string
	for _, r := range j.Runs {
		due, took := "by "+cmp.Or(r.By, "hand"), "-"
		if !r.Due.IsZero() {
			due = r.Due.UTC().Format(time.RFC3339)
		}
		run := s.Record.Run(r.Number)
		if run.Status != mesh.JobSkipped {
			took = lasted(run.Took(c.Now()))
		}
		rows = append(rows, []string{strconv.Itoa(r.Number), due, c.when(r.Started), took, run.Outcome(), cmp.Or(r.Release, "-")})
	}
	if len(rows) > 0 {
		c.say("\n")
		c.table([]string{"RUN", "DUE", "STARTED", "TOOK", "EXIT", "RELEASE"}, rows)
	}
	return nil
}

// schedule splits what follows the name of a job: the schedule, of which ssh leaves no quotes,
// options, and after a -- the command.
func (c *call) schedule(words []string) (schedule string, command []string, err error) {
	head := words[:1]
	if dash := slices.Index(words, "--"); dash >= 0 {
		head, command = words[:dash], words[dash+1:]
	} else {
		first := words[0]
		if first == "@every" && len(words) > 1 {
			head = words[:2]
		} else if !strings.HasPrefix(first, "@") && !strings.Contains(first, " ") {
			return "", nil, c.usage("a -- must be between the schedule and the command")
		}
		command = words[len(head):]
	}
	if i := slices.IndexFunc(head, func(w string) bool { return strings.HasPrefix(w, "-") }); i >= 0 {
		if err := c.flags.Parse(head[i:]); err != nil {
			return "", nil, c.usage("%v", err)
		}
		if more := c.flags.Args(); len(more) > 0 {
			return "", nil, c.usage("%q is neither an option nor part of the schedule", more[0])
		}
		head = head[:i]
	}
	if len(command) == 0 {
		return "", nil, c.usage("the job has no command")
	}
	return strings.Join(head, " "), command, nil
}

func runCronAdd(ctx context.Context, c *call) error {
	name, err := mesh.ParseServiceName(c.args[0])
	if err != nil {
		return mesh.Errorf(mesh.Invalid, "%q is not a name for a job", mesh.Clip(c.args[0], 60)).
			WithHint("a name of 1 to 40 characters a-z, 0-9 and - comes first: ssh mesh cron:add -a %s nightly \"0 3 * * *\" -- COMMAND", c.stack.Name)
	}
	schedule, words, err := c.schedule(c.args[1:])
	if err != nil {
		return err
	}
	j := mesh.NewJob(name, schedule, strings.TrimSpace(c.lineOf(words)))
	j.By = c.Key.Name
	overlap, _ := c.flags.GetString("overlap")
	if j.Overlap, err = mesh.ParseOverlap(overlap); err != nil {
		return err
	}
	j.Timeout, _ = c.flags.GetDuration("timeout")
	j.CatchUp, _ = c.flags.GetDuration("catch-up")
	if as, _ := c.flags.GetString("type"); as != "" {
		if j.As, err = mesh.ParseServiceName(as); err != nil {
			return err
		}
	}
	changed, err := c.Jobs.AddJob(ctx, c.stack.Name, j)
	if err != nil {
		return err
	}
	what := "added"
	if changed {
		what = "changed"
	}
	s, err := c.job(ctx, string(name))
	if err != nil {
		return err
	}
	if s.Next.IsZero() {
		c.say("%s the job %s of %s; it does not start by itself: %s\n", what, name, c.stack.Name, cmp.Or(s.Why, "it is never due"))
	} else {
		c.say("%s the job %s of %s; next at %s\n", what, name, c.stack.Name, s.Next.UTC().Format(time.RFC3339))
	}
	for _, n := range s.Notes {
		c.tell("%s: %s\n", name, n)
	}
	return nil
}

func runCronRun(ctx context.Context, c *call) error {
	name, err := mesh.ParseServiceName(c.args[0])
	if err != nil {
		return err
	}
	run, wait, err := c.Jobs.RunJob(ctx, c.stack.Name, name, c.Key.Name)
	if err != nil {
		return err
	}
	shown := jobRunName(name, run.Number)
	if detach, _ := c.flags.GetBool("detach"); detach {
		_, _ = fmt.Fprintln(c.Stdout, shown)
		return nil
	}
	c.tell("running %s; it goes on if you disconnect\n", shown)
	end, err := wait(ctx)
	if err != nil {
		return err
	}
	if err := c.printJobOutput(name, run.Number); err != nil {
		return err
	}
	c.tell("%s: %s after %s\n", shown, end.Outcome(), lasted(end.Took(c.Now())))
	switch {
	case end.Status == mesh.JobSucceeded:
		return nil
	case end.Status == mesh.JobFailed && end.ExitCode != 0:
		return mesh.ExitCode(end.ExitCode)
	}
	return mesh.Errorf(mesh.Failed, "%s did not succeed: %s", shown, end.Outcome()).WithHint("see: ssh mesh cron:info -a %s %s", c.stack.Name, name)
}

func (c *call) printJobOutput(name mesh.ServiceName, n int) error {
	r, err := c.Jobs.JobOutput(c.stack.Name, name, n)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	_, err = io.Copy(c.Stdout, r)
	return err
}

func runCronSuspend(ctx context.Context, c *call) error { return c.suspendJob(ctx, true, "suspended") }
func runCronResume(ctx context.Context, c *call) error  { return c.suspendJob(ctx, false, "resumed") }

func (c *call) suspendJob(ctx context.Context, suspended bool, what string) error {
	s, err := c.job(ctx, c.args[0])
	if err != nil {
		return err
	}
	changed, err := c.Jobs.SuspendJob(ctx, c.stack.Name, s.Name, suspended, c.Key.Name)
	switch {
	case err != nil:
		return err
	case !changed && suspended:
		c.tell("%s is suspended already\n", s.Name)
		return nil
	case !changed:
		c.tell("%s is not suspended\n", s.Name)
		return nil
	}
	c.say("%s the job %s of %s\n", what, s.Name, c.stack.Name)
	return nil
}

func runCronRemove(ctx context.Context, c *call) error {
	s, err := c.job(ctx, c.args[0])
	if err != nil {
		return err
	}
	declared, err := c.Jobs.RemoveJob(ctx, c.stack.Name, s.Name, c.Key.Name)
	if err != nil {
		return err
	}
	c.say("removed the job %s of %s\n", s.Name, c.stack.Name)
	if declared != "" {
		c.tell("the job of that name in %s counts again\n", declared)
	}
	for _, r := range s.Record.Open() {
		c.tell("%s still runs; stop it with: ssh mesh run:stop -a %s %s\n", jobRunName(s.Name, r.Number), c.stack.Name, jobRunName(s.Name, r.Number))
	}
	return nil
}

func runCronLogs(ctx context.Context, c *call) error {
	s, err := c.job(ctx, c.args[0])
	if err != nil {
		return err
	}
	r := s.Record.Latest()
	if n, _ := c.flags.GetInt("run"); n != 0 {
		if r = s.Record.Run(n); r == nil {
			return mesh.Errorf(mesh.NotFound, "the run %s is not kept", jobRunName(s.Name, n)).WithHint("list those that are: ssh mesh cron:info -a %s %s", c.stack.Name, s.Name)
		}
	}
	if r == nil {
		c.tell("%s has not run yet\n", s.Name)
		return nil
	}
	if r.Status.Open() {
		q := mesh.LogQuery{Stack: c.stack.Name, Run: jobRunName(s.Name, r.Number), Lines: -1}
		if err := c.Logs.Logs(ctx, q, func(l mesh.LogLine) error {
			_, err := fmt.Fprintln(c.Stdout, l.Text)
			return err
		}); err != nil {
			return err
		}
	} else if err := c.printJobOutput(s.Name, r.Number); err != nil {
		return err
	}
	c.tell("%s: %s after %s\n", jobRunName(s.Name, r.Number), r.Outcome(), lasted(r.Took(c.Now())))
	return nil
}
