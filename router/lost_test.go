package router_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"mesh/router"
)

// The machine of an instance is gone: nothing closes the connections to it. What may be
// repeated is answered by another instance, and the rest at once.
func TestLost(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	arrived := make(chan string, 10)
	silent := rawApp(t, func(c *rawConn) {
		for {
			r, err := http.ReadRequest(c.r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			switch r.URL.Path {
			case "/fast":
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				continue
			case "/half":
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			}
			arrived <- r.Method + r.URL.Path
			_, _ = c.r.ReadByte() // nothing comes
			return
		}
	})
	var served atomic.Int32
	other := app(t, func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "other "+string(b))
	})
	begun := make(chan struct{}, 10)
	ask := func(method, path, body string) (status int, answer string, err error) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://blog.test"+path, strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		res, err := g.client.Do(req)
		if err != nil {
			return 0, "", err
		}
		begun <- struct{}{}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		return res.StatusCode, string(b), err
	}
	type answer struct {
		status int
		text   string
		err    error
	}
	for _, c := range []struct {
		name, method, path, body string
		warm                     bool // over a connection that has carried a request before
		status                   int
		text                     string
		torn                     bool
		served                   int32
	}{
		{name: "a GET", method: "GET", path: "/", status: 200, text: "other ", served: 1},
		{name: "a GET on a kept connection", method: "GET", path: "/", warm: true, status: 200, text: "other ", served: 1},
		{name: "a PUT", method: "PUT", path: "/", body: "content", status: 200, text: "other content", served: 1},
		{name: "a POST", method: "POST", path: "/", body: "content", status: 502},
		{name: "half an answer", method: "GET", path: "/half", status: 200, torn: true},
	} {
		g.route(silent)
		if c.warm {
			if status, _, err := ask("GET", "/fast", ""); status != 200 {
				t.Fatal(status, err)
			}
			<-begun
		}
		served.Store(0)
		got := make(chan answer, 1)
		go func() {
			status, text, err := ask(c.method, c.path, c.body)
			got <- answer{status, text, err}
		}()
		<-arrived
		if c.torn {
			<-begun
		}
		g.route(other)
		g.Lost(silent.ID)
		g.Lost("nobody")
		a := <-got
		if !c.torn && a.err == nil {
			<-begun
		}
		if c.torn {
			if a.err == nil {
				t.Errorf("%s: taken for whole: %q", c.name, a.text)
			}
			continue
		}
		if a.err != nil || a.status != c.status || c.text != "" && a.text != c.text || served.Load() != c.served {
			t.Errorf("%s: %d %q, %v, the other instance got %d", c.name, a.status, a.text, a.err, served.Load())
		}
	}
	// The same target again, as when the machine was only cut off.
	g.route(silent)
	if status, _, err := ask("GET", "/fast", ""); status != 200 {
		t.Error("back again:", status, err)
	}
}
