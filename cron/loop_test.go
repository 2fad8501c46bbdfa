package cron_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"mesh/cron"
)

// book is what the owner of a loop records.
type book struct {
	last    map[string]time.Time
	started []string
	skipped []string
	fails   func() error // nil: it can be recorded
}

func (b *book) entries(t *testing.T, schedules map[string]string) func(context.Context) ([]cron.Entry, error) {
	return func(context.Context) (out []cron.Entry, err error) {
		for name, text := range schedules {
			s, err := cron.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, cron.Entry{Name: name, Schedule: s, Last: b.last[name]})
		}
		return out, nil
	}
}

func (b *book) start(_ context.Context, name string, due time.Time) error {
	if b.fails != nil {
		if err := b.fails(); err != nil {
			return err
		}
	}
	if !due.After(b.last[name]) {
		return errors.New("it was started already")
	}
	b.last[name] = due
	b.started = append(b.started, name+" "+due.UTC().Format("02T15:04"))
	return nil
}

func (b *book) skip(_ context.Context, name string, due time.Time) error {
	b.last[name] = due
	b.skipped = append(b.skipped, name+" "+due.UTC().Format("02T15:04"))
	return nil
}

// run lets a loop run for some time. The clock of synctest begins at 2000-01-01T00:00:00Z.
func run(t *testing.T, b *book, schedules map[string]string, now func() time.Time, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	l := cron.New(cron.Options{Entries: b.entries(t, schedules), Start: b.start, Skip: b.skip, Now: now})
	if err := l.Run(ctx); err != nil {
		t.Error(err)
	}
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestLoop_StartsWhatIsDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{last: map[string]time.Time{"a": time.Now()}}
		run(t, b, map[string]string{"a": "TZ=UTC 0 */8 * * *"}, nil, 33*time.Hour)
		same(t, "started", b.started, "a 01T08:00", "a 01T16:00", "a 02T00:00", "a 02T08:00")
	})
}

func TestLoop_MakesUpOneMissedStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{last: map[string]time.Time{
			"days":  time.Now().Add(-100 * 24 * time.Hour),
			"fresh": time.Now().Add(-4 * time.Hour),
			"stale": time.Now().Add(-40 * time.Hour),
		}}
		run(t, b, map[string]string{"days": "TZ=UTC 0 * * * *"}, nil, 30*time.Minute)
		same(t, "missed for 100 days", b.started, "days 01T00:00")
		b.started = nil
		run(t, b, map[string]string{"fresh": "TZ=UTC 0 22 * * *"}, nil, time.Hour)
		same(t, "two hours late", b.started, "fresh 31T22:00")
		b.started = nil
		run(t, b, map[string]string{"stale": "TZ=UTC 0 11 * * *"}, nil, time.Hour)
		same(t, "14 hours late", b.started)
		same(t, "14 hours late", b.skipped, "stale 31T11:00")
	})
}

func TestLoop_ClockJumps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{last: map[string]time.Time{"a": time.Now()}}
		begun := time.Now()
		now := func() time.Time { // 02:10 becomes 00:10, and later 03:30 becomes 08:30
			switch t := time.Now(); {
			case t.Sub(begun) < 2*time.Hour+10*time.Minute:
				return t
			case t.Sub(begun) < 5*time.Hour+30*time.Minute:
				return t.Add(-2 * time.Hour)
			default:
				return t.Add(3 * time.Hour)
			}
		}
		run(t, b, map[string]string{"a": "TZ=UTC 0 * * * *"}, now, 5*time.Hour+20*time.Minute)
		same(t, "back by two hours", b.started, "a 01T01:00", "a 01T02:00", "a 01T03:00")
		b.started = nil
		run(t, b, map[string]string{"a": "TZ=UTC 0 * * * *"}, now, time.Hour)
		same(t, "forward", b.started, "a 01T08:00", "a 01T09:00")
	})
}

// What cannot be recorded is not started, and is tried again.
func TestLoop_RecordsFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		b := &book{last: map[string]time.Time{"a": time.Now()}, fails: func() error {
			if time.Since(begun) < 90*time.Minute {
				return errors.New("the disk is full")
			}
			return nil
		}}
		run(t, b, map[string]string{"a": "TZ=UTC 0 1 * * *"}, nil, 20*time.Hour)
		same(t, "started", b.started, "a 01T01:00")
	})
}

func TestLoop_SeesChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{last: map[string]time.Time{"a": time.Now()}}
		schedules := map[string]string{}
		l := cron.New(cron.Options{Entries: b.entries(t, schedules), Start: b.start, Skip: b.skip})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		b.last["a"] = time.Now().Add(-time.Hour)
		schedules["a"] = "TZ=UTC 0 0 * * *"
		l.Changed()
		l.Changed()
		synctest.Wait()
		same(t, "started", b.started, "a 01T00:00")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// An entry's own limit decides how late it is started; less than a minute counts as one.
func TestLoop_OwnMostLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			late, most    time.Duration
			starts, skips int
		}{
			{59 * time.Minute, time.Hour, 1, 0},
			{61 * time.Minute, time.Hour, 0, 1},
			{30 * time.Second, 1, 1, 0},
			{2 * time.Minute, 1, 0, 1},
		} {
			s, err := cron.Parse("TZ=UTC 0 0 * * *")
			if err != nil {
				t.Fatal(err)
			}
			now := time.Date(2026, 5, 6, 0, 0, 0, 0, time.UTC).Add(c.late)
			last, starts, skips := now.Add(-23*time.Hour), 0, 0
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			l := cron.New(cron.Options{
				Entries: func(context.Context) ([]cron.Entry, error) {
					return []cron.Entry{{Name: "x", Schedule: s, Last: last, MostLate: c.most}}, nil
				},
				Start: func(_ context.Context, _ string, due time.Time) error { starts++; last = due; return nil },
				Skip:  func(_ context.Context, _ string, due time.Time) error { skips++; last = due; return nil },
				Now:   func() time.Time { return now },
			})
			if err := l.Run(ctx); err != nil || starts != c.starts || skips != c.skips {
				t.Errorf("%s late, at most %s: %v, %d started, %d skipped", c.late, c.most, err, starts, skips)
			}
			cancel()
		}
	})
}
