package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"mesh"
	"mesh/router/access"
)

// request is one request on its way through the router.
type request struct {
	router *Router
	front  *front // nil if the router was called as an http.Handler
	wave   *wave  // of front; nil if front is
	w      http.ResponseWriter
	r      *http.Request
	ctl    *http.ResponseController
	rec    AccessRecord
	begun  time.Duration // on the router's clock
	peer   peer

	upgrade  string // requested protocol; empty: none
	hasBody  bool
	bodyRead bool          // the whole body has arrived from the client
	head     []byte        // for the app, followed by a small body
	address  int           // bytes at the beginning of head that depend on strips
	strips   *part         // the endpoint whose path the app does not see; nil: it sees all
	written  *part         // strips when address was written
	target   *target       // claimed; nil: none
	entry    *entry        // of the stack; nil: unknown host
	host     string        // the key of the host in the table
	pool     *pool         // of the service that the request is for; nil: not known yet
	patience time.Duration // how long the stack's instances have for the first byte
	page     string        // the stack's own page, instead of mesh's
	detached bool          // a tunnel ends the request
	own      bool          // it is for the server itself
	resent   int           // how often it was sent again
	group    int           // the client's bucket, plus one; 0: not looked up
	cookie   string        // that puts it into the answer; empty: the client has it
	compared *comparison   // of the trial that the request is part of; nil: none
	ignored  bool          // its User-Agent keeps no stack awake
	onTrial  bool          // it went to the release that is tried
}

// ServeHTTP handles one request. Requests usually come through Serve; this is for
// servers that set their own limits.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.handle(nil, w, req) }

func (r *Router) handle(f *front, w http.ResponseWriter, req *http.Request) {
	now := r.opts.Now()
	q := &request{router: r, front: f, w: w, r: req, ctl: http.NewResponseController(w), begun: now.Sub(r.epoch), peer: r.identify(req)}
	path := rawTarget(req)
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	q.rec = AccessRecord{
		Time: now, Host: req.Host, Method: req.Method, Path: path, Proto: req.Proto,
		RequestID: requestID(req.Header), ClientIP: q.peer.ip,
	}
	q.hasBody = req.Body != nil && req.Body != http.NoBody && req.ContentLength != 0
	q.host = normalHost(req.Host)
	if f != nil {
		q.wave = f.join()
		if f.links != "" {
			q.host = doorKey(q.host, f.links)
		}
	}
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler { //nolint:errorlint // a recovered value; net/http compares it the same way
				r.log.Error("panic while handling a request", "err", fmt.Sprint(v), "stack_trace", string(debug.Stack()))
				q.rec.Code = Broken
			}
			q.finish()
			panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to cut a connection (http.ErrAbortHandler)
		}
		if !q.detached {
			q.finish()
		}
	}()
	q.serve()
}

// finish ends the request: it no longer counts as in progress, and it is recorded.
func (q *request) finish() {
	q.release()
	now := q.router.clock()
	q.rec.Duration = now - q.begun
	switch {
	case q.entry != nil:
		q.pool.traffic(q.entry).count(q.pool, &q.rec, now)
		q.entry.use(q.rec.Instance, q.ignored, now)
		if q.compared != nil {
			q.compared.note(q.onTrial, &q.rec)
		}
	case !q.own:
		q.router.unknownHosts.Add(1)
	}
	if fn := q.router.opts.Access; fn != nil {
		fn(&q.rec)
	}
	if q.front != nil {
		q.wave.active.done()
	}
}

func (q *request) release() {
	if q.target != nil {
		q.target.inflight.done()
		q.target = nil
	}
}

func (q *request) serve() {
	if !oneLine(q.r) {
		q.rec.Method = "-"
		q.failWith(BadRequest, page{400, "Bad request", "The method or the path of the request contains invalid characters.", 0})
		return
	}
	if q.r.Method == http.MethodConnect {
		q.failWith(BadRequest, page{405, "Not a proxy", "This server does not support CONNECT.", 0})
		return
	}
	if q.r.Method == "PRI" { // the first half of HTTP/2's preface, without the second
		q.w.Header()["Connection"] = []string{"close"}
		q.failWith(BadRequest, page{400, "Bad request", "HTTP/2 must begin with its complete preface.", 0})
		return
	}
	inside := q.front != nil && q.front.links != ""
	if fn := q.router.opts.Challenge; fn != nil && !inside && strings.HasPrefix(q.rec.Path, challengePath) {
		if doubtful(q.r) {
			q.w.Header()["Connection"] = []string{"close"}
		}
		if fn(q.w, q.r) {
			q.rec.Status = http.StatusOK // or what it chose
			return
		}
	}
	if own := q.router.opts.Own; own != nil && !inside && q.host == q.router.opts.OwnHost {
		q.serveOwn(own)
		return
	}
	// Before the body is read: do not read the body of a request for an unknown
	// host.
	e, rt := q.router.table.lookup(q.host)
	if other := q.router.fallback.Load(); rt == nil && other != nil && !inside {
		q.host = *other
		e, rt = q.router.table.lookup(q.host)
	}
	if rt == nil {
		if inside {
			q.failWith(UnknownHost, page{404, "No such link", "This stack has no link with this name.", 0})
			return
		}
		q.fail(UnknownHost)
		return
	}
	q.entry, q.rec.Stack = e, rt.Stack
	q.ignored = len(rt.Ignored) > 0 && mesh.MatchAgent(rt.Ignored, q.r.UserAgent())
	if q.r.TLS != nil {
		if name := q.r.TLS.ServerName; name != "" && !q.sameStack(name, e) {
			q.fail(Misdirected)
			return
		}
	}
	if !inside {
		to, redirected := q.leads(rt)
		if rt.gate != nil && !q.admitted(rt, redirected) {
			return
		}
		if redirected {
			q.redirect(to)
			return
		}
		if t := rt.trial; t != nil && t.host != "" && q.host == t.host && !q.hasPass(t) {
			return
		}
	}
	if rt.parts != nil { // a guess: claim decides
		_, q.strips = rt.pick(q.host, q.r.URL.Path)
	}
	if isGRPC(q.r) {
		q.serveGRPC()
		return
	}
	q.upgrade = upgrade(q.r)
	bp := buffers.Get().(*[]byte)
	defer func() {
		*bp = (*bp)[:cap(*bp)]
		buffers.Put(bp)
	}()
	stream, ok := q.prepare((*bp)[:0])
	if !ok {
		return
	}
	for try := 0; ; try++ {
		// A body that cannot be sent again, and a second try, get a new connection:
		// the app may close an old one at any moment.
		c, reused, code := q.connect(stream || try > 0)
		if code != "" {
			q.fail(code)
			return
		}
		if again := q.exchange(c, reused, stream); !again {
			return
		}
		q.release()
	}
}

// admitted applies the access rules of the stack, and answers a request that they refuse.
func (q *request) admitted(rt *route, redirected bool) bool {
	v := rt.gate.Judge(access.Request{
		Client: q.peer.addr(), Path: q.r.URL.Path, RawPath: q.rec.Path, Authorization: q.r.Header["Authorization"], Redirected: redirected, Now: q.rec.Time,
	})
	if v.Refusal == access.Admitted {
		if v.Consumed {
			delete(q.r.Header, "Authorization") // for mesh: the app must not see the password
		}
		return true
	}
	q.pool, _ = rt.pick(q.host, q.r.URL.Path)
	code := refusals[v.Refusal]
	p := pages[code]
	if v.Retry > 0 {
		p.retry = int((v.Retry + time.Second - 1) / time.Second)
	}
	q.failWith(code, p)
	return false
}

var refusals = map[access.Refusal]Code{
	access.Address: Forbidden, access.Password: Unauthorized, access.Guessing: TooManyTries, access.Limit: RateLimited,
}

// challengePath is where an ACME server looks (RFC 8555, section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// sameStack reports whether the name that the TLS connection was opened for belongs
// to the stack that the request asks for. HTTP/2 clients send requests for several
// hosts on one connection if its certificate covers them (RFC 9110, section 7.4),
// but the certificate of one stack must not serve another.
func (q *request) sameStack(name string, e *entry) bool {
	have, _ := q.router.table.lookup(normalHost(name))
	return have == e
}

// leads returns the URL that the client must use instead, if its host is redirected
// to another one, or if TLS is available.
func (q *request) leads(rt *route) (to string, ok bool) {
	host := normalHost(q.r.Host)
	if other := rt.Redirects[mesh.Host(host)]; other != "" {
		host, ok = normalHost(string(other)), true
	}
	secure := q.router.opts.Secure
	switch {
	case q.peer.proto == "http" && secure != nil && secure(host):
		if p := q.router.opts.HTTPSPort; p != 443 {
			host += ":" + strconv.Itoa(p)
		}
		return "https://" + host, true
	case !ok:
		return "", false
	}
	if p := hostPort(q.r.Host); p != "" {
		host += ":" + p
	}
	return q.peer.proto + "://" + host, true
}

// redirect answers with the same target elsewhere. Methods other than the safe ones
// must not change (RFC 9110, section 15.4.9).
func (q *request) redirect(to string) {
	to += rawTarget(q.r)
	status := http.StatusPermanentRedirect
	if q.r.Method == http.MethodGet || q.r.Method == http.MethodHead {
		status = http.StatusMovedPermanently
	}
	h := q.w.Header()
	h["Location"] = []string{to}
	h["Content-Length"] = []string{"0"}
	h["X-Request-Id"] = []string{q.rec.RequestID}
	if q.last() || q.hasBody {
		h["Connection"] = []string{"close"}
	}
	q.rec.Code, q.rec.Status = Redirected, status
	q.w.WriteHeader(status)
}

// prepare writes what is sent to the app first. stream reports that the body
// follows, from the client, while the app reads it.
func (q *request) prepare(b []byte) (stream, ok bool) {
	named, ok := connectionOptions(q.r.Header["Connection"])
	if !ok {
		q.failWith(BadRequest, page{400, "Bad request", "The Connection field of the request names too many fields.", 0})
		return false, false
	}
	b = q.appendHead(b, named)
	n := q.r.ContentLength
	switch {
	case !q.hasBody:
		// Servers may answer 411 to a POST without a length.
		m := q.r.Method
		if m == http.MethodPost || m == http.MethodPut || m == http.MethodPatch || len(q.r.Header["Content-Length"]) > 0 {
			b = append(b, "Content-Length: 0\r\n"...)
		}
	case q.chunked():
		for k := range q.r.Trailer {
			if q.passes(k) {
				b = appendField(b, "Trailer", k)
			}
		}
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		stream = true
	default:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, n, 10)
		b = append(b, "\r\n"...)
		stream = n > smallBody || wantsContinue(q.r)
	}
	if stream && wantsContinue(q.r) {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	b = append(b, "\r\n"...)
	if q.hasBody && !stream {
		// Before an instance is claimed, so that a slow client delays no drain.
		from := len(b)
		b = append(b, make([]byte, n)...)
		_ = q.ctl.SetReadDeadline(time.Now().Add(bodyWait))
		if _, err := io.ReadFull(q.r.Body, b[from:]); err != nil {
			var timeout interface{ Timeout() bool }
			if errors.As(err, &timeout) && timeout.Timeout() {
				q.failWith(BadRequest, page{408, "Too slow", "The request did not arrive in time.", 0})
				return false, false
			}
			q.abort(ClientGone)
		}
		_ = q.ctl.SetReadDeadline(time.Time{})
		q.bodyRead = true
	}
	q.head = b
	return stream, true
}

// maxResent is for apps that also close new connections.
const maxResent = 3

// connect claims a target and returns a connection to it. While there is none it
// waits: at most Options.Wait, among at most Options.MaxWaiting requests of the
// service, and no longer than the client does.
func (q *request) connect(fresh bool) (c *conn, reused bool, code Code) {
	var w waiter
	defer w.stop()
	for {
		t, code := q.claim(&w)
		if code != "" {
			return nil, false, code
		}
		if !fresh {
			if c := t.pooled(idempotent(q.r.Method), q.router.clock()); c != nil {
				return c, true, ""
			}
		}
		from := q.router.clock()
		c, err := q.router.dial(q.r.Context(), t)
		now := q.router.clock()
		q.rec.Connect += now - from
		if err == nil {
			t.healthy()
			return c, false, ""
		}
		q.release()
		if q.r.Context().Err() != nil {
			return nil, false, ClientGone
		}
		t.failed(now)
		q.router.log.Debug("cannot connect to an instance", "stack", q.rec.Stack, "instance", q.rec.Instance.String(), "err", err)
		w.tried = append(w.tried, t)
	}
}

// claim counts the request on a target, q.target. It counts before it looks at the
// route once more. So a Switch that has returned was either seen here, or sees this
// request on its old target.
func (q *request) claim(w *waiter) (*target, Code) {
	for {
		e, rt := q.router.table.lookup(q.host)
		if rt == nil {
			return nil, UnknownHost
		}
		q.rec.Stack = rt.Stack
		if q.patience = rt.FirstByte; q.patience == 0 {
			q.patience = q.router.opts.FirstByte
		}
		p, strips := rt.pick(q.host, q.r.URL.Path)
		p = q.side(rt, p, w.tried)
		q.pool, q.strips = p, strips
		if rt.Down == mesh.Maintenance && !q.spared(rt) {
			q.page = rt.Page
			return nil, Maintenance
		}
		if len(p.targets) == 0 && p.down != mesh.NotDown {
			switch p.down { //nolint:exhaustive // of those that are left, all are the same here
			case mesh.NotDeployed:
				return nil, NotDeployed
			case mesh.Asleep:
				if code := q.wake(w, e, rt); code != "" {
					return nil, code
				}
				continue
			}
			return nil, Stopped
		}
		t := (*target)(nil)
		if len(p.targets) > 0 {
			t = p.choose(w.tried, q.router.clock(), !w.waited)
		}
		if t == nil {
			if code := w.wait(q, e, rt); code != "" {
				return nil, code
			}
			continue
		}
		t.inflight.add()
		if e.cur.Load() != rt {
			t.inflight.done()
			continue
		}
		q.target = t
		q.rec.Instance = t.ep.Load().name
		return t, ""
	}
}

// waiter is a request's wait for a target. The zero waiter is ready; stop ends it.
type waiter struct {
	tried   []*target // that accepted no connection since the last wait
	waited  bool
	in      *traffic    // its waiting counts this request
	limit   *time.Timer // for the whole wait
	backoff time.Duration
}

// wait returns when it makes sense to look for a target again: at once if the route
// changes, and now and then if targets are set aside.
func (w *waiter) wait(q *request, e *entry, rt *route) Code {
	if of := q.pool.traffic(e); w.in != of {
		w.leave()
		if of.waiting.Add(1) > int64(q.router.opts.MaxWaiting) {
			of.waiting.Add(-1)
			return QueueFull
		}
		w.in = of
	}
	if w.limit == nil {
		w.limit = time.NewTimer(max(q.router.opts.Wait, rt.Wake))
	}
	var again <-chan time.Time
	if len(q.pool.targets) > 0 {
		w.backoff = min(max(2*w.backoff, asideFirst), asideMost/2)
		timer := time.NewTimer(w.backoff)
		defer timer.Stop()
		again = timer.C
	}
	w.tried, w.waited = w.tried[:0], true
	select {
	case <-rt.replaced:
		w.waited = false // a new route: any of its targets may be tried at once
		return ""
	case <-again:
		return ""
	case <-q.r.Context().Done():
		return ClientGone
	case <-w.limit.C:
		if len(q.pool.targets) > 0 {
			return NoConnection
		}
		return NoInstance
	}
}

func (w *waiter) leave() {
	if w.in != nil {
		w.in.waiting.Add(-1)
		w.in = nil
	}
}

func (w *waiter) stop() {
	w.leave()
	if w.limit != nil {
		w.limit.Stop()
	}
}

// exchange sends the request on c and passes the answer on. again means that nothing
// has happened yet, here or in the app, or nothing that may not happen twice.
func (q *request) exchange(c *conn, reused, stream bool) (again bool) {
	c.out, c.dirty = q.ctlFlusher(), false
	c.begin(q.r.Context(), q.wave, q.router.clock(), q.patience)
	// These may have happened since the target was claimed, unseen by those who wait
	// for exchanges to end:
	if cause := c.target.severed(); cause != nil {
		c.abort(cause)
	} else if q.r.Context().Err() != nil {
		c.abort(errGone)
	}
	a, up, err := q.converse(c, stream)
	if err != nil {
		whole := up.stop()
		q.bodyRead = q.bodyRead || (up != nil && whole)
		cause := c.end()
		switch {
		case up != nil:
		case cause == nil && errors.Is(err, errStale):
			again = q.again(c, reused)
		case errors.Is(cause, errLost):
			again = q.afterLoss(c)
		}
		c.close()
		if again {
			clear(q.w.Header())
			return true
		}
		if cause == nil {
			cause = err
		}
		q.fail(codeOf(cause))
		return false
	}
	if a.code == http.StatusSwitchingProtocols {
		q.switchProtocols(c)
		return false
	}
	if err := q.passOn(c, a, up); err != nil {
		up.stop()
		cause := c.end()
		c.close()
		if cause == nil {
			cause = err
		}
		// The client always gets the bytes that arrived, and must not mistake a
		// truncated answer for a complete one.
		if _, gone := errors.AsType[clientError](err); !gone {
			_ = q.ctl.Flush()
		}
		q.abort(codeOf(cause))
	}
	if up != nil && !up.whole.Load() {
		// The app has answered without reading the whole request. The client gets
		// the answer before it is made to stop.
		_ = q.ctl.Flush()
	}
	whole := up.stop()
	if c.end() != nil || a.last || !whole {
		c.close()
		return false
	}
	c.keep(q.router.clock())
	return false
}

// again reports whether a request that got no answer may be sent again: it may be
// repeated and the app had probably closed the idle connection, or no byte of it has
// arrived.
func (q *request) again(c *conn, reused bool) bool {
	if q.resent++; q.resent > maxResent {
		return false
	}
	if reused {
		c.target.learn(q.router.clock() - c.idleSince)
	}
	return reused && idempotent(q.r.Method) || c.untouched()
}

// afterLoss is again for a request whose target's machine is lost.
func (q *request) afterLoss(c *conn) bool {
	q.resent++
	return q.resent <= maxResent && (idempotent(q.r.Method) || c.untouched())
}

// converse sends the request and reads heads until the final one, which it puts into
// the header of q.w. up is the rest of the body, still being sent.
func (q *request) converse(c *conn, stream bool) (a answer, up *upload, err error) {
	q.readdress()
	if err := c.send(q.head); err != nil {
		return a, nil, errStale
	}
	if stream {
		up = q.startUpload(c)
	}
	h := q.w.Header()
	for {
		raw, err := c.readHead()
		if err != nil {
			return a, up, err
		}
		clear(h)
		if a, err = parseHead(raw, h); err != nil {
			return a, up, err
		}
		switch {
		case a.code == http.StatusSwitchingProtocols:
			// The app accepts one of the protocols that the client has listed.
			if q.upgrade == "" || !httpguts.HeaderValuesContainsToken([]string{q.upgrade}, h.Get("Upgrade")) {
				return a, up, errGarbage
			}
			return a, up, nil
		case a.code >= 200:
			return a, up, nil
		case a.code == http.StatusContinue:
			// Reading the body makes net/http tell the client.
			if up != nil && up.proceed != nil {
				select {
				case <-up.proceed:
				default:
					close(up.proceed)
				}
			}
		case a.code == http.StatusEarlyHints && q.r.ProtoAtLeast(1, 1):
			q.w.WriteHeader(a.code)
		}
		clear(h)
	}
}

func (q *request) switchProtocols(c *conn) {
	h := q.w.Header()
	if !q.openTunnel(c, h) {
		_ = c.end() // the request has failed anyway
		c.close()
		q.fail(Broken)
	}
}

// passOn sends the answer to the client.
func (q *request) passOn(c *conn, a answer, up *upload) error {
	c.gotHead()
	h := q.w.Header()
	q.ownFields(h)
	q.keepBucket(h)
	open := !a.bodyless(q.r.Method) && a.length < 0
	if q.r.ProtoMajor == 1 {
		if open {
			h["Transfer-Encoding"] = []string{"chunked"} // otherwise net/http counts short bodies and adds a Content-Length
		}
		// The rest of the body is not read, or another process takes over.
		if up != nil && !up.whole.Load() || q.last() {
			h["Connection"] = []string{"close"}
		}
	}
	q.rec.Status = a.code
	q.w.WriteHeader(a.code)
	for _, k := range h["Trailer"] { // announced ones come only from the end of the body
		for k := range strings.SplitSeq(k, ",") {
			h.Del(strings.TrimSpace(k))
		}
	}
	c.dirty = true
	if open && q.r.ProtoMajor != 1 {
		if err := c.flush(); err != nil {
			return err
		}
	}
	switch {
	case a.bodyless(q.r.Method):
		return nil
	case a.chunked:
		return q.copyChunked(c)
	case a.length >= 0:
		return q.copyLength(c, a.length)
	}
	return q.copyAll(c)
}

// last reports whether the connection must not be used again: because another
// process takes over the listener, or because a proxy in front of mesh may disagree
// about the end of the request.
func (q *request) last() bool {
	return q.front != nil && q.front.leaving.Load() || doubtful(q.r)
}

// doubtful reports whether only net/http knows where a request ends: if its body was
// chunked, framing does not check the head after it. Old clients keep their
// connection for requests without a body (RFC 9112, section 9.3).
func doubtful(r *http.Request) bool {
	if r.ProtoMajor != 1 {
		return false
	}
	return len(r.TransferEncoding) > 0 || r.ProtoMinor == 0 && r.Method != http.MethodGet && r.Method != http.MethodHead
}

// ownFields sets the fields that are not the app's alone.
func (q *request) ownFields(h http.Header) {
	for _, k := range [...]string{"Date", "Content-Type"} { // net/http would add them
		if _, ok := h[k]; !ok {
			h[k] = nil
		}
	}
	if _, ok := h["X-Request-Id"]; !ok {
		h["X-Request-Id"] = []string{q.rec.RequestID}
	}
	if hsts := q.router.opts.hsts; hsts != nil && q.r.TLS != nil {
		if _, ok := h["Strict-Transport-Security"]; !ok {
			h["Strict-Transport-Security"] = hsts
		}
	}
}

// ctlFlusher is the writer's own FlushError, without the detour through
// ResponseController for each piece.
func (q *request) ctlFlusher() flusher {
	if f, ok := q.w.(flusher); ok {
		return f
	}
	return controllerFlusher{q.ctl}
}

type controllerFlusher struct{ ctl *http.ResponseController }

func (f controllerFlusher) FlushError() error {
	if err := f.ctl.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// idempotent methods may be sent again (RFC 9110, section 9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// codeOf is what an error of an exchange means for the client.
func codeOf(err error) Code {
	var client clientError
	switch {
	case errors.Is(err, errGone), errors.Is(err, context.Canceled), errors.As(err, &client):
		return ClientGone
	case errors.Is(err, errBadBody):
		return BadRequest
	case errors.Is(err, errSlow):
		return AppSlow
	case errors.Is(err, errCut), errors.Is(err, errStop):
		return Cut
	case errors.Is(err, errGarbage):
		return AppGarbage
	}
	return AppClosed
}

// fail answers with the page of code, or gives up on a client that has left.
func (q *request) fail(code Code) {
	if code == ClientGone || (q.r.Context().Err() != nil && code != Cut) {
		q.abort(ClientGone)
	}
	q.failWith(code, pages[code])
}

func (q *request) failWith(code Code, p page) {
	q.rec.Code = code
	q.writePage(p)
}

// statusGone is what nginx logs if the client left before there was an answer.
const statusGone = 499

// abort ends the client's connection, or its stream in HTTP/2. It does not return.
func (q *request) abort(code Code) {
	if code == ClientGone && errors.Is(context.Cause(q.r.Context()), errStop) {
		code = Cut
	}
	q.rec.Code = code
	if q.rec.Status == 0 {
		q.rec.Status = statusGone
	}
	panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to cut a connection (http.ErrAbortHandler)
}
