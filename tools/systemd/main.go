// Command systemd checks mesh as a service of a real systemd, on the machine where it
// is started, as root. It checks what docs/operating.md promises of restarts, reloads,
// upgrades, crashes and stops, always with requests in progress, and that builds are
// limited. "make systemd" boots a machine for it and runs it there.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// host is the host of the app that scripts/systemd has deployed, which answers like
// cmd/mesh/testdata/app.
const (
	host = "shop.apps.example.com"
	addr = "127.0.0.1:80"
)

func main() {
	c := &checks{}
	flag.IntVar(&c.rounds, "n", 20, "how often to restart, and to reload")
	flag.StringVar(&c.program, "program", "/usr/local/bin/mesh", "`file` with the installed binary")
	flag.StringVar(&c.next, "next", "", "`file` with the binary to upgrade to, of another version")
	flag.StringVar(&c.unable, "unlimited", "", "`reason` for which builds cannot be limited here, from the log; empty: they must be")
	flag.StringVar(&c.only, "only", "", "do those checks alone that have this in their `name`")
	flag.Parse()
	if err := c.run(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL ", err)
		os.Exit(1)
	}
}

type checks struct {
	rounds       int
	program      string // where mesh is installed
	next, unable string
	only         string
	apps         string // the IDs of the app's containers
}

func (c *checks) run() error {
	var err error
	if c.apps, err = containers(); err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func() (string, error)
	}{
		{"the service is up", c.up},
		{fmt.Sprintf("systemctl restart x%d", c.rounds), c.restarts},
		{fmt.Sprintf("systemctl reload x%d", c.rounds), c.reloads},
		{"mesh upgrade", c.upgrade},
		{"a binary that does not come up", c.broken},
		{"restart with a WebSocket open", c.restartWithTalk},
		{"reload with a WebSocket open", c.reloadWithTalk},
		{"restart right after a reload", c.restartAfterReload},
		{"a crash", c.crash},
		{"a crash right after a reload", c.crashAfterReload},
		{"a fault in the settings", c.hopeless},
		{"stop and start", c.stop},
		{"restart without mesh.socket", c.plainRestart},
		{"builds are limited", c.builds},
	}
	for _, s := range steps {
		if !strings.Contains(s.name, c.only) {
			continue
		}
		began := time.Now()
		said, err := s.do()
		if err == nil {
			err = c.still()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("ok    %-34s %5.1fs  %s\n", s.name, time.Since(began).Seconds(), said)
	}
	return nil
}

// still returns an error unless the service is up, is the process that systemd expects,
// and the app's containers are the original ones.
func (c *checks) still() error {
	now, err := containers()
	if err != nil {
		return err
	}
	if now != c.apps {
		return fmt.Errorf("the app's containers were %q and are %q", c.apps, now)
	}
	u, err := show()
	if err != nil {
		return err
	}
	pid, err := run("pgrep", "-o", "-x", "mesh")
	if err != nil {
		return err
	}
	if u["ActiveState"] != "active" || u["SubState"] != "running" || u["MainPID"] != pid {
		return fmt.Errorf("the unit is %v, and the process is %s", u, pid)
	}
	return nil
}

func (c *checks) up() (string, error) {
	u, err := show()
	if err != nil {
		return "", err
	}
	version, err := run("systemctl", "--version")
	if err != nil {
		return "", err
	}
	version, _, _ = strings.Cut(version, "\n")
	driver, err := run("docker", "info", "-f", "{{.ServerVersion}}, cgroups v{{.CgroupVersion}} by {{.CgroupDriver}}")
	return fmt.Sprintf("%s; Docker %s; Type=%s", version, driver, u["Type"]), err
}

// again repeats a command under load, and returns the load's figures. The main process
// must change each time.
func (c *checks) again(n int, words ...string) (string, error) {
	l := startLoad()
	defer l.end()
	var longest time.Duration
	for range n {
		before, err := show()
		if err != nil {
			return "", err
		}
		began := time.Now()
		if _, err := run(words[0], words[1:]...); err != nil {
			return "", err
		}
		longest = max(longest, time.Since(began))
		after, err := settled()
		if err != nil {
			return "", err
		}
		if after["MainPID"] == before["MainPID"] {
			return "", fmt.Errorf("the main process is %s as before", after["MainPID"])
		}
		if after["NRestarts"] != before["NRestarts"] {
			return "", errors.New("systemd took it for a crash")
		}
	}
	said, err := l.end()
	return fmt.Sprintf("%s; the longest took %s", said, round(longest)), err
}

func (c *checks) restarts() (string, error) {
	return c.again(c.rounds, "systemctl", "restart", "mesh")
}

func (c *checks) reloads() (string, error) {
	return c.again(c.rounds, "systemctl", "reload", "mesh")
}

func (c *checks) upgrade() (string, error) {
	if _, err := run("install", "-m", "755", c.next, c.program); err != nil {
		return "", err
	}
	said, err := c.again(1, "ssh", "mesh", "upgrade")
	if err != nil {
		return "", err
	}
	on, err := run(c.program, "version")
	if err != nil {
		return "", err
	}
	runs, err := run("ssh", "mesh", "server:info")
	if err == nil && !strings.Contains(runs, strings.TrimPrefix(on, "mesh ")) {
		err = fmt.Errorf("%s is installed, and what runs is:\n%s", on, runs)
	}
	return said, err
}

func (c *checks) broken() (string, error) {
	bin := c.program
	if _, err := run("mv", bin, bin+".good"); err != nil {
		return "", err
	}
	// The first of its two starts is that of ExecReload.
	script := "#!/bin/sh\ncase \"$*\" in *upgrade) exec " + bin + ".good \"$@\";; esac\necho wrong machine >&2\nexit 3\n"
	if err := os.WriteFile(bin, []byte(script), 0o755); err != nil {
		return "", err
	}
	l := startLoad()
	defer l.end()
	before, err := show()
	if err != nil {
		return "", err
	}
	_, failed := run("systemctl", "reload", "mesh")
	if _, err := run("mv", bin+".good", bin); err != nil {
		return "", err
	}
	if failed == nil {
		return "", errors.New("the reload succeeded")
	}
	after, err := settled()
	if err != nil {
		return "", err
	}
	if after["MainPID"] != before["MainPID"] {
		return "", errors.New("the main process is another one")
	}
	said, err := l.end()
	return "the reload fails, the old process serves on; " + said, err
}

// restartWithTalk checks that new clients need not wait for a WebSocket to end, nor for
// one that reconnects when it is cut.
func (c *checks) restartWithTalk() (string, error) {
	t, err := startTalk()
	if err != nil {
		return "", err
	}
	defer t.end()
	back := make(chan error, 1)
	go func() {
		<-t.ended
		again, err := startTalk()
		if err == nil {
			time.Sleep(time.Second)
			err = again.end()
		}
		back <- err
	}()
	began := time.Now()
	said, took, err := restartUnderLoad()
	if err != nil {
		return "", err
	}
	lived, err := t.served(began)
	if err != nil {
		return "", err
	}
	if took > 40*time.Second {
		return "", fmt.Errorf("it took %s", took)
	}
	if err := <-back; err != nil {
		return "", fmt.Errorf("the WebSocket that came back: %w", err)
	}
	return fmt.Sprintf("%s; it took %s, of which the WebSocket had %s", said, round(took), round(lived)), nil
}

// restartUnderLoad restarts mesh and returns the load's figures.
func restartUnderLoad() (said string, took time.Duration, err error) {
	l := startLoad()
	defer l.end()
	began := time.Now()
	if _, err := run("systemctl", "restart", "mesh"); err != nil {
		return "", 0, err
	}
	took = time.Since(began)
	if said, err = l.end(); err != nil {
		return "", 0, err
	}
	if l.slowest() > 8*time.Second {
		return "", 0, fmt.Errorf("a request waited for %s", l.slowest())
	}
	return said, took, nil
}

// reloadWithTalk checks that the WebSocket continues in the old process.
func (c *checks) reloadWithTalk() (string, error) {
	t, err := startTalk()
	if err != nil {
		return "", err
	}
	defer t.end()
	l := startLoad()
	defer l.end()
	if _, err := run("systemctl", "reload", "mesh"); err != nil {
		return "", err
	}
	time.Sleep(2 * time.Second) // only the WebSocket keeps the old process
	if err := t.end(); err != nil {
		return "", fmt.Errorf("the WebSocket: %w", err)
	}
	if _, err := settled(); err != nil {
		return "", err
	}
	return l.end()
}

// restartAfterReload checks a WebSocket in the process before the main one.
func (c *checks) restartAfterReload() (string, error) {
	t, err := startTalk()
	if err != nil {
		return "", err
	}
	defer t.end()
	began := time.Now()
	if _, err := run("systemctl", "reload", "mesh"); err != nil {
		return "", err
	}
	said, _, err := restartUnderLoad()
	if err != nil {
		return "", err
	}
	lived, err := t.served(began)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s; the WebSocket had %s", said, round(lived)), nil
}

// crashAfterReload checks that the old process, kept by a WebSocket, does not keep
// systemd from starting another one.
func (c *checks) crashAfterReload() (string, error) {
	t, err := startTalk()
	if err != nil {
		return "", err
	}
	defer t.end()
	before, err := show()
	if err != nil {
		return "", err
	}
	if _, err := run("systemctl", "reload", "mesh"); err != nil {
		return "", err
	}
	if after, err := show(); err != nil || after["MainPID"] == before["MainPID"] {
		return "", fmt.Errorf("after the reload the main process is %s as before: %w", after["MainPID"], err)
	}
	return c.crash()
}

// hopeless checks that connections wait in mesh.socket while the service fails to
// start, and start it once it can.
func (c *checks) hopeless() (string, error) {
	const env = "/etc/mesh.env"
	good, err := os.ReadFile(env)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(env, append(good, "MESH_LOG_LEVEL=loud\n"...), 0o600); err != nil {
		return "", err
	}
	_, failed := run("systemctl", "restart", "mesh")
	answer := make(chan error, 1)
	go func() {
		_, err := get(fresh(30*time.Second), http.MethodGet)
		answer <- err
	}()
	time.Sleep(5 * time.Second)
	u, err := show()
	if err := errors.Join(err, os.WriteFile(env, good, 0o600)); err != nil {
		return "", err
	}
	if failed == nil {
		return "", errors.New("it has started")
	}
	if err := <-answer; err != nil {
		return "", err
	}
	_, err = settled()
	return fmt.Sprintf("after %s attempts, and with the fault gone, the request that waited is answered", u["NRestarts"]), err
}

// crash checks that a crash loses only the requests in progress; later ones wait.
func (c *checks) crash() (string, error) {
	before, err := show()
	if err != nil {
		return "", err
	}
	pid, err := strconv.Atoi(before["MainPID"])
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return "", err
	}
	for syscall.Kill(pid, 0) == nil { // it may still answer
		time.Sleep(time.Millisecond)
	}
	body, err := get(fresh(20*time.Second), http.MethodGet)
	if err != nil {
		return "", err
	}
	took := time.Since(began)
	after, err := settled()
	if err != nil {
		return "", err
	}
	if after["NRestarts"] == before["NRestarts"] || !strings.HasPrefix(body, "hello") {
		return "", fmt.Errorf("restarts %s, answer %q", after["NRestarts"], body)
	}
	return fmt.Sprintf("a request right after SIGKILL is answered in %s", round(took)), nil
}

func (c *checks) stop() (string, error) {
	began := time.Now()
	// If the socket unit kept running, the next connection would start the service.
	if _, err := run("systemctl", "stop", "mesh.socket", "mesh.service"); err != nil {
		return "", err
	}
	took := time.Since(began)
	u, err := show()
	if err != nil {
		return "", err
	}
	if u["ActiveState"] != "inactive" || u["Result"] != "success" {
		return "", fmt.Errorf("the unit is %v", u)
	}
	if now, err := containers(); err != nil || now != c.apps {
		return "", fmt.Errorf("the app's containers were %q and are %q: %w", c.apps, now, err)
	}
	if _, err := run("systemctl", "start", "mesh.socket"); err != nil {
		return "", err
	}
	// The first request starts it.
	if _, err := get(fresh(20*time.Second), http.MethodGet); err != nil {
		return "", err
	}
	_, err = settled()
	return fmt.Sprintf("it stops in %s, and the first request starts it", round(took)), err
}

// plainRestart measures how long connections are refused if systemd does not hold the
// sockets.
func (c *checks) plainRestart() (string, error) {
	if _, err := run("systemctl", "stop", "mesh.socket", "mesh.service"); err != nil {
		return "", err
	}
	if _, err := run("systemctl", "mask", "--runtime", "mesh.socket"); err != nil {
		return "", err
	}
	defer func() {
		_, _ = run("systemctl", "unmask", "--runtime", "mesh.socket")
	}()
	if _, err := run("systemctl", "start", "mesh.service"); err != nil {
		return "", err
	}
	t, err := startTalk()
	if err != nil {
		return "", err
	}
	defer t.end()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var first, last time.Time
	var lost int
	var watch sync.WaitGroup
	watch.Go(func() {
		for ctx.Err() == nil {
			if _, err := get(fresh(time.Minute), http.MethodGet); err != nil {
				if last = time.Now(); lost == 0 {
					first = last
				}
				lost++
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	_, err = run("systemctl", "restart", "mesh.service")
	cancel()
	watch.Wait()
	if err != nil {
		return "", err
	}
	if gap := last.Sub(first); gap > 8*time.Second {
		return "", fmt.Errorf("connections were refused for %s", gap)
	}
	if _, err := settled(); err != nil {
		return "", err
	}
	return fmt.Sprintf("with a WebSocket open, connections are refused for %s", round(last.Sub(first))), nil
}

// builds pushes builds that exceed their limits.
func (c *checks) builds() (string, error) {
	greedy := []struct{ line, hint string }{
		{"RUN dd if=/dev/zero of=/dev/null bs=1000M count=1", "it used too much memory: all builds together may use 512 MB"},
		{"RUN i=0; while [ $i -lt 5000 ]; do sleep 60 & i=$((i+1)); done; echo all there", "it starts too many processes: all builds together may have 4096"},
	}
	for _, g := range greedy {
		dir, err := os.MkdirTemp("", "greedy-")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(dir)
		script := fmt.Sprintf("cd %s; printf '%%s\\n' 'FROM busybox:1.36' '%s' \"LABEL at=$(date +%%s%%N)\" 'CMD [\"true\"]' > Dockerfile; git init -q -b main; git add -A; git commit -qm greedy; git push -f mesh:greedy main 2>&1", dir, g.line)
		out, err := run("sh", "-c", script)
		if err == nil && c.unable == "" {
			return "", fmt.Errorf("it was built:\n%s", out)
		}
		if c.unable == "" && !strings.Contains(out, g.hint) {
			return "", fmt.Errorf("no hint %q:\n%s", g.hint, out)
		}
		if c.unable != "" {
			break
		}
	}
	log, err := run("journalctl", "-u", "mesh", "--no-pager")
	if err != nil {
		return "", err
	}
	warned := strings.Contains(log, "memory and processes of builds are not limited")
	switch {
	case c.unable == "" && warned:
		return "", fmt.Errorf("the log says that they are not:\n%s", log)
	case c.unable != "" && !strings.Contains(log, c.unable):
		return "", fmt.Errorf("the log does not say %q:\n%s", c.unable, log)
	case c.unable != "":
		return "not with this engine, and the log says so", nil
	}
	return "512 MB and 4096 processes", nil
}

// show returns systemd's properties of the service.
func show() (map[string]string, error) {
	out, err := run("systemctl", "show", "mesh.service", "-p", "ActiveState,SubState,MainPID,NRestarts,Type,Result")
	if err != nil {
		return nil, err
	}
	u := map[string]string{}
	for l := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), "=")
		u[k] = v
	}
	return u, nil
}

// settled waits until one process is left and systemd knows it.
func settled() (map[string]string, error) {
	var u map[string]string
	var pids string
	for limit := time.Now().Add(60 * time.Second); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		var err error
		if u, err = show(); err != nil {
			return nil, err
		}
		pids, _ = run("pgrep", "-x", "mesh") // none is an error
		if u["ActiveState"] == "active" && u["SubState"] == "running" && pids == u["MainPID"] {
			return u, nil
		}
	}
	return nil, fmt.Errorf("the unit is %v, and the processes are %q", u, pids)
}

func containers() (string, error) {
	return run("docker", "ps", "-q", "--no-trunc", "--filter", "label=mesh.stack=shop", "--filter", "status=running")
}

func run(name string, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(context.Background(), name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return strings.TrimSpace(out.String()), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, errOut.String())
	}
	return strings.TrimSpace(out.String()), nil
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// load requests the app from four connections; two of them reconnect for each request.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	asked  atomic.Int64
	failed atomic.Int64
	first  atomic.Pointer[error]
	slow   atomic.Int64 // the slowest, in nanoseconds
}

func startLoad() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for i := range 4 {
		l.done.Go(func() {
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: i%2 == 1}}
			defer c.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				method := http.MethodGet
				if n%3 == 0 {
					method = http.MethodPost
				}
				began := time.Now()
				_, err := get(c, method)
				if err != nil {
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, &err)
				}
				l.asked.Add(1)
				for took := int64(time.Since(began)); ; {
					old := l.slow.Load()
					if took <= old || l.slow.CompareAndSwap(old, took) {
						break
					}
				}
				time.Sleep(time.Millisecond) // leave time for others on the machine
			}
		})
	}
	return l
}

func (l *load) slowest() time.Duration { return time.Duration(l.slow.Load()) }

// end may be called twice.
func (l *load) end() (string, error) {
	l.cancel()
	l.done.Wait()
	if err := l.first.Load(); err != nil {
		return "", fmt.Errorf("%d of %d requests failed, the first: %w", l.failed.Load(), l.asked.Load(), *err)
	}
	if l.asked.Load() < 5 {
		return "", fmt.Errorf("only %d requests", l.asked.Load())
	}
	return fmt.Sprintf("%d requests, 0 failed, the slowest %s", l.asked.Load(), round(l.slowest())), nil
}

// fresh returns a client that uses a new connection for each request.
func fresh(limit time.Duration) *http.Client {
	return &http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
}

func get(c *http.Client, method string) (string, error) {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("some=form")
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+addr+"/", body)
	if err != nil {
		return "", err
	}
	req.Host = host
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	return string(text), err
}

// talk is a busy WebSocket.
type talk struct {
	cancel context.CancelFunc
	ended  chan struct{}
	at     time.Time
	err    error // guarded by ended
}

func startTalk() (*talk, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c, _, err := websocket.Dial(ctx, "ws://"+addr+"/ws", &websocket.DialOptions{Host: host})
	if err != nil {
		cancel()
		return nil, err
	}
	t := &talk{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		defer c.CloseNow()
		for n := 0; ctx.Err() == nil; n++ {
			msg := strconv.Itoa(n)
			err := c.Write(context.Background(), websocket.MessageText, []byte(msg))
			var got []byte
			if err == nil {
				_, got, err = c.Read(context.Background())
			}
			if err == nil && !strings.HasSuffix(string(got), " "+msg) {
				err = fmt.Errorf("answer %q to %q", got, msg)
			}
			if t.at = time.Now(); err != nil {
				t.err = err
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return t, nil
}

// end may be called twice. It returns why the WebSocket ended early.
func (t *talk) end() error {
	t.cancel()
	<-t.ended
	return t.err
}

// served returns how long the WebSocket continued after then. A stopping server must
// serve it for half a minute (docs/operating.md).
func (t *talk) served(then time.Time) (time.Duration, error) {
	err := t.end()
	d := t.at.Sub(then)
	if err != nil && d < 29*time.Second {
		return d, fmt.Errorf("the WebSocket was cut after %s: %w", d, err)
	}
	return d, nil
}
