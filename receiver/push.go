package receiver

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gliderlabs/ssh"

	"mesh"
	"mesh/hooks"
)

// push is one receive-pack.
//
// git moves the refs and then runs post-receive, in which the commit is deployed.
// Its report, which it has written before that, is held back until there is a
// verdict, and "ok" is passed on only for what has one: a hook that did not run
// cannot make a push look accepted.
type push struct {
	r     *Receiver
	key   mesh.Key
	stack mesh.StackName
	out   *lines // to the pusher, over side-band 2 or SSH's stderr

	mu      sync.Mutex
	caps    capabilities
	started bool              // the client has sent a command: it has something to push
	verdict map[string]string // ref → why it is refused; empty: accepted
}

func (p *push) decide(ref, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.verdict[ref] = reason
}

// How long git may take to end after its client has gone. SIGTERM while it
// receives would leave its quarantine behind, so closing its input comes first.
const (
	closeGrace = 3 * time.Second
	termGrace  = 2 * time.Second
)

// receivePack takes one push.
func (r *Receiver) receivePack(ctx context.Context, s ssh.Session, key mesh.Key, stack mesh.StackName) (err error) {
	if err := r.Deployer.AdmitPush(ctx, key, stack); err != nil {
		return err
	}
	leave, err := r.Repos.enter(stack)
	if err != nil {
		return err
	}
	defer func() {
		// The last one out leaves the deploy branch at what is deployed, whatever
		// became of the pushes.
		lerr := leave(func() (mesh.RepoState, error) {
			return r.Deployer.RepoState(context.WithoutCancel(ctx), stack)
		})
		if lerr != nil {
			r.Logger.Error("deploy branch not reset", "stack", stack, "err", lerr)
		}
	}()
	wire, err := hooks.NewWire()
	if err != nil {
		return err
	}
	defer wire.Close()

	g := r.Repos.git(ctx, stack, s.Environ(), "receive-pack")
	g.Cancel = nil // ended step by step below
	g.WaitDelay = 0
	g.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	g.ExtraFiles = wire.Files()
	g.Stderr = s.Stderr()
	stdin, stdout, err := pipes(g)
	if err != nil {
		return err
	}
	widen(stdin)
	if err := g.Start(); err != nil {
		return err
	}
	wire.Started()

	p := &push{r: r, key: key, stack: stack, verdict: map[string]string{}}
	filter := newFilter(s, p, r.Repos.kept(stack))
	p.out = newLines(func(b []byte) error {
		p.mu.Lock()
		band := p.caps.has("side-band-64k")
		p.mu.Unlock()
		if band {
			return filter.band2(b)
		}
		_, err := s.Stderr().Write(b)
		return err
	})

	ended := make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() { endGit(ctx, g, stdin, ended) })
	tasks.Go(func() {
		if err := wire.Serve(ctx, p.hook); err != nil {
			r.Logger.Error("hook not served", "stack", stack, "err", err)
		}
	})
	// Not waited for: it ends with the session, whose input it reads.
	go p.feed(stdin, s)

	ferr := filter.run(stdout, p.out.Close)
	werr := g.Wait()
	close(ended)
	wire.Close()
	tasks.Wait()
	p.out.Close()
	switch {
	case ctx.Err() != nil && p.decided():
		return &mesh.Reported{Err: context.Cause(ctx)}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !p.pushed() && werr == nil:
		return p.attach(ctx, s)
	case werr != nil:
		return gitStatus(werr)
	case ferr != nil && !errors.Is(ferr, io.EOF):
		return ferr
	}
	return nil
}

// decided tells whether there is a verdict, which the pusher has been told.
func (p *push) decided() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.verdict) > 0
}

func (p *push) pushed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started
}

// attach is for a client that had nothing to send because the branch stands at
// its commit already, while that commit is still being deployed by somebody else:
// it gets the output and the verdict of that deployment, where git alone would
// call it up to date.
func (p *push) attach(ctx context.Context, s ssh.Session) error {
	state, err := p.r.Deployer.RepoState(ctx, p.stack)
	if err != nil || state.Branch == "" {
		return nil //nolint:nilerr // no stack, nothing to wait for
	}
	head, err := p.r.Repos.branch(p.stack, state.Branch)
	if err != nil || head == state.Commit {
		return err
	}
	_, err = p.r.Deployer.Follow(ctx, p.stack, head, s.Stderr())
	return err
}

// endGit ends git when the session does.
func endGit(ctx context.Context, g *exec.Cmd, stdin io.Closer, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	_ = stdin.Close()
	if wait(ended, closeGrace) {
		return
	}
	_ = syscall.Kill(-g.Process.Pid, syscall.SIGTERM)
	if wait(ended, termGrace) {
		return
	}
	_ = syscall.Kill(-g.Process.Pid, syscall.SIGKILL)
}

func wait(ch <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ch:
		return true
	case <-t.C:
		return false
	}
}

// feed copies what the client sends to git, and learns from its first line what
// it can do.
func (p *push) feed(stdin io.WriteCloser, client io.Reader) {
	defer func() { _ = stdin.Close() }()
	caps, ok, err := readCapabilities(stdin, client)
	if ok {
		p.mu.Lock()
		p.caps, p.started = caps, true
		p.mu.Unlock()
	}
	if err != nil {
		return
	}
	// The end of the client's input is no hang-up: it half-closes once the pack is
	// sent. A hang-up ends the session's context.
	_, _ = io.CopyBuffer(struct{ io.Writer }{stdin}, client, make([]byte, 256<<10))
}

// hook answers git's hooks.
func (p *push) hook(ctx context.Context, c hooks.Call) bool {
	switch c.Hook {
	case hooks.Update:
		return p.update(ctx, c.Refs)
	case hooks.PostReceive:
		return p.postReceive(ctx, c)
	}
	return false
}

func (p *push) update(ctx context.Context, refs []mesh.RefUpdate) bool {
	for _, ref := range refs {
		if err := p.r.Deployer.AdmitRef(ctx, p.key, p.stack, ref); err != nil {
			printRefusal(p.out, err)
			p.decide(ref.Ref, p.reason(err))
			return false
		}
	}
	return true
}

// postReceive deploys the branch first, so that tags find its image.
func (p *push) postReceive(ctx context.Context, c hooks.Call) bool {
	p.mu.Lock()
	atomic := p.caps.has("atomic")
	p.mu.Unlock()
	const atomicReason = "atomic push failure" // git's own words
	failed := ""
	for _, ref := range c.Refs {
		if ref.Branch() == "" {
			continue
		}
		reason := atomicReason
		if failed == "" || !atomic {
			reason = p.deploy(ctx, ref, c.Options)
		}
		if reason != "" {
			failed = reason
			p.undo(ctx, ref)
		}
		p.decide(ref.Ref, reason)
	}
	for _, ref := range c.Refs {
		switch {
		case ref.Branch() != "":
		case failed != "" && atomic:
			p.undo(ctx, ref)
			p.decide(ref.Ref, atomicReason)
		default:
			p.decide(ref.Ref, "")
			if ref.Tag() == "" || ref.New == "" || ctx.Err() != nil {
				continue
			}
			commit, err := p.r.Repos.peel(p.stack, ref.New)
			if err != nil {
				continue // a tag of something that is no commit
			}
			if slices.Contains(c.Options, "deploy") {
				if reason := p.deployTag(ctx, ref, commit, c.Options); reason != "" {
					p.undo(ctx, ref)
					p.decide(ref.Ref, reason)
					failed = reason
					continue
				}
			}
			if line := p.r.Deployer.TagImage(ctx, p.stack, commit, ref.Tag()); line != "" {
				_, _ = io.WriteString(p.out, "       "+line+"\n")
			}
		}
	}
	return failed == ""
}

// deploy returns the reason that goes into git's report, or nothing.
func (p *push) deploy(ctx context.Context, ref mesh.RefUpdate, options []string) string {
	m := mesh.Push{Stack: p.stack, By: p.key.Name, Branch: ref.Branch(), Commit: ref.New}
	if reason := p.admitAndPush(ctx, ref, &m, options); reason != "" {
		return reason
	}
	if m.DryRun || m.Detach || !p.isLive(ctx, ref.New) {
		p.undo(ctx, ref) // accepted, but not what is deployed, or not yet
	}
	return ""
}

// admitAndPush deploys m, which gets the options, when ref may be pushed.
func (p *push) admitAndPush(ctx context.Context, ref mesh.RefUpdate, m *mesh.Push, options []string) string {
	if err := p.r.Deployer.AdmitRef(ctx, p.key, p.stack, ref); err != nil {
		printRefusal(p.out, err)
		return p.reason(err)
	}
	if reason := p.options(m, options); reason != "" {
		return reason
	}
	if err := p.r.Deployer.Push(ctx, *m, p.out); err != nil {
		return p.reason(err)
	}
	return ""
}

// isLive tells whether a commit is what is deployed: one that touches nothing that
// is watched is not.
func (p *push) isLive(ctx context.Context, commit mesh.Commit) bool {
	state, err := p.r.Deployer.RepoState(ctx, p.stack)
	return err != nil || state.Commit == commit
}

// deployTag deploys the commit of a tag, unless it is what is deployed already.
func (p *push) deployTag(ctx context.Context, ref mesh.RefUpdate, commit mesh.Commit, options []string) string {
	if p.isLive(ctx, commit) {
		return ""
	}
	return p.admitAndPush(ctx, ref, &mesh.Push{Stack: p.stack, By: p.key.Name, Commit: commit}, options)
}

// options reads push options; it returns the reason when one is unknown.
func (p *push) options(m *mesh.Push, options []string) string {
	for _, o := range options {
		switch o {
		case "deploy":
			m.Force = true
		case "no-cache":
			m.NoCache = true
		case "dry-run":
			m.DryRun = true
		case "detach":
			m.Detach = true
		default:
			err := mesh.Errorf(mesh.Invalid, "there is no push option %q", mesh.Clip(o, 60)).WithHint("there are no-cache, dry-run, detach and deploy")
			printRefusal(p.out, err)
			return p.reason(err)
		}
	}
	return ""
}

// undo puts a ref back and keeps the objects for the next try.
func (p *push) undo(ctx context.Context, ref mesh.RefUpdate) {
	ctx = context.WithoutCancel(ctx)
	if ref.Branch() == "" {
		if err := p.r.Repos.move(ctx, p.stack, ref.Ref, ref.New, ref.Old); err != nil {
			p.r.Logger.Warn("ref not put back", "stack", p.stack, "err", err)
		}
		return
	}
	state, err := p.r.Deployer.RepoState(ctx, p.stack)
	if err == nil {
		err = p.r.Repos.refuse(ctx, p.stack, ref, state)
	}
	if err != nil {
		p.r.Logger.Warn("deploy branch not put back", "stack", p.stack, "err", err)
	}
}

// reason is one line for git's report. Faults of mesh's own go to the log.
func (p *push) reason(err error) string {
	var e *mesh.Error
	if !errors.As(err, &e) {
		if errors.Is(err, context.Canceled) {
			return "cancelled"
		}
		p.r.Logger.Error("push not deployed", "stack", p.stack, "err", err)
		return "mesh itself failed: its log has the details"
	}
	line, _, _ := strings.Cut(e.Text, "\n")
	return mesh.Clip(strings.TrimSpace(line), 200)
}
