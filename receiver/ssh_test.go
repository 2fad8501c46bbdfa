package receiver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"mesh"
)

// keyList is a Keys over a list.
type keyList struct {
	mu   sync.Mutex
	list []mesh.Key
}

func (k *keyList) Keys(context.Context) ([]mesh.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.list), nil
}

func (k *keyList) add(name mesh.KeyName, role mesh.Role, s ssh.Signer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = append(k.list, mesh.Key{Name: name, Role: role, Fingerprint: ssh.FingerprintSHA256(s.PublicKey())})
}

func (k *keyList) clear() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = nil
}

// commands answers the lines of these tests as the real commands do.
type commands struct {
	began chan struct{} // told of each "logs" that begins,
	ended chan error    // and why its context ended
}

func (c commands) Run(ctx context.Context, req mesh.Request) error {
	end := "\n"
	if req.TTY {
		end = "\r\n"
	}
	switch word, _, _ := strings.Cut(req.Line, " "); word {
	case "version":
		_, err := io.WriteString(req.Stdout, "mesh 9"+end)
		return err
	case "config:import": // waits for the end of its input
		_, err := io.Copy(io.Discard, req.Stdin)
		return err
	case "stacks:create":
		return mesh.Errorf(mesh.Conflict, "asked by %s", req.Key.Name)
	case "logs":
		if req.Parted != nil {
			req.Parted()
		}
		c.began <- struct{}{}
		<-ctx.Done()
		c.ended <- context.Cause(ctx)
		return ctx.Err()
	}
	return mesh.Errorf(mesh.Invalid, "there is no command %q", req.Line)
}

func (commands) PrintError(w io.Writer, err error) { _, _ = fmt.Fprintf(w, "error: %v\n", err) }

type server struct {
	t    *testing.T
	keys *keyList
	logs commands
	addr string
	r    *Receiver
	stop context.CancelFunc
	done chan error
}

func signer(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func serve(t *testing.T, bend func(*Options)) *server {
	t.Helper()
	s := &server{t: t, keys: &keyList{}, logs: commands{make(chan struct{}, 100), make(chan error, 100)}, done: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	o := Options{
		Keys: s.keys, HostKey: signer(t), Logger: log,
		Commands: s.logs,
	}
	if bend != nil {
		bend(&o)
	}
	s.r = New(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.done <- s.r.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := within(t, s.done, "the server to end"); err != nil {
			t.Error(err)
		}
	})
	return s
}

// within waits for something that must happen soon.
func within[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("waited too long for %s", what)
		panic("unreachable")
	}
}

func (s *server) config(methods ...ssh.AuthMethod) *ssh.ClientConfig {
	return &ssh.ClientConfig{User: "mesh", Auth: methods, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second}
}

func (s *server) dial(methods ...ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", s.addr, s.config(methods...))
}

// client signs in with a new key of the given role.
func (s *server) client(role mesh.Role) *ssh.Client {
	s.t.Helper()
	k := signer(s.t)
	s.keys.add(mesh.KeyName(role), role, k)
	c, err := s.dial(ssh.PublicKeys(k))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// run runs a command in a new session.
func run(t *testing.T, c *ssh.Client, line string) (out string, status int) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	b, err := s.CombinedOutput(line)
	var ee *ssh.ExitError
	if errors.As(err, &ee) {
		return string(b), ee.ExitStatus()
	}
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return string(b), 0
}

func TestSSH_KnownKeyIsIn(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleDeploy)
	if out, status := run(t, c, "version"); out != "mesh 9\n" || status != 0 {
		t.Errorf("got %q, %d", out, status)
	}
	if out, status := run(t, c, "nonsense"); !strings.HasPrefix(out, "error: there is no command") || status != 2 {
		t.Errorf("got %q, %d", out, status)
	}
	if out, status := run(t, c, "git-upload-pack '../etc'"); !strings.Contains(out, "is not a repository on this server") || status != 2 {
		t.Errorf("got %q, %d", out, status)
	}
	if out, status := run(t, c, "git-upload-archive 'blog'"); !strings.Contains(out, "not supported") || status != 2 {
		t.Errorf("got %q, %d", out, status)
	}
}

func TestSSH_NothingButKeys(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.client(mesh.RoleAdmin)
	for name, methods := range map[string][]ssh.AuthMethod{
		"nothing":  nil,
		"password": {ssh.Password("")},
		"keyboard": {ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })},
	} {
		if c, err := s.dial(methods...); err == nil {
			_ = c.Close()
			t.Errorf("%s is let in", name)
		}
	}
}

func TestSSH_UnknownKeyIsToldHow(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	stranger := signer(t)
	cfg := s.config(ssh.PublicKeys(stranger))
	said := ""
	cfg.BannerCallback = func(m string) error { said += m; return nil }
	if c, err := ssh.Dial("tcp", s.addr, cfg); err == nil {
		_ = c.Close()
		t.Fatal("a stranger is in")
	}
	fp := ssh.FingerprintSHA256(stranger.PublicKey())
	if !strings.Contains(said, fp) || !strings.Contains(said, "ssh-keys:add NAME "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(stranger.PublicKey())))) {
		t.Errorf("told %q", said)
	}
	// The same key, offered together with a known one, causes no more banners.
	known := signer(t)
	s.keys.add("laptop", mesh.RoleAdmin, known)
	for _, quiet := range []bool{false, true} {
		said = ""
		cfg.Auth = []ssh.AuthMethod{ssh.PublicKeys(stranger, known)}
		c, err := ssh.Dial("tcp", s.addr, cfg)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if quiet != (said == "") {
			t.Errorf("told %q", said)
		}
	}
}

// borrowed offers someone's public key and signs with another private key.
type borrowed struct {
	ssh.Signer
	public ssh.PublicKey
}

func (b borrowed) PublicKey() ssh.PublicKey { return b.public }

// OpenSSH offers a key whose private half it does not have, learns that it would be
// accepted, and then signs in with another one (CVE-2024-45337).
func TestSSH_OfferedKeyIsNoIdentity(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	victim := signer(t)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	attacker, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "victim.pub"), ssh.MarshalAuthorizedKey(victim.PublicKey()), 0o600),
		os.WriteFile(filepath.Join(dir, "attacker"), pem.EncodeToMemory(block), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	s.keys.add("victim", mesh.RoleAdmin, victim)
	s.keys.add("attacker", mesh.RoleDeploy, attacker)
	host, port, _ := net.SplitHostPort(s.addr)
	cmd := exec.CommandContext(t.Context(), "ssh", "-v", "-F", "none", "-p", port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile="+filepath.Join(dir, "known"),
		"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-i", filepath.Join(dir, "victim.pub"), "-i", filepath.Join(dir, "attacker"), "mesh@"+host, "stacks:create new")
	out, _ := cmd.CombinedOutput() // it exits with 1
	if !strings.Contains(string(out), "Server accepts key: "+filepath.Join(dir, "victim")) {
		t.Errorf("the victim's key was not offered:\n%s", out)
	}
	if !strings.Contains(string(out), "asked by attacker") {
		t.Errorf("somebody else is in:\n%s", out)
	}
	// A signature by another key does not work either.
	if c, err := s.dial(ssh.PublicKeys(borrowed{attacker, victim.PublicKey()})); err == nil {
		_ = c.Close()
		t.Error("in without the private key")
	}
}

func TestSSH_RemovedKeyIsOutAtOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleAdmin)
	run(t, c, "version")
	s.keys.clear()
	if out, status := run(t, c, "version"); !strings.Contains(out, "has been removed") || status != 1 {
		t.Errorf("got %q, %d", out, status)
	}
}

func TestSSH_ForwardingIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleAdmin)
	sess, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"auth-agent-req@openssh.com", "x11-req"} {
		if ok, err := sess.SendRequest(name, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if err := sess.RequestSubsystem("netconf"); err == nil {
		t.Error("an unknown subsystem is served")
	}
	for _, name := range []string{"tcpip-forward", "streamlocal-forward@openssh.com"} {
		if ok, _, err := c.SendRequest(name, true, ssh.Marshal(struct {
			Addr string
			Port uint32
		}{"127.0.0.1", 0})); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if conn, err := c.Dial("tcp", s.addr); err == nil {
		_ = conn.Close()
		t.Error("direct-tcpip leads to something that is no add-on")
	}
	for _, kind := range []string{"direct-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "tun@openssh.com"} {
		if ch, _, err := c.OpenChannel(kind, nil); err == nil {
			_ = ch.Close()
			t.Errorf("%s is served", kind)
		}
	}
}

// tail starts a session that lasts until its context ends.
func (s *server) tail(c *ssh.Client) *ssh.Session {
	s.t.Helper()
	sess, err := c.NewSession()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := sess.Start("logs -t --source app"); err != nil {
		s.t.Fatal(err)
	}
	within(s.t, s.logs.began, "the session to begin")
	return sess
}

func TestSSH_ContextEndsWithTheChannel(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleAdmin)
	other := s.tail(c)
	sess := s.tail(c)
	if err := sess.Close(); err != nil {
		t.Fatal(err)
	}
	if err := within(t, s.logs.ended, "the session's context"); !errors.Is(err, mesh.Cancelled) || !strings.Contains(err.Error(), "hung up") {
		t.Errorf("it ended by %v", err)
	}
	if out, _ := run(t, c, "version"); out != "mesh 9\n" {
		t.Errorf("the connection is of no use any more: %q", out)
	}
	select {
	case err := <-s.logs.ended:
		t.Errorf("the other session ended, too: %v", err)
	default:
	}
	_ = other.Close()
	within(t, s.logs.ended, "the other session")
}

func TestSSH_ContextEndsWithTheConnection(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleAdmin)
	s.tail(c)
	_ = c.Close()
	within(t, s.logs.ended, "the session's context")
}

func TestServe_EndsItsSessionsAndReturns(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleAdmin)
	s.tail(c)
	s.stop()
	if err := within(t, s.logs.ended, "the session's context"); !errors.Is(err, mesh.Cancelled) || !strings.Contains(err.Error(), "being stopped") {
		t.Errorf("it ended by %v", err)
	}
	err := within(t, s.done, "the server to end")
	s.done <- err
	if _, err := net.Dial("tcp", s.addr); err == nil {
		t.Error("it still listens")
	}
}

func TestSSH_TenSessionsAndNoMore(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleAdmin)
	var open []*ssh.Session
	for range maxSessions {
		open = append(open, s.tail(c))
	}
	var refused *ssh.OpenChannelError
	if _, err := c.NewSession(); !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage {
		t.Errorf("session %d: %v", maxSessions+1, err)
	}
	_ = open[0].Close()
	within(t, s.logs.ended, "a session to end")
	// Its place is free a moment after its context has ended.
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		var sess *ssh.Session
		if sess, err = c.NewSession(); err == nil {
			_ = sess.Close()
			break
		}
	}
	if err != nil {
		t.Errorf("a place that is free: %v", err)
	}
}

// terminal is a session with a terminal, in which nothing runs yet.
func terminal(t *testing.T, c *ssh.Client) *ssh.Session {
	t.Helper()
	sess, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := sess.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	return sess
}

func TestSSH_WindowChangesNeverStall(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleAdmin)
	sess := terminal(t, c)
	for range 2 { // before the command, and while it runs, nobody reads them
		for i := range 3000 {
			if err := sess.WindowChange(i, i); err != nil {
				t.Fatal(err)
			}
		}
		if ok, err := sess.SendRequest("window-change", true, ssh.Marshal(struct{ W, H, X, Y uint32 }{5, 6, 0, 0})); !ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
		if len(s.logs.began) == 0 {
			if err := sess.Start("logs -t --source app"); err != nil {
				t.Fatal(err)
			}
		}
	}
	within(t, s.logs.began, "the session to begin")
	if out, _ := run(t, c, "version"); out != "mesh 9\n" {
		t.Errorf("got %q", out)
	}
	_ = sess.Close()
	within(t, s.logs.ended, "the session's context")
}

func TestSSH_TerminalGetsItsLineEnds(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.client(mesh.RoleAdmin)
	sess := terminal(t, c)
	if out, err := sess.Output("version"); err != nil || string(out) != "mesh 9\r\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestSSH_WeakAlgorithmsAreNotOffered(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	k := signer(t)
	s.keys.add("laptop", mesh.RoleAdmin, k)
	weak := ssh.InsecureAlgorithms()
	strong := ssh.SupportedAlgorithms()
	try := func(bend func(*ssh.ClientConfig)) error {
		cfg := s.config(ssh.PublicKeys(k))
		bend(cfg)
		c, err := ssh.Dial("tcp", s.addr, cfg)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	if err := try(func(*ssh.ClientConfig) {}); err != nil {
		t.Fatal(err)
	}
	for _, kex := range append(slices.DeleteFunc(strong.KeyExchanges, func(n string) bool {
		return strings.HasPrefix(n, "curve25519") || strings.HasPrefix(n, "mlkem")
	}), weak.KeyExchanges...) {
		if try(func(c *ssh.ClientConfig) { c.KeyExchanges = []string{kex} }) == nil {
			t.Errorf("key exchange %s is offered", kex)
		}
	}
	for _, cipher := range append(slices.DeleteFunc(strong.Ciphers, func(n string) bool { return strings.Contains(n, "gcm") }), weak.Ciphers...) {
		if try(func(c *ssh.ClientConfig) { c.Ciphers = []string{cipher} }) == nil {
			t.Errorf("cipher %s is offered", cipher)
		}
	}
}

func TestSSH_SilentConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	s := serve(t, func(o *Options) { o.Grace = 2 * time.Second })
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	closed := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn) // it sends its version, and then waits
		closed <- err
	}()
	within(t, closed, "the connection to be closed")
	// A client that has signed in may take its time.
	c := s.client(mesh.RoleAdmin)
	sess := s.tail(c)
	silent, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, silent) // one more grace has passed when this ends
	_ = silent.Close()
	if out, _ := run(t, c, "version"); out != "mesh 9\n" {
		t.Errorf("got %q", out)
	}
	_ = sess.Close()
	within(t, s.logs.ended, "the session's context")
}

func TestServeLocal_OwnerIsAdmin(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.r.ServeLocal(ctx, l) }()
	defer func() {
		cancel()
		if err := within(t, done, "the local server to end"); err != nil {
			t.Error(err)
		}
	}()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	cc, chans, reqs, err := ssh.NewClientConn(conn, "mesh.sock", s.config())
	if err != nil {
		t.Fatal(err)
	}
	c := ssh.NewClient(cc, chans, reqs)
	defer func() { _ = c.Close() }()
	if out, _ := run(t, c, "stacks:create new"); !strings.Contains(out, "asked by local") {
		t.Errorf("got %q", out)
	}
}
