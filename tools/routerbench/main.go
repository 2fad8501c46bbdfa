// Command routerbench compares the router with nginx: the same app, the same load, in
// turns, in one run. scripts/bench-router runs it; docs/performance.md has its results.
// Each part is a separate process: this binary, started again with the part's name.
package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const host = "blog.bench.test"

func main() {
	log.SetFlags(0)
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "app":
			serveApp()
			return
		case "mesh":
			serveMesh(os.Args[2:])
			return
		}
	}
	rounds := flag.Int("rounds", 5, "how often each is measured")
	span := flag.Duration("span", 2*time.Second, "how long each time")
	only := flag.String("only", "", "the `PART` whose name has this, alone")
	flag.Parse()
	if err := run(*rounds, *span, *only); err != nil {
		log.Fatal(err)
	}
}

// run measures everything and prints the tables.
func run(rounds int, span time.Duration, only string) error {
	dir, err := os.MkdirTemp("", "bench-router-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := makeCertificate(dir); err != nil {
		return err
	}
	app, err := start("", os.Args[0], "app")
	if err != nil {
		return err
	}
	defer app.end()
	nginx, err := startNginx(dir, app.addrs[0])
	if err != nil {
		return err
	}
	defer nginx.end()
	own := func(args ...string) (*proc, error) {
		return start("", os.Args[0], append([]string{"mesh", "-app", app.addrs[0], "-dir", dir}, args...)...)
	}
	mesh, err := own()
	if err != nil {
		return err
	}
	defer mesh.end()

	want := func(name string) bool { return strings.Contains(name, only) }
	fmt.Println("| GET, 1 KiB | connections | nginx req/s | mesh req/s | nginx CPU us | mesh CPU us | CPU ratio | nginx p99 ms | mesh p99 ms | p99 ratio |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for _, c := range []struct {
		name  string
		kind  int
		conns int
	}{
		{"HTTP/1.1", plain, 64},
		{"HTTP/1.1", plain, 256},
		{"TLS, HTTP/1.1", secure, 64},
		{"TLS, HTTP/2", two, 64},
	} {
		if want(c.name) {
			a, b := compare(rounds, span, nginx, mesh, c.kind, c.conns)
			fmt.Printf("| %s | %d | %.0f | %.0f | %.1f | %.1f | %.2f | %.1f | %.1f | %.2f |\n", c.name, c.conns,
				a.rate, b.rate, a.cpu, b.cpu, b.cpu/a.cpu, a.p99, b.p99, b.p99/a.p99)
		}
	}
	if want("log") {
		logged, err := own("-log")
		if err != nil {
			return err
		}
		a, b := compare(rounds, span, mesh, logged, plain, 64)
		fmt.Printf("\nAccess log on, against off: CPU %.1f us, %.1f us: %+.1f %%\n", b.cpu, a.cpu, 100*(b.cpu/a.cpu-1))
		logged.end()
	}
	if want("hosts") {
		many, err := own("-hosts", "10000")
		if err != nil {
			return err
		}
		a, b := compare(rounds, span, mesh, many, plain, 64)
		fmt.Printf("\n10,000 hosts in the table, against 1: CPU %.1f us, %.1f us: %+.1f %%; memory %.0f MiB\n", b.cpu, a.cpu, 100*(b.cpu/a.cpu-1), many.memory())
		many.end()
	}
	if want("GiB") {
		fmt.Println("\n| 1 GiB | nginx s | mesh s | nginx CPU s | mesh CPU s | mesh memory, peak, MiB |")
		fmt.Println("|---|---|---|---|---|---|")
		for _, method := range []string{"GET", "PUT"} {
			var a, b [2][]float64
			for range max(rounds/2, 2) {
				for i, p := range []*proc{nginx, mesh} {
					cpu := p.cpu()
					took, err := transfer(p.addrs[0], method)
					if err != nil {
						return fmt.Errorf("%s: %w", method, err)
					}
					a[i], b[i] = append(a[i], took.Seconds()), append(b[i], (p.cpu()-cpu).Seconds())
				}
			}
			name := map[string]string{"GET": "download", "PUT": "upload"}[method]
			fmt.Printf("| %s | %.2f | %.2f | %.2f | %.2f | %.0f |\n", name, median(a[0]), median(a[1]), median(b[0]), median(b[1]), mesh.peak())
		}
	}
	if want("websockets") {
		const n = 9000 // two sockets each in the router, and most systems allow 20,000 open files
		idle, err := own()
		if err != nil {
			return err
		}
		before := idle.memory()
		held, err := tunnels(idle.addrs[0], n)
		if err != nil {
			return err
		}
		fmt.Printf("\n%d idle WebSockets: %.1f KiB each\n", n, (idle.memory()-before)*1024/n)
		for _, c := range held {
			_ = c.Close()
		}
		idle.end()
	}
	if want("closing") {
		for _, p := range []*proc{nginx, mesh} {
			sent, failed := posts(p.addrs[0], span*2)
			seen := app.seen()
			fmt.Printf("\nPOSTs to an app that closes idle connections at random, %s: %d sent, %d failed, %d delivered twice\n", p.name, sent, failed, max(0, seen-sent))
		}
	}
	return nil
}

// figures are the results of one round.
type figures struct{ rate, cpu, p99 float64 }

// compare measures two processes in turns and returns the medians.
func compare(rounds int, span time.Duration, a, b *proc, kind, conns int) (figures, figures) {
	var all [2][]figures
	for range rounds {
		for i, p := range []*proc{a, b} {
			all[i] = append(all[i], measure(p, span, kind, conns))
		}
	}
	mid := func(f []figures) figures {
		pick := func(of func(figures) float64) float64 {
			var v []float64
			for _, x := range f {
				v = append(v, of(x))
			}
			return median(v)
		}
		return figures{pick(func(x figures) float64 { return x.rate }), pick(func(x figures) float64 { return x.cpu }), pick(func(x figures) float64 { return x.p99 })}
	}
	return mid(all[0]), mid(all[1])
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// Kinds of load.
const (
	plain = iota
	secure
	two
)

func measure(p *proc, span time.Duration, kind, conns int) figures {
	var count atomic.Int64
	var mu sync.Mutex
	var times []float64
	var wg sync.WaitGroup
	warm, until := time.Now().Add(span/4), time.Now().Add(span+span/4)
	var began atomic.Bool
	var cpu time.Duration
	for i := range conns {
		wg.Go(func() {
			ask, done, err := client(p, kind, i)
			if err != nil {
				log.Fatalf("%s: %v", p.name, err)
			}
			defer done()
			var own []float64
			for {
				from := time.Now()
				if from.After(until) {
					break
				}
				if from.After(warm) && began.CompareAndSwap(false, true) {
					cpu = p.cpu()
				}
				if err := ask(); err != nil {
					log.Fatalf("%s: %v", p.name, err)
				}
				if from.After(warm) {
					count.Add(1)
					own = append(own, float64(time.Since(from).Microseconds())/1000)
				}
			}
			mu.Lock()
			times = append(times, own...)
			mu.Unlock()
		})
	}
	wg.Wait()
	cpu = p.cpu() - cpu
	slices.Sort(times)
	n := float64(count.Load())
	return figures{n / span.Seconds(), float64(cpu.Microseconds()) / n, times[len(times)*99/100]}
}

// sharedTwo holds the HTTP/2 connections: eight, as browsers and proxies share them.
var sharedTwo sync.Map

// client returns a function that sends one request.
func client(p *proc, kind, n int) (ask func() error, done func(), err error) {
	if kind == two {
		key := fmt.Sprint(p.addrs[1], n%8)
		v, _ := sharedTwo.LoadOrStore(key, &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: host}, ForceAttemptHTTP2: true,
		}})
		req, err := http.NewRequest(http.MethodGet, "https://"+p.addrs[1]+"/", nil)
		if err != nil {
			return nil, nil, err
		}
		req.Host = host
		return func() error {
			res, err := v.(*http.Client).Do(req)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			if res.StatusCode != http.StatusOK {
				return fmt.Errorf("status %d", res.StatusCode)
			}
			_, err = io.Copy(io.Discard, res.Body)
			return err
		}, func() {}, nil
	}
	var c net.Conn
	if kind == secure {
		c, err = tls.Dial("tcp", p.addrs[1], &tls.Config{InsecureSkipVerify: true, ServerName: host})
	} else {
		c, err = net.Dial("tcp", p.addrs[0])
	}
	if err != nil {
		return nil, nil, err
	}
	req := []byte("GET / HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 16<<10)
	return func() error {
		if _, err := c.Write(req); err != nil {
			return err
		}
		return skip(c, buf)
	}, func() { _ = c.Close() }, nil
}

// skip reads one response with a Content-Length.
func skip(c net.Conn, buf []byte) error {
	have := 0
	for {
		n, err := c.Read(buf[have:])
		if err != nil {
			return err
		}
		have += n
		end := bytes.Index(buf[:have], []byte("\r\n\r\n"))
		if end < 0 {
			continue
		}
		head := buf[:end]
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("answer %q", head)
		}
		i := bytes.Index(bytes.ToLower(head), []byte("content-length: "))
		if i < 0 {
			return fmt.Errorf("no length in %q", head)
		}
		field, _, _ := bytes.Cut(head[i+len("content-length: "):], []byte("\r\n"))
		length, err := strconv.Atoi(string(field))
		if err != nil {
			return err
		}
		for left := end + 4 + length - have; left > 0; {
			n, err := c.Read(buf[:min(left, len(buf))])
			if err != nil {
				return err
			}
			left -= n
		}
		return nil
	}
}

// gib is the size of one transfer.
const gib = 1 << 30

func transfer(addr, method string) (time.Duration, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	from := time.Now()
	length := 0
	if method == "PUT" {
		length = gib
	}
	if _, err := fmt.Fprintf(c, "%s /gib HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", method, host, length); err != nil {
		return 0, err
	}
	chunk := make([]byte, 256<<10)
	for left := length; left > 0; {
		n, err := c.Write(chunk[:min(left, len(chunk))])
		if err != nil {
			return 0, err
		}
		left -= n
	}
	err = skip(c, chunk)
	return time.Since(from), err
}

// posts sends POSTs one after the other on 32 connections, to an app that closes its
// idle connections within 6 ms.
func posts(addr string, span time.Duration) (sent, failed int) {
	var s, f atomic.Int64
	var wg sync.WaitGroup
	until := time.Now().Add(span)
	for range 32 {
		wg.Go(func() {
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			for n := 0; time.Now().Before(until); n++ {
				req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/closing", strings.NewReader("one"))
				if err != nil {
					log.Fatal(err)
				}
				req.Host = host
				s.Add(1)
				res, err := tr.RoundTrip(req)
				if err != nil {
					f.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != http.StatusOK {
					f.Add(1)
				}
				time.Sleep(time.Duration(n%7) * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return int(s.Load()), int(f.Load())
}

// tunnels opens upgraded connections that then stay idle.
func tunnels(addr string, n int) (held []net.Conn, err error) {
	var b [512]byte
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return held, err
		}
		held = append(held, c)
		if _, err := io.WriteString(c, "GET /idle HTTP/1.1\r\nHost: "+host+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"); err != nil {
			return held, err
		}
		for have := 0; !bytes.HasSuffix(b[:have], []byte("\r\n\r\n")); {
			k, err := c.Read(b[have:])
			if err != nil {
				return held, err
			}
			have += k
		}
	}
	return held, nil
}

// proc is a measured process.
type proc struct {
	name  string
	cmd   *exec.Cmd
	addrs []string // plain, TLS
}

// start runs a part, which prints its addresses on one line.
func start(name, path string, args ...string) (*proc, error) {
	p := &proc{name: name, cmd: exec.Command(path, args...)}
	if name == "" {
		p.name = args[0]
	}
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	p.addrs = strings.Fields(line)
	return p, err
}

func (p *proc) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// pids returns the IDs of the process and its children.
func (p *proc) pids() []string {
	all := []string{strconv.Itoa(p.cmd.Process.Pid)}
	kids, _ := os.ReadFile(filepath.Join("/proc", all[0], "task", all[0], "children"))
	return append(all, strings.Fields(string(kids))...)
}

// cpu returns the CPU time of the process and its children, over all threads, in
// nanosecond resolution.
func (p *proc) cpu() time.Duration {
	var sum time.Duration
	for _, pid := range p.pids() {
		tasks, _ := filepath.Glob(filepath.Join("/proc", pid, "task", "*", "schedstat"))
		for _, t := range tasks {
			data, _ := os.ReadFile(t)
			if f := strings.Fields(string(data)); len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64)
				sum += time.Duration(n)
			}
		}
	}
	return sum
}

func (p *proc) status(field string) float64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(data), field+":")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	kb, _ := strconv.ParseFloat(f[0], 64)
	return kb / 1024
}

func (p *proc) memory() float64 { return p.status("VmRSS") }
func (p *proc) peak() float64   { return p.status("VmHWM") }

// seen asks the app how many POSTs it has received since the last call.
func (p *proc) seen() int {
	res, err := http.Get("http://" + p.addrs[0] + "/seen")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	var n int
	_, _ = fmt.Fscan(res.Body, &n)
	return n
}

func freePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startNginx runs Debian's nginx with its own configuration. nginx cannot report its
// port, so it gets two free ones.
func startNginx(dir, app string) (*proc, error) {
	a, b := freePort(), freePort()
	conf := fmt.Sprintf(`
worker_processes auto;
pid %[1]s/nginx.pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  client_max_body_size 0;
  keepalive_requests 1000000000;
  upstream app { server %[2]s; keepalive 512; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%[3]d backlog=4096;
    listen 127.0.0.1:%[4]d ssl http2 backlog=4096;
    ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem;
    server_name %[5]s;
    location / {
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_buffering on; proxy_request_buffering off; proxy_max_temp_file_size 0;
    }
  }
}`, dir, app, a, b, host)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	p := &proc{name: "nginx", cmd: exec.Command("nginx", "-p", dir, "-c", path, "-g", "daemon off; user root;")}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.addrs = []string{fmt.Sprintf("127.0.0.1:%d", a), fmt.Sprintf("127.0.0.1:%d", b)}
	for limit := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", p.addrs[0])
		if err == nil {
			return p, c.Close()
		}
		if time.Now().After(limit) {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func makeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return err
	}
	kder, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder}), 0o600)
}
