package deploy

import (
	"context"
	"io"

	"mesh"
	"mesh/deploy/fleet"
)

// Builder turns a source tree into an image in the engine, and looks after the images
// that it has made. Its methods may be called from several goroutines.
type Builder interface {
	Builds
	Images
	Space
	// SignIn tries whether a registry lets somebody in; Denied when it does not.
	SignIn(ctx context.Context, r mesh.Registry) error
}

// Builds makes images.
type Builds interface {
	// Build runs until the image is there or has failed, and writes the output of
	// the steps to w as whole lines, each as it comes. It indents them as
	// docs/output.md shows, begins with what it builds with ("-----> Building
	// with ./Dockerfile"), and writes no final verdict: that is the error.
	// A build that fails for reasons in the tree gives a *mesh.Error whose text is
	// one line fit for git's report ("'RUN npm ci' exited 1"), with the last lines
	// of the failing step as its output. When ctx ends the build is stopped in the
	// engine before Build returns. Builds may run at the same time.
	Build(ctx context.Context, b mesh.Build, w io.Writer) (mesh.Image, error)
	// Dockerfile is the text of the Dockerfile that a tree is built with, and
	// whether it is written by the builder because the tree has none.
	Dockerfile(tree mesh.Tree, s mesh.Settings) (text string, managed bool, err error)
}

// Images are those in the engine, by ID and by the names mesh/<stack>:… that mesh gives.
type Images interface {
	// Tag gives the image with this ID one more name.
	Tag(ctx context.Context, imageID, ref string) error
	// Present tells whether the image is still in the engine.
	Present(ctx context.Context, imageID string) (bool, error)
	// Rename gives the images that are tagged mesh/<from>:… the same tags below
	// mesh/<to>, and takes the old ones away. It may be called again.
	Rename(ctx context.Context, from, to mesh.StackName) error
	// Stacks names the stacks that this server has images of, by their names
	// mesh/<stack>:… ; not all of them need exist.
	Stacks(ctx context.Context) ([]mesh.StackName, error)
	// Sweep removes this server's images that keep does not want, of whatever stack,
	// but not what a container uses, and returns them. With dry nothing is removed.
	Sweep(ctx context.Context, keep func(stack mesh.StackName, id string) bool, dry bool) ([]mesh.Garbage, error)
	// Collect removes the images of a stack, those tagged mesh/<stack>:… , whose
	// IDs keep does not have. It leaves what a container uses.
	Collect(ctx context.Context, stack mesh.StackName, keep map[string]bool) error
}

// Space is the room that images and the build cache take.
type Space interface {
	// Room tells how many bytes are free for images, and how many a build needs; known
	// is false when that cannot be told from here.
	Room(ctx context.Context) (free, need int64, known bool, err error)
	// Cache tells how large the build cache is and may become. PruneCache makes it as
	// small as that, or empty, and returns what that has freed.
	Cache(ctx context.Context) (size, limit int64, err error)
	PruneCache(ctx context.Context, all bool) (freed int64, err error)
}

// Runner turns images into running instances. Its methods may be called from
// several goroutines. It sees only the containers of this server: other servers
// on the same engine have their own.
type Runner interface {
	fleet.Runner
	Commands
	Inventory
}

// Commands runs commands in containers, beside the instances or in one of them.
type Commands interface {
	// RunOneOff runs one container to its end, connected to the given streams, and
	// returns its exit code. The container is gone when it returns, also when ctx
	// ended.
	RunOneOff(ctx context.Context, o mesh.OneOff) (int, error)
	// Detach starts one container that runs a command with nobody connected, and
	// returns; run has what is to be remembered of it.
	Detach(ctx context.Context, o mesh.OneOff, run mesh.DetachedRun) (mesh.DetachedRun, error)
	// Detached lists the detached runs of a stack, or of all when it is empty, those
	// that have ended too.
	Detached(ctx context.Context, stack mesh.StackName) ([]mesh.DetachedRun, error)
	// OneOffs counts the one-off containers of a stack whose clients are connected.
	OneOffs(ctx context.Context, stack mesh.StackName) (int, error)
	// Exec runs a further command in the container of a running instance, connected
	// to the given streams, and returns its exit code. It is ended when ctx is.
	Exec(ctx context.Context, e mesh.Exec) (int, error)
}

// Inventory is what the engine has of this server.
type Inventory interface {
	// List returns the instances of all stacks, in whatever state.
	List(ctx context.Context) ([]mesh.Instance, error)
	// Watch calls fn, one event at a time, for each instance that starts or dies, and
	// for anything else that may have changed what runs, until ctx ends. When the engine
	// goes away it reconnects, and calls lost once it is back, because events may have
	// been missed.
	Watch(ctx context.Context, fn func(mesh.InstanceEvent), lost func()) error
	// Stacks names the stacks that there are containers or networks of.
	Stacks(ctx context.Context) ([]mesh.StackName, error)
	// RemoveStack removes the containers and the network of a stack.
	RemoveStack(ctx context.Context, stack mesh.StackName) error
}

// Repos are the bare repositories that are pushed to.
type Repos interface {
	// Subject is the first line of a commit's message.
	Subject(ctx context.Context, stack mesh.StackName, commit mesh.Commit) (string, error)
	// Open opens the tree of a commit; release closes it. It waits while the trees that
	// are open take all the memory that there is for them: nobody who waits for others
	// keeps one open.
	Open(ctx context.Context, stack mesh.StackName, commit mesh.Commit) (tree mesh.Tree, subject string, release func(), err error)
	// FetchModules brings the submodules of a commit to where Open finds them, and says
	// which; a tree that was opened before has to be opened anew when there was any.
	FetchModules(ctx context.Context, stack mesh.StackName, commit mesh.Commit, say func(string)) (fetched bool, err error)
	// ResetBranch asks Deployer.RepoState what the deploy branch must point to, and makes
	// it so. A stack without a repository needs nothing.
	ResetBranch(ctx context.Context, stack mesh.StackName) error
	// Rename moves the repository of a stack. Without one it does nothing, so it may
	// be called again.
	Rename(ctx context.Context, from, to mesh.StackName) error
	// Remove deletes the repository.
	Remove(ctx context.Context, stack mesh.StackName) error
}

// Store is the state, and the only interface by which it is changed. One method
// is one transaction: it happens wholly or not at all, and is on disk when the
// method returns.
type Store interface {
	Records
	StackStore
	DeploymentStore
	Remains
	Health
	Access
	Times
}

// Records reads what is recorded of stacks.
type Records interface {
	Stacks(ctx context.Context) ([]mesh.Stack, error)
	// Stack gives an error of kind NoStack when there is none.
	Stack(ctx context.Context, name mesh.StackName) (mesh.Stack, error)
	Release(ctx context.Context, stack mesh.StackName, n mesh.ReleaseNumber) (mesh.Release, error)
	// Releases and Deployments give the newest first, limit of them at most, or
	// all when limit is 0.
	Releases(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.Release, error)
	Deployment(ctx context.Context, stack mesh.StackName, n mesh.DeploymentNumber) (mesh.Deployment, error)
	Deployments(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.Deployment, error)
}

// StackStore changes the records of stacks.
type StackStore interface {
	// CreateStack records a stack, chooses its subnet from pool, and fails with
	// Conflict when the name is taken.
	CreateStack(ctx context.Context, s mesh.Stack, choose func(taken []mesh.Stack, s mesh.Stack) (mesh.Stack, error)) (mesh.Stack, error)
	// UpdateStack changes a stack by fn, which does no I/O and may run again. Name,
	// Current and LastNumber cannot be changed by it. A domain that another stack
	// has is a Conflict.
	UpdateStack(ctx context.Context, name mesh.StackName, fn func(*mesh.Stack) error) (mesh.Stack, error)
	DestroyStack(ctx context.Context, name mesh.StackName) error
	// RenameStack gives the stack of d another name, with all that is recorded of
	// it, and makes d live in the same transaction. The stack's Was is its old name
	// until FinishRename has moved its recorded output, which may be called again.
	RenameStack(ctx context.Context, d mesh.Deployment, to mesh.StackName, change func(*mesh.Stack) error) (mesh.Stack, error)
	FinishRename(ctx context.Context, name mesh.StackName) (mesh.Stack, error)
}

// DeploymentStore records deployments and the releases that they make.
type DeploymentStore interface {
	// BeginDeployment gives d the stack's next number and records it.
	BeginDeployment(ctx context.Context, d mesh.Deployment) (mesh.Deployment, error)
	// UpdateDeployment changes a deployment that is not final.
	UpdateDeployment(ctx context.Context, d mesh.Deployment) error
	// Commit makes d live, and, when r is not nil, gives r the stack's next release
	// number, which must be r.Number, and makes it current. change is applied to
	// the stack in the same transaction.
	Commit(ctx context.Context, d mesh.Deployment, r *mesh.Release, change func(*mesh.Stack) error) (mesh.Stack, error)
	// Output opens the recorded output of a deployment for writing. Whole lines
	// are written; a reader sees them at once.
	Output(stack mesh.StackName, n mesh.DeploymentNumber) (io.WriteCloser, error)
}

// Remains are the names that may have something left outside the store.
type Remains interface {
	// Provisional adds a name that something is made under before its stack is recorded.
	Provisional(ctx context.Context, name mesh.StackName) error
	// Destroyed names the stacks that were destroyed or renamed and may have left
	// something, until Gone is told that nothing is left.
	Destroyed(ctx context.Context) ([]mesh.StackName, error)
	Gone(ctx context.Context, name mesh.StackName) error
}

// Health tells which records are damaged.
type Health interface {
	// Damaged lists the records that are not what was written. A stack that has one
	// cannot be changed; one that cannot be read is not among Stacks. DomainsOf still
	// tells its hosts.
	Damaged() []mesh.Damage
	DomainsOf(name mesh.StackName) ([]mesh.Host, error)
}

// Access is who may come in, what the server signs in to, and what was done.
type Access interface {
	Keys(ctx context.Context) ([]mesh.Key, error)
	AddKey(ctx context.Context, k mesh.Key) error
	RemoveKey(ctx context.Context, name mesh.KeyName) error
	// PutRegistry records how to sign in to a registry, over what there was for its
	// host; RemoveRegistry forgets it.
	PutRegistry(ctx context.Context, r mesh.Registry) error
	RemoveRegistry(ctx context.Context, host string) error
	// AddAudit records what somebody did.
	AddAudit(ctx context.Context, e mesh.AuditEntry) error
}

// Times are the times of files that stacks remember between builds.
type Times interface {
	// FileTimes is what a stack remembers of the times of its files; the zero value
	// when that is nothing. KeepFileTimes replaces it.
	FileTimes(ctx context.Context, stack mesh.StackName) (mesh.FileTimes, error)
	KeepFileTimes(ctx context.Context, stack mesh.StackName, t mesh.FileTimes) error
}
