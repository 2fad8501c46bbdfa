package command_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"mesh"
)

func (f *fake) SetAccess(_ context.Context, name mesh.StackName, fn func(*mesh.AccessRules) error) error {
	i := slices.IndexFunc(f.stacks, func(s mesh.Stack) bool { return s.Name == name })
	rules := f.stacks[i].Access.Clone()
	if err := fn(&rules); err != nil {
		return err
	}
	f.stacks[i].Access = rules
	return nil
}

func TestAccess(t *testing.T) {
	t.Parallel()
	f := stacks("shop")
	r := do(t, f, "access")
	if r.status != 0 || r.out != "" || !strings.Contains(r.err, "shop has no access rules") || !strings.Contains(r.err, "ssh mesh ssh-keys") {
		t.Errorf("got %d %q %q", r.status, r.out, r.err)
	}
	for _, tc := range []struct{ line, in, want string }{
		{"access:set --user me --password-from -", "planted-pass\r\n", "added user me: requests to shop need a password\n"},
		{"access:set --user ann --password-from=-", strings.Repeat("x", 72), "added user ann: requests to shop need a password\n"},
		{"access:set --user me --password-from -", "\ufeffother planted-pass\n", "changed the password of me for shop\n"},
		{"access:allow 10.0.0.0/8 192.0.2.7 ::ffff:198.51.100.0/120", "", "shop accepts requests from 10.0.0.0/8, 192.0.2.7/32, 198.51.100.0/24\n"},
		{"access allow 10.0.0.0/8", "", "shop accepts requests from 10.0.0.0/8\n"},
		{"access:deny 10.9.0.0/16 2001:db8::1", "", "shop refuses requests from 10.9.0.0/16, 2001:db8::1/128\n"},
		{"access:except /webhooks/,/health /caf%C3%A9", "", "no rule of shop applies to /webhooks, /health, /café, and to what is below\n"},
		{"access:limit 10r/s", "", "shop is limited to 10r/s for all requests together\n"},
		{"access:limit 30r/m --per client", "", "shop is limited to 30r/m for each client\n"},
	} {
		if r := do(t, f, tc.line, stdin(tc.in)); r.status != 0 || r.out != tc.want {
			t.Errorf("%s: %d %q %s", tc.line, r.status, r.out, r.err)
		}
	}
	rules := f.stacks[0].Access
	if len(rules.Users) != 2 || bcrypt.CompareHashAndPassword([]byte(rules.Users[1].Hash.Reveal()), []byte("other planted-pass")) != nil {
		t.Errorf("users are %v", rules.Users)
	}
	r = do(t, f, "access")
	golden(t, "access", "stdout:\n"+r.out+"stderr:\n"+r.err)
	golden(t, "access.json", do(t, f, "access --json").out)
	for _, tc := range []struct{ line, want, left string }{
		{"access:clear users ann", "removed ann from the rules of shop\n", "user allow allow allow deny deny except except except limit"},
		{"access:clear addresses 10.0.0.0/8 10.9.0.0/16", "removed 10.0.0.0/8, 10.9.0.0/16 from the rules of shop\n", "user allow allow deny except except except limit"},
		{"access:clear except /health", "removed /health from the rules of shop\n", "user allow allow deny except except limit"},
		{"access:clear limit", "removed the rules of shop for limit; others are left: ssh mesh access -a shop\n", "user allow allow deny except except"},
		{"access:clear addresses", "removed the rules of shop for addresses; others are left: ssh mesh access -a shop\n", "user except except"},
		{"access:clear", "shop has no access rules: all requests are served\n", ""},
	} {
		if r := do(t, f, tc.line); r.status != 0 || r.out != tc.want {
			t.Errorf("%s: %d %q %s", tc.line, r.status, r.out, r.err)
		}
		var kinds []string
		for line := range strings.Lines(do(t, f, "access").out) {
			kinds = append(kinds, strings.Fields(line)[0])
		}
		if got := strings.Join(kinds, " "); got != tc.left {
			t.Errorf("%s left %q, want %q", tc.line, got, tc.left)
		}
	}
}

func TestAccess_Refusals(t *testing.T) {
	t.Parallel()
	const secret = "planted-pass"
	for _, tc := range []struct{ line, in, want string }{
		{"access:set --user me --password-from -", "", "the password is empty"},
		{"access:set --user me --password-from -", "\n", "the password is empty"},
		{"access:set --user me --password-from -", strings.Repeat("x", 73), "longer than 72 bytes"},
		{"access:set --user me --password-from -", secret + "\nsecond", "control character"},
		{"access:set --user me --password-from -", "\xff\xfe", "not UTF-8"},
		{"access:set --user me", secret, "--password-from -"},
		{"access:set --user me --password-from " + secret, "", "--password-from -"},
		{"access:set --password-from -", secret, "the user has no name"},
		{"access:set --user me:" + secret + " --password-from -", secret, "contains a colon"},
		{"access:set --user '' --password-from -", secret, "the user has no name"},
		{"access:set -a shop me " + secret, secret, "takes no arguments"},
		{"access:allow 10.0.0.1/8", "", "use 10.0.0.1 for the address, or 10.0.0.0/8 for the network"},
		{"access:allow 10.0.0.0/33", "", "is not a CIDR"},
		{"access:deny example.com", "", "is not a CIDR"},
		{"access:deny fe80::1%eth0", "", "is not a CIDR"},
		{"access:allow", "", "access:allow needs"},
		{"access:except health", "", "does not begin with /"},
		{"access:except /", "", "every path"},
		{"access:except /a/../b", "", "not a plain path"},
		{"access:except //a", "", "not a plain path"},
		{"access:except /a%2fb", "", "not a plain path"},
		{"access:except '/a;b'", "", "not a plain path"},
		{"access:except ''", "", "does not begin with /"},
		{"access:limit 10", "", "is not a rate"},
		{"access:limit 0r/s", "", "is not a rate"},
		{"access:limit 10r/h", "", "is not a rate"},
		{"access:limit 10r/s --per host", "", "--per takes client"},
		{"access:clear everything", "", "there is no kind of rule"},
		{"access:clear limit 10r/s", "", "only one limit"},
	} {
		f := stacks("shop")
		r := do(t, f, tc.line, stdin(tc.in))
		if r.status != 2 || !strings.Contains(r.err, tc.want) || strings.Contains(r.out+r.err, secret) {
			t.Errorf("%s: %d %s%s", tc.line, r.status, r.out, r.err)
		}
		if !f.stacks[0].Access.IsZero() {
			t.Errorf("%s changed the rules", tc.line)
		}
		if strings.Contains(strings.Join(f.audited, "\n"), secret) {
			t.Errorf("%s: the audit log has %q", tc.line, f.audited)
		}
	}
	f := stacks("shop")
	if r := do(t, f, "access:clear users ann"); r.status != 1 || !strings.Contains(r.err, `no rule of that kind has "ann"`) {
		t.Errorf("got %d %s", r.status, r.err)
	}
	if r := do(t, f, "access:set --user me --password-from -", terminal, stdin(secret)); r.status != 2 || !strings.Contains(r.out, "terminal") {
		t.Errorf("got %d %s", r.status, r.out)
	}
}

func TestAccess_Limits(t *testing.T) {
	t.Parallel()
	f := stacks("shop")
	rules := &f.stacks[0].Access
	for i := range mesh.MaxAccessUsers {
		rules.Users = append(rules.Users, mesh.AccessUser{Name: fmt.Sprintf("user-%02d", i)})
	}
	for _, tc := range []struct{ line, want string }{
		{"access:set --user another --password-from -", "at most 20 users, and this would make 21"},
		{"access:allow " + many(201, "10.0.%d.%d"), "at most 200 addresses, and this would make 201"},
		{"access:except " + many(51, "/p%d-%d"), "at most 50 excepted paths, and this would make 51"},
	} {
		if r := do(t, f, tc.line, stdin("x")); r.status != 1 || !strings.Contains(r.err, tc.want) {
			t.Errorf("%s: %d %s", tc.line, r.status, r.err)
		}
	}
	for _, line := range []string{"access:set --user user-07 --password-from -", "access:deny " + many(200, "10.0.%d.%d"), "access:except " + many(50, "/p%d-%d")} {
		if r := do(t, f, line, stdin("x")); r.status != 0 {
			t.Errorf("%s: %d %s", line, r.status, r.err)
		}
	}
}

func many(n int, format string) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(format, i/100, i%100))
	}
	return strings.Join(all, " ")
}

func TestAccess_RightsAndAudit(t *testing.T) {
	t.Parallel()
	const secret = "planted-pass"
	reader := mesh.Key{Name: "eye", Role: mesh.RoleRead}
	f := stacks("shop")
	if r := do(t, f, "access", as(reader)); r.status != 0 {
		t.Errorf("a read key may not see the rules: %s", r.err)
	}
	for _, line := range []string{"access:set --user me --password-from -", "access:set -a shop " + secret, "access:allow 10.0.0.1", "access:deny 10.0.0.1", "access:except /x", "access:limit 1r/s", "access:clear"} {
		if r := do(t, f, line, as(reader), stdin(secret)); r.status != 1 || !strings.Contains(r.err, "may not use access:") {
			t.Errorf("%s: %d %s", line, r.status, r.err)
		}
	}
	for _, line := range []string{"access:set --user me --password-from -", "access:allow 10.0.0.1"} {
		if r := do(t, f, line, as(mesh.Key{Name: "ci", Role: mesh.RoleDeploy}), stdin(secret)); r.status != 0 {
			t.Errorf("%s: %s", line, r.err)
		}
	}
	did := strings.Join(f.audited, "\n")
	for _, want := range []string{"access:set --user me", "access:allow 10.0.0.1"} {
		if !strings.Contains(did, want) {
			t.Errorf("%q is not in the audit log:\n%s", want, did)
		}
	}
	if strings.Contains(did, secret) || strings.Contains(did, "$2a$") {
		t.Errorf("the audit log has a password:\n%s", did)
	}
}

// ps shows how many requests were refused, where there are rules.
func TestPS_Refused(t *testing.T) {
	t.Parallel()
	f := full()
	f.minute = mesh.Traffic{Requests: 60, P50: time.Millisecond, P95: time.Millisecond, Refused: 7}
	if r := do(t, f, "ps -a blog"); strings.Contains(r.err, "REFUSED") {
		t.Errorf("a column for nothing:\n%s%s", r.err, r.out)
	}
	if r := do(t, f, "ps -a blog --json"); strings.Contains(r.out, "refused") {
		t.Errorf("got %s", r.out)
	}
	f.stacks[0].Access.Limit = mesh.Rate{Requests: 1, Per: time.Second}
	if r := do(t, f, "ps -a blog"); !strings.Contains(r.err, " 5XX  REFUSED  COMMAND") || !strings.Contains(r.out, " 7 ") {
		t.Errorf("no column:\n%s%s", r.err, r.out)
	}
	if r := do(t, f, "ps -a blog --json"); !strings.Contains(r.out, `"refused": 7`) {
		t.Errorf("got %s", r.out)
	}
	f.minute = mesh.Traffic{Refused: 7}
	if r := do(t, f, "ps -a blog"); !strings.Contains(r.out, " 0.0  0ms  0ms  0    7 ") {
		t.Errorf("only refused ones:\n%s%s", r.err, r.out)
	}
}
