package mesh

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// AccessRules say which requests reach a stack. Each part that is empty admits
// everything. Copy one with Clone before changing it.
type AccessRules struct {
	Users       []AccessUser   // by name; any: requests need the password of one of them
	Allow, Deny []netip.Prefix // any in Allow: others are refused; Deny wins
	Except      []string       // paths without any rule, and all below them
	Limit       Rate
}

// AccessUser is somebody who may send requests to a stack. It has nothing to do with
// keys, which give access to mesh itself.
type AccessUser struct {
	Name string
	Hash Secret // of the password, by bcrypt
}

// Rate is a number of requests in a time. The zero Rate is no limit.
type Rate struct {
	Requests  int
	Per       time.Duration // a second or a minute
	PerClient bool          // each address has its own
}

// The limits of the rules of one stack.
const (
	MaxAccessUsers    = 20
	MaxAccessPrefixes = 200 // of Allow and Deny together
	MaxAccessExcept   = 50
	MaxAccessPassword = 72 // bytes; bcrypt ignores all that follow
)

// IsZero reports whether there is no rule.
func (a AccessRules) IsZero() bool { return !a.Guards() && len(a.Except) == 0 && a.Limit == Rate{} }

// Guards reports whether some people are kept out.
func (a AccessRules) Guards() bool { return len(a.Users)+len(a.Allow)+len(a.Deny) > 0 }

// Clone returns a copy that may be changed.
func (a AccessRules) Clone() AccessRules {
	a.Users, a.Allow, a.Deny, a.Except = slices.Clone(a.Users), slices.Clone(a.Allow), slices.Clone(a.Deny), slices.Clone(a.Except)
	return a
}

// Equal reports whether both are the same rules.
func (a AccessRules) Equal(b AccessRules) bool {
	sameUser := func(a, b AccessUser) bool { return a.Name == b.Name && a.Hash.Equal(b.Hash) }
	return slices.EqualFunc(a.Users, b.Users, sameUser) && slices.Equal(a.Allow, b.Allow) && slices.Equal(a.Deny, b.Deny) &&
		slices.Equal(a.Except, b.Except) && a.Limit == b.Limit
}

// Excepted reports whether a request needs to meet no rule. decoded is its path, raw is
// the path as the client wrote it.
//
// A path that programs read in different ways is never excepted: what mesh takes for
// /health may be /admin for the app. So each part must be plain, and / must not be
// encoded: that leaves no "..", empty parts, backslashes, parameters after ";", nor
// anything encoded twice.
func (a AccessRules) Excepted(decoded, raw string) bool {
	if len(a.Except) == 0 || !plainPath(strings.TrimSuffix(decoded, "/")) || hidesSlash(raw) {
		return false
	}
	return slices.ContainsFunc(a.Except, func(e string) bool { return Endpoint{Path: e}.Covers(decoded) })
}

// hidesSlash reports whether a path contains an encoded / or \.
func hidesSlash(raw string) bool {
	for i := strings.IndexByte(raw, '%'); i >= 0 && i+2 < len(raw); {
		if raw[i+1] == '2' && raw[i+2]|0x20 == 'f' || raw[i+1] == '5' && raw[i+2]|0x20 == 'c' {
			return true
		}
		next := strings.IndexByte(raw[i+1:], '%')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return false
}

// plainPath reports whether a decoded path, such as "/a/b", means the same to every
// program.
func plainPath(path string) bool {
	if path == "" || path[0] != '/' || !utf8.ValidString(path) {
		return false
	}
	start := 1
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		if strings.Trim(path[start:i], ".") == "" {
			return false
		}
		start = i + 1
	}
	for _, r := range path {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("/-._~!$&'()*+,=:@", r):
		case r < utf8.RuneSelf, !unicode.In(r, unicode.L, unicode.N, unicode.M):
			return false
		}
	}
	return true
}

// ParseAccessPath reads a path that needs to meet no rule.
func ParseAccessPath(s string) (string, error) {
	bad := func(format string, args ...any) (string, error) {
		e := Errorf(Invalid, format, args...)
		e.Text = strconv.Quote(Clip(s, 100)) + " " + e.Text
		return "", e.WithHint("use a path such as /health")
	}
	path, err := url.PathUnescape(s)
	path = strings.TrimSuffix(path, "/")
	switch {
	case s == "/":
		return "", Errorf(Invalid, `"/" is every path`).WithHint("to remove the rules instead, use access:clear")
	case err != nil:
		return bad("is not encoded correctly")
	case !strings.HasPrefix(s, "/"):
		return bad("does not begin with /")
	case len(path) > maxPath:
		return bad("is longer than %d bytes", maxPath)
	case hidesSlash(s) || !plainPath(path):
		return bad("is not a plain path: it has a part that leads elsewhere, or a character that not all programs read the same way")
	}
	return path, nil
}

// ParsePrefix reads a CIDR such as "192.0.2.0/24" or "2001:db8::/32", or one address.
// IPv4 in IPv6 becomes IPv4.
func ParsePrefix(s string) (netip.Prefix, error) {
	const hint = "use an address or a CIDR, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, Errorf(Invalid, "%q is not a CIDR", Clip(s, 60)).WithHint(hint)
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, Errorf(Invalid, "%q is neither one address nor a whole network", Clip(s, 60)).
			WithHint("use %s for the address, or %s for the network", p.Addr(), m)
	}
	return p, nil
}

var rateRule = regexp.MustCompile(`^([1-9][0-9]{0,5})r/([sm])$`)

// ParseRate reads a rate such as "10r/s" or "30r/m".
func ParseRate(s string) (Rate, error) {
	m := rateRule.FindStringSubmatch(s)
	if m == nil {
		return Rate{}, Errorf(Invalid, "%q is not a rate", Clip(s, 60)).WithHint("use a number from 1 to 999999 per second or minute, such as 10r/s or 30r/m")
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return Rate{}, err
	}
	if m[2] == "m" {
		return Rate{Requests: n, Per: time.Minute}, nil
	}
	return Rate{Requests: n, Per: time.Second}, nil
}

// String is the rate as people type it; empty for none.
func (r Rate) String() string {
	if r.Requests == 0 {
		return ""
	}
	if r.Per == time.Minute {
		return strconv.Itoa(r.Requests) + "r/m"
	}
	return strconv.Itoa(r.Requests) + "r/s"
}

// CheckAccessUser returns an error if a name cannot be that of a user. The name is what
// stands before the first colon (RFC 7617, section 2).
func CheckAccessUser(name string) error {
	switch {
	case name == "":
		return Errorf(Invalid, "the user has no name").WithHint("name the user: --user NAME")
	case strings.Contains(name, ":"):
		// Not quoted: it may be "name:password".
		return Errorf(Invalid, "the name of the user contains a colon").WithHint("choose a name without one: in requests, a colon ends the name")
	case len(name) > 100:
		return Errorf(Invalid, "the name of the user is longer than 100 bytes").WithHint("choose a shorter name")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.TrimSpace(name) != name:
		return Errorf(Invalid, "%q is not a user name", Clip(name, 60)).WithHint("choose a name that can be printed, without blanks at its ends")
	}
	return nil
}

// CheckAccessPassword returns an error if a password cannot be that of a user. The error
// does not contain it.
func CheckAccessPassword(p string) error {
	switch {
	case p == "":
		return Errorf(Invalid, "the password is empty").WithHint("write it to standard input: printf %%s PASSWORD | ssh mesh access:set --user NAME --password-from -")
	case len(p) > MaxAccessPassword:
		return Errorf(Invalid, "the password is longer than %d bytes, the most that bcrypt takes", MaxAccessPassword).WithHint("choose a shorter one")
	case !utf8.ValidString(p):
		return Errorf(Invalid, "the password is not UTF-8").WithHint("choose one that browsers can send")
	case strings.ContainsFunc(p, unicode.IsControl):
		return Errorf(Invalid, "the password contains a control character, such as the end of a line").WithHint("write one line to standard input")
	}
	return nil
}
