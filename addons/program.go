package addons

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"mesh"
)

// program runs a program of a kind in a container. Its input is in, or the program's own if
// that is nil. more are values besides those of the add-on. A nil program does nothing.
func (s *Server) program(ctx context.Context, k *kind, a mesh.Addon, id string, p *program, more map[string]string, in io.Reader, out io.Writer) error {
	if p == nil {
		return nil
	}
	values := k.values(a)
	for name, v := range more {
		values[name] = v
	}
	words := fillAll(p.Run, values)
	env := map[string]mesh.Secret{}
	for name, v := range fillMap(p.Env, values) {
		env[name] = mesh.NewSecret(v)
	}
	if in == nil && p.Input != "" {
		in = strings.NewReader(fill(p.Input, values))
	}
	var said tail
	to := io.Writer(&said)
	if out != nil {
		to = out
	}
	code, err := s.Inside.Exec(ctx, mesh.Exec{ID: id, Name: string(a.Name), Words: words, Env: env, User: p.User, Stdin: in, Stdout: to, Stderr: &said})
	if err != nil {
		return err
	}
	if code != 0 || !strings.Contains(said.String(), p.Prints) {
		return &mesh.Error{
			Kind: mesh.Failed, Text: fmt.Sprintf("%s in %s exited with code %d%s", words[0], a.Name, code, lastOf(said.lines(a))),
			Output: said.lines(a),
		}
	}
	return nil
}

// lastOf returns the last line, for the end of a sentence.
func lastOf(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return ": " + mesh.Clip(lines[len(lines)-1], 200)
}

// tail keeps the last bytes that are written.
type tail struct{ b []byte }

// tailSize is how many: about thirty lines.
const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - tailSize; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }

// lines returns the last lines without the add-on's passwords.
func (t *tail) lines(a mesh.Addon) []string {
	text := strings.TrimSpace(string(bytes.ToValidUTF8(t.b, []byte("?"))))
	if text == "" {
		return nil
	}
	all := strings.Split(mesh.VisibleOutput(hider(a).Replace(text)), "\n")
	return all[max(0, len(all)-30):]
}

// hider replaces the passwords of an add-on.
func hider(a mesh.Addon) *strings.Replacer {
	var values []string
	for _, p := range []mesh.Secret{a.Password, a.Admin} {
		if p.Reveal() != "" {
			values = append(values, p.Reveal())
		}
	}
	return mesh.NewMasker(values)
}

// await waits until the server of an add-on answers. A server that ends again and again
// has failed.
func (s *Server) await(ctx context.Context, k *kind, a mesh.Addon, id string, began time.Time) error {
	limit := time.NewTimer(s.Patience)
	defer limit.Stop()
	last := errors.New("it was never seen running")
	for wait := 50 * time.Millisecond; ; wait = min(wait*3/2, time.Second) {
		c, err := s.cli.API(ctx).ContainerInspect(ctx, id)
		switch {
		case errdefs.IsNotFound(err):
			return mesh.Errorf(mesh.Failed, "the container of %s was removed while it started", a.Name).WithHint("start it again: ssh mesh addons:restart %s", a.Name)
		case err != nil:
			return s.fault(ctx, "look at add-on "+string(a.Name), err)
		case !c.State.Running && !c.State.Restarting && c.State.Status != "created", c.RestartCount > 2 && after(c.State.StartedAt, began):
			return s.ended(ctx, a, c)
		}
		if c.State.Running && !c.State.Restarting {
			if last = s.healthy(ctx, k, a, id); last == nil {
				return nil
			}
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-limit.C:
			e := mesh.Errorf(mesh.Failed, "%s did not answer within %s: %w", a.Name, s.Patience, last).WithHint("see what it prints: ssh mesh addons:logs %s", a.Name)
			e.Output = s.printed(ctx, a, id)
			return e
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
}

// after reports whether a time of the engine is after another one.
func after(stamp string, t time.Time) bool {
	at, err := time.Parse(time.RFC3339Nano, stamp)
	return err == nil && at.After(t)
}

// ended is the error for a server that does not keep running.
func (s *Server) ended(ctx context.Context, a mesh.Addon, c container.InspectResponse) error {
	why := fmt.Sprintf("exited with code %d", c.State.ExitCode)
	hint := "see what it prints: ssh mesh addons:logs " + string(a.Name)
	if c.State.OOMKilled {
		why, hint = "was killed: out of memory", fmt.Sprintf("raise its limit with: ssh mesh addons:set %s memory=1g", a.Name)
	}
	lines := s.printed(ctx, a, c.ID)
	e := mesh.Errorf(mesh.Failed, "%s %s%s", a.Name, why, lastOf(lines)).WithHint("%s", hint)
	e.Output = lines
	return e
}

// printed returns the last lines that a server has printed.
func (s *Server) printed(ctx context.Context, a mesh.Addon, id string) []string {
	var t tail
	body, err := s.cli.API(ctx).ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: "30"})
	if err != nil {
		return nil
	}
	defer body.Close()
	_, _ = stdcopy.StdCopy(&t, &t, body)
	return t.lines(a)
}

// dialTime is how long a server of a kind without a check may take to accept a connection.
const dialTime = 2 * time.Second

// healthy asks a server whether it answers.
func (s *Server) healthy(ctx context.Context, k *kind, a mesh.Addon, id string) error {
	if k.Healthy != nil {
		return s.program(ctx, k, a, id, k.Healthy, nil, nil, nil)
	}
	at, err := s.Address(ctx, a)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	return c.Close()
}
