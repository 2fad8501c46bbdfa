package router

import "net/http"

// What the tests of package router_test look into.

// NormalHost is normalHost.
func NormalHost(s string) string { return normalHost(s) }

// Answer is what parseHead makes of a head.
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

// Lookup tells whether the router has a route for a Host field.
func (r *Router) Lookup(host string) bool {
	_, rt := r.table.lookup(normalHost(host))
	return rt != nil
}

// Waves counts those of the one listener that is being served.
func (r *Router) Waves() (n int) {
	r.fronts.Range(func(k, _ any) bool {
		n = len(r.waves(k.(*front)))
		return false
	})
	return n
}
