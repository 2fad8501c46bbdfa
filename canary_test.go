package mesh_test

import (
	"strings"
	"testing"
	"time"

	"mesh"
)

func TestParseCanary(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"10": "10%", "10%": "10%", "10%,50%": "10%,50%", "1 5, 25%": "1%,5%,25%", "0.5": "0.5%", "99.9": "99.9%", "off": "", "0": "", "none": ""} {
		c, err := mesh.ParseCanary(in)
		if err != nil || c.String() != want {
			t.Errorf("%q: %q, %v", in, c, err)
		}
		if again, err := mesh.ParseCanary(c.String()); want != "" && (err != nil || again.String() != want) {
			t.Errorf("%q again: %q, %v", c, again, err)
		}
	}
	for in, want := range map[string]string{
		"": "has no share", ",": "has no share", "ten": "not a list", "NaN": "not a list", "100": "from 0.1% to 99.9%", "-1": "from 0.1%", "1e9": "from 0.1%", "0.01": "from 0.1%",
		"50,10": "do not grow", "10,10": "do not grow", "1,2,3,4,5,6,7,8,9,10,11": "more than 10",
	} {
		if c, err := mesh.ParseCanary(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", in, c, err)
		}
	}
}

func TestComparison_Worse(t *testing.T) {
	t.Parallel()
	measure := func(good, bad uint64, took time.Duration) (m mesh.Measure) {
		m.Status[2], m.Status[5] = good, bad
		m.Latency[mesh.LatencyClass(took)] = good + bad
		return m
	}
	const fast, slow = 20 * time.Millisecond, 300 * time.Millisecond
	for name, c := range map[string]struct {
		old, new mesh.Measure
		worse    bool
	}{
		"nothing":                         {},
		"as good":                         {measure(1000, 5, fast), measure(100, 1, fast), false},
		"errors":                          {measure(1000, 5, fast), measure(95, 5, fast), true},
		"one error of few":                {measure(1000, 0, fast), measure(20, 1, fast), false},
		"both fail":                       {measure(500, 500, fast), measure(50, 51, fast), false},
		"all fail, early":                 {measure(10, 0, fast), measure(0, 5, fast), true},
		"two fail, early":                 {measure(10, 0, fast), measure(0, 2, fast), false},
		"slow":                            {measure(100, 0, fast), measure(60, 0, slow), true},
		"slow, of few":                    {measure(100, 0, fast), measure(30, 0, slow), false},
		"twice as slow, and still fast":   {measure(100, 0, time.Millisecond), measure(100, 0, 10*time.Millisecond), false},
		"errors, with nothing to compare": {mesh.Measure{}, measure(15, 5, fast), true},
	} {
		if why := (mesh.Comparison{Old: c.old, New: c.new}).Worse(); (why != "") != c.worse {
			t.Errorf("%s: %q", name, why)
		}
	}
	all := mesh.Comparison{Old: measure(10, 0, fast), New: measure(5, 1, fast)}
	later := mesh.Comparison{Old: measure(30, 1, fast), New: measure(9, 1, fast)}
	if d := later.Since(all); d.Old.Requests() != 21 || d.New.Requests() != 4 || d.New.Status[5] != 0 || d.New.Latency.Count() != 4 {
		t.Errorf("since: %+v", d)
	}
	if got := later.Text(2, 1); got != "v2: 10 requests, 10% 5xx, p95 20ms; v1: 31 requests, 3.2% 5xx, p95 20ms" {
		t.Errorf("%s", got)
	}
}
