package router_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mesh/router"
)

// echo is an app that talks over WebSockets, and answers all other requests.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		_, _ = io.WriteString(w, "here")
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil {
			_ = c.Close(websocket.StatusNormalClosure, "")
			return
		}
		_ = c.Write(r.Context(), kind, b)
	}
}

func (g *rig) talk() *websocket.Conn {
	g.t.Helper()
	c, _, err := websocket.Dial(g.t.Context(), "ws://blog.test/", &websocket.DialOptions{HTTPClient: g.client})
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

func (g *rig) say(c *websocket.Conn) error {
	err := c.Write(g.t.Context(), websocket.MessageText, []byte("hello"))
	if err == nil {
		_, _, err = c.Read(g.t.Context())
	}
	return err
}

// Requests that arrive while Settle waits are served, but not waited for.
func TestRouter_SettleServesOn(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, echo))
	old := g.talk()
	settled := make(chan bool)
	go func() { g.Settle(t.Context()); close(settled) }()
	for range 3 {
		if _, b := g.get("/"); b != "here" {
			t.Fatalf("got %q", b)
		}
	}
	later := g.talk()
	if err := g.say(old); err != nil {
		t.Fatalf("the old WebSocket: %v", err)
	}
	select {
	case <-settled:
		t.Fatal("it does not wait")
	default:
	}
	if err := old.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	receive(t, settled, "the end of Settle")
	if err := g.say(later); err != nil {
		t.Errorf("the later WebSocket: %v", err)
	}
	later.CloseNow()
}

// The end of Serve cuts what was not settled, and upgraded connections that have
// arrived since; it lets other requests end.
func TestRouter_EndsSoonAfterSettle(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{Grace: time.Minute})
	in, out := make(chan bool, 1), make(chan bool)
	g.route(app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			in <- true
			<-out
		}
		echo(w, r)
	}))
	old := g.talk()
	ctx, cancel := context.WithCancel(t.Context())
	settled := make(chan bool)
	go func() { g.Settle(ctx); close(settled) }()
	until(t, "a wave of its own", func() bool { return g.Waves() == 2 })
	later := g.talk()
	cancel()
	receive(t, settled, "the end of Settle")
	if err := g.say(old); err != nil {
		t.Errorf("the old WebSocket, while who is cut could come back: %v", err)
	}
	slow := make(chan string, 1)
	go func() {
		_, b := g.get("/slow")
		slow <- b
	}()
	<-in
	stopped := make(chan bool)
	go func() { g.stop(); close(stopped) }()
	until(t, "the end of the old WebSocket", func() bool { return g.say(old) != nil })
	if err := g.say(later); err != nil {
		t.Errorf("the later WebSocket while a request is under way: %v", err)
	}
	close(out)
	if b := receive(t, slow, "the answer"); b != "here" {
		t.Errorf("got %q", b)
	}
	receive(t, stopped, "the end of Serve")
	if g.say(later) == nil {
		t.Error("the later WebSocket outlives Serve")
	}
}

func TestRouter_Cut(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	g.route(app(t, echo))
	c := g.talk()
	g.Cut()
	if g.say(c) == nil {
		t.Error("the WebSocket goes on")
	}
	if _, b := g.get("/"); b != "here" {
		t.Errorf("got %q", b)
	}
}
