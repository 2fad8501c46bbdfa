package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"mesh"
	"mesh/reasons"
)

// The timing of Check. Probes are dense at first, because most apps are up within
// 0.1 s and every pause is added to the push.
const (
	probeFirst   = 5 * time.Millisecond
	probeDense   = 50 * time.Millisecond // at most, while dense
	probeSparse  = 250 * time.Millisecond
	denseFor     = 3 * time.Second
	probeTimeout = 5 * time.Second

	lookEvery     = 500 * time.Millisecond // how often to look at what the instance listens on
	loopbackFor   = 2 * time.Second        // after that it will not change
	badAnswersFor = 15 * time.Second
	progressFirst = 5 * time.Second
	progressEvery = 10 * time.Second

	evidence = 30  // log lines shown with a failure
	searched = 500 // log lines in which its reason may be
)

// Check waits until the instance is healthy. It returns what it saw in a few words
// ("GET / 200", "up for 2s"), or a *mesh.Error with the reason and the last log
// lines as output. progress, which may be nil, is called with a line from time to
// time, first after 5 s.
//
// With TCP, healthy means that mesh.Port accepts a connection.
// With HTTP, healthy means an answer to GET c.Path on mesh.Port that is not a 5xx,
// or a 2xx or 3xx with c.Strict. Redirects are not followed. Check gives up before
// c.Timeout (0: mesh.DefaultCheckTimeout) when the container exits, when it has
// listened for 2 s on the right port but only on its loopback, and when it has only
// given unhealthy answers for 15 s.
func (r *Runner) Check(ctx context.Context, in mesh.Instance, c mesh.Check, progress func(string)) (string, error) {
	if c.Timeout <= 0 {
		c.Timeout = mesh.DefaultCheckTimeout
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if progress == nil {
		progress = func(string) {}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k := &check{r: r, in: in, c: c, name: in.Name.String(), progress: progress, began: time.Now()}
	// The wait is in place when this returns, and an earlier exit is reported at
	// once: none is missed.
	k.exited, k.failed = r.cli.API(ctx).ContainerWait(ctx, in.ID, container.WaitConditionNotRunning)
	seen, err := k.run(ctx)
	if err == nil {
		return seen, nil
	}
	var e *mesh.Error
	if errors.As(err, &e) && e.Kind == mesh.Failed && ctx.Err() == nil {
		output := r.tail(ctx, in.ID, searched)
		reason := reasons.Find(output)
		e.Output = reason.Last(output, evidence)
		r.notExecuted(ctx, in.ID, e, k.name)
		if e.Hint == "" || k.last.status != 0 && reason.Hint != "" {
			e.Hint = reason.HintFor(string(in.Stack))
		}
	}
	return "", r.fault(ctx, "check "+k.name, err)
}

// check is one call of Check.
type check struct {
	r        *Runner
	in       mesh.Instance
	c        mesh.Check
	name     string
	progress func(string)
	began    time.Time
	exited   <-chan container.WaitResponse
	failed   <-chan error

	last      answer           // of the last try
	badSince  time.Time        // of the first unhealthy answer in a row
	listens   []netip.AddrPort // last seen
	known     bool             // listens is known
	loopSince time.Time        // of loopback only, in a row
	nextLook  time.Time
}

// answer is the result of one try.
type answer struct {
	status    int  // of the HTTP answer; 0: none
	connected bool // the connection was accepted
	slow      bool // and then nothing came
	err       error
}

func (k *check) run(ctx context.Context) (string, error) {
	if !k.c.HTTP && !k.c.TCP {
		return k.settle(ctx)
	}
	return k.answers(ctx)
}

// settle waits until the instance has been up long enough.
func (k *check) settle(ctx context.Context) (string, error) {
	left := k.c.Settle
	if !k.in.Started.IsZero() {
		left = min(max(left-k.r.now().Sub(k.in.Started), 0), left)
	}
	t := time.NewTimer(left)
	defer t.Stop()
	when := fmt.Sprintf("within %s of its start", span(k.c.Settle))
	select {
	case e := <-k.exited:
		return "", k.ended(ctx, int(e.StatusCode), when)
	case err := <-k.failed:
		return "", k.lost(err)
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-t.C:
	}
	c, err := k.r.cli.API(ctx).ContainerInspect(ctx, k.in.ID)
	if err != nil {
		return "", k.lost(err)
	}
	if !c.State.Running {
		return "", k.ended(ctx, c.State.ExitCode, when)
	}
	return "up for " + span(k.c.Settle), nil
}

// answers waits until the instance answers HTTP, or accepts a connection.
func (k *check) answers(ctx context.Context) (string, error) {
	p := newProber()
	defer p.close()
	deadline := time.NewTimer(k.c.Timeout)
	defer deadline.Stop()
	nextSay := k.began.Add(progressFirst)
	k.nextLook = k.began.Add(lookEvery)
	address := (&url.URL{Scheme: "http", Host: k.in.Addr.String()}).String() + "/" + strings.TrimPrefix(k.c.Path, "/")
	when := fmt.Sprintf("before it %s on port %d", map[bool]string{true: "answered", false: "accepted a connection"}[k.c.HTTP], mesh.Port)
	for delay := probeFirst; ; {
		tried := make(chan answer, 1)
		go func() {
			if k.c.HTTP {
				tried <- p.get(ctx, address)
			} else {
				tried <- knock(ctx, k.in.Addr)
			}
		}()
		var pause <-chan time.Time
		for again := false; !again; {
			select {
			case e := <-k.exited:
				return "", k.ended(ctx, int(e.StatusCode), when)
			case err := <-k.failed:
				return "", k.lost(err)
			case <-ctx.Done():
				return "", context.Cause(ctx)
			case <-deadline.C:
				return "", k.verdict(ctx)
			case k.last = <-tried:
				switch {
				case !k.healthy():
				case !k.c.HTTP:
					return fmt.Sprintf("accepts connections on port %d", mesh.Port), nil
				default:
					return fmt.Sprintf("GET %s %d", k.c.Path, k.last.status), nil
				}
				if err := k.judge(ctx); err != nil {
					return "", err
				}
				pause = time.After(delay)
				if time.Since(k.began) < denseFor {
					delay = min(2*delay, probeDense)
				} else {
					delay = probeSparse
				}
			case <-pause:
				again = true
			}
			if now := time.Now(); now.After(nextSay) {
				nextSay = now.Add(progressEvery)
				k.look(ctx)
				k.progress(k.sofar())
			}
		}
	}
}

// knock makes a connection, and sends nothing.
func knock(ctx context.Context, at netip.AddrPort) answer {
	c, err := (&net.Dialer{Timeout: probeTimeout}).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return answer{err: err}
	}
	_ = c.Close() // there is nothing to learn from it
	return answer{connected: true}
}

func (k *check) healthy() bool {
	if !k.c.HTTP {
		return k.last.connected
	}
	if k.c.Strict {
		return k.last.status >= 200 && k.last.status < 400
	}
	return k.last.status > 0 && k.last.status < 500
}

// judge gives up early when there is no point in waiting.
func (k *check) judge(ctx context.Context) error {
	now := time.Now()
	if k.last.status != 0 {
		if k.badSince.IsZero() {
			k.badSince = now
		}
		if now.Sub(k.badSince) >= badAnswersFor {
			return k.badAnswers(now.Sub(k.badSince))
		}
		return nil
	}
	k.badSince = time.Time{}
	if k.last.connected || now.Before(k.nextLook) {
		return nil
	}
	k.look(ctx)
	at, loop := loopbackOnly(k.listens)
	switch {
	case !k.known || !loop:
		k.loopSince = time.Time{}
	case k.loopSince.IsZero():
		k.loopSince = now
	case now.Sub(k.loopSince) >= loopbackFor:
		return k.loopback(at)
	}
	return nil
}

// look finds out what the instance listens on. If that is expensive, because it
// needs a process in the container, it happens less often.
func (k *check) look(ctx context.Context) {
	began := time.Now()
	k.listens, k.known = k.r.listeners(ctx, k.in.ID)
	now := time.Now()
	k.nextLook = now.Add(max(lookEvery, 40*now.Sub(began)))
}

// sofar is the line for progress.
func (k *check) sofar() string {
	switch {
	case k.last.status != 0:
		return fmt.Sprintf("%s: GET %s answers %d so far", k.name, k.c.Path, k.last.status)
	case k.c.HTTP && (k.last.connected || reachable(k.listens)):
		return fmt.Sprintf("%s: port %d accepts connections, but GET %s has no answer yet", k.name, mesh.Port, k.c.Path)
	case k.known:
		return fmt.Sprintf("%s: nothing on port %d yet; it listens on %s", k.name, mesh.Port, describe(k.listens))
	}
	return fmt.Sprintf("%s: nothing on port %d yet", k.name, mesh.Port)
}

const listenHint = "listen on 0.0.0.0:$PORT"

func (k *check) badAnswers(d time.Duration) *mesh.Error {
	e := mesh.Errorf(mesh.Failed, "%s answered GET %s with %d for %s", k.name, k.c.Path, k.last.status, span(d))
	if k.c.Strict {
		return e.WithHint("it must answer 2xx or 3xx; to use another path: ssh mesh build:set -a %s health=/PATH", k.in.Stack)
	}
	return e
}

func (k *check) loopback(at netip.AddrPort) *mesh.Error {
	return mesh.Errorf(mesh.Failed, "%s listens on %s only", k.name, at).WithHint(listenHint)
}

// verdict is the error when the time has run out.
func (k *check) verdict(ctx context.Context) error {
	k.look(ctx)
	waited := span(time.Since(k.began))
	if k.last.status != 0 && !k.badSince.IsZero() {
		return k.badAnswers(time.Since(k.badSince))
	}
	if c, err := k.r.cli.API(ctx).ContainerInspect(ctx, k.in.ID); err == nil && c.State.OOMKilled {
		e := mesh.Errorf(mesh.Failed, "%s ran out of memory%s and did not answer on port %d within %s", k.name, limit(c.HostConfig.Memory), mesh.Port, waited)
		return e.WithHint("raise its limit with: ssh mesh svc:update NAME --memory 1g")
	}
	if at, ok := loopbackOnly(k.listens); ok {
		return k.loopback(at)
	}
	switch {
	case k.c.HTTP && (k.last.connected && k.last.slow || !k.last.connected && reachable(k.listens)):
		return mesh.Errorf(mesh.Failed, "%s accepts connections on port %d but does not answer GET %s", k.name, mesh.Port, k.c.Path).
			WithHint("waited %s; an answer must come within %s", waited, span(probeTimeout))
	case k.last.connected:
		return mesh.Errorf(mesh.Failed, "%s does not speak HTTP on port %d", k.name, mesh.Port).
			WithHint("web and published services must speak HTTP; rename a service that does not, or svc:unpublish it")
	case k.known && len(k.listens) > 0:
		return mesh.Errorf(mesh.Failed, "%s does not listen on port %d; it listens on %s", k.name, mesh.Port, describe(k.listens)).WithHint(listenHint)
	case k.known:
		return mesh.Errorf(mesh.Failed, "%s listens on no port after %s", k.name, waited).WithHint(listenHint)
	}
	return mesh.Errorf(mesh.Failed, "%s does not listen on port %d after %s", k.name, mesh.Port, waited).WithHint(listenHint)
}

// ended is the error for a container that exited.
func (k *check) ended(ctx context.Context, code int, when string) error {
	c, err := k.r.inspectEnded(ctx, k.in.ID, code)
	if err != nil {
		return k.lost(err)
	}
	return exitFault(k.name, code, c.State.OOMKilled, c.HostConfig.Memory, when)
}

// inspectEnded inspects a container that ended with a code. The engine reports an OOM
// kill separately from the exit, and perhaps later: for a short time, it asks again.
func (r *Runner) inspectEnded(ctx context.Context, id string, code int) (container.InspectResponse, error) {
	c, err := r.cli.API(ctx).ContainerInspect(ctx, id)
	for try := 0; err == nil && code == 137 && c.HostConfig.Memory > 0 && !c.State.OOMKilled && try < 10; try++ {
		if pause(ctx, 20*time.Millisecond) != nil {
			break
		}
		later, err := r.cli.API(ctx).ContainerInspect(ctx, id)
		if err != nil {
			break
		}
		c = later
	}
	return c, err
}

// lost is the error for a container that somebody removed, or for an engine that
// stopped.
func (k *check) lost(err error) error {
	if errdefs.IsNotFound(err) {
		return &mesh.Error{Kind: mesh.Failed, Text: k.name + " was removed while it was checked", Err: err}
	}
	return err
}

// prober sends HTTP requests to an instance, each on its own connection.
type prober struct{ one, two *http.Client }

func newProber() *prober {
	noFollow := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	dial := (&net.Dialer{Timeout: probeTimeout}).DialContext
	// gRPC servers speak only HTTP/2 without TLS.
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	return &prober{
		one: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, CheckRedirect: noFollow},
		two: &http.Client{Transport: &http.Transport{DialContext: dial, Protocols: &h2c}, CheckRedirect: noFollow},
	}
}

func (p *prober) close() { p.two.CloseIdleConnections() }

func (p *prober) get(ctx context.Context, address string) answer {
	a := ask(ctx, p.one, address)
	if a.connected && a.err != nil && strings.Contains(a.err.Error(), "malformed HTTP") {
		if b := ask(ctx, p.two, address); b.status != 0 {
			return b
		}
	}
	return a
}

func ask(ctx context.Context, c *http.Client, address string) answer {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return answer{err: err}
	}
	// Not the container's address: frameworks refuse unknown hosts, but accept this
	// one.
	req.Host = "localhost"
	req.Header.Set("User-Agent", "mesh-check")
	resp, err := c.Do(req)
	if err != nil {
		var op *net.OpError
		dialing := errors.As(err, &op) && op.Op == "dial"
		return answer{
			err: err, connected: !dialing && !errors.Is(err, syscall.ECONNREFUSED),
			slow: !dialing && errors.Is(err, context.DeadlineExceeded),
		}
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that an app with a small page does not see a broken pipe
	_ = resp.Body.Close()
	return answer{status: resp.StatusCode, connected: true}
}

// span prints a duration for people: "15s", "1m30s", "0.3s".
func span(d time.Duration) string {
	if d < time.Second && d > 0 {
		return strconv.FormatFloat(d.Round(100*time.Millisecond).Seconds(), 'f', -1, 64) + "s"
	}
	return mesh.Brief(d.Round(time.Second))
}
