package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"mesh"
)

// ports are the TCP ports that stacks have published: the router accepts from them, deploy
// holds one before a stack gets it, and in a handover they pass to the next process. They
// do not pass through tableflip, which never lets go of a listener.
type ports struct {
	allowed mesh.Ports

	mu   sync.Mutex
	held map[uint16]net.Listener // opened, or received from the process before this one, and not accepted from yet
	open map[uint16]*portListener
}

func newPorts(allowed mesh.Ports) *ports {
	return &ports{allowed: allowed, held: map[uint16]net.Listener{}, open: map[uint16]*portListener{}}
}

// Allowed implements deploy.Ports.
func (p *ports) Allowed() mesh.Ports { return p.allowed }

// Hold implements deploy.Ports.
func (p *ports) Hold(n uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[n] != nil || p.open[n] != nil {
		return nil
	}
	l, err := openPort(n)
	if err == nil {
		p.held[n] = l
	}
	return err
}

// Release implements deploy.Ports.
func (p *ports) Release(n uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.held[n]; l != nil {
		delete(p.held, n)
		_ = l.Close()
	}
}

// listen is router.Options.Listen.
func (p *ports) listen(n uint16) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.allowed.Has(n) { // any more: the settings have changed
		return nil, mesh.Errorf(mesh.Denied, "MESH_TCP_PORTS does not allow port %d", n)
	}
	l := p.held[n]
	delete(p.held, n)
	if l == nil {
		var err error
		if l, err = openPort(n); err != nil {
			return nil, err
		}
	}
	pl := &portListener{Listener: l, of: p, number: n}
	p.open[n] = pl
	return pl, nil
}

// portListener is a port that the router accepts from.
type portListener struct {
	net.Listener
	of     *ports
	number uint16
}

// SetDeadline sets until when the port is accepted from.
func (l *portListener) SetDeadline(t time.Time) error {
	if tcp, ok := l.Listener.(*net.TCPListener); ok {
		return tcp.SetDeadline(t)
	}
	return errors.ErrUnsupported
}

// Close closes the port: it is free, unless another process has it as well.
func (l *portListener) Close() error {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	if l.of.open[l.number] == l {
		delete(l.of.open, l.number)
	}
	return l.Listener.Close()
}

// receive keeps the listeners that the process before this one has passed.
func (p *ports) receive(given []net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range given {
		n := uint16(port(l)) //nolint:gosec // a port
		if p.held[n] != nil {
			_ = p.held[n].Close()
		}
		p.held[n] = l
	}
}

// settle closes what was received and no stack has taken.
func (p *ports) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, l := range p.held {
		delete(p.held, n)
		_ = l.Close()
	}
}

// files returns the open ports, for another process. Close them.
func (p *ports) files() (all []*os.File, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.open {
		tcp, ok := l.Listener.(*net.TCPListener)
		if !ok {
			continue
		}
		f, ferr := tcp.File()
		if ferr != nil {
			err = errors.Join(err, ferr)
			continue
		}
		all = append(all, f)
	}
	return all, err
}

// openPort listens on all addresses of the machine.
func openPort(n uint16) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", mesh.PortText(n))
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, mesh.Errorf(mesh.Conflict, "port %d is in use by another program on the server", n).
			WithHint("choose another port, or stop that program (an admin finds it on the server with: ss -ltnp 'sport = :%d')", n)
	case errors.Is(err, syscall.EACCES):
		return nil, mesh.Errorf(mesh.Unavailable, "port %d cannot be opened: ports below 1024 need root", n).
			WithHint("choose a port from 1024 on; or an admin runs on the server: setcap cap_net_bind_service=+ep %s", os.Args[0])
	}
	return nil, mesh.Errorf(mesh.Unavailable, "port %d cannot be opened: %w", n, err)
}

// PortFault implements command.Ports.
func (sv *server) PortFault(n uint16) string {
	for _, p := range sv.router.Ports() {
		if p.Port == n && p.Err != nil {
			return p.Err.Error()
		}
	}
	return ""
}

// findings are the problems of the stacks, with those of their TCP ports, and the open alerts.
func (c *control) findings(ctx context.Context) []mesh.Finding {
	out := append(c.deployer.Findings(ctx), c.drainFindings(ctx)...)
	for _, p := range c.router.Ports() {
		if p.Err != nil {
			out = append(out, mesh.Finding{
				What: fmt.Sprintf("%s: port %d is published but not open: %v", p.Stack, p.Port, p.Err),
				Mend: fmt.Sprintf("mesh retries by itself; find what uses it with: ss -ltnp 'sport = :%d'; or unpublish it: ssh mesh svc -a %s", p.Port, p.Stack),
			})
		}
	}
	out = append(out, c.backupFindings(ctx)...)
	return append(out, c.alertFindings(ctx)...)
}
