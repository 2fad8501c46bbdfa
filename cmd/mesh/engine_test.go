package main

import (
	"net"
	"path/filepath"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// hang is a proxy to the engine that can hang like an engine stopped by SIGSTOP: it
// accepts connections and bytes, and answers nothing.
type hang struct {
	mu    sync.Mutex
	gate  chan struct{} // closed: what comes passes
	away  bool          // connections are cut
	conns []net.Conn
}

func (h *hang) open() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gate
}

var hangs sync.Map // by $WORK

// cmdHang puts a hang between a server and the engine: hang way, before the server
// starts; hang begin; hang end; hang away and hang back, like a stopped engine.
func cmdHang(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hang way | begin | end | away | back")
	}
	work := ts.Getenv("WORK")
	if args[0] == "way" {
		h := &hang{gate: make(chan struct{})}
		close(h.gate)
		hangs.Store(work, h)
		host := testEngine.Client.DaemonHost()
		l, err := net.Listen("unix", filepath.Join(work, "way.sock"))
		ts.Check(err)
		ts.Defer(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go h.pass(c, host[len("unix://"):])
			}
		}()
		ts.Setenv("DOCKER_HOST", "unix://"+l.Addr().String())
		return
	}
	v, ok := hangs.Load(work)
	if !ok {
		ts.Fatalf("hang way comes first")
	}
	h := v.(*hang)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch args[0] {
	case "begin":
		h.gate = make(chan struct{})
	case "end":
		close(h.gate)
	case "away":
		h.away = true
		for _, c := range h.conns {
			_ = c.Close()
		}
		h.conns = nil
	case "back":
		h.away = false
	}
}

func (h *hang) pass(c net.Conn, to string) {
	defer c.Close()
	up, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	defer up.Close()
	h.mu.Lock()
	if h.away {
		h.mu.Unlock()
		return
	}
	h.conns = append(h.conns, c, up)
	h.mu.Unlock()
	copied := make(chan struct{}, 2)
	pipe := func(dst, src net.Conn) {
		defer func() { copied <- struct{}{} }()
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			<-h.open()
			if n > 0 {
				if _, err := dst.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				if w, ok := dst.(*net.UnixConn); ok {
					_ = w.CloseWrite()
				}
				return
			}
		}
	}
	go pipe(up, c)
	go pipe(c, up)
	<-copied
	<-copied
}
