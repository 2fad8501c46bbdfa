package egress

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// Proxy is an HTTP proxy on the loopback address for a program that fetches on a
// tenant's behalf, such as git: it only reaches what the policy allows, whatever
// names resolve to and wherever it is redirected. The URL contains a password. stop
// ends the proxy with all its connections, and waits for them.
func (p *Policy) Proxy(ctx context.Context) (at *url.URL, stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	h := &proxy{policy: p, ctx: ctx, password: rand.Text()}
	h.plain = &httputil.ReverseProxy{
		Rewrite:      func(*httputil.ProxyRequest) {}, // a proxy's request has the whole URL
		Transport:    &http.Transport{DialContext: p.Dial, DisableKeepAlives: true, ResponseHeaderTimeout: time.Minute},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { refuse(w, err) },
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	return &url.URL{Scheme: "http", User: url.UserPassword(user, h.password), Host: l.Addr().String()}, func() {
		cancel()
		_ = s.Close()
		serving.Wait()
		h.end()
	}, nil
}

const user = "mesh"

type proxy struct {
	policy   *Policy
	ctx      context.Context // tunnels end with it
	password string
	plain    *httputil.ReverseProxy

	mu    sync.Mutex
	ended bool
	open  sync.WaitGroup // requests and tunnels
}

// begin counts a request; false: the proxy has ended.
func (h *proxy) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.open.Add(1)
	}
	return !h.ended
}

func (h *proxy) end() {
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	h.open.Wait()
}

// ServeHTTP handles CONNECT for TLS (RFC 9110, section 9.3.6), and is a plain proxy
// for everything else.
func (h *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.begin() {
		refuse(w, errors.New("this proxy has ended"))
		return
	}
	defer h.open.Done()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+h.password))
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Proxy-Authorization")), []byte(want)) != 1 {
		w.Header().Set("Proxy-Authenticate", `Basic realm="mesh"`)
		http.Error(w, "this proxy is for mesh only", http.StatusProxyAuthRequired)
		return
	}
	r.Header.Del("Proxy-Authorization")
	switch {
	case r.Method == http.MethodConnect:
		h.tunnel(w, r)
	case r.URL.Scheme != "http" || r.URL.Host == "":
		http.Error(w, "this proxy only supports http:// and CONNECT", http.StatusBadRequest)
	default:
		h.plain.ServeHTTP(w, r)
	}
}

func refuse(w http.ResponseWriter, err error) {
	http.Error(w, err.Error(), http.StatusForbidden)
}

func (h *proxy) tunnel(w http.ResponseWriter, r *http.Request) {
	to, err := h.policy.Dial(h.ctx, "tcp", r.Host)
	if err != nil {
		refuse(w, err)
		return
	}
	from, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = to.Close()
		refuse(w, errors.New("this connection cannot become a tunnel"))
		return
	}
	_, _ = io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n")
	end := context.AfterFunc(h.ctx, func() { _ = from.Close(); _ = to.Close() })
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{to, from}, {from, to}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			if c, ok := way[0].(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
			}
		})
	}
	both.Wait()
	end()
	_ = from.Close()
	_ = to.Close()
}
