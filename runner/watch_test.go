package runner_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/docker/docker/client"

	"mesh"
	"mesh/engine"
	"mesh/runner"
)

// proxy is between a client and the engine; its connections can be cut.
type proxy struct {
	mu    sync.Mutex
	conns []net.Conn
}

func newProxy(t *testing.T) (*proxy, *client.Client) {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "p.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{}
	t.Cleanup(func() { _ = l.Close(); p.cut() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(c)
		}
	}()
	pc, err := client.NewClientWithOpts(client.WithHost("unix://"+sock), client.WithVersion(cli.ClientVersion()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	return p, pc
}

func (p *proxy) pass(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("unix", "/var/run/docker.sock")
	if err != nil {
		return
	}
	defer up.Close()
	p.mu.Lock()
	p.conns = append(p.conns, c, up)
	p.mu.Unlock()
	go func() { _, _ = io.Copy(up, c) }()
	_, _ = io.Copy(c, up)
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// startsAndEnds only passes on these: others test on the same engine, and remove
// images.
func startsAndEnds(to chan<- mesh.InstanceEvent) func(mesh.InstanceEvent) {
	return func(e mesh.InstanceEvent) {
		if !e.Changed {
			to <- e
		}
	}
}

func TestWatch_ReconnectsAndSaysSo(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p, pc := newProxy(t)
	far := runner.New(engine.Of(pc), runner.Options{Server: b.server})
	ctx, cancel := context.WithCancel(t.Context())
	events, lost, ended := make(chan mesh.InstanceEvent, 10), make(chan struct{}, 10), make(chan error, 1)
	go func() {
		ended <- far.Watch(ctx, startsAndEnds(events), func() { lost <- struct{}{} })
	}()
	one := b.start(b.spec("web", "wait"))
	if e := <-events; e.Instance.ID != one.ID {
		t.Errorf("%+v", e)
	}
	p.cut()
	<-lost
	two := b.start(b.spec("worker", "wait"))
	if e := <-events; e.Instance.ID != two.ID {
		t.Errorf("%+v", e)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(lost) > 0 || len(events) > 0 {
		t.Error("something came twice")
	}
}
