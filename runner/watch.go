package runner

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/events"

	"mesh"
)

// Pauses between tries to reach an engine that went away.
const (
	reconnectFirst = 50 * time.Millisecond
	reconnectMost  = 2 * time.Second
)

// Watch calls fn, one event at a time, for each instance that starts or dies,
// until ctx ends; it then returns nil. When the engine goes away it reconnects,
// and calls lost once it is back, because events may have been missed: whoever
// watches then lists. fn and lost are called from the calling goroutine.
func (r *Runner) Watch(ctx context.Context, fn func(mesh.InstanceEvent), lost func()) error {
	return r.watch(ctx, fn, func(first bool) {
		if !first {
			lost()
		}
	})
}

// watch calls up each time that the engine has begun to send events; first means
// that it answered at once, so that none can be missing.
func (r *Runner) watch(ctx context.Context, fn func(mesh.InstanceEvent), up func(first bool)) error {
	since := r.now()
	first, delay := true, reconnectFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := r.subscribe(ctx, &since, fn, func() { up(first) })
		if ctx.Err() != nil {
			break
		}
		first = false
		r.log.WarnContext(ctx, "events of the engine broke off", "err", err)
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

// subscribe reads events until they break off. since moves on with each, so that
// the next call gets what the engine still remembers.
func (r *Runner) subscribe(ctx context.Context, since *time.Time, fn func(mesh.InstanceEvent), up func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := r.filter(labelKind + "=" + kindInstance)
	f.Add("type", string(events.ContainerEventType))
	for _, a := range []events.Action{events.ActionStart, events.ActionDie} {
		f.Add("event", string(a))
	}
	messages, errs := r.cli.Events(ctx, events.ListOptions{Filters: f, Since: stamp(*since)})
	// Events returns when the engine has answered, or has not.
	select {
	case err := <-errs:
		return err
	default:
		up()
	}
	for {
		select {
		case m := <-messages:
			*since = time.Unix(0, m.TimeNano+1)
			if e, ok := r.event(ctx, m); ok {
				fn(e)
			}
		case err := <-errs:
			return err
		}
	}
}

// event makes an event of a message. What a died instance was is in the message;
// of one that started, the address is not.
func (r *Runner) event(ctx context.Context, m events.Message) (mesh.InstanceEvent, bool) {
	e := mesh.InstanceEvent{Instance: labelled(m.Actor.ID, m.Actor.Attributes), Died: m.Action == events.ActionDie, At: time.Unix(0, m.TimeNano)}
	in, err := r.inspect(ctx, m.Actor.ID)
	switch {
	case err == nil:
		e.Instance = in
	case !e.Died:
		if !errdefs.IsNotFound(err) {
			r.log.WarnContext(ctx, "an instance started and cannot be inspected", "container", m.Actor.ID, "err", err)
		}
		return e, false // it has died since: that event comes, too
	}
	if e.Died {
		// It may have been revived since, by whoever did not need the event.
		e.Instance.State, e.Instance.Addr = mesh.InstanceExited, mesh.Instance{}.Addr
		e.Instance.ExitCode, _ = strconv.Atoi(m.Actor.Attributes["exitCode"])
	}
	return e, true
}

// stamp is a time as the engine's API wants it.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
}
