package router_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mesh"
	"mesh/router"
)

// The app has its own process; the client runs in that of the proxy. So the CPU time
// of "direct" is the client's share of each row.
func BenchmarkRouter(b *testing.B) {
	backend := benchApp(b)
	quiet := slog.New(slog.DiscardHandler)
	g := start(b, router.Options{Logger: quiet, Access: func(*router.AccessRecord) {}})
	g.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: []mesh.Target{backend}})

	rp := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = "http", backend.Addr.String()
			pr.SetXForwarded()
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true},
		BufferPool: &pool{},
	}
	l := listen(b)
	s := &http.Server{Handler: rp}
	go func() { _ = s.Serve(l) }()
	b.Cleanup(func() { s.Close() })

	for _, kind := range []struct{ name, req string }{
		{"get", "GET / HTTP/1.1\r\nHost: blog.test\r\nUser-Agent: bench\r\nAccept: text/html,*/*;q=0.8\r\nCookie: session=8f14e45fceea167a5a36dedd4bea2543\r\n\r\n"},
		{"post", "POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 10\r\n\r\n0123456789"},
		{"mib", "GET /1048576 HTTP/1.1\r\nHost: blog.test\r\n\r\n"},
	} {
		for _, to := range []struct{ name, addr string }{{"direct", backend.Addr.String()}, {"mesh", g.addr}, {"reverseproxy", l.Addr().String()}} {
			b.Run(kind.name+"/"+to.name, func(b *testing.B) { drive(b, to.addr, kind.req) })
		}
	}
}

// The same request with access rules, and without.
func BenchmarkRouter_Access(b *testing.B) {
	backend := benchApp(b)
	g := start(b, router.Options{Logger: slog.New(slog.DiscardHandler), Access: func(*router.AccessRecord) {}})
	local := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, rules := range []struct {
		name string
		mesh.AccessRules
	}{
		{"off", mesh.AccessRules{}},
		{"addresses", mesh.AccessRules{Allow: local}},
		{"limit", mesh.AccessRules{Limit: mesh.Rate{Requests: 999_999, Per: time.Second, PerClient: true}}},
		{"password", mesh.AccessRules{Users: []mesh.AccessUser{userWith(b, "me", "pass")}}},
		{"all", mesh.AccessRules{Users: []mesh.AccessUser{userWith(b, "me", "pass")}, Allow: local, Except: []string{"/health"}, Limit: mesh.Rate{Requests: 999_999, Per: time.Second, PerClient: true}}},
	} {
		b.Run(rules.name, func(b *testing.B) {
			g.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{"blog.test"}, Targets: []mesh.Target{backend}, Access: rules.AccessRules})
			drive(b, g.addr, "GET / HTTP/1.1\r\nHost: blog.test\r\nUser-Agent: bench\r\nAuthorization: "+basicAuth("me", "pass")+"\r\n\r\n")
		})
	}
}

// drive sends req repeatedly over 16 connections.
func drive(b *testing.B, addr, req string) {
	b.ReportAllocs()
	b.SetParallelism(8)
	before := cpu()
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		buf := make([]byte, 64<<10)
		msg := []byte(req)
		for pb.Next() {
			if _, err := c.Write(msg); err != nil {
				b.Error(err)
				return
			}
			if err := skipAnswer(c, buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(cpu()-before)/float64(b.N)/1e3, "cpu-us/op")
}

// skipAnswer reads one answer that has a Content-Length, at little cost.
func skipAnswer(c net.Conn, buf []byte) error {
	n := 0
	for {
		m, err := c.Read(buf[n:])
		if err != nil {
			return err
		}
		n += m
		end := bytes.Index(buf[:n], []byte("\r\n\r\n"))
		if end < 0 {
			continue
		}
		_, v, _ := bytes.Cut(buf[:end+2], []byte("Content-Length: "))
		v, _, _ = bytes.Cut(v, []byte("\r"))
		length, err := strconv.Atoi(string(v))
		if err != nil {
			return fmt.Errorf("answer %q", buf[:end])
		}
		for left := length - (n - end - 4); left > 0; left -= m {
			if m, err = c.Read(buf); err != nil {
				return err
			}
		}
		return nil
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type pool struct{ p sync.Pool }

func (p *pool) Get() []byte {
	if b, ok := p.p.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}
func (p *pool) Put(b []byte) { p.p.Put(&b) }

// benchApp starts this test binary again, as an app.
func benchApp(b *testing.B) mesh.Target {
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "MESH_BENCH_APP=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return mesh.Target{ID: "bench", Addr: netip.MustParseAddrPort(strings.TrimSpace(addr))}
}

// serveBench is the app: a KiB, or a MiB for a longer path.
func serveBench() {
	small, large := bytes.Repeat([]byte("x"), 1024), make([]byte, 1<<20)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	panic(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := small
		if len(r.URL.Path) > 1 {
			body = large
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
		_, _ = w.Write(body)
	})))
}

func BenchmarkRouter_Lookup(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		r := router.New(router.Options{})
		hosts := make([]string, n)
		for i := range n {
			hosts[i] = fmt.Sprintf("app-%d.example.test", i)
			r.Switch(mesh.Route{Stack: mesh.StackName(fmt.Sprintf("app-%d", i)), Hosts: []mesh.Host{mesh.Host(hosts[i])}})
		}
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if !r.Lookup(hosts[i]) {
					b.Fatal(hosts[i])
				}
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}

// Switch of one stack among 10,000: only its targets, and with a new host.
func BenchmarkRouter_Switch(b *testing.B) {
	r := router.New(router.Options{})
	for i := range 10_000 {
		r.Switch(mesh.Route{Stack: mesh.StackName(fmt.Sprintf("app-%d", i)), Hosts: []mesh.Host{mesh.Host(fmt.Sprintf("app-%d.example.test", i))}})
	}
	for _, hosts := range [][]mesh.Host{{"app-7.example.test"}, {"app-7.example.test", "extra.example.test"}} {
		b.Run(fmt.Sprint(len(hosts), "-hosts"), func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				tg := mesh.Target{ID: strconv.Itoa(i), Addr: netip.MustParseAddrPort("127.0.0.1:1")}
				r.Switch(mesh.Route{Stack: "app-7", Hosts: hosts[:1+i%len(hosts)], Targets: []mesh.Target{tg}})
				_ = r.Drain(context.Background(), strconv.Itoa(i-1), time.Minute)
			}
		})
	}
}
