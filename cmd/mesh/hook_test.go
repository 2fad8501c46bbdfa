package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"mesh/notify"
)

// hookServer is a webhook, and what a chat's webhook looks like from here.
type hookServer struct {
	out string // a line for each message

	mu     sync.Mutex
	status int
	key    string
	seen   map[string]bool // Mesh-Id of accepted messages
}

// cmdHook serves a webhook. Each message that it accepts becomes a line of hook.out: its
// event, how it is signed, and its text on one line.
//
//	hook start          starts it, sets $HOOK to its URL and $HOOKADDR to its address
//	hook status N       answers with this status from now on
//	hook key FILE       verifies signatures with the key in a file from now on
func cmdHook(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: hook start | status N | key FILE")
	}
	var h *hookServer
	switch {
	case args[0] == "start":
		h := &hookServer{out: filepath.Join(ts.Getenv("WORK"), "hook.out"), status: http.StatusOK, seen: map[string]bool{}}
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test's own
		ts.Check(err)
		s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
		go func() { _ = s.Serve(l) }()
		ts.Defer(func() { _ = s.Close() })
		ts.Check(os.WriteFile(h.out, nil, 0o600))
		hookServers.Store(ts, h)
		ts.Defer(func() { hookServers.Delete(ts) })
		ts.Setenv("HOOK", "http://"+l.Addr().String()+"/hooks/Planted-9c3b")
		ts.Setenv("HOOKADDR", l.Addr().String())
		return
	case len(args) != 2:
		ts.Fatalf("usage: hook start | status N | key FILE")
	}
	if v, ok := hookServers.Load(ts); ok {
		h = v.(*hookServer)
	}
	if h == nil {
		ts.Fatalf("hook start comes first")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch args[0] {
	case "status":
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		h.status = n
	case "key":
		h.key = strings.TrimSpace(ts.ReadFile(args[1]))
	default:
		ts.Fatalf("hook: unknown verb %s", args[0])
	}
}

// hookServers are the servers of the scripts that run.
var hookServers sync.Map

func (h *hookServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.status >= 300 {
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(h.status)
		return
	}
	var m struct {
		Event string `json:"event"`
		Text  string `json:"text"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if id := r.Header.Get("Mesh-Id"); id != "" {
		if h.seen[id] {
			m.Event = "twice:" + m.Event
		}
		h.seen[id] = true
	}
	signed := "unsigned"
	if sig := r.Header.Get("Mesh-Signature"); sig != "" {
		signed = "WRONG-SIGNATURE"
		seconds, _, _ := strings.Cut(strings.TrimPrefix(sig, "t="), ",")
		if at, err := strconv.ParseInt(seconds, 10, 64); err == nil && h.key != "" && notify.Sign(h.key, time.Unix(at, 0), body) == sig {
			signed = "signed"
		}
	}
	f, err := os.OpenFile(h.out, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s %s %s\n", m.Event, signed, strings.ReplaceAll(m.Text, "\n", " | "))
}
