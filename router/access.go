package router

import (
	"strconv"
	"time"

	"mesh"
)

// AccessRecord describes one request, or one connection on a TCP port. It is passed on
// when the request has ended; for an upgraded connection and for TCP, when both
// directions have.
type AccessRecord struct {
	Time      time.Time         // when the request's head had been read
	Stack     mesh.StackName    // empty for unknown hosts
	Instance  mesh.InstanceName // the last one that the request was sent to; zero if none
	Host      string            // as the client wrote it; for TCP the port, ":5432"
	Method    string
	Path      string // as the client wrote it, without the query, which may hold secrets
	Proto     string // "HTTP/1.1", or "TCP"
	Status    int    // that the client got; 499 if it left before there was one
	Bytes     int64  // of the body, sent to the client; for an upgrade, in both directions
	Duration  time.Duration
	Connect   time.Duration // spent on connecting to instances; mostly 0, since connections are kept
	RequestID string
	ClientIP  string
	Code      Code // what mesh did itself; empty if the app's answer was passed on completely
}

// AppendLine appends the record as a line of the access log:
//
//	at=info method=GET path="/" host=blog.test request_id=… fwd="192.0.2.1" instance=web.1 connect=0ms service=5ms status=200 bytes=12
//	at=error code=app_slow method=…
//	at=info tcp=:5432 fwd="192.0.2.1" instance=db.1 connect=0ms service=61034ms bytes=1234
func (a AccessRecord) AppendLine(b []byte) []byte {
	switch a.Code {
	case "":
		b = append(b, "at=info"...)
	case Redirected, Unauthorized, Forbidden, TooManyTries, RateLimited: // the stack asked for it
		b = append(b, "at=info code="...)
		b = append(b, a.Code...)
	default:
		b = append(b, "at=error code="...)
		b = append(b, a.Code...)
	}
	if a.Proto == protoTCP {
		b = append(b, " tcp="...)
		b = append(b, a.Host...)
	} else {
		b = append(b, " method="...)
		b = append(b, a.Method...)
		b = append(b, " path="...)
		b = appendQuoted(b, a.Path)
		b = append(b, " host="...)
		b = append(b, a.Host...) // a host of a route, otherwise the router would not have found it
		b = append(b, " request_id="...)
		b = append(b, a.RequestID...)
	}
	b = append(b, " fwd="...)
	b = appendQuoted(b, a.ClientIP)
	b = append(b, " instance="...)
	if a.Instance.Service != "" {
		b = append(b, a.Instance.Service...)
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(a.Instance.Slot), 10)
	} else {
		b = append(b, '-')
	}
	b = append(b, " connect="...)
	b = strconv.AppendInt(b, a.Connect.Milliseconds(), 10)
	b = append(b, "ms service="...)
	b = strconv.AppendInt(b, a.Duration.Milliseconds(), 10)
	b = append(b, "ms"...)
	if a.Proto != protoTCP {
		b = append(b, " status="...)
		b = strconv.AppendInt(b, int64(a.Status), 10)
	}
	b = append(b, " bytes="...)
	return strconv.AppendInt(b, a.Bytes, 10)
}

// appendQuoted is strconv.AppendQuote, but fast for strings without escapes.
func appendQuoted(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return strconv.AppendQuote(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// refusal reports whether a rule of the stack has refused the request.
func (c Code) refusal() bool {
	return c == Unauthorized || c == Forbidden || c == TooManyTries || c == RateLimited
}

// Code is one word for why a request did not get a complete answer from the app.
type Code string

// The codes, with the status that the client gets if it can still be sent.
const (
	UnknownHost  Code = "unknown_host"   // 404: no route has the host
	BadRequest   Code = "bad_request"    // 400, 405, 408: the request cannot be forwarded
	Misdirected  Code = "misdirected"    // 421: the TLS connection was opened for another stack's host
	Redirected   Code = "redirected"     // 301, 308: to TLS, or to another host of the stack
	Unauthorized Code = "unauthorized"   // 401: an access rule needs a password
	Forbidden    Code = "forbidden"      // 403: an access rule refuses the client's address
	TooManyTries Code = "too_many_tries" // 429: too many passwords to check, from the client or in all
	RateLimited  Code = "rate_limited"   // 429: an access rule limits the requests
	NotDeployed  Code = "not_deployed"   // 503: the stack has no release yet
	Stopped      Code = "stopped"        // 503: the stack was stopped
	Asleep       Code = "asleep"         // 503: the stack sleeps, and this client does not wake it
	Maintenance  Code = "maintenance"    // 503: the stack is in maintenance
	NoInstance   Code = "no_instance"    // 503: waited, but there was no instance
	NoConnection Code = "no_connection"  // 503: waited, but no instance accepted a connection
	QueueFull    Code = "queue_full"     // 503: too many requests are waiting
	AppClosed    Code = "app_closed"     // 502: the app closed the connection before its answer was complete
	AppGarbage   Code = "app_garbage"    // 502: the app's answer is not HTTP
	AppSlow      Code = "app_slow"       // 504: the app did not begin its answer in time
	Cut          Code = "cut"            // 503: the instance or mesh had to stop before the answer was complete
	ClientGone   Code = "client_gone"    // 499: the client left
	Broken       Code = "broken"         // 500: a bug in mesh; see its log
)
