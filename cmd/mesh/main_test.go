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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"
	docker "github.com/docker/docker/client"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/tools/txtar"

	"mesh/deploy"
	"mesh/enginetest"
)

// runID marks everything that this test run creates in the engine.
var runID = enginetest.NewID("mesh")

// testEngine is the engine in which the servers of the tests run their instances.
var testEngine *enginetest.Run

// fixture is the program of the test app.
var fixture string

// TestMain makes a mesh command from the test binary, so that the race detector and
// coverage see the server. It removes whatever the tests leave in the engine;
// containers left by a test fail the run.
func TestMain(m *testing.M) {
	if id := os.Getenv("MESH_TEST_RUN"); id != "" {
		runID = id
	}
	testscript.Main(inEngine{m}, map[string]func(){
		"mesh": func() {
			p := program{version: "test", labels: map[string]string{"mesh.test": runID}}
			if at := os.Getenv("MESH_TEST_KILL"); at != "" {
				p.reached = func(s deploy.Step, _ string) {
					if string(s) == at {
						_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
						select {}
					}
				}
			}
			p.engine, _ = time.ParseDuration(os.Getenv("MESH_TEST_ENGINE_TIME"))
			p.alertsEvery, _ = time.ParseDuration(os.Getenv("MESH_TEST_ALERTS"))
			p.ahead, _ = time.ParseDuration(os.Getenv("MESH_TEST_AHEAD"))
			p.agent = os.Getenv("MESH_TEST_AGENT")
			p.maxPush, _ = strconv.ParseInt(os.Getenv("MESH_TEST_MAX_PUSH"), 10, 64)
			os.Exit(p.main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// inEngine runs the tests after preparing the engine and before cleaning it up.
type inEngine struct{ m *testing.M }

func (e inEngine) Run() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	err := os.Setenv("MESH_TEST_RUN", runID)
	if err != nil {
		return fail(err)
	}
	ctx := context.Background()
	if fixture, err = enginetest.Program(ctx, "./testdata/app"); err != nil {
		return fail(err)
	}
	if testEngine, err = enginetest.Start(ctx, runID); err != nil {
		return fail(err)
	}
	defer testEngine.Client.Close()
	return testEngine.Tests(e.m)
}

// TestScripts runs the transcripts: what people type and see, with the real git, ssh,
// engine and HTTP.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup:               setup,
		Cmds:                verbs,
	})
}

// verbs are the script commands besides testscript's own. testdata/script/README.md
// describes them.
var verbs = map[string]func(*testscript.TestScript, bool, []string){
	"ready":       cmdReady,
	"fixture-app": cmdFixture,
	"typed":       cmdTyped,
	"http":        cmdHTTP,
	"cmpremote":   cmdCmpRemote,
	"waitfor":     cmdWaitFor,
	"waitlog":     cmdWaitLog,
	"counted":     cmdCounted,
	"sink":        cmdSink,
	"engine":      cmdEngine,
	"rewrite":     cmdRewrite,
	"lastline":    cmdLastLine,
	"kill9":       cmdKill9,
	"livepush":    cmdLivePush,
	"load":        cmdLoad,
	"websocket":   cmdWebSocket,
	"smalldisk":   cmdSmallDisk,
	"git-lfs":     cmdGitLFS,
	"doors":       cmdDoors,
	"terminal":    cmdTerminal,
	"crowd":       cmdCrowd,
	"hang":        cmdHang,
	"hidden":      cmdHidden,
	"registry":    cmdRegistry,
	"upgrade":     cmdUpgrade,
	"halt":        cmdHalt,
	"activate":    cmdActivate,
	"talk":        cmdTalk,
	"tcp":         cmdTCP,
	"routerlog":   cmdRouterLog,
	"pstraffic":   cmdPSTraffic,
	"hook":        cmdHook,
	"agekey":      cmdAgeKey,
	"s3":          cmdS3,
	"forge":       cmdForge,
	"swarm":       cmdSwarm,
}

// setup gives each script a home, three keys and an ssh that uses them. "ready" adds
// the server's address.
func setup(env *testscript.Env) error {
	enginetest.Beside(env.T().(testing.TB))
	work := env.WorkDir
	home := filepath.Join(work, "home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"admin", "user", "stranger"} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", filepath.Join(work, name)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	for k, v := range map[string]string{
		"HOME": home, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": filepath.Join(home, ".gitconfig"),
		"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.test", "GIT_COMMITTER_NAME": "Ann", "GIT_COMMITTER_EMAIL": "ann@example.test",
		"GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
		"MESH_DATA": filepath.Join(work, "data"), "MESH_TEST_RUN": runID, "MESH_SSH_ADDR": "127.0.0.1:0", "MESH_HTTP_ADDR": "127.0.0.1:0",
		"DOCKER_HOST": os.Getenv("DOCKER_HOST"), "NO_COLOR": "1",
		// By default, a program with the race detector waits for a second before it
		// exits.
		"GORACE": strings.TrimSpace(os.Getenv("GORACE") + " atexit_sleep_ms=0"),
	} {
		env.Setenv(k, v)
	}
	// ssh reads its configuration only from files. This wrapper passes it to the real
	// ssh, for every caller.
	bin := filepath.Join(work, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return err
	}
	real, err := exec.LookPath("ssh")
	if err != nil {
		return err
	}
	wrapper := fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", real, filepath.Join(work, "ssh_config"))
	syscall.ForkLock.RLock()                                              // or a child of another script could hold the file open: "text file busy"
	err = os.WriteFile(filepath.Join(bin, "ssh"), []byte(wrapper), 0o700) //nolint:gosec // a script
	syscall.ForkLock.RUnlock()
	if err != nil {
		return err
	}
	env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
	env.Setenv("GIT_SSH", filepath.Join(bin, "ssh"))
	env.Setenv("GIT_SSH_VARIANT", "ssh")
	env.Defer(func() { sweepData(filepath.Join(work, "data")) })
	return nil
}

// sweepData removes from the engine what the server of a data directory created. It
// first ends servers that a failed script has left.
func sweepData(dir string) {
	left := serversOf(dir)
	for _, pid := range left {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, pid := range left {
		_ = waitEnded(pid)
	}
	id, err := serverID(dir)
	if err != nil {
		return // it has created nothing
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := testEngine.RemoveServer(ctx, id); err != nil {
		fmt.Fprintln(os.Stderr, "remove what the server of", dir, "made:", err)
	}
}

// serversOf returns the servers of a data directory. During a handover there are two;
// the first keeps serving when the second is killed.
func serversOf(dir string) []int {
	var pids []int
	envs, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is good
	for _, path := range envs {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(text, []byte("MESH_DATA="+dir+"\x00")) {
			continue
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if args := strings.Split(string(line), "\x00"); err == nil && len(args) > 1 && filepath.Base(args[0]) == "mesh" && args[1] == "serve" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// serverID reads the identity of a data directory's server, which marks everything that
// it creates in the engine, from the mark in each folder of the directory. The database
// is open in the server, or a test may have damaged it.
func serverID(dir string) (string, error) {
	marks, err := filepath.Glob(filepath.Join(dir, "*", ".mesh-server"))
	if err != nil {
		return "", err
	}
	if len(marks) == 0 {
		return "", fmt.Errorf("no folder of %s says which server it belongs to", dir)
	}
	id, err := os.ReadFile(marks[0])
	return strings.TrimSpace(string(id)), err
}

func readReady(dir string) (ready, error) {
	var r ready
	data, err := os.ReadFile(filepath.Join(dir, "ready.json"))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// poll tries until fn succeeds or a generous time has passed.
func poll(fn func() error) error {
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := fn()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// cmdReady waits for the server of data directory $MESH_DATA, sets $HTTP and $SSHPORT,
// writes the ssh configuration, and adds the admin key if there is no key yet.
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: ready")
	}
	dir := ts.Getenv("MESH_DATA")
	var r ready
	ts.Check(poll(func() (err error) {
		r, err = readReady(dir)
		if err == nil && syscall.Kill(r.PID, 0) != nil {
			err = errors.New("the server that was ready is dead")
		}
		return err
	}))
	id, err := serverID(dir)
	ts.Check(err)
	testEngine.Server(id)
	ts.Setenv("HTTP", r.HTTP)
	ts.Setenv("ADMIN", r.Admin)
	ts.Setenv("HTTPS", r.HTTPS)
	ts.Setenv("HTTPSPORT", r.HTTPS[strings.LastIndexByte(r.HTTPS, ':')+1:])
	at, port, err := net.SplitHostPort(r.SSH)
	ts.Check(err)
	ts.Setenv("SSHPORT", port)
	work := ts.Getenv("WORK")
	var cfg strings.Builder
	for host, key := range map[string]string{"mesh": "admin", "127.0.0.1": "admin", "as-user": "user", "as-stranger": "stranger"} {
		fmt.Fprintf(&cfg, "Host %s\n  HostName %s\n  Port %s\n  IdentityFile %s/%s\n", host, at, port, work, key)
	}
	fmt.Fprintf(&cfg, "Host *\n  User mesh\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile %s/known_hosts\n  StrictHostKeyChecking no\n", work)
	if ts.Getenv("SSH_VERBOSE") == "" {
		fmt.Fprintf(&cfg, "  LogLevel ERROR\n")
	}
	ts.Check(os.WriteFile(filepath.Join(work, "ssh_config"), []byte(cfg.String()), 0o600))
	pub, err := os.ReadFile(filepath.Join(work, "admin.pub"))
	ts.Check(err)
	var out, errOut bytes.Buffer
	_ = local(filepath.Join(dir, "mesh.sock"), append([]string{"ssh-keys:add", "admin", "--role", "admin"}, strings.Fields(string(pub))...), strings.NewReader(""), &out, &errOut)
}

// cmdFixture creates a repository with the test app, its version and a remote:
// fixture-app DIR [VERSION]. The stack has the name of the folder.
func cmdFixture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: fixture-app DIR [VERSION]")
	}
	dir := ts.MkAbs(args[0])
	version := "v1"
	if len(args) > 1 {
		version = args[1]
	}
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(os.WriteFile(filepath.Join(dir, "app"), []byte(fixture), 0o755)) //nolint:gosec // a program
	ts.Check(os.WriteFile(filepath.Join(dir, "version"), []byte(version+"\n"), 0o644))
	if _, err := os.Stat(filepath.Join(dir, "Dockerfile")); err != nil {
		ts.Check(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY app /app\nCOPY version /version\nCMD [\"/app\"]\n"), 0o644))
	}
	for _, a := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-A"}, {"commit", "-q", "-m", "Version " + version}, {"remote", "add", "mesh", "mesh:" + filepath.Base(dir)}} {
		ts.Check(ts.Exec("git", append([]string{"-C", dir}, a...)...))
	}
}

// cmdHTTP sends a request to the router: http [-status N] [-wait TEXT] [-cookie TEXT] HOST [PATH]. The
// body goes to http.out as well as to stdout. With -wait it repeats the request until
// the body contains the text.
func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	status, wait, cookie := http.StatusOK, "", ""
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-status":
			n, err := strconv.Atoi(args[1])
			ts.Check(err)
			status = n
		case "-wait":
			wait = args[1]
		case "-cookie":
			cookie = args[1]
		default:
			ts.Fatalf("http: unknown option %s", args[0])
		}
		args = args[2:]
	}
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: http [-status N] [-wait TEXT] [-cookie TEXT] HOST [PATH]")
	}
	path := "/"
	if len(args) == 2 {
		path = args[1]
	}
	var body []byte
	ask := func() error {
		req, err := http.NewRequest(http.MethodGet, "http://"+ts.Getenv("HTTP")+path, nil) //nolint:noctx // bounded below
		if err != nil {
			return err
		}
		req.Host = args[0]
		if cookie != "" {
			req.Header.Set("Cookie", cookie)
		}
		c := http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		defer c.CloseIdleConnections()
		res, err := c.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if body, err = io.ReadAll(res.Body); err != nil {
			return err
		}
		if res.StatusCode != status {
			return fmt.Errorf("%s%s: status %d, want %d: %s", args[0], path, res.StatusCode, status, body)
		}
		if !strings.Contains(string(body), wait) {
			return fmt.Errorf("%s%s: %q does not contain %q", args[0], path, body, wait)
		}
		return nil
	}
	err := ask()
	if err != nil && wait != "" && !neg {
		err = poll(ask)
	}
	if neg {
		if err == nil {
			ts.Fatalf("unexpected success: %s", body)
		}
		return
	}
	ts.Check(err)
	_, _ = ts.Stdout().Write(body)
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("WORK"), "http.out"), body, 0o600))
}

var masks = []struct {
	find *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`[ \t]+\n`), "\n"},
	{regexp.MustCompile(` +CACHED\b`), ""},
	// A step that takes a second or more, as every step may on a busy machine.
	{regexp.MustCompile(`(?m)^remote: +#\d+ DONE +\d+\.\ds *\n`), ""},
	// BuildKit shares the steps of builds that run at the same time, names included.
	{regexp.MustCompile(`\[([\w-]+ )?\d+/\d+\]`), "[STEP]"},
	{regexp.MustCompile(`\b[0-9a-f]{40}\b`), "COMMIT40"},
	{regexp.MustCompile(`\b[0-9a-f]{7}\b`), "COMMIT7"},
	{regexp.MustCompile(`, \d+ of \d+ steps cached(, slowest: [^\n]*? \d+\.\ds)?`), ""},
	{regexp.MustCompile(` +\d+\.\ds\b`), " TIME"},
	{regexp.MustCompile(`\d+(\.\d)? MB`), "SIZE"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+|localhost:\d+`), "ADDR"},
}

func masked(s string) string {
	for _, m := range masks {
		s = m.find.ReplaceAllString(s, m.with)
	}
	return s
}

// cmdCmpRemote compares git's output with a file, ignoring trailing blanks, times,
// sizes and IDs. With UPDATE_SCRIPTS it writes the output to the script instead.
func cmdCmpRemote(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: cmpremote FILE")
	}
	printed := ts.ReadFile("stderr")
	got, want := masked(printed), masked(ts.ReadFile(args[0]))
	switch {
	case got == want:
	case os.Getenv("UPDATE_SCRIPTS") != "":
		ts.Check(rewriteScript(ts.Name(), filepath.Base(args[0]), printed))
	default:
		ts.Fatalf("the push printed:\n%s\nwant (%s):\n%s", got, args[0], want)
	}
}

// rewriteScript changes a file in a script.
func rewriteScript(script, file, content string) error {
	path := filepath.Join("testdata", "script", script+".txtar")
	a, err := txtar.ParseFile(path)
	if err != nil {
		return err
	}
	for i := range a.Files {
		if a.Files[i].Name == file {
			a.Files[i].Data = []byte(content)
			return os.WriteFile(path, txtar.Format(a), 0o644)
		}
	}
	return fmt.Errorf("%s has no file %s", path, file)
}

// cmdWaitLog waits until the log of a stack has an event with a text: waitlog STACK TEXT.
func cmdWaitLog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitlog STACK TEXT")
	}
	ts.Check(poll(func() error {
		var out, errOut bytes.Buffer
		err := local(filepath.Join(ts.Getenv("MESH_DATA"), "mesh.sock"), []string{"logs", "-a", args[0], "--source", "mesh", "-n", "-1"}, strings.NewReader(""), &out, &errOut)
		if err == nil && !strings.Contains(out.String(), args[1]) {
			err = fmt.Errorf("the log of %s does not say %q: %s", args[0], args[1], out.String())
		}
		return err
	}))
}

// cmdCounted checks the lines of the app's count command in the log of a stack: counted
// STACK LIVES. Each life's lines are there from the first to the last, once and whole, and
// so is the line with their number; the last LIVES ones may still run.
func cmdCounted(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: counted STACK LIVES")
	}
	running, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(poll(func() error {
		var out, errOut bytes.Buffer
		if err := local(filepath.Join(ts.Getenv("MESH_DATA"), "mesh.sock"), []string{"logs", "-a", args[0], "-q", "--source", "app", "-n", "-1"}, strings.NewReader(""), &out, &errOut); err != nil {
			return fmt.Errorf("%w: %s", err, errOut.String())
		}
		printed, ended := map[string]*[2]int{}, map[string]string{}
		for l := range strings.Lines(out.String()) {
			f := strings.Fields(l)
			switch {
			case len(f) == 4 && f[0] == "counted":
				if ended[f[1]] != "" {
					return fmt.Errorf("%s ends twice", f[1])
				}
				ended[f[1]] = f[2] + " " + f[3]
			case len(f) >= 5 && f[0] == "count":
				if printed[f[1]] == nil {
					printed[f[1]] = &[2]int{}
				}
				stream, serr := strconv.Atoi(f[2])
				n, nerr := strconv.Atoi(f[3])
				if serr != nil || nerr != nil || n != printed[f[1]][stream]+1 {
					return fmt.Errorf("after %d of stream %s of %s comes %.60q", printed[f[1]][stream], f[2], f[1], l)
				}
				printed[f[1]][stream]++
				if size := len(l); size > 100 && size != len("count  0 \n")+len(f[1])+len(f[3])+1+25_000 && size != len("count  0 \n")+len(f[1])+len(f[3])+1+1_000_000 {
					return fmt.Errorf("line %d of %s has %d bytes", n, f[1], size)
				}
			}
		}
		open := 0
		for name, n := range printed {
			switch end := ended[name]; end {
			case fmt.Sprint(n[0], n[1]):
			case "":
				open++
			default:
				return fmt.Errorf("%s printed %s lines, and %d %d are kept", name, end, n[0], n[1])
			}
		}
		ts.Logf("%d lives, %d of them without an end", len(printed), open)
		if open > running {
			return fmt.Errorf("%d lives have no end", open)
		}
		return nil
	}))
}

// cmdWaitFor waits until a file contains a text: waitfor FILE TEXT.
func cmdWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitfor FILE TEXT")
	}
	path := ts.MkAbs(args[0])
	ts.Check(poll(func() error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.Contains(string(data), args[1]) {
			return fmt.Errorf("%s does not contain %q:\n%s", args[0], args[1], data)
		}
		return nil
	}))
}

// cmdEngine looks at what the server has in the engine:
//
//	engine instances N        waits until there are N containers of instances
//	engine oneoffs N          the same for one-off containers
//	engine ids FILE           writes the instances' container ids to a file
//	engine do WHAT            does to the instances what somebody might by hand: pause,
//	                          kill, stop, rm, disconnect, rename, rm-images
func cmdEngine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: engine instances|running|oneoffs|detached|volumes N | engine ids FILE")
	}
	c := testEngine.Client
	id, err := serverID(ts.Getenv("MESH_DATA"))
	ts.Check(err)
	if args[0] == "volumes" {
		checkVolumes(ts, id, args[1])
		return
	}
	kind := "instance"
	switch args[0] {
	case "oneoffs":
		kind = "oneoff"
	case "detached":
		kind = "detached"
	}
	list := func() []container.Summary {
		l, err := c.ContainerList(context.Background(), container.ListOptions{All: args[0] != "running", Filters: filters.NewArgs(filters.Arg("label", "mesh.server="+id), filters.Arg("label", "mesh.kind="+kind))})
		ts.Check(err)
		return l
	}
	if args[0] == "ids" {
		var ids []string
		for _, k := range list() {
			ids = append(ids, k.ID)
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(ids, "\n")+"\n"), 0o600))
		return
	}
	if args[0] == "do" {
		if args[1] == "rm-images" {
			// mesh must not be in the middle of making a container from an image that goes.
			defer pause(ts)()
		}
		gone := map[string]bool{}
		ts.Check(poll(func() error {
			for _, k := range list() {
				if len(gone) > 0 && !gone[k.ImageID] {
					continue // made since, from an image that mesh has built again
				}
				if err := byHand(c, args[1], k); err != nil {
					return err
				}
			}
			if args[1] != "rm-images" {
				return nil
			}
			if err := removeImages(c, id, gone); err != nil {
				return err
			}
			// The engine may have been making one already.
			if slices.ContainsFunc(list(), func(k container.Summary) bool { return gone[k.ImageID] }) {
				return errors.New("a container with a removed image came back")
			}
			return nil
		}))
		return
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(poll(func() error {
		if l := list(); len(l) != want {
			var names []string
			for _, k := range l {
				names = append(names, k.Names[0]+" "+k.State)
			}
			return fmt.Errorf("the engine has %d %s, want %d: %s", len(l), args[0], want, strings.Join(names, ", "))
		}
		return nil
	}))
}

// checkVolumes fails unless the engine has N volumes of stacks, and nothing to read and write
// them with.
func checkVolumes(ts *testscript.TestScript, server, n string) {
	ours := filters.NewArgs(filters.Arg("label", "mesh.server="+server), filters.Arg("label", "mesh.kind=volume"))
	want, err := strconv.Atoi(n)
	ts.Check(err)
	ts.Check(poll(func() error {
		volumes, err := testEngine.Client.VolumeList(context.Background(), volume.ListOptions{Filters: ours})
		ts.Check(err)
		helpers, err := testEngine.Client.ContainerList(context.Background(), container.ListOptions{All: true, Filters: ours})
		ts.Check(err)
		images, err := testEngine.Client.ImageList(context.Background(), image.ListOptions{Filters: ours})
		ts.Check(err)
		if len(volumes.Volumes) != want || len(helpers)+len(images) > 0 {
			return fmt.Errorf("the engine has %d volumes, want %d, and %d helpers with %d images", len(volumes.Volumes), want, len(helpers), len(images))
		}
		return nil
	}))
}

// byHand changes a container as a person might behind mesh's back.
func byHand(c *docker.Client, what string, k container.Summary) error {
	ctx := context.Background()
	switch what {
	case "pause":
		return c.ContainerPause(ctx, k.ID)
	case "kill":
		return c.ContainerKill(ctx, k.ID, "KILL")
	case "stop":
		return c.ContainerStop(ctx, k.ID, container.StopOptions{})
	case "rm", "rm-images": // an image that a container uses cannot be removed
		if err := c.ContainerRemove(ctx, k.ID, container.RemoveOptions{Force: true}); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		return nil
	case "rename":
		return c.ContainerRename(ctx, k.ID, "renamed-"+k.ID[:12])
	case "disconnect":
		for _, n := range k.NetworkSettings.Networks {
			if err := c.NetworkDisconnect(ctx, n.NetworkID, k.ID, true); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("engine do %s: unknown", what)
}

// removeImages removes a server's images, whatever their names, and adds them to gone.
// When some are in gone, the others are new, and stay.
func removeImages(c *docker.Client, server string, gone map[string]bool) error {
	ctx := context.Background()
	found, err := c.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "mesh.server="+server))})
	if err != nil {
		return err
	}
	first := len(gone) == 0
	for _, i := range found {
		if !first && !gone[i.ID] {
			continue
		}
		gone[i.ID] = true
	}
	for id := range gone {
		if _, err := c.ImageRemove(ctx, id, image.RemoveOptions{Force: true, PruneChildren: true}); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// cmdLastLine sets a variable to the last line of a file: lastline FILE NAME.
func cmdLastLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lastline FILE NAME")
	}
	text := strings.TrimSpace(ts.ReadFile(args[0]))
	ts.Setenv(args[1], text[strings.LastIndexByte(text, '\n')+1:])
}

// cmdRewrite replaces a text in a file: rewrite FILE OLD NEW.
func cmdRewrite(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: rewrite FILE OLD NEW")
	}
	old := ts.ReadFile(args[0])
	if !strings.Contains(old, args[1]) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(old, args[1], args[2])), 0o644))
}

// pause stops the server's process until the function that it returns is called.
func pause(ts *testscript.TestScript) (resume func()) {
	r, err := readReady(ts.Getenv("MESH_DATA"))
	ts.Check(err)
	ts.Check(syscall.Kill(r.PID, syscall.SIGSTOP))
	return func() { ts.Check(syscall.Kill(r.PID, syscall.SIGCONT)) }
}

// cmdKill9 kills the server with SIGKILL.
func cmdKill9(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: kill9")
	}
	r, err := readReady(ts.Getenv("MESH_DATA"))
	ts.Check(err)
	ts.Check(syscall.Kill(r.PID, syscall.SIGKILL))
	ts.Check(poll(func() error {
		if syscall.Kill(r.PID, 0) == nil {
			return errors.New("still there")
		}
		return nil
	}))
	ts.Check(os.Remove(filepath.Join(ts.Getenv("MESH_DATA"), "ready.json")))
}

// cmdGitLFS checks that the Git LFS client is installed: git-lfs. The client leaves
// ssh's control sockets in a temporary folder, whose path must be shorter than the
// script's own.
func cmdGitLFS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: git-lfs")
	}
	wd, err := os.Getwd()
	ts.Check(err)
	if out, err := exec.Command(filepath.Join(wd, top, "scripts", "git-lfs")).CombinedOutput(); err != nil {
		ts.Fatalf("%v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("", "lfs")
	ts.Check(err)
	ts.Defer(func() { _ = os.RemoveAll(dir) })
	ts.Setenv("TMPDIR", dir)
}

// cmdSmallDisk mounts a separate file system below a folder: smalldisk DIR SIZE.
func cmdSmallDisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: smalldisk DIR SIZE")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() {
		sweepData(dir)
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			ts.Logf("unmount %s: %v", dir, err)
		}
	})
}

// cmdTyped types the lines of a file to the server and compares the answers: typed FILE.
// A line is the exit status, or several with "|", a regular expression and what to type
// after "mesh", separated by tabs. "m" is mesh for those who type more.
func cmdTyped(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: typed FILE")
	}
	var wrong []string
	for i, line := range strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.SplitN(line, "\t", 3)
		if len(f) != 3 {
			ts.Fatalf("line %d is not STATUS, EXPRESSION and command: %q", i+1, line)
		}
		_ = ts.Exec("sh", "-c", `m() { mesh --data "$MESH_DATA" "$@" </dev/null; }; { m `+f[2]+`; } 2>&1; echo "exit $?"`)
		out := ts.ReadFile("stdout")
		at := strings.LastIndex(out, "exit ")
		status := strings.TrimSpace(out[at+len("exit "):])
		if matched, err := regexp.MatchString(f[1], out[:at]); err != nil || !matched || !slices.Contains(strings.Split(f[0], "|"), status) {
			wrong = append(wrong, fmt.Sprintf("line %d: %s: want %s and %q, got %s (%v):\n%s", i+1, f[2], f[0], f[1], status, err, out[:at]))
		}
	}
	if len(wrong) > 0 {
		ts.Fatalf("%s", strings.Join(wrong, "\n"))
	}
}
