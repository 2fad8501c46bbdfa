package router_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"

	"mesh"
	"mesh/router"
)

// http2App only speaks HTTP/2 without TLS, like gRPC servers.
func http2App(t *testing.T, h http.HandlerFunc) mesh.Target {
	l := listen(t)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &p, Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return target(l)
}

// grpcApp echoes frames, or refuses at once.
func grpcApp(t *testing.T) mesh.Target {
	return http2App(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Te") != "trailers" || r.Header.Get("X-Forwarded-For") != "127.0.0.1" || !slices.Equal(r.Header["X-Real-Ip"], []string{"127.0.0.1"}) || r.Host != "blog.test" {
			t.Errorf("the app got %v", r.Header)
		}
		w.Header().Set("Content-Type", "application/grpc")
		if r.URL.Path == "/echo.Echo/Refuse" {
			w.Header().Set("Grpc-Status", "7")
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(b[:n])
			_ = rc.Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "done")
	})
}

func grpcFrame(s string) string {
	return "\x00" + string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s
}

func TestGRPC_StreamsBothWays(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{})
	l := listen(t)
	dead := target(l)
	l.Close()
	tg := grpcApp(t)
	g.route(dead, tg)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p, DialContext: g.dial}
	defer tr.CloseIdleConnections()
	ask := func(path string, body io.Reader) *http.Response {
		req, _ := http.NewRequest("POST", "http://blog.test"+path, body)
		req.Header.Set("Content-Type", "application/grpc+proto")
		req.Header.Set("Te", "trailers")
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	for range 3 {
		pr, pw := io.Pipe()
		res := ask("/echo.Echo/Stream", pr)
		for i := range 3 {
			f := grpcFrame(fmt.Sprint("message ", i))
			_, _ = io.WriteString(pw, f)
			b := make([]byte, len(f))
			if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != f {
				t.Fatalf("%q %v", b, err)
			}
		}
		pw.Close()
		if b := g.body(res); b != "" || res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "done" {
			t.Errorf("%q %v %v", b, res.Header, res.Trailer)
		}
		if a := g.record(); a.Instance != tg.Name || a.Code != "" || a.Status != 200 || a.Proto != "HTTP/2.0" {
			t.Errorf("record %+v", a)
		}
	}
	res := ask("/echo.Echo/Refuse", http.NoBody)
	if g.body(res); res.Header.Get("Grpc-Status") != "7" {
		t.Errorf("refused: %v %v", res.Header, res.Trailer)
	}
	g.record()

	// A drain waits for streams, and finally ends them.
	pr, pw := io.Pipe()
	defer pw.Close()
	res = ask("/echo.Echo/Stream", pr)
	g.route()
	if err := g.Drain(ctxFor(t, 0), tg.ID, 0); err == nil {
		t.Error("drained with a stream open")
	}
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("a cut stream looks whole")
	}
	res.Body.Close()
	if a := g.record(); a.Code != router.Cut {
		t.Errorf("record %+v", a)
	}
}
