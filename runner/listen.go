package runner

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"mesh"
)

// stateListen is TCP_LISTEN in the kernel's include/net/tcp_states.h.
const stateListen = "0A"

// parseListeners reads /proc/net/tcp and tcp6, one after the other or together, and
// returns the addresses with listeners, in order and without duplicates. It skips
// lines that it cannot read. Addresses are 32-bit words in the machine's byte order:
// little-endian on everything mesh runs on.
func parseListeners(table []byte) []netip.AddrPort {
	var found []netip.AddrPort
	for s := bufio.NewScanner(bytes.NewReader(table)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 4 || f[3] != stateListen {
			continue
		}
		addr, port, _ := strings.Cut(f[1], ":")
		b, err := hex.DecodeString(addr)
		n, perr := strconv.ParseUint(port, 16, 16)
		if err != nil || perr != nil || len(b)%4 != 0 {
			continue
		}
		for w := range slices.Chunk(b, 4) {
			slices.Reverse(w)
		}
		if a, ok := netip.AddrFromSlice(b); ok {
			found = append(found, netip.AddrPortFrom(a.Unmap(), uint16(n)))
		}
	}
	slices.SortFunc(found, func(a, b netip.AddrPort) int {
		if a.Port() != b.Port() {
			return int(a.Port()) - int(b.Port())
		}
		return a.Addr().Compare(b.Addr())
	})
	return slices.Compact(found)
}

// listeners returns the addresses that the container's processes listen on, without
// the engine's name server, and false if it cannot find out.
func (r *Runner) listeners(ctx context.Context, id string) ([]netip.AddrPort, bool) {
	c, err := r.cli.API(ctx).ContainerInspect(ctx, id)
	if err != nil || !c.State.Running {
		return nil, false
	}
	table, ok := hostTable(c.State.Pid, id)
	if !ok {
		if table, ok = r.execTable(ctx, id); !ok {
			return nil, false
		}
	}
	found := parseListeners(table)
	return slices.DeleteFunc(found, func(a netip.AddrPort) bool {
		return a.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 11}) // Docker's embedded DNS
	}), true
}

// hostTable looks in the host's /proc, which costs nothing. The process must belong
// to the container by its cgroup: seen from inside another container, or if the
// engine is on another machine, the number means another process.
func hostTable(pid int, id string) ([]byte, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	if b, err := os.ReadFile(dir + "/cgroup"); err != nil || !bytes.Contains(b, []byte(id)) {
		return nil, false
	}
	table, err := os.ReadFile(dir + "/net/tcp")
	if err != nil {
		return nil, false
	}
	six, _ := os.ReadFile(dir + "/net/tcp6") // absent without IPv6
	return append(table, six...), true
}

// execTable asks inside the container, which may have no cat.
func (r *Runner) execTable(ctx context.Context, id string) ([]byte, bool) {
	e, err := r.cli.API(ctx).ContainerExecCreate(ctx, id, container.ExecOptions{
		Cmd: []string{"cat", "/proc/net/tcp", "/proc/net/tcp6"}, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return nil, false
	}
	at, err := hijack(ctx, func() (types.HijackedResponse, error) {
		return r.cli.API(ctx).ContainerExecAttach(ctx, e.ID, container.ExecAttachOptions{})
	})
	if err != nil {
		return nil, false
	}
	defer at.Close()
	stop := context.AfterFunc(ctx, at.Close)
	defer stop()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, at.Reader); err != nil {
		return nil, false
	}
	return out.Bytes(), bytes.Contains(out.Bytes(), []byte("local_address"))
}

// reachable reports whether one of them serves the instance's address.
func reachable(found []netip.AddrPort) bool {
	return slices.ContainsFunc(found, func(a netip.AddrPort) bool { return a.Port() == mesh.Port && !a.Addr().IsLoopback() })
}

// loopbackOnly returns the address with the right port, if it is only reachable
// inside the container.
func loopbackOnly(found []netip.AddrPort) (netip.AddrPort, bool) {
	i := slices.IndexFunc(found, func(a netip.AddrPort) bool { return a.Port() == mesh.Port && a.Addr().IsLoopback() })
	if i < 0 || reachable(found) {
		return netip.AddrPort{}, false
	}
	return found[i], true
}

// describe lists at most three addresses.
func describe(found []netip.AddrPort) string {
	if len(found) == 0 {
		return "nothing"
	}
	var words []string
	for _, a := range found {
		if a.Addr() == netip.IPv6Unspecified() { // it also accepts IPv4, and fewer people know it
			a = netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())
		}
		if w := a.String(); !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	if more := len(words) - 3; more > 0 {
		words = append(words[:3], fmt.Sprintf("%d more", more))
	}
	return strings.Join(words, ", ")
}
