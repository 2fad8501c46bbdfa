package deploy

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"mesh"
)

// A canary is the last phase of a deployment before its release is recorded: the new
// instances of web get a growing share of the clients, and are compared with the old ones.
// It holds the stack's lane. If mesh is killed meanwhile, the deployment has failed, as in
// any phase before, and the next start retires the new instances.

// canaryPlan is what a deployment is asked for.
type canaryPlan struct {
	steps mesh.Canary
	each  time.Duration
}

// canaries are those in progress. It may be used from several goroutines.
type canaries struct {
	mu sync.Mutex
	by map[mesh.StackName]*canary
}

type canary struct {
	state mesh.CanaryState // guarded by canaries.mu; without Total
	told  chan verdict     // has room for the one decision
}

// verdict is what a person decides about a canary.
type verdict struct {
	promote bool
	by      mesh.KeyName
}

// canaryTick is how often both sides are compared.
const canaryTick = time.Second

// of returns the canary of a stack and its state, or nil.
func (c *canaries) of(stack mesh.StackName) (*canary, mesh.CanaryState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.by[stack]
	if of == nil {
		return nil, mesh.CanaryState{}
	}
	return of, of.state
}

func (c *canaries) begin(stack mesh.StackName, of *canary) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[mesh.StackName]*canary{}
	}
	c.by[stack] = of
}

func (c *canaries) end(stack mesh.StackName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.by, stack)
}

func (c *canaries) set(of *canary, step int, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of.state.Step, of.state.Until = step, until
}

// refuse returns an error if a canary of the stack is in progress: what changes the stack
// must wait for its end, which may be far off.
func (c *canaries) refuse(stack mesh.StackName) error {
	of, s := c.of(stack)
	if of == nil {
		return nil
	}
	return mesh.Errorf(mesh.Conflict, "%s of %s is on trial with %s of the clients, by %s since %s", s.Release, stack, mesh.Percent(s.Share()), s.By, s.Began.UTC().Format(time.RFC3339)).
		WithHint("see it: ssh mesh canary -a %[1]s; decide: ssh mesh canary:promote -a %[1]s, or canary:abort", stack)
}

// canaryOf returns the plan for a deployment: what a push option says, else the setting.
// It is nil if all clients get the release at once.
func canaryOf(a *attempt, st mesh.Stack, said string, r mesh.Release) (*canaryPlan, error) {
	text := said
	if text == "" {
		text = st.Effective().Canary
	}
	if text == "" {
		return nil, nil //nolint:nilnil // none is no failure
	}
	steps, err := mesh.ParseCanary(text)
	if err != nil || len(steps) == 0 {
		return nil, err
	}
	why := ""
	switch _, web := r.Services[mesh.Web]; {
	case !web:
		why = "it has no web"
	case r.Formation[mesh.Web] == 0:
		why = "it runs no instance of web"
	case st.Current == 0:
		why = "nothing is deployed yet"
	case st.Stopped:
		why = "it is stopped"
	case oneWriterWeb(st):
		why = "web has a volume with one writer, so that its releases cannot run side by side"
	}
	if why == "" {
		return &canaryPlan{steps, st.Effective().CanaryTime()}, nil
	}
	if said != "" && st.Current > 0 {
		return nil, mesh.Errorf(mesh.Failed, "a canary of %s is not possible: %s", st.Name, why).WithHint("push without it: git push mesh %s", st.Settings.Branch)
	}
	a.detail("without a canary: %s", why)
	return nil, nil //nolint:nilnil // as above
}

// canary tries a release on a growing share of the clients. It returns nil when the release
// may get all of them, and an error when it must be taken back.
func (d *Deployer) canary(ctx context.Context, a *attempt, st mesh.Stack, r mesh.Release, plan *canaryPlan, started []mesh.Instance) (err error) {
	c := &canary{told: make(chan verdict, 1), state: mesh.CanaryState{
		Release: r.Number, Was: st.Current, Deployment: a.dep.Number, By: a.dep.By, Began: d.Now().UTC(), Steps: plan.steps,
	}}
	d.canaries.begin(st.Name, c)
	defer d.canaries.end(st.Name)
	trial := mesh.Trial{Release: r.Number}
	for _, in := range started {
		if in.Name.Service == mesh.Web {
			trial.Targets = append(trial.Targets, mesh.Target{ID: in.ID, Name: in.Name, Addr: in.Addr})
		}
	}
	defer func() {
		if err != nil {
			d.endTrial(st)
		}
	}()
	for step, share := range plan.steps {
		trial := trial
		trial.Share = share
		d.canaries.set(c, step, d.Now().Add(plan.each))
		a.step("trying "+r.Number.String(), "%s of the clients get %s for %s", mesh.Percent(share), r.Number, mesh.Brief(plan.each))
		d.fleet.Try(st.Name, &trial)
		d.OnStep(StepTrying, string(st.Name))
		v, err := d.watchCanary(ctx, st.Name, plan.each, started, c.told)
		if all, ok := d.compare(st.Name); ok {
			a.detail("%s", all.Text(r.Number, st.Current))
		}
		switch {
		case err != nil:
			return err
		case v != nil && v.promote:
			a.detail("promoted by %s", v.by)
			return nil
		case v != nil:
			return mesh.Errorf(mesh.Cancelled, "canary: %s was taken back by %s", r.Number, v.by).WithHint("push again when it is better")
		}
	}
	return nil
}

// watchCanary compares both sides until a step is over, or somebody decides. It returns an
// error if the new release is worse.
func (d *Deployer) watchCanary(ctx context.Context, stack mesh.StackName, each time.Duration, started []mesh.Instance, told <-chan verdict) (*verdict, error) {
	begin, _ := d.compare(stack)
	over := time.NewTimer(each)
	defer over.Stop()
	tick := time.NewTicker(min(canaryTick, each))
	defer tick.Stop()
	judge := func() error {
		for _, in := range started {
			if ev, dead := d.fleet.Died(in.ID); dead {
				return mesh.Errorf(mesh.Failed, "canary: %s of the new release ended with exit code %d", in.Name, ev.Instance.ExitCode).
					WithHint("see its last lines: ssh mesh logs -a %s -p %s", stack, in.Name.Service)
			}
		}
		now, ok := d.compare(stack)
		if !ok {
			return nil
		}
		if why := now.Since(begin).Worse(); why != "" {
			return mesh.Errorf(mesh.Failed, "canary: the new release was taken back: %s", why).WithHint("see its requests: ssh mesh logs -a %s --source router", stack)
		}
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case v := <-told:
			return &v, nil
		case <-tick.C:
			if err := judge(); err != nil {
				return nil, err
			}
		case <-over.C:
			return nil, judge()
		}
	}
}

func (d *Deployer) compare(stack mesh.StackName) (mesh.Comparison, bool) {
	if d.Compare == nil {
		return mesh.Comparison{}, false
	}
	return d.Compare(stack)
}

// Canary returns the canary of a stack that is in progress. It returns NotFound if there is
// none.
func (d *Deployer) Canary(_ context.Context, stack mesh.StackName) (mesh.CanaryState, error) {
	c, s := d.canaries.of(stack)
	if c == nil {
		return s, noCanary(stack)
	}
	s.Total, _ = d.compare(stack)
	return s, nil
}

func noCanary(stack mesh.StackName) error {
	return mesh.Errorf(mesh.NotFound, "no canary of %s is in progress", stack).WithHint("begin one: git push -o canary=10 mesh BRANCH; or with every push: ssh mesh build:set -a %s canary=10%%,50%%", stack)
}

// DecideCanary gives the release of a canary all clients (promote), or takes it back. It
// returns when that is done, and writes the rest of the deployment's output to out.
func (d *Deployer) DecideCanary(ctx context.Context, stack mesh.StackName, promote bool, by mesh.KeyName, out io.Writer) (mesh.CanaryState, error) {
	c, s := d.canaries.of(stack)
	tickets := d.lanes.tickets(stack)
	i := slices.IndexFunc(tickets, func(t *ticket) bool { return t.deployment.Number == s.Deployment })
	if c == nil || i < 0 {
		return s, noCanary(stack)
	}
	t := tickets[i]
	select {
	case c.told <- verdict{promote, by}:
	default:
		return s, mesh.Errorf(mesh.Conflict, "somebody has decided about %s already", s.Release).WithHint("follow it: ssh mesh deployments:show -a %s --follow", stack)
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		return s, context.Cause(ctx)
	}
	if t.err == nil && !promote {
		return s, mesh.Errorf(mesh.Conflict, "%s was live before it could be taken back", s.Release).WithHint("ssh mesh rollback -a %s", stack)
	}
	if t.err != nil && promote {
		_, _ = fmt.Fprintf(out, "       its output: ssh mesh deployments:show -a %s %d\n", stack, t.deployment.Number)
		return s, t.err
	}
	return s, nil
}

// MayHandOver returns an error while a canary is in progress: it may last for hours, and
// everything else would wait for it.
func (d *Deployer) MayHandOver() error {
	d.canaries.mu.Lock()
	var busy []mesh.StackName
	for name := range d.canaries.by {
		busy = append(busy, name)
	}
	d.canaries.mu.Unlock()
	if len(busy) == 0 {
		return nil
	}
	slices.Sort(busy)
	return mesh.Errorf(mesh.Conflict, "a canary of %s is in progress, which another process cannot continue", joinNames(busy)).
		WithHint("wait for it, or decide: ssh mesh canary:promote -a %s, or canary:abort", busy[0])
}
