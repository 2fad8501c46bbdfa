package router

import "net/http"

// Internals for the tests in package router_test.

// NormalHost is normalHost.
func NormalHost(s string) string { return normalHost(s) }

// Answer is the result of parseHead.
type Answer struct {
	Code          int
	Length        int64
	Chunked, Last bool
	Header        http.Header
}

// ParseHead is parseHead for raw, whose first head ends at the returned index;
// negative: there is none.
func ParseHead(raw []byte) (Answer, int, error) {
	n := headEnd(raw, 0)
	if n < 0 {
		return Answer{}, n, nil
	}
	h := http.Header{}
	a, err := parseHead(raw[:n], h)
	return Answer{a.code, a.length, a.chunked, a.last, h}, n, err
}

// ChunkSize is chunkSize.
func ChunkSize(l []byte) (int64, error) { return chunkSize(l) }

// Lookup reports whether the router has a route for a Host field.
func (r *Router) Lookup(host string) bool {
	_, rt := r.table.lookup(normalHost(host))
	return rt != nil
}

// Framing is framing, which follows the requests of a connection.
type Framing struct{ f framing }

// Check is framing.check.
func (f *Framing) Check(p []byte) (int, error) { return f.f.check(p) }

// Followed reports whether the connection is still followed, and how much of a body
// is still to come.
func (f *Framing) Followed() (body int64, ok bool) { return f.f.body, !f.f.raw }

// Between reports whether a head has ended, and none has begun.
func (f *Framing) Between() bool { return !f.f.inside && f.f.n == 0 }

// Waves counts the waves of the only listener.
func (r *Router) Waves() (n int) {
	r.fronts.Range(func(k, _ any) bool {
		n = len(r.waves(k.(*front)))
		return false
	})
	return n
}
