package receiver

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gliderlabs/ssh"

	"mesh"
	"mesh/hooks"
)

// push is one receive-pack.
//
// git moves the refs and then runs post-receive, in which the commit is deployed. git
// writes its report before that. mesh holds the report until there is a verdict, and
// passes "ok" on only for refs that have one: a hook that did not run cannot make a
// push look accepted.
type push struct {
	r     *Receiver
	key   mesh.Key
	stack mesh.StackName
	out   *lines // to the pusher, over side-band 2 or SSH's stderr

	mu      sync.Mutex
	caps    capabilities
	started bool              // the client has sent a command, so it has something to push
	verdict map[string]string // ref → why it is refused; empty: accepted
	unpack  string            // why git could not take the pack, if known

	// Used only by the goroutine that answers the hooks.
	release func() // gives back the turn to move refs; nil: it has none
	refs    int    // that this push moves, so far
	tags    int    // that the stack will have; -1: not counted yet
	refused string // the last reason printed to the pusher

	deploying atomic.Bool // post-receive has begun
}

// Limits on the refs of a push and of a stack.
const (
	maxPushRefs = 1000
	maxTags     = 2000
)

func (p *push) decide(ref, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.verdict[ref] = reason
}

// How long git may take to end after its client has disconnected. SIGTERM during a
// receive would leave its quarantine behind, so its input is closed first.
const (
	closeGrace = 3 * time.Second
	termGrace  = 2 * time.Second
)

// hookGrace is how long a cancelled deployment may take to end before git is stopped:
// it produces the verdict for git's report and the deployment's record. On a busy
// machine, the engine takes some seconds to kill a build step.
const hookGrace = 10 * time.Second

// gitClient is the client of a git service: its input, where its output goes, and the
// protocol that it asks for. In a stateless one (gitprotocol-http(5)), the refs were
// advertised in a request before.
type gitClient struct {
	in        io.Reader
	out       io.Writer
	talk      io.Writer // git's own messages
	env       []string
	stateless bool
}

func sshClient(s ssh.Session) gitClient {
	return gitClient{in: s, out: s, talk: s.Stderr(), env: s.Environ()}
}

// args are the options of git for the client.
func (c gitClient) args() []string {
	if c.stateless {
		return []string{"--stateless-rpc"}
	}
	return nil
}

// enter makes sure that a stack has a repository, and counts a push in it until leave is
// called.
func (r *Receiver) enter(ctx context.Context, stack mesh.StackName) (leave func(), err error) {
	left, err := r.Repos.Enter(stack, false)
	if err != nil {
		return nil, err
	}
	return func() {
		if err := left(ctx); err != nil {
			r.Logger.Error("deploy branch not reset", "stack", stack, "err", err)
		}
	}, nil
}

// receivePack handles one push.
func (r *Receiver) receivePack(ctx context.Context, s gitClient, key mesh.Key, stack mesh.StackName) (err error) {
	if err := r.Deployer.AdmitPush(ctx, key, stack); err != nil {
		return err
	}
	leave, err := r.enter(ctx, stack)
	if err != nil {
		return err
	}
	defer leave()
	state, have, err := r.Repos.Shown(ctx, stack)
	if err != nil {
		return err
	}
	wire, err := hooks.NewWire()
	if err != nil {
		return err
	}
	defer wire.Close()
	ctx, transfer := newWatch(ctx, r.Idle)
	defer transfer.done()

	g := r.Repos.Git(ctx, stack, s.env, "receive-pack", s.args()...)
	g.Cancel = nil // ended step by step below
	g.WaitDelay = 0
	g.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	g.ExtraFiles = wire.Files()
	g.Stderr = s.talk
	stdin, stdout, err := pipes(g)
	if err != nil {
		return err
	}
	widen(stdin)
	if err := g.Start(); err != nil {
		return err
	}
	expendable(g.Process.Pid)
	wire.Started()

	p := &push{r: r, key: key, stack: stack, verdict: map[string]string{}, tags: -1}
	filter := newFilter(s.out, p, advertised{state, have})
	filter.stateless = s.stateless
	p.out = newLines(func(b []byte) error {
		p.mu.Lock()
		band := p.caps.has("side-band-64k")
		p.mu.Unlock()
		if band {
			return filter.band2(b)
		}
		_, err := s.talk.Write(b)
		return err
	})

	ended := make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() { endGit(ctx, g, stdin, ended, &p.deploying) })
	tasks.Go(func() {
		hook := func(ctx context.Context, c hooks.Call) bool {
			transfer.done() // git has the pack
			return p.hook(ctx, c)
		}
		if err := wire.Serve(ctx, hook); err != nil {
			r.Logger.Error("hook not served", "stack", stack, "err", err)
		}
	})
	// Do not wait for it: it ends with the session, whose input it reads.
	go p.feed(stdin, transfer.reader(s.in))

	ferr := filter.run(stdout, p.out.Close)
	werr := g.Wait()
	close(ended)
	wire.Close()
	tasks.Wait()
	p.moved()
	p.out.Close()
	switch {
	case ctx.Err() != nil && p.decided():
		return &mesh.Reported{Err: context.Cause(ctx)}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !p.pushed() && werr == nil:
		return nil
	case werr != nil:
		return gitStatus(werr)
	case ferr != nil && !errors.Is(ferr, io.EOF):
		return ferr
	}
	return nil
}

// decided reports whether there is a verdict that the pusher has seen.
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

// endGit ends git when the session ends.
func endGit(ctx context.Context, g *exec.Cmd, stdin io.Closer, ended <-chan struct{}, deploying *atomic.Bool) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	_ = stdin.Close()
	if wait(ended, closeGrace) || deploying.Load() && wait(ended, hookGrace) {
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

// feed copies the client's input to git, and reads the client's capabilities from its
// first line.
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
	// EOF on the client's input is not a hang-up: the client closes that side once the
	// pack is sent. A hang-up ends the session's context.
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
		err := p.r.Deployer.AdmitRef(ctx, p.key, p.stack, ref)
		if err == nil && ref.New != "" {
			err = p.r.Repos.Weigh(ctx, p.stack, ref.New)
		}
		if err == nil {
			err = p.count(ref)
		}
		if err == nil {
			err = p.claim(ctx, ref)
		}
		if err != nil {
			reason := p.reason(err)
			if reason != p.refused { // once, not for each of a thousand refs
				printRefusal(p.out, err)
			}
			p.refused = reason
			p.decide(ref.Ref, reason)
			return false
		}
	}
	return true
}

// count refuses refs beyond the limits.
func (p *push) count(ref mesh.RefUpdate) error {
	if p.refs++; p.refs > maxPushRefs {
		return mesh.Errorf(mesh.Invalid, "the push moves more than %d branches and tags", maxPushRefs).
			WithHint("push only the branch: git push mesh BRANCH; push only tags that you deploy")
	}
	if ref.Tag() == "" || ref.Old != "" || ref.New == "" {
		return nil
	}
	if p.tags < 0 {
		n, err := p.r.Repos.CountTags(p.stack)
		if err != nil {
			return err
		}
		p.tags = n
	}
	if p.tags++; p.tags > maxTags {
		return mesh.Errorf(mesh.Invalid, "%s has %d tags, which is the limit", p.stack, maxTags).
			WithHint("delete old ones: git push mesh --delete TAG")
	}
	return nil
}

// claim takes the turn to move refs, and moves a branch to where the pusher has seen
// it.
func (p *push) claim(ctx context.Context, ref mesh.RefUpdate) error {
	if p.release == nil {
		release, err := p.r.Repos.TakeTurn(ctx, p.stack)
		if err != nil {
			return err
		}
		p.release = release
	}
	return p.r.Repos.Claim(ctx, p.stack, ref)
}

// moved gives the turn back: git has moved the refs, or never will.
func (p *push) moved() {
	if p.release != nil {
		p.release()
		p.release = nil
	}
}

// postReceive deploys the branch first, so that tags find its image.
func (p *push) postReceive(ctx context.Context, c hooks.Call) bool {
	p.deploying.Store(true)
	p.moved()
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
	var stored []mesh.Tag
	for _, ref := range c.Refs {
		if ref.Branch() != "" {
			continue
		}
		reason := atomicReason
		if failed == "" || !atomic {
			var tag mesh.Tag
			if tag, reason = p.tag(ctx, ref, c.Options); tag.Name != "" {
				stored = append(stored, tag)
			}
		}
		if reason != "" {
			p.undo(ctx, ref)
			failed = reason
		}
		p.decide(ref.Ref, reason)
	}
	if len(stored) > 0 && ctx.Err() == nil {
		for _, line := range p.r.Deployer.TagImages(ctx, p.stack, stored) {
			_, _ = io.WriteString(p.out, "       "+line+"\n")
		}
	}
	return failed == ""
}

// tag stores a tag, and deploys its commit if the options ask for it. It returns the
// tag if it names a commit, and the reason if the tag is refused.
func (p *push) tag(ctx context.Context, ref mesh.RefUpdate, options []string) (mesh.Tag, string) {
	refuse := func(err error) (mesh.Tag, string) {
		reason := p.reason(err)
		if reason != p.refused { // once, not for each of a thousand tags
			printRefusal(p.out, err)
		}
		p.refused = reason
		return mesh.Tag{}, reason
	}
	if ref.New == "" {
		return mesh.Tag{}, ""
	}
	commit, perr := p.r.Repos.Peel(p.stack, ref.New)
	if slices.Contains(options, "deploy") {
		if perr != nil {
			return refuse(mesh.Errorf(mesh.Invalid, "the tag %s does not point to a commit", mesh.Clip(ref.Tag(), 60)).WithHint("tag a commit: git tag -f %s COMMIT", mesh.Clip(ref.Tag(), 60)))
		}
		if reason := p.deployTag(ctx, ref, commit, options); reason != "" {
			return mesh.Tag{}, reason
		}
		return mesh.Tag{Name: ref.Tag(), Commit: commit}, ""
	}
	switch _, err := p.r.Deployer.RepoState(ctx, p.stack); {
	case errors.Is(err, mesh.NoStack):
		return refuse(mesh.Errorf(mesh.NoStack, "the stack %s does not exist yet, so there is nothing to tag", p.stack).
			WithHint("push a branch first, or deploy the tag: git push -o deploy mesh %s", mesh.Clip(ref.Tag(), 60)))
	case err != nil:
		return refuse(err)
	case perr != nil:
		return mesh.Tag{}, "" // a tag of something other than a commit is only stored
	}
	return mesh.Tag{Name: ref.Tag(), Commit: commit}, ""
}

// deploy deploys the branch's commit, or destroys the preview of a branch that is deleted.
// It returns the reason for git's report, or "".
func (p *push) deploy(ctx context.Context, ref mesh.RefUpdate, options []string) string {
	if ref.New == "" {
		if err := p.r.Deployer.EndPreview(ctx, p.stack, ref.Branch(), p.key.Name, p.out); err != nil {
			printRefusal(p.out, err)
			return p.reason(err)
		}
		return ""
	}
	if len(options) == 0 {
		// The same commit may be in deployment already. Its verdict is this push's as
		// well, unless it was a dry run.
		if found, err := p.r.Deployer.Follow(ctx, p.stack, ref.Branch(), ref.New, p.out); found && !errors.Is(err, mesh.Conflict) {
			if err != nil {
				return p.reason(err)
			}
			return ""
		}
	}
	m := mesh.Push{Stack: p.stack, By: p.key.Name, Branch: ref.Branch(), Commit: ref.New}
	if reason := p.admitAndPush(ctx, ref, &m, options); reason != "" {
		return reason
	}
	live, err := p.isLive(ctx, ref.Branch(), ref.New)
	if err != nil {
		p.r.Logger.Warn("deploy branch not compared", "stack", p.stack, "err", err)
	}
	if m.DryRun || m.Detach || err == nil && !live {
		p.undo(ctx, ref) // accepted, but not deployed, or not yet
	}
	return ""
}

// admitAndPush deploys m with the options, if ref may be pushed.
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

// isLive reports whether a commit is deployed from a branch, or, without one, from the
// deploy branch: one that changes no watched file is not. A stack that does not exist has
// none.
func (p *push) isLive(ctx context.Context, branch string, commit mesh.Commit) (bool, error) {
	state, err := p.r.Deployer.RepoState(ctx, p.stack)
	if errors.Is(err, mesh.NoStack) {
		return false, nil
	}
	if branch == "" {
		branch = state.Branch
	}
	return state.Head(branch) == commit, err
}

// deployTag deploys the commit of a tag, unless it is deployed already.
func (p *push) deployTag(ctx context.Context, ref mesh.RefUpdate, commit mesh.Commit, options []string) string {
	live, err := p.isLive(ctx, "", commit)
	if err != nil {
		return p.reason(err)
	}
	if live {
		return ""
	}
	return p.admitAndPush(ctx, ref, &mesh.Push{Stack: p.stack, By: p.key.Name, Tag: ref.Tag(), Commit: commit}, options)
}

// options reads push options. It returns the reason if one is unknown.
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
		case "no-switch":
			m.NoSwitch = true
		default:
			err := mesh.Errorf(mesh.Invalid, "there is no push option %q", mesh.Clip(o, 60)).WithHint("use no-cache, dry-run, detach, deploy, no-switch or canary=SHARE")
			if shares, is := strings.CutPrefix(o, "canary="); is {
				m.Canary = shares
				_, perr := mesh.ParseCanary(shares)
				if perr == nil {
					continue
				}
				printRefusal(p.out, perr)
				return p.reason(perr)
			}
			printRefusal(p.out, err)
			return p.reason(err)
		}
	}
	return ""
}

// undo moves a ref back and keeps the objects for the next try.
func (p *push) undo(ctx context.Context, ref mesh.RefUpdate) {
	if err := p.r.Repos.Undo(context.WithoutCancel(ctx), p.stack, ref); err != nil {
		p.r.Logger.Warn("ref not put back", "stack", p.stack, "ref", ref.Ref, "err", err)
	}
}

// reason returns one line for git's report. It logs internal errors.
func (p *push) reason(err error) string {
	var e *mesh.Error
	if err = mesh.TellNoRoom(err); !errors.As(err, &e) {
		if errors.Is(err, context.Canceled) {
			return "cancelled"
		}
		p.r.Logger.Error("push not deployed", "stack", p.stack, "err", err)
		return "internal error; see the server's log"
	}
	line, _, _ := strings.Cut(e.Text, "\n")
	return mesh.Clip(mesh.Visible(strings.TrimSpace(line)), 200)
}

// fsckLine matches git's message about an object that it refuses: the check and the
// fault.
var fsckLine = regexp.MustCompile(`(?m)error: object ([0-9a-f]{7})[0-9a-f]*: ([A-Za-z0-9]+): ([^\r\n]+)`)

// unpackFault finds in git's messages why it could not take a pack. It returns nil if
// it finds no known reason.
func unpackFault(talk string) *mesh.Error {
	m := fsckLine.FindStringSubmatch(talk)
	switch {
	case m != nil:
		return mesh.Errorf(mesh.Invalid, "git object %s is refused: %s (%s)", m[1], mesh.Clip(mesh.Visible(m[3]), 72), m[2]).
			WithHint("if only an old commit has it, push without history: git push -f mesh $(git commit-tree -m deploy 'HEAD^{tree}'):refs/heads/main")
	case strings.Contains(talk, "No space left on device"), strings.Contains(talk, "Disk quota exceeded"):
		return mesh.Errorf(mesh.Unavailable, "the server's disk is full").WithHint("free disk space on the server, for example with: docker system prune; then push again")
	case strings.Contains(talk, "exceeds maximum allowed size"):
		return mesh.Errorf(mesh.Invalid, "the push is larger than the server accepts").WithHint("keep large files in Git LFS, or push without history: git push -f mesh $(git commit-tree -m deploy 'HEAD^{tree}'):refs/heads/main")
	case strings.Contains(talk, "attempting to allocate"), strings.Contains(talk, "out of memory"):
		return mesh.Errorf(mesh.Invalid, "the push has an object that is too large to unpack").WithHint("keep large files in Git LFS: git lfs migrate import --above=100MB")
	}
	return nil
}
