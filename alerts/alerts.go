// Package alerts decides what people must hear about: it looks at the stacks and the
// server again and again, keeps each cause from when it begins until it is over, and makes
// one message of either.
//
// A cause opens when its rule is broken for as long as the rule says, and is over when the
// rule has not been broken for a while, which grows with each time that the cause comes
// back. An alert that an earlier process opened continues. What the figures are, where
// alerts are recorded, and how messages reach people is left to the values in Options.
//
//	w := alerts.New(alerts.Options{…})
//	go w.Run(ctx)
//	w.Crashed("shop", status) // does not wait
package alerts

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mesh"
)

// Records keeps alerts, and the messages about them.
type Records interface {
	// RecordAlert records an alert with the messages about it, gives each its number, and
	// returns them. It is NotFound if the alert has a number and its record is gone. The
	// stack of an alert with a number is that of its record: it may have a new name.
	RecordAlert(ctx context.Context, a mesh.Alert, notices []mesh.Notice) (mesh.Alert, []mesh.Notice, error)
}

// Reader reads what is recorded.
type Reader interface {
	Stacks(ctx context.Context) ([]mesh.Stack, error)
	// OpenAlerts returns all open alerts. Alerts returns the newest alerts first.
	OpenAlerts(ctx context.Context) ([]mesh.Alert, error)
	Alerts(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.Alert, error)
	Recipients(ctx context.Context) ([]mesh.Recipient, error)
	// Deployments returns the newest deployments of a stack first.
	Deployments(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.Deployment, error)
}

// Options are what a Watcher works with. Fields that look at something may be nil: nobody
// looks at it then. They return soon, and are called by one goroutine at a time.
type Options struct {
	Records Records
	Reader  Reader
	Send    func([]mesh.Notice) // does not wait
	Logger  *slog.Logger        // nil: nothing is logged
	Now     func() time.Time    // nil: time.Now

	Instances    func(mesh.StackName) []mesh.InstanceStatus
	Traffic      func(mesh.StackName, mesh.ServiceName) mesh.Traffic // of the last minute
	Certificates func(mesh.Stack) []mesh.Certificate
	Memory       func(context.Context) ([]Memory, error) // of the instances that have a limit
	Disks        func(context.Context) []Disk
	Engine       func(context.Context) error // whether the Docker Engine answers
	Backups      func(context.Context) ([]mesh.BackupFault, error)
	Addons       func(context.Context) ([]mesh.AddonFault, error)
	Nodes        func() []mesh.Node // with their faults; none on one machine
	Jobs         func(context.Context) ([]mesh.JobFault, error)

	Every time.Duration // between two looks; 0: 15 s
	Calm  time.Duration // how long a cause must be gone to be over, the first time; 0: 2 min
}

// Memory is how much of its limit an instance uses, in bytes.
type Memory struct {
	Stack       mesh.StackName
	Instance    mesh.InstanceName
	Used, Limit int64
}

// Disk is how full a file system is.
type Disk struct {
	Path string // a folder in it
	Used uint64 // bytes
	Size uint64 // bytes that can be used at all
}

const (
	lookEvery = 15 * time.Second
	calm      = 2 * time.Minute
	mostCalm  = time.Hour
	// How far back the times that a cause was open count.
	memoryOf = 6 * time.Hour
	// Events that wait for the next look. More of them are dropped: they repeat.
	maxEvents = 1000
)

// Watcher finds causes. Deployed, Crashed, BackedUp, BackupsChanged and JobsChanged may be called from any goroutine,
// with any lock held.
type Watcher struct {
	Options
	causes map[mesh.AlertCause]*cause // only Run uses it

	mu     sync.Mutex
	events []finding
	wake   chan struct{} // holds a value if there are events, or something has changed
}

// cause is a rule that is broken, or was a short time ago.
type cause struct {
	first   time.Time // since when it has been broken
	good    time.Time // since when it is not broken any more; zero: it is
	alert   mesh.Alert
	open    bool
	unsaved bool          // the record is older than alert
	calm    time.Duration // how long it must be gone
}

// finding is a rule that is broken now.
type finding struct {
	mesh.AlertCause
	text      string
	after     time.Duration // it must be broken for that long
	keepsOnly bool          // it keeps an alert open and opens none
	once      bool          // an announcement: it is over as soon as it has happened
	over      string        // it is over at once, for this reason
	also      int           // this many instances more break it
	at        time.Time     // of an event; zero: now
}

// New returns a Watcher. It looks at nothing until Run is called.
func New(o Options) *Watcher {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Every, o.Calm = cmp.Or(o.Every, lookEvery), cmp.Or(o.Calm, calm)
	return &Watcher{Options: o, causes: map[mesh.AlertCause]*cause{}, wake: make(chan struct{}, 1)}
}

// Run looks for causes until ctx ends. What happened shortly before that is recorded.
func (w *Watcher) Run(ctx context.Context) error {
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	for {
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			w.Logger.Warn("could not check everything for alerts", "err", err)
		}
		select {
		case <-tick.C:
		case <-w.wake:
		case <-ctx.Done():
			// What has just happened is recorded, and told by the next process.
			if _, err := w.takeIn(context.WithoutCancel(ctx)); err != nil {
				w.Logger.Warn("alerts: the last events are not recorded", "err", err)
			}
			return nil
		}
		// However much happens, there are only so many looks.
		gap := time.NewTimer(w.Every / 30)
		select {
		case <-gap.C:
		case <-ctx.Done():
			gap.Stop()
		}
	}
}

// happened adds an event to the next look, which comes at once.
func (w *Watcher) happened(f finding) {
	if f.at.IsZero() {
		f.at = w.Now()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) < maxEvents {
		w.events = append(w.events, f)
	}
	w.poke()
}

func (w *Watcher) takeEvents() []finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.events
	w.events = nil
	return all
}

// look compares everything with the rules, once.
func (w *Watcher) look(ctx context.Context) error {
	stacks, err := w.takeIn(ctx)
	if err != nil {
		return err
	}
	r := w.round(ctx, stacks)
	if ctx.Err() != nil {
		return nil
	}
	now := w.Now()
	for key, f := range r.broken {
		w.broken(ctx, key, f, now)
	}
	for key, c := range w.causes {
		_, is := r.broken[key]
		_, seen := r.rules[key.Stack] // a stack whose record is damaged is not
		if seen = seen || key.Stack == "" || !c.open; seen && !is && !r.unsure[unsure{key.Kind, key.Stack}] {
			w.mended(ctx, key, c, r.outcome(key), now)
		}
		if c.unsaved {
			w.save(ctx, c, "", now)
		}
		if !c.open && !c.unsaved && c.alert.Kind != "" {
			delete(w.causes, key)
		}
	}
	return nil
}

// takeIn takes the events into account that have happened since the last look, and
// returns the stacks.
func (w *Watcher) takeIn(ctx context.Context) ([]mesh.Stack, error) {
	stacks, err := w.Reader.Stacks(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.catchUp(ctx); err != nil {
		return nil, err
	}
	rules := map[mesh.StackName]mesh.AlertRules{}
	for _, st := range stacks {
		rules[st.Name] = st.Alerts.Effective()
	}
	for _, f := range w.takeEvents() {
		if rule, known := rules[f.Stack]; f.Stack != "" && (!known || off(rule, f.Kind)) {
			continue
		}
		w.event(ctx, f)
	}
	return stacks, nil
}

// off reports whether the rule for a kind is off.
func off(r mesh.AlertRules, kind mesh.AlertKind) bool {
	switch kind {
	case mesh.AlertDeploy:
		return r.Deploy < 0
	case mesh.AlertCrash:
		return r.Crash < 0
	case mesh.AlertOOM:
		return r.OOM < 0
	case mesh.AlertMissing:
		return r.Missing < 0
	case mesh.AlertErrors:
		return r.Errors < 0
	case mesh.AlertSlow:
		return r.Slow < 0
	case mesh.AlertMemory:
		return r.Memory < 0
	case mesh.AlertCert:
		return r.Cert < 0
	default:
		return false
	}
}

// catchUp makes the open causes match the records: at the start those of an earlier
// process, and later the new names of stacks, and the causes that went with their stack.
func (w *Watcher) catchUp(ctx context.Context) error {
	recorded, err := w.Reader.OpenAlerts(ctx)
	if err != nil {
		return err
	}
	here := map[uint64]mesh.AlertCause{}
	for key, c := range w.causes {
		if c.open && c.alert.Number > 0 {
			here[c.alert.Number] = key
		}
	}
	for _, a := range recorded {
		key, known := here[a.Number]
		delete(here, a.Number)
		switch {
		case !known && w.causes[a.Cause()] == nil:
			w.causes[a.Cause()] = &cause{first: a.Since, alert: a, open: true, calm: w.calmOf(ctx, a)}
		case known && key != a.Cause():
			c := w.causes[key]
			delete(w.causes, key)
			c.alert.Stack = a.Stack
			w.causes[a.Cause()] = c
		}
	}
	for _, key := range here {
		delete(w.causes, key)
	}
	return nil
}

// calmOf returns how long a cause must be gone: longer each time that it comes back.
func (w *Watcher) calmOf(ctx context.Context, a mesh.Alert) time.Duration {
	earlier, err := w.Reader.Alerts(ctx, a.Stack, 200)
	if err != nil {
		w.Logger.Warn("alerts: earlier ones not read", "err", err)
	}
	wait := w.Calm
	for _, e := range earlier {
		if e.Number != a.Number && e.Cause() == a.Cause() && a.Since.Sub(e.Since) < memoryOf && wait < mostCalm {
			wait *= 2
		}
	}
	return max(min(wait, mostCalm), w.Calm)
}

// event takes an event into account.
func (w *Watcher) event(ctx context.Context, f finding) {
	c := w.causes[f.AlertCause]
	switch {
	case f.over != "":
		if c != nil && c.open {
			w.end(ctx, f.AlertCause, c, f.over, f.at)
		}
	case f.once && c != nil && c.open: // its end says the same
	case f.once:
		a := mesh.Alert{Kind: f.Kind, Stack: f.Stack, About: f.About, Text: f.text, Since: f.at.UTC(), Count: 1, Ended: f.at.UTC(), Outcome: f.text}
		w.save(ctx, &cause{alert: a}, mesh.NoticeAnnounced, f.at)
	case c != nil && c.open: // again
		c.good = time.Time{}
		c.alert.Count++
		c.alert.Text, c.unsaved = f.text, true
	default:
		w.broken(ctx, f.AlertCause, f, f.at)
	}
}

// broken takes a rule that is broken into account.
func (w *Watcher) broken(ctx context.Context, key mesh.AlertCause, f finding, now time.Time) {
	c := w.causes[key]
	if c == nil {
		if f.keepsOnly {
			return
		}
		c = &cause{first: now}
		w.causes[key] = c
	}
	c.good = time.Time{}
	if c.open && (key.Kind == mesh.AlertCrash || key.Kind == mesh.AlertCron) && f.text != "" && f.whole() != c.alert.Text { // the number of crashes, or another run
		c.alert.Text, c.unsaved = f.whole(), true
		c.alert.Count++
	}
	if c.open || f.keepsOnly || now.Sub(c.first) < f.after {
		return
	}
	c.open = true
	if c.unsaved { // its end is not recorded yet: the record is still open
		c.alert.Ended, c.alert.Outcome, c.alert.Text = time.Time{}, "", f.whole()
		c.alert.Count++
		w.save(ctx, c, mesh.NoticeOpened, now)
		return
	}
	c.alert = mesh.Alert{Kind: key.Kind, Stack: key.Stack, About: key.About, Text: f.whole(), Since: c.first.UTC(), Count: 1}
	c.calm = w.calmOf(ctx, c.alert)
	w.save(ctx, c, mesh.NoticeOpened, now)
}

// mended takes a rule into account that is not broken any more, or not at the moment.
func (w *Watcher) mended(ctx context.Context, key mesh.AlertCause, c *cause, outcome string, now time.Time) {
	// A job that fails every other time must not send a message each time.
	atOnce := key.Kind == mesh.AlertDeploy || key.Kind == mesh.AlertBackup || key.Kind == mesh.AlertCron && c.calm <= w.Calm
	switch {
	case !c.open && c.unsaved:
	case !c.open:
		delete(w.causes, key)
	case key.Kind == mesh.AlertDeploy && outcome == "", key.Kind == mesh.AlertBackup && key.About == "":
		// only a later success ends it
	case c.good.IsZero() && !atOnce:
		c.good = now
	case atOnce, now.Sub(c.good) >= c.calm:
		w.end(ctx, key, c, outcome, now)
	}
}

// end ends an open alert.
func (w *Watcher) end(ctx context.Context, key mesh.AlertCause, c *cause, outcome string, now time.Time) {
	c.open = false
	c.alert.Ended, c.alert.Outcome = now.UTC(), outcome
	if c.alert.Ended.Before(c.alert.Since) { // the clock was set back
		c.alert.Ended = c.alert.Since
	}
	if w.save(ctx, c, mesh.NoticeRecovered, now); !c.unsaved {
		delete(w.causes, key)
	}
}

// notices returns the messages to everyone who wants them.
func (w *Watcher) notices(ctx context.Context, a mesh.Alert, event mesh.NoticeEvent, now time.Time) (out []mesh.Notice) {
	all, err := w.Reader.Recipients(ctx)
	if err != nil {
		w.Logger.Error("recipients of alerts not read: nobody gets a message", "err", err)
	}
	for _, r := range all {
		if r.Wants(a) {
			out = append(out, mesh.Notice{Recipient: r.Name, Event: event, Alert: a, At: now.UTC()})
		}
	}
	return out
}

// save records an alert and sends the messages about an event, or none if it is empty. If
// the alert cannot be recorded, as on a full disk, the messages are sent all the same, and
// recording is tried again.
func (w *Watcher) save(ctx context.Context, c *cause, event mesh.NoticeEvent, now time.Time) {
	ctx = context.WithoutCancel(ctx)
	var notices []mesh.Notice
	if event != "" {
		notices = w.notices(ctx, c.alert, event, now)
	}
	first := !c.unsaved
	a, numbered, err := w.Records.RecordAlert(ctx, c.alert, notices)
	switch {
	case errors.Is(err, mesh.NotFound):
		c.unsaved = false // its stack was destroyed: nobody wants to hear about it
		return
	case err != nil:
		c.unsaved = true
		if first {
			w.Logger.Error("alert not recorded", "stack", c.alert.Stack, "kind", string(c.alert.Kind), "what", c.alert.Text, "err", err)
		}
	default:
		renamed := a.Stack != c.alert.Stack
		c.unsaved, c.alert, notices = false, a, numbered
		if renamed && event != "" { // recipients of the new name
			more := slices.DeleteFunc(w.notices(ctx, a, event, now), func(n mesh.Notice) bool {
				return slices.ContainsFunc(notices, func(o mesh.Notice) bool { return o.Recipient == n.Recipient })
			})
			if _, numbered, err := w.Records.RecordAlert(ctx, a, more); err == nil {
				more = numbered
			}
			notices = append(notices, more...)
		}
	}
	if len(notices) > 0 {
		w.Send(notices)
	}
}
