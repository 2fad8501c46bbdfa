package drains

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"mesh"
)

// The kinds of receivers, as the scheme of a URL.
const (
	schemeSyslogTLS = "syslog+tls"
	schemeSyslogTCP = "syslog+tcp"
	schemeHTTPS     = "https"
	schemeHTTP      = "http"
	schemeOTLP      = "otlp+https"
	schemeOTLPPlain = "otlp+http"
	schemeLoki      = "loki+https"
	schemeLokiPlain = "loki+http"
)

// Schemes lists the kinds of receivers, for help.
const Schemes = "syslog+tls://HOST[:6514], https://…, otlp+https://… or loki+https://…"

var schemes = []string{schemeSyslogTLS, schemeSyslogTCP, schemeHTTPS, schemeHTTP, schemeOTLP, schemeOTLPPlain, schemeLoki, schemeLokiPlain}

// plainText are the schemes whose connection is not encrypted.
var plainText = []string{schemeSyslogTCP, schemeHTTP, schemeOTLPPlain, schemeLokiPlain}

// parse checks a drain's URL. Its errors do not quote it: it may contain a secret.
func parse(raw string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "the URL cannot be read").WithHint("write it as %s", Schemes)
	}
	switch {
	case !slices.Contains(schemes, u.Scheme):
		return nil, mesh.Errorf(mesh.Invalid, "a drain's URL begins with syslog+tls, https, otlp+https or loki+https, not %q", mesh.Clip(u.Scheme, 20)).WithHint("write it as %s", Schemes)
	case u.Hostname() == "" || u.Opaque != "":
		return nil, mesh.Errorf(mesh.Invalid, "the URL has no host").WithHint("write it as %s", Schemes)
	case u.Fragment != "":
		return nil, mesh.Errorf(mesh.Invalid, "the URL has a part after #, which no receiver gets").WithHint("write # in a password as %%23")
	}
	syslog := u.Scheme == schemeSyslogTLS || u.Scheme == schemeSyslogTCP
	switch {
	case syslog && (u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != ""):
		return nil, mesh.Errorf(mesh.Invalid, "a syslog URL has a host and a port, and nothing else").WithHint("for example: syslog+tls://logs.example.com:6514")
	case syslog && u.Port() == "" && u.Scheme == schemeSyslogTLS:
		u.Host = hostPort(u.Hostname(), "6514") // RFC 5425, 4.1
	case syslog && u.Port() == "":
		u.Host = hostPort(u.Hostname(), "601") // the registered port of syslog-conn
	case strings.HasPrefix(u.Scheme, "otlp") && strings.Trim(u.Path, "/") == "":
		u.Path = "/v1/logs" // the OTLP specification, "OTLP/HTTP Request"
	case strings.HasPrefix(u.Scheme, "loki") && strings.Trim(u.Path, "/") == "":
		u.Path = "/loki/api/v1/push"
	}
	return u, nil
}

func hostPort(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

// Describe checks a drain's URL, and returns it without its secrets. plain reports that
// the lines would not be encrypted on the way.
func Describe(raw mesh.Secret) (shown string, plain bool, err error) {
	u, err := parse(raw.Reveal())
	if err != nil {
		return "", false, err
	}
	if u.User != nil {
		u.User = url.User("…")
	}
	if len(u.RawQuery) > 0 {
		u.RawQuery = "…"
	}
	// Paths of receivers such as Slack's or Datadog's contain tokens.
	shown = u.Scheme + "://"
	if u.User != nil {
		shown += "…@"
	}
	shown += u.Host
	for part := range strings.SplitSeq(strings.Trim(u.Path, "/"), "/") {
		switch {
		case part == "":
		case len(part) > 12:
			shown += "/…"
		default:
			shown += "/" + part
		}
	}
	if u.RawQuery != "" {
		shown += "?…"
	}
	return shown, slices.Contains(plainText, u.Scheme), nil
}

// CheckHeader returns an error unless h is "Name: value".
func CheckHeader(h string) error {
	name, value, ok := strings.Cut(h, ":")
	if !ok || name == "" || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`()<>@,;:\"/[]?={}`, c) }) || strings.ContainsAny(value, "\r\n\x00") {
		return mesh.Errorf(mesh.Invalid, "a header is written as Name: value").WithHint("for example: --header 'Authorization: Bearer TOKEN'")
	}
	return nil
}

// secrets are the parts of a drain that no error may contain.
func secrets(d mesh.Drain, u *url.URL) (out []string) {
	if u.User != nil {
		out = append(out, u.User.Username())
		if p, ok := u.User.Password(); ok {
			out = append(out, p)
		}
	}
	for part := range strings.SplitSeq(u.Path, "/") {
		if len(part) > 12 {
			out = append(out, part)
		}
	}
	if u.RawQuery != "" {
		out = append(out, u.RawQuery)
	}
	for _, values := range u.Query() {
		out = append(out, values...)
	}
	for _, h := range d.Headers {
		if _, v, ok := strings.Cut(h.Reveal(), ":"); ok {
			out = append(out, strings.TrimSpace(v))
		}
	}
	return slices.DeleteFunc(out, func(s string) bool { return len(s) < 4 })
}

// instance is the name of one process of a stack, for receivers.
func instance(stack mesh.StackName, l mesh.LogLine) string {
	return fmt.Sprintf("%s.%s", stack, l.Name)
}
