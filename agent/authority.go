package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"mesh"
)

// The names in certificates. Nobody resolves them.
const (
	nameServer = "mesh-server"
	nameAgent  = "mesh-agent"
)

// certTime is how long certificates are valid. They are as good as the swarm's secret that
// carries them, and nodes whose clock is wrong must still be able to connect: they begin a day
// ago.
const certTime = 20 * 365 * 24 * time.Hour

// Authority signs the certificates of both ends. Who has its key can be either of them.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes an authority, and returns it in PEM.
func NewAuthority() (cert []byte, key mesh.Secret, err error) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, key, err
	}
	t := template("mesh nodes")
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, signer.Public(), signer)
	if err != nil {
		return nil, key, err
	}
	text, err := keyPEM(signer)
	return certPEM(der), mesh.NewSecret(string(text)), err
}

// ParseAuthority reads what NewAuthority has returned.
func ParseAuthority(cert []byte, key mesh.Secret) (*Authority, error) {
	pair, err := tls.X509KeyPair(cert, []byte(key.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("the authority of the nodes cannot be read: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the authority of the nodes has no key that signs")
	}
	return &Authority{cert: pair.Leaf, key: signer}, nil
}

func template(name string) *x509.Certificate {
	now := time.Now()
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // it does not fail since Go 1.24
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(certTime), KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// issue makes a certificate for one end.
func (a *Authority) issue(name string, usage x509.ExtKeyUsage) (cert, key []byte, err error) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := template(name)
	t.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, signer.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	key, err = keyPEM(signer)
	return certPEM(der), key, err
}

func (a *Authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// alpn is the protocol that agents ask for (RFC 7301). Others speak HTTP.
const alpn = "mesh-agent"

// serverTLS is the configuration of mesh's end: agents need a certificate, and machines that want
// to join have none yet.
func (a *Authority) serverTLS() (*tls.Config, error) {
	cert, key, err := a.issue(nameServer, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	agents := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool(), NextProtos: []string{alpn}}
	own := tls.Certificate{Certificate: [][]byte{a.cert.Raw}, PrivateKey: a.key, Leaf: a.cert}
	others := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{own}, NextProtos: []string{"http/1.1"}}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(h.SupportedProtos, alpn) {
			return agents, nil
		}
		return others, nil
	}}, nil
}

// Pin returns the hash of the public key that machines see which want to join, as curl takes it
// (--pinnedpubkey). It stays the same as long as the authority does.
func (a *Authority) Pin() string {
	sum := sha256.Sum256(a.cert.RawSubjectPublicKeyInfo)
	return "sha256//" + base64.StdEncoding.EncodeToString(sum[:])
}

// pass is what an agent signs in with. It travels as a secret of the swarm.
type pass struct {
	Authority []byte `json:"authority"`
	Cert      []byte `json:"cert"`
	Key       []byte `json:"key"`
}

// Pass returns what agents sign in with, as ParsePass reads it.
func (a *Authority) Pass() (mesh.Secret, error) {
	cert, key, err := a.issue(nameAgent, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return mesh.Secret{}, err
	}
	text, err := json.Marshal(pass{Authority: certPEM(a.cert.Raw), Cert: cert, Key: key})
	return mesh.NewSecret(string(text)), err
}

// ParsePass returns the configuration of an agent's end.
func ParsePass(text []byte) (*tls.Config, error) {
	var p pass
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("read the pass of the agent: %w", err)
	}
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, fmt.Errorf("read the pass of the agent: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(p.Authority) {
		return nil, errors.New("the pass of the agent has no authority")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: nameServer, NextProtos: []string{alpn}}, nil
}
