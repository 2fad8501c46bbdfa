package deploy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"mesh"
	"mesh/deploy/manifest"
	"mesh/reasons"
)

// releaseCommand runs the release command, for example migrations, once before the new
// release gets traffic, with its image and config.
func (d *Deployer) releaseCommand(ctx context.Context, a *attempt, st mesh.Stack, r mesh.Release) error {
	command := r.Declared.Commands[mesh.ReleaseCommand]
	if len(st.ReleaseCommand) > 0 {
		command = strings.Join(st.ReleaseCommand, " ")
	}
	return d.runOnce(ctx, a, st, r, "release command", command)
}

// runOnce runs a command in a new container with a release's image and config, and
// shows its output. It does nothing if the command is empty.
func (d *Deployer) runOnce(ctx context.Context, a *attempt, st mesh.Stack, r mesh.Release, what, command string) error {
	if command == "" {
		return nil
	}
	began := d.Now()
	a.step(what, "%s: %s", strings.ToUpper(what[:1])+what[1:], command)
	name := mesh.InstanceName{Service: mesh.ReleaseCommand, Slot: 1}
	e := env(r, name, "")
	p, err := manifest.Process(command, r.Image, e)
	if err != nil {
		return phaseFailed(what+" failed", err)
	}
	timeout := st.Effective().ReleaseTimeout
	if timeout == 0 {
		timeout = mesh.DefaultReleaseTime
	}
	rctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tail := newTail(a.out)
	code := 0
	_, err = d.withSubnet(rctx, st, func(st mesh.Stack) (err error) {
		code, err = d.Runner.RunOneOff(rctx, mesh.OneOff{
			Stack: st.Name, Name: "release", Image: r.Image.ID, Process: p, Env: e, Subnet: st.Subnet, Stdout: tail, Stderr: tail,
		})
		return err
	})
	tail.flush()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case rctx.Err() != nil:
		e := mesh.Errorf(mesh.Failed, "%s failed: %q took longer than %s", what, mesh.Clip(command, 60), timeout)
		e.Output = tail.last
		return e.WithHint("it was stopped; raise the limit with: ssh mesh build:set -a %s release-timeout=%s", st.Name, 2*timeout)
	case err != nil:
		return phaseFailed(what+" failed", err)
	case code != 0:
		reason := tail.reason.Reason()
		return &mesh.Error{
			Kind: mesh.Failed, Text: fmt.Sprintf("%s failed: %q exited %d", what, mesh.Clip(command, 60), code), Output: reason.Last(tail.last, tailLines),
			Hint: cmp.Or(reason.HintFor(string(st.Name)), "it must succeed before traffic switches; it runs again with the next push"),
		}
	}
	a.timed(began, "%s done", what)
	return nil
}

// tail indents the output of a command and keeps its last lines.
type tail struct {
	to   io.Writer
	part []byte
	last []string

	reason reasons.Finder // of all lines
}

const tailLines = 30

func newTail(to io.Writer) *tail { return &tail{to: to} }

func (t *tail) Write(b []byte) (int, error) {
	for _, c := range b {
		if c == '\n' {
			t.flush()
		} else if c != '\r' {
			t.part = append(t.part, c)
		}
	}
	return len(b), nil
}

func (t *tail) flush() {
	if len(t.part) == 0 {
		return
	}
	line := string(t.part)
	t.part = t.part[:0]
	t.reason.Add(line)
	if t.last = append(t.last, line); len(t.last) > tailLines {
		t.last = t.last[1:]
	}
	_, _ = io.WriteString(t.to, "       "+line+"\n")
}

// SetReleaseCommand sets the command that runs before a push goes live. If line is
// empty, the Procfile decides again.
func (d *Deployer) SetReleaseCommand(ctx context.Context, stack mesh.StackName, line string) error {
	if err := mesh.CheckCommand(line); err != nil {
		return err
	}
	if line != "" {
		if err := manifest.CheckCommand(line); err != nil {
			return mesh.Errorf(mesh.Invalid, "the command %q cannot be read: %w", mesh.Clip(line, 80), err).WithHint("check its quotes; what works in sh -c works here")
		}
	}
	_, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error {
		s.ReleaseCommand = nil
		if line != "" {
			s.ReleaseCommand = []string{line}
		}
		return nil
	})
	return err
}
