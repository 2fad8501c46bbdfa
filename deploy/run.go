package deploy

import (
	"context"

	"mesh"
)

// RunCommand runs a one-off command with the image and config of the current
// release, and returns its exit code. Its container is gone when it returns.
func (d *Deployer) RunCommand(ctx context.Context, run mesh.Run) (int, error) {
	st, err := d.Store.Stack(ctx, run.Stack)
	if err != nil {
		return 0, err
	}
	if st.Current == 0 {
		return 0, notDeployed(run.Stack)
	}
	r, err := d.Store.Release(ctx, run.Stack, st.Current)
	if err != nil {
		return 0, err
	}
	if err := d.imagePresent(ctx, r); err != nil {
		return 0, err
	}
	e := env(r, mesh.InstanceName{Service: "run", Slot: 1})
	for k, v := range run.Env {
		e[k] = v
	}
	p := mesh.Process{Entrypoint: run.Words}
	if r.Image.Shell {
		if p, err = Process(run.Line, mesh.Image{Shell: true}, e); err != nil {
			return 0, err
		}
	}
	d.Logger.Info("command run", "stack", run.Stack, "key", string(run.By))
	return d.Runner.RunOneOff(ctx, mesh.OneOff{
		Stack: run.Stack, Name: "run", Image: r.Image.ID, Process: p, Env: e, Subnet: st.Subnet,
		TTY: run.TTY, Stdin: run.Stdin, Stdout: run.Stdout, Stderr: run.Stderr, Resize: run.Resize,
	})
}
