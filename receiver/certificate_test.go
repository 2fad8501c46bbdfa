package receiver

import (
	"crypto/rand"
	"crypto/rsa"
	"net"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

func certificate(t *testing.T, ca gossh.Signer, change func(*gossh.Certificate)) *gossh.Certificate {
	t.Helper()
	c := &gossh.Certificate{
		Key: signer(t).PublicKey(), Serial: 7, CertType: gossh.UserCert, KeyId: "ann", ValidPrincipals: []string{"dev"},
		ValidBefore: gossh.CertTimeInfinity,
	}
	if change != nil {
		change(c)
	}
	if err := c.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return c
}

var client = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 4000}

func authority(name mesh.KeyName, by gossh.Signer, role mesh.Role, principals ...string) mesh.Key {
	return mesh.Key{Name: name, Role: role, Fingerprint: gossh.FingerprintSHA256(by.PublicKey()), Principals: principals}
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	ca := signer(t)
	limited := authority("limited", ca, mesh.RoleDeploy, "dev", "ops")
	limited.Stacks = []mesh.StackName{"blog"}
	keys := []mesh.Key{
		{Name: "plain", Role: mesh.RoleAdmin, Fingerprint: gossh.FingerprintSHA256(signer(t).PublicKey())},
		limited, authority("readers", ca, mesh.RoleRead, "all"), authority("wide", ca, mesh.RoleDeploy, "wide"), authority("admins", ca, mesh.RoleAdmin, "root"),
	}
	now := uint64(time.Now().Unix())
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old, err := gossh.NewSignerFromKey(weak)
	if err != nil {
		t.Fatal(err)
	}
	keys = append(keys, authority("old", old, mesh.RoleRead, "dev"))
	for name, c := range map[string]struct {
		cert *gossh.Certificate
		want string // the name of the authority, or what the error contains
	}{
		"its only principal":      {certificate(t, ca, nil), "limited"},
		"of all, the most rights": {certificate(t, ca, func(c *gossh.Certificate) { c.ValidPrincipals = []string{"all", "dev", "wide", "root"} }), "admins"},
		"all stacks before some":  {certificate(t, ca, func(c *gossh.Certificate) { c.ValidPrincipals = []string{"dev", "wide"} }), "wide"},
		"a host's":                {certificate(t, ca, func(c *gossh.Certificate) { c.CertType = gossh.HostCert }), "it is a host's"},
		"no principals":           {certificate(t, ca, func(c *gossh.Certificate) { c.ValidPrincipals = nil }), "no principals"},
		"unknown principals":      {certificate(t, ca, func(c *gossh.Certificate) { c.ValidPrincipals = []string{"x", "y\n"} }), "none of its principals (x, y"},
		"expired":                 {certificate(t, ca, func(c *gossh.Certificate) { c.ValidBefore = now }), "it expired at"},
		"not valid yet":           {certificate(t, ca, func(c *gossh.Certificate) { c.ValidAfter = now + 3600 }), "it is valid from"},
		"an unknown option":       {certificate(t, ca, func(c *gossh.Certificate) { c.CriticalOptions = map[string]string{"verify-required": ""} }), "unsupported critical option"},
		"from here": {certificate(t, ca, func(c *gossh.Certificate) {
			c.CriticalOptions = map[string]string{"source-address": "10.0.0.0/8,192.0.2.0/24"}
		}), "limited"},
		"from elsewhere":        {certificate(t, ca, func(c *gossh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "10.0.0.0/8,x"} }), "not be used from this address"},
		"another authority":     {certificate(t, signer(t), nil), "is not trusted"},
		"signed with SHA-2":     {certificate(t, old, nil), "old"},
		"signed by a plain key": {certificate(t, ca, func(c *gossh.Certificate) { c.ValidPrincipals = []string{"plain"} }), "none of its principals"},
		"changed since it was signed": {func() *gossh.Certificate {
			c := certificate(t, ca, nil)
			c.ValidPrincipals = []string{"root"}
			return c
		}(), "signature"},
		"signed with SHA-1": {func() *gossh.Certificate {
			c := certificate(t, old, nil)
			c.Signature.Format = gossh.KeyAlgoRSA
			return c
		}(), "it is signed with SHA-1"},
	} {
		k, err := admit(keys, c.cert, client)
		if got := string(k.Name); err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

// What a certificate does has a name that says whose it is, and ends with the certificate.
func TestCertified(t *testing.T) {
	t.Parallel()
	ca := signer(t)
	k := authority("staff", ca, mesh.RoleDeploy, "dev")
	for id, want := range map[string]mesh.KeyName{
		"ann": "ann@staff", "Ann <a@b.example>": "Ann--a-b.example@staff", "": "serial-7@staff", "\x00../": "serial-7@staff",
		strings.Repeat("x", 100): mesh.KeyName(strings.Repeat("x", 40) + "@staff"),
	} {
		c := certificate(t, ca, func(c *gossh.Certificate) { c.KeyId = id })
		got, err := certified(k, string(gossh.MarshalAuthorizedKey(c)))
		if _, perr := mesh.ParseKeyName(string(got.Name)); err != nil || perr != nil || got.Name != want || got.Role != mesh.RoleDeploy {
			t.Errorf("%q: %+v, %v, %v", id, got, err, perr)
		}
	}
	late := certificate(t, ca, func(c *gossh.Certificate) { c.ValidBefore = uint64(time.Now().Unix()) })
	if _, err := certified(k, string(gossh.MarshalAuthorizedKey(late))); err == nil || !strings.Contains(err.Error(), "your certificate expired at") {
		t.Errorf("expired on an open connection: %v", err)
	}
}
