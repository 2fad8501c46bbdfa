package runner

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"

	"mesh"
)

// Pauses between attempts to reach an engine that is down.
const (
	reconnectFirst = 50 * time.Millisecond
	reconnectMost  = 2 * time.Second
)

// Watch calls fn, one event at a time, for each instance that starts or dies, and
// for anything else that may have changed the running instances, until ctx ends; it
// then returns nil. If the engine goes down, it reconnects and then calls lost,
// because events may have been missed: the caller should list again. fn and lost are
// called from the calling goroutine.
func (r *Runner) Watch(ctx context.Context, fn func(mesh.InstanceEvent), lost func()) error {
	w := &watcher{r: r, since: r.now(), fn: fn, hands: map[string]time.Time{}}
	first, delay := true, reconnectFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := w.subscribe(ctx, func() {
			if !first {
				lost()
			}
		})
		if ctx.Err() != nil {
			break
		}
		first = false
		r.log.WarnContext(ctx, "the engine's events broke off", "err", err)
		if time.Since(began) > reconnectMost {
			delay = reconnectFirst
		}
		if pause(ctx, delay) != nil {
			break
		}
		delay = min(2*delay, reconnectMost)
	}
	return nil
}

// watcher is one call of Watch.
type watcher struct {
	r     *Runner
	since time.Time // advances with each event, so that the next subscription gets what the engine still remembers
	fn    func(mesh.InstanceEvent)
	hands map[string]time.Time // by container: when somebody sent it a signal that ends programs
}

// handTime is how long after a signal from outside an end counts as caused by it.
// The engine's own stop waits 10 s before it kills; a minute also covers longer
// grace periods.
const handTime = time.Minute

// The events to request. An end by "docker stop", "kill", "rm" or "restart", or by
// an engine that shuts down, follows a kill event with the signal; a program that
// ends by itself, or for lack of memory, has none.
var (
	startAndEnd = []events.Action{events.ActionStart, events.ActionDie}
	otherwise   = []events.Action{
		events.ActionKill, events.ActionOOM, events.ActionPause, events.ActionUnPause, events.ActionRename, events.ActionDestroy, events.ActionUpdate,
	}
	ofNetworks = []events.Action{events.ActionDisconnect, events.ActionDestroy, events.ActionRemove}
	ofImages   = []events.Action{events.ActionDelete, events.ActionUnTag}
)

// subscribe reads events until they break off.
func (w *watcher) subscribe(ctx context.Context, up func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := w.r.filter(labelKind + "=" + kindInstance)
	f.Add("type", string(events.ContainerEventType))
	for _, a := range slices.Concat(startAndEnd, otherwise) {
		f.Add("event", string(a))
	}
	messages, errs := w.r.cli.API(ctx).Events(ctx, events.ListOptions{Filters: f, Since: stamp(w.since)})
	// Events returns when the engine has answered, or has failed to.
	select {
	case err := <-errs:
		return err
	default:
	}
	// Events of networks and images lack the labels that select the others.
	f = filters.NewArgs(filters.Arg("type", string(events.NetworkEventType)), filters.Arg("type", string(events.ImageEventType)))
	for _, a := range slices.Concat(ofNetworks, ofImages) {
		f.Add("event", string(a))
	}
	others, otherErrs := w.r.cli.API(ctx).Events(ctx, events.ListOptions{Filters: f})
	select {
	case err := <-otherErrs:
		return err
	default:
	}
	up()
	for {
		select {
		case m := <-messages:
			for _, m := range w.withSignal(ctx, m, messages) {
				w.since = time.Unix(0, m.TimeNano+1)
				if e, ok := w.event(ctx, m); ok {
					w.fn(e)
				}
			}
		case m := <-others:
			if m.Type == events.ImageEventType {
				w.fn(mesh.InstanceEvent{Changed: true, Image: true, At: time.Unix(0, m.TimeNano)})
			} else if strings.HasPrefix(m.Actor.Attributes["name"], w.r.networkName("")) {
				w.fn(mesh.InstanceEvent{Changed: true, At: time.Unix(0, m.TimeNano)})
			}
		case err := <-errs:
			return err
		case err := <-otherErrs:
			return err
		}
	}
}

// signalWait is how long an end that looks like that of a signal waits for the event of
// the signal.
const signalWait = 100 * time.Millisecond

// withSignal returns a message and what came while it waited. The engine sends a signal
// first and reports it then, and on a busy machine the end of the program may be reported
// in between.
func (w *watcher) withSignal(ctx context.Context, m events.Message, more <-chan events.Message) []events.Message {
	all := []events.Message{m}
	code, _ := strconv.Atoi(m.Actor.Attributes["exitCode"])
	if _, known := w.hands[m.Actor.ID]; known || m.Action != events.ActionDie || !slices.Contains(bySignal, code) {
		return all
	}
	t := time.NewTimer(signalWait)
	defer t.Stop()
	for {
		select {
		case next := <-more:
			if next.Actor.ID == m.Actor.ID && next.Action == events.ActionKill && ends(next.Actor.Attributes["signal"]) {
				w.hands[m.Actor.ID] = time.Unix(0, next.TimeNano)
				return all
			}
			all = append(all, next)
			if next.Actor.ID == m.Actor.ID { // started again, or removed: the signal would have been before that
				return all
			}
		case <-t.C:
			return all
		case <-ctx.Done():
			return all
		}
	}
}

// bySignal are the exit codes of programs that were ended by a signal: see ends.
var bySignal = []int{128 + int(syscall.SIGTERM), 128 + int(syscall.SIGKILL), 128 + int(syscall.SIGINT), 128 + int(syscall.SIGQUIT)}

// event turns a message into an event. The message of a died instance describes it;
// that of a started one does not have the address.
func (w *watcher) event(ctx context.Context, m events.Message) (mesh.InstanceEvent, bool) {
	at := time.Unix(0, m.TimeNano)
	e := mesh.InstanceEvent{Instance: labelled(m.Actor.ID, m.Actor.Attributes), At: at}
	switch m.Action {
	case events.ActionStart:
	case events.ActionDie:
		e.Died = true
		sent, is := w.hands[m.Actor.ID]
		e.ByHand = is && at.Sub(sent) < handTime
		delete(w.hands, m.Actor.ID)
	case events.ActionKill:
		if ends(m.Actor.Attributes["signal"]) {
			w.hands[m.Actor.ID] = at
		}
		return e, false // if the instance ends because of it, another event follows
	case events.ActionOOM:
		delete(w.hands, m.Actor.ID)
		return e, false
	default:
		delete(w.hands, m.Actor.ID) // of removed containers; the others have none
		e.Changed = true
		return e, true
	}
	code, _ := strconv.Atoi(m.Actor.Attributes["exitCode"])
	if !e.Died || e.ByHand {
		code = 0 // do not wait for an OOM kill
	}
	c, err := w.r.inspectEnded(ctx, m.Actor.ID, code)
	switch {
	case err == nil:
		e.Instance = w.r.instance(c)
	case !e.Died:
		if !errdefs.IsNotFound(err) {
			w.r.log.WarnContext(ctx, "cannot inspect an instance that has started", "container", m.Actor.ID, "err", err)
		}
		return e, false // it has died since: that event follows
	}
	if e.Died {
		// Somebody who did not need the event may have revived it since.
		e.Instance.State, e.Instance.Addr = mesh.InstanceExited, mesh.Instance{}.Addr
		e.Instance.ExitCode, _ = strconv.Atoi(m.Actor.Attributes["exitCode"])
		e.ByHand = e.ByHand && !e.Instance.OOM
	}
	return e, true
}

// ends reports whether a signal, by number, is used to end a program.
func ends(signal string) bool {
	n, err := strconv.Atoi(signal)
	switch syscall.Signal(n) { //nolint:exhaustive // the others have other purposes
	case syscall.SIGTERM, syscall.SIGKILL, syscall.SIGINT, syscall.SIGQUIT:
		return err == nil
	}
	return false
}

// stamp is a time in the format of the engine's API.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
}
