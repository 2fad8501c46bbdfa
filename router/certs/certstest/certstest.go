// Package certstest runs a real ACME server, letsencrypt/pebble, for tests. All
// names that it validates belong to this machine.
package certstest

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// Server is an ACME server on loopback.
type Server struct {
	Directory string            // URL
	Own       *x509.Certificate // that it shows itself
	Root      *x509.Certificate // of those that it gives
	Store     *db.MemoryStore

	Orders  atomic.Int64 // how many certificates were asked for
	Limited atomic.Bool  // further ones are refused, as Let's Encrypt does it

	TXT sync.Map // what the DNS has for a name (with the dot at its end), as []string

	http *httptest.Server
	dns  []*dns.Server
}

// Options configure how a Server validates, and what it issues.
type Options struct {
	HTTPPort, TLSPort int           // where it validates
	Validity          time.Duration // of its certificates, in whole seconds
	Log               io.Writer
}

// Start starts a server. Close ends it.
func Start(o Options) (*Server, error) {
	// Without these it waits, and refuses some requests, to teach clients patience.
	for k, v := range map[string]string{"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"} {
		if err := os.Setenv(k, v); err != nil {
			return nil, err
		}
	}
	s := &Server{Store: db.NewMemoryStore()}
	resolver, err := s.resolve()
	if err != nil {
		return nil, err
	}
	quiet := log.New(o.Log, "pebble ", 0)
	authority := ca.New(quiet, s.Store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: uint64(o.Validity / time.Second)}})
	front := wfe.New(quiet, s.Store, va.New(quiet, o.HTTPPort, o.TLSPort, false, resolver, s.Store), authority, []string{"pebble.test"}, false, false, 0, 0)
	next := front.Handler()
	s.http = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/order-plz") {
			s.Orders.Add(1)
			if s.Limited.Load() {
				w.Header().Set("Content-Type", "application/problem+json")
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(http.StatusTooManyRequests)
				_, _ = io.WriteString(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates already issued","status":429}`)
				return
			}
		}
		if r.URL.Path == wfe.DirectoryPath {
			withoutRenewalInfo(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	s.Directory = s.http.URL + wfe.DirectoryPath
	s.Own, s.Root = s.http.Certificate(), authority.GetRootCert(0).Cert
	return s, nil
}

// withoutRenewalInfo removes RFC 9773 from the directory: pebble's code for it has a
// data race, which would fail the test under the race detector.
func withoutRenewalInfo(w http.ResponseWriter, r *http.Request, next http.Handler) {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	var directory map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &directory); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	delete(directory, "renewalInfo")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(directory) // the client may be gone
}

// Close ends the server.
func (s *Server) Close() {
	s.http.Close()
	for _, d := range s.dns {
		_ = d.Shutdown()
	}
}

// PEM is a certificate in the format of files.
func PEM(c *x509.Certificate) []byte {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a bytes.Buffer takes all
	return b.Bytes()
}

// resolve starts a DNS server.
func (s *Server) resolve() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	pc, err := net.ListenPacket("udp", addr) //nolint:noctx // at once
	if err != nil {
		_ = l.Close()
		return "", err
	}
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		head := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 1}
		switch head.Rrtype {
		case dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: head, A: net.IPv4(127, 0, 0, 1)})
		case dns.TypeTXT:
			texts, _ := s.TXT.Load(strings.ToLower(head.Name))
			all, _ := texts.([]string)
			for _, text := range all {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: head, Txt: []string{text}})
			}
		}
		_ = w.WriteMsg(m)
	})
	for _, d := range []*dns.Server{{PacketConn: pc, Handler: answer}, {Listener: l, Handler: answer}} {
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		go func() { _ = d.ActivateAndServe() }()
		<-started
		s.dns = append(s.dns, d)
	}
	return addr, nil
}
