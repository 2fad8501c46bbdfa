package router

import (
	"net/url"
	"strings"
)

// An endpoint may strip its path from what the app sees (svc:publish --strip-prefix). The
// app gets it in X-Forwarded-Prefix, so that it can make links to itself. Its answers are
// passed on unchanged, including redirects and cookies.

// fieldPrefix is not in any standard; Traefik and Spring know it.
const fieldPrefix = "X-Forwarded-Prefix"

// appTarget is the request target that the app sees.
func (q *request) appTarget() string {
	target := rawTarget(q.r)
	if q.strips == nil {
		return target
	}
	path, query, has := strings.Cut(target, "?")
	if path = q.strips.Stripped(path); has {
		return path + "?" + query
	}
	return path
}

// appURL is appTarget as net/http's client needs it.
func (q *request) appURL(host string) *url.URL {
	u := &url.URL{Scheme: "http", Host: host, Path: q.r.URL.Path, RawPath: q.r.URL.RawPath, RawQuery: q.r.URL.RawQuery}
	if q.strips != nil {
		u.RawPath = q.strips.Stripped(q.r.URL.EscapedPath())
		if u.Path = q.r.URL.Path[len(q.strips.Path):]; u.Path == "" {
			u.Path = "/"
		}
	}
	return u
}

// appendAddress writes the lines of the head that depend on the endpoint.
func (q *request) appendAddress(b []byte) []byte {
	from := len(b)
	b = append(b, q.r.Method...)
	b = append(b, ' ')
	b = append(b, q.appTarget()...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", q.r.Host)
	if q.strips != nil {
		b = appendField(b, fieldPrefix, q.strips.Prefix())
	}
	q.address, q.written = len(b)-from, q.strips
	return b
}

// readdress writes these lines again if the routes have changed since, while the request
// waited for an instance.
func (q *request) readdress() {
	if q.strips == q.written {
		return
	}
	rest := q.head[q.address:]
	q.head = append(q.appendAddress(nil), rest...)
}
