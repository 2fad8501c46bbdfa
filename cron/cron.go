// Package cron reads schedules and starts what is due.
//
// A Schedule says when; a Loop waits until something is due and tells its owner. What is
// started, and where it is recorded that it was, is left to the functions in Options.
//
//	s, err := cron.Parse("TZ=Europe/Berlin 0 3 * * *")
//	next := s.Next(time.Now())
//
//	l := cron.New(cron.Options{Entries: …, Start: …})
//	go l.Run(ctx)
package cron

import (
	"cmp"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // small systems and containers have no zones of their own

	robfig "github.com/robfig/cron/v3"

	"mesh"
)

// How far two starts of a schedule are apart at least.
const (
	Often     = 5 * time.Minute // for backups
	EachStart = time.Minute     // for what may start as often as a schedule can say
)

// Schedule is a sequence of times. Its methods may be called from several goroutines. The
// zero Schedule has no times.
type Schedule struct {
	text string
	when robfig.Schedule
}

const hint = `use five fields: minute hour day month weekday, as in "0 3 * * *"; or @hourly, @daily, @weekly, @monthly; in front, TZ=Europe/Berlin names a time zone`

func refuse(text, why string, args ...any) error {
	return mesh.Errorf(mesh.Invalid, "the schedule %q %s", mesh.Clip(mesh.Visible(text), 100), fmt.Sprintf(why, args...)).WithHint("%s", hint)
}

// Parse reads a schedule: five fields as in crontab(5), or @hourly, @daily, @weekly,
// @monthly, @yearly, or @every with a duration; with TZ=ZONE or CRON_TZ=ZONE in front, and
// otherwise in the zone of the machine. It refuses a schedule that has no times, or two that
// are less than Often apart. Errors are of kind Invalid and say what is wrong.
func Parse(text string) (Schedule, error) { return ParseEvery(text, Often) }

// ParseEvery is Parse for a schedule whose starts may be least apart.
func ParseEvery(text string, least time.Duration) (Schedule, error) {
	s := Schedule{text: strings.Join(strings.Fields(text), " ")}
	rest := s.text
	for _, prefix := range []string{"TZ=", "CRON_TZ="} {
		if after, ok := strings.CutPrefix(s.text, prefix); ok {
			var zone string
			zone, rest, _ = strings.Cut(after, " ")
			if _, err := time.LoadLocation(zone); err != nil || zone == "" {
				return Schedule{}, refuse(text, "names the time zone %q, which does not exist", mesh.Clip(mesh.Visible(zone), 60))
			}
		}
	}
	fields := strings.Fields(rest)
	switch {
	case len(fields) == 0:
		return Schedule{}, refuse(text, "has no times")
	case strings.HasPrefix(fields[0], "@"):
	case len(fields) == 6 || len(fields) == 7:
		return Schedule{}, refuse(text, "has %d fields: seconds and years are not supported", len(fields))
	case len(fields) != 5:
		return Schedule{}, refuse(text, "has %d of five fields", len(fields))
	}
	var err error
	if s.when, err = robfig.ParseStandard(s.text); err != nil {
		return Schedule{}, refuse(text, "cannot be read: %v", err)
	}
	if every, ok := s.when.(robfig.ConstantDelaySchedule); ok {
		if every.Delay < least {
			return Schedule{}, tooOften(text, every.Delay, least)
		}
		return s, nil
	}
	// A year that is not a leap year, and no change of clocks on its first days.
	at := s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	if at.IsZero() {
		return Schedule{}, refuse(text, "never comes: no such day exists")
	}
	// All days with a start have the same times: two days show all gaps there are.
	for end := at.Add(48 * time.Hour); at.Before(end); {
		next := s.Next(at)
		if next.IsZero() {
			break
		}
		if gap := next.Sub(at); gap < least {
			return Schedule{}, tooOften(text, gap, least)
		}
		at = next
	}
	return s, nil
}

func tooOften(text string, gap, least time.Duration) error {
	return refuse(text, "comes again after %s: at least %s must be between two starts", gap, least)
}

// InZone returns the schedule with a time zone in front, unless it names one or the zone
// does not exist. ok is false for a zone that does not exist.
func InZone(text, zone string) (in string, ok bool) {
	text = strings.TrimSpace(text)
	if zone == "" || strings.HasPrefix(text, "TZ=") || strings.HasPrefix(text, "CRON_TZ=") {
		return text, true
	}
	if _, err := time.LoadLocation(zone); err != nil || strings.ContainsAny(zone, " \t\n") {
		return text, false
	}
	return "TZ=" + zone + " " + text, true
}

// String returns the schedule as it was typed, with single blanks.
func (s Schedule) String() string { return s.text }

// Next returns the first time after t, or zero if there is none in the next five years. Of
// an hour that clocks show twice, a schedule that names hours has the first. Times that
// clocks skip do not exist.
func (s Schedule) Next(t time.Time) time.Time {
	if s.when == nil {
		return time.Time{}
	}
	next := s.when.Next(t)
	if spec, ok := s.when.(*robfig.SpecSchedule); ok && spec.Hour&anyHour == 0 {
		for i := 0; i < 100 && !next.IsZero() && shownBefore(next, spec.Location); i++ {
			next = s.when.Next(next)
		}
	}
	return next
}

// anyHour is how robfig/cron marks a field that is *.
const anyHour = 1 << 63

// shownBefore reports whether clocks showed the same time of the same day already.
func shownBefore(t time.Time, zone *time.Location) bool {
	t = t.In(cmp.Or(zone, time.Local))
	for _, d := range []time.Duration{30 * time.Minute, time.Hour} {
		if e := t.Add(-d); e.Hour() == t.Hour() && e.Minute() == t.Minute() {
			return true
		}
	}
	return false
}

// Last returns the last time that is after from and not after now, or zero.
func (s Schedule) Last(from, now time.Time) time.Time {
	// Not step by step from a time that may be years ago: in halves.
	lo, hi := from, now
	if first := s.Next(lo); first.IsZero() || first.After(now) {
		return time.Time{}
	}
	for hi.Sub(lo) > 48*time.Hour {
		mid := lo.Add(hi.Sub(lo) / 2)
		if n := s.Next(mid); !n.IsZero() && !n.After(now) {
			lo = mid
		} else {
			hi = mid
		}
	}
	if _, every := s.when.(robfig.ConstantDelaySchedule); every {
		lo = from
		d := s.Next(lo).Sub(lo)
		return lo.Add(now.Sub(lo) / d * d)
	}
	last := time.Time{}
	for n := s.Next(lo); !n.IsZero() && !n.After(now); n = s.Next(n) {
		last = n
	}
	return last
}

// Interval returns the longest time between two starts in the weeks after t: of a schedule
// for workdays, three days.
func (s Schedule) Interval(t time.Time) (longest time.Duration) {
	const most = 400 // of one every five minutes, more than a day
	at := s.Next(t)
	for end, i := t.AddDate(0, 0, 15), 0; i < most || at.Before(end) && i < 5000; i++ {
		next := s.Next(at)
		if next.IsZero() || at.IsZero() {
			break
		}
		longest = max(longest, next.Sub(at))
		at = next
		if i > 2 && at.Sub(t) > 3*365*24*time.Hour {
			break
		}
	}
	return longest
}
