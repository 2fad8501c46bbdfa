package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// tcpClients are the clients of TCP ports of a script.
type tcpClients struct {
	kept net.Conn
	in   *bufio.Reader

	cancel context.CancelFunc
	done   sync.WaitGroup
	calls  atomic.Int64
	lost   atomic.Pointer[string]
}

var tcpOf sync.Map // by the work directory of their script

// cmdTCP is a client of TCP ports. The test app greets with its version, and answers each
// line with its version and the line.
func cmdTCP(ts *testscript.TestScript, neg bool, args []string) {
	v, _ := tcpOf.LoadOrStore(ts.Getenv("WORK"), &tcpClients{})
	t := v.(*tcpClients)
	usage := func() {
		ts.Fatalf("usage: tcp ports N | [!] tcp ask PORT LINE | tcp open PORT | tcp still LINE | tcp close | tcp cut | tcp start PORT | tcp stop")
	}
	if len(args) == 0 || neg && args[0] != "ask" {
		usage()
	}
	switch word, args := args[0], args[1:]; {
	case word == "ports" && len(args) == 1:
		n, err := strconv.Atoi(args[0])
		ts.Check(err)
		for i := range n {
			ts.Setenv(fmt.Sprint("TCP", i+1), freePort(ts))
		}
	case word == "ask" && len(args) == 2:
		answer, err := askTCP(args[0], args[1])
		if neg {
			if err == nil {
				ts.Fatalf("port %s answers %q", args[0], answer)
			}
			return
		}
		ts.Check(err)
		_, _ = io.WriteString(ts.Stdout(), answer)
	case word == "open" && len(args) == 1:
		c, err := net.Dial("tcp", "127.0.0.1:"+args[0]) //nolint:noctx // it has a deadline
		ts.Check(err)
		ts.Defer(func() { _ = c.Close() })
		ts.Check(c.SetDeadline(time.Now().Add(2 * time.Minute)))
		t.kept, t.in = c, bufio.NewReader(c)
		greeting, err := t.in.ReadString('\n')
		ts.Check(err)
		_, _ = io.WriteString(ts.Stdout(), greeting)
	case word == "still" && len(args) == 1:
		_, err := io.WriteString(t.kept, args[0]+"\n")
		ts.Check(err)
		line, err := t.in.ReadString('\n')
		ts.Check(err)
		_, _ = io.WriteString(ts.Stdout(), line)
	case word == "close" && len(args) == 0:
		ts.Check(t.kept.Close())
	case word == "cut" && len(args) == 0:
		if rest, err := io.ReadAll(t.in); len(rest) > 0 {
			ts.Fatalf("the connection got %q, %v", rest, err)
		}
	case word == "start" && len(args) == 1:
		ctx, cancel := context.WithCancel(context.Background())
		t.cancel = cancel
		ts.Defer(func() { cancel(); t.done.Wait() })
		t.calls.Store(0)
		for range 2 {
			t.done.Go(func() {
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for ctx.Err() == nil {
					<-tick.C
					if answer, err := askTCP(args[0], "ping"); err != nil || !strings.HasSuffix(answer, " ping\n") {
						s := fmt.Sprintf("%q, %v", answer, err)
						t.lost.CompareAndSwap(nil, &s)
					}
					t.calls.Add(1)
				}
			})
		}
	case word == "stop" && len(args) == 0:
		t.cancel()
		t.done.Wait()
		ts.Logf("%d connections", t.calls.Load())
		if lost := t.lost.Load(); lost != nil || t.calls.Load() < 4 {
			ts.Fatalf("of %d connections one was lost: %v", t.calls.Load(), lost)
		}
	default:
		usage()
	}
}

// askTCP returns the greeting and the answer to one line.
func askTCP(port, line string) (string, error) {
	c, err := net.Dial("tcp", "127.0.0.1:"+port) //nolint:noctx // it has a deadline
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	in := bufio.NewReader(c)
	greeting, err := in.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("no greeting: %w", err)
	}
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	answer, err := in.ReadString('\n')
	return greeting + answer, err
}

// freePort returns a port that nothing uses. It is not one that the system gives to others.
func freePort(ts *testscript.TestScript) string {
	for range 1000 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		if l, err := net.Listen("tcp", ":"+port); err == nil { //nolint:noctx // at once
			_ = l.Close()
			return port
		}
	}
	ts.Fatalf("no free port")
	return ""
}
