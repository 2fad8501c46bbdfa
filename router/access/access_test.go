package access_test

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"mesh"
	"mesh/router/access"
)

var (
	client = netip.MustParseAddr("192.0.2.7")
	at     = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
)

func basic(name, password string) []string {
	return []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))}
}

func person(t testing.TB, name, password string) mesh.AccessUser {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return mesh.AccessUser{Name: name, Hash: mesh.NewSecret(string(hash))}
}

func prefixes(t testing.TB, list ...string) (out []netip.Prefix) {
	t.Helper()
	for _, s := range list {
		p, err := mesh.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func gate(rules mesh.AccessRules) *access.Gate { return access.New(rules, access.NewChecks()) }

// ask is a request for a path at a time.
func ask(path string, authorization []string, now time.Time) access.Request {
	return access.Request{Client: client, Path: path, RawPath: path, Authorization: authorization, Now: now}
}

func TestJudge_Addresses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		allow, deny []string
		client      string
		want        access.Refusal
	}{
		{nil, nil, "192.0.2.7", access.Admitted},
		{[]string{"192.0.2.7"}, nil, "192.0.2.7", access.Admitted},
		{[]string{"192.0.2.7"}, nil, "192.0.2.8", access.Address},
		{[]string{"192.0.2.0/24"}, nil, "192.0.2.8", access.Admitted},
		{[]string{"192.0.2.0/24"}, []string{"192.0.2.8"}, "192.0.2.8", access.Address},
		{[]string{"192.0.2.8"}, []string{"192.0.2.0/24"}, "192.0.2.8", access.Address},
		{nil, []string{"192.0.2.0/24"}, "192.0.2.8", access.Address},
		{nil, []string{"192.0.2.0/24"}, "198.51.100.1", access.Admitted},
		{nil, []string{"192.0.2.0/24"}, "::ffff:192.0.2.8", access.Address},
		{[]string{"::ffff:192.0.2.0/120"}, nil, "192.0.2.8", access.Admitted},
		{[]string{"192.0.2.0/24"}, nil, "::ffff:192.0.2.8", access.Admitted},
		{[]string{"2001:db8::/32"}, nil, "2001:db8::1", access.Admitted},
		{[]string{"fe80::/10"}, nil, "fe80::1%eth0", access.Admitted},
		{nil, []string{"fe80::/10"}, "fe80::1%eth0", access.Address},
		{[]string{"0.0.0.0/0"}, nil, "2001:db8::1", access.Address},
		{[]string{"0.0.0.0/0", "::/0"}, nil, "2001:db8::1", access.Admitted},
		{[]string{"0.0.0.0/0", "::/0"}, nil, "", access.Address},
		{nil, []string{"192.0.2.0/24"}, "", access.Address},
	} {
		r := ask("/", nil, at)
		r.Client, _ = netip.ParseAddr(tc.client)
		g := gate(mesh.AccessRules{Allow: prefixes(t, tc.allow...), Deny: prefixes(t, tc.deny...)})
		if v := g.Judge(r); v.Refusal != tc.want || v.Consumed {
			t.Errorf("allow %q, deny %q, from %s: %+v, want %d", tc.allow, tc.deny, tc.client, v, tc.want)
		}
		if r.Redirected = true; g.Judge(r).Refusal != tc.want {
			t.Errorf("allow %q, deny %q, from %s: a redirect makes a difference", tc.allow, tc.deny, tc.client)
		}
	}
}

func TestJudge_Passwords(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 72)
	rules := mesh.AccessRules{Users: []mesh.AccessUser{person(t, "ann", "päss:word"), person(t, "bob", "a"), person(t, "cid", long)}, Except: []string{"/health"}}
	for name, tc := range map[string]struct {
		auth []string
		want access.Refusal
	}{
		"right":                       {basic("ann", "päss:word"), access.Admitted},
		"right, long":                 {basic("cid", long), access.Admitted},
		"scheme in lower case":        {[]string{"basic " + strings.TrimPrefix(basic("bob", "a")[0], "Basic ")}, access.Admitted},
		"two blanks":                  {[]string{"Basic  " + strings.TrimPrefix(basic("bob", "a")[0], "Basic ")}, access.Admitted},
		"none":                        {nil, access.Password},
		"wrong":                       {basic("ann", "b"), access.Password},
		"of another":                  {basic("ann", "a"), access.Password},
		"unknown user":                {basic("eve", "a"), access.Password},
		"name with other case":        {basic("Bob", "a"), access.Password},
		"no user":                     {basic("", "a"), access.Password},
		"no password":                 {basic("bob", ""), access.Password},
		"repeated, as bcrypt repeats": {basic("bob", "a\x00a"), access.Password},
		"longer than bcrypt sees":     {basic("cid", long+"x"), access.Password},
		"no colon":                    {[]string{"Basic " + base64.StdEncoding.EncodeToString([]byte("bob"))}, access.Password},
		"not base64":                  {[]string{"Basic !"}, access.Password},
		"no token":                    {[]string{"Basic"}, access.Password},
		"empty":                       {[]string{""}, access.Password},
		"another scheme":              {[]string{"Bearer " + strings.TrimPrefix(basic("bob", "a")[0], "Basic ")}, access.Password},
		"two fields":                  {append(basic("bob", "a"), basic("bob", "a")...), access.Password},
		"two credentials in one":      {[]string{basic("bob", "a")[0] + ", " + basic("bob", "a")[0]}, access.Password},
		"the hash instead":            {basic("bob", rules.Users[1].Hash.Reveal()), access.Password},
		"Latin-1":                     {basic("ann", "p\xe4ss:word"), access.Password},
	} {
		g := gate(rules)
		for range 2 { // the second time it may be known
			if v := g.Judge(ask("/", tc.auth, at)); v.Refusal != tc.want || v.Consumed != (tc.want == access.Admitted) {
				t.Errorf("%s: %+v, want %d", name, v, tc.want)
			}
		}
		if v := g.Judge(ask("/health/x", tc.auth, at)); v.Refusal != access.Admitted || v.Consumed {
			t.Errorf("%s, on an excepted path: %+v", name, v)
		}
		r := ask("/", tc.auth, at)
		if r.Redirected = true; g.Judge(r) != (access.Verdict{}) {
			t.Errorf("%s: a redirect needs a password", name)
		}
	}
}

func TestJudge_Limit(t *testing.T) {
	t.Parallel()
	other := netip.MustParseAddr("2001:db8:1:2:3::4")
	neighbour := netip.MustParseAddr("2001:db8:1:2:ffff::")
	for _, perClient := range []bool{false, true} {
		g := gate(mesh.AccessRules{Limit: mesh.Rate{Requests: 3, Per: time.Second, PerClient: perClient}, Except: []string{"/health"}})
		for range 3 {
			if v := g.Judge(ask("/", nil, at)); v.Refusal != access.Admitted {
				t.Fatalf("%+v", v)
			}
		}
		v := g.Judge(ask("/", nil, at))
		if v.Refusal != access.Limit || v.Retry < 333*time.Millisecond || v.Retry > 334*time.Millisecond {
			t.Errorf("%+v", v)
		}
		if v := g.Judge(ask("/health", nil, at)); v.Refusal != access.Admitted {
			t.Errorf("an excepted path is limited: %+v", v)
		}
		r := ask("/", nil, at)
		if r.Redirected = true; g.Judge(r).Refusal != access.Admitted {
			t.Error("a redirect is limited")
		}
		r.Redirected, r.Client = false, other
		if v := g.Judge(r); (v.Refusal == access.Admitted) != perClient {
			t.Errorf("another client, per client %v: %+v", perClient, v)
		}
		for range 2 {
			_ = g.Judge(r)
		}
		if r.Client = neighbour; g.Judge(r).Refusal != access.Limit {
			t.Error("another address of the same IPv6 network counts by itself")
		}
		if v := g.Judge(ask("/", nil, at.Add(v.Retry))); v.Refusal != access.Admitted {
			t.Errorf("after the time that was told: %+v", v)
		}
		if v := g.Judge(ask("/", nil, at.Add(v.Retry))); v.Refusal != access.Limit {
			t.Errorf("more than the rate: %+v", v)
		}
	}
	g := gate(mesh.AccessRules{Limit: mesh.Rate{Requests: 30, Per: time.Minute}})
	for range 30 {
		_ = g.Judge(ask("/", nil, at))
	}
	if v := g.Judge(ask("/", nil, at)); v.Refusal != access.Limit || v.Retry < 2*time.Second || v.Retry > 2100*time.Millisecond {
		t.Errorf("30r/m: %+v", v)
	}
}

// The order of the rules: an address that is refused learns nothing about passwords, and
// who has no password uses up no tokens.
func TestJudge_Order(t *testing.T) {
	t.Parallel()
	rules := mesh.AccessRules{Users: []mesh.AccessUser{person(t, "ann", "a")}, Deny: prefixes(t, "198.51.100.0/24"), Limit: mesh.Rate{Requests: 1, Per: time.Minute}}
	g := gate(rules)
	r := ask("/", basic("ann", "a"), at)
	if r.Client = netip.MustParseAddr("198.51.100.1"); g.Judge(r).Refusal != access.Address {
		t.Error("the right password beats a denied address")
	}
	for range 5 {
		if v := g.Judge(ask("/", nil, at)); v.Refusal != access.Password {
			t.Errorf("%+v", v)
		}
	}
	if v := g.Judge(ask("/", basic("ann", "a"), at)); v.Refusal != access.Admitted {
		t.Errorf("strangers have used up the limit: %+v", v)
	}
	if v := g.Judge(ask("/", basic("ann", "a"), at)); v.Refusal != access.Limit {
		t.Errorf("%+v", v)
	}
}

func TestJudge_Guessing(t *testing.T) {
	t.Parallel()
	g := gate(mesh.AccessRules{Users: []mesh.AccessUser{person(t, "ann", "a"), person(t, "bob", "b")}})
	for i := range 10 {
		if v := g.Judge(ask("/", basic("ann", fmt.Sprint("guess", i)), at)); v.Refusal != access.Password {
			t.Fatalf("try %d: %+v", i, v)
		}
	}
	v := g.Judge(ask("/", basic("ann", "a"), at))
	if v.Refusal != access.Guessing || v.Retry <= 5*time.Second || v.Retry > 7*time.Second {
		t.Errorf("the eleventh try: %+v", v)
	}
	if v := g.Judge(ask("/", nil, at)); v.Refusal != access.Password {
		t.Errorf("without a password: %+v", v)
	}
	if v := g.Judge(ask("/", basic("bob", "b"), at)); v.Refusal != access.Admitted {
		t.Errorf("another user at the same address: %+v", v)
	}
	r := ask("/", basic("ann", "a"), at)
	if r.Client = netip.MustParseAddr("192.0.2.8"); g.Judge(r).Refusal != access.Admitted {
		t.Error("another address is locked out as well")
	}
	// Now the password is known; the guesser must not see which one is right.
	for _, password := range []string{"a", "z"} {
		if v := g.Judge(ask("/", basic("ann", password), at)); v.Refusal != access.Guessing {
			t.Errorf("%s: %+v", password, v)
		}
	}
	if v := g.Judge(ask("/", basic("ann", "a"), at.Add(v.Retry))); v.Refusal != access.Admitted {
		t.Errorf("after the time that was told: %+v", v)
	}
	// Right passwords use up no tries, however many.
	for range 50 {
		if v := g.Judge(ask("/", basic("ann", "a"), at.Add(v.Retry))); v.Refusal != access.Admitted {
			t.Fatalf("%+v", v)
		}
	}
}

// Many requests at once with the right password need one check, and none of them is
// refused; with many wrong ones, only some are checked.
func TestJudge_Floods(t *testing.T) {
	t.Parallel()
	rules := mesh.AccessRules{Users: []mesh.AccessUser{person(t, "ann", "right")}}
	// flood judges n requests while no check ends, until as many as it says are refused
	// at once.
	flood := func(n, atOnce int, request func(i int) access.Request) map[access.Refusal]int {
		t.Helper()
		checks := access.NewChecks()
		g, release := access.New(rules, checks), checks.Block()
		verdicts := make(chan access.Refusal, n)
		for i := range n {
			go func() { verdicts <- g.Judge(request(i)).Refusal }()
		}
		got := map[access.Refusal]int{}
		for i := range n {
			if i == atOnce {
				release()
			}
			got[<-verdicts]++
		}
		return got
	}
	if got := flood(500, 0, func(int) access.Request { return ask("/", basic("ann", "right"), at) }); got[access.Admitted] != 500 {
		t.Errorf("right passwords: %v", got)
	}
	got := flood(200, 190, func(i int) access.Request { return ask("/", basic("ann", fmt.Sprint(i)), at) })
	if got[access.Password] != 10 || got[access.Guessing] != 190 {
		t.Errorf("wrong passwords of one client: %v", got)
	}
	got = flood(200, 168, func(i int) access.Request {
		r := ask("/", basic("ann", fmt.Sprint(i)), at)
		r.Client = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		return r
	})
	if got[access.Password] != 32 || got[access.Guessing] != 168 {
		t.Errorf("wrong passwords of many clients: %v", got)
	}
}

// The memory for clients is limited, whatever comes.
func TestJudge_ManyClients(t *testing.T) {
	t.Parallel()
	g := gate(mesh.AccessRules{Limit: mesh.Rate{Requests: 1, Per: time.Minute, PerClient: true}})
	for i := range 30_000 {
		r := ask("/", nil, at.Add(time.Duration(i)*time.Microsecond))
		r.Client = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if v := g.Judge(r); v.Refusal != access.Admitted {
			t.Fatalf("client %d: %+v", i, v)
		}
	}
	if n := g.Clients(); n != 10_000 {
		t.Errorf("%d clients are remembered", n)
	}
}

func BenchmarkJudge(b *testing.B) {
	user := person(b, "ann", "a")
	for name, rules := range map[string]mesh.AccessRules{
		"password":  {Users: []mesh.AccessUser{user}},
		"addresses": {Allow: prefixes(b, "192.0.2.0/24"), Deny: prefixes(b, "192.0.2.8")},
		"limit":     {Limit: mesh.Rate{Requests: 999_999, Per: time.Second}},
		"client":    {Limit: mesh.Rate{Requests: 999_999, Per: time.Second, PerClient: true}},
		"excepted":  {Users: []mesh.AccessUser{user}, Except: []string{"/health", "/x"}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			g := gate(rules)
			path := "/"
			if name == "excepted" {
				path = "/x"
			}
			auth, now := basic("ann", "a"), at
			for b.Loop() {
				now = now.Add(10 * time.Microsecond)
				if v := g.Judge(ask(path, auth, now)); v.Refusal != access.Admitted {
					b.Fatal(v)
				}
			}
		})
	}
}
