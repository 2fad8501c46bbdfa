package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"mesh"
	"mesh/logs"
	"mesh/router"
)

// serveMesh runs the router as mesh does, with one stack.
func serveMesh(args []string) {
	fs := flag.NewFlagSet("mesh", flag.ExitOnError)
	app := fs.String("app", "", "its address")
	dir := fs.String("dir", "", "where the certificate is")
	withLog := fs.Bool("log", false, "write the access log")
	hosts := fs.Int("hosts", 1, "how many there are")
	_ = fs.Parse(args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	j, err := logs.Open(filepath.Join(*dir, "log"), logs.Options{})
	if err != nil {
		log.Fatal(err)
	}
	j.Keep("blog")
	o := router.Options{Grace: time.Second}
	if *withLog {
		o.Access = func(a *router.AccessRecord) {
			j.AddRequest(a.Stack, a.Time, "web.1", a.AppendLine)
		}
	}
	r := router.New(o)
	target := mesh.Target{ID: "app", Name: mesh.InstanceName{Service: mesh.Web, Slot: 1}, Addr: netip.MustParseAddrPort(*app)}
	for i := range *hosts - 1 {
		name := mesh.StackName("s" + strconv.Itoa(i))
		r.Switch(mesh.Route{Stack: name, Hosts: []mesh.Host{mesh.Host(name) + ".bench.test"}, Targets: []mesh.Target{target}})
	}
	r.Switch(mesh.Route{Stack: "blog", Hosts: []mesh.Host{host}, Targets: []mesh.Target{target}})
	cert, err := tls.LoadX509KeyPair(filepath.Join(*dir, "cert.pem"), filepath.Join(*dir, "key.pem"))
	if err != nil {
		log.Fatal(err)
	}
	a, b := listen(), listen()
	fmt.Println(a.Addr(), b.Addr())
	var all sync.WaitGroup
	all.Go(func() { _ = r.Run(ctx) })
	all.Go(func() { _ = j.Run(ctx) })
	all.Go(func() { _ = r.ServeTLS(ctx, b, &tls.Config{Certificates: []tls.Certificate{cert}}) })
	_ = r.Serve(ctx, a)
	all.Wait()
}

func listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return l
}

// serveApp answers with as little work as possible: any time it uses is missing for the
// proxies.
func serveApp() {
	l := listen()
	fmt.Println(l.Addr())
	var posts atomic.Int64
	small := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n"), bytes.Repeat([]byte("x"), 1024)...)
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			r := bufio.NewReaderSize(c, 4096)
			var chunk []byte
			for {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if req.URL.Path == "/gib" && chunk == nil {
					chunk = make([]byte, 256<<10)
				}
				switch req.URL.Path {
				case "/gib":
					if req.Method == http.MethodPut {
						n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, req.Body, chunk)
						if err != nil || n != gib {
							return
						}
						if _, err := c.Write(small); err != nil {
							return
						}
						continue
					}
					if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", gib); err != nil {
						return
					}
					for left := gib; left > 0; left -= len(chunk) {
						if _, err := c.Write(chunk); err != nil {
							return
						}
					}
				case "/idle":
					_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
					_, _ = r.ReadByte()
					return
				case "/seen":
					_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%d", posts.Swap(0))
					return
				case "/closing":
					if _, err := io.Copy(io.Discard, req.Body); err != nil {
						return
					}
					posts.Add(1)
					if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
						return
					}
					_ = c.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(6000)) * time.Microsecond))
				default:
					if _, err := c.Write(small); err != nil {
						return
					}
				}
			}
		}()
	}
}
