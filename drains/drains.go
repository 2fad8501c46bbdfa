// Package drains sends the log lines of stacks elsewhere: to syslog, as JSON, to
// OpenTelemetry and to Loki, in order, and each at least once.
//
//	s := drains.New(drains.Options{Drains: store.Drains, Stacks: store.Stacks, Open: …})
//	go s.Run(ctx)
//	s.Status("d4f7a1")
//
// A drain reads a queue, which the log keeps on the disk. What cannot be sent waits there,
// up to the queue's limit: an app never waits for a receiver. Package drains does not
// decide who may add a drain, and keeps no state but how drains fare.
package drains

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"mesh"
)

// Queue are the lines of one stack for one drain, in order.
type Queue interface {
	// Take returns the next lines without waiting; none if there are none.
	Take() ([]mesh.LogLine, error)
	// Done says that what Take has returned was sent, or given up.
	Done() error
	// Waiting returns the bytes that wait, and how many lines were given up for lack of
	// room.
	Waiting() (bytes int64, lost int)
	// Wait returns when there may be lines, after at most a second, or when ctx ends.
	Wait(ctx context.Context)
}

// Options are what New needs.
type Options struct {
	Drains  func(context.Context) ([]mesh.Drain, error)
	Stacks  func(context.Context) ([]mesh.Stack, error)
	Open    func(stack mesh.StackName, drain string) (Queue, error)
	Close   func(stack mesh.StackName, drain string)                             // of a removed drain
	Dial    func(ctx context.Context, network, address string) (net.Conn, error) // for fenced drains; nil: they are as free as the others
	Version string
	Logger  *slog.Logger
	Now     func() time.Time // nil: time.Now
}

// Sender sends lines to all drains. It may be used from several goroutines.
type Sender struct {
	o    Options
	wake chan struct{}

	mu      sync.Mutex
	drains  map[string]*drain // by ID
	running sync.WaitGroup
}

// New creates a Sender.
func New(o Options) *Sender {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Sender{o: o, wake: make(chan struct{}, 1), drains: map[string]*drain{}}
}

// lookEvery is how often new stacks are looked for.
const lookEvery = 5 * time.Second

// Changed makes the Sender look at once: a drain was added or removed.
func (s *Sender) Changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run sends lines until ctx ends.
func (s *Sender) Run(ctx context.Context) error {
	defer s.running.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.o.Logger.Warn("the drains cannot be read", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		case <-tick.C:
		}
	}
}

// look starts and ends drains, and tells each the stacks that it has.
func (s *Sender) look(ctx context.Context) error {
	all, err := s.o.Drains(ctx)
	if err != nil {
		return err
	}
	stacks, err := s.o.Stacks(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[string]bool{}
	for _, d := range all {
		there[d.ID] = true
		var of []mesh.StackName
		for _, st := range stacks {
			if d.Stack == "" || d.Stack == st.Name {
				of = append(of, st.Name)
			}
		}
		run := s.drains[d.ID]
		if run == nil {
			if run, err = newDrain(d, s.o); err != nil {
				s.o.Logger.Error("a drain cannot be used", "drain", d.ID, "err", err)
				continue
			}
			s.drains[d.ID] = run
			var dctx context.Context
			dctx, run.stop = context.WithCancel(ctx)
			s.running.Go(func() { run.run(dctx) })
		}
		run.setStacks(of)
	}
	for id, run := range s.drains {
		if !there[id] {
			run.stop()
			delete(s.drains, id)
			s.running.Go(func() {
				<-run.ended
				for _, st := range stacks {
					s.o.Close(st.Name, id)
				}
			})
		}
	}
	return nil
}

// Describe and CheckHeader are the functions of those names.
func (s *Sender) Describe(u mesh.Secret) (shown string, plain bool, err error) { return Describe(u) }

// CheckHeader returns an error unless h is "Name: value".
func (s *Sender) CheckHeader(h string) error { return CheckHeader(h) }

// Status returns how a drain fares.
func (s *Sender) Status(id string) mesh.DrainStatus {
	s.mu.Lock()
	d := s.drains[id]
	s.mu.Unlock()
	if d == nil {
		return mesh.DrainStatus{}
	}
	return d.status()
}

// sender sends lines to one receiver. After an error, the same lines are sent again.
type sender interface {
	// send returns how many of the lines the receiver does not want.
	send(ctx context.Context, stack mesh.StackName, lines []mesh.LogLine) (refused int, err error)
	close()
}

func (s *httpSender) close() { s.client.CloseIdleConnections() }

// drain is a drain at work.
type drain struct {
	mesh.Drain
	o        Options
	url      *url.URL
	hostname string
	out      sender
	mask     *strings.Replacer
	stop     context.CancelFunc
	ended    chan struct{}
	changed  chan struct{} // its stacks

	mu     sync.Mutex
	stacks []mesh.StackName
	queues map[mesh.StackName]Queue
	state  mesh.DrainStatus
}

// sendTime limits one attempt.
const sendTime = 30 * time.Second

func newDrain(d mesh.Drain, o Options) (*drain, error) {
	u, err := parse(d.URL.Reveal())
	if err != nil {
		return nil, err
	}
	out := &drain{Drain: d, o: o, url: u, ended: make(chan struct{}), changed: make(chan struct{}, 1), queues: map[mesh.StackName]Queue{}}
	out.mask = mesh.NewMasker(secrets(d, u))
	if out.hostname, err = os.Hostname(); err != nil {
		out.hostname = "-"
	}
	if strings.HasPrefix(u.Scheme, "syslog") {
		out.out = &syslogSender{d: out}
		return out, nil
	}
	h := &httpSender{d: out, kind: "application/x-ndjson", encode: ndjson}
	switch u.Scheme {
	case schemeOTLP, schemeOTLPPlain:
		h.kind, h.encode, h.refused = "application/x-protobuf", otlp(out.hostname), otlpRefused
	case schemeLoki, schemeLokiPlain:
		h.kind, h.encode = "application/json", loki
	}
	h.client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: out.dial, TLSClientConfig: out.tls(""), ForceAttemptHTTP2: true, MaxResponseHeaderBytes: maxAnswer,
			TLSHandshakeTimeout: sendTime, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 1,
		},
	}
	out.out = h
	return out, nil
}

func (d *drain) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if d.Fenced && d.o.Dial != nil {
		return d.o.Dial(ctx, network, address)
	}
	return (&net.Dialer{Timeout: sendTime, KeepAlive: 30 * time.Second}).DialContext(ctx, network, address)
}

func (d *drain) tls(name string) *tls.Config {
	c := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}
	if d.CA != "" {
		c.RootCAs = x509.NewCertPool()
		c.RootCAs.AppendCertsFromPEM([]byte(d.CA))
	}
	return c
}

// quote returns the beginning of an answer, for people. What a fenced drain is told stays
// unsaid: its author might be asking inside the network.
func (d *drain) quote(answer []byte) string {
	text := strings.TrimSpace(string(answer))
	if d.Fenced || text == "" || strings.HasPrefix(text, "<") {
		return ""
	}
	return fmt.Sprintf("%q", mesh.Clip(mesh.Visible(d.mask.Replace(text)), 200))
}

func (d *drain) setStacks(of []mesh.StackName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stacks = of
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// open returns the queues of the drain's stacks.
func (d *drain) open() map[mesh.StackName]Queue {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := map[mesh.StackName]Queue{}
	for _, st := range d.stacks {
		q := d.queues[st]
		if q == nil {
			var err error
			if q, err = d.o.Open(st, d.ID); err != nil {
				continue // it has no log yet, or the disk is full
			}
		}
		now[st] = q
	}
	d.queues = now
	return now
}

// run sends lines until ctx ends. Each stack's lines are in order.
func (d *drain) run(ctx context.Context) {
	defer close(d.ended)
	defer d.out.close()
	for ctx.Err() == nil {
		sent := 0
		queues := d.open()
		for st, q := range queues {
			n, err := d.pass(ctx, st, q)
			if err != nil && ctx.Err() == nil {
				d.o.Logger.Warn("a drain's queue cannot be read", "drain", d.ID, "stack", st, "err", err)
			}
			sent += n
		}
		if sent == 0 {
			d.idle(ctx, queues)
		}
	}
}

// idle waits until a queue may have lines, or the stacks have changed.
func (d *drain) idle(ctx context.Context, queues map[mesh.StackName]Queue) {
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var waiting sync.WaitGroup
	for _, q := range queues {
		waiting.Go(func() {
			q.Wait(wctx)
			cancel()
		})
	}
	began := time.Now()
	select {
	case <-wctx.Done():
	case <-d.changed:
	case <-time.After(time.Second):
	}
	cancel()
	waiting.Wait()
	// A queue may say that it has bytes and give none: of the process before, or torn ones.
	select {
	case <-time.After(leastIdle - time.Since(began)):
	case <-ctx.Done():
	}
}

// leastIdle is how long a drain waits at least once it had nothing to send.
const leastIdle = 100 * time.Millisecond

// Pauses between attempts, and how often lines that a receiver cannot read are tried.
const (
	firstPause = time.Second
	longPause  = time.Minute
	hopeless   = 5
)

// mostSalvage is how many requests may be refused while the lines are found that a receiver does not
// take. It finds three or four of them among thousands; a receiver that takes none gets no more.
const mostSalvage = 50

// salvage sends lines of which the receiver does not take some, in ever smaller parts, and returns how
// many were given up. An error is another one than that.
func (d *drain) salvage(ctx context.Context, stack mesh.StackName, lines []mesh.LogLine, budget *int) (refused int, err error) {
	if *budget <= 0 {
		return len(lines), nil
	}
	n, err := d.out.send(ctx, stack, lines)
	var a *answered
	if !errors.As(err, &a) || !a.hopeless() {
		return n, err
	}
	*budget--
	if len(lines) == 1 {
		return 1, nil
	}
	one, err := d.salvage(ctx, stack, lines[:len(lines)/2], budget)
	if err != nil {
		return one, err
	}
	two, err := d.salvage(ctx, stack, lines[len(lines)/2:], budget)
	return one + two, err
}

// pass sends the next lines of a stack, as often as it takes, and returns how many.
func (d *drain) pass(ctx context.Context, stack mesh.StackName, q Queue) (int, error) {
	lines, err := q.Take()
	if err != nil {
		return 0, err
	}
	if len(lines) == 0 {
		d.caughtUp(q)
		return 0, q.Done() // a place without lines
	}
	d.note(func(s *mesh.DrainStatus) { s.Behind = lines[0].At })
	for try, wait := 1, firstPause; ; try, wait = try+1, min(2*wait, longPause) {
		refused, err := d.out.send(ctx, stack, lines)
		if ctx.Err() != nil {
			return 0, nil
		}
		var a *answered
		if errors.As(err, &a) && a.hopeless() && try >= hopeless {
			budget := mostSalvage
			if refused, err = d.salvage(ctx, stack, lines, &budget); ctx.Err() != nil {
				return 0, nil
			}
			if refused > 0 {
				d.o.Logger.Warn("a drain's receiver cannot read lines; they are given up", "drain", d.ID, "stack", stack, "lines", refused, "err", d.text(a))
			}
			d.note(func(s *mesh.DrainStatus) { s.Failed, s.Failure = d.o.Now(), d.text(a) })
		} else if err == nil {
			d.note(func(s *mesh.DrainStatus) { s.Failed, s.Failure = time.Time{}, "" })
		}
		if err == nil {
			d.note(func(s *mesh.DrainStatus) {
				s.Sent = d.o.Now()
				s.Lines += len(lines) - refused
				s.Lost += refused
				s.Behind = time.Time{}
			})
			return len(lines), q.Done()
		}
		d.note(func(s *mesh.DrainStatus) {
			if s.Failed.IsZero() {
				s.Failed = d.o.Now()
				d.o.Logger.Warn("a drain fails", "drain", d.ID, "to", d.Shown, "err", d.text(err))
			}
			s.Failure = d.text(err)
		})
		pause := wait
		if a != nil {
			pause = max(pause, a.after)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, nil
		}
	}
}

func (d *drain) caughtUp(q Queue) {
	if n, _ := q.Waiting(); n == 0 {
		d.note(func(s *mesh.DrainStatus) { s.Behind = time.Time{} })
	}
}

func (d *drain) note(fn func(*mesh.DrainStatus)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fn(&d.state)
}

// text is an error for people, without secrets.
func (d *drain) text(err error) string {
	var a *answered
	if errors.As(err, &a) {
		return a.Error()
	}
	return mesh.Clip(mesh.Visible(d.mask.Replace(mesh.Unreached(err, sendTime))), 200)
}

func (d *drain) status() mesh.DrainStatus {
	d.mu.Lock()
	out := d.state
	queues := make([]Queue, 0, len(d.queues))
	for _, q := range d.queues {
		queues = append(queues, q)
	}
	d.mu.Unlock()
	for _, q := range queues {
		n, lost := q.Waiting()
		out.Waiting += n
		out.Lost += lost
	}
	return out
}
