package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"mesh"
)

// attempt is one deployment in progress: what it prints, where that is recorded, and
// how it ends.
type attempt struct {
	d       *Deployer
	dep     mesh.Deployment
	started time.Time
	out     *transcript
	past    bool               // the release is recorded: the deployment will be finished in any case
	phase   string             // the current phase, for the heartbeat; guarded by out.mu
	next    mesh.ReleaseNumber // of the release being made
}

// attempt records a deployment, waits for its turn, and runs do. The error of do is the
// verdict, which is recorded, printed to out, and returned. If ctx ends before do has
// committed, do must undo its work and return.
func (d *Deployer) attempt(ctx context.Context, dep mesh.Deployment, out io.Writer, do func(context.Context, *attempt) error) (err error) {
	if dep.Kind != mesh.DeployRename {
		if err := d.names.free(dep.Stack); err != nil {
			return err
		}
	}
	if err := d.canaries.refuse(dep.Stack); err != nil {
		return err
	}
	dep.Created, dep.Status = d.Now().UTC(), mesh.StatusWaiting
	dep, err = d.Store.BeginDeployment(ctx, dep)
	if err != nil {
		return err
	}
	record, err := d.Store.Output(dep.Stack, dep.Number)
	if err != nil {
		dep.Status, dep.Reason, dep.Ended = mesh.StatusFailed, "its output cannot be recorded", d.Now().UTC()
		return errors.Join(err, d.Store.UpdateDeployment(context.WithoutCancel(ctx), dep))
	}
	if out != nil {
		p := newPump(out)
		defer p.close()
		out = p
	}
	a := &attempt{d: d, dep: dep, started: d.Now(), out: newTranscript(record, out), phase: "getting ready"}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &ticket{deployment: dep, turn: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	beat, stopBeat := context.WithCancel(ctx)
	var beating sync.WaitGroup
	defer func() {
		t.err = err
		close(t.done)
		d.OnEnded(a.dep)
	}()
	defer func() {
		stopBeat()
		beating.Wait()
		if cerr := a.out.Close(); cerr != nil {
			d.Logger.Warn("deployment output not recorded", "stack", dep.Stack, "deployment", int(dep.Number), "err", cerr)
		}
	}()
	leave, err := d.lanes.queue(ctx, t, func(ahead mesh.Deployment) {
		a.headline()
		a.detail("waiting for %s", describe(ahead))
	})
	if err != nil {
		return a.fail(ctx, err)
	}
	defer leave()
	if !a.out.begun() {
		a.headline()
	}
	beating.Go(func() { a.out.beat(beat, func() string { return a.phase }) })
	a.dep.Status = mesh.StatusRunning
	if err := d.Store.UpdateDeployment(ctx, a.dep); err != nil {
		return a.fail(ctx, err)
	}
	d.note(dep.Stack, noteDeploy, "%s begins: %s, by %s", dep.Number, a.what(), dep.By)
	d.OnStep(StepBegun, string(dep.Stack))
	if err := do(ctx, a); err != nil {
		return a.fail(ctx, err)
	}
	switch {
	case a.dep.Status == mesh.StatusStaged:
		d.note(a.dep.Stack, noteDeploy, "%s is staged as %s", dep.Number, a.dep.Release)
	case a.dep.Status == mesh.StatusDryRun:
		d.note(a.dep.Stack, noteDeploy, "%s was a dry run", dep.Number)
	case a.dep.Release > 0:
		d.note(a.dep.Stack, noteDeploy, "%s is live as %s", dep.Number, a.dep.Release)
	default:
		d.note(a.dep.Stack, noteDeploy, "%s is done", dep.Number)
	}
	return nil
}

// noteDeploy is the source name of deployment events.
const noteDeploy = "deploy"

// what describes in a few words what is deployed.
func (a *attempt) what() string {
	if a.dep.Commit != "" {
		return fmt.Sprintf("%s %q", a.dep.Commit.Short(), a.dep.Subject)
	}
	return a.dep.Subject
}

// headline prints the first line: what is deployed, by whom, and under which number.
func (a *attempt) headline() {
	left := fmt.Sprintf("-----> %s: ", a.dep.Stack)
	if a.dep.Commit != "" {
		left += fmt.Sprintf("%s %q pushed by %s", a.dep.Commit.Short(), a.dep.Subject, a.dep.By)
	} else {
		left += fmt.Sprintf("%s by %s", a.dep.Subject, a.dep.By)
	}
	a.out.say(right(left, "deployment "+a.dep.Number.String()))
}

// right appends a remark to a line, aligned to a column if there is room.
func right(left, remark string) string {
	const column = 72
	return left + strings.Repeat(" ", max(2, column-len([]rune(left)))) + remark
}

// setPhase records the current phase.
func (a *attempt) setPhase(phase string) {
	a.out.mu.Lock()
	defer a.out.mu.Unlock()
	a.phase = phase
}

// step prints a step and records it as the current phase.
func (a *attempt) step(phase, format string, args ...any) {
	a.setPhase(phase)
	a.out.say("-----> " + fmt.Sprintf(format, args...))
}

func (a *attempt) detail(format string, args ...any) {
	a.out.say("       " + fmt.Sprintf(format, args...))
}

func (a *attempt) timed(since time.Time, format string, args ...any) {
	a.out.say(right("       "+fmt.Sprintf(format, args...), seconds(a.d.Now().Sub(since))))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

// done prints the last line of a successful deployment.
func (a *attempt) done(st mesh.Stack) {
	took := seconds(a.d.Now().Sub(a.started))
	a.out.say(fmt.Sprintf("=====> %s  %s  %s", a.d.url(st.Name), st.Current, took))
}

// fail records and prints the end of a failed deployment: the fault, the evidence, what
// still serves, and what to do next.
func (a *attempt) fail(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	after := context.WithoutCancel(ctx)
	var e *mesh.Error
	switch {
	case ctx.Err() != nil && !a.past && errors.As(cause, &e):
	case ctx.Err() != nil && !a.past:
		e = mesh.Errorf(mesh.Cancelled, "cancelled: the client disconnected")
	case !errors.As(err, &e):
		a.d.Logger.Error("deployment failed", "stack", a.dep.Stack, "deployment", int(a.dep.Number), "err", a.out.clean(err.Error()))
		e = mesh.Errorf(mesh.Failed, "internal error: %w", err).WithHint("search the server's log for the details, and try again")
	}
	// From here on, the error reaches git's report, the audit log and the server's log.
	f := *e
	f.Text, f.Hint, f.Err = a.out.clean(e.Text), a.out.clean(e.Hint), nil
	e, err = &f, &f
	a.dep.Status, a.dep.Reason, a.dep.Ended = mesh.StatusFailed, e.Text, a.d.Now().UTC()
	if errors.Is(err, mesh.Cancelled) {
		a.dep.Status = mesh.StatusCancelled
	}
	if !a.past {
		if uerr := a.d.Store.UpdateDeployment(after, a.dep); uerr != nil && !errors.Is(uerr, mesh.NoStack) {
			a.d.Logger.Error("end of deployment not recorded", "stack", a.dep.Stack, "deployment", int(a.dep.Number), "err", uerr)
		}
	}
	if len(e.Output) > 0 {
		a.out.say("       The last lines of its output:")
		for _, l := range e.Output {
			a.out.line("         " + l)
		}
	}
	a.out.line(" !     " + e.Text)
	if e.Hint != "" {
		a.detail("%s", e.Hint)
	}
	a.detail("%s", a.d.stillServing(after, a.dep.Stack))
	how := string(a.dep.Status)
	if a.dep.Status == mesh.StatusCancelled {
		how = "was cancelled"
	}
	a.d.note(a.dep.Stack, noteDeploy, "%s %s: %s", a.dep.Number, how, strings.TrimPrefix(e.Text, string(a.dep.Status)+": "))
	a.d.Logger.Info("deployment not live", "stack", a.dep.Stack, "deployment", int(a.dep.Number), "status", string(a.dep.Status), "err", e.Text)
	return &mesh.Reported{Err: err}
}

// stillServing describes what a failed deployment has left running.
func (d *Deployer) stillServing(ctx context.Context, name mesh.StackName) string {
	st, err := d.Store.Stack(ctx, name)
	switch {
	case err != nil:
		return "Nothing has changed."
	case st.Current == 0:
		return "Nothing is deployed yet, and nothing has changed."
	case st.Stopped:
		return fmt.Sprintf("Nothing has changed: %s is current, and the stack is stopped.", st.Current)
	}
	for _, in := range d.Status(name) {
		if in.Name.Service == mesh.Web && in.State == mesh.Up {
			return fmt.Sprintf("Nothing has changed: %s is still serving at %s", st.Current, d.url(name))
		}
	}
	return fmt.Sprintf("Nothing has changed: %s is current; check it with: ssh mesh ps -a %s", st.Current, name)
}
