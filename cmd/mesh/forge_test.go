package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi" //nolint:gosec // of a test's own server; git's CGI is what forges run as well
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdForge serves repositories as a forge does, with git's own http-backend, and the API for
// commit statuses as Gitea documents it (POST /api/v1/repos/OWNER/NAME/statuses/SHA); it
// sends webhooks.
//
//	forge start                              sets $FORGE to its URL; it serves $WORK/forge/OWNER/NAME.git
//	forge down, forge up                     answers 503 to everything, and no longer does
//	forge send [-secret S] [-n N] [-status N] [-body FILE] KIND STACK BRANCH
//	                                         sends N push events, signed with S, and expects the status (202)
//
// Each status that it is sent becomes a line of forge.out: token, repository, commit, state,
// context, description, URL.
func cmdForge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: forge start | forge down | forge up | forge send …")
	}
	work := ts.Getenv("WORK")
	switch args[0] {
	case "start":
		f := &forgeStub{root: filepath.Join(work, "forge"), out: filepath.Join(work, "forge.out")}
		ts.Check(os.MkdirAll(f.root, 0o755))
		ts.Check(os.WriteFile(f.out, nil, 0o600))
		path, err := exec.Command("git", "--exec-path").Output()
		ts.Check(err)
		f.git = &cgi.Handler{
			Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Stderr: io.Discard,
			Env: []string{"GIT_PROJECT_ROOT=" + f.root, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + work, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
		}
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test's own
		ts.Check(err)
		s := &http.Server{Handler: f, ReadHeaderTimeout: 10 * time.Second}
		go func() { _ = s.Serve(l) }()
		ts.Defer(func() { _ = s.Close() })
		forgeStubs.Store(work, f)
		ts.Defer(func() { forgeStubs.Delete(work) })
		ts.Setenv("FORGE", "http://"+l.Addr().String())
	case "down", "up":
		v, _ := forgeStubs.Load(work)
		f := v.(*forgeStub)
		f.mu.Lock()
		f.down = args[0] == "down"
		f.mu.Unlock()
	case "send":
		ts.Check(sendEvents(ts, args[1:]))
	default:
		ts.Fatalf("forge: unknown %s", args[0])
	}
}

var forgeStubs sync.Map // by $WORK

type forgeStub struct {
	root, out string
	git       *cgi.Handler

	mu   sync.Mutex
	down bool
}

// ServeHTTP implements http.Handler.
func (f *forgeStub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest, api := strings.CutPrefix(r.URL.Path, "/api/v1/repos/")
	switch {
	case f.down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case !api:
		f.git.ServeHTTP(w, r)
	case r.Method != http.MethodPost || !strings.Contains(rest, "/statuses/"):
		w.WriteHeader(http.StatusNotFound)
	case r.Header.Get("Authorization") != "token t0ken":
		w.WriteHeader(http.StatusUnauthorized)
	default:
		body, _ := io.ReadAll(r.Body)
		file, err := os.OpenFile(f.out, os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, _ = fmt.Fprintf(file, "%s %s\n", rest, body)
			_ = file.Close()
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "{}")
	}
}

// sendEvents sends push events to the router, as from a forge that runs on this machine.
func sendEvents(ts *testscript.TestScript, args []string) error {
	secret, n, want, file := "", 1, http.StatusAccepted, ""
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		var err error
		switch args[0] {
		case "-secret":
			secret = args[1]
		case "-n":
			n, err = strconv.Atoi(args[1])
		case "-status":
			want, err = strconv.Atoi(args[1])
		case "-body":
			file = args[1]
		default:
			ts.Fatalf("forge send: unknown option %s", args[0])
		}
		ts.Check(err)
		args = args[2:]
	}
	if len(args) != 3 {
		ts.Fatalf("usage: forge send [-secret S] [-n N] [-status N] [-body FILE] KIND STACK BRANCH")
	}
	kind, stack, branch := args[0], args[1], args[2]
	body := []byte(`{"ref": "refs/heads/` + branch + `", "after": "0123456789012345678901234567890123456789"}`)
	if file != "" {
		body = []byte(ts.ReadFile(file))
	}
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = mac.Write(body)
	sum := hex.EncodeToString(mac.Sum(nil))
	var slowest time.Duration
	for range n {
		req, err := http.NewRequest(http.MethodPost, "http://"+ts.Getenv("HTTP")+"/hooks/"+stack, bytes.NewReader(body)) //nolint:noctx // bounded below
		if err != nil {
			return err
		}
		req.Host = "mesh.localhost"
		req.Header.Set("Content-Type", "application/json")
		switch kind {
		case "github":
			req.Header.Set("X-GitHub-Event", "push")
			req.Header.Set("X-Hub-Signature-256", "sha256="+sum)
		case "gitea":
			req.Header.Set("X-Gitea-Event", "push")
			req.Header.Set("X-Gitea-Signature", sum)
		case "gitlab":
			req.Header.Set("X-Gitlab-Event", "Push Hook")
			req.Header.Set("X-Gitlab-Token", secret)
		}
		began := time.Now()
		res, err := (&http.Client{Timeout: time.Minute}).Do(req)
		if err != nil {
			return err
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		slowest = max(slowest, time.Since(began))
		if res.StatusCode != want {
			return fmt.Errorf("the webhook got %s, want %d: %s", res.Status, want, text)
		}
	}
	ts.Logf("%d webhooks, the slowest took %s", n, slowest)
	return nil
}
