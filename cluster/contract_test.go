package cluster_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"

	"mesh"
	"mesh/agent"
	"mesh/cluster"
	"mesh/deploy"
	"mesh/deploy/deploytest"
	"mesh/engine"
	"mesh/enginetest"
	"mesh/nodes"
	"mesh/runner"
)

var _ deploy.Runner = (*cluster.Cluster)(nil)

// pair is two machines that scripts/swarm makes of this one, and an agent on the second.
type pair struct {
	swarm  *nodes.Swarm
	hub    *agent.Hub
	clis   [2]*client.Client
	far    *runner.Runner
	node   mesh.Node // the second
	server string
}

func newPair(t *testing.T) *pair {
	t.Helper()
	dir, err := os.MkdirTemp("", "mc") //nolint:usetesting // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	script := func(args ...string) {
		cmd := exec.Command("../scripts/swarm", args...)
		cmd.Env = append(os.Environ(), "SWARM_DIR="+dir, "SWARM_NET=10.99.6", "SWARM_ID=mc")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("scripts/swarm %q: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { script("down") })
	script("up", "2")
	p := &pair{server: fmt.Sprintf("%016x", time.Now().UnixNano())}
	for i := range p.clis {
		if p.clis[i], err = client.NewClientWithOpts(client.WithHost(fmt.Sprintf("unix://%s/n%d/run/docker.sock", dir, i+1)), client.WithAPIVersionNegotiation()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.clis[i].Close() })
	}
	p.swarm = nodes.New(engine.Of(p.clis[0]), nodes.Options{Server: p.server})
	first, second := netip.MustParseAddr("10.99.6.11"), netip.MustParseAddr("10.99.6.12")
	if _, err := p.swarm.Enable(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	token, at, err := p.swarm.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	join := swarm.JoinRequest{ListenAddr: second.String() + ":2377", AdvertiseAddr: second.String(), RemoteAddrs: []string{at}, JoinToken: token}
	if err := p.clis[1].SwarmJoin(t.Context(), join); err != nil {
		t.Fatal(err)
	}
	all, err := p.swarm.List(t.Context())
	if err != nil || len(all) != 2 || !all[0].Self || all[1].Addr != second {
		t.Fatal(all, err)
	}
	p.node = all[1]

	cert, key, err := agent.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	authority, err := agent.ParseAuthority(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if p.hub, err = agent.NewHub(agent.HubOptions{Authority: authority, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}); err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pass, err := authority.Pass()
	if err != nil {
		t.Fatal(err)
	}
	conf, err := agent.ParsePass([]byte(pass.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.hub.Serve(ctx, l) })
	running.Go(func() {
		o := agent.Options{Node: p.node.ID, Servers: []string{l.Addr().String()}, TLS: conf, Engine: filepath.Join(dir, "n2/run/docker.sock"), Port: 25117}
		if err := agent.Run(ctx, o); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); p.hub.Close(); running.Wait() })
	return p
}

func (p *pair) List(ctx context.Context) ([]mesh.Node, error) { return p.swarm.List(ctx) }
func (p *pair) Machine(mesh.Node) cluster.Machine             { return p.far }
func (p *pair) Agents() map[string]time.Time {
	out := map[string]time.Time{}
	for id, a := range p.hub.Nodes() {
		out[id] = a.Since
	}
	return out
}

func (p *pair) Bring(_ context.Context, _ mesh.Node, _ mesh.StackName, id string) (string, error) {
	return id, nil
}
func (p *pair) Prepare(ctx context.Context, _ mesh.Node) error { return p.far.Ping(ctx) }
func (p *pair) Tend(context.Context, mesh.Node)                {}

// What a runner promises on one machine, a cluster promises on another one, through an agent.
func TestCluster_Contract(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	ctx := t.Context()
	o := runner.Options{Server: p.server, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	near := o
	near.Shared = func() *runner.Shared { return &runner.Shared{Addr: netip.MustParseAddr("10.99.6.11")} }
	local := runner.New(engine.Of(p.clis[0]), near)
	o.Groups = "/nonexistent" // of this machine, which the second is not
	o.Shared = func() *runner.Shared { return &runner.Shared{Addr: p.node.Addr, Network: local.Share} }
	through, err := engine.Through("node2", func(ctx context.Context) (net.Conn, error) { return p.hub.Dial(ctx, p.node.ID) }, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer through.Close()
	p.far = runner.New(through, o)
	c := cluster.New(cluster.Options{Local: local, Nodes: p, Reach: p, On: func() bool { return true }, Arch: p.node.Arch, Logger: o.Logger})
	rctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(rctx) })
	defer func() { cancel(); running.Wait() }()
	c.Settle(ctx)

	hand := func(id, signal string) {
		if err := p.clis[1].ContainerKill(context.WithoutCancel(ctx), id, signal); err != nil {
			t.Error(err)
		}
	}
	deploytest.TestRunner(t, deploytest.Engine{
		Runner: c,
		Spec: mesh.InstanceSpec{
			Stack: "blog", Name: mesh.InstanceName{Service: "web", Slot: 1}, Release: 3, Deployment: 42, Fingerprint: "f1", On: []string{"name=" + string(p.node.Name)},
			Image: p.image(t), Process: mesh.Process{Cmd: []string{"serve", ":8080", "200"}}, Env: map[string]mesh.Secret{"PORT": mesh.NewSecret("8080")},
		},
		Exit: func(code int) mesh.Process { return mesh.Process{Cmd: []string{"exit", strconv.Itoa(code)}} },
		Crash: func(id string) {
			x, err := p.clis[1].ContainerExecCreate(ctx, id, container.ExecOptions{Cmd: []string{"/app", "get", "http://127.0.0.1:8080/exit"}})
			if err == nil {
				err = p.clis[1].ContainerExecStart(ctx, x.ID, container.ExecStartOptions{Detach: true})
			}
			if err != nil {
				t.Error(err)
			}
		},
		Kill: func(id string) { hand(id, "KILL") },
	})
}

// image makes the runner's test program an image of both engines.
func (p *pair) image(t *testing.T) string {
	t.Helper()
	program, err := enginetest.Program(t.Context(), "../runner/testdata/app")
	if err != nil {
		t.Fatal(err)
	}
	id, err := (&enginetest.Run{ID: "cluster", Client: p.clis[0]}).Import(t.Context(), "app:1", enginetest.Files{"app": program}, `ENTRYPOINT ["/app"]`)
	if err != nil {
		t.Fatal(err)
	}
	saved, err := p.clis[0].ImageSave(t.Context(), []string{"app:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	loaded, err := p.clis[1].ImageLoad(t.Context(), saved)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, loaded.Body)
	_ = loaded.Body.Close()
	if _, ierr := p.clis[1].ImageInspect(t.Context(), id); err != nil || ierr != nil {
		t.Fatal(err, ierr)
	}
	return id
}
