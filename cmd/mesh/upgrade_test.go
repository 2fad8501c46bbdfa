package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"github.com/rogpeppe/go-internal/testscript"

	"mesh/router/certs/certstest"
)

// hasEnded reports whether a process has exited, even if it is still a zombie.
func hasEnded(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

func waitEnded(pid int) error {
	return poll(func() error {
		if !hasEnded(pid) {
			return fmt.Errorf("process %d is still there", pid)
		}
		return nil
	})
}

// cmdUpgrade makes the server hand over N times by SIGHUP. Each time it waits until
// another process is ready.
func cmdUpgrade(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: upgrade N")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	dir := ts.Getenv("MESH_DATA")
	before := 0 // the process before the one that is asked
	for range n {
		old, err := readReady(dir)
		ts.Check(err)
		ts.Check(syscall.Kill(old.PID, syscall.SIGHUP))
		err = poll(func() error {
			r, err := readReady(dir)
			if err == nil && r.PID == old.PID {
				err = errors.New("no other process is ready")
			}
			return err
		})
		if err != nil {
			ts.Fatalf("%v:\n%s", err, whatTheyDo(ts, before, old.PID))
		}
		before = old.PID
	}
}

// whatTheyDo ends processes with what each of their goroutines waits for, and returns the
// server's log with it.
func whatTheyDo(ts *testscript.TestScript, pids ...int) string {
	for _, pid := range pids {
		if pid > 0 && syscall.Kill(pid, syscall.SIGQUIT) == nil {
			_ = waitEnded(pid)
		}
	}
	log, err := os.ReadFile(filepath.Join(ts.Getenv("WORK"), "server.log"))
	ts.Check(err)
	return string(log)
}

// cmdHalt ends the ready server, which may be another process than the one that the
// script has started.
func cmdHalt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: halt")
	}
	r, err := readReady(ts.Getenv("MESH_DATA"))
	ts.Check(err)
	ts.Check(syscall.Kill(r.PID, syscall.SIGINT))
	ts.Check(waitEnded(r.PID))
}

// activated holds the servers started in place of systemd's, by work directory.
var activated sync.Map

// unit is a service with socket activation, as far as a server can see: the sockets
// exist before it starts and stay when it ends.
type unit struct {
	sockets []*os.File
	cmd     *exec.Cmd
}

// cmdActivate acts as systemd with mesh.socket: activate start [acme]|restart N|stop.
// With acme there is a TLS listener, and an ACME server that validates here.
func cmdActivate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: activate start | activate restart N | activate stop")
	}
	work := ts.Getenv("WORK")
	if args[0] == "start" {
		u := &unit{}
		ports := map[string]int{}
		for _, name := range []string{"MESH_SSH_ADDR", "MESH_HTTP_ADDR", "MESH_HTTPS_ADDR"} {
			if name == "MESH_HTTPS_ADDR" && len(args) == 1 {
				continue
			}
			l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
			ts.Check(err)
			ts.Setenv(name, l.Addr().String())
			ports[name] = l.Addr().(*net.TCPAddr).Port
			f, err := l.(*net.TCPListener).File()
			ts.Check(err)
			l.Close()
			ts.Defer(func() { f.Close() })
			u.sockets = append(u.sockets, f)
		}
		if len(args) > 1 {
			acme, err := certstest.Start(certstest.Options{
				HTTPPort: ports["MESH_HTTP_ADDR"], TLSPort: ports["MESH_HTTPS_ADDR"], Validity: 90 * 24 * time.Hour, Log: io.Discard,
			})
			ts.Check(err)
			ts.Defer(acme.Close)
			ts.Setenv("MESH_ACME_DIRECTORY", acme.Directory)
			ts.Setenv("MESH_ACME_CA_ROOT", filepath.Join(work, "acme.pem"))
			ts.Setenv("ROOT", filepath.Join(work, "root.pem"))
			ts.Check(os.WriteFile(filepath.Join(work, "acme.pem"), certstest.PEM(acme.Own), 0o600))
			ts.Check(os.WriteFile(filepath.Join(work, "root.pem"), certstest.PEM(acme.Root), 0o600))
		}
		activated.Store(work, u)
		u.start(ts)
		return
	}
	v, ok := activated.Load(work)
	if !ok {
		ts.Fatalf("nothing is activated")
	}
	u := v.(*unit)
	switch args[0] {
	case "restart":
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		for range n {
			ts.Check(u.cmd.Process.Signal(syscall.SIGTERM))
			ts.Check(u.cmd.Wait())
			u.start(ts)
			ts.Check(poll(func() error {
				r, err := readReady(ts.Getenv("MESH_DATA"))
				if err == nil && r.PID != u.cmd.Process.Pid {
					err = errors.New("not ready")
				}
				return err
			}))
		}
	case "stop":
		ts.Check(u.cmd.Process.Signal(syscall.SIGTERM))
		ts.Check(u.cmd.Wait())
		activated.Delete(work)
	}
}

func (u *unit) start(ts *testscript.TestScript) {
	log, err := os.OpenFile(filepath.Join(ts.Getenv("WORK"), "server.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer log.Close()
	u.cmd = exec.Command("sh", "-c", fmt.Sprintf("LISTEN_PID=$$ LISTEN_FDS=%d exec mesh serve", len(u.sockets)))
	u.cmd.ExtraFiles = u.sockets
	u.cmd.Stdout, u.cmd.Stderr = log, log
	for _, k := range []string{"HOME", "PATH", "MESH_DATA", "MESH_TEST_RUN", "MESH_SSH_ADDR", "MESH_HTTP_ADDR", "MESH_HTTPS_ADDR", "MESH_ACME_DIRECTORY", "MESH_ACME_CA_ROOT", "MESH_HSTS", "MESH_DOMAIN", "DOCKER_HOST"} {
		u.cmd.Env = append(u.cmd.Env, k+"="+ts.Getenv(k))
	}
	ts.Check(u.cmd.Start())
}

// talks holds the open WebSockets, by work directory.
var talks sync.Map

type talk struct {
	cancel context.CancelFunc
	ended  chan error
}

// cmdTalk keeps a WebSocket to an app busy between "talk start HOST PATH" and "talk
// stop", which fails if an answer was missing.
func cmdTalk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: talk start HOST PATH | talk stop")
	}
	work := ts.Getenv("WORK")
	if args[0] == "stop" {
		v, ok := talks.LoadAndDelete(work)
		if !ok {
			ts.Fatalf("nobody talks")
		}
		t := v.(*talk)
		t.cancel()
		if err := <-t.ended; err != nil {
			ts.Fatalf("the WebSocket: %v", err)
		}
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &talk{cancel: cancel, ended: make(chan error, 1)}
	c, _, err := websocket.Dial(ctx, "ws://"+ts.Getenv("HTTP")+args[2], &websocket.DialOptions{Host: args[1]}) //nolint:bodyclose // the library's
	ts.Check(err)
	ts.Defer(cancel)
	talks.Store(work, t)
	go func() {
		defer c.CloseNow() //nolint:errcheck // over anyway
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			msg := strconv.Itoa(n)
			err := c.Write(context.Background(), websocket.MessageText, []byte(msg))
			var got []byte
			if err == nil {
				_, got, err = c.Read(context.Background())
			}
			if err == nil && !strings.HasSuffix(string(got), " "+msg) {
				err = fmt.Errorf("answer %q to %q", got, msg)
			}
			if err != nil {
				t.ended <- err
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.ended <- nil
				return
			}
		}
	}()
}
