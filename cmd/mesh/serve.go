package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	charm "github.com/charmbracelet/log"
	"github.com/coreos/go-systemd/v22/daemon"
	docker "github.com/docker/docker/client"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"mesh"
	"mesh/builder"
	"mesh/command"
	"mesh/deploy"
	"mesh/engine"
	"mesh/hooks"
	"mesh/journal"
	"mesh/receiver"
	"mesh/repos"
	"mesh/router"
	"mesh/router/certs"
	"mesh/runner"
	"mesh/store"
)

var levels = map[string]charm.Level{"debug": charm.DebugLevel, "info": charm.InfoLevel, "warn": charm.WarnLevel, "error": charm.ErrorLevel}

// memoryLimit is above which the garbage collector works harder, in bytes: mesh uses
// some 50 MB, and less than 300 MB for a push at every limit.
const memoryLimit = 1 << 30

// limitMemory gives the process a soft limit of memory, unless GOMEMLIMIT does: it is the
// router, and is to be the last to go when memory runs out.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

func (p program) serveMain(args []string, stdout, stderr io.Writer) error {
	s, err := parseSettings(args, os.Getenv)
	if errors.Is(err, pflag.ErrHelp) {
		serveHelp(stdout)
		return nil
	}
	if err != nil {
		return err
	}
	handler := charm.NewWithOptions(stderr, charm.Options{Level: levels[s.LogLevel], ReportTimestamp: true, TimeFormat: time.RFC3339})
	if s.LogFormat == "json" {
		handler.SetFormatter(charm.JSONFormatter)
	}
	log := slog.New(handler)
	limitMemory()
	ends, hup := []os.Signal{syscall.SIGTERM, os.Interrupt}, make(chan os.Signal, 1)
	if term.IsTerminal(int(os.Stdin.Fd())) { //nolint:gosec // a descriptor
		ends = append(ends, syscall.SIGHUP) // its window was closed
	} else {
		signal.Notify(hup, syscall.SIGHUP)
		defer signal.Stop(hup)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return p.serve(ctx, hup, s, log, stdout)
}

// ready is what a server that listens writes to DIR/ready.json, for programs that
// have to find it: with port 0 nobody else knows the addresses.
type ready struct {
	PID    int    `json:"pid"`
	SSH    string `json:"ssh"`
	HTTP   string `json:"http"`
	HTTPS  string `json:"https,omitempty"`
	Admin  string `json:"admin,omitempty"`
	Socket string `json:"socket"`
	Host   string `json:"host_key"` // fingerprint
}

// server is what lives as long as the process: listeners, the router and its
// traffic. What writes, a control, can be ended and begun anew beside it.
type server struct {
	program
	settings settings
	log      *slog.Logger
	engine   *docker.Client
	handover *handover
	listen   *listeners
	router   *handoverRouter
	journal  *journal.Journal // of requests
	events   *journal.Journal // of what mesh does
	certs    *certs.Certs     // nil without TLS
	metrics  *metrics
	started  time.Time
	notes    notes
	parted   errgroup.Group // sessions that have outlived their control
	part     context.Context
}

// serve runs the server until ctx ends or another process has taken over, which
// each value from hup asks for.
//
// Four contexts end one after the other. control is the first: no new sessions, no new
// deployments. traffic follows once requests in flight have ended, then parted, for the
// sessions that only read. background ends last: the router outlives its traffic, and
// the traffic outlives whoever asks for a stop.
func (p program) serve(ctx context.Context, hup <-chan os.Signal, s settings, log *slog.Logger, stdout io.Writer) (err error) {
	h, err := newHandover()
	if err != nil {
		return err
	}
	if err := h.await(ctx, p.version); err != nil {
		return err
	}
	sv := &server{program: p, settings: s, log: log, handover: h, started: time.Now().UTC()}
	c, err := sv.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.store.Close()) }() // of the last one; closing twice is nothing
	defer sv.close()
	if err := sv.prepare(ctx); err != nil {
		return err
	}
	c.wire()
	c.reconcile(ctx, !h.upg.HasParent())

	background, endBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer endBackground()
	behind := sv.runBackground(background)
	front, frontCtx := errgroup.WithContext(background)
	control, endControl := context.WithCancelCause(ctx)
	defer endControl(nil)
	context.AfterFunc(frontCtx, func() { endControl(context.Cause(frontCtx)) })
	traffic, endTraffic := context.WithCancel(frontCtx)
	defer endTraffic()
	sv.serveTraffic(traffic, front, c.runner) // c changes when another process fails to take over
	go sv.upgradeOn(control, hup)
	parted, endParted := context.WithCancel(background)
	defer endParted()
	sv.part = parted

	next, err := sv.control(control, c, stdout)
	if next != nil {
		_, _ = daemon.SdNotify(false, fmt.Sprintf("MAINPID=%d", next.PID))
		log.Info("another process has taken over", "pid", next.PID, "version", next.Version)
		go func() {
			if next.dies(frontCtx) {
				log.Error("the process that had taken over is gone: this one ends, so that another one can be started", "pid", next.PID)
				endParted()
				sv.router.Cut()
			}
		}()
	} else {
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
		log.Info("stopping")
		h.upg.Stop()
		endParted()
		if frontCtx.Err() == nil {
			sv.finishRequests(background)
		}
	}
	endTraffic()
	limit := time.AfterFunc(partTime, endParted)
	err = errors.Join(err, sv.parted.Wait()) // before the front, whose end ends them
	limit.Stop()
	err = errors.Join(err, front.Wait())
	endBackground()
	return errors.Join(err, behind.Wait())
}

// prepare opens what lives as long as the process: listeners, journals, certificates,
// the router. close closes it, also after an error.
func (sv *server) prepare(ctx context.Context) (err error) {
	s := sv.settings
	if sv.listen, err = listen(ctx, s, sv.handover); err != nil {
		return err
	}
	if at := sv.listen.socket.Addr().String(); filepath.Dir(at) != filepath.Clean(s.Data) {
		sv.log.Warn("nothing can be written to the data directory: the local socket is elsewhere", "socket", at)
	}
	if sv.engine, err = engine.New(s.DockerHost, sv.program.engine); err != nil {
		return err
	}
	if sv.journal, err = journal.Open(filepath.Join(s.Data, "router"), journal.Options{Logger: sv.log}); err != nil {
		return err
	}
	if sv.events, err = journal.Open(filepath.Join(s.Data, "events"), journal.Options{Logger: sv.log, Source: "mesh", Size: 256 << 10, Every: 50 * time.Millisecond}); err != nil {
		return err
	}
	o := router.Options{Logger: sv.log, Trusted: s.trusted, ProxyProtocol: s.ProxyProtocol, PerClient: s.PerClient, Access: sv.access, HSTS: s.HSTS}
	if sv.listen.https != nil {
		if sv.certs, err = sv.openCerts(); err != nil {
			return err
		}
		o.Secure, o.Challenge, o.HTTPSPort = sv.certs.Live, sv.certs.Challenge, port(sv.listen.https)
	}
	rt := router.New(o)
	sv.router = &handoverRouter{Router: rt, journals: []*journal.Journal{sv.journal, sv.events}, certs: sv.certs, gone: sv.handover.gone(), log: sv.log}
	sv.metrics = newMetrics(rt, sv.certs)
	return nil
}

// close closes what prepare has opened.
func (sv *server) close() {
	if sv.certs != nil {
		sv.certs.Close()
	}
	if sv.engine != nil {
		_ = sv.engine.Close()
	}
	if sv.listen != nil {
		sv.listen.close()
	}
}

// runBackground runs what serves no request itself: the journals, renewals, the router's
// own work.
func (sv *server) runBackground(ctx context.Context) *errgroup.Group {
	runs := []func(context.Context) error{sv.router.Run, sv.journal.Run, sv.events.Run}
	if sv.certs != nil {
		runs = append(runs, sv.certs.Run)
	}
	behind := &errgroup.Group{}
	for _, run := range runs {
		behind.Go(func() error {
			if err := run(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		})
	}
	return behind
}

// serveTraffic takes requests on all listeners until ctx ends.
func (sv *server) serveTraffic(ctx context.Context, front *errgroup.Group, run *runner.Runner) {
	front.Go(func() error { return sv.router.Serve(ctx, sv.listen.http) })
	if l := sv.listen.https; l != nil {
		front.Go(func() error { return sv.router.ServeTLS(ctx, l, sv.certs.TLSConfig()) })
	}
	if l := sv.listen.admin; l != nil {
		front.Go(func() error { return serveAdmin(ctx, l, sv.metrics, run) })
	}
}

// upgradeOn starts another process for each value from hup, until ctx ends.
func (sv *server) upgradeOn(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-hup:
			if _, err := sv.handover.ask(ctx); err != nil {
				sv.log.Error("not upgraded: this process serves on", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// finishRequests lets requests that are under way end, those in the process before this one
// too: what stops this process would take it for a left-over. Whoever comes meanwhile
// is served, and need not wait for the next process.
func (sv *server) finishRequests(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, partTime)
	defer cancel()
	sv.router.Settle(ctx)
	if sv.router.gone != nil {
		select {
		case <-sv.router.gone:
		case <-ctx.Done():
		}
	}
}

// partTime is for how long sessions that need nothing of this process but
// their connection go on after another one has taken over, and requests after the
// end of what writes.
const partTime = 30 * time.Second

// openCerts opens the certificates. The router, which has yet to be made, tells
// which hosts there are.
func (sv *server) openCerts() (*certs.Certs, error) {
	s := sv.settings
	o := certs.Options{
		Dir: filepath.Join(s.Data, "certs"), Logger: sv.log, Directory: s.ACMEDirectory, Email: s.ACMEEmail, Roots: s.roots,
		HTTPPort: port(sv.listen.http), TLSPort: port(sv.listen.https),
		Belongs: func(host string) (mesh.StackName, bool) { return sv.router.StackOf(host) },
	}
	if o.Directory == "none" {
		o.Directory = ""
	}
	if host, _, err := net.SplitHostPort(s.HTTPSAddr); err == nil {
		o.Host = host
	}
	return certs.Open(o)
}

// access writes a request's line into the log of its stack.
func (sv *server) access(a *router.AccessRecord) {
	if a.Stack == "" {
		return
	}
	sv.journal.Add(a.Stack, func(b []byte) []byte {
		name := "mesh"
		if a.Instance.Service != "" {
			name = a.Instance.String()
		}
		return a.AppendLine(journal.AppendStart(b, a.Time, name))
	})
}

// logs are the lines of stacks, from wherever they are kept.
type logs struct {
	runner         *runner.Runner
	router, events *journal.Journal
}

// Logs gives those of one source; without one, those of instances.
func (l logs) Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	switch q.Source {
	case "router":
		return l.router.Logs(ctx, q, fn)
	case "mesh":
		return l.events.Logs(ctx, q, fn)
	}
	return l.runner.Logs(ctx, q, fn)
}

// events keeps mesh's own lines; what is renamed with a stack is its requests and
// certificates, too.
type events struct {
	own, requests *journal.Journal
	certs         *certs.Certs // nil without TLS
	log           *slog.Logger
}

// Event keeps a line.
func (e events) Event(stack mesh.StackName, l mesh.LogLine) {
	e.own.Add(stack, func(b []byte) []byte { return append(journal.AppendStart(b, l.At, l.Name), l.Text...) })
}

// Rename renames a stack's logs.
func (e events) Rename(from, to mesh.StackName) {
	e.own.Rename(from, to)
	e.requests.Rename(from, to)
	if e.certs == nil {
		return
	}
	if err := e.certs.Rename(from, to); err != nil {
		e.log.Warn("uploaded certificates not renamed", "stack", to, "err", err)
	}
}

// control runs what writes until ctx ends, or until another process has taken
// over, which it returns. If one fails to, this process goes on.
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
		err = next.letIn(ctx)
		wish.answer <- upgradeResult{next: next.Successor, err: err}
		if err == nil {
			return next, nil
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		again, err := sv.open(ctx)
		if err != nil {
			return nil, fmt.Errorf("go on after an upgrade that failed: %w", err)
		}
		*c = *again
		c.wire()
		c.reconcile(ctx, false)
	}
}

// announce tells that requests, pushes and commands are served.
func (sv *server) announce(c *control, stdout io.Writer) error {
	l := sv.listen
	r := ready{PID: os.Getpid(), SSH: l.ssh.Addr().String(), HTTP: l.http.Addr().String(), Socket: l.socket.Addr().String(), Host: ssh.FingerprintSHA256(c.hostKey.PublicKey())}
	if l.admin != nil {
		r.Admin = l.admin.Addr().String()
	}
	http := r.HTTP
	if l.https != nil {
		r.HTTPS = l.https.Addr().String()
		http += ", https " + r.HTTPS
	}
	_, _ = fmt.Fprintf(stdout, "mesh %s is ready: ssh %s, http %s, socket %s, domain %s, host key %s\n", sv.version, r.SSH, http, r.Socket, sv.settings.Domain, r.Host)
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := sv.readyFile()
	err = os.WriteFile(path+".new", append(data, '\n'), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil { // one of an earlier process would lead astray
		_ = os.Remove(path + ".new")
		_ = os.Remove(path)
		sv.notes.add(mesh.Finding{What: fmt.Sprintf("nothing can be written to %s: %v", sv.settings.Data, err), Mend: "make room on the server, and restart mesh"})
	}
	return errors.Join(err, sv.handover.ready())
}

func (sv *server) readyFile() string { return filepath.Join(sv.settings.Data, "ready.json") }

// forget removes the ready file, unless it is another process's by now.
func (sv *server) forget() {
	var r ready
	data, err := os.ReadFile(sv.readyFile())
	if err == nil && json.Unmarshal(data, &r) == nil && r.PID == os.Getpid() {
		_ = os.Remove(sv.readyFile())
	}
}

// control is what writes: the store, and what stands around it.
type control struct {
	*server
	store    *store.Store
	hostKey  ssh.Signer
	repos    *repos.Repos
	runner   *runner.Runner
	deployer *deploy.Deployer
	receiver *receiver.Receiver
}

// open opens the store, which makes this process the one that writes.
func (sv *server) open(ctx context.Context) (_ *control, err error) {
	c := &control{server: sv}
	if sv.settings.StartOver {
		if err := startOver(sv.settings.Data, sv.log); err != nil {
			return nil, err
		}
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
		sv.log.Warn("found in the data directory", "what", note)
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
		sv.log.Warn("not all that belongs to no stack could be cleared away", "err", err)
	}
	return c, nil
}

// openRepos opens the repositories and installs git's hooks. A disk that takes nothing
// keeps pushes out, and nothing else.
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
		Deployed: func(ctx context.Context, stack mesh.StackName) (mesh.RepoState, error) {
			return c.deployer.RepoState(ctx, stack)
		},
	}
	if c.settings.egress != nil {
		o.Egress = c.settings.egress
	}
	return repos.Open(o)
}

// wire puts the parts together.
func (c *control) wire() {
	s, log := c.settings, c.log
	c.runner = runner.New(c.engine, runner.Options{Server: c.store.Server(), Logger: log, Labels: c.labels})
	url := c.urls
	c.deployer = deploy.New(deploy.Options{
		Store: c.store, Builder: builder.New(c.engine, s.builder(c.store, log)), Runner: c.runner, Router: c.router, Repos: c.repos, Logger: log,
		OnEnded: c.metrics.deployed, OnBuilt: c.metrics.built,
		Events: events{c.events, c.journal, c.certs, log}, EndSessions: func(fp string) { c.receiver.EndSessions(fp) },
		Domain: s.Domain, URL: url, DiskFree: func() (uint64, error) { return diskFree(s.Data) }, HostNetworks: hostNetworks, OnStep: c.reached,
		Memory: memory{filepath.Join(s.Data, "instances.json")},
	})
	self := &serverInfo{
		engine: c.engine, store: c.store, repos: c.repos, notes: &c.notes, handover: c.handover, stacks: c.deployer.Findings,
		info: mesh.ServerInfo{
			Version: c.version, Started: c.started, SSH: c.listen.ssh.Addr().String(), HTTP: c.listen.http.Addr().String(), Domain: s.Domain,
			Data: s.Data, HostKey: ssh.FingerprintSHA256(c.hostKey.PublicKey()),
		},
	}
	if c.listen.admin != nil {
		self.info.Admin = c.listen.admin.Addr().String()
	}
	var uploads command.Certs
	if c.certs != nil {
		uploads = c.certs
	}
	commands := &command.Commands{
		Stacks: c.store, History: c.store, Keys: c.store, Registries: c.store, AuditLog: c.store,
		Logs: logs{c.runner, c.journal, c.events}, Traffic: c.router, Certs: uploads, Server: self,
		Uploads: c.repos, DeployKeys: c.repos,
		Lifecycle: c.deployer, Configs: c.deployer, Builds: c.deployer, Processes: c.deployer, Services: c.deployer, Endpoints: c.deployer,
		Hosts: c.deployer, Freezer: c.deployer, Deploys: c.deployer, Deployments: c.deployer, OneOffs: c.deployer,
		Keyring: c.deployer, SignIns: c.deployer, Auditor: c.deployer, Lives: c.deployer, Collector: c.deployer,
		Version: c.version, URL: url, Logger: log, Now: time.Now,
	}
	c.receiver = receiver.New(receiver.Options{Repos: c.repos, Keys: c.store, Deployer: c.deployer, Commands: commands, HostKey: c.hostKey, Logger: log})
}

// reconcile makes what runs and what is routed equal to the store. One-off
// containers may be swept when no process can be using them.
func (c *control) reconcile(ctx context.Context, sweep bool) {
	if sweep {
		if err := c.runner.Sweep(ctx); err != nil {
			c.log.Warn("one-off containers not swept", "err", err)
		}
	}
	if err := c.runner.Attach(ctx); err != nil {
		c.log.Warn("the stacks' networks not joined", "err", err)
	}
	if err := c.deployer.Reconcile(ctx); err != nil {
		if errors.Is(err, mesh.Unavailable) {
			c.log.Warn("the Docker Engine does not answer: nothing can be deployed until it does", "err", err)
		} else {
			c.log.Error("not all could be made equal to the store", "err", err)
		}
	}
}

// serve begins to take connections; the group ends with ctx or the first fault.
func (c *control) serve(ctx context.Context) (*errgroup.Group, error) {
	tcp, err := share(c.listen.ssh)
	if err != nil {
		return nil, err
	}
	local, err := share(c.listen.socket)
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	// Sessions end with ctx or, once this control has gone, with those that have parted.
	until, end := context.WithCancel(ctx)
	context.AfterFunc(c.part, end)
	g, gctx := errgroup.WithContext(until)
	g.Go(func() error { return c.receiver.Serve(gctx, tcp) })
	g.Go(func() error { return c.receiver.ServeLocal(gctx, local) })
	return g, nil
}

// run supervises until ctx ends, or until somebody asks for a successor, one is
// there, and nothing is under way any more. The store is closed when it returns.
func (c *control) run(ctx context.Context, serving *errgroup.Group) (*successor, upgradeRequest, error) {
	back, endBack := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the sessions, which it serves
	supervised := make(chan error, 1)
	go func() {
		var g errgroup.Group
		g.Go(func() error { c.purgeLost(back); return nil })
		g.Go(func() error { return c.deployer.Run(back) })
		supervised <- g.Wait()
	}()
	shut := func() error {
		endBack()
		return errors.Join(<-supervised, c.store.Close())
	}
	served := make(chan error, 1)
	go func() { served <- serving.Wait() }()
	for {
		select {
		case err := <-served:
			return nil, upgradeRequest{}, errors.Join(err, shut())
		case a := <-c.handover.asked:
			next, err := c.handover.start(ctx)
			if err != nil {
				a.answer <- upgradeResult{err: err}
				continue
			}
			c.log.Info("handing over", "pid", next.PID, "version", next.Version)
			c.finishDeployments(ctx)
			if ctx.Err() != nil { // stopped meanwhile, which ends the new process, too
				a.answer <- upgradeResult{err: context.Cause(ctx)}
				return nil, upgradeRequest{}, errors.Join(<-served, shut())
			}
			c.parted.Go(func() error { return <-served })
			return next, a, shut()
		}
	}
}

// finishDeployments brings what is under way to its end. Others can sign in for as long as
// instances drain, and wait from then on.
func (c *control) finishDeployments(ctx context.Context) {
	quiet, cancel := context.WithTimeoutCause(ctx, comeUp, errBusy)
	defer cancel()
	_ = c.deployer.WaitIdle(quiet) // the next lines see to what is left
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

func diskFree(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil //nolint:gosec,unconvert // Bsize is signed on Linux and never negative
}

// hostNetworks are the networks that this machine has addresses in.
func hostNetworks() []netip.Prefix {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// serveAdmin answers /healthz and /metrics.
func serveAdmin(ctx context.Context, l net.Listener, m *metrics, run *runner.Runner) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := run.Ping(ctx); err != nil {
			http.Error(w, "the Docker Engine does not answer", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	var once sync.Once
	stop := context.AfterFunc(ctx, func() { once.Do(func() { _ = srv.Close() }) })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
