// Command bench measures the speed and memory that the docs promise, against the same
// work done by hand with docker in the same run: alternating rounds, medians and
// ratios. It needs bin/mesh, an engine, git and ssh. "make bench" runs it. "make build
// && scripts/bench builds" runs only the build benchmarks: all of them, or those named
// after it, of tree, parallel and large. "scripts/bench limits" pushes a tree at each
// limit, and "scripts/bench access" compares requests with access rules and without.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	rounds  = 11
	deploys = 20
	rate    = 1000 // requests a second
	stacks  = 100
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is a server, a repository, and a client that knows both.
type bench struct {
	root, work, docker string
	env                []string
	server             *exec.Cmd
	http               string
	port               string
}

func run() (err error) {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "mesh-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	b := &bench{root: root, work: work, docker: "docker"}
	// Debian's docker builds with BuildKit by default; newer clients need a plugin.
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		b.docker = "/usr/bin/docker"
	}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "GIT_") { // no ssh command or identity of the caller
			b.env = append(b.env, kv)
		}
	}
	b.env = append(b.env, "HOME="+work, "GIT_CONFIG_NOSYSTEM=1", "DOCKER_BUILDKIT=1",
		"GIT_AUTHOR_NAME=b", "GIT_AUTHOR_EMAIL=b@example.test", "GIT_COMMITTER_NAME=b", "GIT_COMMITTER_EMAIL=b@example.test",
		"GIT_SSH="+filepath.Join(work, "ssh"), "GIT_SSH_VARIANT=ssh")
	if err := b.start("data"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.prepare(); err != nil {
		return err
	}
	if len(os.Args) > 1 && os.Args[1] == "limits" {
		return b.limits()
	}
	only := len(os.Args) > 1 && os.Args[1] == "builds"
	defer func() {
		if only {
			return
		}
		_, derr := b.ssh("stacks:destroy", "-a", "bench", "--confirm", "bench")
		_, ierr := b.cmd(b.work, b.docker, "image", "rm", "-f", "mesh-bench/by-hand:1")
		err = errors.Join(err, derr, ierr)
	}()
	if only {
		return b.buildFigures()
	}
	if len(os.Args) > 1 && os.Args[1] == "access" {
		return b.access()
	}
	if len(os.Args) > 1 && os.Args[1] == "sleep" {
		return b.sleep()
	}
	own, err := b.pushes()
	if err != nil {
		return err
	}
	if err := b.changes(own); err != nil {
		return err
	}
	if err := b.load(); err != nil {
		return err
	}
	if err := b.access(); err != nil {
		return err
	}
	if err := b.sleep(); err != nil {
		return err
	}
	if err := b.memory(); err != nil {
		return err
	}
	return b.buildFigures()
}

func (b *bench) buildFigures() error {
	for _, m := range []struct {
		name string
		run  func() error
	}{{"tree", b.builds}, {"parallel", b.parallel}, {"large", b.large}} {
		if len(os.Args) > 2 && !slices.Contains(os.Args[2:], m.name) {
			continue
		}
		if err := m.run(); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

func (b *bench) cmd(dir, name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	c.Dir, c.Env = dir, b.env
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

func (b *bench) ssh(words ...string) (string, error) {
	return b.cmd(b.work, filepath.Join(b.work, "ssh"), append([]string{"mesh"}, words...)...)
}

// start runs a server on free ports.
func (b *bench) start(data string) error {
	dir := filepath.Join(b.work, data)
	b.server = exec.Command(filepath.Join(b.root, "bin", "mesh"), "serve", "--data", dir, "--ssh-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--log-level", "error")
	b.server.Stderr = os.Stderr
	if err := b.server.Start(); err != nil {
		return err
	}
	for range 500 {
		time.Sleep(10 * time.Millisecond)
		text, err := os.ReadFile(filepath.Join(dir, "ready.json"))
		if err != nil {
			continue
		}
		var r struct{ SSH, HTTP string }
		if err := json.Unmarshal(text, &r); err != nil {
			return err
		}
		_, b.port, _ = net.SplitHostPort(r.SSH)
		b.http = r.HTTP
		return nil
	}
	return errors.New("the server did not become ready")
}

func (b *bench) stop() error {
	if err := b.server.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	return b.server.Wait()
}

func (b *bench) prepare() error {
	real, err := exec.LookPath("ssh")
	if err != nil {
		return err
	}
	key := filepath.Join(b.work, "key")
	if _, err := b.cmd(b.work, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); err != nil {
		return err
	}
	config := fmt.Sprintf("Host mesh\n  HostName 127.0.0.1\n  Port %s\n  User mesh\n  IdentityFile %s\n  IdentitiesOnly yes\n  IdentityAgent none\n  StrictHostKeyChecking no\n  UserKnownHostsFile %s\n  LogLevel ERROR\n", b.port, key, filepath.Join(b.work, "known_hosts"))
	if err := os.WriteFile(filepath.Join(b.work, "ssh_config"), []byte(config), 0o600); err != nil {
		return err
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", real, filepath.Join(b.work, "ssh_config"))
	if err := os.WriteFile(filepath.Join(b.work, "ssh"), []byte(script), 0o700); err != nil { //nolint:gosec // a script
		return err
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		return err
	}
	if _, err := b.cmd(b.work, filepath.Join(b.root, "bin", "mesh"), append([]string{"--data", filepath.Join(b.work, "data"), "ssh-keys:add", "bench"}, strings.Fields(string(pub))...)...); err != nil {
		return err
	}
	app := filepath.Join(b.work, "app")
	if _, err := b.cmd(b.work, "cp", "-r", filepath.Join(b.root, "examples", "hello"), app); err != nil {
		return err
	}
	for _, a := range [][]string{{"init", "-q", "-b", "main"}, {"remote", "add", "mesh", "mesh:bench"}} {
		if _, err := b.cmd(app, "git", a...); err != nil {
			return err
		}
	}
	return nil
}

// change edits the one file and commits it.
func (b *bench) change(n string) error {
	app := filepath.Join(b.work, "app")
	if err := os.WriteFile(filepath.Join(app, "index.html"), []byte("GREETING from "+n+"\n"), 0o600); err != nil {
		return err
	}
	if _, err := b.cmd(app, "git", "add", "-A"); err != nil {
		return err
	}
	_, err := b.cmd(app, "git", "commit", "-q", "-m", n)
	return err
}

func (b *bench) serves(text string) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+b.http+"/", nil)
	if err != nil {
		return err
	}
	req.Host = "bench.localhost"
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && !strings.Contains(string(body), text) {
		err = fmt.Errorf("the router answers %q, want %q", body, text)
	}
	return err
}

// byHand does with docker what a push does. It returns the total time and the app's own
// time, from docker run to the first 200.
func (b *bench) byHand() (all, app time.Duration, err error) {
	began := time.Now()
	id, ran, err := b.buildAndRun(filepath.Join(b.work, "app"), "mesh-bench/by-hand:1")
	all, app = time.Since(began), time.Since(ran)
	if id != "" {
		_, rerr := b.cmd(b.work, b.docker, "rm", "-fv", id)
		err = errors.Join(err, rerr)
	}
	return all, app, err
}

// buildAndRun builds a folder, starts a container of it, and returns when that has
// answered. It returns the container's ID, which the caller must remove, and its start
// time.
func (b *bench) buildAndRun(dir, tag string) (id string, ran time.Time, err error) {
	if _, err := b.cmd(dir, b.docker, "build", "-q", "-t", tag, "."); err != nil {
		return "", ran, err
	}
	ran = time.Now()
	if id, err = b.cmd(dir, b.docker, "run", "-d", "-e", "PORT=8080", tag); err != nil {
		return "", ran, err
	}
	ip, err := b.cmd(dir, b.docker, "inspect", "-f", "{{.NetworkSettings.IPAddress}}", id)
	if err != nil {
		return id, ran, err
	}
	for {
		res, err := http.Get("http://" + net.JoinHostPort(ip, "8080") + "/")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return id, ran, nil
			}
		}
		if time.Since(ran) > time.Minute {
			return id, ran, errors.New("by hand: no answer within a minute")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (b *bench) push() (time.Duration, error) {
	began := time.Now()
	_, err := b.cmd(filepath.Join(b.work, "app"), "git", "push", "-q", "mesh", "main")
	return time.Since(began), err
}

func (b *bench) pushes() (own time.Duration, err error) {
	var hand, push, ratio, app []float64
	for i := range rounds + 1 {
		n := "round " + strconv.Itoa(i)
		if err := b.change(n); err != nil {
			return 0, err
		}
		p, err := b.push()
		if err != nil {
			return 0, err
		}
		if err := b.serves(n); err != nil {
			return 0, err
		}
		if err := b.change(n + ", by hand"); err != nil {
			return 0, err
		}
		h, a, err := b.byHand()
		if err != nil {
			return 0, err
		}
		if i == 0 {
			continue // warm-up
		}
		push, hand, app = append(push, p.Seconds()), append(hand, h.Seconds()), append(app, a.Seconds())
		ratio = append(ratio, p.Seconds()/h.Seconds())
	}
	fmt.Printf("push to live, one changed file         %s\n", figures(push, "s"))
	fmt.Printf("by hand: docker build + run + 200      %s\n", figures(hand, "s"))
	fmt.Printf("  ratio, round by round                %s   goal: median at most 1.3\n", figures(ratio, "×"))
	fmt.Printf("app's own start: docker run to 200     %s\n", figures(app, "s"))
	return time.Duration(median(app) * float64(time.Second)), nil
}

func (b *bench) changes(own time.Duration) error {
	var set, back []float64
	for i := range rounds {
		v := "greeting" + strconv.Itoa(i)
		began := time.Now()
		if _, err := b.ssh("config:set", "-a", "bench", "GREETING="+v); err != nil {
			return err
		}
		set = append(set, (time.Since(began) - own).Seconds())
		if err := b.serves(v); err != nil {
			return err
		}
		began = time.Now()
		if _, err := b.ssh("rollback", "-a", "bench"); err != nil {
			return err
		}
		back = append(back, (time.Since(began) - own).Seconds())
	}
	fmt.Printf("config:set, over the app's own start   %s   goal: at most 1 s\n", figures(set, "s"))
	fmt.Printf("rollback, over the app's own start     %s   goal: at most 1 s\n", figures(back, "s"))
	return nil
}

// load sends a fixed number of requests a second during consecutive deployments.
func (b *bench) load() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var asked, failed, late atomic.Int64
	var workers sync.WaitGroup
	due := make(chan time.Time, rate)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
	for range 64 {
		workers.Go(func() {
			for range due {
				asked.Add(1)
				if err := b.ask(client); err != nil {
					if failed.Add(1) == 1 {
						fmt.Fprintln(os.Stderr, "first failure:", err)
					}
				}
			}
		})
	}
	workers.Go(func() {
		defer close(due)
		t := time.NewTicker(10 * time.Millisecond)
		defer t.Stop()
		began, sent := time.Now(), 0
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-t.C:
				for ; sent < int(now.Sub(began).Seconds()*rate); sent++ {
					select {
					case due <- now:
					default:
						late.Add(1)
					}
				}
			}
		}
	})
	began := time.Now()
	for i := range deploys {
		if err := b.change("deploy " + strconv.Itoa(i)); err != nil {
			return err
		}
		if _, err := b.push(); err != nil {
			return err
		}
	}
	took := time.Since(began).Seconds()
	cancel()
	workers.Wait()
	client.CloseIdleConnections()
	fmt.Printf("requests during %d deploys             %d in %.1f s (%.0f/s, %d not sent in time), %d failed or 5xx   goal: 0 of 1000/s\n",
		deploys, asked.Load(), took, float64(asked.Load())/took, late.Load(), failed.Load())
	if failed.Load() > 0 {
		return fmt.Errorf("%d requests were lost", failed.Load())
	}
	return nil
}

func (b *bench) ask(c *http.Client) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+b.http+"/", nil)
	if err != nil {
		return err
	}
	req.Host = "bench.localhost"
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

// memory measures an idle server with stacks.
func (b *bench) memory() error {
	other := *b
	if err := other.start("many"); err != nil {
		return err
	}
	for i := range stacks {
		if _, err := b.cmd(b.work, filepath.Join(b.root, "bin", "mesh"), "--data", filepath.Join(b.work, "many"), "stacks:create", "stack-"+strconv.Itoa(i)); err != nil {
			return err
		}
	}
	if err := other.stop(); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(b.work, "many", "ready.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := other.start("many"); err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", other.server.Process.Pid))
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kb), " kB"))
			fmt.Printf("idle server with %d stacks            %.1f MB resident   goal: under 60 MB\n", stacks, float64(n)/1000)
		}
	}
	return other.stop()
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

func figures(v []float64, unit string) string {
	return fmt.Sprintf("median %.2f %s (min %.2f, max %.2f, n=%d)", median(v), unit, slices.Min(v), slices.Max(v), len(v))
}
