package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/rogpeppe/go-internal/testscript"
)

var stamp = regexp.MustCompile(`stamp (\d{19})`)

// cmdLivePush pushes, and compares the time at which each line "stamp N" arrives with
// the time N at which the build printed it: the first must arrive before the last is
// printed. This fails if lines are held until the end of their step, however busy the
// machine is.
func cmdLivePush(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: livepush DIR")
	}
	cmd := exec.Command("git", "push", "mesh", "main")
	cmd.Dir = ts.MkAbs(args[0])
	for _, k := range []string{"HOME", "PATH", "GIT_SSH", "GIT_SSH_VARIANT", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_GLOBAL"} {
		cmd.Env = append(cmd.Env, k+"="+ts.Getenv(k))
	}
	out, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	var printed, arrived []time.Time
	var all strings.Builder
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		now := time.Now()
		fmt.Fprintln(&all, sc.Text())
		if m := stamp.FindStringSubmatch(sc.Text()); m != nil {
			n, err := strconv.ParseInt(m[1], 10, 64)
			ts.Check(err)
			printed, arrived = append(printed, time.Unix(0, n)), append(arrived, now)
		}
	}
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("push: %v\n%s", err, all.String())
	}
	if len(printed) < 20 {
		ts.Fatalf("%d stamps arrived, want 20:\n%s", len(printed), all.String())
	}
	for i, at := range arrived {
		ts.Logf("line %d took %s", i, at.Sub(printed[i]))
	}
	if last := printed[len(printed)-1]; !arrived[0].Before(last) {
		ts.Fatalf("the first line arrived at %s, and the last was printed at %s", arrived[0], last)
	}
}

// loads holds the running request loops, by the work directory of their script.
var loads sync.Map

type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	asked  atomic.Int64
	failed atomic.Int64
	first  atomic.Pointer[string]
}

// cmdLoad requests a host from the router on four connections, at most 800 times a
// second, between "load start [-held] HOST PATH" and "load stop". "load stop" fails if any
// request failed or got a 5xx; with -few, if more than 1 % did: an instance that is killed may
// have accepted requests that nobody else knows of. With -held, a 503 after the 10 s that the router holds a
// request is none: on a busy machine, an instance that ends before the next one starts may
// be away for longer.
func cmdLoad(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: load start [-held] HOST PATH | load stop [-few]")
	}
	work := ts.Getenv("WORK")
	if args[0] == "stop" {
		v, ok := loads.LoadAndDelete(work)
		if !ok {
			ts.Fatalf("no load is running")
		}
		l := v.(*load)
		l.cancel()
		l.done.Wait()
		ts.Logf("%d requests", l.asked.Load())
		failed := l.failed.Load()
		if few := len(args) > 1 && args[1] == "-few"; few && failed*100 <= l.asked.Load() {
			failed = 0
		}
		if f := l.first.Load(); failed > 0 {
			ts.Fatalf("%d of %d requests failed, the first with: %s", failed, l.asked.Load(), *f)
		}
		if l.asked.Load() < 4 {
			ts.Fatalf("only %d requests were made", l.asked.Load())
		}
		return
	}
	held := args[1] == "-held"
	if held {
		args = args[1:]
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	ts.Defer(func() { cancel(); l.done.Wait() })
	loads.Store(work, l)
	addr := ts.Getenv("HTTP")
	for i := range 4 {
		l.done.Go(func() {
			c := &http.Client{
				Transport:     &http.Transport{DisableKeepAlives: i%2 == 1},
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			}
			defer c.CloseIdleConnections()
			// Without a limit, the four would take the machine from all other tests.
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				<-tick.C
				method := http.MethodGet
				if n%3 == 0 {
					method = http.MethodPost
				}
				began := time.Now()
				err := ask(ctx, c, method, "http://"+addr+args[2], args[1])
				if held && errors.Is(err, errAway) && time.Since(began) >= 10*time.Second {
					err = nil
				}
				if err != nil && ctx.Err() == nil {
					s := err.Error()
					l.first.CompareAndSwap(nil, &s)
					l.failed.Add(1)
				}
				l.asked.Add(1)
			}
		})
	}
}

func ask(ctx context.Context, c *http.Client, method, url, host string) error {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("some=form")
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Host = host
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= 500 {
		err = fmt.Errorf("%s: %s: %s", method, res.Status, data)
		if res.StatusCode == http.StatusServiceUnavailable {
			err = fmt.Errorf("%w: %w", errAway, err)
		}
	}
	return err
}

var errAway = errors.New("no instance")

// cmdWebSocket talks to an app through the router: websocket [-user NAME:PASSWORD] HOST
// PATH MESSAGE.
func cmdWebSocket(ts *testscript.TestScript, neg bool, args []string) {
	o := &websocket.DialOptions{HTTPHeader: http.Header{}}
	if len(args) > 1 && args[0] == "-user" {
		o.HTTPHeader.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(args[1])))
		args = args[2:]
	}
	if len(args) != 3 {
		ts.Fatalf("usage: websocket [-user NAME:PASSWORD] HOST PATH MESSAGE")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	o.Host = args[0]
	c, _, err := websocket.Dial(ctx, "ws://"+ts.Getenv("HTTP")+args[1], o) //nolint:bodyclose // the library's
	if neg {
		if err == nil {
			ts.Fatalf("the WebSocket was opened")
		}
		ts.Check(os.WriteFile(filepath.Join(ts.Getenv("WORK"), "websocket.out"), []byte(err.Error()), 0o600))
		return
	}
	ts.Check(err)
	defer c.CloseNow() //nolint:errcheck // over anyway
	ts.Check(c.Write(ctx, websocket.MessageText, []byte(args[2])))
	_, msg, err := c.Read(ctx)
	ts.Check(err)
	_, _ = ts.Stdout().Write(append(msg, '\n'))
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("WORK"), "websocket.out"), msg, 0o600))
	ts.Check(c.Close(websocket.StatusNormalClosure, ""))
}
