package command_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestMaintenance_Allow(t *testing.T) {
	t.Parallel()
	f := stacks("shop")
	for _, tc := range []struct{ line, said, state string }{
		{"maintenance:on", "shop: maintenance is on\n", "on\n"},
		{"maintenance:on --allow 192.0.2.7", "shop: maintenance is on, except for 192.0.2.7/32\n", "on\nexcept for: 192.0.2.7/32\n"},
		{
			"maintenance:on --allow '2001:db8::/32, ::ffff:192.0.2.7' --allow 192.0.2.7,10.0.0.0/8", "shop: maintenance is on, except for 10.0.0.0/8, 192.0.2.7/32, 2001:db8::/32\n",
			"on\nexcept for: 10.0.0.0/8, 192.0.2.7/32, 2001:db8::/32\n",
		},
		{"maintenance:on --allow 192.0.2.8", "shop: maintenance is on, except for 192.0.2.8/32\n", "on\nexcept for: 192.0.2.8/32\n"},
		{"maintenance:off", "shop: maintenance is off\n", "off\n"},
	} {
		if r := do(t, f, tc.line); r.status != 0 || r.out != tc.said {
			t.Errorf("%s: %d %q %s", tc.line, r.status, r.out, r.err)
		}
		if got := do(t, f, "maintenance").out; got != tc.state {
			t.Errorf("%s: the state is %q", tc.line, got)
		}
	}
	var many []string
	for i := range 201 {
		many = append(many, fmt.Sprint("10.0.0.", i))
	}
	for line, want := range map[string]string{
		"maintenance:on --allow example.com":                `"example.com" is not a CIDR`,
		"maintenance:on --allow 10.0.0.1/8":                 "or 10.0.0.0/8 for the network",
		"maintenance:on --allow ''":                         `"" is not a CIDR`,
		"maintenance:on --allow 10.0.0.1,":                  `"" is not a CIDR`,
		"maintenance:on --allow " + strings.Join(many, ","): "at most 200 addresses, not 201",
		"maintenance:off --allow 192.0.2.7":                 "no option --allow",
	} {
		if r := do(t, f, line); r.status != 2 || !strings.Contains(r.err, want) || f.stacks[0].Maintained {
			t.Errorf("%s: %d %s", line, r.status, r.err)
		}
	}
}
