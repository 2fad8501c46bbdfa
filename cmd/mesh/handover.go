package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"mesh"
	"mesh/logs"
	"mesh/metrics"
	"mesh/names"
	"mesh/router"
	"mesh/router/certs"
)

// How a process takes over from another without losing a request, and with one writer
// at any time:
//
//	old                                  new
//	starts the binary on disk  ───────▶  inherits the listeners, says that it is there
//	no new SSH connections: they wait
//	deployments and sessions end
//	supervision ends, the store closes
//	passes TCP ports and the sockets
//	of networks,
//	closes the wire  ─────────────────▶  opens the store, adopts what runs, fills the table
//	still serves HTTP                    serves, says that it is ready
//	no new HTTP connections  ◀─────────
//	requests, WebSockets and followed
//	logs end (30 s), exits  ──────────▶  may drain instances again
//
// If the new process dies at any point, the old one opens the store again and
// continues.

// handover is this process's part in that sequence.
type handover struct {
	upg   *tableflip.Upgrader // nil if a handover is impossible
	asked chan upgradeRequest

	mu      sync.Mutex
	sockets map[string]*os.File // of stacks' networks, by name, from the process before this one
}

// upgradeRequest asks for a successor. answer holds one value.
type upgradeRequest struct{ answer chan upgradeResult }

type upgradeResult struct {
	next mesh.Successor
	err  error
}

// ask requests a successor and waits for it.
func (h *handover) ask(ctx context.Context) (mesh.Successor, error) {
	a := upgradeRequest{answer: make(chan upgradeResult, 1)}
	select {
	case h.asked <- a:
	case <-ctx.Done():
		return mesh.Successor{}, context.Cause(ctx)
	}
	select {
	case got := <-a.answer:
		return got.next, got.err
	case <-ctx.Done():
		return mesh.Successor{}, context.Cause(ctx)
	}
}

const (
	// wire is the name of the socket between the two processes.
	wire = "mesh-handover"
	// comeUp limits how long the new process may take to start, and how long the
	// process before this one may take to exit.
	comeUp = time.Minute
	// settleTime limits how long deployments and sessions may take to finish.
	settleTime = 10 * time.Minute
)

func newHandover() (*handover, error) {
	h := &handover{asked: make(chan upgradeRequest)}
	upg, err := tableflip.New(tableflip.Options{UpgradeTimeout: settleTime + 3*comeUp})
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	h.upg = upg
	return h, nil
}

// await reports that this process has started, and returns when the process before it
// has closed the store, or at once if there is none.
func (h *handover) await(ctx context.Context, version string) error {
	f, err := h.upg.File(wire)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := json.NewEncoder(c).Encode(mesh.Successor{PID: os.Getpid(), Version: version}); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	// If the other process dies, that is an end of file as well, and frees the store.
	h.receive(c)
	return context.Cause(ctx)
}

// receive takes over sockets until the other end is closed.
func (h *handover) receive(c net.Conn) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return
	}
	name, rights := make([]byte, 512), make([]byte, unix.CmsgSpace(4))
	for {
		n, k, _, _, err := u.ReadMsgUnix(name, rights)
		if err != nil || n == 0 {
			return
		}
		messages, err := unix.ParseSocketControlMessage(rights[:k])
		if err != nil {
			continue
		}
		for _, m := range messages {
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				continue
			}
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				h.mu.Lock()
				if h.sockets == nil {
					h.sockets = map[string]*os.File{}
				}
				h.sockets[string(name[:n])] = os.NewFile(uintptr(fd), string(name[:n])) //nolint:gosec // a descriptor
				h.mu.Unlock()
			}
		}
	}
}

// ports returns the TCP ports that the process before this one has passed on, once.
func (h *handover) ports() (out []net.Listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, f := range h.sockets {
		if !strings.HasPrefix(name, portSocket) {
			continue
		}
		delete(h.sockets, name)
		if l, err := net.FileListener(f); err == nil {
			out = append(out, l)
		}
		_ = f.Close()
	}
	return out
}

// portSocket begins the names of sockets that are TCP ports of stacks.
const portSocket = "port "

// socket returns a socket that the process before this one has passed on, once; nil if
// there is none. The caller closes it.
func (h *handover) socket(name string) *os.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.sockets[name]
	delete(h.sockets, name)
	return f
}

// inherited returns the listener passed by the process before this one, or nil.
func (h *handover) inherited(network, name string) (net.Listener, error) {
	return h.upg.Listener(network, name)
}

// pass keeps a listener for the process after this one.
func (h *handover) pass(network, name string, l net.Listener) error {
	x, ok := l.(tableflip.Listener)
	if !ok {
		return errors.New("not a socket")
	}
	return h.upg.AddListener(network, name, x)
}

// ready releases the process before this one, or tells systemd that the start is
// complete. After a handover, the old process tells systemd about the new one, because
// systemd listens to nobody else.
func (h *handover) ready() error {
	if !h.upg.HasParent() {
		_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // without systemd this does nothing
	}
	return h.upg.Ready()
}

// gone returns a channel that is closed when the process before this one has exited, or
// nil if there was none.
func (h *handover) gone() <-chan struct{} {
	if !h.upg.HasParent() {
		return nil
	}
	ended := make(chan struct{})
	go func() {
		_ = h.upg.WaitForParent(context.Background()) // the way it ended does not matter
		close(ended)
	}()
	return ended
}

// successor is the process that is about to take over.
type successor struct {
	mesh.Successor
	wire net.Conn
	up   chan error // receives nil when it serves, or an error when it has died
}

// start runs the binary on disk and waits until it has started.
func (h *handover) start(ctx context.Context) (*successor, error) {
	if why := firstProcess(); why != "" {
		return nil, mesh.Errorf(mesh.Conflict, "%s: ending it would end the container", why).WithHint("start a new container from the new image instead")
	}
	wait, cancel := context.WithTimeout(ctx, comeUp)
	defer cancel()
	if err := h.upg.WaitForParent(wait); err != nil && wait.Err() != nil {
		return nil, mesh.Errorf(mesh.Conflict, "the previous process has not ended yet").WithHint("try again in a moment")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), wire), os.NewFile(uintptr(fds[1]), wire)
	defer mine.Close()
	defer theirs.Close()
	c, err := net.FileConn(mine)
	if err != nil {
		return nil, err
	}
	if err := h.upg.AddFile(wire, theirs); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	n := &successor{wire: c, up: make(chan error, 1)}
	go func() {
		err := h.upg.Upgrade()
		for err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "parent hasn't exited") {
			// It has: see above. The library is about to notice, and has no other way
			// to report it.
			runtime.Gosched()
			err = h.upg.Upgrade()
		}
		n.up <- err
		_ = c.SetReadDeadline(time.Unix(1, 0))
	}()
	_ = c.SetReadDeadline(time.Now().Add(comeUp))
	line, rerr := bufio.NewReader(c).ReadBytes('\n')
	if rerr == nil {
		rerr = json.Unmarshal(line, &n.Successor)
	}
	if rerr != nil {
		_ = c.Close() // if it lives, it will find the store locked
		select {
		case err := <-n.up:
			return nil, mesh.Errorf(mesh.Failed, "the new process ended before it could take over: %w", err).WithHint("see the server's log; this process keeps serving")
		default:
			return nil, fmt.Errorf("the new process does not answer: %w", rerr)
		}
	}
	return n, nil
}

// letIn tells the new process that the store is free, and waits until it serves.
func (n *successor) letIn(ctx context.Context) error {
	_ = n.wire.Close()
	select {
	case err := <-n.up:
		if err != nil {
			return mesh.Errorf(mesh.Failed, "the new process ended before it could take over: %w", err).WithHint("see the server's log; this process keeps serving")
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pass sends copies of the TCP ports, of the sockets of networks, and of more (unix(7),
// SCM_RIGHTS), each with its name, and closes those in more. This process keeps them, and accepts from them until the other one
// serves.
func (n *successor) pass(of *names.Server, open *ports, more ...names.Socket) error {
	all, err := of.Sockets()
	all = append(all, more...)
	files, ferr := open.files()
	for i, f := range files {
		all = append(all, names.Socket{Name: fmt.Sprintf("%s%d", portSocket, i), File: f})
	}
	err = errors.Join(err, ferr)
	u, ok := n.wire.(*net.UnixConn)
	if !ok {
		err = errors.Join(err, errors.New("not a socket"))
	}
	for _, s := range all {
		if ok {
			err = errors.Join(err, withFD(s.File, func(fd int) error {
				_, _, err := u.WriteMsgUnix([]byte(s.Name), unix.UnixRights(fd), nil)
				return err
			}))
		}
		_ = s.File.Close()
	}
	return err
}

// withFD calls use with a socket's descriptor. It is there because File.Fd sets a socket to
// blocking mode, and with it every copy, in other processes too (fcntl(2): O_NONBLOCK belongs
// to the open file description). A goroutine that accepts or reads from one of them then
// waits in the kernel, where closing does not wake it: the process before an upgrade would
// not end.
func withFD(socket syscall.Conn, use func(fd int) error) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var uerr error
	err = raw.Control(func(fd uintptr) { uerr = use(int(fd)) }) //nolint:gosec // a descriptor
	return errors.Join(err, uerr)
}

// dies reports whether the process exits before ctx ends.
func (n *successor) dies(ctx context.Context) bool {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
			// A zombie disappears after a moment: the library reaps it.
			if unix.Kill(n.PID, 0) != nil {
				return true
			}
		}
	}
}

// firstProcess names this process if a container lives only as long as it does.
func firstProcess() string {
	if os.Getpid() == 1 {
		return "this server is the first process of a container"
	}
	name, err := os.ReadFile("/proc/1/comm")
	if comm := strings.TrimSpace(string(name)); err == nil && os.Getppid() == 1 && (comm == "docker-init" || comm == "tini" || comm == "catatonit") {
		return "this server is the child of a container's init"
	}
	return ""
}

// handoverRouter is a router that treats no instance as drained while the process
// before this one exists, because it cannot count the requests there. It also keeps
// logs, metrics and certificates for exactly the stacks with routes.
type handoverRouter struct {
	*router.Router
	logs    *logs.Logs
	metrics *metrics.Store
	certs   *certs.Certs    // nil without TLS
	gone    <-chan struct{} // closed when that process has exited
	log     *slog.Logger
}

// Switch implements fleet.Router.
func (p *handoverRouter) Switch(r mesh.Route) {
	p.logs.Keep(r.Stack)
	p.metrics.Keep(r.Stack)
	p.Router.Switch(r)
	if p.certs != nil {
		p.certs.Want(r.Stack, r.Hosts)
	}
}

// Remove implements fleet.Router.
func (p *handoverRouter) Remove(stack mesh.StackName) {
	p.Router.Remove(stack)
	p.logs.Forget(stack)
	p.metrics.Forget(stack)
	if p.certs != nil {
		p.certs.Forget(stack)
	}
}

// LastUse implements deploy.LastUse. While the process before this one exists, every stack
// is busy: nobody knows its connections.
func (p *handoverRouter) LastUse(stack mesh.StackName) (time.Time, bool) {
	if p.gone != nil {
		select {
		case <-p.gone:
		default:
			return time.Time{}, true
		}
	}
	return p.Router.LastUse(stack)
}

// Drain implements fleet.Router.
func (p *handoverRouter) Drain(ctx context.Context, id string, upgraded time.Duration) error {
	if p.gone != nil {
		select {
		case <-p.gone:
		case <-ctx.Done():
			p.log.Warn("stopping an instance that the previous process may still use", "id", id)
		}
	}
	return p.Router.Drain(ctx, id, upgraded)
}
