package router_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"mesh"
	"mesh/router"
)

func TestNormalHost(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a.test": "a.test", "A.Test:80": "a.test", "a.test.": "a.test", "a.test.:443": "a.test", "a.test:": "a.test",
		"[::1]": "[::1]", "[::1]:80": "[::1]", "[0:0::1]": "[::1]", "[::1%eth0]": "", "[::1]x": "", "[::1": "", "::1": "", "[127.0.0.1]": "",
		"127.0.0.1:8080": "127.0.0.1", "localhost": "localhost", "a_b.test": "a_b.test", "xn--bcher-kva.test": "xn--bcher-kva.test",
		"": "", ".": "", "..": "", ".a": "", "a..b": "", "a.test..": "", "a b": "", "a/b": "", "a@b": "", "*.a": "", "bücher.test": "", "a.test:8o": "", "a:b:c": "",
		"a\x00": "", strings.Repeat("a", 254): "",
	} {
		if got := router.NormalHost(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// What comes out goes in again unchanged, and agrees with mesh.ParseHost about
// the names that both take.
func FuzzNormalHost(f *testing.F) {
	for _, s := range []string{"a.test", "A.B:80", "a.", "[::1]:80", "[FE80::1]", "*.a", "a..b", "xn--a.b:", "_a.b-c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h := router.NormalHost(s)
		if h == "" {
			return
		}
		if again := router.NormalHost(h); again != h {
			t.Fatalf("%q: %q, then %q", s, h, again)
		}
		if p, err := mesh.ParseHost(h); err == nil && string(p) != h {
			t.Fatalf("%q: %q here, %q in the vocabulary", s, h, p)
		}
		if strings.ContainsAny(h, "*/ \r\n\t@") || h != strings.ToLower(h) {
			t.Fatalf("%q: %q", s, h)
		}
	})
}

// A head that is taken is one that net/http takes too, and reads the same way:
// status, framing, end.
func FuzzParseHead(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200\r\n\r\n", "HTTP/1.1 204 \nA: b\n\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close, X-A\r\nX-A: 1\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 101 X\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nset-cookie: b\r\nX :y\r\n\r\n",
		"HTTP/1.1 304 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\nA: \x01\r\n\r\n", "HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, n, err := router.ParseHead(raw)
		if n < 0 || err != nil {
			return
		}
		if a.Code < 100 || a.Code > 999 || a.Length < -1 || a.Chunked && a.Length >= 0 {
			t.Fatalf("%q: %+v", raw, a)
		}
		for k, vv := range a.Header {
			for _, v := range vv {
				if k == "" || strings.ContainsAny(k, " \r\n:\t") || strings.ContainsAny(v, "\r\n\x00") {
					t.Fatalf("%q: field %q: %q", raw, k, v)
				}
			}
		}
		if bytes.Contains(raw[:n], []byte(" :")) || bytes.Contains(raw[:n], []byte("\t:")) {
			return // net/http refuses what RFC 9112, section 5.1, has a proxy mend
		}
		if line, _, _ := bytes.Cut(raw, []byte("\n")); len(bytes.TrimRight(line, "\r")) == 12 && bytes.HasSuffix(line, []byte("\r\r")) {
			return
		}
		res, err := http.ReadResponse(bufio.NewReaderSize(bytes.NewReader(raw), 1<<20), &http.Request{Method: "GET"})
		if err != nil {
			t.Fatalf("%q: taken, but net/http says %v", raw, err)
		}
		chunked := len(res.TransferEncoding) > 0
		if bodyless := a.Code < 200 || a.Code == 204 || a.Code == 304; bodyless {
			return
		}
		if res.StatusCode != a.Code || chunked != a.Chunked || !chunked && res.ContentLength != a.Length {
			t.Fatalf("%q: %+v; net/http: %d %v %d", raw, a, res.StatusCode, res.TransferEncoding, res.ContentLength)
		}
	})
}

// The chunks that are taken are those that net/http takes, of the same size.
func FuzzChunkSize(f *testing.F) {
	for _, s := range []string{"5", "a;x=y", "1F \t", "0", "+1", "0x1", "-1", "", ";", "ffffffffffffffff", " 1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, l []byte) {
		n, err := router.ChunkSize(l)
		// net/http does not take the blanks before an extension that RFC 9112 allows.
		if err != nil || bytes.ContainsAny(l, "\r\n") || bytes.Contains(l, []byte(" ;")) || bytes.Contains(l, []byte("\t;")) || len(l) > 1000 || n > 1<<20 {
			return
		}
		msg := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + string(l) + "\r\n" + strings.Repeat("x", int(n)) + "\r\n"
		if n > 0 {
			msg += "0\r\n\r\n"
		}
		res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(msg)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); err != nil || int64(len(b)) != n {
			t.Fatalf("%q: %d; net/http: %d, %v", l, n, len(b), err)
		}
	})
}
