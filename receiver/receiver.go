// Package receiver is how people reach mesh: an SSH server that takes git pushes,
// serves clones and fetches, and hands everything else to the commands.
//
// It knows who is speaking (the key) and runs git's own receive-pack and upload-pack in
// the Repos. What a push sets in motion, and whether a key may do it, is decided by the
// Deployer.
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
	"time"

	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

// Keys tells who may come in.
type Keys interface {
	// Keys returns all keys. It is asked at every sign-in and every session, so
	// that a removed key is out at once; ShutOut ends the sessions it has.
	Keys(ctx context.Context) ([]mesh.Key, error)
}

// Deployer decides about pushes and carries them out. Its methods may be called
// from several goroutines.
type Deployer interface {
	// AdmitPush tells whether the key may push to the stack, which need not exist
	// yet, before anything is received. A *mesh.Error says why not.
	AdmitPush(ctx context.Context, key mesh.Key, stack mesh.StackName) error
	// AdmitRef tells whether a ref may move, before it does. The error's text goes
	// into git's report, its hint to the pusher.
	AdmitRef(ctx context.Context, key mesh.Key, stack mesh.StackName, ref mesh.RefUpdate) error
	// Push deploys a commit whose ref has moved, and writes whole lines of output.
	// It returns nil when the commit is live. When ctx ends before that, nothing
	// has changed.
	Push(ctx context.Context, p mesh.Push, out io.Writer) error
	// TagImages names the images that were built from the tags' commits after the
	// tags, and returns a few lines that say what it did.
	TagImages(ctx context.Context, stack mesh.StackName, tags []mesh.Tag) []string
	// RepoState says what the deploy branch has to point to.
	RepoState(ctx context.Context, stack mesh.StackName) (mesh.RepoState, error)
	// Follow writes the output of the deployment of commit that is on its way, and
	// returns its verdict. found is false when there is none.
	Follow(ctx context.Context, stack mesh.StackName, commit mesh.Commit, out io.Writer) (found bool, err error)
}

// Repos are the bare repositories. Its methods may be called from several goroutines.
type Repos interface {
	Refs
	// Enter makes sure that a stack's repository exists and holds on to it until leave,
	// which puts the deploy branch back to what is deployed. A repository of no stack is
	// removed then, unless keep is set.
	Enter(stack mesh.StackName, keep bool) (leave func(context.Context) error, err error)
	// Ensure creates the repository of a stack that has none yet.
	Ensure(stack mesh.StackName) error
	// Git prepares receive-pack or upload-pack in a stack's repository. Of the client's
	// environment only what is safe gets through.
	Git(ctx context.Context, stack mesh.StackName, client []string, service string, args ...string) *exec.Cmd
	// Shown returns the deploy branch as a pusher is shown it, and commits that need not
	// be sent again. Without such a stack all is zero.
	Shown(ctx context.Context, stack mesh.StackName) (mesh.RepoState, []mesh.Commit, error)
	// TransferLFS takes (upload) or gives objects of Git LFS until the client ends.
	TransferLFS(ctx context.Context, stack mesh.StackName, upload bool, client io.Reader, out io.Writer) error
}

// Refs are the branches and tags of the repositories, as a push moves them.
type Refs interface {
	// Weigh refuses a commit, or a tag of one, whose tree is beyond the limits.
	Weigh(ctx context.Context, stack mesh.StackName, id mesh.Commit) error
	// CountTags returns how many tags a stack has.
	CountTags(stack mesh.StackName) (int, error)
	// Peel returns the commit that a tag, or a commit itself, names.
	Peel(stack mesh.StackName, id mesh.Commit) (mesh.Commit, error)
	// TakeTurn waits until its caller may move refs of a stack, alone, until release.
	TakeTurn(ctx context.Context, stack mesh.StackName) (release func(), err error)
	// Claim puts a branch where the pusher has seen it. The caller has the turn.
	Claim(ctx context.Context, stack mesh.StackName, ref mesh.RefUpdate) error
	// Undo puts a ref back to what is deployed (a branch) or to where it was (a tag),
	// unless it was moved since. A new commit's objects are kept.
	Undo(ctx context.Context, stack mesh.StackName, ref mesh.RefUpdate) error
}

// Commands answers every session that is not git's. Its methods may be called from
// several goroutines.
type Commands interface {
	// Run runs one command line. Its error decides the exit status of the session
	// (mesh.ExitStatus) and is printed with PrintError, unless it is a mesh.ExitCode.
	Run(ctx context.Context, req mesh.Request) error
	// PrintError writes to w why a session failed and what to do about it. An error that
	// is not one for people goes to the log.
	PrintError(w io.Writer, err error)
}

// Options is what a Receiver needs. All fields but the limits must be set.
type Options struct {
	Repos    Repos
	Keys     Keys
	Deployer Deployer
	Commands Commands
	HostKey  gossh.Signer
	Logger   *slog.Logger

	Grace     time.Duration // for signing in; 0: 10 s
	KeepAlive time.Duration // between keep-alive requests, three of which may go unanswered; 0: 15 s
	Idle      time.Duration // for which a transfer of git, Git LFS or mesh deploy may stand still; 0: 10 min
}

// Receiver is the SSH server. Make one with New.
type Receiver struct {
	Options
	unknownKeys *companions
	gate        *gate
	refusals    flood // connections that found no place
	unknown     flood // keys that were offered and are not known
	open        *signedIn
	servers     sync.Map // *sessions of the servers that serve
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

// EndSessions ends the sessions of a key that has been removed, by its fingerprint: a
// deployment that is before its release is cancelled, a log that is followed ends.
// It does not wait for them.
func (r *Receiver) EndSessions(fingerprint string) { r.open.end(fingerprint) }

// Serve takes SSH connections from l until ctx ends; it then waits for the
// sessions, which the deployer and the commands end in their own time, and
// returns nil. It closes l.
func (r *Receiver) Serve(ctx context.Context, l net.Listener) error {
	return r.serve(ctx, l, r.tcpServer)
}

// ServeLocal takes SSH connections from the local socket l, without keys: who can
// open the socket is admin. It returns as Serve does.
func (r *Receiver) ServeLocal(ctx context.Context, l net.Listener) error {
	return r.serve(ctx, l, r.localServer)
}
