// Package certs manages the certificates of stacks' hosts: those that it obtains by
// ACME (RFC 8555) and renews, and those that people upload.
//
//	c, err := certs.Open(certs.Options{Dir: dir, Belongs: router.StackOf, …})
//	go c.Run(ctx)                     // requests missing certificates, and renews
//	c.Want("blog", []mesh.Host{"blog.example.com"})
//	tls.NewListener(l, c.TLSConfig())
//
// Each host gets its own certificate, so that a name that cannot be validated blocks
// no other. A handshake triggers a request only for a host below a stack's wildcard,
// and only up to a limit: strangers choose those names. Two processes can share the
// files below Dir, as during an upgrade.
//
// The router decides which hosts exist; it also answers the HTTP requests of a
// validation with what Challenge writes.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"go.uber.org/zap"

	"mesh"
)

// Options are the settings of Certs. Dir and Belongs are required.
type Options struct {
	Dir    string       // for all files
	Logger *slog.Logger // nil: nothing is logged
	// Belongs returns the stack of a host, by its own name or a wildcard.
	Belongs func(host string) (mesh.StackName, bool)

	Directory string         // URL of the ACME server's directory; empty: no ACME
	Email     string         // for the ACME account; may be empty
	Roots     *x509.CertPool // verify the ACME server's own certificate; nil: the system's
	DNS       acmez.Solver   // for DNS-01, instead of HTTP-01 and TLS-ALPN-01; nil: those
	Host      string         // address that Serve listens on, for HTTP-01 and TLS-ALPN-01; empty: all
	HTTPPort  int            // port of HTTP-01; 0: 80
	TLSPort   int            // port of TLS-ALPN-01; 0: 443

	PerHour int              // names below wildcards that handshakes may request; 0: 20
	Every   time.Duration    // between checks for certificates to renew; 0: 10 min
	Now     func() time.Time // nil: time.Now
}

// Certs holds certificates. It may be used from several goroutines.
type Certs struct {
	Options
	cache   *certmagic.Cache
	managed *certmagic.Config // for hosts with their own name
	onsight *certmagic.Config // for hosts below a wildcard
	issuer  *certmagic.ACMEIssuer
	wake    chan struct{}

	mu       sync.Mutex
	wanted   map[mesh.StackName][]string
	asked    map[string]bool // already managed
	failed   map[string]failure
	waiting  map[string]chan struct{} // closed when an attempt for a name below a wildcard fails
	times    []time.Time              // of new names below wildcards
	uploaded map[mesh.StackName][]*upload
}

type failure struct {
	err string
	at  time.Time
	n   int // in a row
}

// Open reads the uploaded certificates. Those from ACME are read when needed. Close
// ends its background work.
func Open(o Options) (*Certs, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.PerHour == 0 {
		o.PerHour = 20
	}
	if o.Every == 0 {
		o.Every = 10 * time.Minute
	}
	c := &Certs{
		Options: o, wake: make(chan struct{}, 1), wanted: map[mesh.StackName][]string{},
		asked: map[string]bool{}, failed: map[string]failure{}, waiting: map[string]chan struct{}{}, uploaded: map[mesh.StackName][]*upload{},
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the certificates: %w", err)
	}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("open the certificates: %w", err)
	}
	silent := zap.NewNop() // its events are logged in our own words
	c.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(cert certmagic.Certificate) (*certmagic.Config, error) {
			for _, name := range cert.Names {
				if c.isWanted(name) {
					return c.managed, nil
				}
			}
			return c.onsight, nil
		},
		RenewCheckInterval: o.Every, Logger: silent,
	})
	config := func(onDemand *certmagic.OnDemandConfig) *certmagic.Config {
		cfg := certmagic.New(c.cache, certmagic.Config{
			Storage: &certmagic.FileStorage{Path: filepath.Join(o.Dir, "acme")}, OnDemand: onDemand, OnEvent: c.event, Logger: silent,
		})
		issuer := certmagic.NewACMEIssuer(cfg, certmagic.ACMEIssuer{
			CA: o.Directory, Email: o.Email, Agreed: true, TrustedRoots: o.Roots, Logger: silent,
			ListenHost: o.Host, AltHTTPPort: o.HTTPPort, AltTLSALPNPort: o.TLSPort, DNS01Solver: o.DNS,
		})
		cfg.Issuers = []certmagic.Issuer{issuer}
		c.issuer = issuer
		return cfg
	}
	c.onsight = config(&certmagic.OnDemandConfig{DecisionFunc: c.allow})
	c.managed = config(nil)
	return c, nil
}

// Close ends the background work. Run must have ended.
func (c *Certs) Close() { c.cache.Stop() }

// Run requests the certificates that are wanted and missing until ctx ends. It
// returns ctx's error.
func (c *Certs) Run(ctx context.Context) error {
	for {
		c.manage(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.wake:
		}
	}
}

// manage updates the managed hosts to the wanted ones.
func (c *Certs) manage(ctx context.Context) {
	if c.Directory == "" {
		return
	}
	c.mu.Lock()
	wanted := map[string]bool{}
	var fresh, gone []string
	for _, hosts := range c.wanted {
		for _, h := range hosts {
			if wanted[h] = true; !c.asked[h] {
				c.asked[h] = true
				fresh = append(fresh, h)
			}
		}
	}
	for h := range c.asked {
		if !wanted[h] {
			delete(c.asked, h)
			delete(c.failed, h)
			gone = append(gone, h)
		}
	}
	c.mu.Unlock()
	var subjects []certmagic.SubjectIssuer
	for _, h := range gone {
		subjects = append(subjects, certmagic.SubjectIssuer{Subject: h})
	}
	c.cache.RemoveManaged(subjects)
	if err := c.managed.ManageAsync(ctx, fresh); err != nil && ctx.Err() == nil {
		c.Logger.Warn("cannot manage certificates", "err", err)
	}
}

// Want sets all hosts of a stack; none drops the stack and removes its uploads. It
// does not wait.
func (c *Certs) Want(stack mesh.StackName, hosts []mesh.Host) {
	var names []string
	for _, h := range hosts {
		if name := string(h); !strings.HasPrefix(name, "*") && c.qualifies(name) {
			names = append(names, name)
		}
	}
	c.mu.Lock()
	if slices.Equal(c.wanted[stack], names) {
		c.mu.Unlock()
		return
	}
	c.wanted[stack] = names
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// qualifies reports whether an ACME server may issue a certificate for the name: a
// server with its own root decides itself, a public one issues none for localhost.
func (c *Certs) qualifies(name string) bool {
	if c.Directory == "" {
		return false
	}
	if c.Roots == nil {
		return certmagic.SubjectQualifiesForPublicCert(name)
	}
	return certmagic.SubjectQualifiesForCert(name)
}

func (c *Certs) isWanted(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[name]
}

// allow decides whether a handshake may trigger a request for a certificate, or read
// an earlier one.
func (c *Certs) allow(ctx context.Context, name string) error {
	if _, ok := c.Belongs(name); !ok || !c.qualifies(name) {
		return errors.New("the host belongs to no stack")
	}
	stored := c.onsight.Storage.Exists(ctx, certmagic.StorageKeys.SiteCert(c.issuer.IssuerKey(), name))
	c.mu.Lock()
	defer c.mu.Unlock()
	if stored {
		return nil
	}
	if c.asked[name] {
		return errors.New("its certificate is being obtained")
	}
	now := c.Now()
	if c.hasFailed(name, now) {
		return errFailed
	}
	c.times = slices.DeleteFunc(c.times, func(t time.Time) bool { return now.Sub(t) > time.Hour })
	if len(c.times) >= c.PerHour {
		return errors.New("too many new names below wildcards")
	}
	c.times = append(c.times, now)
	return nil
}

var errFailed = errors.New("the last attempt failed a short time ago")

func (c *Certs) hasFailed(name string, now time.Time) bool {
	f := c.failed[name]
	return f.n > 0 && now.Sub(f.at) < backoff(f.n)
}

// backoff is how long a name that failed n times in a row has to wait: from a minute
// to a day.
func backoff(n int) time.Duration {
	return min(time.Minute<<min(2*(n-1), 20), 24*time.Hour)
}

// event records the events of certmagic.
func (c *Certs) event(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	switch event {
	case "cert_obtained":
		c.mu.Lock()
		delete(c.failed, name)
		c.mu.Unlock()
		c.Logger.Info("certificate obtained", "host", name, "renewal", data["renewal"])
	case "cert_failed":
		err, _ := data["error"].(error)
		if err == nil {
			err = errors.New("unknown")
		}
		c.mu.Lock()
		f := c.failed[name]
		c.failed[name] = failure{err: shorten(err), at: c.Now(), n: f.n + 1}
		if ch := c.waiting[name]; ch != nil {
			close(ch)
			delete(c.waiting, name)
		}
		c.mu.Unlock()
		c.Logger.Warn("cannot obtain a certificate", "host", name, "err", err)
	}
	return nil
}

// shorten reduces an ACME error to the reason.
func shorten(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, "urn:ietf:params:acme:error:"); i >= 0 {
		s = s[i+len("urn:ietf:params:acme:error:"):]
	}
	s, _, _ = strings.Cut(s, "\n")
	return mesh.Clip(strings.TrimSpace(s), 200)
}

// TLSConfig is for the listener: TLS 1.2 and later, HTTP/2, and TLS-ALPN-01.
func (c *Certs) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: c.certificate,
		NextProtos: []string{"h2", "http/1.1", acmez.ACMETLS1Protocol},
	}
}

// certificate finds the certificate for a handshake: an uploaded one first.
func (c *Certs) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if slices.Equal(hello.SupportedProtos, []string{acmez.ACMETLS1Protocol}) {
		return c.managed.GetCertificate(hello)
	}
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	stack, ok := c.Belongs(name)
	if !ok {
		return nil, errors.New("the host belongs to no stack")
	}
	u := c.upload(stack, name)
	if u != nil && c.Now().Before(u.cert.Leaf.NotAfter) {
		return u.cert, nil
	}
	cert, err := c.acme(name, hello)
	if err != nil && u != nil {
		return u.cert, nil // an expired one tells people more than none
	}
	return cert, err
}

// acme finds the certificate from ACME for a host, or requests one.
func (c *Certs) acme(name string, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.Directory == "" {
		return nil, errors.New("the host has no certificate")
	}
	if c.isWanted(name) {
		return c.managed.GetCertificate(hello)
	}
	if len(c.cache.AllMatchingCertificates(name)) > 0 {
		return c.onsight.GetCertificate(hello)
	}
	return c.first(name, hello)
}

// first requests a certificate while the handshake waits for it, but no longer than
// the first attempt takes: certmagic keeps trying for minutes.
func (c *Certs) first(name string, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	if c.hasFailed(name, c.Now()) {
		c.mu.Unlock()
		return nil, errFailed
	}
	failed := c.waiting[name]
	if failed == nil {
		failed = make(chan struct{})
		c.waiting[name] = failed
	}
	c.mu.Unlock()
	type result struct {
		cert *tls.Certificate
		err  error
	}
	got := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if v := recover(); v != nil { // no handshake ends the server
				r.err = fmt.Errorf("panic: %v", v)
				c.Logger.Error("panic in a handshake", "host", name, "err", r.err, "stack_trace", string(debug.Stack()))
			}
			got <- r
		}()
		r.cert, r.err = c.onsight.GetCertificate(hello)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.waiting[name] == failed {
			delete(c.waiting, name)
		}
	}()
	select {
	case r := <-got:
		return r.cert, r.err
	case <-failed:
		return nil, errFailed
	case <-hello.Context().Done():
		return nil, hello.Context().Err()
	}
}

// Challenge answers an HTTP-01 request, and reports whether it was one of ours.
func (c *Certs) Challenge(w http.ResponseWriter, r *http.Request) bool {
	return c.Directory != "" && c.issuer.HandleHTTPChallenge(w, r)
}

// Live reports whether a host can be served with a certificate that is valid now.
func (c *Certs) Live(host string) bool {
	stack, _ := c.Belongs(host)
	leaf, _ := c.leaf(stack, host)
	return leaf != nil && c.Now().Before(leaf.NotAfter)
}

// leaf returns the certificate that a host of a stack is served with, and whether it
// was uploaded.
func (c *Certs) leaf(stack mesh.StackName, host string) (_ *x509.Certificate, uploaded bool) {
	u := c.upload(stack, host)
	if u != nil && c.Now().Before(u.cert.Leaf.NotAfter) {
		return u.cert.Leaf, true
	}
	var best *x509.Certificate
	for _, cert := range c.cache.AllMatchingCertificates(host) {
		if best == nil || cert.Leaf.NotAfter.After(best.NotAfter) {
			best = cert.Leaf
		}
	}
	if best == nil && u != nil {
		return u.cert.Leaf, true
	}
	return best, false
}

// List returns the certificates of a stack's hosts, in the order of the hosts.
func (c *Certs) List(stack mesh.StackName, hosts []mesh.Host) []mesh.Certificate {
	var all []mesh.Certificate
	for _, h := range hosts {
		m := mesh.Certificate{Host: h}
		leaf, uploaded := c.leaf(stack, string(h))
		if leaf != nil {
			m.Source, m.Issued, m.Expires, m.Issuer = mesh.CertificateACME, leaf.NotBefore, leaf.NotAfter, leaf.Issuer.String()
			if uploaded {
				m.Source = mesh.CertificateUploaded
			}
		}
		c.mu.Lock()
		if f, ok := c.failed[string(h)]; ok && !uploaded {
			m.Error, m.ErrorAt = f.err, f.at
		}
		if leaf == nil && c.asked[string(h)] {
			m.Source = mesh.CertificateACME
		}
		c.mu.Unlock()
		all = append(all, m)
	}
	return all
}
