// Package receiver is mesh's SSH server. It takes git pushes, serves clones and
// fetches, and passes everything else to the commands.
//
// It identifies the client by its key, and runs git's receive-pack and upload-pack in
// the Repos. The Deployer decides whether a key may push, and deploys.
//
//	r := receiver.New(receiver.Options{…})
//	go r.Serve(ctx, listener)      // SSH over TCP, public keys only
//	go r.ServeLocal(ctx, socket)   // SSH over mesh.sock, the owner is admin
package receiver

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

// Keys returns the keys that may sign in.
type Keys interface {
	// Keys returns all keys. It is called at every sign-in and every session, so that a
	// removed key cannot begin another; EndSessions ends the sessions that it has.
	Keys(ctx context.Context) ([]mesh.Key, error)
}

// Deployer decides about pushes and carries them out. Its methods may be called
// from several goroutines.
type Deployer interface {
	// AdmitPush returns a *mesh.Error if the key may not push to the stack, which need
	// not exist yet. It is called before anything is received.
	AdmitPush(ctx context.Context, key mesh.Key, stack mesh.StackName) error
	// AdmitRef returns an error if a ref may not move, before it does. The error's text
	// goes into git's report, its hint to the pusher.
	AdmitRef(ctx context.Context, key mesh.Key, stack mesh.StackName, ref mesh.RefUpdate) error
	// Push deploys a commit whose ref has moved, and writes its output in whole lines.
	// It returns nil when the commit is live. If ctx ends before that, nothing has
	// changed.
	Push(ctx context.Context, p mesh.Push, out io.Writer) error
	// TagImages tags the images built from the tags' commits with those tags, and
	// returns a few lines about it.
	TagImages(ctx context.Context, stack mesh.StackName, tags []mesh.Tag) []string
	// RepositoryOf returns the stack whose repository has the commits of a stack: its own, or
	// the one that it is a preview of. An unknown stack is its own.
	RepositoryOf(ctx context.Context, stack mesh.StackName) (mesh.StackName, error)
	// RepoState returns where the deploy branch and those of previews must point.
	RepoState(ctx context.Context, stack mesh.StackName) (mesh.RepoState, error)
	// Follow writes the output of the deployment in progress that a push of the commit to
	// a branch would begin, and returns its verdict. found is false if there is none.
	Follow(ctx context.Context, stack mesh.StackName, branch string, commit mesh.Commit, out io.Writer) (found bool, err error)
	// EndPreview destroys the preview of a branch that was deleted. There may be none.
	EndPreview(ctx context.Context, of mesh.StackName, branch string, by mesh.KeyName, out io.Writer) error
}

// Repos manages the bare repositories. Its methods may be called from several
// goroutines.
type Repos interface {
	Refs
	// Enter makes sure that a stack's repository exists, and keeps it until leave,
	// which moves the deploy branch back to the deployed commit. leave removes the
	// repository if it belongs to no stack, unless keep is set.
	Enter(stack mesh.StackName, keep bool) (leave func(context.Context) error, err error)
	// Ensure creates the repository of a stack if it has none.
	Ensure(stack mesh.StackName) error
	// Git prepares receive-pack or upload-pack in a stack's repository. Only safe
	// variables of the client's environment are kept.
	Git(ctx context.Context, stack mesh.StackName, client []string, service string, args ...string) *exec.Cmd
	// Shown returns the deploy branch as pushers see it, and commits that need not be
	// sent again. For an unknown stack, both are zero.
	Shown(ctx context.Context, stack mesh.StackName) (mesh.RepoState, []mesh.Commit, error)
	// TransferLFS receives (upload) or sends Git LFS objects until the client ends.
	TransferLFS(ctx context.Context, stack mesh.StackName, upload bool, client io.Reader, out io.Writer) error
}

// Refs manages the branches and tags of the repositories, for pushes.
type Refs interface {
	// Weigh returns an error for a commit, or a tag of one, whose tree is beyond the
	// limits.
	Weigh(ctx context.Context, stack mesh.StackName, id mesh.Commit) error
	// CountTags returns the number of a stack's tags.
	CountTags(stack mesh.StackName) (int, error)
	// Peel returns the commit that a tag, or a commit itself, names.
	Peel(stack mesh.StackName, id mesh.Commit) (mesh.Commit, error)
	// TakeTurn waits until its caller alone may move refs of a stack, until release.
	TakeTurn(ctx context.Context, stack mesh.StackName) (release func(), err error)
	// Claim moves a branch to where the pusher has seen it. The caller has the turn.
	Claim(ctx context.Context, stack mesh.StackName, ref mesh.RefUpdate) error
	// Undo moves a ref back to the deployed commit (a branch) or to where it was (a
	// tag), unless it was moved since. The objects of a new commit are kept.
	Undo(ctx context.Context, stack mesh.StackName, ref mesh.RefUpdate) error
}

// Commands answers every session that is not git's. Its methods may be called from
// several goroutines.
type Commands interface {
	// Run runs one command line. Its error decides the exit status of the session
	// (mesh.ExitStatus) and is printed with PrintError, unless it is a mesh.ExitCode.
	Run(ctx context.Context, req mesh.Request) error
	// PrintError writes to w why a session failed and what to do about it. Internal
	// errors go to the log.
	PrintError(w io.Writer, err error)
}

// Options holds what a Receiver needs. All fields but the limits are required.
type Options struct {
	Repos    Repos
	Keys     Keys
	Deployer Deployer
	Commands Commands
	Files    Files
	Dialer   Dialer
	HostKey  gossh.Signer
	Logger   *slog.Logger

	Grace     time.Duration // for signing in; 0: 10 s
	KeepAlive time.Duration // between keep-alive requests, of which three may go unanswered; 0: 15 s
	Idle      time.Duration // how long a transfer of git, Git LFS or mesh deploy may stall; 0: 10 min
}

// Receiver is the SSH server. Create one with New.
type Receiver struct {
	Options
	unknownKeys *companions
	gate        *gate
	refusals    flood // connections that found no place
	unknown     flood // offers of unknown keys
	open        *signedIn
	servers     sync.Map // *sessions of the running servers
	web         atomic.Pointer[webServer]
}

// New returns a Receiver that does not listen yet.
func New(o Options) *Receiver {
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 15 * time.Second
	}
	if o.Idle == 0 {
		o.Idle = 10 * time.Minute
	}
	return &Receiver{Options: o, unknownKeys: newCompanions(), gate: newGate(), open: newSignedIn()}
}

// EndSessions ends the sessions of a removed key, by its SignIn. A deployment
// before its release is cancelled, and a followed log ends. EndSessions does not wait
// for them.
func (r *Receiver) EndSessions(signIn string) { r.open.end(signIn) }

// Serve accepts SSH connections from l until ctx ends. It then waits for the sessions,
// which the deployer and the commands end in their own time, and returns nil. It closes
// l.
func (r *Receiver) Serve(ctx context.Context, l net.Listener) error {
	return r.serve(ctx, l, r.tcpServer)
}

// ServeLocal accepts SSH connections from the local socket l, without keys: whoever can
// open the socket is admin. It returns as Serve does.
func (r *Receiver) ServeLocal(ctx context.Context, l net.Listener) error {
	return r.serve(ctx, l, r.localServer)
}
