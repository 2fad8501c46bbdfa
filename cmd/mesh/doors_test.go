package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"
)

// started runs a command of a script's.
func started(ts *testscript.TestScript, stdin io.Reader, args ...string) *exec.Cmd {
	path := args[0]
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), string(filepath.ListSeparator)) {
		if p := filepath.Join(dir, args[0]); !strings.Contains(args[0], "/") && executable(p) {
			path = p
			break
		}
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Dir, cmd.Stdin = ts.MkAbs("."), stdin
	for _, k := range []string{
		"HOME", "PATH", "WORK", "GIT_CONFIG_NOSYSTEM", "GIT_TERMINAL_PROMPT", "GIT_CONFIG_GLOBAL", "GIT_SSH", "GIT_SSH_VARIANT",
		"GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "MESH_DATA", "MESH_TEST_RUN", "NO_COLOR", "TERM",
	} {
		if v := ts.Getenv(k); v != "" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	return cmd
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// clock matches the times in which two runs of the same command differ.
var clock = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+(Z|\+00:00)|\b\d+s ago`)

// cmdDoors runs one command of mesh's through all three doors, ssh, the local
// socket, and the client in the checkout that the script is in, and fails unless
// all give the same stdout and exit status:
//
//	doors [-status N] [-in FILE] [-changes] WORDS…
//
// With -changes stdout may differ: the first run changes something, and the others find
// it changed.
//
// The output goes to the file doors.out. "ssh mesh" gets the words as a shell passes
// them, so no word of a script may need quotes there.
func cmdDoors(ts *testscript.TestScript, neg bool, args []string) {
	want, in, changes := 0, "", false
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-changes":
			changes = true
			args = args[1:]
			continue
		case "-status":
			n, err := strconv.Atoi(args[1])
			ts.Check(err)
			want = n
		case "-in":
			in = ts.ReadFile(args[1])
		default:
			ts.Fatalf("doors: %s?", args[0])
		}
		args = args[2:]
	}
	if neg || len(args) == 0 {
		ts.Fatalf("usage: doors [-status N] [-in FILE] WORDS…")
	}
	first := ""
	doors := [][]string{{"ssh", "mesh"}, {"mesh", "--data", ts.Getenv("MESH_DATA")}, {"mesh"}}
	for i, again := 0, 0; i < len(doors); i++ {
		door := doors[i]
		cmd := started(ts, strings.NewReader(in), append(door, args...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		var ee *exec.ExitError
		if err != nil && !errors.As(err, &ee) {
			ts.Check(err)
		}
		out := clock.ReplaceAllString(stdout.String(), "TIME")
		if got := cmd.ProcessState.ExitCode(); got != want {
			ts.Fatalf("%v: exit status %d, want %d\n%s%s", cmd.Args, got, want, out, stderr.String())
		}
		if want != 0 {
			out += stderr.String()
		}
		if i == 0 {
			first = out
		} else if out != first && !changes {
			if again++; again > 5 {
				ts.Fatalf("%v prints\n%s\nand ssh printed\n%s", cmd.Args, out, first)
			}
			i = -1 // what is measured may have changed in between: all doors again
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs("doors.out"), []byte(first), 0o600))
}

// cmdTerminal runs a command on a terminal and plays a file of steps:
//
//	terminal STEPS COMMAND…
//
// The steps, one a line: "expect RE" waits until the output since the last match
// matches; "send TEXT" types, with Go's escapes (\r, \x03); "resize ROWSxCOLUMNS";
// "status N" is the expected exit status. All output goes to the file terminal.out.
func cmdTerminal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: terminal STEPS COMMAND…")
	}
	cmd := started(ts, nil, args[1:]...)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	ts.Check(err)
	defer tty.Close()
	var mu sync.Mutex
	var all bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 4096)
		for {
			n, err := tty.Read(b)
			mu.Lock()
			all.Write(b[:n])
			mu.Unlock()
			if err != nil { // EIO when the command has ended: pty(7)
				return
			}
		}
	}()
	kill := func(format string, a ...any) {
		_ = cmd.Process.Kill()
		mu.Lock()
		defer mu.Unlock()
		ts.Fatalf("%s\nprinted so far:\n%q", fmt.Sprintf(format, a...), all.String())
	}
	seen, want := 0, 0
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch verb {
		case "":
		case "expect":
			re, err := regexp.Compile(rest)
			ts.Check(err)
			err = poll(func() error {
				mu.Lock()
				defer mu.Unlock()
				at := re.FindIndex(all.Bytes()[seen:])
				if at == nil {
					return fmt.Errorf("%q was not printed", rest)
				}
				seen += at[1]
				return nil
			})
			if err != nil {
				kill("%v", err)
			}
		case "send":
			text, err := strconv.Unquote(`"` + rest + `"`)
			ts.Check(err)
			_, err = io.WriteString(tty, text)
			ts.Check(err)
		case "resize":
			var rows, cols uint16
			_, err := fmt.Sscanf(rest, "%dx%d", &rows, &cols)
			ts.Check(err)
			ts.Check(pty.Setsize(tty, &pty.Winsize{Rows: rows, Cols: cols}))
		case "status":
			want, err = strconv.Atoi(rest)
			ts.Check(err)
		default:
			kill("terminal: %s?", verb)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		kill("%v does not end", cmd.Args)
	}
	<-read
	ts.Check(os.WriteFile(ts.MkAbs("terminal.out"), all.Bytes(), 0o600))
	if got := cmd.ProcessState.ExitCode(); got != want {
		kill("%v: exit status %d, want %d", cmd.Args, got, want)
	}
}

// cmdCrowd runs a command N times at once, with "%d" in its words replaced by the
// number, and fails unless all succeed: crowd N COMMAND…. The output goes to crowd.out.
func cmdCrowd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: crowd N COMMAND…")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	type result struct {
		out string
		err error
	}
	results := make(chan result)
	for i := range n {
		words := make([]string, len(args)-1)
		for j, w := range args[1:] {
			words[j] = strings.ReplaceAll(w, "%d", strconv.Itoa(i))
		}
		cmd := started(ts, nil, words...)
		go func() {
			out, err := cmd.CombinedOutput()
			results <- result{string(out), err}
		}()
	}
	var all, faults strings.Builder
	failed := 0
	for range n {
		r := <-results
		all.WriteString(r.out)
		if r.err != nil {
			failed++
			fmt.Fprintf(&faults, "%v: %s", r.err, r.out)
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs("crowd.out"), []byte(all.String()), 0o600))
	if failed > 0 {
		ts.Fatalf("%d of %d failed:\n%s", failed, n, faults.String())
	}
}

// cmdHidden fails if a text is anywhere below the script's folder: in a file of the
// server's data, in its log, or in a file with a command's output. It skips the
// repositories and the files named *.plant, where a script keeps the text itself.
func cmdHidden(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hidden TEXT")
	}
	looked := 0
	ts.Check(filepath.WalkDir(ts.Getenv("WORK"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() || strings.HasSuffix(p, ".plant") {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		looked++
		if bytes.Contains(data, []byte(args[0])) {
			ts.Fatalf("%q is in %s", args[0], p)
		}
		return nil
	}))
	if looked < 10 {
		ts.Fatalf("only %d files were looked at", looked)
	}
}

// cmdRegistry serves an empty image registry on a loopback address, which the engine
// accepts without TLS, and sets $REGISTRY to its address: registry [PASSWORD]. With a
// password it accepts only the user robot.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: registry [PASSWORD]")
	}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	handler := images
	if len(args) > 0 {
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "robot" || password != args[0] {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
				return
			}
			images.ServeHTTP(w, r)
		})
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	ts.Check(err)
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	ts.Defer(func() { _ = srv.Close() })
	ts.Setenv("REGISTRY", l.Addr().String())
}
