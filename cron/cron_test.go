package cron_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/cron"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestParse_Next(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, after, want string }{
		{"TZ=UTC 0 3 * * *", "2026-01-02T03:00:00Z", "2026-01-03T03:00:00Z"},
		{"CRON_TZ=UTC  0   3 * * *", "2026-01-02T02:59:59.999Z", "2026-01-02T03:00:00Z"},
		{"TZ=Europe/Berlin 0 3 * * *", "2026-01-02T03:00:00Z", "2026-01-03T02:00:00Z"},
		{"TZ=Europe/Berlin 0 3 * * *", "2026-07-02T03:00:00Z", "2026-07-03T01:00:00Z"},
		{"TZ=UTC @daily", "2026-01-02T03:00:00Z", "2026-01-03T00:00:00Z"},
		{"TZ=UTC @weekly", "2026-01-02T03:00:00Z", "2026-01-04T00:00:00Z"},
		{"TZ=UTC 0 3 29 2 *", "2026-01-02T03:00:00Z", "2028-02-29T03:00:00Z"},
		{"TZ=UTC 30 6 * * mon-fri", "2026-01-02T06:30:00Z", "2026-01-05T06:30:00Z"},
		{"@every 6h", "2026-01-02T03:00:00Z", "2026-01-02T09:00:00Z"},
		{"TZ=UTC */5 * * * *", "2026-01-02T03:00:00Z", "2026-01-02T03:05:00Z"},
		// Clocks go back on 2026-10-25, 03:00 CEST: 02:30 comes twice, and counts once. An
		// hourly schedule has both hours.
		{"TZ=Europe/Berlin 30 2 * * *", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"},
		{"TZ=Europe/Berlin 30 2 * * *", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},
		{"TZ=Europe/Berlin 30 * * * *", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"},
	} {
		s, err := cron.Parse(c.text)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		if got := s.Next(at(t, c.after)); !got.Equal(at(t, c.want)) {
			t.Errorf("%q after %s: %s, want %s", c.text, c.after, got.UTC().Format(time.RFC3339), c.want)
		}
	}
}

func TestParse_Refuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                           "has no times",
		"TZ=UTC":                     "has no times",
		"0 3 * *":                    "has 4 of five fields",
		"0 0 3 * * *":                "seconds and years are not supported",
		"* * * * *":                  "comes again after 1m0s: at least 5m0s",
		"0,4 3 * * *":                "comes again after 4m0s",
		"59,0 * * * *":               "comes again after 1m0s",
		"59 23 * * *":                "",
		"0,59 0,23 * * *":            "comes again after 1m0s", // over midnight
		"0 3 30 2 *":                 "never comes",
		"0 25 * * *":                 "cannot be read",
		"@reboot":                    "cannot be read",
		"@every 10s":                 "comes again after 10s",
		"TZ=Europe/Berlln 0 3 * * *": `the time zone "Europe/Berlln", which does not exist`,
		"every day":                  "has 2 of five fields",
		"TZ= 0 3 * * *":              "which does not exist",
	} {
		_, err := cron.Parse(text)
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != mesh.Invalid || e.Hint == "" || !strings.Contains(e.Text, want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParseEvery_Minute(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"* * * * *", "*/1 * * * *", "@every 1m", "0,1 3 * * *"} {
		if _, err := cron.ParseEvery(text, cron.EachStart); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"@every 1s": "comes again after 1s: at least 1m0s", "* * * * * *": "seconds and years are not supported", "0 3 30 2 *": "never comes",
	} {
		if _, err := cron.ParseEvery(text, cron.EachStart); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestInZone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, zone, want string
		ok               bool
	}{
		{"0 3 * * *", "", "0 3 * * *", true},
		{"0 3 * * *", "Europe/Berlin", "TZ=Europe/Berlin 0 3 * * *", true},
		{"TZ=UTC 0 3 * * *", "Europe/Berlin", "TZ=UTC 0 3 * * *", true},
		{"CRON_TZ=UTC @daily", "nowhere", "CRON_TZ=UTC @daily", true},
		{"@daily", "nowhere", "@daily", false},
		{"@daily", "UTC x", "@daily", false},
		{"@daily", "../../etc/passwd", "@daily", false},
	} {
		if got, ok := cron.InZone(c.text, c.zone); got != c.want || ok != c.ok {
			t.Errorf("%q in %q: %q, %v", c.text, c.zone, got, ok)
		}
	}
}

func TestSchedule_Last(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, from, now, want string }{
		{"TZ=UTC 0 3 * * *", "2026-01-02T03:00:00Z", "2026-01-03T02:59:59Z", ""},
		{"TZ=UTC 0 3 * * *", "2026-01-02T03:00:00Z", "2026-01-03T03:00:00Z", "2026-01-03T03:00:00Z"},
		{"TZ=UTC 0 3 * * *", "2016-01-02T03:00:00Z", "2026-01-03T02:59:59Z", "2026-01-02T03:00:00Z"},
		{"TZ=UTC 0 3 1 * *", "2016-01-02T03:00:00Z", "2026-01-31T02:59:59Z", "2026-01-01T03:00:00Z"},
		{"TZ=UTC */5 * * * *", "2016-01-02T03:00:00Z", "2026-01-03T02:59:59Z", "2026-01-03T02:55:00Z"},
		{"@every 7m", "2026-01-01T00:00:00Z", "2026-01-01T00:20:00Z", "2026-01-01T00:14:00Z"},
		{"TZ=UTC 0 3 * * *", "2027-01-01T00:00:00Z", "2026-01-03T05:00:00Z", ""}, // the clock was set back
	} {
		s, err := cron.Parse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		want := time.Time{}
		if c.want != "" {
			want = at(t, c.want)
		}
		if got := s.Last(at(t, c.from), at(t, c.now)); !got.Equal(want) {
			t.Errorf("%q from %s until %s: %s, want %s", c.text, c.from, c.now, got.UTC().Format(time.RFC3339), c.want)
		}
	}
}

func TestSchedule_Interval(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"TZ=UTC 0 3 * * *":    24 * time.Hour,
		"TZ=UTC 0 3 * * 1-5":  72 * time.Hour,
		"TZ=UTC */5 * * * *":  5 * time.Minute,
		"TZ=UTC 0 3,4 * * *":  23 * time.Hour,
		"TZ=UTC 0 3 * * sun":  7 * 24 * time.Hour,
		"TZ=UTC 0 3 1 * *":    31 * 24 * time.Hour,
		"TZ=UTC */10 9 * * 1": 7*24*time.Hour - 50*time.Minute,
		"@every 30h":          30 * time.Hour,
	} {
		s, err := cron.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Interval(at(t, "2026-01-02T03:00:00Z")); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// A schedule stays the same when it is printed and read again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"0 3 * * *", "TZ=Europe/Berlin 0 3 * * *", "@daily", "@every 1h", "*/5 * * * mon", "0 0 30 2 *", "CRON_TZ=UTC"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := cron.Parse(text)
		if err != nil {
			if !errors.Is(err, mesh.Invalid) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := cron.Parse(s.String())
		now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
		if err != nil || !again.Next(now).Equal(s.Next(now)) {
			t.Fatalf("%q: %v, %s and %s", text, err, s.Next(now), again.Next(now))
		}
	})
}
