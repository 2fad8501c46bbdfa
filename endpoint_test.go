package mesh_test

import (
	"cmp"
	"errors"
	"net/url"
	"strings"
	"testing"

	"mesh"
)

func TestParseEndpoint(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://www.example.com/api":       "https://www.example.com/api",
		"http://WWW.example.com./api/":      "https://www.example.com/api",
		"HTTPS://example.com":               "https://example.com/",
		"https://example.com/":              "https://example.com/",
		"https://example.com/%61pi/v2":      "https://example.com/api/v2",
		"https://example.com/caf%C3%A9/100": "https://example.com/caf%C3%A9/100",
		"https://example.com/100%25":        "https://example.com/100%25",
	} {
		e, err := mesh.ParseEndpoint(in)
		if err != nil || e.String() != want {
			t.Errorf("%s: got %s, %v", in, e, err)
			continue
		}
		if again, err := mesh.ParseEndpoint(e.String()); err != nil || again != e {
			t.Errorf("%s, printed and read again: %+v, %v", in, again, err)
		}
	}
	for _, in := range []string{
		"", "/api", "example.com/api", "ftp://example.com/", "https://", "https:///api", "https://*.example.com/api", "https://example.com:8080/api",
		"https://me@example.com/api", "https://192.0.2.1/api", "https://example.com/api?x=1", "https://example.com?x", "https://example.com/api#x",
		"https://example.com//api", "https://example.com/a//b", "https://example.com/a/../b", "https://example.com/./a", "https://example.com/%2e%2e/a",
		"https://example.com/a%2Fb", "https://example.com/a b", "https://example.com/a%20b", "https://example.com/%zz", "https://example.com/%00", "https://example.com/%ff", "https://example.com//",
	} {
		if e, err := mesh.ParseEndpoint(in); !errors.Is(err, mesh.Invalid) {
			t.Errorf("%q: got %+v, %v", in, e, err)
		}
	}
}

func TestEndpoint_Covers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		path, asked string
		want        bool
	}{
		{"/api", "/api", true},
		{"/api", "/api/", true},
		{"/api", "/api/v2", true},
		{"/api", "/apis", false},
		{"/api", "/", false},
		{"/api", "/v1/api", false},
		{"/api", "//api", false},
		{"/api", "", false},
		{"/", "/", true},
		{"/", "/a", true},
		{"/", "", true},
		{"/", "*", false},
	} {
		if got := (mesh.Endpoint{Host: "h", Path: tc.path}).Covers(tc.asked); got != tc.want {
			t.Errorf("%s covers %s: %t", tc.path, tc.asked, got)
		}
	}
}

// What is left of a path is the same to every byte, and decoded it is the decoded path
// without the endpoint's.
func FuzzEndpoint_Stripped(f *testing.F) {
	for _, s := range []string{"/api", "/api/", "/api//x", "/%61pi%2Fx", "/api%2f%2F", "/api/../x", "/caf%C3%A9/%00", "/apix", "*", ""} {
		f.Add("/api", s)
		f.Add("/café", s)
	}
	f.Fuzz(func(t *testing.T, path, raw string) {
		e, err := mesh.ParseEndpoint("https://example.com" + path)
		decoded, bad := url.PathUnescape(raw)
		if err != nil || bad != nil || e.Path == "/" || !e.Covers(decoded) {
			return
		}
		rest := e.Stripped(raw)
		if again, err := url.PathUnescape(rest); err != nil || again != cmp.Or(decoded[len(e.Path):], "/") {
			t.Errorf("%s without %s is %s: %q, %v", raw, path, rest, again, err)
		}
		if rest[0] != '/' || rest != "/" && !strings.HasSuffix(raw, rest[1:]) {
			t.Errorf("%s without %s is %s", raw, path, rest)
		}
	})
}

func FuzzParseEndpoint(f *testing.F) {
	f.Add("https://www.example.com/api/%C3%A9")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := mesh.ParseEndpoint(s)
		if err != nil {
			return
		}
		if again, err := mesh.ParseEndpoint(e.String()); err != nil || again != e {
			t.Errorf("%q gives %+v, and that %+v, %v", s, e, again, err)
		}
		if !e.Covers(e.Path) {
			t.Errorf("%+v does not cover its own path", e)
		}
	})
}
