package names_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"mesh"
	"mesh/names"
)

// table knows some names of the stack blog.
type table map[string]mesh.Resolution

func (t table) Resolve(stack mesh.StackName, name string) (mesh.Resolution, bool) {
	r, known := t[name]
	return r, known && stack == "blog"
}

var (
	loopback = netip.MustParseAddr("127.0.0.1")
	inside   = netip.MustParsePrefix("127.0.0.0/8")
)

// rig is a server that answers at a port of the loopback address.
type rig struct {
	*names.Server
	addr string
	stop func()
}

func start(t *testing.T, o names.Options, from netip.Prefix, upstream uint16) *rig {
	t.Helper()
	o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	s := names.New(o)
	port := freePort(t)
	s.SetPorts(port, freePort(t), upstream)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	r := &rig{s, fmt.Sprintf("127.0.0.1:%d", port), sync.OnceFunc(func() { cancel(); wg.Wait() })}
	t.Cleanup(r.stop)
	if got := s.Open("blog", loopback, from); len(got) == 0 || got[0] != loopback {
		t.Fatalf("name servers %v, faults %v", got, s.Faults())
	}
	return r
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func ask(t *testing.T, network, addr, name string, kind uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), kind)
	got, _, err := (&dns.Client{Net: network}).ExchangeContext(t.Context(), q, addr)
	if err != nil {
		t.Fatalf("%s over %s: %v", name, network, err)
	}
	return got
}

func addresses(m *dns.Msg) string {
	var out []string
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			out = append(out, a.A.String())
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// resolv writes a resolv.conf with these name servers.
func resolv(t *testing.T, servers ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	text := ""
	for _, s := range servers {
		text += "nameserver " + s + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A service may have more instances than a UDP answer has room for.
func TestAnswer_ManyInstances(t *testing.T) {
	t.Parallel()
	r := start(t, names.Options{Resolv: resolv(t)}, inside, 53)
	var all []netip.Addr
	for i := range 60 {
		all = append(all, netip.AddrFrom4([4]byte{10, 213, 0, byte(i + 2)}))
	}
	r.Use(table{"worker": {Addrs: all}})
	if got := ask(t, "udp", r.addr, "worker", dns.TypeA); !got.Truncated || len(got.Answer) == 0 {
		t.Errorf("over UDP: %s", got)
	}
	if got := ask(t, "tcp", r.addr, "worker", dns.TypeA); got.Truncated || len(got.Answer) != len(all) {
		t.Errorf("over TCP: %s", got)
	}
}

func TestAnswer_OwnNames(t *testing.T) {
	t.Parallel()
	r := start(t, names.Options{Resolv: resolv(t)}, inside, 53)
	r.Use(table{
		"worker": {Addrs: []netip.Addr{netip.MustParseAddr("10.213.0.3"), netip.MustParseAddr("10.213.0.4")}},
		"idle":   {}, "api": {Link: true},
	})
	for _, network := range []string{"udp", "tcp"} {
		for name, want := range map[string]string{"worker": "10.213.0.3 10.213.0.4", "WORKER": "10.213.0.3 10.213.0.4", "idle": "", "api": "127.0.0.1"} {
			got := ask(t, network, r.addr, name, dns.TypeA)
			if got.Rcode != dns.RcodeSuccess || addresses(got) != want {
				t.Errorf("%s over %s: %s", name, network, got)
			}
			for _, rr := range got.Answer {
				if rr.Header().Ttl != 0 {
					t.Errorf("%s may be kept for %d s", name, rr.Header().Ttl)
				}
			}
		}
		// It has no IPv6 address, but it exists: no other name server is asked.
		for _, kind := range []uint16{dns.TypeAAAA, dns.TypeTXT} {
			if got := ask(t, network, r.addr, "worker", kind); got.Rcode != dns.RcodeSuccess || len(got.Answer) != 0 {
				t.Errorf("worker %s over %s: %s", dns.TypeToString[kind], network, got)
			}
		}
	}
	// The engine asks the next name server after this.
	if got := ask(t, "udp", r.addr, "nosuch", dns.TypeA); got.Rcode != dns.RcodeServerFailure {
		t.Errorf("nosuch without a name server of the machine: %s", got)
	}
}

// Everyone on the machine can send to the address of a network.
func TestAnswer_OtherNetworksAreRefused(t *testing.T) {
	t.Parallel()
	r := start(t, names.Options{Resolv: resolv(t)}, netip.MustParsePrefix("10.213.0.0/26"), 53)
	r.Use(table{"worker": {Addrs: []netip.Addr{netip.MustParseAddr("10.213.0.3")}}})
	for _, network := range []string{"udp", "tcp"} {
		for _, name := range []string{"worker", "example.com"} {
			if got := ask(t, network, r.addr, name, dns.TypeA); got.Rcode != dns.RcodeRefused || len(got.Answer) > 0 {
				t.Errorf("%s over %s: %s", name, network, got)
			}
		}
	}
}

// Nor do they get through a door.
func TestDoor_OtherNetworksAreRefused(t *testing.T) {
	t.Parallel()
	for from, want := range map[netip.Prefix]string{inside: "blog", netip.MustParsePrefix("10.213.0.0/26"): ""} {
		s := names.New(names.Options{Resolv: resolv(t), Door: door})
		port := freePort(t)
		s.SetPorts(freePort(t), port, 53)
		s.Open("blog", loopback, from)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Run(ctx) })
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(c); string(b) != want {
			t.Errorf("from %s: %q, want %q", from, b, want)
		}
		c.Close()
		cancel()
		wg.Wait()
	}
}

// upstream is a name server that knows one name and answers with many addresses.
func upstream(t *testing.T) (port uint16, asked func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	port = freePort(t)
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		mu.Lock()
		n++
		mu.Unlock()
		m := new(dns.Msg)
		m.SetReply(q)
		if q.Question[0].Name != "www.example." {
			m.SetRcode(q, dns.RcodeNameError)
			_ = w.WriteMsg(m)
			return
		}
		for i := range 100 {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: "www.example.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, byte(i))})
		}
		if _, stream := w.RemoteAddr().(*net.TCPAddr); !stream {
			m.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(m)
	})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	pc, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		wg.Go(func() { _ = s.ActivateAndServe() })
	}
	t.Cleanup(func() { pc.Close(); l.Close(); wg.Wait() })
	return port, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// What mesh does not know is asked of the machine's name servers, the next one if one does
// not answer.
func TestAnswer_OtherNames(t *testing.T) {
	t.Parallel()
	port, asked := upstream(t)
	r := start(t, names.Options{Resolv: resolv(t, "127.0.0.3", "127.0.0.1")}, inside, port)
	r.Use(table{"worker": {}})
	if got := ask(t, "tcp", r.addr, "www.example", dns.TypeA); len(got.Answer) != 100 || got.Authoritative {
		t.Errorf("over TCP: %s", got)
	}
	if got := ask(t, "udp", r.addr, "www.example", dns.TypeA); !got.Truncated {
		t.Errorf("over UDP: %s", got)
	}
	if got := ask(t, "udp", r.addr, "nosuch.example", dns.TypeA); got.Rcode != dns.RcodeNameError {
		t.Errorf("an unknown name: %s", got)
	}
	before := asked()
	ask(t, "udp", r.addr, "worker", dns.TypeAAAA)
	if asked() != before {
		t.Error("a name of mesh's was asked of the machine's name server")
	}
}

func TestOpen_NameServersOfContainers(t *testing.T) {
	t.Parallel()
	daemon := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(daemon, []byte(`{"dns": ["192.0.2.9"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		name string
		o    names.Options
		want string
	}{
		{"the machine's", names.Options{Resolv: resolv(t, "192.0.2.1", "192.0.2.2", "192.0.2.3"), Daemon: nowhere}, "[127.0.0.1 192.0.2.1 192.0.2.2]"},
		{"not those that a container cannot reach", names.Options{Resolv: resolv(t, "127.0.0.53", "192.0.2.1"), Daemon: nowhere}, "[127.0.0.1 192.0.2.1]"},
		{"the engine's", names.Options{Resolv: resolv(t, "192.0.2.1"), Daemon: daemon}, "[127.0.0.1 192.0.2.9]"},
		{"none behind a firewall", names.Options{Resolv: resolv(t, "192.0.2.1"), Blocked: func() bool { return true }}, "[]"},
	} {
		s := names.New(c.o)
		s.SetPorts(freePort(t), freePort(t), 53)
		for range 2 {
			if got := fmt.Sprint(s.Open("blog", loopback, inside)); got != c.want {
				t.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
		}
		s.Close("blog")
	}
}

// A port in use is a fault that is known, until the port is free.
func TestOpen_ThePortIsInUse(t *testing.T) {
	t.Parallel()
	s := names.New(names.Options{Resolv: resolv(t)})
	port := freePort(t)
	s.SetPorts(port, freePort(t), 53)
	pc, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Open("blog", loopback, inside); got != nil || s.Faults()["blog"] == nil {
		t.Errorf("name servers %v, faults %v", got, s.Faults())
	}
	pc.Close()
	if got := s.Open("blog", loopback, inside); len(got) != 1 || len(s.Faults()) > 0 {
		t.Errorf("afterwards: name servers %v, faults %v", got, s.Faults())
	}
	s.Close("blog")
}

// A door that cannot be opened does not keep names from being known.
func TestOpen_ThePortOfTheDoorIsInUse(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := names.New(names.Options{Resolv: resolv(t), Door: door})
	s.SetPorts(freePort(t), uint16(l.Addr().(*net.TCPAddr).Port), 53)
	if got := s.Open("blog", loopback, inside); len(got) != 1 || len(s.Faults()) > 0 || s.Shut()["blog"] == nil {
		t.Errorf("name servers %v, faults %v, shut %v", got, s.Faults(), s.Shut())
	}
	s.Close("blog")
	if len(s.Shut()) > 0 {
		t.Errorf("afterwards %v", s.Shut())
	}
}

// A stack whose network has been made anew has another address.
func TestOpen_AnotherAddress(t *testing.T) {
	t.Parallel()
	r := start(t, names.Options{Resolv: resolv(t)}, inside, 53)
	r.Use(table{"worker": {Addrs: []netip.Addr{netip.MustParseAddr("10.213.0.3")}}})
	r.Open("blog", netip.MustParseAddr("127.0.0.2"), inside)
	_, port, _ := net.SplitHostPort(r.addr)
	if got := ask(t, "udp", "127.0.0.2:"+port, "worker", dns.TypeA); addresses(got) != "10.213.0.3" {
		t.Errorf("the new address: %s", got)
	}
	pc, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", r.addr)
	if err != nil {
		t.Fatalf("the old address is still in use: %v", err)
	}
	pc.Close()
}

// door answers each connection with the name of the stack.
func door(ctx context.Context, l net.Listener, stack mesh.StackName) {
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, string(stack))
		c.Close()
	}
}

// The sockets pass to another server; neither queries nor connections that wait in them
// are lost.
func TestSockets(t *testing.T) {
	t.Parallel()
	dnsPort, doorPort := freePort(t), freePort(t)
	o := names.Options{Resolv: resolv(t), Door: door}
	begin := func(inherited map[string]*os.File) (*names.Server, func()) {
		if inherited != nil {
			o.Inherited = func(name string) *os.File {
				f := inherited[name]
				delete(inherited, name)
				return f
			}
		}
		s := names.New(o)
		s.SetPorts(dnsPort, doorPort, 53)
		s.Use(table{"worker": {Addrs: []netip.Addr{netip.MustParseAddr("10.213.0.3")}}})
		ctx, cancel := context.WithCancel(context.Background())
		if got := s.Open("blog", loopback, inside); len(got) == 0 {
			t.Fatalf("faults %v", s.Faults())
		}
		return s, sync.OnceFunc(func() { cancel(); _ = s.Run(ctx) })
	}
	first, end := begin(nil)
	all, err := first.Sockets()
	if err != nil || len(all) != 3 {
		t.Fatalf("%d sockets, %v", len(all), err)
	}
	passed := map[string]*os.File{}
	for _, s := range all {
		passed[s.Name] = s.File
	}
	second, _ := begin(passed)
	if len(passed) > 0 {
		t.Errorf("not taken over: %v", passed)
	}
	end() // and nobody reads yet
	addr := fmt.Sprintf("127.0.0.1:%d", dnsPort)
	answers := make(chan string, 2)
	var wg sync.WaitGroup
	wg.Go(func() {
		q := new(dns.Msg)
		q.SetQuestion("worker.", dns.TypeA)
		got, _, err := new(dns.Client).ExchangeContext(t.Context(), q, addr)
		if err != nil {
			answers <- err.Error()
			return
		}
		answers <- addresses(got)
	})
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", doorPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() { _ = second.Run(ctx) })
	if got := <-answers; got != "10.213.0.3" {
		t.Errorf("a query that waited: %s", got)
	}
	if b, err := io.ReadAll(c); string(b) != "blog" {
		t.Errorf("a connection that waited: %q, %v", b, err)
	}
	cancel()
	wg.Wait()
}
