package runner_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/container"

	"mesh"
	"mesh/runner"
)

// nameServer notes what it is told.
type nameServer struct {
	mu   sync.Mutex
	told []string
}

func (n *nameServer) Open(stack mesh.StackName, at netip.Addr, from netip.Prefix) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, fmt.Sprintf("open %s %s %s", stack, at, from))
	return []netip.Addr{at, netip.MustParseAddr("192.0.2.1")}
}

func (n *nameServer) Close(stack mesh.StackName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, "close "+string(stack))
}

func (n *nameServer) last() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.told[len(n.told)-1]
}

// Every container of a stack asks mesh first: at the gateway of its network.
func TestNames_ContainersAskMesh(t *testing.T) {
	t.Parallel()
	n := &nameServer{}
	b := newBench(t, func(o *runner.Options) { o.Names = n })
	gateway := b.subnet.Addr().Next()
	want := []string{gateway.String(), "192.0.2.1"}
	in := b.start(b.spec("web", "wait"))
	if got := b.inspect(in.ID).HostConfig.DNS; !slices.Equal(got, want) {
		t.Errorf("name servers %v, want %v", got, want)
	}
	opened := fmt.Sprintf("open blog %s %s", gateway, b.subnet)
	if got := n.last(); got != opened {
		t.Errorf("%q, want %q", got, opened)
	}
	n.mu.Lock()
	n.told = nil
	n.mu.Unlock()
	if err := b.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := n.last(); got != opened {
		t.Errorf("at the start of another process: %q, want %q", got, opened)
	}
	if err := b.RemoveStack(t.Context(), b.stack); err != nil {
		t.Fatal(err)
	}
	if got := n.last(); got != "close blog" {
		t.Errorf("%q, want close", got)
	}
}

// In a container, mesh has the last address of each network, whichever container it is.
func TestNames_MeshInAContainer(t *testing.T) {
	t.Parallel()
	n := &nameServer{}
	server, net := "", subnet()
	for i := range 2 {
		self, err := cli.ContainerCreate(t.Context(), &container.Config{Image: app, Cmd: []string{"wait"}, Labels: map[string]string{testLabel: run}}, nil, nil, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := cli.ContainerStart(t.Context(), self.ID, container.StartOptions{}); err != nil {
			t.Fatal(err)
		}
		b := newBench(t, func(o *runner.Options) {
			o.Self, o.Names = self.ID, n
			if server != "" {
				o.Server = server
			}
			server = o.Server
		})
		b.subnet = net
		a := net.Addr().As4()
		a[3] += 62
		if i == 0 {
			in := b.start(b.spec("web", "wait"))
			if got := b.inspect(in.ID).HostConfig.DNS; got[0] != netip.AddrFrom4(a).String() {
				t.Errorf("name servers %v, want %s", got, netip.AddrFrom4(a))
			}
		} else if err := b.Attach(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := n.last(), fmt.Sprintf("open blog %s %s", netip.AddrFrom4(a), net); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if err := cli.ContainerRemove(context.Background(), self.ID, container.RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
}

// The mounts of other containers, which are seen where the engine runs, are not one's own.
func TestMountedFrom(t *testing.T) {
	t.Parallel()
	id, other := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	own := "712 700 254:1 /var/lib/docker/containers/" + id + "/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda1 rw\n"
	shm := "90 30 0:50 / /var/lib/docker/containers/" + other + "/mounts/shm rw,nosuid - tmpfs shm rw,size=65536k\n"
	log := "91 30 254:1 /var/lib/docker/containers/" + other + " /var/log/containers/" + other + " rw - ext4 /dev/vda1 rw\n"
	for name, c := range map[string]struct{ mounts, want string }{
		"in a container": {"1 0 0:1 / / rw - overlay overlay rw\n" + own, id}, "in one with the engine": {shm + log + own, id},
		"beside the engine": {"1 0 254:1 / / rw - ext4 /dev/vda1 rw\n" + shm + log, ""}, "without any": {"", ""}, "cut": {"1 2 3", ""},
	} {
		if got := runner.MountedFrom([]byte(c.mounts)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
