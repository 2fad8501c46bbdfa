package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Logs reads what stacks have printed.
type Logs interface {
	// Logs calls fn with the lines that q asks for, by their times, and returns fn's
	// error. With Follow it calls q.Caught after the existing lines, never while fn runs,
	// and continues until ctx ends.
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
		long: "A line is: time source[name]: text. The source is app for what an instance or a command printed, router for\n" +
			"a request, and mesh for deployments, crashes and other events. Lines are kept across deploys, crashes and\n" +
			"restarts, 7 days and 500 MB unless log-age and log-size say otherwise (ssh mesh help build:set).\n" +
			"-t keeps following across deploys and restarts, until Ctrl-C. --grep also matches the fields of a JSON line, as\n" +
			"name=value. --level leaves out lines that do not say their level.",
		flags: func(f *pflag.FlagSet) {
			f.BoolP("tail", "t", false, "keep following")
			f.IntP("lines", "n", 100, "the last `N` lines; -1 for all")
			f.StringP("ps", "p", "", "only this `SERVICE` or instance, for example web, web.1, run or release")
			f.String("since", "", "only lines after this `TIME`: an age such as 1h or 2d, or 2026-01-02T15:04:05Z")
			f.String("until", "", "only lines before this `TIME`")
			f.String("source", "", "only lines from these `SOURCES`: app, router, mesh, or several with commas")
			f.String("release", "", "only lines of instances of this `RELEASE`, for example v12")
			f.String("grep", "", "only lines that match this regular `EXPRESSION`; (?i) ignores case")
			f.String("level", "", "only lines of at least this `LEVEL`: debug, info, notice, warn, error or fatal")
			f.BoolP("quiet", "q", false, "print the text alone")
		},
	},
}

type logJSON struct {
	At      time.Time `json:"at"`
	Source  string    `json:"source"`
	Name    string    `json:"name"`
	Release string    `json:"release,omitempty"`
	Text    string    `json:"text"`
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
	q, err := c.logQuery()
	if err != nil {
		return err
	}
	unknown := c.knownService(ctx, q.Service)
	if unknown != nil && (q.Follow || !errors.Is(unknown, mesh.NotFound)) {
		return unknown
	}
	if q.Follow {
		// No line would ever come again: whoever follows must know.
		life := c.Lives.Life(c.stack.Name)
		var end context.CancelCauseFunc
		ctx, end = context.WithCancelCause(ctx)
		defer end(nil)
		defer context.AfterFunc(life, func() { end(context.Cause(life)) })()
	}
	some := false
	show := c.logPrinter()
	err = c.Logs.Logs(ctx, q, func(l mesh.LogLine) error {
		some = true
		return show(l)
	})
	switch {
	case ctx.Err() != nil && !errors.Is(err, mesh.Unavailable):
		return context.Cause(ctx) // why it ended: a Ctrl-C, or the server stops
	case err == nil && !some:
		return unknown // a service of an earlier release may have printed something
	}
	return err
}

// maxLogLines is how many of the last lines are printed at most: they are in memory meanwhile. All of
// them are not: they are printed as they are read.
const maxLogLines = 100_000

// logQuery is what the flags of logs ask for.
func (c *call) logQuery() (mesh.LogQuery, error) {
	// Leave out the router's lines, which would drown the others.
	q := mesh.LogQuery{Stack: c.stack.Name, Sources: []string{sourceApp, sourceMesh}}
	text := func(name string) string { v, _ := c.flags.GetString(name); return v }
	q.Follow, _ = c.flags.GetBool("tail")
	if q.Lines, _ = c.flags.GetInt("lines"); q.Lines > maxLogLines {
		return q, mesh.Errorf(mesh.Invalid, "the last %d lines are too many: the limit is %d", q.Lines, maxLogLines).WithHint("for all lines: -n -1; for those of a time: -n -1 --since 1h")
	}
	var err error
	if q.Since, err = c.logTime("since"); err != nil {
		return q, err
	}
	if q.Until, err = c.logTime("until"); err != nil {
		return q, err
	}
	switch {
	case q.Follow && !q.Until.IsZero():
		return q, c.usage("-t follows new lines, and --until leaves them out")
	case !q.Until.IsZero() && q.Until.Before(q.Since):
		return q, c.usage("--until is before --since: nothing is between them")
	}
	if ps := text("ps"); ps != "" {
		if in, err := mesh.ParseInstanceName(ps); err == nil {
			q.Service, q.Instance = in.Service, in
		} else if q.Service, err = mesh.ParseServiceName(ps); err != nil {
			return q, c.usage("%q is neither a service nor an instance", mesh.Clip(ps, 60))
		}
	}
	if only := text("source"); only != "" {
		q.Sources = strings.Split(only, ",")
		for _, s := range q.Sources {
			if !slices.Contains([]string{sourceApp, sourceMesh, sourceRouter}, s) {
				return q, c.usage("--source takes app, router or mesh, not %q", mesh.Clip(s, 40))
			}
		}
	}
	if v := text("release"); v != "" {
		if q.Release, err = mesh.ParseReleaseNumber(v); err != nil {
			return q, err
		}
	}
	if v := text("grep"); v != "" {
		if q.Grep, err = regexp.Compile(v); err != nil {
			var bad *syntax.Error
			errors.As(err, &bad)
			return q, mesh.Errorf(mesh.Invalid, "--grep: %q is not a regular expression: %s", mesh.Clip(v, 60), bad.Code.String()).
				WithHint("put a backslash before ( [ * + ? . that stand for themselves; in a shell, quote twice: ssh mesh \"logs --grep 'a.*b'\"")
		}
	}
	if v := text("level"); v != "" {
		if q.Level = mesh.ParseLogLevel(strings.ToLower(v)); q.Level == 0 {
			return q, c.usage("--level takes debug, info, notice, warn, error or fatal, not %q", mesh.Clip(v, 40))
		}
	}
	return q, nil
}

// logTime is the value of --since or --until: an age, or a time, which is in UTC unless
// it says otherwise.
func (c *call) logTime(flag string) (time.Time, error) {
	v, _ := c.flags.GetString(flag)
	if v == "" {
		return time.Time{}, nil
	}
	if age, err := mesh.ParseAge(v); err == nil && age >= 0 {
		return c.Now().Add(-age), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, v); err == nil {
			return t, nil
		}
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil && n > 1e9 {
		return time.Unix(n, 0), nil // as docker logs takes it
	}
	return time.Time{}, c.usage("--%s takes an age such as 1h or 2d, or a time such as 2026-01-02T15:04:05Z, not %q", flag, mesh.Clip(v, 40))
}

// logPrinter returns a function that prints log lines. The function must not be called
// by several goroutines at once.
func (c *call) logPrinter() func(mesh.LogLine) error {
	lines := json.NewEncoder(c.Stdout) // one object a line, for programs that read lines as they come
	lines.SetEscapeHTML(false)
	quiet := false
	if c.flags.Lookup("quiet") != nil {
		quiet, _ = c.flags.GetBool("quiet")
	}
	return func(l mesh.LogLine) error {
		if c.json {
			out := logJSON{At: l.At, Source: l.Source, Name: l.Name, Text: l.Text}
			if l.Release != 0 {
				out.Release = l.Release.String()
			}
			return lines.Encode(out)
		}
		if quiet {
			_, err := fmt.Fprintln(c.Stdout, l.Text)
			return err
		}
		_, err := fmt.Fprintf(c.Stdout, "%s %s[%s]: %s\n", l.At.UTC().Format(logTime), l.Source, l.Name, l.Text)
		return err
	}
}

// knownService returns an error for a service that the current release does not have:
// it will print nothing. One-off commands are called run.N, and release commands release.
func (c *call) knownService(ctx context.Context, svc mesh.ServiceName) error {
	if svc == "" || svc == "run" || svc == "release" || c.stack.Current == 0 {
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
