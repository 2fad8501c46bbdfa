package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// OneOffs runs commands beside the instances, or in one of them.
type OneOffs interface {
	// RunCommand and Enter return the exit code of the command. It ends with ctx.
	RunCommand(ctx context.Context, run mesh.Run) (int, error)
	Enter(ctx context.Context, name mesh.InstanceName, run mesh.Run) (int, error)
	// Detach starts a command that runs without a client, for at most 24 hours.
	Detach(ctx context.Context, run mesh.Run) (mesh.DetachedRun, error)
	Runs(ctx context.Context, stack mesh.StackName) ([]mesh.DetachedRun, error)
	StopRun(ctx context.Context, stack mesh.StackName, name string) error
}

var runCommands = []*definition{
	{
		topic: "run", args: "[--] COMMAND…", short: "Run a one-off command in a new container",
		long: "The container has the image and config of the current release. The exit status is that of the command.\nWith ssh -t the command gets a terminal. The image's shell\n" +
			"runs the line as it arrives, as ssh does: ssh mesh 'run -- echo $PATH | wc -c'. The container is removed\n" +
			"when the command or the connection ends. With --detach it keeps running, for 24 hours at most: see\n" +
			"run:list, run:logs and run:stop. A command with one of these names needs the --.",
		stack: true, access: mesh.AccessDeploy, verbatim: true, terminal: true, parts: true, min: 1, max: maxArgs, run: runRun,
		flags: func(f *pflag.FlagSet) {
			f.StringArrayP("env", "e", nil, "set a variable: `NAME=VALUE`")
			f.StringP("type", "p", "", "with the config vars and limits of this `SERVICE`")
			f.BoolP("detach", "d", false, "do not wait; print the name of the run")
		},
	},
	{
		topic: "run", verb: "list", short: "List the detached runs of the last 24 hours", stack: true, quiet: true, json: true, run: runRunList,
	},
	{
		topic: "run", verb: "logs", args: "NAME", short: "Print the output of a detached run", stack: true, quiet: true, exact: true, json: true, min: 1, max: 1, run: runRunLogs,
		flags: func(f *pflag.FlagSet) {
			f.BoolP("tail", "t", false, "follow until it ends")
			f.IntP("lines", "n", -1, "the last `N` lines; -1 for all")
		},
	},
	{
		topic: "run", verb: "stop", args: "NAME", short: "Stop a detached run and remove it and its output",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runRunStop,
	},
	{
		topic: "enter", args: "[INSTANCE | SERVICE] [-- COMMAND…]", short: "Run a command, a shell by default, inside a running instance",
		long: "Without a name it is web.1; of a service, the first instance. It sees the files and processes of the\n" +
			"instance; run uses a new container instead. The exit status is that of the command. With ssh -t the command gets a terminal. It ends with the connection.",
		stack: true, access: mesh.AccessDeploy, verbatim: true, terminal: true, parts: true, max: maxArgs, run: runEnter,
	},
}

// streams returns a run that is connected to the client.
func (c *call) streams(line string, words []string) mesh.Run {
	if len(words) == 1 && words[0] == line {
		// A whole command line in quotes, which an image without a shell cannot split.
		if split, err := Split(line); err == nil {
			words = split
		}
	}
	run := mesh.Run{
		Stack: c.stack.Name, By: c.Key.Name, Line: line, Words: words, TTY: c.TTY,
		Stdin: c.Stdin, Stdout: c.raw, Stderr: c.rawErr,
	}
	if c.TTY {
		run.Size, run.Resize = c.Size, c.Resize
	}
	return run
}

// exit makes the result of a command in a container the result of the session.
func exit(ctx context.Context, code int, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case code != 0:
		return mesh.ExitCode(code)
	}
	return nil
}

func runRun(ctx context.Context, c *call) error {
	run := c.streams(c.rest, c.args)
	run.Env = map[string]mesh.Secret{}
	for _, kv := range c.values("env") {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return c.usage("-e takes NAME=VALUE")
		}
		if _, err := mesh.ParseVarName(name); err != nil {
			return err
		}
		run.Env[name] = mesh.NewSecret(value)
	}
	if as, _ := c.flags.GetString("type"); as != "" {
		svc, err := mesh.ParseServiceName(as)
		if err != nil {
			return err
		}
		run.As = svc
	}
	if detach, _ := c.flags.GetBool("detach"); detach {
		r, err := c.OneOffs.Detach(ctx, run)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintln(c.Stdout, r.Name)
		c.tell("running in the background until %s at most; follow it with: ssh mesh run:logs -a %s %s -t\n", r.Until.UTC().Format(time.RFC3339), c.stack.Name, r.Name)
		return nil
	}
	code, err := c.OneOffs.RunCommand(ctx, run)
	return exit(ctx, code, err)
}

type runJSON struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`
	ExitCode *int      `json:"exit_code,omitempty"`
	OOM      bool      `json:"oom,omitempty"`
	Command  string    `json:"command"`
	By       string    `json:"by"`
	Started  time.Time `json:"started"`
	Until    time.Time `json:"until"`
}

func runRunList(ctx context.Context, c *call) error {
	runs, err := c.OneOffs.Runs(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	list := []runJSON{}
	var rows [][]string
	for _, r := range runs {
		j := runJSON{Name: r.Name, State: "running", OOM: r.OOM, Command: r.Command, By: string(r.By), Started: r.Started, Until: r.Until}
		state := j.State
		if !r.Running {
			j.State, j.ExitCode = "ended", &r.ExitCode
			state = fmt.Sprintf("ended (exit %d)", r.ExitCode)
			if r.OOM {
				state = fmt.Sprintf("ended (exit %d, OOM)", r.ExitCode)
			}
		}
		list = append(list, j)
		rows = append(rows, []string{j.Name, state, j.By, c.when(j.Started), mesh.Clip(j.Command, 60)})
	}
	if c.json {
		return c.printJSON(list)
	}
	if len(rows) == 0 {
		c.tell("%s has no detached runs\n", c.stack.Name)
		return nil
	}
	c.table([]string{"RUN", "STATE", "BY", "STARTED", "COMMAND"}, rows)
	return nil
}

// detachedRun finds a detached run of the stack by name.
func (c *call) detachedRun(ctx context.Context, name string) (mesh.DetachedRun, error) {
	runs, err := c.OneOffs.Runs(ctx, c.stack.Name)
	if err != nil {
		return mesh.DetachedRun{}, err
	}
	for _, r := range runs {
		if r.Name == name {
			return r, nil
		}
	}
	return mesh.DetachedRun{}, mesh.Errorf(mesh.NotFound, "%s has no detached run %q", c.stack.Name, mesh.Clip(name, 60)).
		WithHint("list them with: ssh mesh run:list -a %s", c.stack.Name)
}

func runRunLogs(ctx context.Context, c *call) error {
	r, err := c.detachedRun(ctx, c.args[0])
	if err != nil {
		return err
	}
	q := mesh.LogQuery{Stack: c.stack.Name, Run: r.Name}
	q.Follow, _ = c.flags.GetBool("tail")
	q.Lines, _ = c.flags.GetInt("lines")
	if err := c.Logs.Logs(ctx, q, c.logPrinter()); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !q.Follow {
		return nil
	}
	if r, err = c.detachedRun(ctx, r.Name); err != nil {
		return err // stopped and removed meanwhile
	}
	if r.Running {
		return mesh.Errorf(mesh.Unavailable, "the output of %s was cut off; it is still running", r.Name).WithHint("follow it again: ssh mesh run:logs -a %s %s -t", c.stack.Name, r.Name)
	}
	c.tell("%s ended with exit code %d\n", r.Name, r.ExitCode)
	return exit(ctx, r.ExitCode, nil)
}

func runRunStop(ctx context.Context, c *call) error {
	if err := c.OneOffs.StopRun(ctx, c.stack.Name, c.args[0]); err != nil {
		return err
	}
	c.say("stopped %s of %s\n", c.args[0], c.stack.Name)
	return nil
}

func runEnter(ctx context.Context, c *call) error {
	name, words := mesh.InstanceName{Service: mesh.Web, Slot: 1}, c.args
	if len(words) > 0 && c.flags.ArgsLenAtDash() != 0 {
		var err error
		if name, err = c.instance(words[0]); err != nil {
			return err
		}
		words = words[1:]
	}
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	code, err := c.OneOffs.Enter(ctx, name, c.streams(c.lineOf(words), words))
	return exit(ctx, code, err)
}

// instance returns the instance with a name, or the first one of a service that is up.
func (c *call) instance(typed string) (mesh.InstanceName, error) {
	svc, err := mesh.ParseServiceName(typed)
	if err != nil {
		return mesh.ParseInstanceName(typed)
	}
	for _, in := range c.Processes.Status(c.stack.Name) {
		if in.Name.Service == svc && in.State == mesh.Up {
			return in.Name, nil
		}
	}
	return mesh.InstanceName{}, mesh.Errorf(mesh.NotFound, "%s has no instance of %s that is up", c.stack.Name, svc).WithHint("see what runs with: ssh mesh ps -a %s", c.stack.Name)
}
