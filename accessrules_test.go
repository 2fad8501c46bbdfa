package mesh_test

import (
	"errors"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	"mesh"
)

// Every way around the exceptions that is known, and what must still work.
func TestAccessRules_Excepted(t *testing.T) {
	t.Parallel()
	rules := mesh.AccessRules{Except: []string{"/health", "/webhooks/git", "/café"}}
	for raw, want := range map[string]bool{
		"/health": true, "/health/": true, "/health/db": true, "/health/db/": true, "/health/a.b": true, "/health/...x": true,
		"/webhooks/git": true, "/webhooks/git/push": true, "/webhooks/git/@me/a+b,c=d!": true,
		"/%68ealth": true, "/caf%C3%A9": true, "/caf%C3%A9/x": true, "/health/%C3%BC": true,

		"": false, "/": false, "*": false, "health": false, "/healthy": false, "/Health": false, "/x/health": false,
		"/webhooks": false, "/webhooks/": false, "/webhooks/gitea": false,

		"/health/../admin": false, "/health/..": false, "/health/.": false, "/health/./x": false, "/health/.../x": false,
		"//health": false, "/health//": false, "/health//admin": false, "///health": false, "/./health": false,
		"/admin/../health": false, "/admin/%2e%2e/health": false,
		"/health/%2e%2e/admin": false, "/health/%2E%2E/admin": false, "/health/.%2e/admin": false, "/%2e%2e/health": false,
		"/health%2f..%2fadmin": false, "/health%2Fadmin": false, "/health/..%2fadmin": false, "/health/x%2fy": false,
		"/health/%252e%252e/admin": false, "/health/%252fadmin": false, "/health/%25": false,
		`/health/..\admin`: false, `/health\..\admin`: false, "/health/..%5cadmin": false, "/health%5C..%5Cadmin": false,
		"/health/..;/admin": false, "/health;/../admin": false, "/health/..;x=y/admin": false, "/health;x": false, "/health/..%3b/admin": false,
		"/health/%00": false, "/health/..%00/admin": false, "/health%0a": false, "/health/.%09./admin": false, "/health/%20": false, "/health/..%20/admin": false,
		"/health/%c0%ae%c0%ae/admin": false, "/health/%ff": false, "/health/%EF%BC%8E%EF%BC%8E/admin": false, "/health/..%EF%BC%8Fadmin": false, "/health/%E2%80%A5/admin": false,
		"/health%3f/../admin": false, "/health%23/admin": false, "/health/\u202e": false,
	} {
		decoded, err := url.PathUnescape(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := rules.Excepted(decoded, raw); got != want {
			t.Errorf("%s: %v, want %v", raw, got, want)
		}
	}
	if (mesh.AccessRules{}).Excepted("/health", "/health") {
		t.Error("an exception from nothing")
	}
}

// Whatever a program makes of an excepted path, it is still below an excepted one.
func FuzzAccessRules_Excepted(f *testing.F) {
	for _, raw := range []string{"/health", "/health/../admin", "//health", "/health/%2e%2e/admin", "/health/%252e%252e/x", "/health/..;/x", `/health/..\x`, "/health/%e2%80%a5"} {
		f.Add(raw)
	}
	rules := mesh.AccessRules{Except: []string{"/health"}}
	below := func(p string) bool { return p == "/health" || strings.HasPrefix(p, "/health/") }
	f.Fuzz(func(t *testing.T, raw string) {
		decoded, err := url.PathUnescape(raw)
		if err != nil || !rules.Excepted(decoded, raw) {
			return
		}
		again, err := url.PathUnescape(decoded)
		if err != nil {
			t.Fatalf("%q: it cannot be decoded twice", raw)
		}
		bare, _, _ := strings.Cut(decoded, ";")
		undotted := strings.ReplaceAll(strings.ReplaceAll(decoded, "/../", "/"), "/./", "/")
		for what, p := range map[string]string{
			"cleaned": path.Clean(decoded), "cleaned before it is decoded": path.Clean(raw), "decoded twice": path.Clean(again),
			"with backslashes": path.Clean(strings.ReplaceAll(decoded, `\`, "/")), "without parameters": path.Clean(bare),
			"with dots removed": undotted, "without control characters": path.Clean(strings.Map(func(r rune) rune {
				if r <= ' ' {
					return -1
				}
				return r
			}, decoded)),
		} {
			if what == "cleaned before it is decoded" {
				if p, err = url.PathUnescape(p); err != nil {
					t.Fatal(err)
				}
			}
			if !below(p) {
				t.Errorf("%q is excepted, and %s it is %q", raw, what, p)
			}
		}
	})
}

func TestParseAccessPath(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"/health": "/health", "/health/": "/health", "/a/b.c": "/a/b.c", "/caf%C3%A9": "/café", "/café": "/café", "/.well-known/x": "/.well-known/x", "/%61": "/a",
		"": "", "/": "", "health": "", "//": "", "/a//b": "", "/a/..": "", "/../a": "", "/a/%2e%2e": "", "/a%2fb": "", "/a%": "", "/a?b": "", "/a#b": "", "/a b": "", "/a;b": "",
		`/a\b`: "", "/a%25b": "", "/" + strings.Repeat("x", 200): "", "http://h/a": "",
	} {
		got, err := mesh.ParseAccessPath(s)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, mesh.Invalid) {
			t.Errorf("%q: %q, %v", s, got, err)
		}
		if err == nil && !(mesh.AccessRules{Except: []string{got}}).Excepted(got, got) {
			t.Errorf("%q is accepted, and never excepted", s)
		}
	}
}

func TestParsePrefix(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "192.0.2.0/24": "192.0.2.0/24", "2001:db8::1": "2001:db8::1/128", "2001:DB8::/32": "2001:db8::/32", "0.0.0.0/0": "0.0.0.0/0", "::/0": "::/0",
		"::ffff:192.0.2.7": "192.0.2.7/32", "::ffff:192.0.2.0/120": "192.0.2.0/24", "::ffff:0:0/96": "0.0.0.0/0",
		"": "", "x": "", "192.0.2": "", "192.0.2.7/24": "", "192.0.2.0/33": "", "::ffff:192.0.2.0/90": "", "fe80::1%eth0": "", "fe80::%eth0/64": "", "192.0.2.0/-1": "", " 192.0.2.7": "", "192.0.2.7:80": "", "010.0.0.1": "",
	} {
		got, err := mesh.ParsePrefix(s)
		if err != nil && want == "" && errors.Is(err, mesh.Invalid) {
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("%q: %s, %v; want %q", s, got, err, want)
		}
	}
}

func TestParseRate(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"1r/s", "10r/s", "30r/m", "999999r/m"} {
		if r, err := mesh.ParseRate(s); err != nil || r.String() != s || r.Per != time.Second && r.Per != time.Minute {
			t.Errorf("%q: %+v, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "10", "r/s", "0r/s", "-1r/s", "1.5r/s", "10r/h", "10/s", "1000000r/s", "10 r/s", "10r/s ", "010r/s"} {
		if r, err := mesh.ParseRate(s); !errors.Is(err, mesh.Invalid) {
			t.Errorf("%q: %+v, %v", s, r, err)
		}
	}
	if s := (mesh.Rate{}).String(); s != "" {
		t.Errorf("no rate is %q", s)
	}
}

func TestAccessRules_Equal(t *testing.T) {
	t.Parallel()
	p, err := mesh.ParsePrefix("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	full := func() mesh.AccessRules {
		return mesh.AccessRules{
			Users: []mesh.AccessUser{{Name: "me", Hash: mesh.NewSecret("h")}}, Allow: []netip.Prefix{p}, Deny: []netip.Prefix{p},
			Except: []string{"/x"}, Limit: mesh.Rate{Requests: 1, Per: time.Second},
		}
	}
	if !full().Equal(full()) || !full().Clone().Equal(full()) || full().IsZero() || !(mesh.AccessRules{}).IsZero() {
		t.Error("the same rules are not equal")
	}
	for i, change := range []func(*mesh.AccessRules){
		func(r *mesh.AccessRules) { r.Users[0].Hash = mesh.NewSecret("i") },
		func(r *mesh.AccessRules) { r.Users[0].Name = "you" },
		func(r *mesh.AccessRules) { r.Allow = nil },
		func(r *mesh.AccessRules) { r.Deny = nil },
		func(r *mesh.AccessRules) { r.Except[0] = "/y" },
		func(r *mesh.AccessRules) { r.Limit.PerClient = true },
	} {
		a, b := full(), full().Clone()
		change(&b)
		if a.Equal(b) {
			t.Errorf("change %d makes no difference", i)
		}
	}
}
