package router

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// gRPC is the only protocol that does not go to the app as HTTP/1.1: it is defined
// for HTTP/2 only, and its servers speak nothing else. A gRPC request that arrived
// over HTTP/2 goes on over HTTP/2 without TLS, with net/http as the client. The
// first byte has no time limit, because a stream may be silent for hours; gRPC has
// its own deadlines.

func isGRPC(r *http.Request) bool {
	if r.ProtoMajor != 2 || r.Method != http.MethodPost {
		return false
	}
	// Not gRPC-Web, "application/grpc-web", which is made for HTTP/1.1.
	kind, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && (kind == "" || kind[0] == '+' || kind[0] == ';')
}

// grpcClient is a target's HTTP/2 client; the zero value is ready.
type grpcClient struct {
	mu    sync.Mutex
	ep    *endpoint
	tr    *http.Transport // to ep; nil until needed
	calls map[*grpcCall]struct{}
}

type grpcCall struct {
	wave   *wave
	cancel context.CancelCauseFunc
}

// dialError marks that no connection could be made.
type dialError struct{ error }

func (g *grpcClient) transport(r *Router, ep *endpoint) *http.Transport {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tr != nil && g.ep.addr == ep.addr {
		return g.tr
	}
	if g.tr != nil {
		g.tr.CloseIdleConnections()
	}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	g.ep = ep
	g.tr = &http.Transport{
		Protocols: &p, DisableCompression: true, IdleConnTimeout: idleFor,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, r.opts.DialTimeout)
			defer cancel()
			c, err := r.opts.Dial(ctx, network, ep.text)
			if err != nil {
				return nil, dialError{err}
			}
			return c, nil
		},
	}
	return g.tr
}

func (g *grpcClient) begin(c *grpcCall) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls == nil {
		g.calls = map[*grpcCall]struct{}{}
	}
	g.calls[c] = struct{}{}
}

func (g *grpcClient) end(c *grpcCall) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.calls, c)
}

func (g *grpcClient) closeIdle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tr != nil {
		g.tr.CloseIdleConnections()
	}
}

// cut ends the calls in progress: those of w, or all if w is nil.
func (g *grpcClient) cut(w *wave, cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.calls {
		if w == nil || c.wave == w {
			c.cancel(cause)
		}
	}
}

// callBody is the body of a call, for one try: net/http also closes it if there was
// no connection, and the next try still needs it.
type callBody struct {
	body   io.ReadCloser
	mu     sync.Mutex
	used   bool
	closed bool
}

func (b *callBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	closed := b.closed
	b.used = true
	b.mu.Unlock()
	if closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.body.Read(p)
}

func (b *callBody) Close() error {
	b.mu.Lock()
	used := b.used
	b.closed = true
	b.mu.Unlock()
	if used {
		return b.body.Close() // ends a waiting Read
	}
	return nil
}

// serveGRPC passes a call on.
func (q *request) serveGRPC() {
	var w waiter
	defer w.stop()
	for {
		t, code := q.claim(&w)
		if code != "" {
			w.stop()
			q.fail(code)
			return
		}
		err := q.call(t, w.stop)
		var dial dialError
		switch {
		case err == nil:
			return
		case errors.As(err, &dial) && q.r.Context().Err() == nil:
			q.release()
			t.failed(q.router.clock())
			w.tried = append(w.tried, t)
		default:
			q.fail(codeOf(err))
			return
		}
	}
}

// call makes the call on t. An error means that nothing has been sent to the client.
// answered is called when the wait for a target is over.
func (q *request) call(t *target, answered func()) error {
	ctx, cancel := context.WithCancelCause(q.r.Context())
	defer cancel(nil)
	c := &grpcCall{wave: q.wave, cancel: cancel}
	t.grpc.begin(c)
	defer t.grpc.end(c)
	if cause := t.severed(); cause != nil {
		return cause
	}
	body := &callBody{body: q.r.Body}
	// net/http does not notice the end of ctx while it waits for more of the body.
	defer context.AfterFunc(ctx, func() { _ = body.Close() })()
	out := (&http.Request{
		Method: q.r.Method, Host: q.r.Host, Header: q.outHeader(), Trailer: q.r.Trailer,
		URL: q.appURL(t.ep.Load().text), Body: body, ContentLength: q.r.ContentLength,
	}).WithContext(ctx)
	res, err := t.grpc.transport(q.router, t.ep.Load()).RoundTrip(out)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	defer res.Body.Close()
	answered()
	t.healthy()
	h := q.w.Header()
	for k, vv := range res.Header {
		if k != "Connection" && k != "Trailer" {
			h[k] = vv
		}
	}
	q.ownFields(h)
	q.rec.Status = res.StatusCode
	q.w.WriteHeader(res.StatusCode)
	if res.ContentLength == 0 {
		return nil // one HEADERS frame with the status, unchanged: "Trailers-Only"
	}
	if err := q.copyCall(res); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		q.abort(codeOf(err))
	}
	return nil
}

// copyCall passes on each piece of the answer as it arrives, and the trailers, which
// contain the status of the call.
func (q *request) copyCall(res *http.Response) error {
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	if err := q.ctl.Flush(); err != nil {
		return clientError{err}
	}
	for {
		n, err := res.Body.Read(*bp)
		if n > 0 {
			m, werr := q.w.Write((*bp)[:n])
			q.rec.Bytes += int64(m)
			if werr == nil {
				werr = q.ctl.Flush()
			}
			if werr != nil {
				return clientError{werr}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	for k, vv := range res.Trailer {
		q.w.Header()[http.TrailerPrefix+k] = vv
	}
	return nil
}

// outHeader is what appendHead writes, as a map.
func (q *request) outHeader() http.Header {
	h := make(http.Header, len(q.r.Header)+6)
	for k, vv := range q.r.Header {
		if q.passes(k) {
			h[k] = vv
		}
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // otherwise net/http names itself
	}
	if httpguts.HeaderValuesContainsToken(q.r.Header["Te"], "trailers") {
		h["Te"] = []string{"trailers"}
	}
	start := q.peer.start
	if start == "" {
		start = "t=" + strconv.FormatInt(q.rec.Time.UnixMilli(), 10)
	}
	for k, v := range map[string]string{
		"X-Forwarded-For": q.peer.chain, "X-Forwarded-Proto": q.peer.proto, "X-Forwarded-Host": q.peer.host,
		"X-Forwarded-Port": q.peer.port, "X-Real-Ip": q.peer.ip, "X-Request-Id": q.rec.RequestID, "X-Request-Start": start,
	} {
		h[k] = []string{v}
	}
	if q.strips != nil {
		h[fieldPrefix] = []string{q.strips.Prefix()}
	}
	return h
}
