package mesh

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// TCPPort is a port of the machine whose TCP connections go to a service, as they are.
type TCPPort struct {
	Number  uint16
	Service ServiceName
}

// String is the port as people type it.
func (p TCPPort) String() string { return PortText(p.Number) }

// PortText is a port as people type it: ":5432".
func PortText(n uint16) string { return ":" + strconv.Itoa(int(n)) }

// ParsePort reads "5432" or ":5432". mesh listens on all addresses of the machine.
func ParsePort(s string) (uint16, error) {
	const hint = "use a port such as 5432 or :5432"
	text := strings.TrimPrefix(s, ":")
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		return 0, Errorf(Invalid, "%q names an address, but mesh listens on all addresses of the machine", Clip(s, 60)).WithHint(hint)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] == '0' || text[0] == '+' {
		return 0, Errorf(Invalid, "%q is not a port from 1 to 65535", Clip(s, 60)).WithHint(hint)
	}
	return uint16(n), nil
}

// Ports are ranges of ports.
type Ports []PortRange

// PortRange is all ports from First to Last.
type PortRange struct{ First, Last uint16 }

// ParsePorts reads items such as "5432" and "5000-5100".
func ParsePorts(items []string) (list Ports, err error) {
	for _, item := range items {
		first, last, many := strings.Cut(strings.TrimSpace(item), "-")
		if !many {
			last = first
		}
		var r PortRange
		if r.First, err = ParsePort(first); err == nil {
			r.Last, err = ParsePort(last)
		}
		if err != nil {
			return nil, err
		}
		if r.Last < r.First {
			return nil, Errorf(Invalid, "%q ends before it begins", Clip(item, 60))
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b PortRange) int { return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last)) })
	return list, nil
}

// Has reports whether a port is in one of the ranges.
func (p Ports) Has(n uint16) bool {
	return slices.ContainsFunc(p, func(r PortRange) bool { return r.First <= n && n <= r.Last })
}

// String is the ranges as people write them: "5000-5100,6379".
func (p Ports) String() string {
	var out []string
	for _, r := range p {
		if r.First == r.Last {
			out = append(out, strconv.Itoa(int(r.First)))
			continue
		}
		out = append(out, strconv.Itoa(int(r.First))+"-"+strconv.Itoa(int(r.Last)))
	}
	return strings.Join(out, ",")
}
