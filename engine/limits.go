package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"time"
)

// How long the engine may take to answer. An engine that hangs (SIGSTOP, a disk that
// does not answer) accepts connections and never answers: without limits, every
// command hung until its client left. A read takes milliseconds, and a change of one
// container a second; both get more, for a very busy machine.
const (
	readLimit   = 30 * time.Second
	changeLimit = 2 * time.Minute
)

// limits are the limits of the engine's API, by path.
type limits struct {
	next         http.RoundTripper
	read, change time.Duration
}

var (
	// These may take as long as they need: they move images, or ask a registry.
	unlimitedPath = regexp.MustCompile(`^(/v[\d.]+)?(/build|/session|/grpc|/auth|/system/df|/distribution/.*|/images/(create|load|get|prune)|/images/.*/(get|push)|/build/prune|/(containers|networks|volumes)/prune|/containers/.*/(export|archive))$`)
	// These continue for a long time, once the answer has begun.
	streamPath = regexp.MustCompile(`^(/v[\d.]+)?(/events|/containers/.*/(logs|wait|attach|stats)|/exec/.*/start)$`)
	execPath   = regexp.MustCompile(`/(exec|resize|json)$`)
)

// limit returns how long a request may take, 0 for no limit, and whether that covers
// the whole answer or only its beginning.
func (l limits) limit(r *http.Request) (limit time.Duration, whole bool) {
	switch path := r.URL.Path; {
	case unlimitedPath.MatchString(path):
		return 0, false
	case streamPath.MatchString(path):
		return l.read, false
	case r.Method == http.MethodGet, r.Method == http.MethodHead, execPath.MatchString(path):
		return l.read, true
	}
	return l.change, true
}

// errSlow is a net.Error, so the client treats it as a failed connection.
var errSlow error = slowError{}

type slowError struct{}

func (slowError) Error() string { return "the engine takes too long to answer" }

func (slowError) Timeout() bool { return true }

func (slowError) Temporary() bool { return true }

// RoundTrip sends one request within its limit.
func (l limits) RoundTrip(r *http.Request) (*http.Response, error) {
	limit, whole := l.limit(r)
	if limit == 0 {
		return l.next.RoundTrip(r)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	timer := time.AfterFunc(limit, func() { cancel(errSlow) })
	resp, err := l.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		timer.Stop()
		if errors.Is(context.Cause(ctx), errSlow) {
			err = errSlow
		}
		cancel(nil)
		return nil, err
	}
	if !whole {
		timer.Stop()
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, ctx: ctx, end: func() { timer.Stop(); cancel(nil) }}
	return resp, nil
}

// limitedBody is an answer whose time may run out while it is read.
type limitedBody struct {
	io.ReadCloser
	ctx context.Context
	end func()
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && errors.Is(context.Cause(b.ctx), errSlow) {
		err = io.ErrUnexpectedEOF // like a connection that was cut
	}
	return n, err
}

func (b *limitedBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
