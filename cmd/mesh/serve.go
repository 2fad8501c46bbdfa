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
	"strconv"
	"sync"
	"syscall"
	"time"

	charm "github.com/charmbracelet/log"
	docker "github.com/docker/docker/client"
	"github.com/spf13/pflag"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mesh"
	"mesh/builder"
	"mesh/deploy"
	"mesh/receiver"
	"mesh/receiver/command"
	"mesh/router"
	"mesh/runner"
	"mesh/store"
)

var levels = map[string]charm.Level{"debug": charm.DebugLevel, "info": charm.InfoLevel, "warn": charm.WarnLevel, "error": charm.ErrorLevel}

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
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return p.serve(ctx, s, log, stdout)
}

// ready is what a server that listens writes to DIR/ready.json, for programs that
// have to find it: with port 0 nobody else knows the addresses.
type ready struct {
	PID    int    `json:"pid"`
	SSH    string `json:"ssh"`
	HTTP   string `json:"http"`
	Admin  string `json:"admin,omitempty"`
	Socket string `json:"socket"`
	Host   string `json:"host_key"` // fingerprint
}

// serve runs the server until ctx ends.
func (p program) serve(ctx context.Context, s settings, log *slog.Logger, stdout io.Writer) (err error) {
	st, err := store.Open(s.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	hostKey, err := receiver.HostKey(filepath.Join(s.Data, "ssh_host_ed25519_key"))
	if err != nil {
		return err
	}
	repos, err := receiver.OpenRepos(s.Data, p.maxPush, log)
	if err != nil {
		return err
	}
	stacks, err := st.Stacks(ctx)
	if err != nil {
		return err
	}
	if err := repos.Prune(stacks); err != nil {
		return err
	}
	l, err := listen(ctx, s)
	if err != nil {
		return err
	}
	defer l.close()

	opts := []docker.Opt{docker.FromEnv, docker.WithAPIVersionNegotiation()}
	if s.DockerHost != "" {
		opts = append(opts, docker.WithHost(s.DockerHost))
	}
	engine, err := docker.NewClientWithOpts(opts...)
	if err != nil {
		return mesh.Errorf(mesh.Invalid, "the Docker Engine's address cannot be used: %w", err).WithHint("give one such as unix:///var/run/docker.sock with --docker-host")
	}
	defer func() { _ = engine.Close() }()

	rt := router.New(router.Options{Logger: log})
	run := runner.New(engine, runner.Options{Server: st.Server(), Logger: log, Labels: p.labels})
	url := urls(l.http.Addr())
	var recv *receiver.Receiver // made below; nobody signs in before
	d := deploy.New(deploy.Options{
		Store: st, Builder: builder.New(engine, s.builder(st.Server(), log)), Runner: run, Router: rt, Repos: repos, Logger: log,
		Domain: s.Domain, URL: url, DiskFree: func() (uint64, error) { return diskFree(s.Data) }, Taken: hostNetworks, Reached: p.reached,
		ShutOut: func(fp string) { recv.ShutOut(fp) },
	})
	self := &host{
		engine: engine, store: st, repos: repos,
		info: mesh.ServerInfo{
			Version: p.version, Started: time.Now().UTC(), SSH: l.ssh.Addr().String(), HTTP: l.http.Addr().String(), Domain: s.Domain,
			Data: s.Data, HostKey: ssh.FingerprintSHA256(hostKey.PublicKey()),
		},
	}
	if l.admin != nil {
		self.info.Admin = l.admin.Addr().String()
	}
	commands := &command.Set{
		State: st, Deployer: d, Collector: d, Modules: repos, Logs: run, Events: st, Uploads: repos, Server: self, Version: p.version, URL: url, Logger: log, Now: time.Now,
	}
	recv = receiver.New(receiver.Options{Repos: repos, Keys: st, Deployer: d, Commands: commands, HostKey: hostKey, Logger: log})

	// Connections that come meanwhile wait in the listeners' queues.
	if err := run.Sweep(ctx); err != nil {
		log.Warn("one-off containers not swept", "err", err)
	}
	if err := run.Attach(ctx); err != nil {
		log.Warn("the stacks' networks not joined", "err", err)
	}
	if err := d.Reconcile(ctx); err != nil {
		if errors.Is(err, mesh.Unavailable) {
			log.Warn("the Docker Engine does not answer: nothing can be deployed until it does", "err", err)
		} else {
			log.Error("not all could be made equal to the store", "err", err)
		}
	}

	// The back outlives the front, which it serves.
	back, endBack := context.WithCancel(context.WithoutCancel(ctx))
	defer endBack()
	var behind errgroup.Group
	behind.Go(func() error { return d.Run(back) })
	behind.Go(func() error {
		if err := rt.Run(back); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	front, fctx := errgroup.WithContext(ctx)
	front.Go(func() error { return recv.Serve(fctx, l.ssh) })
	front.Go(func() error { return recv.ServeLocal(fctx, l.socket) })
	front.Go(func() error { return rt.Serve(fctx, l.http) })
	if l.admin != nil {
		front.Go(func() error { return serveAdmin(fctx, l.admin, rt, run) })
	}
	r := ready{PID: os.Getpid(), SSH: l.ssh.Addr().String(), HTTP: l.http.Addr().String(), Socket: l.socket.Addr().String(), Host: ssh.FingerprintSHA256(hostKey.PublicKey())}
	if l.admin != nil {
		r.Admin = l.admin.Addr().String()
	}
	if err := p.announce(s, r, stdout); err != nil {
		log.Warn("ready file not written", "err", err)
	}
	defer os.Remove(filepath.Join(s.Data, "ready.json"))
	err = front.Wait()
	log.Info("stopping")
	endBack()
	return errors.Join(err, behind.Wait())
}

func (p program) announce(s settings, r ready, stdout io.Writer) error {
	_, _ = fmt.Fprintf(stdout, "mesh %s is ready: ssh %s, http %s, socket %s, domain %s, host key %s\n", p.version, r.SSH, r.HTTP, r.Socket, s.Domain, r.Host)
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(s.Data, "ready.json")
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// listeners are opened before anything is changed: a port in use ends the start
// with nothing touched.
type listeners struct{ ssh, http, admin, socket net.Listener }

func (l *listeners) close() {
	for _, x := range []net.Listener{l.ssh, l.http, l.admin, l.socket} {
		if x != nil {
			_ = x.Close()
		}
	}
}

func listen(ctx context.Context, s settings) (_ *listeners, err error) {
	l := &listeners{}
	var faults []error
	open := func(flag, addr string) net.Listener {
		x, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			e := mesh.Errorf(mesh.Unavailable, "--%s %s cannot be listened on: %w", flag, addr, err)
			switch {
			case errors.Is(err, syscall.EADDRINUSE):
				e = mesh.Errorf(mesh.Conflict, "--%s %s: the port is in use", flag, addr).WithHint("stop what uses it (ss -ltnp shows it), or choose another with --%s", flag)
			case errors.Is(err, syscall.EACCES):
				e.Hint = "ports below 1024 need root, or: setcap cap_net_bind_service=+ep " + os.Args[0]
			}
			faults = append(faults, e)
		}
		return x
	}
	l.ssh, l.http = open("ssh-addr", s.SSHAddr), open("http-addr", s.HTTPAddr)
	if s.AdminAddr != "" {
		l.admin = open("admin-addr", s.AdminAddr)
	}
	if l.socket, err = listenSocket(ctx, filepath.Join(s.Data, "mesh.sock")); err != nil {
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		l.close()
		return nil, errors.Join(faults...)
	}
	return l, nil
}

// listenSocket opens the local socket. The store is locked by now, so one that
// lies there is nobody's.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	// sun_path of unix(7) has 108 bytes, one of them for the end.
	if len(path) > 107 {
		return nil, mesh.Errorf(mesh.Invalid, "the path of the local socket is too long (%d bytes, 107 are possible): %s", len(path), path).
			WithHint("choose a shorter data directory with --data")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path) // the directory is 0700, so there is no moment at which others get in
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}

// urls tells people how to reach a host through the listener.
func urls(addr net.Addr) func(mesh.Host) string {
	suffix := ""
	if tcp, ok := addr.(*net.TCPAddr); ok && tcp.Port != 80 {
		suffix = ":" + strconv.Itoa(tcp.Port)
	}
	return func(h mesh.Host) string { return "http://" + string(h) + suffix }
}

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
func serveAdmin(ctx context.Context, l net.Listener, rt *router.Router, run *runner.Runner) error {
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
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		writeMetrics(w, rt.Snapshot())
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	var once sync.Once
	stop := context.AfterFunc(ctx, func() { once.Do(func() { _ = srv.Close() }) })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
