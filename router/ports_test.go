package router_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
	"mesh/router"
)

// tcpRig is a rig with TCP ports, each on an address that the system chooses.
type tcpRig struct {
	*rig
	mu      sync.Mutex
	at      map[uint16]string
	busy    error // what opening a port gives
	endPort func()
}

func startPorts(t *testing.T, o router.Options) *tcpRig {
	t.Helper()
	g := &tcpRig{at: map[uint16]string{}}
	o.Listen = func(port uint16) (net.Listener, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.busy != nil {
			return nil, g.busy
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			g.at[port] = l.Addr().String()
		}
		return l, err
	}
	g.rig = start(t, o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := g.ServePorts(ctx); err != nil {
			t.Errorf("serve ports: %v", err)
		}
	}()
	g.endPort = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(g.endPort)
	return g
}

func (g *tcpRig) addr(port uint16) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at[port]
}

// call connects to a port. The far end of an echoing instance says its name first.
func (g *tcpRig) call(port uint16) *rawConn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr(port))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &rawConn{c, bufio.NewReader(c), g.t}
}

func (c *rawConn) greeting() string {
	line, _ := c.r.ReadString('\n')
	return strings.TrimSpace(line)
}

// echoes says hello, and then repeats lines, until the client ends its side.
func echoes(t *testing.T, service mesh.ServiceName, name string) mesh.Target {
	return of(service, rawApp(t, func(c *rawConn) {
		c.say("hello from " + name + "\n")
		for {
			line, err := c.r.ReadString('\n')
			if err != nil {
				_, _ = io.WriteString(c, "bye from "+name+"\n")
				return
			}
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
		}
	}))
}

func dbRoute(targets ...mesh.Target) mesh.Route {
	return mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: targets, Ports: []mesh.TCPPort{{Number: 5432, Service: "db"}}}
}

func (c *rawConn) echo(line string) bool {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return false
	}
	got, err := c.r.ReadString('\n')
	return err == nil && got == line+"\n"
}

func TestPorts_BytesBothWays(t *testing.T) {
	t.Parallel()
	g := startPorts(t, router.Options{})
	g.Switch(dbRoute(app(t, text("web")), echoes(t, "db", "one")))
	c := g.call(5432)
	if got := c.greeting(); got != "hello from one" { // before the client has said anything
		t.Fatalf("greeting %q", got)
	}
	if !c.echo("a line") || !c.echo(strings.Repeat("x", 1<<20)) {
		t.Error("no echo")
	}
	if s := g.Snapshot()[0]; s.Targets[1].InFlight != 1 || s.Targets[0].InFlight != 0 || g.Minute("blog", "db").Open != 1 {
		t.Errorf("counts %+v", s)
	}
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(c.r); err != nil || string(rest) != "bye from one\n" {
		t.Errorf("after the end of the client's side: %q, %v", rest, err)
	}
	a := g.record()
	if want := "at=info tcp=:5432 fwd=\"127.0.0.1\" instance=db.1 connect="; !strings.HasPrefix(string(a.AppendLine(nil)), want) || a.Bytes < 2<<20 || a.Stack != "blog" {
		t.Errorf("%s", a.AppendLine(nil))
	}
	if n := g.Minute("blog", "db").Open; n != 0 {
		t.Errorf("%d open", n)
	}
	// Requests never go to a service that only has a port.
	for range 20 {
		if res, body := g.get("/"); res.StatusCode != 200 || body != "web" {
			t.Fatalf("%d %q", res.StatusCode, body)
		}
	}
}

// Instances are replaced while clients come and stay: no connection is refused, none is
// cut before its drain, and none begins on an instance that has left.
func TestPorts_SwitchLosesNoConnection(t *testing.T) {
	t.Parallel()
	g := startPorts(t, router.Options{})
	now := echoes(t, "db", "v0")
	g.Switch(dbRoute(now))
	stays := g.call(5432)
	if stays.greeting() != "hello from v0" {
		t.Fatal("no greeting")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				c := g.call(5432)
				if !strings.HasPrefix(c.greeting(), "hello from v") || !c.echo("ping") {
					t.Error("a connection was lost")
				}
				c.Close()
			}
		})
	}
	first := now
	for i := range 20 {
		next := echoes(t, "db", fmt.Sprint("v", i+1))
		g.Switch(dbRoute(next))
		c := g.call(5432)
		if got := c.greeting(); got != fmt.Sprint("hello from v", i+1) {
			t.Errorf("after switch %d: %q", i, got)
		}
		c.Close()
		if now != first {
			if err := g.Drain(ctxFor(t, 10*time.Second), now.ID, 10*time.Second); err != nil {
				t.Errorf("drain %d: %v", i, err)
			}
		}
		now = next
	}
	cancel()
	wg.Wait()
	if !stays.echo("still here") {
		t.Error("an open connection was cut by a switch")
	}
	// The drain waits for it, beyond the time for requests, and then cuts it.
	began := time.Now()
	if err := g.Drain(ctxFor(t, time.Millisecond), first.ID, 300*time.Millisecond); err == nil || time.Since(began) < 300*time.Millisecond {
		t.Errorf("drained with a connection open: %v after %s", err, time.Since(began))
	}
	if _, err := stays.r.ReadByte(); err == nil {
		t.Error("it was not cut")
	}
}

func TestPorts_WaitForAnInstance(t *testing.T) {
	t.Parallel()
	g := startPorts(t, router.Options{Wait: 300 * time.Millisecond})
	g.Switch(dbRoute())
	c := g.call(5432)
	until(t, "it waits", func() bool { return g.Snapshot()[0].Waiting == 1 })
	db := echoes(t, "db", "one")
	g.Switch(dbRoute(db))
	if got := c.greeting(); got != "hello from one" {
		t.Errorf("it waited for %q", got)
	}
	c.Close()
	g.record()
	closed := func(what string, code router.Code) {
		t.Helper()
		if b, err := io.ReadAll(g.call(5432)); len(b) > 0 {
			t.Errorf("%s: %q, %v", what, b, err)
		}
		if a := g.record(); a.Code != code || a.Instance.Service != "" {
			t.Errorf("%s: %s", what, a.AppendLine(nil))
		}
	}
	g.Switch(dbRoute())
	closed("no instance", router.NoInstance)
	l := listen(t)
	dead := of("db", target(l))
	l.Close()
	g.Switch(dbRoute(dead))
	closed("an instance that accepts nothing", router.NoConnection)
	g.Switch(dbRoute(dead, db))
	for range 3 {
		c := g.call(5432)
		if c.greeting() != "hello from one" {
			t.Error("the other instance was not asked")
		}
		c.Close()
		g.record()
	}
	route := dbRoute()
	route.Idle = map[mesh.ServiceName]mesh.DownReason{"db": mesh.StoppedStack}
	g.Switch(route)
	closed("stopped", router.Stopped)
	route = dbRoute(db)
	route.Down = mesh.Maintenance
	g.Switch(route)
	closed("maintenance", router.Maintenance)
	route.Spared = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	g.Switch(route)
	if g.call(5432).greeting() != "hello from one" {
		t.Error("maintenance does not spare")
	}
	route = dbRoute(db)
	route.Access.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	g.Switch(route)
	closed("an address rule", router.Forbidden)
}

// What is waiting when its stack goes ends at once.
func TestPorts_ComeAndGo(t *testing.T) {
	t.Parallel()
	g := startPorts(t, router.Options{})
	db := echoes(t, "db", "one")
	g.Switch(dbRoute(db))
	stays := g.call(5432)
	stays.greeting()
	at := g.addr(5432)
	refused := func(what string) {
		t.Helper()
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			t.Errorf("%s: the port is open", what)
		}
	}
	route := dbRoute(db)
	route.Ports = []mesh.TCPPort{{Number: 6379, Service: "db"}, {Number: 6380, Service: "db"}}
	g.Switch(route)
	refused("unpublished")
	if !stays.echo("still here") || g.call(6379).greeting() != "hello from one" || g.call(6380).greeting() != "hello from one" {
		t.Error("a change of ports touched connections")
	}
	// Another stack takes a port over, as after a rename; then the first one goes.
	other := route
	other.Stack, other.Hosts, other.Targets, other.Ports = "shop", []mesh.Host{"shop.test"}, []mesh.Target{echoes(t, "db", "two")}, route.Ports[:1]
	g.Switch(other)
	if got := g.call(6379).greeting(); got != "hello from two" {
		t.Errorf("taken over: %q", got)
	}
	at = g.addr(6380)
	g.Remove("blog")
	refused("removed")
	if got := g.call(6379).greeting(); got != "hello from two" {
		t.Errorf("after the removal of the first: %q", got)
	}
	// A port that is in use is opened once it is free.
	g.mu.Lock()
	g.busy = errors.New("the port is in use")
	g.mu.Unlock()
	other.Ports = append(other.Ports, mesh.TCPPort{Number: 7000, Service: "db"})
	g.Switch(other)
	if s := g.Ports(); len(s) != 2 || s[0].Err != nil || s[1].Port != 7000 || s[1].Err == nil || s[1].Stack != "shop" {
		t.Errorf("%+v", s)
	}
	g.mu.Lock()
	g.busy = nil
	g.mu.Unlock()
	until(t, "it is opened", func() bool { return g.Ports()[1].Err == nil })
	if got := g.call(7000).greeting(); got != "hello from two" {
		t.Errorf("opened late: %q", got)
	}
}

// When the router stops, connections that are open get their time, as WebSockets do; a
// call of Settle waits for those that were open, and what came later is cut.
func TestPorts_Stop(t *testing.T) {
	t.Parallel()
	g := startPorts(t, router.Options{Grace: 10 * time.Second})
	g.Switch(dbRoute(echoes(t, "db", "one")))
	old := g.call(5432)
	old.greeting()
	ended := make(chan struct{})
	go func() { g.endPort(); close(ended) }()
	until(t, "the port closes", func() bool {
		c, err := net.Dial("tcp", g.addr(5432))
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if !old.echo("still here") {
		t.Error("cut too early")
	}
	old.Close()
	receive(t, ended, "the end")

	h := startPorts(t, router.Options{Grace: time.Hour})
	h.Switch(dbRoute(echoes(t, "db", "one")))
	old = h.call(5432)
	old.greeting()
	settled := make(chan struct{})
	go func() { h.Settle(t.Context()); close(settled) }()
	var late *rawConn
	until(t, "a later one", func() bool {
		late = h.call(5432)
		return late.greeting() != "" && late.echo("served meanwhile")
	})
	select {
	case <-settled:
		t.Error("settled with a connection open")
	default:
	}
	old.Close()
	receive(t, settled, "the end of the old one")
	h.endPort() // cuts the later one, whatever the time
	if _, err := late.r.ReadByte(); err == nil {
		t.Error("not cut")
	}
}

// While ports are paused, new connections wait and open ones continue.
func TestPorts_Pause(t *testing.T) {
	t.Parallel()
	g := startPorts(t, router.Options{})
	g.Switch(dbRoute(echoes(t, "db", "one")))
	open := g.call(5432)
	open.greeting()
	for held := 0; held < 3; {
		g.PausePorts()
		waits := g.call(5432)
		if !open.echo("still here") {
			t.Fatal("a pause touched an open connection")
		}
		if g.Minute("blog", "db").Open == 1 {
			held++
		} // else it was accepted by a call of Accept that had just begun
		g.ResumePorts()
		if waits.greeting() != "hello from one" {
			t.Error("it was not accepted")
		}
		waits.Close()
		until(t, "its end", func() bool { return g.Minute("blog", "db").Open == 1 })
	}
	g.PausePorts()
	open.Close()
	g.endPort() // ends all the same
}

func TestPorts_LimitsOneClient(t *testing.T) {
	t.Parallel()
	g := startPorts(t, router.Options{PerClient: 2})
	g.Switch(dbRoute(echoes(t, "db", "one")))
	a, b := g.call(5432), g.call(5432)
	if a.greeting() == "" || b.greeting() == "" {
		t.Fatal("refused too early")
	}
	if rest, _ := io.ReadAll(g.call(5432)); len(rest) > 0 {
		t.Errorf("a third one got %q", rest)
	}
	a.Close()
	until(t, "one has left", func() bool { return g.call(5432).greeting() != "" })
}
