package receiver

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

// admit returns the authority that a user's certificate signs in with: of those that
// trust its key for one of its principals, the one with the most rights. The error says
// why there is none. Validity, signature and critical options are checked as in OpenSSH's
// PROTOCOL.certkeys.
func admit(keys []mesh.Key, cert *gossh.Certificate, from net.Addr) (mesh.Key, error) {
	by := gossh.FingerprintSHA256(cert.SignatureKey)
	var trusted, matching []mesh.Key
	for _, k := range keys {
		if !k.Authority() || k.Fingerprint != by {
			continue
		}
		trusted = append(trusted, k)
		if slices.ContainsFunc(k.Principals, func(p string) bool { return slices.Contains(cert.ValidPrincipals, p) }) {
			matching = append(matching, k)
		}
	}
	switch {
	case len(trusted) == 0:
		return mesh.Key{}, fmt.Errorf("its authority %s is not trusted", by)
	case cert.CertType != gossh.UserCert:
		return mesh.Key{}, errors.New("it is a host's")
	case len(cert.ValidPrincipals) == 0:
		return mesh.Key{}, errors.New("it has no principals")
	case len(matching) == 0:
		return mesh.Key{}, fmt.Errorf("none of its principals (%s) is known here", mesh.Clip(mesh.Visible(strings.Join(cert.ValidPrincipals, ", ")), 120))
	case cert.Signature.Format == gossh.KeyAlgoRSA:
		return mesh.Key{}, errors.New("it is signed with SHA-1")
	}
	best := slices.MaxFunc(matching, func(a, b mesh.Key) int {
		return cmp.Or(cmp.Compare(weight(a), weight(b)), cmp.Compare(b.Name, a.Name))
	})
	checker := gossh.CertChecker{SupportedCriticalOptions: []string{sourceAddress}}
	for _, p := range best.Principals {
		if !slices.Contains(cert.ValidPrincipals, p) {
			continue
		}
		if err := checker.CheckCert(p, cert); err != nil {
			return mesh.Key{}, refusedBecause(cert, err)
		}
		break
	}
	if list, limited := cert.CriticalOptions[sourceAddress]; limited && !covers(list, from) {
		return mesh.Key{}, errors.New("it may not be used from this address")
	}
	return best, nil
}

// sourceAddress is the critical option that limits where a certificate may be used
// (PROTOCOL.certkeys, "Critical options").
const sourceAddress = "source-address"

// weight orders authorities by their rights.
func weight(k mesh.Key) int {
	w := map[mesh.Role]int{mesh.RoleAdmin: 4, mesh.RoleDeploy: 2, mesh.RoleRead: 0}[k.Role]
	if len(k.Stacks) == 0 {
		w++
	}
	return w
}

// refusedBecause says what is wrong with the time of a certificate in words.
func refusedBecause(cert *gossh.Certificate, err error) error {
	switch now := uint64(time.Now().Unix()); { //nolint:gosec // after 1970
	case now < cert.ValidAfter:
		return fmt.Errorf("it is valid from %s on", instant(cert.ValidAfter))
	case cert.ValidBefore != gossh.CertTimeInfinity && now >= cert.ValidBefore:
		return fmt.Errorf("it expired at %s", instant(cert.ValidBefore))
	}
	return errors.New(strings.TrimPrefix(err.Error(), "ssh: "))
}

func instant(seconds uint64) string {
	return time.Unix(int64(min(seconds, 1<<40)), 0).UTC().Format(time.RFC3339) //nolint:gosec // bounded
}

// covers reports whether a list of networks and addresses has a remote address.
func covers(list string, from net.Addr) bool {
	tcp, ok := from.(*net.TCPAddr)
	if !ok {
		return false
	}
	addr := tcp.AddrPort().Addr().Unmap()
	for s := range strings.SplitSeq(list, ",") {
		if p, err := netip.ParsePrefix(s); err == nil && p.Contains(addr) {
			return true
		}
		if a, err := netip.ParseAddr(s); err == nil && a.Unmap() == addr {
			return true
		}
	}
	return false
}

// tellRefused shows the client why its certificate is not accepted. OpenSSH offers the
// plain key next.
func (r *Receiver) tellRefused(ctx ssh.Context, cert *gossh.Certificate, why error) {
	st := state(ctx)
	st.mu.Lock()
	defer st.mu.Unlock()
	fp := gossh.FingerprintSHA256(cert)
	if slices.Contains(st.rejected, fp) || len(st.rejected) > maxAuthTries {
		return
	}
	st.rejected = append(st.rejected, fp)
	name := mesh.Clip(mesh.Visible(cert.KeyId), 60)
	r.unknown.note(func(more int) {
		r.Logger.Info("certificate refused", "id", name, "why", why.Error(), "remote", ctx.RemoteAddr().String(), "more", more)
	})
	if st.banner != nil {
		_ = st.banner.SendAuthBanner(fmt.Sprintf("mesh: the certificate %q is not accepted: %s.\n", name, why))
	}
}

// permissions identifies a connection whose key has proved itself.
func (r *Receiver) permissions(ctx ssh.Context, key gossh.PublicKey) (*gossh.Permissions, error) {
	p := &gossh.Permissions{Extensions: map[string]string{signInExt: gossh.FingerprintSHA256(key)}}
	if cert, ok := key.(*gossh.Certificate); ok {
		keys, err := r.Keys.Keys(ctx)
		if err != nil {
			return nil, err
		}
		k, err := admit(keys, cert, ctx.RemoteAddr())
		if err != nil {
			return nil, err // since it was offered
		}
		p.Extensions[signInExt] = k.SignIn()
		p.Extensions[certificateExt] = string(bytes.TrimSpace(gossh.MarshalAuthorizedKey(cert)))
	}
	st := state(ctx)
	st.signedIn()
	r.unknownKeys.add(st.rejected)
	return p, nil
}

// certified returns the rights of a session that signed in with a certificate, under a
// name that says whose it is: "ann@staff" for the ID "ann" and the authority "staff". A
// connection may live longer than its certificate; its sessions may not begin later.
func certified(k mesh.Key, text string) (mesh.Key, error) {
	pub, _, _, _, err := gossh.ParseAuthorizedKey([]byte(text))
	cert, ok := pub.(*gossh.Certificate)
	if err != nil || !ok {
		return mesh.Key{}, fmt.Errorf("identify: no certificate in the permissions: %w", err)
	}
	if cert.ValidBefore != gossh.CertTimeInfinity && uint64(time.Now().Unix()) >= cert.ValidBefore { //nolint:gosec // after 1970
		return mesh.Key{}, mesh.Errorf(mesh.Denied, "your certificate expired at %s", instant(cert.ValidBefore)).WithHint("get a new one, and connect again")
	}
	id := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			return c
		}
		return '-'
	}, cert.KeyId)
	id = strings.Trim(id[:min(len(id), 40)], "-._")
	if id == "" {
		id = fmt.Sprintf("serial-%d", cert.Serial)
	}
	k.Name = mesh.KeyName(mesh.Clip(id+"@"+string(k.Name), 64))
	return k, nil
}
