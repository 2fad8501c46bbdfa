// Package s3test runs an S3 server for tests: versitygw, a real one, on a folder, built from
// the module in tools/s3. Between it and its clients is a way that a test can cut.
package s3test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The credentials of every server, and a bucket that it has.
const (
	AccessKey = "mesh-test"
	SecretKey = "Planted-Secret-Key"
	Bucket    = "backups"
)

// Server is a running server.
type Server struct {
	URL string // http://127.0.0.1:PORT
	Dir string // what it serves: Dir/data has a folder for each bucket

	socket string
	cmd    *exec.Cmd
	l      net.Listener
	away   atomic.Bool
	hold   atomic.Bool
	budget atomic.Int64 // bytes that clients may still send; then the way is cut
	mu     sync.Mutex
	conns  map[net.Conn]bool

	refused chan struct{}
}

var built struct {
	sync.Mutex
	path string
}

// program builds the server, once a process, into a folder that stays.
func program(ctx context.Context) (string, error) {
	built.Lock()
	defer built.Unlock()
	if built.path != "" {
		return built.path, nil
	}
	_, file, _, _ := runtime.Caller(0)
	dir := filepath.Join(filepath.Dir(file), "..", "..", "tmp", "s3")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) // other test processes build it as well
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { //nolint:gosec // a descriptor
		return "", err
	}
	out := filepath.Join(dir, "versitygw")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", out, "github.com/versity/versitygw/cmd/versitygw")
	cmd.Dir = filepath.Join(filepath.Dir(file), "..", "..", "tools", "s3")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the S3 server: %w\n%s", err, text)
	}
	built.path = out
	return out, nil
}

// Start starts a server in a folder, which gets what it needs. Stop ends it.
func Start(ctx context.Context, dir string) (*Server, error) {
	gateway, err := program(ctx)
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, conns: map[net.Conn]bool{}, refused: make(chan struct{}, 1)}
	for _, d := range []string{"data/" + Bucket, "meta"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	sock, err := os.MkdirTemp("", "s3-") // the name of a socket is short
	if err != nil {
		return nil, err
	}
	s.socket = filepath.Join(sock, "s")
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), gateway, "--port", s.socket, "--quiet", "posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	s.cmd.Env = []string{"ROOT_ACCESS_KEY_ID=" + AccessKey, "ROOT_SECRET_ACCESS_KEY=" + SecretKey}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := new(net.Dialer).DialContext(ctx, "unix", s.socket)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(err, s.Stop())
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // another program begins to listen
	}
	if s.l, err = new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	s.URL = "http://" + s.l.Addr().String()
	s.budget.Store(1 << 60)
	go s.accept()
	return s, nil
}

func (s *Server) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		if s.away.Load() {
			_ = c.Close()
			select {
			case s.refused <- struct{}{}:
			default: // nobody counts
			}
			continue
		}
		back, err := new(net.Dialer).DialContext(context.Background(), "unix", s.socket)
		if err != nil {
			_ = c.Close()
			continue
		}
		s.mu.Lock()
		s.conns[c], s.conns[back] = true, true
		s.mu.Unlock()
		closing := func() {
			_, _ = c.Close(), back.Close()
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.conns, c)
			delete(s.conns, back)
		}
		go func() { defer closing(); _, _ = io.Copy(held{c, s}, back) }()
		go func() {
			defer closing()
			buf := make([]byte, 32<<10)
			for {
				n, err := c.Read(buf)
				if n > 0 && s.budget.Add(-int64(n)) < 0 {
					s.Away(true)
					return
				}
				if _, werr := back.Write(buf[:n]); err != nil || werr != nil {
					return
				}
			}
		}()
	}
}

// held passes on what a server sends, but for while it holds.
type held struct {
	net.Conn
	s *Server
}

func (h held) Write(p []byte) (int, error) {
	for h.s.hold.Load() && !h.s.away.Load() {
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // only tests wait here
	}
	return h.Conn.Write(p)
}

// Hold makes the server send nothing more, or ends that.
func (s *Server) Hold(hold bool) { s.hold.Store(hold) }

// Away cuts all connections and accepts no more, or ends that.
func (s *Server) Away(away bool) {
	s.away.Store(away)
	if !away {
		s.budget.Store(1 << 60)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// AwayAfter makes the server go away after clients have sent so many more bytes.
func (s *Server) AwayAfter(n int64) { s.budget.Store(n) }

// Refused gets a value for a connection that was refused because the server is away.
func (s *Server) Refused() <-chan struct{} { return s.refused }

// Files returns the names of everything in the bucket, and below it what the server keeps of
// uploads that have not ended.
func (s *Server) Files() (out []string, err error) {
	root := filepath.Join(s.Dir, "data", Bucket)
	err = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, p)
			out = append(out, rel)
		}
		return err
	})
	return out, err
}

// Stop ends the server.
func (s *Server) Stop() error {
	if s.l != nil {
		_ = s.l.Close()
		s.Away(true)
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	return os.RemoveAll(filepath.Dir(s.socket))
}
