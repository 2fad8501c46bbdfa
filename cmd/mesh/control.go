package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"mesh"
	"mesh/addons"
	"mesh/alerts"
	"mesh/builder"
	"mesh/cluster"
	"mesh/command"
	"mesh/cron"
	"mesh/deploy"
	"mesh/drains"
	"mesh/hooks"
	"mesh/logs"
	"mesh/notify"
	"mesh/receiver"
	"mesh/repos"
	"mesh/runner"
	"mesh/store"
	"mesh/volumes"
)

// control is everything that writes: the store, and the parts that use it.
type control struct {
	*server
	store     *store.Store
	hostKey   ssh.Signer
	repos     *repos.Repos
	runner    *runner.Runner // of this machine
	machines  *machines
	cluster   *cluster.Cluster
	addons    *addons.Server
	volumes   *volumes.Store
	deployer  *deploy.Deployer
	receiver  *receiver.Receiver
	collector *logs.Collector
	drains    *drains.Sender
	watcher   *alerts.Watcher
	notifier  *notify.Notifier
	schedules *cron.Loop
	self      *serverInfo
	leave     context.CancelFunc // ends what never ends by itself, before another process takes over

	engineFolder string // for the watcher alone, which looks at its disk
}

// control runs a control until ctx ends, or until another process has taken over, which
// it then returns. If a process fails to take over, this one continues.
func (sv *server) control(ctx context.Context, c *control, stdout io.Writer) (*successor, error) {
	for first := true; ; first = false {
		serving, err := c.serve(ctx)
		if err != nil {
			return nil, err
		}
		if first {
			if err := sv.announce(c, stdout); err != nil {
				sv.log.Warn("ready file not written", "err", err)
			}
			defer sv.forget()
		}
		next, wish, err := c.run(ctx, serving)
		if next == nil {
			return nil, err
		}
		sv.router.PausePorts()
		sv.wires.retire()
		if err := next.pass(sv.names, sv.ports, sv.wires.socket()...); err != nil {
			sv.log.Warn("sockets not passed: some ports, names and links are not served until this process has ended", "err", err)
		}
		err = next.letIn(ctx)
		wish.answer <- upgradeResult{next: next.Successor, err: err}
		if err == nil {
			sv.wires.release()
			return next, nil
		}
		sv.router.ResumePorts()
		sv.wires.resume()
		if ctx.Err() != nil {
			return nil, nil
		}
		again, err := sv.open(ctx)
		if err != nil {
			return nil, fmt.Errorf("go on after an upgrade that failed: %w", err)
		}
		again.wire() // before the copy: the parts that open made use its deployer
		*c = *again
		if err := c.reconcile(ctx, false); err != nil {
			return nil, err
		}
	}
}

// open opens the store, which makes this process the writer.
func (sv *server) open(ctx context.Context) (_ *control, err error) {
	c := &control{server: sv}
	if sv.settings.StartOver {
		if err := startOver(sv.settings.Data, sv.log); err != nil {
			return nil, err
		}
	}
	if s, is, err := readStandby(sv.settings.Data); err != nil {
		return nil, err
	} else if is {
		return nil, mesh.Errorf(mesh.Conflict, "%s is a copy of the server at %s", sv.settings.Data, s.From).
			WithHint("if that one is gone for good: mesh standby --take-over --data %s", sv.settings.Data)
	}
	if c.store, err = store.Open(sv.settings.Data); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.store.Close())
		}
	}()
	for _, note := range c.store.Notes() {
		sv.log.Warn("note about the data directory", "what", note)
	}
	for _, d := range c.store.Damaged() {
		sv.log.Error("a record is damaged", "stack", d.Stack, "record", d.What, "why", d.Why)
	}
	keyFile := filepath.Join(sv.settings.Data, "ssh_host_ed25519_key")
	_, kerr := os.Lstat(keyFile)
	newKey := errors.Is(kerr, os.ErrNotExist)
	if c.hostKey, err = receiver.HostKey(keyFile); err != nil {
		return nil, err
	}
	if c.repos, err = c.openRepos(); err != nil {
		return nil, err
	}
	if newKey {
		c.tellNewHostKey(ctx)
	}
	if err := c.clearAway(ctx); err != nil {
		sv.log.Warn("leftovers of unknown stacks not completely moved aside", "err", err)
	}
	return c, nil
}

// openRepos opens the repositories and installs git's hooks. If the disk is full or
// read-only, only pushes are refused.
func (c *control) openRepos() (*repos.Repos, error) {
	folder := filepath.Join(c.settings.Data, "hooks")
	switch err := hooks.Install(folder); {
	case err != nil && mesh.NoRoom(err):
		c.log.Warn("hooks not installed: pushes will fail", "err", err)
	case err != nil:
		return nil, fmt.Errorf("install the hooks: %w", err)
	}
	o := repos.Options{
		Dir: c.settings.Data, Hooks: folder, MaxInput: c.maxPush, Logger: c.log, Key: receiver.HostKey, Needed: c.needed,
	}
	if c.settings.egress != nil {
		o.Egress = c.settings.egress
	}
	return repos.Open(o)
}

// wire connects the parts.
func (c *control) wire() {
	s, log := c.settings, c.log
	c.openLogs(context.Background()) // it does not wait
	c.collector = logs.NewCollector(c.logs, c.knownStack)
	c.wireRunner()
	c.volumes = volumes.New(c.engine, volumes.Options{Server: c.store.Server(), Labels: c.labels, Logger: log})
	url := c.urls
	c.deployer = deploy.New(deploy.Options{
		Store: c.store, Builder: farBuilder{builder.New(c.engine, s.builder(c.store, log)), c.machines}, Runner: c.cluster, NodeServer: c.machines, Router: c.router, Repos: c.repos, Logger: log,
		OnEnded: c.ended, OnCrash: c.crashed, OnBuilt: c.metrics.built,
		Events: events{c.logs, c.kept, c.certs, log}, OnDefault: c.router.SetDefault, OnKeys: c.ownCertificate, EndSessions: func(signIn string) { c.receiver.EndSessions(signIn) },
		Domain: s.Domain, URL: url, DiskFree: func() (uint64, error) { return diskFree(s.Data) }, HostNetworks: hostNetworks, OnStep: c.reached,
		AddonServer: c.addons, VolumeServer: c.volumes, Ports: c.ports, Memory: memory{filepath.Join(s.Data, "instances.json")}, Backup: c.backupOptions(), Jobs: c.jobOptions(), Now: c.now, Compare: c.router.Compare, LastUse: c.router.LastUse, LinkKey: c.store.Key("links"), Reporter: c.forgeClient(),
	})
	c.schedules = c.newSchedules()
	c.wireAlerts()
	c.repos.Deployed = c.deployer.RepoState
	c.drains = c.newDrains()
	c.names.Use(c.deployer)
	c.sampler.Instances, c.sampler.Containers = c.deployer, c.cluster // it does not run yet
	leaving, leave := context.WithCancel(context.Background())
	c.leave = leave
	c.self = &serverInfo{
		leaving: leaving,
		engine:  c.engine, store: c.store, repos: c.repos, notes: &c.notes, handover: c.handover, names: c.names, stacks: c.findings,
		info: mesh.ServerInfo{
			Version: c.version, Started: c.started, SSH: c.listen.ssh.Addr().String(), HTTP: c.listen.http.Addr().String(), Domain: s.Domain,
			Data: s.Data, HostKey: ssh.FingerprintSHA256(c.hostKey.PublicKey()),
		},
	}
	if c.listen.admin != nil {
		c.self.info.Admin = c.listen.admin.Addr().String()
	}
	var uploads command.Certs
	if c.certs != nil {
		uploads = c.certs
	}
	commands := &command.Commands{
		Settings: c.store, ServerSetter: c.deployer, Stacks: c.store, History: c.store, Keys: c.store, Registries: c.store, AuditLog: c.store,
		Nodes: c.deployer, Logs: logReader{c.runner, c.logs}, Traffic: c.router, Measures: measures{c.kept, c.sampler}, Certs: uploads, Server: backupWatch{c.self, c.watcher.BackedUp}, Backups: c.deployer,
		Uploads: c.repos, DeployKeys: c.repos, Drains: c.deployer, DrainList: c.store, DrainSender: c.drains,
		Addons: c.deployer, AddonUse: c.deployer, AddonList: c.store, AddonKinds: c.addons, AddonData: c.deployer, AddonBackups: c.deployer, AppFiles: appFiles{},
		Canaries: c.deployer, Stages: c.deployer, Forges: c.deployer, Previews: c.deployer, PreviewList: c.store, Volumes: c.deployer, VolumeList: c.store, VolumeFiles: c.volumes,
		Alerts: c.store, AlertRules: c.deployer, Recipients: c.deployer, Notifier: c.notifier,
		Lifecycle: c.deployer, Configs: c.deployer, Builds: c.deployer, Processes: c.deployer, Services: c.deployer, Endpoints: c.deployer, Links: c.deployer, Ports: c.server,
		Hosts: c.deployer, AccessRules: c.deployer, Freezer: c.deployer, Deploys: c.deployer, Deployments: c.deployer, OneOffs: c.deployer, Jobs: c.deployer, Files: c.deployer,
		Keyring: c.deployer, SignIns: c.deployer, Auditor: c.deployer, Lives: c.deployer, Collector: c.deployer,
		Resolver: net.DefaultResolver, Version: c.version, URL: url, OwnURL: url(c.ownHost()), Logger: log, Now: time.Now,
	}
	if keys, err := c.store.Keys(context.Background()); err == nil { // it does not wait
		c.ownCertificate(keys)
	}
	c.receiver = receiver.New(receiver.Options{Repos: c.repos, Files: c.deployer, Dialer: c.deployer, Keys: c.store, Deployer: c.deployer, Commands: commands, HostKey: c.hostKey, Logger: log})
}

// reconcile makes the running instances and the routes match the store. With sweep it
// removes one-off containers; set it only if no process can be using them. An error means that
// this process must not serve; everything else is logged.
func (c *control) reconcile(ctx context.Context, sweep bool) error {
	if err := c.machines.begin(ctx); err != nil {
		return err
	}
	if sweep {
		if err := c.runner.Sweep(ctx); err != nil {
			c.log.Warn("one-off containers not swept", "err", err)
		}
	}
	if err := c.runner.Attach(ctx); err != nil {
		c.log.Warn("stack networks not joined", "err", err)
	}
	if err := c.deployer.Reconcile(ctx); err != nil {
		if errors.Is(err, mesh.Unavailable) {
			c.log.Warn("the Docker Engine does not answer: deployments fail until it does", "err", err)
		} else {
			c.log.Error("reconciling failed in part", "err", err)
		}
	}
	return nil
}

// serve begins to accept connections. The group ends with ctx or at the first error.
func (c *control) serve(ctx context.Context) (*errgroup.Group, error) {
	tcp, err := share(c.listen.ssh)
	if err != nil {
		return nil, err
	}
	local, err := share(c.listen.socket)
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	// Sessions end with ctx or, after this control has ended, with the parted ones.
	until, end := context.WithCancel(ctx)
	context.AfterFunc(c.part, end)
	g, gctx := errgroup.WithContext(until)
	g.Go(func() error { return c.receiver.Serve(gctx, tcp) })
	g.Go(func() error { return c.receiver.ServeLocal(gctx, local) })
	g.Go(func() error { return c.receiver.ServeWeb(gctx) })
	c.web.Store(c.receiver)
	c.forge.Store(newHookDoor(c.deployer))
	c.join.Store(&joinDoor{c.deployer, c.machines})
	c.waker.Store(c.deployer)
	return g, nil
}

// run supervises until ctx ends, or until a successor was requested, has started, and
// nothing is in progress any more. The store is closed when run returns.
func (c *control) run(ctx context.Context, serving *errgroup.Group) (*successor, upgradeRequest, error) {
	back, endBack := context.WithCancel(context.WithoutCancel(ctx)) // it serves the sessions, so it outlives them
	supervised := make(chan error, 1)
	due, endDue := context.WithCancel(back)
	waited := make(chan error, 1)
	go func() { waited <- c.runSchedules(due) }()
	go func() {
		var g errgroup.Group
		g.Go(func() error { c.purgeLost(back); return nil })
		g.Go(func() error { return c.cluster.Run(back) })
		g.Go(func() error { return c.deployer.Run(back) })
		g.Go(func() error { _ = c.sampler.Run(back); return nil })
		g.Go(func() error { return c.collector.Run(back) })
		g.Go(func() error {
			if err := c.drains.Run(back); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		})
		g.Go(func() error { return c.runAlerts(back) })
		supervised <- g.Wait()
	}()
	shut := func() error {
		endDue() // first: what it starts belongs to the deployer
		err := <-waited
		endBack()
		err = errors.Join(err, <-supervised)
		c.logs.Lead(false)
		return errors.Join(err, c.store.Close())
	}
	served := make(chan error, 1)
	go func() { served <- serving.Wait() }()
	for {
		select {
		case err := <-served:
			return nil, upgradeRequest{}, errors.Join(err, shut())
		case a := <-c.handover.asked:
			if err := c.deployer.MayHandOver(); err != nil {
				a.answer <- upgradeResult{err: err}
				continue
			}
			next, err := c.handover.start(ctx)
			if err != nil {
				a.answer <- upgradeResult{err: err}
				continue
			}
			c.log.Info("handing over", "pid", next.PID, "version", next.Version)
			endDue()
			c.finishDeployments(ctx)
			if ctx.Err() != nil { // stopped meanwhile, which ends the new process as well
				a.answer <- upgradeResult{err: context.Cause(ctx)}
				return nil, upgradeRequest{}, errors.Join(<-served, shut())
			}
			c.parted.Go(func() error { return <-served })
			return next, a, shut()
		}
	}
}

// finishDeployments waits until everything in progress has ended. Clients can sign in
// while instances drain; after that they wait.
func (c *control) finishDeployments(ctx context.Context) {
	c.leave()
	quiet, cancel := context.WithTimeoutCause(ctx, comeUp, errBusy)
	defer cancel()
	_ = c.deployer.WaitIdle(quiet) // the next lines handle what is left
	limit, cancel := context.WithTimeoutCause(ctx, settleTime, errBusy)
	defer cancel()
	if err := c.receiver.Retire(limit); err != nil {
		c.log.Warn("sessions cut for the new process", "err", err)
	}
	if err := c.deployer.WaitIdle(limit); err != nil {
		c.log.Warn("deployments cut for the new process", "err", err)
	}
}

var errBusy = errors.New("it took too long")
