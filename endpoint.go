package mesh

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"
)

// Endpoint is the part of a host's traffic that goes to a service other than web:
// the requests whose path is Path or below it. web gets the rest.
type Endpoint struct {
	Host    Host
	Path    string // "/" or "/api/v2": decoded, clean, without a final slash
	Service ServiceName
	Strip   bool // the app sees paths without Path; never with "/"
}

// maxPath is the maximum length of an endpoint's path, in bytes.
const maxPath = 200

// ParseEndpoint reads "https://host/path", without the service. The scheme may also
// be http: which of the two a host has depends on its certificate.
func ParseEndpoint(s string) (Endpoint, error) {
	bad := func(format string, args ...any) (Endpoint, error) {
		return Endpoint{}, &Error{
			Kind: Invalid, Text: fmt.Sprintf("%q is not an endpoint: ", Clip(s, 100)) + fmt.Sprintf(format, args...),
			Hint: "use a URL such as https://www.example.com/api",
		}
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if scheme = strings.ToLower(scheme); !ok || scheme != "https" && scheme != "http" {
		return bad("it does not begin with https://")
	}
	name, raw := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		name, raw = rest[:i], rest[i:]
	}
	if strings.HasPrefix(name, "*") {
		return bad("it must be one host, not a wildcard")
	}
	host, err := ParseHost(name)
	if err != nil {
		return Endpoint{}, err
	}
	if strings.ContainsAny(raw, "?#") {
		return bad("its path contains ? or #")
	}
	path, err := url.PathUnescape(raw)
	switch {
	case err != nil:
		return bad("its path is not encoded correctly")
	case strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\uFFFD' }):
		return bad("its path contains a blank or a control character")
	case strings.Contains(strings.ToLower(raw), "%2f"):
		return bad("its path contains %%2F")
	case len(path) > maxPath:
		return bad("its path is longer than %d bytes", maxPath)
	}
	path = strings.TrimSuffix(path, "/")
	for i, part := range strings.Split(path, "/") {
		if i > 0 && (part == "" || part == "." || part == "..") {
			return bad("its path contains the part %q, which leads elsewhere", part)
		}
	}
	return Endpoint{Host: host, Path: cmp.Or(path, "/")}, nil
}

// Covers reports whether a decoded path is the endpoint's or below it.
func (e Endpoint) Covers(path string) bool {
	if e.Path == "/" {
		return path == "" || path[0] == '/' // but not "*"
	}
	rest, ok := strings.CutPrefix(path, e.Path)
	return ok && (rest == "" || rest[0] == '/')
}

// String is the endpoint as people type it.
func (e Endpoint) String() string { return "https://" + string(e.Host) + e.Prefix() }

// Prefix is Path as it is written in a URL.
func (e Endpoint) Prefix() string { return (&url.URL{Path: e.Path}).EscapedPath() }

// Stripped returns a raw path that the endpoint covers without the endpoint's path.
// What it returns begins with a slash and is otherwise unchanged to the byte: decoded,
// it is the decoded path without Path, or "/" if nothing is left of it. So a slash that
// was encoded is one if it ends the prefix, because Covers takes it for one.
func (e Endpoint) Stripped(raw string) string {
	i := 0
	for range len(e.Path) { // a byte may be encoded, also a slash
		switch {
		case i >= len(raw):
			return "/" // the endpoint does not cover the path
		case raw[i] == '%':
			i += len("%2F")
		default:
			i++
		}
	}
	rest := raw[min(i, len(raw)):]
	switch {
	case rest == "":
		return "/"
	case rest[0] == '/':
		return rest
	case len(rest) >= 3 && strings.EqualFold(rest[:3], "%2f"):
		return "/" + rest[3:]
	}
	return "/" + rest // the endpoint does not cover the path
}

// Same reports whether two endpoints are the same part of the same host.
func (e Endpoint) Same(o Endpoint) bool { return e.Host == o.Host && e.Path == o.Path }

// Compare orders endpoints by host, and those of one host by path, longest first.
func (e Endpoint) Compare(o Endpoint) int {
	return cmp.Or(cmp.Compare(e.Host, o.Host), cmp.Compare(len(o.Path), len(e.Path)), cmp.Compare(e.Path, o.Path))
}
