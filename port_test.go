package mesh_test

import (
	"errors"
	"strings"
	"testing"

	"mesh"
)

func TestParsePort(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]uint16{"5432": 5432, ":5432": 5432, "1": 1, ":65535": 65535} {
		if n, err := mesh.ParsePort(in); err != nil || n != want {
			t.Errorf("%s: %d, %v", in, n, err)
		}
	}
	for in, want := range map[string]string{
		"": "not a port", ":": "not a port", "0": "not a port", ":0": "not a port", "65536": "not a port", "-1": "not a port", "+1": "not a port", "05": "not a port",
		"http": "not a port", "5432/udp": "not a port", "127.0.0.1:5432": "all addresses", "[::]:5432": "all addresses", "::5432": "all addresses",
	} {
		if n, err := mesh.ParsePort(in); !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %d, %v", in, n, err)
		}
	}
}

func TestParsePorts(t *testing.T) {
	t.Parallel()
	p, err := mesh.ParsePorts([]string{"6379", " 5000-5100", ":7000-:7001"})
	if err != nil || p.String() != "5000-5100,6379,7000-7001" {
		t.Errorf("%v, %v", p, err)
	}
	for n, want := range map[uint16]bool{4999: false, 5000: true, 5100: true, 5101: false, 6379: true, 7001: true} {
		if p.Has(n) != want {
			t.Errorf("%d: %t", n, !want)
		}
	}
	for _, in := range []string{"", "5100-5000", "5000-", "-5000", "a-b", "5000-70000"} {
		if p, err := mesh.ParsePorts([]string{in}); !errors.Is(err, mesh.Invalid) {
			t.Errorf("%q: %v, %v", in, p, err)
		}
	}
}
