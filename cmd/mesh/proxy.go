package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"mesh"
)

// proxying takes the port here off the words of addons:proxy. port is 0 if none is named.
func proxying(words []string) (rest []string, port int, ok bool, err error) {
	if _, ok := behind(afterStack(words), "addons", "proxy"); !ok {
		return nil, 0, false, nil
	}
	rest = slices.Clone(words)
	for i := 0; i < len(rest); i++ {
		name, value, joined := strings.Cut(rest[i], "=")
		if name != "--port" && name != "-p" {
			continue
		}
		end := i + 1
		if !joined {
			if end == len(rest) {
				return nil, 0, true, mesh.Errorf(mesh.Invalid, "%s needs a value", name)
			}
			value = rest[end]
			end++
		}
		if port, err = strconv.Atoi(value); err != nil || port < 1 || port > 65535 {
			return nil, 0, true, mesh.Errorf(mesh.Invalid, "%q is not a port", mesh.Clip(value, 40)).WithHint("mesh addons:proxy NAME --port 5433")
		}
		rest = slices.Delete(rest, i, end)
		i--
	}
	return rest, port, true, nil
}

// proxy opens a port here that leads to an add-on, until it is interrupted.
func (o clientFlags) proxy(words []string, port int, stdout, stderr io.Writer) error {
	var answer bytes.Buffer
	if err := o.run(append(words, "--json"), strings.NewReader(""), &answer, stderr); err != nil {
		return err
	}
	var to struct {
		Name string `json:"name"`
		Port int    `json:"port"`
	}
	if err := json.Unmarshal(answer.Bytes(), &to); err != nil || to.Name == "" {
		return fmt.Errorf("read the server's answer: %w", errors.Join(err, errors.New("it names no add-on")))
	}
	if port == 0 {
		port = to.Port
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	say := func() {
		_, _ = fmt.Fprintf(stdout, "%s is at %s until you press Ctrl-C\n", to.Name, at)
		_, _ = fmt.Fprintf(stderr, "its URL, with the password: mesh addons:url %s --port %d\n", to.Name, port)
	}
	free := func() error { // ssh would only say that it could not
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
		if err != nil {
			return mesh.Errorf(mesh.Conflict, "port %d cannot be opened here: %w", port, err).WithHint("choose another: mesh addons:proxy %s --port %d", to.Name, port+1)
		}
		return l.Close()
	}
	if err := free(); err != nil {
		return err
	}
	d, named, err := o.server()
	switch {
	case err != nil:
		return err
	case named:
		return d.forward(ctx, at, net.JoinHostPort(to.Name, strconv.Itoa(to.Port)), say, stderr)
	}
	return forwardLocal(ctx, filepath.Join(o.data, "mesh.sock"), at, net.JoinHostPort(to.Name, strconv.Itoa(to.Port)), say)
}

// forward runs the system's ssh, which opens the port.
func (d destination) forward(ctx context.Context, at, to string, say func(), stderr io.Writer) error {
	argv := d.ssh()
	if openSSH(argv) {
		argv = append(argv, "-o", "ExitOnForwardFailure=yes")
	}
	argv = append(argv, "-N", "-L", at+":"+to, "--", d.target())
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // ssh is what the user asked for
	cmd.Stderr = stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return noSSH(err)
	}
	say()
	_ = cmd.Wait()
	if ctx.Err() != nil {
		return mesh.ExitCode(130)
	}
	return mesh.Errorf(mesh.Unavailable, "the connection has ended (%s)", cmd.ProcessState).WithHint("start it again: mesh addons:proxy")
}

// forwardLocal does the same through the server's own socket.
func forwardLocal(ctx context.Context, socket, at, to string, say func()) error {
	c, err := dialLocal(socket)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
	if err != nil {
		return mesh.Errorf(mesh.Conflict, "%s cannot be opened: %w", at, err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer context.AfterFunc(ctx, func() { _ = l.Close(); _ = c.Close() })()
	go func() { _ = c.Wait(); _ = l.Close() }()
	say()
	for {
		in, err := l.Accept()
		if ctx.Err() != nil {
			return mesh.ExitCode(130)
		}
		if err != nil {
			return mesh.Errorf(mesh.Unavailable, "the server has closed the connection").WithHint("start it again: mesh addons:proxy")
		}
		all.Go(func() {
			defer in.Close()
			out, err := c.DialContext(ctx, "tcp", to)
			if err != nil {
				return
			}
			defer out.Close()
			splice(in, out)
		})
	}
}

// splice passes on what each side sends until both have ended.
func splice(a, b net.Conn) {
	var all sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		all.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // an end of either side ends the connection
			if h, ok := way[0].(interface{ CloseWrite() error }); ok {
				_ = h.CloseWrite()
			}
		})
	}
	all.Wait()
}
