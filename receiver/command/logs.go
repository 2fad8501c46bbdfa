package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

var logCommands = []*definition{
	{
		topic: "logs", short: "Print what the instances have printed, or the router's line of each request", stack: true, json: true, parts: true, run: runLogs,
		flags: func(f *pflag.FlagSet) {
			f.BoolP("tail", "t", false, "go on with what comes")
			f.IntP("lines", "n", 100, "the last `N` lines; -1 for all")
			f.StringP("ps", "p", "", "only this `SERVICE` or instance (web, web.1)")
			f.String("source", "app", "`SOURCE`: app, what instances print, or router, a line a request")
			f.Duration("since", 0, "only what is newer than this `AGE` (1h)")
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

func runLogs(ctx context.Context, c *call) error {
	q := mesh.LogQuery{Stack: c.stack.Name}
	q.Follow, _ = c.flags.GetBool("tail")
	q.Lines, _ = c.flags.GetInt("lines")
	if q.Source, _ = c.flags.GetString("source"); q.Source != "app" && q.Source != "router" {
		return c.usage("there is no log source %q", mesh.Clip(q.Source, 60))
	}
	if since, _ := c.flags.GetDuration("since"); since > 0 {
		q.Since = c.Now().Add(-since)
	}
	if ps, _ := c.flags.GetString("ps"); ps != "" {
		if in, err := mesh.ParseInstanceName(ps); err == nil {
			q.Service, q.Instance = in.Service, in
		} else if q.Service, err = mesh.ParseServiceName(ps); err != nil {
			return c.usage("%q is neither a service nor an instance", mesh.Clip(ps, 60))
		}
	}
	lines := json.NewEncoder(c.Stdout) // an object a line, for what reads as they come
	lines.SetEscapeHTML(false)
	if err := c.knownService(ctx, q.Service); err != nil {
		return err
	}
	err := c.Logs.Logs(ctx, q, func(l mesh.LogLine) error {
		if c.json {
			return lines.Encode(logJSON(l))
		}
		_, err := fmt.Fprintf(c.Stdout, "%s %s[%s]: %s\n", l.At.UTC().Format(logTime), l.Source, l.Name, l.Text)
		return err
	})
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return nil // Ctrl-C is how a tail ends
	}
	return err
}

// knownService refuses the name of a service that the current release does not
// have: it would never print a line.
func (c *call) knownService(ctx context.Context, svc mesh.ServiceName) error {
	if svc == "" || c.stack.Current == 0 {
		return nil
	}
	r, err := c.State.Release(ctx, c.stack.Name, c.stack.Current)
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
	return mesh.Errorf(mesh.NotFound, "%s has no service %q", c.stack.Name, svc).WithHint("it has %s", strings.Join(names, ", "))
}
