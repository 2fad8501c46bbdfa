package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
)

// door is a hub that listens.
type door struct {
	*Hub
	authority *Authority
	addr      string
	mu        sync.Mutex
	changes   int
}

func open2(t *testing.T, a *Authority, addr string, hs Handlers) *door {
	t.Helper()
	d := &door{authority: a}
	var err error
	d.Hub, err = NewHub(HubOptions{Authority: a, Handlers: hs, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), OnChange: func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.changes++
	}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _ = d.Serve(ctx, l) })
	t.Cleanup(func() { cancel(); d.Close(); all.Wait() })
	return d
}

func authority(t *testing.T) *Authority {
	t.Helper()
	cert, key, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseAuthority(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// poured receives a value whenever an engine was kept from pouring.
var poured = make(chan struct{}, 10)

// engine is a socket that answers each line with itself in capital letters, and says goodbye once
// nothing more comes.
func engine(t *testing.T) string {
	t.Helper()
	at := filepath.Join(t.TempDir(), "engine.sock")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					if s.Text() == "pour" {
						_, _ = io.Copy(io.Discard, c) // its input ends, and it goes on
						for err := error(nil); err == nil; {
							_, err = c.Write(make([]byte, 1<<10))
						}
						poured <- struct{}{}
						return
					}
					_, _ = fmt.Fprintln(c, strings.ToUpper(s.Text()))
				}
				_, _ = fmt.Fprintln(c, "bye")
			}()
		}
	}()
	return at
}

// join runs an agent until the test, or the returned function, ends it.
func joinAs(t *testing.T, node string, conf *tls.Config, servers ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	o := Options{
		Node: node, Version: "1.2.3", Servers: servers, TLS: conf, Engine: engine(t), Port: 20000 + int(time.Now().UnixNano()%20000),
		DNSPort: 5300, LinkPort: 5380, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	go func() { ended <- Run(ctx, o) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func passOf(t *testing.T, a *Authority) *tls.Config {
	t.Helper()
	pass, err := a.Pass()
	if err != nil {
		t.Fatal(err)
	}
	conf, err := ParsePass([]byte(pass.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	return conf
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (d *door) has(node string) func() bool {
	return func() bool { _, ok := d.Nodes()[node]; return ok }
}

// talk sends a line through the wire to the engine of a node, and returns all that comes back.
func (d *door) talk(t *testing.T, node, line string) string {
	t.Helper()
	c, err := d.Dial(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintln(c, line); err != nil {
		t.Fatal(err)
	}
	if err := c.(halfCloser).CloseWrite(); err != nil { //nolint:forcetypeassert // it is what attached programs need
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestEngine(t *testing.T) {
	t.Parallel()
	d := open2(t, authority(t), "127.0.0.1:0", Handlers{})
	if _, err := d.Dial(t.Context(), "n1"); !errors.Is(err, mesh.Unavailable) {
		t.Errorf("without an agent: %v", err)
	}
	stop := joinAs(t, "n1", passOf(t, d.authority), "127.0.0.1:1", d.addr) // the first server is away
	eventually(t, "n1 is connected", d.has("n1"))
	if got := d.talk(t, "n1", "hello"); got != "HELLO\nbye\n" {
		t.Errorf("%q", got)
	}
	if a := d.Nodes()["n1"]; a.Version != "1.2.3" || !strings.HasPrefix(a.Registry, "127.0.0.1:") || time.Since(a.Since) > time.Minute {
		t.Errorf("%+v", a)
	}
	stop()
	eventually(t, "n1 is gone", func() bool { return !d.has("n1")() })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changes < 2 {
		t.Errorf("%d changes were told", d.changes)
	}
}

// Who has no certificate of the authority, or speaks something else, gets nothing.
// A command's output ends when nobody reads it any more, though its input has ended long before.
func TestCut(t *testing.T) {
	t.Parallel()
	d := open2(t, authority(t), "127.0.0.1:0", Handlers{})
	joinAs(t, "one", passOf(t, d.authority), d.addr)
	eventually(t, "one is connected", d.has("one"))
	c, err := d.Dial(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintln(c, "pour")
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4<<20)); err != nil { // more than the window
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, c); read <- err }()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err == nil {
		t.Error("who reads takes it for the end")
	}
	<-poured
	d.Hub.mu.Lock()
	defer d.Hub.mu.Unlock()
	for _, l := range d.by {
		eventually(t, "no stream is left", func() bool { return l.mux.NumStreams() == 0 })
	}
}

func TestStrangers(t *testing.T) {
	t.Parallel()
	d := open2(t, authority(t), "127.0.0.1:0", Handlers{})
	joinAs(t, "n1", passOf(t, authority(t)), d.addr) // of another server
	bare := passOf(t, d.authority).Clone()
	bare.Certificates = nil
	for name, conf := range map[string]*tls.Config{"no certificate": bare} {
		c, err := (&tls.Dialer{Config: conf}).DialContext(t.Context(), "tcp", d.addr)
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_ = say(c, hello{Node: "n2"})
			var w welcome
			if err = hear(c, &w); err == nil {
				t.Errorf("%s: let in", name)
			}
			_ = c.Close()
		}
	}
	c, err := (&tls.Dialer{Config: passOf(t, d.authority)}).DialContext(t.Context(), "tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := say(c, hello{Node: "../x"}); err != nil {
		t.Fatal(err)
	}
	var w welcome
	if err := hear(c, &w); err != nil || w.Fault == "" {
		t.Errorf("a node with a strange name: %+v, %v", w, err)
	}
	if len(d.Nodes()) > 0 {
		t.Errorf("%v", d.Nodes())
	}
}

// An agent finds a server that was away, and one that has taken the place of another.
func TestReconnects(t *testing.T) {
	t.Parallel()
	a := authority(t)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	joinAs(t, "n1", passOf(t, a), addr)
	first := open2(t, a, addr, Handlers{})
	eventually(t, "n1 has found the server", first.has("n1"))

	// A handover: what uses the old connection goes on, and the other process gets a new one.
	c, err := first.Dial(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprintln(c, "one")
	back := bufio.NewReader(c)
	if line, err := back.ReadString('\n'); line != "ONE\n" {
		t.Errorf("%q, %v", line, err)
	}
	second := open2(t, a, "127.0.0.1:0", Handlers{})
	joinAs(t, "n2", passOf(t, a), second.addr)
	eventually(t, "n2 is connected", second.has("n2"))
	second.Retire() // it lets nobody in from now on
	before := second.Nodes()["n2"].Since
	time.Sleep(300 * time.Millisecond)
	if now, ok := second.Nodes()["n2"]; ok && !now.Since.Equal(before) {
		t.Error("a process that has retired lets an agent in")
	}
	if got := second.talk(t, "n2", "x"); got != "X\nbye\n" {
		t.Errorf("the old connection: %q", got)
	}
	second.Resume()
	eventually(t, "n2 has connected once more", func() bool { now, ok := second.Nodes()["n2"]; return ok && !now.Since.Equal(before) })
	_, _ = fmt.Fprintln(c, "two")
	if line, err := back.ReadString('\n'); line != "TWO\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// What containers and the engine of a node ask for arrives with the address of who asks.
func TestForwards(t *testing.T) {
	t.Parallel()
	answer := func(what string) func(context.Context, string, netip.Addr, net.Conn) {
		return func(_ context.Context, node string, from netip.Addr, c net.Conn) {
			var size [2]byte
			if what == "names" {
				if _, err := io.ReadFull(c, size[:]); err != nil {
					return
				}
			}
			q := make([]byte, 4)
			if _, err := io.ReadFull(c, q); err != nil {
				return
			}
			text := fmt.Sprintf("%s %s %s %s", what, node, from, q)
			if what == "names" {
				binary.BigEndian.PutUint16(size[:], uint16(len(text)))
				_, _ = c.Write(size[:])
			}
			_, _ = io.WriteString(c, text)
		}
	}
	d := open2(t, authority(t), "127.0.0.1:0", Handlers{
		Names: answer("names"), Links: answer("links"),
		Registry: func(_ context.Context, node string, c net.Conn) { _, _ = io.WriteString(c, "registry for "+node) },
	})
	joinAs(t, "n1", passOf(t, d.authority), d.addr)
	eventually(t, "n1 is connected", d.has("n1"))
	at := netip.MustParseAddr("127.53.9.1")
	for range 2 {
		if err := d.Listen(t.Context(), "n1", at); err != nil {
			t.Fatal(err)
		}
	}
	for port, want := range map[uint16]string{5380: "links n1 127.53.9.1 ping"} {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: at.AsSlice()}}).DialContext(t.Context(), "tcp", netip.AddrPortFrom(at, port).String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "ping")
		_ = c.(halfCloser).CloseWrite() //nolint:forcetypeassert // TCP
		if got, err := io.ReadAll(c); string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
		_ = c.Close()
	}
	u, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: at.AsSlice()}}).DialContext(t.Context(), "udp", netip.AddrPortFrom(at, 5300).String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	_ = u.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(u, "ping")
	b := make([]byte, 100)
	if n, err := u.Read(b); string(b[:n]) != "names n1 127.53.9.1 ping" {
		t.Errorf("%q, %v", b[:n], err)
	}
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", d.Nodes()["n1"].Registry)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); string(got) != "registry for n1" {
		t.Errorf("%q, %v", got, err)
	}
}

// Machines that want to join have no certificate. They know the hash of the server's key.
func TestJoin(t *testing.T) {
	t.Parallel()
	d := open2(t, authority(t), "127.0.0.1:0", Handlers{Join: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+r.URL.Path)
	})})
	var seen string
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error { //nolint:gosec // as curl does with --pinnedpubkey
		seen = (&Authority{cert: s.PeerCertificates[0]}).Pin()
		return nil
	}}}}
	defer client.CloseIdleConnections()
	for range 2 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+d.addr+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(body) != "hello /x" || err != nil || seen != d.authority.Pin() {
			t.Errorf("%q, %v, pin %s, want %s", body, err, seen, d.authority.Pin())
		}
	}
}
