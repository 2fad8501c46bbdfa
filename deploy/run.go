package deploy

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"mesh"
	"mesh/deploy/manifest"
)

// runName is the service name of detached runs, as in run.4211.
const runName mesh.ServiceName = "run"

// runLife is how long a detached run and its output are kept, whether or not it has
// ended.
const runLife = 24 * time.Hour

// keepRuns is how many ended runs of a stack are kept.
const keepRuns = 20

// oneOff returns a command with the image and config of the current release. It has the
// volumes of a service until release is called.
func (d *Deployer) oneOff(ctx context.Context, run mesh.Run, name mesh.InstanceName) (o mesh.OneOff, release func(), err error) {
	st, err := d.Store.Stack(ctx, run.Stack)
	if err != nil {
		return o, nil, err
	}
	if o, err = d.command(ctx, st, run, name); err != nil {
		return o, nil, err
	}
	o.Mounts, release, err = d.borrow(ctx, st, run.As)
	return o, release, err
}

// command is oneOff without volumes.
func (d *Deployer) command(ctx context.Context, st mesh.Stack, run mesh.Run, name mesh.InstanceName) (mesh.OneOff, error) {
	if st.Current == 0 {
		return mesh.OneOff{}, notDeployed(run.Stack)
	}
	r, err := d.Store.Release(ctx, run.Stack, st.Current)
	if err != nil {
		return mesh.OneOff{}, err
	}
	if err := d.imagePresent(ctx, r); err != nil {
		return mesh.OneOff{}, err
	}
	for name, v := range run.Env {
		if err := mesh.CheckVar(name, v); err != nil {
			return mesh.OneOff{}, err
		}
	}
	if err := mesh.CheckCommand(run.Line); err != nil {
		return mesh.OneOff{}, err
	}
	as, known := r.Services[run.As]
	if run.As != "" && !known {
		return mesh.OneOff{}, noService(run.Stack, run.As, r)
	}
	e := env(r, name, run.As)
	maps.Copy(e, run.Env)
	p := mesh.Process{Entrypoint: run.Words}
	if r.Image.Shell || len(run.Words) == 0 {
		if p, err = manifest.Process(run.Line, mesh.Image{Shell: r.Image.Shell}, e); err != nil {
			return mesh.OneOff{}, err
		}
	}
	return mesh.OneOff{
		Memory: as.Memory, CPUs: as.CPUs,
		Stack: run.Stack, Name: string(name.Service), Image: r.Image.ID, Process: p, Env: e, Subnet: st.Subnet,
		TTY: run.TTY, Stdin: run.Stdin, Stdout: run.Stdout, Stderr: run.Stderr, Size: run.Size, Resize: run.Resize,
	}, nil
}

// RunCommand runs a one-off command with the image and config of the current release,
// and returns its exit code. When it returns, the container has been removed.
func (d *Deployer) RunCommand(ctx context.Context, run mesh.Run) (int, error) {
	if err := d.names.free(run.Stack); err != nil {
		return 0, err
	}
	o, release, err := d.oneOff(ctx, run, mesh.InstanceName{Service: runName, Slot: 1})
	if err != nil {
		return 0, err
	}
	defer release()
	d.Logger.Info("command run", "stack", run.Stack, "key", string(run.By))
	return d.Runner.RunOneOff(ctx, o)
}

// Detach starts a one-off command with no client connected. It keeps running when the
// client or mesh exits. After at most 24 hours it is ended and removed, with its
// output. The streams of run are not used.
func (d *Deployer) Detach(ctx context.Context, run mesh.Run) (mesh.DetachedRun, error) {
	started, err := d.names.start(run.Stack)
	if err != nil {
		return mesh.DetachedRun{}, err
	}
	defer started()
	there, err := d.Runner.Detached(ctx, run.Stack)
	if err != nil {
		return mesh.DetachedRun{}, err
	}
	name := mesh.InstanceName{Service: runName}
	for {
		name.Slot = 1000 + rand.IntN(9000)
		if !slices.ContainsFunc(there, func(r mesh.DetachedRun) bool { return r.Name == name.String() }) {
			break
		}
	}
	run.TTY, run.Stdin, run.Stdout, run.Stderr, run.Resize = false, nil, nil, nil, nil
	o, release, err := d.oneOff(ctx, run, name)
	if err != nil {
		return mesh.DetachedRun{}, err
	}
	defer release()
	o.Name = name.String()
	r, err := d.Runner.Detach(ctx, o, mesh.DetachedRun{
		Stack: run.Stack, Name: o.Name, By: run.By, Command: run.Line, Until: d.Now().Add(runLife),
	})
	if err != nil {
		return r, err
	}
	d.Logger.Info("command run detached", "stack", run.Stack, "instance", r.Name, "key", string(run.By))
	select {
	case d.detached <- struct{}{}:
	default: // it will look anyway
	}
	return r, nil
}

// Runs returns the detached runs of a stack, the oldest first.
func (d *Deployer) Runs(ctx context.Context, stack mesh.StackName) ([]mesh.DetachedRun, error) {
	return d.Runner.Detached(ctx, stack)
}

// StopRun ends a detached run, with SIGTERM first if it still runs, and removes it and
// its output. That of a run of a job is kept.
func (d *Deployer) StopRun(ctx context.Context, stack mesh.StackName, name string) error {
	runs, err := d.Runner.Detached(ctx, stack)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(runs, func(r mesh.DetachedRun) bool { return r.Name == name })
	if i < 0 {
		return mesh.Errorf(mesh.NotFound, "%s has no detached run %q", stack, mesh.Clip(name, 60)).WithHint("list them with: ssh mesh run:list -a %s", stack)
	}
	if own := d.jobs.get(jobKey{stack, runs[i].Job, runs[i].JobRun}); own != nil {
		own.halt("by hand")
		select {
		case <-own.done:
			if d.life.Err() != nil {
				return d.goesOn(own)
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return d.Runner.Stop(ctx, runs[i].ID, mesh.DefaultStopTimeout)
}

// expireRuns removes detached runs that are older than runLife, and those that have
// ended beyond the newest keepRuns of a stack, until ctx ends.
func (d *Deployer) expireRuns(ctx context.Context) {
	const again = time.Minute // if the engine does not answer
	for {
		next := d.expire(ctx, again)
		if next == 0 {
			next = runLife // only a new run is worth waking up for
		}
		t := time.NewTimer(next)
		select {
		case <-d.detached:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// expire does one pass and returns when to look again; 0 means when a new run starts.
func (d *Deployer) expire(ctx context.Context, again time.Duration) (next time.Duration) {
	runs, err := d.Runner.Detached(ctx, "")
	if err != nil {
		return again
	}
	ended := map[mesh.StackName]int{}
	now := d.Now()
	for _, r := range slices.Backward(runs) {
		left := r.Until.Sub(now)
		if !r.Running && r.Job == "" {
			ended[r.Stack]++
		}
		if left > 0 && (r.Running || r.Job != "" || ended[r.Stack] <= keepRuns) {
			if next == 0 || left < next {
				next = left
			}
			continue
		}
		if err := d.Runner.Stop(ctx, r.ID, mesh.DefaultStopTimeout); err != nil {
			d.Logger.Warn("detached run not removed", "stack", r.Stack, "instance", r.Name, "err", err)
			next = again
			continue
		}
		d.Logger.Info("detached run removed", "stack", r.Stack, "instance", r.Name, "running", r.Running)
	}
	return next
}
