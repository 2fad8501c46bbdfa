package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Journal keeps lines about stacks that no instance has printed.
type Journal interface {
	// Events returns what is kept of a stack, the oldest first.
	Events(stack mesh.StackName) ([]mesh.LogLine, error)
	// WatchEvents calls fn with each line that comes from now on, until stop is
	// called. fn does not block.
	WatchEvents(stack mesh.StackName, fn func(mesh.LogLine)) (stop func())
}

var logCommands = []*definition{
	{
		topic: "logs", short: "Print what the instances have printed, and what mesh did to them", stack: true, json: true, run: runLogs,
		long: "A line is: time, source[name]: text. The source is app for what an instance printed, mesh for deployments,\n" +
			"crashes and the like. With -t it goes on across deploys and restarts, until Ctrl-C.",
		flags: func(f *pflag.FlagSet) {
			f.BoolP("tail", "t", false, "go on with what comes")
			f.IntP("lines", "n", 100, "the last `N` lines; -1 for all")
			f.StringP("ps", "p", "", "only this `SERVICE` or instance (web, web.1)")
			f.Duration("since", 0, "only what is newer than this `AGE` (1h)")
			f.String("source", "", "only this `SOURCE`: app, router or mesh")
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
		return c.usage("--since takes an age, such as 1h")
	}
	if ps, _ := c.flags.GetString("ps"); ps != "" {
		if in, err := mesh.ParseInstanceName(ps); err == nil {
			q.Service, q.Instance = in.Service, in
		} else if q.Service, err = mesh.ParseServiceName(ps); err != nil {
			return c.usage("%q is neither a service nor an instance", mesh.Clip(ps, 60))
		}
	}
	source, _ := c.flags.GetString("source")
	if source != "" && !slices.Contains([]string{sourceApp, sourceMesh, sourceRouter}, source) {
		return c.usage("--source takes app, router or mesh, not %q", mesh.Clip(source, 40))
	}
	if err := c.knownService(ctx, q.Service); err != nil {
		return err
	}
	m := &merged{q: q, source: source, print: c.logPrinter()}
	err := m.run(ctx, c)
	if ctx.Err() != nil && !errors.Is(err, mesh.Unavailable) {
		return context.Cause(ctx) // why it ends: a Ctrl-C, or the server that is stopped
	}
	return err
}

// merged is the lines of several sources, by their times.
type merged struct {
	q      mesh.LogQuery
	source string
	print  func(mesh.LogLine) error

	mu   sync.Mutex // one line at a time
	held []mesh.LogLine
	last map[string]time.Time // of what was read from each journal: what is newer comes from watching
	live bool                 // what there was has been printed
	err  error
	fail context.CancelCauseFunc

	in    sync.Mutex // of queue: who brings a line never waits for the client
	queue []mesh.LogLine
	wake  chan struct{}
}

// maxQueue is how many lines wait for a slow client before the oldest are dropped.
const maxQueue = 10_000

func (m *merged) run(ctx context.Context, c *call) error {
	ctx, m.fail = context.WithCancelCause(ctx)
	m.last, m.wake = map[string]time.Time{}, make(chan struct{}, 1)
	var drained sync.WaitGroup
	defer drained.Wait()
	defer m.fail(nil)
	drained.Go(func() { m.drain(ctx) })
	for _, j := range c.journals() {
		if m.source != "" && m.source != j.source {
			continue
		}
		if m.q.Follow {
			// Before what is kept is read, so that no line falls between.
			defer j.WatchEvents(m.q.Stack, func(l mesh.LogLine) { m.bring(j.source, l) })()
		}
		kept, err := j.Events(m.q.Stack)
		if err != nil {
			return err
		}
		m.keep(j.source, kept)
	}
	if m.source != "" && m.source != sourceApp {
		m.caught()
		if m.q.Follow && m.err == nil {
			<-ctx.Done()
		}
		return m.err
	}
	q := m.q
	q.Caught = m.caught
	if err := c.Logs.Logs(ctx, q, m.line); err != nil {
		return err
	}
	m.caught()
	return m.err
}

type journal struct {
	Journal
	source string
}

// journals are those there are.
func (c *call) journals() (out []journal) {
	if c.Events != nil {
		out = append(out, journal{c.Events, sourceMesh})
	}
	if c.Access != nil {
		out = append(out, journal{c.Access, sourceRouter})
	}
	return out
}

// wants tells whether the query is about a line of a journal.
func (m *merged) wants(l mesh.LogLine) bool {
	switch {
	case !m.q.Since.IsZero() && l.At.Before(m.q.Since):
		return false
	case m.q.Instance != mesh.InstanceName{}:
		return l.Name == m.q.Instance.String()
	case m.q.Service != "":
		return strings.HasPrefix(l.Name, string(m.q.Service)+".")
	}
	return true
}

// keep takes what a journal has.
func (m *merged) keep(source string, lines []mesh.LogLine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(lines); n > 0 {
		m.last[source] = lines[n-1].At
	}
	// Of what was watched since, only what is not in lines is new.
	m.held = slices.DeleteFunc(m.held, func(l mesh.LogLine) bool { return l.Source == source && !l.At.After(m.last[source]) })
	for _, l := range lines {
		if m.wants(l) {
			m.held = append(m.held, l)
		}
	}
	slices.SortStableFunc(m.held, func(a, b mesh.LogLine) int { return a.At.Compare(b.At) })
}

// bring queues a line that has just come from a journal.
func (m *merged) bring(source string, l mesh.LogLine) {
	if !m.wants(l) {
		return
	}
	l.Source = source
	m.in.Lock()
	defer m.in.Unlock()
	if m.queue = append(m.queue, l); len(m.queue) > maxQueue {
		m.queue = m.queue[1:]
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// drain takes what bring has queued, until ctx ends.
func (m *merged) drain(ctx context.Context) {
	for {
		select {
		case <-m.wake:
		case <-ctx.Done():
			return
		}
		m.in.Lock()
		lines := m.queue
		m.queue = nil
		m.in.Unlock()
		m.mu.Lock()
		for _, l := range lines {
			switch {
			case !l.At.After(m.last[l.Source]): // it was read
			case m.live:
				m.out(l)
			default:
				m.held = append(m.held, l)
			}
		}
		m.mu.Unlock()
	}
}

// line takes a line of an instance, and prints what of the journals is older
// first.
func (m *merged) line(l mesh.LogLine) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.live && m.q.Lines >= 0 {
		// Of all together the last ones are wanted: nothing is known before the end.
		m.held = append(m.held, l)
		return m.err
	}
	m.before(l.At)
	m.out(l)
	return m.err
}

func (m *merged) before(at time.Time) {
	n := 0
	for n < len(m.held) && !m.held[n].At.After(at) {
		m.out(m.held[n])
		n++
	}
	m.held = m.held[n:]
}

// caught is called when what there was is known.
func (m *merged) caught() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live {
		return
	}
	m.live = true
	slices.SortStableFunc(m.held, func(a, b mesh.LogLine) int { return a.At.Compare(b.At) })
	if n := m.q.Lines; n >= 0 && len(m.held) > n {
		m.held = m.held[len(m.held)-n:]
	}
	for _, l := range m.held {
		m.out(l)
	}
	m.held = nil
}

func (m *merged) out(l mesh.LogLine) {
	if m.err != nil {
		return
	}
	if m.err = m.print(l); m.err != nil {
		m.fail(m.err)
	}
}

// logPrinter prints log lines, one call at a time.
func (c *call) logPrinter() func(mesh.LogLine) error {
	lines := json.NewEncoder(c.Stdout) // an object a line, for what reads as they come
	lines.SetEscapeHTML(false)
	return func(l mesh.LogLine) error {
		if c.json {
			return lines.Encode(logJSON(l))
		}
		_, err := fmt.Fprintf(c.Stdout, "%s %s[%s]: %s\n", l.At.UTC().Format(logTime), l.Source, l.Name, l.Text)
		return err
	}
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
