package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"mesh"
	"mesh/router"
	"mesh/router/certs"
	"mesh/router/certs/certstest"
)

// world is a router with certificates, and a real ACME server that validates through
// its listeners.
type world struct {
	*certs.Certs
	t       *testing.T
	router  *router.Router
	options certs.Options
	http    string
	https   string
	acme    *certstest.Server
	root    *x509.CertPool // of the certificates that the ACME server gives
}

const perHour = 3

// lateDir is t.TempDir for certificates: certmagic may still be writing one that no test
// waited for, and offers no way to wait for it.
func lateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "certs") //nolint:usetesting // its own cleanup
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		until(t, "nothing to be written any more", func() bool { return os.RemoveAll(dir) == nil })
	})
	return dir
}

// begin starts it, without the named validation method. A certificate lasts as long
// as validity says.
func begin(t *testing.T, validity time.Duration, without string) *world {
	t.Helper()
	w := &world{t: t}
	plain, secure := listen(t), listen(t)
	w.http, w.https = plain.Addr().String(), secure.Addr().String()
	port := func(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

	acme, err := certstest.Start(certstest.Options{HTTPPort: port(plain), TLSPort: port(secure), Validity: validity, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(acme.Close)
	w.acme, w.root = acme, pool(acme.Root)

	w.options = certs.Options{
		Dir: lateDir(t), Directory: acme.Directory, Roots: pool(acme.Own), Email: "ann@example.test", Every: 100 * time.Millisecond,
		PerHour: perHour, Host: "127.0.0.1", HTTPPort: port(plain), TLSPort: port(secure),
		Belongs: func(h string) (mesh.StackName, bool) { return w.router.StackOf(h) },
		Logger:  slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if without == "http-01 and tls-alpn-01" {
		w.options.DNS = &zone{acme: acme}
	}
	w.open()
	o := router.Options{Secure: w.Live, Challenge: w.Challenge, HTTPSPort: port(secure), HSTS: time.Hour, Grace: 100 * time.Millisecond}
	config := w.TLSConfig()
	switch without {
	case "http-01":
		o.Challenge = nil
	case "tls-alpn-01":
		config.NextProtos = []string{"h2", "http/1.1"}
	case "http-01 and tls-alpn-01":
		o.Challenge = nil
		config.NextProtos = []string{"h2", "http/1.1"}
	}
	w.router = router.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	serve := func(fn func(context.Context) error) {
		all.Go(func() {
			if err := fn(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	serve(func(ctx context.Context) error { return w.router.Serve(ctx, plain) })
	serve(func(ctx context.Context) error { return w.router.ServeTLS(ctx, secure, config) })
	serve(w.router.Run)
	serve(w.Run)
	t.Cleanup(func() { cancel(); all.Wait(); w.Close() })
	return w
}

// zone proves by DNS that names belong to it, like a plugin for a DNS provider.
type zone struct {
	acme            *certstest.Server
	proved, cleaned atomic.Int64
}

func (z *zone) Present(_ context.Context, c acme.Challenge) error {
	z.proved.Add(1)
	z.acme.TXT.Store(c.DNS01TXTRecordName()+".", []string{c.DNS01KeyAuthorization()})
	return nil
}

func (z *zone) CleanUp(_ context.Context, c acme.Challenge) error {
	z.cleaned.Add(1)
	z.acme.TXT.Delete(c.DNS01TXTRecordName() + ".")
	return nil
}

func (w *world) open() {
	c, err := certs.Open(w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Certs = c
}

// route leads hosts to an app of the stack.
func (w *world) route(stack mesh.StackName, hosts ...mesh.Host) {
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(rw, "%s by %s over %s", stack, r.Header.Get("X-Forwarded-Proto"), r.Host)
	}))
	w.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	w.router.Switch(mesh.Route{Stack: stack, Hosts: hosts, Targets: []mesh.Target{{ID: string(stack), Addr: netip.MustParseAddrPort(s.Listener.Addr().String())}}})
	w.Want(stack, hosts)
}

// get sends a request over TLS.
func (w *world) get(host string) (body string, leaf *x509.Certificate, err error) {
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: w.root}, ForceAttemptHTTP2: true, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", w.https)
		},
	}
	res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("https://" + host + "/")
	if err != nil {
		return "", nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if res.Header.Get("Strict-Transport-Security") != "max-age=3600" {
		w.t.Errorf("HSTS is %q", res.Header["Strict-Transport-Security"])
	}
	return string(b), res.TLS.PeerCertificates[0], err
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func pool(c *x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c)
	return p
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit, tick := time.After(30*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func TestACME_IssuesOneForEachHost(t *testing.T) {
	w := begin(t, time.Hour, "")
	if err := w.acme.Store.AddBlockedDomain("bad.example.test"); err != nil {
		t.Fatal(err)
	}
	hosts := []mesh.Host{"blog.example.test", "bad.example.test", "www.example.test"}
	w.route("blog", hosts...)
	until(t, "the certificates", func() bool { return w.Live("blog.example.test") && w.Live("www.example.test") })
	for _, host := range []string{"blog.example.test", "www.example.test"} {
		body, leaf, err := w.get(host)
		if err != nil || body != "blog by https over "+host {
			t.Fatalf("%q, %v", body, err)
		}
		if len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != host {
			t.Errorf("the certificate of %s is for %v", host, leaf.DNSNames)
		}
	}
	// One bad name blocks no other, and reports why.
	until(t, "the failure", func() bool { return w.List("blog", hosts)[1].Error != "" })
	list := w.List("blog", hosts)
	if list[0].Source != mesh.CertificateACME || list[0].Expires.IsZero() || !strings.Contains(list[0].Issuer, "Pebble") || list[0].Error != "" {
		t.Errorf("%+v", list[0])
	}
	if bad := list[1]; !bad.Expires.IsZero() || !strings.Contains(bad.Error, "rejectedIdentifier") || bad.ErrorAt.IsZero() {
		t.Errorf("%+v", bad)
	}
	if _, _, err := w.get("bad.example.test"); err == nil {
		t.Error("a host without a certificate is served over TLS")
	}

	// Requests without TLS are now redirected, except for the host without a
	// certificate.
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, c := range []struct {
		method, host string
		status       int
	}{
		{"GET", "blog.example.test", 301}, {"POST", "blog.example.test", 308}, {"GET", "bad.example.test", 200},
	} {
		req, err := http.NewRequest(c.method, "http://"+w.http+"/a%2Fb?c=d", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c.host
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		want := ""
		if c.status != 200 {
			_, port, _ := net.SplitHostPort(w.https)
			want = "https://" + c.host + ":" + port + "/a%2Fb?c=d"
		}
		if res.StatusCode != c.status || res.Header.Get("Location") != want {
			t.Errorf("%s %s: %d to %q", c.method, c.host, res.StatusCode, res.Header.Get("Location"))
		}
	}
}

// Strangers choose the names in their handshakes.
func TestACME_StrangersMakeItAskForNothing(t *testing.T) {
	w := begin(t, time.Hour, "")
	w.route("blog", "blog.example.test", "*.apps.example.test")
	until(t, "the certificate", func() bool { return w.Live("blog.example.test") })
	had := w.acme.Orders.Load()
	for _, host := range []string{"other.example.test", "example.test", "a.blog.example.test", "127.0.0.1"} {
		if _, _, err := w.get(host); err == nil {
			t.Errorf("%s is served", host)
		}
	}
	if n := w.acme.Orders.Load() - had; n != 0 {
		t.Fatalf("%d certificates were asked for", n)
	}
	// Below a wildcard each name gets a certificate at the first request, within
	// limits.
	name := func(n int) string { return fmt.Sprintf("n%d.apps.example.test", n) }
	for n := range 5 {
		_, leaf, err := w.get(name(n))
		if n < perHour && (err != nil || leaf.DNSNames[0] != name(n)) {
			t.Fatalf("name %d: %v", n, err)
		}
		if n >= perHour && err == nil {
			t.Errorf("name %d has got a certificate, too", n)
		}
	}
	// After a restart there is room for further names besides the existing ones.
	again, err := certs.Open(w.options)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", again.TLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = c.(*tls.Conn).Handshake(); c.Close() }()
		}
	}()
	had = w.acme.Orders.Load()
	for n := range perHour {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: w.root, ServerName: name(n)})
		if err != nil {
			t.Fatalf("after a restart: %v", err)
		}
		c.Close()
	}
	if w.acme.Orders.Load() != had {
		t.Error("certificates that are there were asked for again")
	}
	if c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: w.root, ServerName: name(10)}); err != nil {
		t.Errorf("a new name after a restart: %v", err)
	} else {
		c.Close()
	}
}

func TestACME_EitherValidationWillDo(t *testing.T) {
	for _, without := range []string{"http-01", "tls-alpn-01"} {
		t.Run("without "+without, func(t *testing.T) {
			w := begin(t, time.Hour, without)
			w.route("blog", "blog.example.test")
			until(t, "the certificate", func() bool { return w.Live("blog.example.test") })
		})
	}
}

// If neither port can be reached, a plugin for the DNS provider works.
func TestACME_ByDNS(t *testing.T) {
	w := begin(t, time.Hour, "http-01 and tls-alpn-01")
	w.route("blog", "blog.example.test", "www.example.test")
	for _, host := range []string{"blog.example.test", "www.example.test"} {
		until(t, "the certificate of "+host, func() bool { return w.Live(host) })
		if body, _, err := w.get(host); err != nil || body != "blog by https over "+host {
			t.Errorf("%s: %q, %v", host, body, err)
		}
	}
	z := w.options.DNS.(*zone)
	if proved, cleaned := z.proved.Load(), z.cleaned.Load(); proved != 2 || cleaned != 2 {
		t.Errorf("%d records were made, and %d removed", proved, cleaned)
	}
}

func TestACME_Renews(t *testing.T) {
	t.Parallel()
	w := begin(t, 20*time.Second, "") // a third of which is for the renewal
	w.route("blog", "blog.example.test")
	var first *x509.Certificate
	until(t, "the first certificate", func() bool {
		_, leaf, err := w.get("blog.example.test")
		first = leaf
		return err == nil
	})
	until(t, "another one", func() bool {
		_, leaf, err := w.get("blog.example.test")
		return err == nil && leaf.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	if !time.Now().Before(first.NotAfter) {
		t.Error("it came after the end of the first")
	}
}

func TestACME_RateLimitIsNotHammered(t *testing.T) {
	w := begin(t, time.Hour, "")
	w.acme.Limited.Store(true)
	w.route("blog", "blog.example.test", "*.apps.example.test")
	hosts := []mesh.Host{"blog.example.test"}
	until(t, "the refusal", func() bool { return strings.Contains(w.List("blog", hosts)[0].Error, "rateLimited") })
	_, _, _ = w.get("a.apps.example.test")
	had := w.acme.Orders.Load()
	for range 50 { // neither handshakes nor further changes of the route make it ask again
		for _, host := range []string{"blog.example.test", "a.apps.example.test"} {
			if _, _, err := w.get(host); err == nil {
				t.Fatal("there is a certificate")
			}
		}
		w.route("blog", "blog.example.test", "*.apps.example.test")
	}
	if n := w.acme.Orders.Load() - had; n > 1 {
		t.Errorf("%d orders more", n)
	}
}

// A certificate is still there after a restart, without another order.
func TestACME_KeepsWhatItHas(t *testing.T) {
	w := begin(t, time.Hour, "")
	w.route("blog", "blog.example.test")
	until(t, "the certificate", func() bool { return w.Live("blog.example.test") })
	had := w.acme.Orders.Load()
	again, err := certs.Open(w.options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = again.Run(ctx) })
	again.Want("blog", []mesh.Host{"blog.example.test"})
	until(t, "the certificate after a restart", func() bool { return again.Live("blog.example.test") })
	cancel()
	run.Wait()
	again.Close()
	if w.acme.Orders.Load() != had {
		t.Error("it was asked for once more")
	}
}

func TestTLS_AnotherStacksHostIsMisdirected(t *testing.T) {
	w := begin(t, time.Hour, "")
	w.route("blog", "blog.example.test", "www.example.test")
	w.route("shop", "shop.example.test")
	until(t, "the certificates", func() bool { return w.Live("blog.example.test") })
	for host, want := range map[string]string{"www.example.test": "200", "shop.example.test": "421", "blog.example.test": "200", "nobody.test": "404"} {
		c, err := tls.Dial("tcp", w.https, &tls.Config{RootCAs: w.root, ServerName: "blog.example.test", NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
		b, _ := io.ReadAll(c)
		c.Close()
		if !strings.HasPrefix(string(b), "HTTP/1.1 "+want) {
			t.Errorf("%s over a connection for blog: %.40q", host, b)
		}
	}
}
