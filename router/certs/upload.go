package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mesh"
	"mesh/atomicfile"
)

// upload is an uploaded certificate. It is used only for the hosts of its stack,
// whatever names it has.
type upload struct {
	path string
	cert *tls.Certificate
}

func (c *Certs) folder(stack mesh.StackName) string {
	return filepath.Join(c.Dir, "uploaded", string(stack))
}

// load reads the uploads. It logs and skips one that cannot be read: the others are
// needed.
func (c *Certs) load() error {
	paths, err := filepath.Glob(filepath.Join(c.Dir, "uploaded", "*", "*.pem"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		cert, err := tls.X509KeyPair(data, data)
		if err != nil {
			c.Logger.Error("cannot read an uploaded certificate", "file", path, "err", err)
			continue
		}
		stack := mesh.StackName(filepath.Base(filepath.Dir(path)))
		c.uploaded[stack] = append(c.uploaded[stack], &upload{path, &cert})
	}
	return nil
}

// upload finds the certificate for a host: of those that cover it, the one that
// lasts longest.
func (c *Certs) upload(stack mesh.StackName, host string) *upload {
	c.mu.Lock()
	defer c.mu.Unlock()
	var best *upload
	for _, u := range c.uploaded[stack] {
		if covers(u.cert.Leaf, host) && (best == nil || u.cert.Leaf.NotAfter.After(best.cert.Leaf.NotAfter)) {
			best = u
		}
	}
	return best
}

// covers is VerifyHostname, but also for wildcards: a certificate for *.example.com
// covers the domain of that name.
func covers(leaf *x509.Certificate, host string) bool {
	if strings.HasPrefix(host, "*.") {
		return slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, host) })
	}
	return leaf.VerifyHostname(host) == nil
}

// Add stores a certificate for a stack with the given hosts. data contains its chain
// and its key in PEM, in any order. It returns the hosts that it covers, and reasons
// why clients may not trust it anyway.
func (c *Certs) Add(stack mesh.StackName, hosts []mesh.Host, data []byte) (_ []mesh.Host, doubts []string, err error) {
	cert, rooted, err := readPEM(data, c.Now())
	if err != nil {
		return nil, nil, err
	}
	var covered []mesh.Host
	for _, h := range hosts {
		if covers(cert.Leaf, string(h)) {
			covered = append(covered, h)
		}
	}
	if leaf := cert.Leaf; len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0 {
		return nil, nil, mesh.Errorf(mesh.Invalid, "the certificate has no DNS names (subjectAltName); clients ignore its common name %q", mesh.Clip(leaf.Subject.CommonName, 100)).
			WithHint("request one with the DNS names of the hosts: openssl req -addext subjectAltName=DNS:%s", slices.Concat(hosts, []mesh.Host{"HOST"})[0])
	}
	if len(covered) == 0 {
		return nil, nil, mesh.Errorf(mesh.Invalid, "the certificate is for %s, which includes no host of %s", mesh.Clip(strings.Join(cert.Leaf.DNSNames, ", "), 200), stack).
			WithHint("list the hosts with: ssh mesh domains -a %s", stack)
	}
	out, err := writePEM(cert)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(cert.Leaf.Raw)
	u := &upload{filepath.Join(c.folder(stack), hex.EncodeToString(sum[:8])+".pem"), cert}
	err = os.MkdirAll(filepath.Dir(u.path), 0o700)
	if err == nil {
		err = atomicfile.Write(u.path, out, 0o600)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("store the certificate: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uploaded[stack] = append(slices.DeleteFunc(c.uploaded[stack], func(o *upload) bool { return o.path == u.path }), u)
	return covered, doubted(cert, rooted, c.Now()), nil
}

// doubted returns the reasons why clients may not trust a certificate: a chain that
// leads to no root, or a certificate that is not valid now or for servers. A private
// authority is fine if its root is included.
func doubted(cert *tls.Certificate, rooted bool, now time.Time) (doubts []string) {
	chain := []*x509.Certificate{cert.Leaf}
	for _, der := range cert.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, c)
		}
	}
	for _, c := range chain {
		name := mesh.Clip(c.Subject.String(), 120)
		switch {
		case now.Before(c.NotBefore):
			doubts = append(doubts, fmt.Sprintf("the certificate of %q is not valid before %s", name, c.NotBefore.UTC().Format(time.RFC3339)))
		case now.After(c.NotAfter):
			doubts = append(doubts, fmt.Sprintf("the certificate of %q expired on %s", name, c.NotAfter.UTC().Format(time.DateOnly)))
		}
	}
	leaf, last := chain[0], chain[len(chain)-1]
	if u := leaf.ExtKeyUsage; len(u) > 0 && !slices.Contains(u, x509.ExtKeyUsageServerAuth) && !slices.Contains(u, x509.ExtKeyUsageAny) {
		doubts = append(doubts, "the certificate is not meant for servers (extendedKeyUsage lacks serverAuth)")
	}
	if rooted || bytes.Equal(last.RawSubject, last.RawIssuer) {
		return doubts
	}
	if _, err := last.Verify(x509.VerifyOptions{CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		issuer := mesh.Clip(last.Issuer.String(), 120)
		doubts = append(doubts, fmt.Sprintf("the chain ends with %q: the certificate of its issuer %q is not in it, and is not a root on this server", mesh.Clip(last.Subject.String(), 120), issuer),
			"clients that do not have it will refuse the connection; send the whole chain: cat cert.pem intermediate.pem privkey.pem | ssh mesh certs:add")
	}
	return doubts
}

// Remove drops the uploaded certificates of a stack that cover a host.
func (c *Certs) Remove(stack mesh.StackName, host mesh.Host) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var gone []*upload
	c.uploaded[stack] = slices.DeleteFunc(c.uploaded[stack], func(u *upload) bool {
		hit := covers(u.cert.Leaf, string(host))
		if hit {
			gone = append(gone, u)
		}
		return hit
	})
	if len(gone) == 0 {
		return mesh.Errorf(mesh.NotFound, "no certificate was uploaded for %s", host).
			WithHint("to remove a certificate that mesh obtained, remove the domain: ssh mesh domains:remove -a %s %s", stack, host)
	}
	return remove(gone)
}

// Rename moves the uploaded certificates of a stack to its new name. Without any it
// does nothing, so it may be called again.
func (c *Certs) Rename(from, to mesh.StackName) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.uploaded[from] {
		path := filepath.Join(c.folder(to), filepath.Base(u.path))
		if err := os.MkdirAll(c.folder(to), 0o700); err != nil {
			return err
		}
		if err := os.Rename(u.path, path); err != nil {
			return err
		}
		u.path = path
		c.uploaded[to] = append(c.uploaded[to], u)
	}
	delete(c.uploaded, from)
	_ = os.Remove(c.folder(from)) // if it is empty, as it should be
	return nil
}

// Forget drops everything stored for a stack.
func (c *Certs) Forget(stack mesh.StackName) {
	c.Want(stack, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := remove(c.uploaded[stack]); err != nil {
		c.Logger.Warn("cannot remove uploaded certificates", "stack", stack, "err", err)
	}
	delete(c.uploaded, stack)
	_ = os.Remove(c.folder(stack)) // if it is empty, as it should be
}

func remove(all []*upload) error {
	var errs []error
	for _, u := range all {
		if err := os.Remove(u.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// readPEM finds a key, its certificate, and the chain above it, and reports whether
// the input contained the chain's root.
func readPEM(data []byte, now time.Time) (_ *tls.Certificate, rooted bool, _ error) {
	invalid := func(format string, args ...any) *mesh.Error { return mesh.Errorf(mesh.Invalid, format, args...) }
	var all []*x509.Certificate
	var key any
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			break
		}
		switch {
		case b.Type == "CERTIFICATE":
			c, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return nil, false, invalid("a certificate cannot be read: %w", err)
			}
			if !slices.ContainsFunc(all, c.Equal) {
				all = append(all, c)
			}
		case b.Type == "ENCRYPTED PRIVATE KEY" || b.Headers["DEK-Info"] != "":
			return nil, false, invalid("the key is protected by a passphrase").WithHint("remove the passphrase: openssl pkey -in key.pem")
		case strings.HasSuffix(b.Type, "PRIVATE KEY"):
			k, err := parseKey(b.Bytes)
			if err != nil {
				return nil, false, invalid("the key cannot be read: %w", err)
			}
			if key != nil {
				return nil, false, invalid("there are two keys").WithHint("send one certificate at a time")
			}
			key = k
		}
	}
	switch {
	case len(all) == 0:
		return nil, false, invalid("the input contains no certificate").WithHint("send chain and key in PEM: cat fullchain.pem privkey.pem | ssh mesh certs:add -a STACK")
	case key == nil:
		return nil, false, invalid("the input contains no key").WithHint("send chain and key in PEM: cat fullchain.pem privkey.pem | ssh mesh certs:add -a STACK")
	}
	i := slices.IndexFunc(all, func(c *x509.Certificate) bool { return belongs(key, c) })
	if i < 0 {
		return nil, false, invalid("the key belongs to none of the certificates")
	}
	leaf := all[i]
	if now.After(leaf.NotAfter) {
		return nil, false, invalid("the certificate expired on %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw}}
	all = slices.DeleteFunc(all, leaf.Equal)
	for top := leaf; !bytes.Equal(top.RawSubject, top.RawIssuer); {
		i := slices.IndexFunc(all, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, top.RawIssuer) && top.CheckSignatureFrom(c) == nil
		})
		if i < 0 {
			break
		}
		top = all[i]
		all = slices.Delete(all, i, i+1)
		if rooted = bytes.Equal(top.RawSubject, top.RawIssuer); !rooted { // clients have the root
			cert.Certificate = append(cert.Certificate, top.Raw)
		}
	}
	if len(all) > 0 {
		return nil, false, invalid("the certificate of %q is not part of the chain", mesh.Clip(all[0].Subject.String(), 120))
	}
	return cert, rooted, nil
}

func parseKey(der []byte) (any, error) {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return k, nil
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, nil
	}
	return x509.ParseECPrivateKey(der)
}

// belongs reports whether a private key belongs to a certificate.
func belongs(key any, c *x509.Certificate) bool {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return k.PublicKey.Equal(c.PublicKey)
	case *ecdsa.PrivateKey:
		return k.PublicKey.Equal(c.PublicKey)
	case ed25519.PrivateKey:
		return k.Public().(ed25519.PublicKey).Equal(c.PublicKey)
	}
	return false
}

func writePEM(cert *tls.Certificate) ([]byte, error) {
	var b bytes.Buffer
	for _, der := range cert.Certificate {
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return nil, err
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, err
	}
	err = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return b.Bytes(), err
}
