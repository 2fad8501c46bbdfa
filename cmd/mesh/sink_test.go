package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// sink is an HTTP server that appends the bodies that it gets to a file.
type sink struct {
	mu   sync.Mutex
	addr string
	http *http.Server
}

var sinks sync.Map // by $WORK

// cmdSink starts and stops a receiver of log lines: sink up, sink down. Its address is
// $SINK, and what it gets is in the file sink.
func cmdSink(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || args[0] != "up" && args[0] != "down" {
		ts.Fatalf("usage: sink up | down")
	}
	work := ts.Getenv("WORK")
	v, _ := sinks.LoadOrStore(work, &sink{addr: "127.0.0.1:0"})
	s := v.(*sink)
	if args[0] == "down" {
		ts.Check(s.http.Close())
		return
	}
	l, err := net.Listen("tcp", s.addr)
	ts.Check(err)
	s.addr = l.Addr().String()
	ts.Setenv("SINK", s.addr)
	s.http = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // for tests
		body, err := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		f, ferr := os.OpenFile(filepath.Join(work, "sink"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil || ferr != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		defer f.Close()
		_, _ = fmt.Fprintf(f, "POST %s\n%s", r.URL, body)
	})}
	ts.Defer(func() { _ = s.http.Close() })
	go func(h *http.Server) { _ = h.Serve(l) }(s.http)
}
