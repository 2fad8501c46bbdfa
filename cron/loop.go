package cron

import (
	"context"
	"log/slog"
	"time"
)

// MostLate is how late something is still started that was due while nobody looked: once,
// however often it was due. After that it waits for its next time.
const MostLate = 12 * time.Hour

// Entry is something that is started on a schedule.
type Entry struct {
	Name     string // unique
	Schedule Schedule
	// Last is the last due time that was recorded, or when the schedule was set: whatever was
	// due until then is settled. If it is in the future, because the clock was set back,
	// nothing is started until that time.
	Last time.Time
	// MostLate is how late it is still started; 0: MostLate. Less than a minute counts as one:
	// a Loop does not look more often.
	MostLate time.Duration
}

func (e Entry) late() time.Duration {
	if e.MostLate == 0 {
		return MostLate
	}
	return max(e.MostLate, lookEvery)
}

// Options are what a Loop works with.
type Options struct {
	// Entries returns all entries, with what is recorded of them. It is called again and
	// again, and does not wait.
	Entries func(context.Context) ([]Entry, error)
	// Start records that the entry was due and then starts it, without waiting for its end.
	// The record comes first, so that no crash makes a due time start twice. After an error
	// nothing was started, and the Loop tries again a minute later.
	Start func(ctx context.Context, name string, due time.Time) error
	// Skip records that the entry was due too long ago to be started.
	Skip func(ctx context.Context, name string, due time.Time) error

	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
}

// lookEvery is how long a Loop sleeps at most: clocks are set, and machines suspended.
const lookEvery = time.Minute

// Loop starts what is due.
type Loop struct {
	Options
	wake chan struct{}
}

// New returns a Loop. It starts nothing until Run is called.
func New(o Options) *Loop {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Loop{Options: o, wake: make(chan struct{}, 1)}
}

// Changed makes the Loop look at the entries now. It does not wait, and may be called from
// any goroutine.
func (l *Loop) Changed() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run starts what is due, until ctx ends. Only one Loop may run for the same entries.
func (l *Loop) Run(ctx context.Context) error {
	for {
		wait := time.NewTimer(l.round(ctx))
		select {
		case <-wait.C:
		case <-l.wake:
			wait.Stop()
		case <-ctx.Done():
			wait.Stop()
			return nil
		}
	}
}

// round starts what is due, and returns how long to wait.
func (l *Loop) round(ctx context.Context) time.Duration {
	entries, err := l.Entries(ctx)
	if err != nil {
		if ctx.Err() == nil {
			l.Logger.Error("schedules not read: nothing is started", "err", err)
		}
		return lookEvery
	}
	now, wait := l.Now(), lookEvery
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		due := e.Schedule.Last(e.Last, now)
		switch {
		case due.IsZero():
			if next := e.Schedule.Next(later(e.Last, now)); !next.IsZero() {
				wait = min(wait, next.Sub(now))
			}
			continue
		case now.Sub(due) > e.late():
			l.Logger.Warn("too late to be started: it waits for its next time", "what", e.Name, "due", due.UTC())
			err = l.Skip(ctx, e.Name, due)
		default:
			err = l.Start(ctx, e.Name, due)
		}
		if err != nil && ctx.Err() == nil {
			l.Logger.Error("not started", "what", e.Name, "due", due.UTC(), "err", err)
			continue
		}
		if next := e.Schedule.Next(now); !next.IsZero() {
			wait = min(wait, next.Sub(now))
		}
	}
	return max(wait, time.Millisecond)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
