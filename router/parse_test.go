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

// The output is stable when parsed again, and agrees with mesh.ParseHost about names
// that both accept.
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

// net/http also accepts every accepted head, and reads it the same way: status,
// framing, end.
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

// net/http also accepts every accepted chunk, with the same size.
func FuzzChunkSize(f *testing.F) {
	for _, s := range []string{"5", "a;x=y", "1F \t", "0", "+1", "0x1", "-1", "", ";", "ffffffffffffffff", " 1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, l []byte) {
		n, err := router.ChunkSize(l)
		// net/http does not accept the blanks before an extension that RFC 9112
		// allows.
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

// followed is a reader that checks what it reads, in pieces.
type followed struct {
	router.Framing
	raw   []byte
	piece int
	given int // bytes
}

func (f *followed) Read(p []byte) (int, error) {
	if len(f.raw) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), f.piece)], f.raw)
	ok, err := f.Check(f.raw[:n])
	f.raw = f.raw[n:]
	f.given += ok
	if err != nil {
		f.raw = nil
	}
	return ok, err
}

// Requests that are not refused have only one framing: net/http sees the end of each
// head and each body where this package does, however they are split; and net/http
// has not accepted any that are refused.
func FuzzFraming(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: b\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\ncontent-length:5 \r\nX: y\r\n z\r\n\r\nhe\nlo",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n", "\n\nGET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length\r: 5\r\n\r\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n Content-Length: 5\r\n\r\n",
	} {
		f.Add([]byte(s), 1)
		f.Add([]byte(s), 4096)
	}
	f.Fuzz(func(t *testing.T, raw []byte, piece int) {
		in := &followed{raw: raw, piece: max(1, piece)}
		// As small as a bufio.Reader can be, and one that has everything at once.
		for _, size := range []int{16, 1 << 20} {
			in.Framing, in.raw, in.given = router.Framing{}, raw, 0
			b := bufio.NewReaderSize(in, size)
			for {
				r, err := http.ReadRequest(b)
				if err != nil || r.Method == "PRI" {
					break
				}
				if len(r.TransferEncoding) > 0 {
					if _, ok := in.Followed(); ok {
						t.Fatalf("%q: in chunks, and still followed", raw)
					}
					if r.Header["Content-Length"] != nil {
						t.Fatalf("%q: two framings", raw)
					}
					break
				}
				// Everything checked up to here, and nothing more.
				at := in.given - b.Buffered()
				var once router.Framing
				if _, err := once.Check(raw[:at]); err != nil {
					t.Fatalf("%q: net/http has taken %q, which is refused: %v", raw, raw[:at], err)
				}
				if body, ok := once.Followed(); !ok || body != r.ContentLength || !once.Between() {
					t.Fatalf("%q: after %q a body of %d is to come, to net/http one of %d", raw, raw[:at], body, r.ContentLength)
				}
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					break
				}
			}
		}
	})
}

// The cost of checking a browser's head.
func BenchmarkFraming(b *testing.B) {
	head := []byte("GET /articles/2026/11/a-headline?from=front HTTP/1.1\r\nHost: blog.example.com\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: text/html,application/xhtml+xml\r\n" +
		"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\n" +
		"Cookie: session=" + strings.Repeat("0123456789abcdef", 8) + "\r\nUpgrade-Insecure-Requests: 1\r\n\r\n")
	var f router.Framing
	b.ReportAllocs()
	b.SetBytes(int64(len(head)))
	for b.Loop() {
		if n, err := f.Check(head); n != len(head) || err != nil {
			b.Fatal(n, err)
		}
	}
}
