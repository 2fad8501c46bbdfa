package router

import (
	"crypto/subtle"
	"hash/fnv"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"mesh"
)

// trial is the release that some clients of a route get instead of the current one.
type trial struct {
	pool  *pool
	share int    // of buckets
	host  string // the key of the host that leads to it; empty: none
	pass  string
}

// comparison counts the requests of both sides of a trial. It lives as long as the stack
// tries the same release, whatever happens to routes meanwhile.
type comparison struct {
	release  mesh.ReleaseNumber
	old, new tally
}

// buckets is the number of groups that clients are in. A client stays in its group, and a
// growing share adds groups to those that get the new release.
const buckets = 10_000

const (
	bucketCookie = "mesh-canary" // the client's bucket
	passCookie   = "mesh-pass"   // what the link to a release carries
	passParam    = "mesh-pass"
)

// try adds a trial to a route that is about to be used. Call it with Router.mu held.
func (r *Router) try(rt *route, e *entry) {
	t := rt.Trial
	if t == nil {
		e.trial = nil
		return
	}
	rt.trial = &trial{pool: &pool{}, share: int(t.Share * buckets), pass: t.Pass.Reveal()}
	if t.Host != "" {
		rt.trial.host = tableKey(t.Host)
		rt.keys[rt.trial.host] = struct{}{}
	}
	for _, mt := range t.Targets {
		to := r.enter(rt, mt)
		if to == nil {
			continue
		}
		rt.trial.pool.targets = append(rt.trial.pool.targets, to)
		rt.trial.pool.tally(e, mt.Name)
	}
	if e.trial == nil || e.trial.release != t.Release {
		e.trial = &comparison{release: t.Release}
	}
	rt.compared = e.trial
}

// Compare returns what both sides of a stack's trial have answered since it began. ok is
// false if there is none.
func (r *Router) Compare(stack mesh.StackName) (c mesh.Comparison, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.stacks[stack]
	if e == nil || e.trial == nil {
		return c, false
	}
	return mesh.Comparison{Old: e.trial.old.share(stack, mesh.InstanceName{}).Measure, New: e.trial.new.share(stack, mesh.InstanceName{}).Measure}, true
}

// note counts a request that has ended on its side.
func (c *comparison) note(onTrial bool, a *AccessRecord) {
	if a.Status == http.StatusSwitchingProtocols || a.Code.refusal() {
		return
	}
	side := &c.old
	if onTrial {
		side = &c.new
	}
	side.status[statusClass(a.Status)].Add(1)
	side.all[mesh.LatencyClass(a.Duration)].Add(1)
}

// side returns the pool that a request goes to, instead of web's pool p: that of the trial
// if its client is in the share, and if an instance of it may be tried.
func (q *request) side(rt *route, p *pool, tried []*target) *pool {
	t := rt.trial
	if t == nil || p != rt.web && q.host != t.host {
		return p
	}
	if q.host == t.host && t.host != "" {
		return t.pool
	}
	q.compared, q.onTrial = rt.compared, false
	if t.share == 0 || q.bucket() >= t.share || t.pool.choose(tried, q.router.clock(), false) == nil {
		return p
	}
	q.onTrial = true
	return t.pool
}

// bucket returns the group of the request's client: the one that its cookie says, or the
// one of its address, which the answer then puts into a cookie.
func (q *request) bucket() int {
	if q.group > 0 {
		return q.group - 1
	}
	n := -1
	for _, c := range q.r.CookiesNamed(bucketCookie) {
		if v, err := strconv.Atoi(c.Value); err == nil && v >= 0 && v < buckets {
			n = v
			break
		}
	}
	if n < 0 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(string(q.rec.Stack) + " " + q.peer.ip))
		sum := h.Sum64()
		n = int((sum ^ sum>>32) % buckets)         //nolint:gosec // below buckets
		if q.front == nil || q.front.links == "" { // otherwise it is another stack
			q.cookie = q.setCookie(bucketCookie, strconv.Itoa(n))
		}
	}
	q.group = n + 1
	return n
}

// setCookie is a session's cookie for all of the host.
func (q *request) setCookie(name, value string) string {
	c := http.Cookie{Name: name, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: q.peer.proto == "https"}
	return c.String()
}

// keepBucket puts the client's group into an answer, unless caches may give it to others.
func (q *request) keepBucket(h http.Header) {
	if q.cookie == "" {
		return
	}
	for _, v := range h["Cache-Control"] {
		if v = strings.ToLower(v); strings.Contains(v, "public") || strings.Contains(v, "immutable") || strings.Contains(v, "s-maxage") {
			return
		}
	}
	h.Add("Set-Cookie", q.cookie)
}

// hasPass reports whether a request for the host of a trial may go on. It answers those that
// may not, and those that bring the pass in their URL: these get it as a cookie.
func (q *request) hasPass(t *trial) bool {
	same := func(v string) bool {
		return t.pass != "" && subtle.ConstantTimeCompare([]byte(v), []byte(t.pass)) == 1
	}
	for _, c := range q.r.CookiesNamed(passCookie) {
		if same(c.Value) {
			return true
		}
	}
	query := q.r.URL.Query()
	if v := query.Get(passParam); v == "" || !same(v) {
		q.failWith(Forbidden, page{403, "A link is needed", "This release is not public. Ask somebody who may deploy the app for the link to it.", 0})
		return false
	}
	query.Del(passParam)
	to := url.URL{Path: q.r.URL.Path, RawPath: q.r.URL.RawPath, RawQuery: query.Encode()}
	if to.Path == "" || strings.HasPrefix(to.Path, "//") { // another host
		to.Path, to.RawPath = "/"+strings.TrimLeft(to.Path, "/"), ""
	}
	h := q.w.Header()
	h["Location"] = []string{to.RequestURI()}
	h["Set-Cookie"] = []string{q.setCookie(passCookie, t.pass)}
	h["Cache-Control"] = []string{"no-store"}
	h["Content-Length"] = []string{"0"}
	h["X-Request-Id"] = []string{q.rec.RequestID}
	if q.last() || q.hasBody {
		h["Connection"] = []string{"close"}
	}
	q.rec.Code, q.rec.Status = Redirected, http.StatusSeeOther
	q.w.WriteHeader(http.StatusSeeOther)
	return false
}
