package certs_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mesh"
	"mesh/router/certs"
)

// chain is a root, an intermediate and a leaf, made for a test.
type chain struct {
	root, middle, leaf *x509.Certificate
	key                crypto.Signer
}

var serial atomic.Int64

func newChain(t *testing.T, key crypto.Signer, until time.Time, names ...string) chain {
	t.Helper()
	ca := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	}
	sign := func(c, by *x509.Certificate, public any, with crypto.Signer) *x509.Certificate {
		c.SerialNumber, c.NotBefore = big.NewInt(serial.Add(1)), time.Now().Add(-48*time.Hour)
		if c.NotAfter.IsZero() {
			c.NotAfter = time.Now().Add(time.Hour)
		}
		der, err := x509.CreateCertificate(rand.Reader, c, by, public, with)
		if err != nil {
			t.Fatal(err)
		}
		c, err = x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	rootKey, middleKey := newKey(t), newKey(t)
	c := chain{key: key}
	root := ca("Root")
	c.root = sign(root, root, rootKey.Public(), rootKey)
	c.middle = sign(ca("Middle"), c.root, middleKey.Public(), rootKey)
	c.leaf = sign(&x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, DNSNames: names, NotAfter: until}, c.middle, key.Public(), middleKey)
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func certificate(c *x509.Certificate) string { return block("CERTIFICATE", c.Raw) }

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(t *testing.T, k any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return block("PRIVATE KEY", der)
}

func openUploads(t *testing.T, dir string) *certs.Certs {
	t.Helper()
	c, err := certs.Open(certs.Options{Dir: dir, Belongs: func(h string) (mesh.StackName, bool) {
		switch {
		case strings.HasSuffix(h, "example.test"):
			return "blog", true
		case strings.HasSuffix(h, "shop.test"):
			return "shop", true
		}
		return "", false
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func served(c *certs.Certs, name string) []*x509.Certificate {
	cert, err := c.TLSConfig().GetCertificate(&tls.ClientHelloInfo{ServerName: name, SupportedProtos: []string{"h2"}})
	if err != nil {
		return nil
	}
	var all []*x509.Certificate
	for _, der := range cert.Certificate {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return nil
		}
		all = append(all, x)
	}
	return all
}

func TestUpload_AnyOrderAndKind(t *testing.T) {
	t.Parallel()
	hosts := []mesh.Host{"blog.example.test", "www.example.test", "other.example.test"}
	ec := newKey(t)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	for name, c := range map[string]struct {
		chain chain
		key   string
	}{
		"EC, PKCS 8":  {newChain(t, ec, later, "blog.example.test", "www.example.test"), pkcs8(t, ec)},
		"EC, SEC 1":   {newChain(t, ec, later, "blog.example.test", "www.example.test"), block("EC PRIVATE KEY", sec1)},
		"RSA, PKCS 1": {newChain(t, rs, later, "blog.example.test", "www.example.test"), block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parts := []string{certificate(c.chain.leaf), certificate(c.chain.middle), certificate(c.chain.root), c.key}
			for turn := range parts {
				dir := t.TempDir()
				u := openUploads(t, dir)
				data := "some words\n" + strings.Join(append(slices.Clone(parts[turn:]), parts[:turn]...), "")
				covered, doubts, err := u.Add("blog", hosts, []byte(data))
				if err != nil || !slices.Equal(covered, hosts[:2]) || len(doubts) > 0 {
					t.Fatalf("%v, %v, doubts %q", covered, err, doubts)
				}
				for _, again := range []*certs.Certs{u, openUploads(t, dir)} { // and after a restart
					got := served(again, "WWW.example.test.")
					if len(got) != 2 || !got[0].Equal(c.chain.leaf) || !got[1].Equal(c.chain.middle) {
						t.Errorf("served with %d certificates", len(got))
					}
					if served(again, "other.example.test") != nil {
						t.Error("a host that it does not cover is served with it")
					}
				}
			}
		})
	}
}

func TestUpload_Refused(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	c := newChain(t, key, time.Now().Add(time.Hour), "blog.example.test")
	stranger := newChain(t, other, time.Now().Add(time.Hour), "blog.example.test")
	old := newChain(t, key, time.Now().Add(-time.Hour), "blog.example.test")
	all := certificate(c.leaf) + certificate(c.middle)
	for name, tc := range map[string]struct{ data, want string }{
		"nothing":           {"", "contains no certificate"},
		"no key":            {all, "contains no key"},
		"no certificate":    {pkcs8(t, key), "contains no certificate"},
		"another key":       {all + pkcs8(t, other), "belongs to none"},
		"two keys":          {all + pkcs8(t, key) + pkcs8(t, other), "two keys"},
		"locked key":        {all + block("ENCRYPTED PRIVATE KEY", []byte("x")), "passphrase"},
		"broken":            {block("CERTIFICATE", []byte("x")) + pkcs8(t, key), "cannot be read"},
		"broken key":        {all + block("PRIVATE KEY", []byte("x")), "key cannot be read"},
		"a stranger beside": {all + certificate(stranger.middle) + pkcs8(t, key), "not part of the chain"},
		"expired":           {certificate(old.leaf) + pkcs8(t, key), "expired on"},
		"other names":       {all + pkcs8(t, key), "includes no host of shop"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			u := openUploads(t, dir)
			stack, hosts := mesh.StackName("blog"), []mesh.Host{"blog.example.test"}
			if name == "other names" {
				stack, hosts = "shop", []mesh.Host{"www.shop.test"}
			}
			if _, _, err := u.Add(stack, hosts, []byte(tc.data)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "uploaded", "*", "*")); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}

// An expired certificate hides none from ACME, and is better than none.
func TestUpload_Expired(t *testing.T) {
	w := begin(t, time.Hour, "")
	key := newKey(t)
	c := newChain(t, key, time.Now().Add(2*time.Second), "blog.example.test", "old.example.test")
	w.route("blog", "blog.example.test")
	until(t, "the certificate", func() bool { return w.Live("blog.example.test") })
	if _, _, err := w.Add("blog", []mesh.Host{"blog.example.test"}, []byte(certificate(c.leaf)+certificate(c.middle)+pkcs8(t, key))); err != nil {
		t.Fatal(err)
	}
	if l := w.List("blog", []mesh.Host{"blog.example.test"}); l[0].Source != mesh.CertificateUploaded {
		t.Errorf("%+v", l)
	}
	until(t, "its end", func() bool { return time.Now().After(c.leaf.NotAfter) })
	if _, leaf, err := w.get("blog.example.test"); err != nil || leaf.Issuer.CommonName == "Middle" {
		t.Errorf("served with %v, %v", leaf, err)
	}
	if l := w.List("blog", []mesh.Host{"blog.example.test"}); l[0].Source != mesh.CertificateACME || !w.Live("blog.example.test") {
		t.Errorf("%+v", l)
	}
	// Without another one, people see why.
	dir := t.TempDir()
	now := time.Now().Add(-time.Hour)
	u, err := certs.Open(certs.Options{Dir: dir, Now: func() time.Time { return now }, Belongs: func(string) (mesh.StackName, bool) { return "blog", true }})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if _, _, err := u.Add("blog", []mesh.Host{"old.example.test"}, []byte(certificate(c.leaf)+certificate(c.middle)+pkcs8(t, key))); err != nil {
		t.Fatal(err)
	}
	now = now.Add(48 * time.Hour)
	if served(u, "old.example.test") == nil || u.Live("old.example.test") {
		t.Error("an expired one, and no other, is not served, or is taken for good")
	}
}

func TestUpload_IsTheStacksOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	u := openUploads(t, dir)
	key := newKey(t)
	// A certificate for blog's host does not help a key that may only deploy shop.
	c := newChain(t, key, time.Now().Add(time.Hour), "www.shop.test", "blog.example.test", "*.example.test")
	data := certificate(c.leaf) + certificate(c.middle) + pkcs8(t, key)
	if covered, _, err := u.Add("shop", []mesh.Host{"www.shop.test"}, []byte(data)); err != nil || len(covered) != 1 {
		t.Fatalf("%v, %v", covered, err)
	}
	if served(u, "blog.example.test") != nil {
		t.Error("another stack's host is served with it")
	}
	if _, _, err := u.Add("blog", []mesh.Host{"*.example.test"}, []byte(data)); err != nil {
		t.Fatal(err)
	}
	list := u.List("blog", []mesh.Host{"*.example.test", "a.b.example.test", "a.example.test"})
	if list[0].Source != mesh.CertificateUploaded || list[1].Source != "" || list[2].Source != mesh.CertificateUploaded || !list[2].Expires.Equal(c.leaf.NotAfter) || list[2].Issuer != "CN=Middle" {
		t.Errorf("%+v", list)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "uploaded", "*", "*"))
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
	// The one that lasts longer is used.
	longer := newChain(t, key, time.Now().Add(2*time.Hour), "blog.example.test")
	if _, _, err := u.Add("blog", []mesh.Host{"blog.example.test"}, []byte(certificate(longer.leaf)+pkcs8(t, key))); err != nil {
		t.Fatal(err)
	}
	if got := served(u, "blog.example.test"); len(got) == 0 || !bytes.Equal(got[0].Raw, longer.leaf.Raw) {
		t.Error("the older one is served")
	}
	if err := u.Remove("blog", "blog.example.test"); err != nil {
		t.Error(err)
	}
	if err := u.Remove("blog", "blog.example.test"); err == nil {
		t.Error("removed twice")
	}
	// They move to a stack's new name, also after a restart.
	if err := errors.Join(u.Rename("shop", "store"), u.Rename("shop", "store")); err != nil {
		t.Error(err)
	}
	if u.Remove("shop", "www.shop.test") == nil {
		t.Error("the old name has one")
	}
	if err := openUploads(t, dir).Remove("store", "www.shop.test"); err != nil {
		t.Error(err)
	}
	u.Forget("store")
	if left, _ := filepath.Glob(filepath.Join(dir, "uploaded", "*", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A certificate that clients will not trust is accepted with a warning.
func TestUpload_Doubts(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	hosts := []mesh.Host{"blog.example.test"}
	c := newChain(t, key, time.Now().Add(time.Hour), "blog.example.test")
	for name, tc := range map[string]struct {
		data string
		want []string
	}{
		"whole":           {certificate(c.leaf) + certificate(c.middle) + certificate(c.root), nil},
		"no intermediate": {certificate(c.leaf), []string{`the certificate of its issuer "CN=Middle" is not in it`, "cat cert.pem intermediate.pem privkey.pem"}},
		"no root":         {certificate(c.leaf) + certificate(c.middle), []string{`the certificate of its issuer "CN=Root" is not in it`, "cat cert.pem"}},
	} {
		u := openUploads(t, t.TempDir())
		covered, doubts, err := u.Add("blog", hosts, []byte(tc.data+pkcs8(t, key)))
		if err != nil || len(covered) != 1 || len(doubts) != len(tc.want) {
			t.Errorf("%s: %v, %v, %q", name, covered, err, doubts)
			continue
		}
		for i, want := range tc.want {
			if !strings.Contains(doubts[i], want) {
				t.Errorf("%s: %q, want %q", name, doubts[i], want)
			}
		}
	}
	bare := newChain(t, key, time.Now().Add(time.Hour))
	if _, _, err := openUploads(t, t.TempDir()).Add("blog", hosts, []byte(certificate(bare.leaf)+pkcs8(t, key))); err == nil || !strings.Contains(err.Error(), "has no DNS names (subjectAltName); clients ignore its common name") {
		t.Errorf("a certificate without names: %v", err)
	}
}
