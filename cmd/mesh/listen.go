package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"mesh"
)

// listeners are opened before anything is changed: a port in use stops the start with
// nothing touched. They live as long as the process; a server that ends earlier uses a
// share.
type listeners struct{ ssh, http, https, admin, socket net.Listener }

func (l *listeners) close() {
	for _, x := range []net.Listener{l.ssh, l.http, l.https, l.admin, l.socket} {
		if x != nil {
			_ = x.Close()
		}
	}
}

// share returns a separate listener on the socket of l. Closing it closes nothing else:
// connections wait in the socket's queue for the next listener.
func share(l net.Listener) (net.Listener, error) {
	socket, ok := l.(syscall.Conn)
	if !ok {
		return nil, errors.New("share " + l.Addr().String() + ": not a socket")
	}
	var f *os.File
	err := withFD(socket, func(fd int) error {
		second, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			f = os.NewFile(uintptr(second), "") //nolint:gosec // a descriptor
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("share %s: %w", l.Addr(), err)
	}
	defer f.Close()
	return net.FileListener(f)
}

// listen takes each listener from the process before this one, else from systemd, else
// opens it.
func listen(ctx context.Context, s settings, h *handover) (_ *listeners, err error) {
	l := &listeners{}
	given, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	var faults []error
	open := func(flag, addr string) net.Listener {
		x, err := h.inherited("tcp", flag)
		if x == nil && err == nil {
			x = take(given, func(a net.Addr) bool { return meets(addr, a) })
		}
		if x == nil && err == nil {
			x, err = new(net.ListenConfig).Listen(ctx, "tcp", addr)
		}
		if err == nil {
			err = h.pass("tcp", flag, x)
		}
		if err != nil {
			e := mesh.Errorf(mesh.Unavailable, "--%s %s cannot be listened on: %w", flag, addr, err)
			switch {
			case errors.Is(err, syscall.EADDRINUSE):
				e = mesh.Errorf(mesh.Conflict, "--%s %s: the port is in use", flag, addr).WithHint("stop the program that uses it (find it with ss -ltnp), or choose another port with --%s", flag)
			case errors.Is(err, syscall.EACCES):
				e.Hint = "ports below 1024 need root, or: setcap cap_net_bind_service=+ep " + os.Args[0]
			}
			faults = append(faults, e)
		}
		return x
	}
	l.ssh, l.http = open("ssh-addr", s.SSHAddr), open("http-addr", s.HTTPAddr)
	if s.HTTPSAddr != "" {
		l.https = open("https-addr", s.HTTPSAddr)
	}
	if s.AdminAddr != "" {
		l.admin = open("admin-addr", s.AdminAddr)
	}
	path := filepath.Join(s.Data, "mesh.sock")
	l.socket, err = h.inherited("unix", path)
	if l.socket == nil && err == nil {
		l.socket = take(given, func(a net.Addr) bool { return a.Network() == "unix" && a.String() == path })
	}
	if l.socket == nil && err == nil {
		l.socket, err = listenSocket(ctx, path)
	}
	if err == nil {
		err = h.pass("unix", path, l.socket)
	}
	if err != nil {
		faults = append(faults, err)
	}
	for _, x := range given {
		if x != nil {
			faults = append(faults, mesh.Errorf(mesh.Invalid, "systemd passed a socket at %s that no setting names", x.Addr()).
				WithHint("set ListenStream= in the socket unit to the same addresses as MESH_SSH_ADDR, MESH_HTTP_ADDR and so on"))
			_ = x.Close()
		}
	}
	if len(faults) > 0 {
		l.close()
		return nil, errors.Join(faults...)
	}
	return l, nil
}

// take removes the first wanted listener from all.
func take(all []net.Listener, wanted func(net.Addr) bool) net.Listener {
	for i, l := range all {
		if l != nil && wanted(l.Addr()) {
			all[i] = nil
			return l
		}
	}
	return nil
}

// meets reports whether a socket matches a setting such as ":80" or "127.0.0.1:80".
func meets(setting string, a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	host, port, err := net.SplitHostPort(setting)
	if !ok || err != nil || port != strconv.Itoa(tcp.Port) {
		return false
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		return ip.Equal(tcp.IP)
	}
	return tcp.IP.IsUnspecified() || host != "" && net.ParseIP(host) == nil
}

// listenSocket opens the local socket. The store is locked by now, so an existing
// socket file is unused.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	// sun_path of unix(7) has 108 bytes, one of them for the end.
	if len(path) > 107 {
		return nil, mesh.Errorf(mesh.Invalid, "the path of the local socket is too long (%d bytes; the limit is 107): %s", len(path), path).
			WithHint("choose a shorter data directory with --data")
	}
	l, err := socketAt(ctx, path)
	if err == nil || !mesh.NoRoom(err) {
		return l, err
	}
	// On a full disk the socket is in another folder, so that running stacks are still
	// served.
	dir, terr := os.MkdirTemp("", "mesh-socket-") // mode 0700
	if terr != nil {
		return nil, errors.Join(err, terr)
	}
	return socketAt(ctx, filepath.Join(dir, filepath.Base(path)))
}

func socketAt(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// An existing data directory may be open to others: there must be no moment at
	// which they can connect.
	defer syscall.Umask(syscall.Umask(0o177))
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}

// port is the TCP port of a listener.
func port(l net.Listener) int {
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		return tcp.Port
	}
	return 0
}

// urls returns the URL of a host through the listeners: over TLS once it has a
// certificate.
func (sv *server) urls(h mesh.Host) string {
	name := string(h)
	scheme, at, usual := "http", sv.listen.http, 80
	if sv.certs != nil && sv.certs.Live(string(h)) {
		scheme, at, usual = "https", sv.listen.https, 443
	}
	if p := port(at); p != usual {
		name += ":" + strconv.Itoa(p)
	}
	return scheme + "://" + name
}
