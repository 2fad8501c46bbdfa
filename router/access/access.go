// Package access decides whether a request may reach a stack: rules and requests in,
// verdicts out.
//
//	gate := access.New(rules, checks)
//	v := gate.Judge(access.Request{Client: addr, Path: path, …})
//
// A Gate remembers what a decision needs: which password was already found right, who
// has tried how many wrong ones, how many requests there were. All of that is in memory,
// limited in size, and gone with the Gate. The package answers no requests, stores
// nothing, and does not decide who the client is: that is the router's part.
package access

import (
	"encoding/base64"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"mesh"
)

// Request is what a verdict depends on.
type Request struct {
	Client        netip.Addr // invalid if unknown: then no address rule admits it
	Path          string     // decoded
	RawPath       string     // as the client wrote it, without the query
	Authorization []string   // the values of that field
	// Redirected: the client will only be sent elsewhere, and needs no password for
	// that. It would be asked again there; before TLS it must not send one at all.
	Redirected bool
	Now        time.Time
}

// Refusal is the reason why a request is refused.
type Refusal int

// The reasons. Admitted is none.
const (
	Admitted Refusal = iota
	Address          // an address rule refuses the client
	Password         // the request has no password of a user
	Guessing         // the client has sent too many wrong passwords, or the server is busy checking others
	Limit            // there were too many requests
)

// Verdict is the decision about a request.
type Verdict struct {
	Refusal  Refusal
	Retry    time.Duration // when to try again; for Guessing and Limit
	Consumed bool          // Authorization was for the gate, not for the app
}

// Gate applies the rules of a stack. It may be used from several goroutines.
type Gate struct {
	rules  mesh.AccessRules
	users  *users  // nil: no passwords
	bucket *bucket // nil: no limit for all clients together
	each   *buckets
}

// New makes a Gate for rules, which must not change any more. All gates of a server
// share checks.
func New(rules mesh.AccessRules, checks *Checks) *Gate {
	g := &Gate{rules: rules}
	if len(rules.Users) > 0 {
		g.users = newUsers(rules.Users, checks)
	}
	switch r := rules.Limit; {
	case r.Requests == 0:
	case r.PerClient:
		g.each = newBuckets(r)
	default:
		g.bucket = newBucket(r)
	}
	return g
}

// Rules returns the rules that the gate applies.
func (g *Gate) Rules() mesh.AccessRules { return g.rules }

// Judge decides about a request. If a password has to be checked, it blocks for up to a
// few seconds.
//
// The address comes first, because it costs the least. The limit comes last: it counts
// what would reach the app, so that strangers cannot use up the share of those who have
// a password.
func (g *Gate) Judge(r Request) Verdict {
	if g.rules.Excepted(r.Path, r.RawPath) {
		return Verdict{}
	}
	client := r.Client.Unmap().WithZone("")
	if !g.admits(client) {
		return Verdict{Refusal: Address}
	}
	if r.Redirected {
		return Verdict{}
	}
	v := Verdict{}
	if g.users != nil {
		name, password, ok := credentials(r.Authorization)
		if !ok {
			return Verdict{Refusal: Password}
		}
		if v.Refusal, v.Retry = g.users.check(network(client), name, password, r.Now); v.Refusal != Admitted {
			return v
		}
		v.Consumed = true
	}
	switch {
	case g.bucket != nil:
		v.Retry = g.bucket.take(r.Now)
	case g.each != nil:
		v.Retry = g.each.take(network(client), r.Now)
	}
	if v.Retry > 0 {
		v.Refusal = Limit
	}
	return v
}

// Admits applies the address rules alone, for a connection that is not HTTP.
func (g *Gate) Admits(client netip.Addr) bool { return g.admits(client.Unmap().WithZone("")) }

// admits applies the address rules.
func (g *Gate) admits(client netip.Addr) bool {
	allow, deny := g.rules.Allow, g.rules.Deny
	if len(allow)+len(deny) == 0 {
		return true
	}
	has := func(p netip.Prefix) bool { return p.Contains(client) }
	return client.IsValid() && !slices.ContainsFunc(deny, has) && (len(allow) == 0 || slices.ContainsFunc(allow, has))
}

// network is who counts as one client: an IPv4 address, or an IPv6 network of 64 bits,
// in which one machine may use any address.
func network(client netip.Addr) netip.Addr {
	if !client.Is6() {
		return client
	}
	p, err := client.Prefix(64)
	if err != nil {
		return client
	}
	return p.Addr()
}

// credentials reads the user and the password of the Basic scheme (RFC 7617). Two
// fields are refused: mesh and the app could each see another one.
func credentials(values []string) (name, password string, ok bool) {
	if len(values) != 1 {
		return "", "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	data, err := base64.StdEncoding.DecodeString(strings.Trim(token, " "))
	if err != nil || !utf8.Valid(data) {
		return "", "", false
	}
	return strings.Cut(string(data), ":")
}
