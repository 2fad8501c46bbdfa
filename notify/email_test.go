package notify_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"mime"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/notify"
)

// identity is the certificate of mail.example.com, which this process trusts.
var identity tls.Certificate

// TestMain makes the certificate the only one that the system trusts, before anything has
// read the system's.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "notify")
	if err == nil {
		err = trust(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func trust(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"mail.example.com"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return err
	}
	identity = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	os.Setenv("SSL_CERT_DIR", dir)
	return os.Setenv("SSL_CERT_FILE", file)
}

// post is a mail server: as much of RFC 5321 as a client needs that sends a message, with
// PLAIN of RFC 4954, and TLS if it has it.
type post struct {
	addr     string
	mails    chan string // envelope and message
	refuse   string      // its answer to RCPT instead of 250
	password string      // wanted; empty: none
	implicit bool        // TLS from the start
	starttls bool        // offers TLS
}

func newPost(t *testing.T, p *post) *post {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p.addr, p.mails = l.Addr().String(), make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *post) serve(c net.Conn) {
	defer c.Close()
	if p.implicit {
		c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{identity}})
	}
	in := bufio.NewScanner(c)
	say := func(s string) { fmt.Fprintf(c, "%s\r\n", s) }
	say("220 mail.test ESMTP")
	var envelope strings.Builder
	for in.Scan() {
		line := in.Text()
		switch word, rest, _ := strings.Cut(line, " "); strings.ToUpper(word) {
		case "EHLO":
			say("250-mail.test")
			if p.starttls {
				say("250-STARTTLS")
			}
			say("250 AUTH PLAIN")
		case "STARTTLS":
			say("220 go on")
			c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{identity}})
			in = bufio.NewScanner(c)
		case "AUTH":
			if _, secure := c.(*tls.Conn); (p.implicit || p.starttls) && !secure {
				say("530 5.7.0 TLS first")
				continue
			}
			_, token, _ := strings.Cut(rest, " ")
			plain, _ := base64.StdEncoding.DecodeString(token)
			if p.password == "" || !strings.HasSuffix(string(plain), "\x00"+p.password) {
				say("535 5.7.8 wrong password " + string(plain[strings.LastIndexByte(string(plain), 0)+1:]))
				continue
			}
			say("235 ok")
		case "RCPT":
			if p.refuse != "" {
				say(p.refuse)
				continue
			}
			fmt.Fprintln(&envelope, line)
			say("250 ok")
		case "DATA":
			say("354 go on")
			for in.Scan() && in.Text() != "." {
				fmt.Fprintln(&envelope, in.Text())
			}
			p.mails <- envelope.String()
			say("250 ok")
		case "QUIT":
			say("221 bye")
			return
		default:
			fmt.Fprintln(&envelope, line)
			say("250 ok")
		}
	}
}

func mailTo(p *post, user string) mesh.Recipient {
	return mesh.Recipient{Name: "mail", Service: notify.Email, URL: mesh.NewSecret("smtp://" + user + p.addr + "/?from=mesh@example.com&to=ann@example.com,bob@example.com")}
}

func TestEmail(t *testing.T) {
	t.Parallel()
	p := newPost(t, &post{password: planted})
	w := newWorld(t, nil, mailTo(p, "mesh:"+planted+"@"))
	w.run(t)
	w.add("mail", mesh.NoticeRecovered, "web.1 crashed\r\nBcc: eve@example.com")
	until(t, "no mail: "+w.Delivery("mail").Failure, func() bool { return len(p.mails) > 0 })
	raw := <-p.mails
	_, text, _ := strings.Cut(raw, "RCPT TO:<bob@example.com>\n")
	m, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v:\n%s", err, raw)
	}
	subject, _ := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if subject != "RECOVERED shop: web.1 is up again" || m.Header.Get("Auto-Submitted") != "auto-generated" || m.Header.Get("Bcc") != "" {
		t.Errorf("subject %q, header %v", subject, m.Header)
	}
	for _, want := range []string{"RCPT TO:<ann@example.com>", "RCPT TO:<bob@example.com>", "It lasted 7m"} {
		if !strings.Contains(raw, want) {
			t.Errorf("no %q in:\n%s", want, raw)
		}
	}
	if strings.Contains(raw, planted) {
		t.Error("the message contains the password")
	}
	until(t, "not delivered", func() bool { return w.waiting() == 0 })
}

func TestEmail_Faults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		p    *post
		user string
		want string
	}{
		{"wrong password", &post{password: "right"}, "mesh:" + planted + "@", "535"},
		{"refused for good", &post{refuse: "550 5.1.1 no such user"}, "", `550 "5.1.1 no such user"`},
		{"refused for now", &post{refuse: "451 4.7.1 try later"}, "", `451 "4.7.1 try later"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := mailTo(newPost(t, c.p), c.user)
			err := newWorld(t, nil, r).Test(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), planted) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestEmail_SendsNoPasswordWithoutTLS to another machine.
func TestEmail_SendsNoPasswordWithoutTLS(t *testing.T) {
	t.Parallel()
	p := newPost(t, &post{password: planted})
	r := mesh.Recipient{Name: "mail", Service: notify.Email, Fenced: true, URL: mesh.NewSecret("smtp://mesh:" + planted + "@mail.example.com:25/?from=a@b.test&to=c@d.test")}
	w := newWorld(t, func(o *notify.Options) {
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, p.addr)
		}
	}, r)
	if err := w.Test(t.Context(), r); err == nil || !strings.Contains(err.Error(), "offers no TLS") || len(p.mails) > 0 {
		t.Errorf("%v", err)
	}
}

// TestEmail_TLS: from the start, or after STARTTLS, with the password.
func TestEmail_TLS(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]*post{"smtps": {implicit: true, password: planted}, "smtp": {starttls: true, password: planted}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newPost(t, p)
			at := func(o *notify.Options) {
				o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, p.addr)
				}
			}
			r := mesh.Recipient{Name: "mail", Service: notify.Email, Fenced: true, URL: mesh.NewSecret(name + "://mesh:" + planted + "@mail.example.com/?from=a@b.test&to=c@d.test")}
			if err := newWorld(t, at, r).Test(t.Context(), r); err != nil || len(p.mails) != 1 {
				t.Errorf("%v, %d mails", err, len(p.mails))
			}
			r.URL = mesh.NewSecret(name + "://mesh:" + planted + "@other.example.com/?from=a@b.test&to=c@d.test")
			if err := newWorld(t, at, r).Test(t.Context(), r); err == nil || !strings.Contains(err.Error(), "certificate") || len(p.mails) != 1 {
				t.Errorf("the certificate of another host: %v, %d mails", err, len(p.mails))
			}
		})
	}
}
