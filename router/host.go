package router

import (
	"net/netip"
	"strings"
)

// normalHost brings the value of a Host field (RFC 9110, section 7.2) into the form
// of the table's keys: lower case, without port and final dot, IPv6 literals in
// brackets. It returns "" for values that cannot be the name of a route, so that
// nothing odd from a client gets past the lookup, even where a wildcard would match.
// Names in punycode do not change. The usual case does not allocate.
func normalHost(s string) string {
	if s == "" {
		return ""
	}
	if s[0] == '[' {
		return normalLiteral(s)
	}
	h := s
	if i := strings.IndexByte(s, ':'); i >= 0 {
		if !isPort(s[i+1:]) {
			return ""
		}
		h = s[:i]
	}
	h = strings.TrimSuffix(h, ".")
	if h == "" || len(h) > 253 || h[0] == '.' || h[len(h)-1] == '.' {
		return ""
	}
	upper := false
	for i := range len(h) {
		switch c := h[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case 'A' <= c && c <= 'Z':
			upper = true
		case c == '.':
			if h[i-1] == '.' {
				return ""
			}
		default:
			return ""
		}
	}
	if upper {
		return strings.ToLower(h)
	}
	return h
}

func normalLiteral(s string) string {
	end := strings.IndexByte(s, ']')
	if end < 0 {
		return ""
	}
	if rest := s[end+1:]; rest != "" && (rest[0] != ':' || !isPort(rest[1:])) {
		return ""
	}
	a, err := netip.ParseAddr(s[1:end])
	if err != nil || !a.Is6() || a.Zone() != "" {
		return ""
	}
	return "[" + a.String() + "]"
}

// isPort also accepts the empty port, like RFC 3986, section 3.2.3.
func isPort(s string) bool {
	if len(s) > 5 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// hostPort is the port in a Host field, empty if there is none.
func hostPort(s string) string {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || !isPort(s[i+1:]) || strings.IndexByte(s[i:], ']') >= 0 {
		return ""
	}
	return s[i+1:]
}
