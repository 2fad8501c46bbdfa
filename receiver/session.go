package receiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

// gitLine matches the command of a git client: the service and one quoted path. Other
// commands that begin with "git" are refused. The path is the name of a stack, alone or
// below "/" or "~/", with or without ".git".
var gitLine = regexp.MustCompile(`^git[ -](receive-pack|upload-pack) '(?:/|~/|/~/)?([a-z0-9][a-z0-9-]{0,62}?)(?:\.git)?/?'$`)

// session answers one SSH session.
func (r *Receiver) session(s ssh.Session) {
	ctx := s.Context()
	key, err := r.identify(ctx)
	if err == nil {
		err = r.dispatch(ctx, s, key)
	}
	status := mesh.ExitStatus(err)
	var said mesh.ExitCode
	switch {
	case err == nil, errors.As(err, &said):
	case errors.Is(err, syscall.EPIPE) && outputClosed(ctx):
		status = 128 + int(syscall.SIGPIPE)
	default:
		r.Commands.PrintError(s.Stderr(), err)
	}
	_ = s.Exit(status)
}

// outputClosed reports whether the client accepts no more output: "ssh mesh logs |
// head".
func outputClosed(ctx ssh.Context) bool {
	ch, _ := ctx.Value(sessionKey{}).(*channelState)
	return ch != nil && ch.closed.Load()
}

// identify returns the current record of the key that signed in. It returns an error if
// the key has been removed since.
func (r *Receiver) identify(ctx ssh.Context) (mesh.Key, error) {
	conn, _ := ctx.Value(ssh.ContextKeyConn).(*gossh.ServerConn)
	if conn == nil || conn.Permissions == nil {
		return mesh.Key{}, errors.New("identify: the connection has no permissions")
	}
	if conn.Permissions.Extensions[localExt] != "" {
		return mesh.Key{Name: "local", Role: mesh.RoleAdmin}, nil
	}
	by := conn.Permissions.Extensions[signInExt]
	keys, err := r.Keys.Keys(ctx)
	if err != nil {
		return mesh.Key{}, err
	}
	i := slices.IndexFunc(keys, func(k mesh.Key) bool { return by != "" && k.SignIn() == by })
	if i < 0 && conn.Permissions.Extensions[certificateExt] != "" {
		return mesh.Key{}, mesh.Errorf(mesh.Denied, "the authority of your certificate has been removed")
	}
	if i < 0 {
		return mesh.Key{}, mesh.Errorf(mesh.Denied, "the key %s has been removed", by)
	}
	if text := conn.Permissions.Extensions[certificateExt]; text != "" {
		return certified(keys[i], text)
	}
	return keys[i], nil
}

func (r *Receiver) dispatch(ctx ssh.Context, s ssh.Session, key mesh.Key) error {
	raw := s.RawCommand()
	if !strings.HasPrefix(raw, "git-") && !strings.HasPrefix(raw, "git ") {
		return r.command(ctx, s, key, raw)
	}
	switch m := gitLine.FindStringSubmatch(raw); {
	case m != nil:
		name, err := mesh.ParseStackName(m[2])
		if err != nil {
			return err
		}
		if m[1] == "receive-pack" {
			return r.receivePack(ctx, sshClient(s), key, name)
		}
		return r.uploadPack(ctx, sshClient(s), key, name)
	case lfsLine.MatchString(raw):
		m := lfsLine.FindStringSubmatch(raw)
		name, err := mesh.ParseStackName(m[1])
		if err != nil {
			return err
		}
		return r.lfsTransfer(ctx, s, key, name, m[2])
	case strings.HasPrefix(raw, "git-lfs"):
		return mesh.Errorf(mesh.Invalid, "this server accepts Git LFS objects only over SSH").WithHint("use Git LFS 3.0 or later; see: git lfs version")
	case strings.HasPrefix(raw, "git-upload-archive"):
		return mesh.Errorf(mesh.Invalid, "git archive --remote is not supported").WithHint("clone the repository instead")
	}
	return mesh.Errorf(mesh.Invalid, "%q is not a repository on this server", mesh.Clip(raw, 120)).
		WithHint("a remote is ssh://mesh@HOST:PORT/STACK, where STACK uses a-z, 0-9 and -")
}

// command runs a mesh command line.
func (r *Receiver) command(ctx ssh.Context, s ssh.Session, key mesh.Key, raw string) error {
	ch, _ := ctx.Value(sessionKey{}).(*channelState)
	stdin := until(ctx, s)
	req := mesh.Request{
		Key: key, User: s.User(), Line: raw,
		Stdin: stdin, Upload: idleReader{stdin, r.Idle}, Stdout: s, Stderr: s.Stderr(), Env: terminalEnv(s.Environ()), Flush: func(ctx context.Context) { flush(ctx, s) },
	}
	if ch != nil {
		ch.mu.Lock()
		req.TTY, req.Size, req.Resize = ch.tty, ch.size, ch.resize
		ch.mu.Unlock()
		req.Parted = ch.part
	}
	return r.Commands.Run(ctx, req)
}

// flushTime is how long a client may take to answer. A client that never answers still
// gets its output, in any order.
const flushTime = 2 * time.Second

// flush waits until the client has answered a request, which it does after it has read
// everything sent before.
func flush(ctx context.Context, s ssh.Session) {
	answered := make(chan struct{})
	go func() {
		_, _ = s.SendRequest("keepalive@openssh.com", true, nil)
		close(answered)
	}()
	t := time.NewTimer(flushTime)
	defer t.Stop()
	select {
	case <-answered:
	case <-t.C:
	case <-ctx.Done():
	}
}

// until reads from r until ctx ends: a command that waits for input must not keep the
// server from stopping.
func until(ctx context.Context, r io.Reader) *io.PipeReader {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.Copy(pw, r) // ends with the session
		_ = pw.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { _ = pw.CloseWithError(context.Cause(ctx)) })
	return pr
}

// terminalEnv returns the variables that a client may set for a command.
func terminalEnv(env []string) map[string]string {
	out := map[string]string{}
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); k == mesh.EnvNoColor || k == mesh.EnvScreen {
			out[k] = v
		}
	}
	return out
}

// mayRead does not tell a stack that the key may not see from none.
func (r *Receiver) mayRead(ctx context.Context, key mesh.Key, stack mesh.StackName) error {
	_, err := r.Deployer.RepoState(ctx, stack)
	if !key.May(mesh.AccessRead, stack) || errors.Is(err, mesh.NoStack) {
		return mesh.Errorf(mesh.NoStack, "no stack is named %q", stack).WithHint("list them with: ssh mesh stacks")
	}
	return err
}

// repository returns the stack whose repository has the commits of a stack that a key may
// read: of a preview, the one that it belongs to, which the key must be able to read as well.
func (r *Receiver) repository(ctx context.Context, key mesh.Key, stack mesh.StackName) (mesh.StackName, error) {
	of, err := r.Deployer.RepositoryOf(ctx, stack)
	if err == nil && of != stack {
		err = r.mayRead(ctx, key, of)
	}
	return of, err
}

// uploadPack serves a clone or fetch.
func (r *Receiver) uploadPack(ctx context.Context, s gitClient, key mesh.Key, stack mesh.StackName) error {
	if err := r.mayRead(ctx, key, stack); err != nil {
		return err
	}
	stack, err := r.repository(ctx, key, stack)
	if err != nil {
		return err
	}
	if err := r.Repos.Ensure(stack); err != nil {
		return err
	}
	ctx, transfer := newWatch(ctx, r.Idle)
	defer transfer.done()
	g := r.Repos.Git(ctx, stack, s.env, "upload-pack", s.args()...)
	g.Stderr = s.talk
	stdin, stdout, err := pipes(g)
	if err != nil {
		return err
	}
	widen(stdout)
	if err := g.Start(); err != nil {
		return err
	}
	expendable(g.Process.Pid)
	go func() {
		_, _ = io.Copy(stdin, s.in)
		_ = stdin.Close()
	}()
	_, _ = io.CopyBuffer(transfer.writer(s.out), stdout, make([]byte, 256<<10))
	err = gitStatus(g.Wait())
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

// gitStatus turns git's exit status into the session's. git has printed the error.
func gitStatus(err error) error {
	var ee interface{ ExitCode() int }
	if !errors.As(err, &ee) {
		return err
	}
	if code := ee.ExitCode(); code > 0 {
		return mesh.ExitCode(code)
	}
	return mesh.ExitCode(128) // a signal ended it
}

// printRefusal prints to a pusher why a push is refused, in the form of the deploy
// output.
func printRefusal(w io.Writer, err error) {
	var e *mesh.Error
	if !errors.As(err, &e) {
		return
	}
	fmt.Fprintf(w, " !     %s\n", mesh.Visible(e.Text))
	if e.Hint != "" {
		fmt.Fprintf(w, "       %s\n", mesh.VisibleOutput(e.Hint))
	}
}
