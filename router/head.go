package router

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// answer is what the head of an app's answer says about its framing.
type answer struct {
	code    int
	length  int64 // -1: not given
	chunked bool
	last    bool // the connection cannot be used again
}

// parseHead reads the head of an answer (RFC 9112) into h, which must be empty,
// without the fields that only concern this connection. raw ends with the empty
// line. Apps get more leeway than clients, but nothing ambiguous is accepted. All
// values share one string.
func parseHead(raw []byte, h http.Header) (answer, error) {
	a := answer{length: -1}
	s := string(raw)
	line, s := cutLine(s)
	// "HTTP/1.1 200 OK"; the reason, and even the blank before it, may be missing.
	if len(line) < 12 || line[:7] != "HTTP/1." || (line[7] != '0' && line[7] != '1') || line[8] != ' ' || (len(line) > 12 && line[12] != ' ') {
		return a, errGarbage
	}
	for _, d := range []byte(line[9:12]) {
		if d < '0' || d > '9' {
			return a, errGarbage
		}
		a.code = a.code*10 + int(d-'0')
	}
	if a.code < 100 {
		return a, errGarbage
	}
	old := line[7] == '0'
	a.last = old
	values := make([]string, strings.Count(s, "\n"))
	var connection []string
	for {
		line, s = cutLine(s)
		if line == "" {
			break
		}
		colon := strings.IndexByte(line, ':')
		if colon <= 0 {
			return a, errGarbage
		}
		// Blanks before the colon are removed (RFC 9112, section 5.1); a folded line
		// begins with one, is not a name, and is refused (section 5.2).
		k, v := strings.TrimRight(line[:colon], " \t"), strings.Trim(line[colon+1:], " \t")
		if !httpguts.ValidHeaderFieldName(k) || !httpguts.ValidHeaderFieldValue(v) {
			return a, errGarbage
		}
		switch k = textproto.CanonicalMIMEHeaderKey(k); k {
		case "Content-Length":
			n, err := strconv.ParseUint(v, 10, 63)
			if err != nil || v[0] == '+' || (a.length >= 0 && a.length != int64(n)) {
				return a, errGarbage
			}
			if a.length >= 0 {
				continue
			}
			a.length = int64(n)
		case "Transfer-Encoding":
			if a.chunked || old || !strings.EqualFold(v, "chunked") {
				return a, errGarbage
			}
			a.chunked = true
			continue
		case "Connection":
			connection = append(connection, v)
			continue
		case "Keep-Alive", "Proxy-Connection", "Te":
			continue
		case "Upgrade":
			if a.code != http.StatusSwitchingProtocols {
				continue
			}
		}
		if have, ok := h[k]; ok {
			h[k] = append(have, v)
			continue
		}
		values[0] = v
		h[k] = values[:1:1]
		values = values[1:]
	}
	for _, v := range connection {
		for t := range strings.SplitSeq(v, ",") {
			switch t = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(t)); t {
			case "Close":
				a.last = true
			case "Keep-Alive":
				a.last = a.last && !old
			case "Content-Length", "Upgrade":
			default:
				delete(h, t)
			}
		}
	}
	if a.chunked && a.length >= 0 {
		// The chunks count (RFC 9112, section 6.3). An app that sends both does not
		// get another request on this connection.
		delete(h, "Content-Length")
		a.length, a.last = -1, true
	}
	return a, nil
}

// cutLine splits off the first line, without its end.
func cutLine(s string) (line, rest string) {
	line, rest, _ = strings.Cut(s, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

// bodyless reports whether an answer has no body, whatever its fields say (RFC 9112,
// section 6.3).
func (a answer) bodyless(method string) bool {
	return method == http.MethodHead || a.code < 200 || a.code == http.StatusNoContent || a.code == http.StatusNotModified
}
