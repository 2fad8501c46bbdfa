package deploy

import (
	"context"
	"fmt"
	"time"

	"mesh"
)

// Enter runs a command, or a shell if it is empty, in the container of a running
// instance, and returns its exit code. The command ends with ctx.
func (d *Deployer) Enter(ctx context.Context, name mesh.InstanceName, run mesh.Run) (int, error) {
	in, release, up := d.fleet.Find(run.Stack, name)
	if !up {
		return 0, mesh.Errorf(mesh.NotFound, "%s of %s is not running", name, run.Stack).WithHint("see what runs with: ssh mesh ps -a %s", run.Stack)
	}
	shell, words := release.Image.Shell, run.Words
	switch {
	case shell && run.Line != "":
		words = []string{"/bin/sh", "-c", run.Line}
	case shell:
		words = []string{"/bin/sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash; fi; exec /bin/sh"}
	case len(words) == 0:
		return 0, mesh.Errorf(mesh.Invalid, "the image of %s has no shell", run.Stack).
			WithHint("name a program in the image: ssh mesh enter -a %s %s -- PROGRAM", run.Stack, name)
	}
	d.Logger.Info("instance entered", "stack", run.Stack, "instance", name.String(), "key", string(run.By))
	code, err := d.Runner.Exec(ctx, mesh.Exec{
		ID: in.ID, Name: name.String(), Words: words, TTY: run.TTY,
		Stdin: run.Stdin, Stdout: run.Stdout, Stderr: run.Stderr, Size: run.Size, Resize: run.Resize,
	})
	if err != nil && ctx.Err() == nil {
		return code, fmt.Errorf("enter %s: %w", name, err)
	}
	return code, err
}

// probeTime is how long an instance may take to answer when somebody asks whether it does.
const probeTime = 5 * time.Second

// Probe asks a running instance what a new one is asked before it gets traffic, and
// returns what it saw.
func (d *Deployer) Probe(ctx context.Context, stack mesh.StackName, name mesh.InstanceName) (string, error) {
	return d.fleet.Ask(ctx, stack, name, probeTime)
}
