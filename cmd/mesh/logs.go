package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"mesh"
	"mesh/drains"
	"mesh/logs"
	"mesh/metrics"
	"mesh/router/certs"
	"mesh/runner"
)

// logLimits returns the limits of a stack's log, from its settings.
func (sv *server) logLimits(stack mesh.StackName) (out logs.Limits) {
	st := sv.limits.Load()
	if st == nil {
		return out
	}
	found, err := st.Stack(context.Background(), stack) // it does not wait
	if err != nil {
		return out
	}
	set := found.Effective()
	return logs.Limits{Size: set.LogSize, Age: set.LogAge, Rate: set.LogRate}
}

// openLogs makes this process the one that leads the logs, and takes over what an earlier
// mesh kept elsewhere.
func (c *control) openLogs(ctx context.Context) {
	c.limits.Store(c.store)
	stacks, err := c.store.Stacks(ctx)
	if err != nil {
		c.log.Warn("logs of an earlier version not looked for", "err", err)
	}
	c.logs.Lead(true) // before the stacks, whose files it would read a second time
	for _, st := range stacks {
		c.logs.Keep(st.Name)
	}
	for folder, source := range map[string]string{"events": logs.SourceMesh, "router": logs.SourceRouter} {
		dir := filepath.Join(c.settings.Data, folder)
		if err := c.logs.Import(dir, source); err != nil {
			c.log.Warn("lines of an earlier version not taken over", "folder", folder, "err", err)
			continue
		}
		_ = os.Remove(filepath.Join(dir, ".mesh-server"))
		_ = os.Remove(dir) // unless it has lines of unknown stacks
	}
}

// newDrains creates what sends lines elsewhere.
func (c *control) newDrains() *drains.Sender {
	o := drains.Options{
		Drains: c.store.Drains, Stacks: c.store.Stacks, Close: c.logs.CloseQueue, Version: c.version, Logger: c.log,
		Open: func(stack mesh.StackName, drain string) (drains.Queue, error) { return c.logs.OpenQueue(stack, drain) },
	}
	if c.settings.egress != nil {
		o.Dial = c.settings.egress.Dial
	}
	return drains.New(o)
}

// drainFindings returns the drains that fail, for the doctor.
func (c *control) drainFindings(ctx context.Context) (out []mesh.Finding) {
	all, err := c.store.Drains(ctx)
	if err != nil {
		return []mesh.Finding{{What: fmt.Sprintf("the drains cannot be read: %v", err), Mend: "see the server's log"}}
	}
	for _, d := range all {
		if s := c.drains.Status(d.ID); !s.Failed.IsZero() {
			of := "all stacks"
			if d.Stack != "" {
				of = string(d.Stack)
			}
			out = append(out, mesh.Finding{
				What: fmt.Sprintf("the drain %s of %s fails since %s: %s", d.ID, of, s.Failed.UTC().Format(time.RFC3339), s.Failure),
				Mend: fmt.Sprintf("check %s, or remove the drain: ssh mesh drains:remove %s", d.Shown, d.ID),
			})
		}
	}
	if len(all) > 0 && len(out) == 0 {
		out = append(out, mesh.Finding{OK: true, What: fmt.Sprintf("the drains send their lines (%d)", len(all))})
	}
	return out
}

// knownStack reports whether a stack exists.
func (c *control) knownStack(name mesh.StackName) bool {
	_, err := c.store.Stack(context.Background(), name) // it does not wait
	return err == nil
}

// logReader reads the lines of stacks, wherever they are kept.
type logReader struct {
	runner *runner.Runner
	kept   *logs.Logs
}

// Logs reads kept lines, or with q.Run those of a detached run from the engine, which
// knows when it ends.
func (l logReader) Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	if q.Run != "" {
		return l.runner.Logs(ctx, q, fn)
	}
	return l.kept.Logs(ctx, q, fn)
}

// events keeps mesh's own lines. Its Rename also renames a stack's metrics and
// certificates.
type events struct {
	logs    *logs.Logs
	metrics *metrics.Store
	certs   *certs.Certs // nil without TLS
	log     *slog.Logger
}

// Event keeps a line.
func (e events) Event(stack mesh.StackName, l mesh.LogLine) { e.logs.Add(stack, l) }

// Rename renames a stack's log.
func (e events) Rename(from, to mesh.StackName) {
	e.logs.Rename(from, to)
	e.metrics.Rename(from, to)
	if e.certs == nil {
		return
	}
	if err := e.certs.Rename(from, to); err != nil {
		e.log.Warn("uploaded certificates not renamed", "stack", to, "err", err)
	}
}
