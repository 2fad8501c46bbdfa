// Package notify delivers messages about alerts: to webhooks, chats and mailboxes.
//
// Messages to a recipient arrive in order, each at least once: a message stays in the
// outbox until its recipient has accepted it. A recipient that hangs, fails or redirects
// delays only its own messages. What an alert is, and who gets a message about it, is
// decided elsewhere. No error, log line or list of this package contains a URL's secrets.
//
//	n := notify.New(notify.Options{…})
//	go n.Run(ctx)      // first delivers what an earlier process has left
//	n.Send(notices)    // does not wait
package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"mesh"
)

// Options are what a Notifier works with. Recipients, Outbox and Delivered are required.
type Options struct {
	// Recipients returns all recipients. It is called before each attempt.
	Recipients func(ctx context.Context) ([]mesh.Recipient, error)
	// Outbox returns the messages that are recorded and not delivered, in their order.
	Outbox func(ctx context.Context) ([]mesh.Notice, error)
	// Delivered removes messages from the outbox.
	Delivered func(ctx context.Context, numbers []uint64) error

	// Dial connects on behalf of fenced recipients, and refuses addresses that they may
	// not be at. nil: they are dialed like others.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Check reports whether a fenced recipient may be at a host; nil: it may.
	Check   func(ctx context.Context, host string) error
	Server  string           // names the server in messages: its base domain
	Version string           // of mesh, for the User-Agent
	Logger  *slog.Logger     // nil: nothing is logged
	Now     func() time.Time // nil: time.Now

	First time.Duration // wait after the first failed attempt, doubling; 0: 5 s
	Pace  time.Duration // between two messages to a chat, which limit their rate; 0: 1 s
}

const (
	attemptTime = 10 * time.Second // of one attempt, from the name lookup to the end of the answer
	firstWait   = 5 * time.Second
	mostWait    = 10 * time.Minute
	pace        = time.Second
	maxTries    = 150 // about a day
	// A recipient that refuses a message, as one that was deleted does, gets it this often.
	maxRefused = 3
	maxQueue   = 100 // messages to one recipient; the oldest are given up first
	// This many waiting messages become one to a person.
	digestFrom = 4
)

// Notifier delivers messages. It may be used from several goroutines.
type Notifier struct {
	Options
	free, fenced *http.Client

	mu    sync.Mutex
	lines map[mesh.RecipientName]*line
	moved chan struct{} // holds a value when a line has messages and nobody delivers them
}

// line is the queue of one recipient. It is guarded by Notifier.mu.
type line struct {
	queue []mesh.Notice
	mesh.Delivery
	busy bool          // a goroutine delivers
	wake chan struct{} // makes it try at once
}

// New returns a Notifier. It delivers nothing until Run is called.
func New(o Options) *Notifier {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.First, o.Pace = cmp.Or(o.First, firstWait), cmp.Or(o.Pace, pace)
	n := &Notifier{Options: o, lines: map[mesh.RecipientName]*line{}, moved: make(chan struct{}, 1)}
	plain := new(net.Dialer).DialContext
	n.free = client(plain, http.ProxyFromEnvironment)
	if n.fenced = n.free; o.Dial != nil {
		n.fenced = client(o.Dial, nil)
	}
	return n
}

// Run delivers messages until ctx ends: first those that an earlier process has left. It
// returns when nothing is being delivered any more.
func (n *Notifier) Run(ctx context.Context) error {
	left, err := n.Outbox(ctx)
	if err != nil {
		n.Logger.Warn("messages of an earlier process not read: they are not delivered", "err", err)
	}
	n.Send(left)
	var all sync.WaitGroup
	defer all.Wait()
	for {
		n.mu.Lock()
		for name, l := range n.lines {
			if len(l.queue) > 0 && !l.busy {
				l.busy = true
				all.Go(func() { n.deliver(ctx, name, l) })
			}
		}
		n.mu.Unlock()
		select {
		case <-n.moved:
		case <-ctx.Done():
			return nil
		}
	}
}

// Send adds messages to the queues of their recipients. It does not wait. Messages with a
// number that is in a queue already are not added again.
func (n *Notifier) Send(notices []mesh.Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range notices {
		l := n.lineLocked(m.Recipient)
		if m.Number > 0 && slices.ContainsFunc(l.queue, func(o mesh.Notice) bool { return o.Number == m.Number }) {
			continue
		}
		l.queue = append(l.queue, m)
		if over := len(l.queue) - maxQueue; over > 0 { // the outbox has given them up as well
			l.queue = slices.Delete(l.queue, 0, over)
			l.Lost += over
		}
	}
	select {
	case n.moved <- struct{}{}:
	default:
	}
}

func (n *Notifier) lineLocked(name mesh.RecipientName) *line {
	l := n.lines[name]
	if l == nil {
		l = &line{wake: make(chan struct{}, 1)}
		n.lines[name] = l
	}
	return l
}

// Delivery reports how the messages to a recipient fare.
func (n *Notifier) Delivery(name mesh.RecipientName) mesh.Delivery {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.lines[name]
	if l == nil {
		return mesh.Delivery{}
	}
	d := l.Delivery
	d.Waiting = len(l.queue)
	return d
}

// Forget drops the queue and the figures of a recipient that was removed: another one may
// get its name.
func (n *Notifier) Forget(name mesh.RecipientName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.lines[name]; l != nil {
		l.queue, l.Delivery = nil, mesh.Delivery{}
		l.poke()
	}
}

func (l *line) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Test sends one message, at once and only once, and waits for the outcome, for at most
// ten seconds. Once it succeeds, messages that wait for the same recipient are tried at
// once. The error is a *mesh.Error.
func (n *Notifier) Test(ctx context.Context, r mesh.Recipient) error {
	now := n.Now()
	err := n.attempt(ctx, r, []mesh.Notice{{
		Recipient: r.Name, Event: mesh.NoticeTest, At: now,
		Alert: mesh.Alert{Text: "this is a test of mesh's alerts", Since: now, Count: 1},
	}})
	if err != nil {
		return mesh.Errorf(mesh.Failed, "the test message to %s was not delivered: %s", r.Name, err).
			WithHint("if its URL is wrong, remove it and add it again: ssh mesh notify:remove %s", r.Name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.lines[r.Name]; l != nil {
		l.Sent, l.Failed, l.Failure = now, time.Time{}, ""
		l.poke()
	}
	return nil
}

// deliver delivers the messages in a line until none is left, or ctx ends.
func (n *Notifier) deliver(ctx context.Context, name mesh.RecipientName, l *line) {
	for tries := 0; ; {
		batch := n.next(ctx, name, l)
		if len(batch) == 0 {
			return
		}
		r, err := n.recipient(ctx, name)
		switch {
		case ctx.Err() != nil:
			n.release(l)
			return
		case errors.Is(err, mesh.NotFound):
			n.drop(ctx, l, batch) // it was removed, and its messages with it
			continue
		case err == nil:
			err = n.attempt(ctx, r, batch)
		}
		if ctx.Err() != nil && err != nil {
			n.release(l)
			return
		}
		if err == nil {
			n.done(ctx, l, batch, nil)
			tries = 0
			if person(r.Service) {
				n.wait(ctx, n.Pace, nil)
			}
			continue
		}
		tries++
		var f *failure
		refused := errors.As(err, &f) && f.final
		if tries >= maxTries || refused && tries >= maxRefused {
			n.Logger.Error("messages about alerts given up", "recipient", string(name), "messages", len(batch), "attempts", tries, "err", err)
			n.done(ctx, l, batch, err)
			tries = 0
			continue
		}
		n.failed(name, l, err)
		pause := backoff(n.First, tries)
		if f != nil {
			pause = max(pause, f.after)
		}
		n.wait(ctx, pause, l.wake)
	}
}

// backoff returns how long to wait after that many failures in a row.
func backoff(first time.Duration, failures int) time.Duration {
	return min(first<<min(failures-1, 20), mostWait)
}

func (n *Notifier) wait(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
}

// next returns the messages to send next in one: to a person all that wait, if they are
// many. It gives the line up if there are none.
func (n *Notifier) next(ctx context.Context, name mesh.RecipientName, l *line) []mesh.Notice {
	r, err := n.recipient(ctx, name)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case len(l.queue) == 0 || ctx.Err() != nil:
		l.busy = false
		return nil
	case err == nil && person(r.Service) && len(l.queue) >= digestFrom:
		return slices.Clone(l.queue)
	}
	return slices.Clone(l.queue[:1])
}

func (n *Notifier) release(l *line) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l.busy = false
}

// recipient finds a recipient by its name. It is NotFound if there is none.
func (n *Notifier) recipient(ctx context.Context, name mesh.RecipientName) (mesh.Recipient, error) {
	all, err := n.Recipients(ctx)
	if err != nil {
		return mesh.Recipient{}, err
	}
	i := slices.IndexFunc(all, func(r mesh.Recipient) bool { return r.Name == name })
	if i < 0 {
		return mesh.Recipient{}, mesh.Errorf(mesh.NotFound, "no recipient is named %s", name)
	}
	return all[i], nil
}

// drop takes messages out of a line and the outbox.
func (n *Notifier) drop(ctx context.Context, l *line, batch []mesh.Notice) {
	var numbers []uint64
	for _, m := range batch {
		if m.Number > 0 {
			numbers = append(numbers, m.Number)
		}
	}
	if len(numbers) > 0 {
		if serr := n.Delivered(context.WithoutCancel(ctx), numbers); serr != nil {
			n.Logger.Warn("messages about alerts may be delivered again after a restart", "err", serr)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l.queue = slices.DeleteFunc(l.queue, func(m mesh.Notice) bool { return slices.Contains(batch, m) })
}

// done takes messages out of a line, delivered, or given up because of err.
func (n *Notifier) done(ctx context.Context, l *line, batch []mesh.Notice, err error) {
	n.drop(ctx, l, batch)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		l.Lost += len(batch)
		l.Failure = fmt.Sprint(err)
		if l.Failed.IsZero() {
			l.Failed = n.Now()
		}
		return
	}
	if !l.Failed.IsZero() {
		n.Logger.Info("messages about alerts are delivered again", "recipient", string(batch[0].Recipient))
	}
	l.Sent, l.Failed, l.Failure = n.Now(), time.Time{}, ""
}

// failed notes a failed attempt. The log gets the first of several in a row.
func (n *Notifier) failed(name mesh.RecipientName, l *line, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.Failed.IsZero() {
		l.Failed = n.Now()
		n.Logger.Warn("messages about alerts not delivered; mesh keeps trying", "recipient", string(name), "err", err)
	}
	l.Failure = fmt.Sprint(err)
}
