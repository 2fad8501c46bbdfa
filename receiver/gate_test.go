package receiver

import (
	"context"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"mesh"
)

func TestNetwork(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.1:5":           "192.0.2.1",
		"[::ffff:192.0.2.1]:5":  "192.0.2.1",
		"[2001:db8:1:2:3::4]:5": "2001:db8:1:2::/64",
		"[2001:db8:1:2:ff::]:5": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:5":      "fe80::/64",
		"[::1]:5":               "::1",
		"127.0.0.1:5":           "127.0.0.1",
	} {
		if got := network(strAddr(addr)); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

type strAddr string

func (strAddr) Network() string  { return "tcp" }
func (a strAddr) String() string { return string(a) }

func TestGate_PartsOfNetworks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		enter := func(network string) (*place, bool) { return g.enter(t.Context(), network, time.Millisecond) }
		var places []*place
		for i := range maxUnauthPerNet {
			p, ok := enter("192.0.2.1")
			if !ok {
				t.Fatalf("connection %d is refused", i)
			}
			places = append(places, p)
		}
		if _, ok := enter("192.0.2.1"); ok {
			t.Error("one network takes more than its part")
		}
		for range maxUnauth - maxUnauthPerNet {
			if _, ok := enter("127.0.0.1"); !ok {
				t.Fatal("the loopback address is limited")
			}
		}
		if _, ok := enter("192.0.2.2"); ok {
			t.Error("more than all places are taken")
		}
		places[0].leave(true)
		places[0].leave(false)
		if len(g.places) != maxUnauth-1 {
			t.Errorf("left twice: %d places", len(g.places))
		}
		// A client has signed in from there: such networks have extra places.
		for i := range 1 + maxUnauthKept {
			if i == maxUnauthPerNet {
				break
			}
			places[i].leave(false)
			if _, ok := enter("192.0.2.1"); !ok {
				t.Fatalf("a network that is known is kept out (%d)", i)
			}
		}
		time.Sleep(knownTime)
		for g.by["127.0.0.1"] < 200 {
			if _, ok := enter("127.0.0.1"); !ok {
				break
			}
		}
		if _, ok := enter("192.0.2.1"); ok {
			t.Error("a day later the network still counts as known")
		}
	})
}

// The networks take turns, and in each the newest connection comes first.
func TestGate_Queue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		var places []*place
		for range maxUnauth {
			p, _ := g.enter(t.Context(), "127.0.0.1", time.Minute)
			places = append(places, p)
		}
		got := make(chan string, 10)
		for i, network := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"} {
			go func() {
				if _, ok := g.enter(t.Context(), network, time.Minute); ok {
					got <- fmt.Sprint(network, " ", i)
				} else {
					got <- fmt.Sprint("late ", i)
				}
			}()
			synctest.Wait()
		}
		for i, want := range []string{"192.0.2.1 2", "192.0.2.2 3", "192.0.2.1 1"} {
			places[i].leave(false)
			if have := <-got; have != want {
				t.Errorf("%d: %s got the place, want %s", i, have, want)
			}
		}
		if have := <-got; have != "late 0" {
			t.Errorf("who finds no place: %s", have)
		}
		if g.waiting != 0 || len(g.queues) != 0 || len(g.turns) != 0 {
			t.Errorf("%d still wait: %v, %v", g.waiting, g.queues, g.turns)
		}
	})
}

func TestGate_QueueIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		for range maxUnauth {
			g.enter(t.Context(), "127.0.0.1", time.Minute)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range maxWaitingPerNet {
			go g.enter(ctx, "192.0.2.3", time.Hour)
		}
		synctest.Wait()
		if _, ok := g.enter(ctx, "192.0.2.3", time.Hour); ok {
			t.Error("more than may wait")
		}
		cancel()
		synctest.Wait()
		if g.waiting != 0 || len(g.queues) != 0 {
			t.Errorf("%d still wait", g.waiting)
		}
	})
}

// Clients that owe the next message lose their places to waiting ones; a client that
// waits for the server keeps its place.
func TestGate_StalledClientsMakeRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		var ended []int
		for i := range maxUnauth {
			p, _ := g.enter(t.Context(), "127.0.0.1", time.Minute)
			end := func() { ended = append(ended, i); p.leave(false) }
			p.close.Store(&end)
			if i < 3 {
				p.owed.Store(g.now().UnixNano())
			}
		}
		time.Sleep(5 * time.Second)
		if len(ended) != 0 {
			t.Errorf("nobody waits, and %v were ended", ended)
		}
		if _, ok := g.enter(t.Context(), "192.0.2.1", time.Minute); !ok || len(ended) != 3 {
			t.Errorf("ended: %v", ended)
		}
	})
}

func TestGate_FailedSignInsOfANetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		enter := func(network string) bool {
			p, ok := g.enter(t.Context(), network, time.Millisecond)
			if ok {
				p.leave(false)
			}
			return ok
		}
		for i := range maxFailedPerNet {
			if !enter("192.0.2.1") {
				t.Fatalf("refused after %d", i)
			}
		}
		if enter("192.0.2.1") || !enter("192.0.2.2") {
			t.Error("the limit is that of one network")
		}
		time.Sleep(time.Minute)
		if !enter("192.0.2.1") {
			t.Error("refused a minute later")
		}
	})
}

// 400 connections that send a version and nothing more, from the same address as a
// person's first sign-in.
func TestSSH_HalfOpenConnectionsLetOthersIn(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	for range 400 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write([]byte("SSH-2.0-slow\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	k := signer(t)
	s.keys.add("admin", mesh.RoleAdmin, k)
	c, err := s.dial(ssh.PublicKeys(k))
	if err != nil {
		t.Fatalf("kept out: %v", err)
	}
	defer func() { _ = c.Close() }()
	if out, _ := run(t, c, "version"); out != "mesh 9\n" {
		t.Errorf("got %q", out)
	}
}

// A client that closes its output ends what writes to it, as sshd's SIGPIPE does.
func TestSSH_ClosedOutputEndsTheCommand(t *testing.T) {
	t.Parallel()
	w := &writable{state: &channelState{}}
	w.state.closed.Store(true)
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a write to a closed output succeeds")
	}
}

func TestFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var f flood
		var lines, told int
		log := func(more int) { lines++; told += more }
		for range 1000 {
			f.note(log)
		}
		time.Sleep(floodTime + time.Second)
		synctest.Wait()
		if lines != floodBurst+1 || told != 1000-floodBurst {
			t.Errorf("%d lines for 1000 events, %d told of at the end", lines, told)
		}
		f.note(log)
		if lines != floodBurst+2 {
			t.Error("nothing is written any more")
		}
		time.Sleep(floodTime + time.Second)
	})
}
