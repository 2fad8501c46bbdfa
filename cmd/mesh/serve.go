package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	charm "github.com/charmbracelet/log"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"mesh"
	"mesh/deploy"
	"mesh/engine"
	"mesh/logs"
	"mesh/metrics"
	"mesh/names"
	"mesh/receiver"
	"mesh/router"
	"mesh/router/certs"
	"mesh/runner"
	"mesh/store"
)

var levels = map[string]charm.Level{"debug": charm.DebugLevel, "info": charm.InfoLevel, "warn": charm.WarnLevel, "error": charm.ErrorLevel}

// memoryLimit is the use of memory, in bytes, above which the garbage collector works
// harder. mesh uses about 50 MB, and less than 300 MB for a push at every limit.
const memoryLimit = 1 << 30

// limitMemory gives the process a soft memory limit, unless GOMEMLIMIT does. The
// process is the router, so it must be the last to be killed when memory runs out.
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

// server is the part that lives as long as the process: listeners, the router and its
// traffic. A control, which does the writing, can end and begin again beside it.
type server struct {
	program
	settings settings
	log      *slog.Logger
	engine   *engine.Client
	handover *handover
	listen   *listeners
	ports    *ports
	router   *handoverRouter
	names    *names.Server
	web      atomic.Pointer[receiver.Receiver] // git over HTTPS; nil before the first control serves
	waker    atomic.Pointer[deploy.Deployer]   // of the control that serves; as web
	forge    atomic.Pointer[hookDoor]          // webhooks of forges; as web
	join     atomic.Pointer[joinDoor]          // for machines that are to be nodes; as web
	wires    wires
	logs     *logs.Logs
	limits   atomic.Pointer[store.Store] // whose settings limit the logs; nil before the first control
	certs    *certs.Certs                // nil without TLS
	metrics  *exporter
	kept     *metrics.Store
	sampler  *metrics.Sampler
	started  time.Time
	notes    notes
	parted   errgroup.Group // sessions that outlive their control
	part     context.Context
	failed   chan error // holds one: why this process must end
}

// fail ends the process in good order.
func (sv *server) fail(err error) {
	select {
	case sv.failed <- err:
	default: // it ends already
	}
}

// serve runs the server until ctx ends or another process has taken over. Each value
// from hup requests that.
//
// Four contexts end one after the other. control is first: no new sessions, no new
// deployments. traffic follows after the requests in progress, then parted, for the
// sessions that only read. background ends last: the router outlives its traffic, and
// the traffic outlives the request to stop.
func (p program) serve(ctx context.Context, hup <-chan os.Signal, s settings, log *slog.Logger, stdout io.Writer) (err error) {
	h, err := newHandover()
	if err != nil {
		return err
	}
	if err := h.await(ctx, p.version); err != nil {
		return err
	}
	sv := &server{program: p, settings: s, log: log, handover: h, ports: newPorts(s.ports), started: time.Now().UTC(), failed: make(chan error, 1)}
	sv.ports.receive(h.ports())
	c, err := sv.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.store.Close()) }() // of the last one; closing twice is harmless
	defer sv.close()
	if err := sv.prepare(ctx); err != nil {
		return err
	}
	c.wire()
	if err := c.reconcile(ctx, !h.upg.HasParent()); err != nil {
		return err
	}
	sv.ports.settle()

	background, endBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer endBackground()
	behind := sv.runBackground(background)
	front, frontCtx := errgroup.WithContext(background)
	control, endControl := context.WithCancelCause(ctx)
	defer endControl(nil)
	context.AfterFunc(frontCtx, func() { endControl(context.Cause(frontCtx)) })
	traffic, endTraffic := context.WithCancel(frontCtx)
	defer endTraffic()
	front.Go(func() error {
		select {
		case err := <-sv.failed:
			return err
		case <-traffic.Done():
			return nil
		}
	})
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
				log.Error("the new process has ended; ending this one, so that another can start", "pid", next.PID)
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
	endOverdue(log, endTime, os.Exit) // never stopped: closing is part of the end
	endTraffic()
	limit := time.AfterFunc(partTime, endParted)
	err = errors.Join(err, sv.parted.Wait()) // before the front, whose end ends them
	limit.Stop()
	err = errors.Join(err, front.Wait())
	sv.sampler.Leave()
	endBackground()
	return errors.Join(err, behind.Wait())
}

// prepare opens what lives as long as the process: listeners, journals, certificates,
// the router. close closes it, even after an error.
func (sv *server) prepare(ctx context.Context) (err error) {
	s := sv.settings
	if sv.listen, err = listen(ctx, s, sv.handover); err != nil {
		return err
	}
	if at := sv.listen.socket.Addr().String(); filepath.Dir(at) != filepath.Clean(s.Data) {
		sv.log.Warn("the data directory is not writable; the local socket is elsewhere", "socket", at)
	}
	if sv.engine, err = engine.New(s.DockerHost, sv.program.engine); err != nil {
		return err
	}
	if sv.logs, err = logs.Open(filepath.Join(s.Data, linesFolder), logs.Options{Logger: sv.log, Limits: sv.logLimits, Free: func() (uint64, error) { return diskFree(s.Data) }}); err != nil {
		return err
	}
	o := router.Options{Logger: sv.log, Trusted: s.trusted, ProxyProtocol: s.ProxyProtocol, PerClient: s.PerClient, Access: sv.access, HSTS: s.HSTS, Listen: sv.ports.listen}
	if sv.listen.https != nil {
		if sv.certs, err = sv.openCerts(); err != nil {
			return err
		}
		o.Secure, o.Challenge, o.HTTPSPort = sv.certs.Live, sv.certs.Challenge, port(sv.listen.https)
	}
	o.OwnHost, o.Own = string(sv.ownHost()), http.HandlerFunc(sv.serveGit)
	o.Wake = func(stack mesh.StackName) bool {
		d := sv.waker.Load()
		return d != nil && d.Wake(stack)
	}
	rt := router.New(o)
	sv.kept = metrics.Open(filepath.Join(s.Data, "metrics"), metrics.Options{Logger: sv.log})
	sv.router = &handoverRouter{Router: rt, metrics: sv.kept, logs: sv.logs, certs: sv.certs, gone: sv.handover.gone(), log: sv.log}
	sv.names = names.New(names.Options{Logger: sv.log, Inherited: sv.handover.socket, Door: sv.serveLinks, Blocked: namesBlocked})
	sv.sampler = &metrics.Sampler{Store: sv.kept, Traffic: rt, Logger: sv.log, Now: time.Now}
	sv.metrics = newExporter(rt, sv.certs, sv.sampler)
	return nil
}

// close closes what prepare has opened.
func (sv *server) close() {
	sv.wires.close()
	if sv.logs != nil {
		_ = sv.logs.Close()
	}
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

// runBackground runs everything that serves no requests: the journals, renewals, the
// router's own work.
func (sv *server) runBackground(ctx context.Context) *errgroup.Group {
	runs := []func(context.Context) error{sv.router.Run, sv.logs.Run}
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

// serveTraffic serves requests on all listeners until ctx ends.
func (sv *server) serveTraffic(ctx context.Context, front *errgroup.Group, run *runner.Runner) {
	front.Go(func() error { return sv.router.Serve(ctx, sv.listen.http) })
	front.Go(func() error {
		if err := sv.names.Run(ctx); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	front.Go(func() error { return sv.router.ServePorts(ctx) })
	if l := sv.listen.https; l != nil {
		front.Go(func() error { return sv.router.ServeTLS(ctx, l, sv.certs.TLSConfig()) })
	}
	if l := sv.listen.admin; l != nil {
		front.Go(func() error { return serveAdmin(ctx, l, sv.metrics, run) })
	}
}

// serveLinks serves the links of a stack until ctx ends.
func (sv *server) serveLinks(ctx context.Context, l net.Listener, stack mesh.StackName) {
	if err := sv.router.ServeLinks(ctx, l, stack); err != nil && ctx.Err() == nil {
		sv.log.Error("the links of a stack are not served any more", "stack", stack, "err", err)
	}
}

// ownHost is the host of mesh itself, below the base domain.
func (sv *server) ownHost() mesh.Host { return mesh.Host("mesh." + sv.settings.Domain) }

// serveGit answers requests for mesh's own host.
func (sv *server) serveGit(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/hooks/") {
		if h := sv.forge.Load(); h != nil {
			h.ServeHTTP(w, r)
			return
		}
	} else if c := sv.web.Load(); c != nil {
		c.ServeHTTP(w, r)
		return
	}
	http.Error(w, "error: mesh is starting", http.StatusServiceUnavailable)
}

// ownCertificate requests a certificate for mesh's own host while there are access tokens, or
// stacks that webhooks tell of a repository: it is for nothing else.
func (sv *server) ownCertificate(keys []mesh.Key) {
	if sv.certs == nil {
		return
	}
	var hosts []mesh.Host
	if slices.ContainsFunc(keys, func(k mesh.Key) bool { return k.Token != "" }) || sv.follows() {
		hosts = append(hosts, sv.ownHost())
	}
	sv.certs.Want(ownStack, hosts)
}

// follows reports whether a stack follows a repository.
func (sv *server) follows() bool {
	st := sv.limits.Load()
	if st == nil {
		return false
	}
	stacks, err := st.Stacks(context.Background()) // it does not wait
	return err == nil && slices.ContainsFunc(stacks, func(s mesh.Stack) bool { return s.Forge != nil })
}

// ownStack is whom the certificate of mesh's own host belongs to: no stack can have this
// name.
const ownStack mesh.StackName = "mesh"

// upgradeOn starts another process for each value from hup, until ctx ends.
func (sv *server) upgradeOn(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-hup:
			if _, err := sv.handover.ask(ctx); err != nil {
				sv.log.Error("upgrade failed; this process keeps serving", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// finishRequests waits for the requests in progress, including those in the process
// before this one: whatever stops this process would kill that one as a leftover. New
// requests are served meanwhile, and need not wait for the next process.
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

// partTime is how long sessions that need only their connection continue after another
// process has taken over, and requests after the end of the control.
const partTime = 30 * time.Second

// openCerts opens the certificates. The router, which does not exist yet, will provide
// the list of hosts.
func (sv *server) openCerts() (*certs.Certs, error) {
	s := sv.settings
	o := certs.Options{
		Dir: filepath.Join(s.Data, "certs"), Logger: sv.log, Directory: s.ACMEDirectory, Email: s.ACMEEmail, Roots: s.roots,
		HTTPPort: port(sv.listen.http), TLSPort: port(sv.listen.https),
		Belongs: func(host string) (mesh.StackName, bool) {
			if host == string(sv.ownHost()) {
				return ownStack, true
			}
			return sv.router.StackOf(host)
		},
	}
	if o.Directory == "none" {
		o.Directory = ""
	}
	if host, _, err := net.SplitHostPort(s.HTTPSAddr); err == nil {
		o.Host = host
	}
	return certs.Open(o)
}

// access writes a request's line to the log of its stack.
func (sv *server) access(a *router.AccessRecord) {
	if a.Stack == "" {
		return
	}
	name := "mesh"
	if a.Instance.Service != "" {
		name = a.Instance.String()
	}
	sv.logs.AddRequest(a.Stack, a.Time, name, a.AppendLine)
}
