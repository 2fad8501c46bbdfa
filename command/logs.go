package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Logs reads the output of instances.
type Logs interface {
	// Logs calls fn with each line of q.Source, oldest first, and returns fn's error.
	// With Follow it calls q.Caught after the existing lines, never while fn runs, and
	// continues until ctx ends.
	Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error
}

// Lives reports the end of stacks.
type Lives interface {
	// Life returns a context that ends when the stack is destroyed or renamed, with a
	// cause that says which.
	Life(stack mesh.StackName) context.Context
}

var logCommands = []*definition{
	{
		topic: "logs", short: "Print the output of the instances, with mesh's own events", stack: true, json: true, exact: true, parts: true, run: runLogs,
		long: "A line is: time source[name]: text. The source is app for the output of an instance, and mesh for\n" +
			"deployments, crashes and other events. -t keeps following across deploys and restarts, until Ctrl-C.\n" +
			"--source router prints a line for each request.",
		flags: func(f *pflag.FlagSet) {
			f.BoolP("tail", "t", false, "keep following")
			f.IntP("lines", "n", 100, "the last `N` lines; -1 for all")
			f.StringP("ps", "p", "", "only this `SERVICE` or instance, for example web or web.1")
			f.Duration("since", 0, "only lines newer than this `AGE`, for example 1h")
			f.String("source", "", "only lines from this `SOURCE`: app, router or mesh")
		},
	},
}

type logJSON struct {
	At     time.Time `json:"at"`
	Source string    `json:"source"`
	Name   string    `json:"name"`
	Text   string    `json:"text"`
}

// logTime is RFC 3339 with microseconds, always in UTC.
const logTime = "2006-01-02T15:04:05.000000+00:00"

// The sources of log lines.
const (
	sourceApp    = "app"
	sourceMesh   = "mesh"
	sourceRouter = "router"
)

func runLogs(ctx context.Context, c *call) error {
	q := mesh.LogQuery{Stack: c.stack.Name}
	q.Follow, _ = c.flags.GetBool("tail")
	q.Lines, _ = c.flags.GetInt("lines")
	if since, _ := c.flags.GetDuration("since"); since > 0 {
		q.Since = c.Now().Add(-since)
	} else if since < 0 {
		return c.usage("--since takes an age, for example 1h")
	}
	if ps, _ := c.flags.GetString("ps"); ps != "" {
		if in, err := mesh.ParseInstanceName(ps); err == nil {
			q.Service, q.Instance = in.Service, in
		} else if q.Service, err = mesh.ParseServiceName(ps); err != nil {
			return c.usage("%q is neither a service nor an instance", mesh.Clip(ps, 60))
		}
	}
	// Leave out the router's lines, which would drown the others.
	sources := []string{sourceApp, sourceMesh}
	if only, _ := c.flags.GetString("source"); only != "" {
		if only != sourceRouter && !slices.Contains(sources, only) {
			return c.usage("--source takes app, router or mesh, not %q", mesh.Clip(only, 40))
		}
		sources = []string{only}
	}
	if err := c.knownService(ctx, q.Service); err != nil {
		return err
	}
	if q.Follow {
		// No line would ever come again: whoever follows must know.
		life := c.Lives.Life(c.stack.Name)
		var end context.CancelCauseFunc
		ctx, end = context.WithCancelCause(ctx)
		defer end(nil)
		defer context.AfterFunc(life, func() { end(context.Cause(life)) })()
	}
	err := mergeLogs(ctx, c.Logs, q, sources, c.logPrinter())
	if ctx.Err() != nil && !errors.Is(err, mesh.Unavailable) {
		return context.Cause(ctx) // why it ended: a Ctrl-C, or the server stops
	}
	return err
}

// logPrinter returns a function that prints log lines. The function must not be called
// by several goroutines at once.
func (c *call) logPrinter() func(mesh.LogLine) error {
	lines := json.NewEncoder(c.Stdout) // one object a line, for programs that read lines as they come
	lines.SetEscapeHTML(false)
	return func(l mesh.LogLine) error {
		if c.json {
			return lines.Encode(logJSON(l))
		}
		_, err := fmt.Fprintf(c.Stdout, "%s %s[%s]: %s\n", l.At.UTC().Format(logTime), l.Source, l.Name, l.Text)
		return err
	}
}

// knownService returns an error for a service that the current release does not have:
// it would never print a line.
func (c *call) knownService(ctx context.Context, svc mesh.ServiceName) error {
	if svc == "" || c.stack.Current == 0 {
		return nil
	}
	r, err := c.History.Release(ctx, c.stack.Name, c.stack.Current)
	if err != nil {
		return err
	}
	if _, ok := r.Services[svc]; ok {
		return nil
	}
	var names []string
	for _, n := range r.Formation.Services() {
		names = append(names, string(n))
	}
	return mesh.Errorf(mesh.NotFound, "%s has no service %q", c.stack.Name, svc).WithHint("it has: %s", strings.Join(names, ", "))
}
