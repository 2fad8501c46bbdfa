package receiver

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

// offered reports whether some key has the public key that a client offers. A client
// with an unknown key gets a banner that names it and what an admin must type, unless
// the same key was offered together with a known one before.
func (r *Receiver) offered(ctx ssh.Context, pub ssh.PublicKey) bool {
	fp := gossh.FingerprintSHA256(pub)
	keys, err := r.Keys.Keys(ctx)
	if err != nil {
		r.Logger.Error("keys not readable", "err", err)
		return false
	}
	if cert, ok := pub.(*gossh.Certificate); ok {
		_, err := admit(keys, cert, ctx.RemoteAddr())
		if err != nil {
			r.tellRefused(ctx, cert, err)
		}
		return err == nil
	}
	if slices.ContainsFunc(keys, func(k mesh.Key) bool { return k.Fingerprint == fp && !k.Authority() }) {
		return true
	}
	st := state(ctx)
	st.mu.Lock()
	defer st.mu.Unlock()
	if slices.Contains(st.rejected, fp) || len(st.rejected) > maxAuthTries {
		return false
	}
	st.rejected = append(st.rejected, fp)
	r.unknown.note(func(more int) {
		r.Logger.Info("unknown key", "key", fp, "remote", ctx.RemoteAddr().String(), "more", more)
	})
	if st.banner != nil && !r.unknownKeys.known(fp) {
		line := strings.TrimSpace(string(gossh.MarshalAuthorizedKey(pub)))
		_ = st.banner.SendAuthBanner(fmt.Sprintf("mesh: the key %s is not authorized. An admin can add it with:\n  ssh mesh ssh-keys:add NAME %s\n", fp, line))
	}
	if st.banner != nil && len(st.rejected) == maxAuthTries {
		_ = st.banner.SendAuthBanner(fmt.Sprintf("mesh: your ssh offered %d keys, and none of them is authorized. If another key is, offer only that one:\n  ssh -o IdentitiesOnly=yes -i ~/.ssh/KEY …\n", maxAuthTries))
	}
	return false
}

// companions remembers unknown keys that were offered before a known one: other keys in
// a user's agent, which do not need a banner every time.
type companions struct {
	mu  sync.Mutex
	set map[string]bool
}

func newCompanions() *companions { return &companions{set: map[string]bool{}} }

func (c *companions) add(fps []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.set)+len(fps) > 10_000 {
		clear(c.set)
	}
	for _, fp := range fps {
		c.set[fp] = true
	}
}

func (c *companions) known(fp string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set[fp]
}
