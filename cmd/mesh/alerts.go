package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mesh"
	"mesh/alerts"
	"mesh/notify"
	"mesh/runner"
)

// lookTime limits how long one look at the engine may take, for alerts.
const lookTime = 5 * time.Second

// wireAlerts connects what finds causes for alerts with what delivers messages. The
// deployer must exist; it calls the watcher.
func (c *control) wireAlerts() {
	o := notify.Options{
		Recipients: c.store.Recipients, Outbox: c.store.Outbox, Delivered: c.deployer.Delivered,
		Server: c.settings.Domain, Version: c.version, Logger: c.log,
	}
	if c.settings.egress != nil {
		o.Dial, o.Check = c.settings.egress.Dial, c.settings.egress.Check
	}
	c.notifier = notify.New(o)
	w := alerts.Options{
		Records: c.deployer, Reader: c.store, Send: c.notifier.Send, Logger: c.log,
		Instances: c.deployer.Status, Traffic: c.router.Minute, Memory: c.memoryUse, Disks: c.disks, Engine: c.engineAnswers, Backups: c.deployer.BackupFaults, Addons: c.deployer.AddonFaults, Jobs: c.deployer.JobFaults,
		Nodes: func() []mesh.Node { all, _ := c.cluster.Members(); return all },
		Every: c.alertsEvery, Calm: 8 * c.alertsEvery,
	}
	if c.certs != nil {
		w.Certificates = func(st mesh.Stack) []mesh.Certificate { return c.certs.List(st.Name, c.deployer.Domains(st)) }
	}
	c.watcher = alerts.New(w)
}

// runAlerts finds causes and delivers messages until ctx ends.
func (c *control) runAlerts(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return c.watcher.Run(ctx) })
	g.Go(func() error { return c.notifier.Run(ctx) })
	return g.Wait()
}

// ended and crashed pass on what the deployer reports.
func (c *control) ended(d mesh.Deployment) {
	c.metrics.deployed(d)
	c.watcher.Deployed(d)
	c.schedules.Changed() // another release may declare other jobs
}

func (c *control) crashed(stack mesh.StackName, in mesh.InstanceStatus) {
	c.watcher.Crashed(stack, in)
}

func (c *control) engineAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	return c.runner.Ping(ctx)
}

func (c *control) memoryUse(ctx context.Context) (out []alerts.Memory, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	runners := append([]*runner.Runner{c.runner}, c.machines.runners()...)
	found := make([][]runner.MemoryUse, len(runners))
	var g errgroup.Group
	for i, r := range runners {
		g.Go(func() (err error) {
			found[i], err = r.MemoryUse(ctx)
			return err
		})
	}
	err = g.Wait()
	for _, m := range slices.Concat(found...) {
		out = append(out, alerts.Memory{Stack: m.Stack, Instance: m.Name, Used: m.Used, Limit: m.Limit})
	}
	return out, err
}

// disks returns the file systems of the data directory and, if this machine has it, of the
// engine's folder. One that both are in is listed once.
func (c *control) disks(ctx context.Context) (out []alerts.Disk) {
	paths := []string{c.settings.Data}
	if c.engineFolder == "" { // it is not known yet
		ctx, cancel := context.WithTimeout(ctx, lookTime)
		defer cancel()
		if info, err := c.engine.API(ctx).Info(ctx); err == nil {
			c.engineFolder = info.DockerRootDir
		}
	}
	if c.engineFolder != "" {
		paths = append(paths, c.engineFolder)
	}
	seen := map[uint64]bool{}
	for _, p := range paths {
		var file unix.Stat_t
		var st unix.Statfs_t
		if unix.Stat(p, &file) != nil || unix.Statfs(p, &st) != nil || seen[file.Dev] {
			continue
		}
		seen[file.Dev] = true
		block := uint64(st.Bsize) //nolint:gosec,unconvert // signed on Linux and never negative
		// As df counts: what is reserved for root is neither used nor free.
		used, free := (st.Blocks-st.Bfree)*block, st.Bavail*block
		out = append(out, alerts.Disk{Path: p, Used: used, Size: used + free})
	}
	return out
}

// alertFindings returns open alerts, and recipients that messages do not reach, for the
// doctor.
func (c *control) alertFindings(ctx context.Context) (out []mesh.Finding) {
	open, err := c.store.OpenAlerts(ctx)
	if err != nil {
		return []mesh.Finding{{What: fmt.Sprintf("the alerts cannot be read: %v", err), Mend: "see the server's log"}}
	}
	for _, a := range open {
		out = append(out, mesh.Finding{What: fmt.Sprintf("alert since %s: %s", a.Since.Format(time.RFC3339), a), Mend: "next: " + a.Next()})
	}
	all, err := c.store.Recipients(ctx)
	if err != nil {
		return append(out, mesh.Finding{What: fmt.Sprintf("the recipients of alerts cannot be read: %v", err), Mend: "see the server's log"})
	}
	for _, r := range all {
		if d := c.notifier.Delivery(r.Name); !d.Failed.IsZero() {
			out = append(out, mesh.Finding{
				What: fmt.Sprintf("messages to %s have not been delivered since %s: %s; %s", r.Name, d.Failed.UTC().Format(time.RFC3339), d.Failure, counted(d.Waiting, "message")+" waiting"),
				Mend: fmt.Sprintf("fix the recipient, then: ssh mesh notify:test %s", r.Name),
			})
		}
	}
	if len(all) > 0 && len(out) == 0 {
		out = append(out, mesh.Finding{OK: true, What: fmt.Sprintf("no alert is open, and messages reach their recipients (%d)", len(all))})
	}
	return out
}

// backupWatch reports the outcome of backups.
type backupWatch struct {
	*serverInfo
	done func(error)
}

// Backup writes a backup, and reports whether that worked.
func (b backupWatch) Backup(ctx context.Context, w io.Writer, dumps ...mesh.Backup) (int, error) {
	n, err := b.serverInfo.Backup(ctx, w, dumps...)
	switch {
	case err != nil && ctx.Err() != nil: // the client left, and half a backup is none
		b.done(errors.New("the client went away before it was complete"))
	default:
		b.done(err)
	}
	return n, err
}
