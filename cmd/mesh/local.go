package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"mesh"
	"mesh/command"
)

// local speaks SSH over the server's own socket, which admits its owner.
func local(socket string, words []string, stdin io.Reader, stdout, stderr io.Writer) error {
	c, err := dialLocal(socket)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	s, err := c.NewSession()
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	for _, kv := range environment(stdout, stderr) {
		_ = s.Setenv(kv[0], kv[1])
	}
	in, err := s.StdinPipe() // not s.Stdin: Wait would wait for the end of our input
	if err != nil {
		return err
	}
	s.Stdout, s.Stderr = stdout, stderr
	restore := func() {}
	defer func() { restore() }()
	if interactive(words) && isTerminal(stdin) && isTerminal(stdout) {
		if restore, err = terminal(s, stdin.(*os.File)); err != nil {
			return err
		}
	}
	if err := s.Start(command.Join(words)); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, stdin)
		_ = in.Close()
	}()
	err = s.Wait()
	var ee *ssh.ExitError
	if errors.As(err, &ee) {
		return mesh.ExitCode(ee.ExitStatus())
	}
	var missing *ssh.ExitMissingError
	if errors.As(err, &missing) {
		return mesh.Errorf(mesh.Unavailable, "the server closed the connection").WithHint("check that it is running, and its log")
	}
	return err
}

// dialLocal connects to the server's own socket.
func dialLocal(socket string) (*ssh.Client, error) {
	conn, err := new(net.Dialer).DialContext(context.Background(), "unix", socket)
	if err != nil {
		return nil, mesh.Errorf(mesh.Unavailable, "no mesh server answers at %s: %w", socket, err).
			WithHint("start one with: mesh serve; or name a server with --host ssh://mesh@HOST:PORT, --data DIR, or a git remote called mesh")
	}
	// Trust comes from the socket's path and mode, not from the key.
	sc, chans, reqs, err := ssh.NewClientConn(conn, "mesh", &ssh.ClientConfig{User: "local", HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // see above
	if err != nil {
		return nil, fmt.Errorf("speak to the server at %s: %w", socket, err)
	}
	return ssh.NewClient(sc, chans, reqs), nil
}

// terminal puts the local terminal into raw mode and gives the session a terminal of
// the same size, which follows later changes.
func terminal(s *ssh.Session, tty *os.File) (restore func(), err error) {
	w, h, err := term.GetSize(int(tty.Fd()))
	if err != nil {
		return func() {}, err
	}
	if err := s.RequestPty(os.Getenv("TERM"), h, w, ssh.TerminalModes{}); err != nil {
		return func() {}, err
	}
	old, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return func() {}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	sizes := make(chan os.Signal, 1)
	signal.Notify(sizes, syscall.SIGWINCH)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-sizes:
				if w, h, err := term.GetSize(int(tty.Fd())); err == nil {
					_ = s.WindowChange(h, w)
				}
			}
		}
	}()
	return func() {
		cancel()
		signal.Stop(sizes)
		_ = term.Restore(int(tty.Fd()), old)
	}, nil
}
