package deploy

import (
	"context"
	"io"

	"mesh"
	"mesh/deploy/fleet"
)

// Builder turns a source tree into an image in the engine, and manages the images that
// it has made. Its methods may be called from several goroutines.
type Builder interface {
	Builds
	Images
	Space
	// SignIn checks that a registry accepts a sign-in. It returns a Denied error if
	// not.
	SignIn(ctx context.Context, r mesh.Registry) error
}

// Builds makes images.
type Builds interface {
	// Build runs until the image exists or the build has failed. It writes the output
	// of the steps to w in whole lines, each as it comes, indented as docs/output.md
	// shows. It begins with what it builds with ("-----> Building with ./Dockerfile"),
	// and writes no final verdict: that is the error. A build that fails because of the
	// tree returns a *mesh.Error whose text is one line fit for git's report ("'RUN npm
	// ci' exited 1"), with the last lines of the failing step as its output. If ctx
	// ends, Build stops the build in the engine before it returns. Builds may run at
	// the same time.
	Build(ctx context.Context, b mesh.Build, w io.Writer) (mesh.Image, error)
	// Dockerfile returns the Dockerfile that a tree is built with, and whether the
	// builder generated it because the tree has none.
	Dockerfile(tree mesh.Tree, s mesh.Settings) (text string, managed bool, err error)
}

// Images manages the images in the engine, by ID and by their mesh/<stack>:… tags.
type Images interface {
	// Tag adds a tag to the image with this ID.
	Tag(ctx context.Context, imageID, ref string) error
	// Present reports whether the image is still in the engine.
	Present(ctx context.Context, imageID string) (bool, error)
	// Rename gives the images tagged mesh/<from>:… the same tags below mesh/<to>, and
	// removes the old tags. It may be called again.
	Rename(ctx context.Context, from, to mesh.StackName) error
	// Stacks returns the stacks that this server has images of, by their tags
	// mesh/<stack>:… . Some may no longer exist.
	Stacks(ctx context.Context) ([]mesh.StackName, error)
	// Sweep removes this server's images of all stacks, except those that keep accepts
	// or a container uses, and returns them. With dry it removes nothing.
	Sweep(ctx context.Context, keep func(stack mesh.StackName, id string) bool, dry bool) ([]mesh.Garbage, error)
	// Collect removes the images of a stack, those tagged mesh/<stack>:… , except those
	// whose IDs are in keep or that a container uses.
	Collect(ctx context.Context, stack mesh.StackName, keep map[string]bool) error
}

// Space reports and frees the disk space of images and the build cache.
type Space interface {
	// Room returns how many bytes are free for images, and how many a build needs.
	// known is false if that cannot be measured from here.
	Room(ctx context.Context) (free, need int64, known bool, err error)
	// Cache returns the size of the build cache and its limit. PruneCache shrinks it to
	// the limit, or empties it, and returns the bytes freed.
	Cache(ctx context.Context) (size, limit int64, err error)
	PruneCache(ctx context.Context, all bool) (freed int64, err error)
}

// Runner turns images into running instances. Its methods may be called from several
// goroutines. It sees only the containers of this server, not those of other servers on
// the same engine.
type Runner interface {
	fleet.Runner
	Commands
	Files
	Inventory
}

// Commands runs commands in containers, beside the instances or in one of them.
type Commands interface {
	// RunOneOff runs one container to completion, connected to the given streams, and
	// returns its exit code. When it returns, the container has been removed, even if
	// ctx ended.
	RunOneOff(ctx context.Context, o mesh.OneOff) (int, error)
	// Detach starts one container that runs a command with no client connected, and
	// returns. run is the record of it.
	Detach(ctx context.Context, o mesh.OneOff, run mesh.DetachedRun) (mesh.DetachedRun, error)
	// Detached returns the detached runs of a stack, or of all stacks if it is empty,
	// including those that have ended.
	Detached(ctx context.Context, stack mesh.StackName) ([]mesh.DetachedRun, error)
	// AwaitRun returns when a detached run does not run, or its container no longer exists.
	AwaitRun(ctx context.Context, id string) error
	// Logs calls fn with what a detached run has printed: the last q.Lines lines.
	Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error
	// OneOffs returns the number of a stack's one-off containers with a connected
	// client.
	OneOffs(ctx context.Context, stack mesh.StackName) (int, error)
	// Exec runs another command in the container of a running instance, connected to
	// the given streams, and returns its exit code. The command ends with ctx.
	Exec(ctx context.Context, e mesh.Exec) (int, error)
}

// Files reads and writes files in the containers of running instances. Paths are absolute
// and clean; links lead nowhere outside of the container.
type Files interface {
	// StatFile describes a file without following a final link, and ListFiles what is in a
	// folder, by name.
	StatFile(ctx context.Context, id, file string) (mesh.File, error)
	ListFiles(ctx context.Context, id, folder string) ([]mesh.File, error)
	// CopyOut writes a file or folder as a tar stream; its first entry has the name of the
	// file. CopyIn unpacks a tar stream into a folder that exists.
	CopyOut(ctx context.Context, id, file string, w io.Writer) error
	CopyIn(ctx context.Context, id, folder string, content io.Reader) error
}

// Inventory lists what this server has in the engine.
type Inventory interface {
	// List returns the instances of all stacks, in any state.
	List(ctx context.Context) ([]mesh.Instance, error)
	// Watch calls fn, one event at a time, for each instance that starts or dies, and
	// for anything else that may have changed what runs, until ctx ends. If it loses
	// the engine, it reconnects, and then calls lost, because it may have missed
	// events.
	Watch(ctx context.Context, fn func(mesh.InstanceEvent), lost func()) error
	// Stacks returns the stacks that have containers or networks.
	Stacks(ctx context.Context) ([]mesh.StackName, error)
	// RemoveStack removes the containers and the network of a stack.
	RemoveStack(ctx context.Context, stack mesh.StackName) error
}

// Repos manages the bare repositories that people push to.
type Repos interface {
	// Subject returns the first line of a commit's message.
	Subject(ctx context.Context, stack mesh.StackName, commit mesh.Commit) (string, error)
	// Open opens the tree of a commit; release closes it. It blocks while open trees
	// use all the memory reserved for them, so a caller must not wait for others while
	// it keeps one open.
	Open(ctx context.Context, stack mesh.StackName, commit mesh.Commit) (tree mesh.Tree, subject string, release func(), err error)
	// FetchModules brings the submodules of a commit to where Open finds them, and
	// reports each to say. If it fetched any, open the tree again.
	FetchModules(ctx context.Context, stack mesh.StackName, commit mesh.Commit, say func(string)) (fetched bool, err error)
	// Fetch fetches a branch of another repository into that of the stack, which it creates,
	// and returns its commit; empty: there is no such branch.
	Fetch(ctx context.Context, stack mesh.StackName, url, branch string) (mesh.Commit, error)
	// MayFetch returns a *mesh.Error if nothing may be fetched from a URL, or its host is
	// not found.
	MayFetch(ctx context.Context, url string) error
	// ResetBranch calls Deployer.RepoState and moves the deploy branch there. A stack
	// without a repository needs nothing.
	ResetBranch(ctx context.Context, stack mesh.StackName) error
	// Rename moves the repository of a stack. It does nothing if there is no
	// repository, so it may be called again.
	Rename(ctx context.Context, from, to mesh.StackName) error
	// Remove deletes the repository.
	Remove(ctx context.Context, stack mesh.StackName) error
}

// Store is the state, and the only interface that changes it. Each method is one
// transaction: it happens completely or not at all, and is on disk when the method
// returns.
type Store interface {
	Records
	StackStore
	DeploymentStore
	Remains
	Health
	Access
	Times
	ServerStore
	AlertStore
	AddonStore
	BackupStore
	VolumeStore
	ClusterStore
	JobStore
}

// Records reads the records of stacks.
type Records interface {
	Stacks(ctx context.Context) ([]mesh.Stack, error)
	// Stack returns an error of kind NoStack if there is no such stack.
	Stack(ctx context.Context, name mesh.StackName) (mesh.Stack, error)
	// Previews returns the previews of a stack, by name, or all if it is empty.
	Previews(ctx context.Context, of mesh.StackName) ([]mesh.Stack, error)
	Release(ctx context.Context, stack mesh.StackName, n mesh.ReleaseNumber) (mesh.Release, error)
	// Releases and Deployments return the newest first, at most limit of them, or all
	// if limit is 0.
	Releases(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.Release, error)
	Deployment(ctx context.Context, stack mesh.StackName, n mesh.DeploymentNumber) (mesh.Deployment, error)
	Deployments(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.Deployment, error)
}

// StackStore changes the records of stacks.
type StackStore interface {
	// CreateStack records a stack and chooses its subnet with choose. It returns a
	// Conflict if the name is taken.
	CreateStack(ctx context.Context, s mesh.Stack, choose func(taken []mesh.Stack, s mesh.Stack) (mesh.Stack, error)) (mesh.Stack, error)
	// UpdateStack changes a stack with fn, which does no I/O and may run more than
	// once. fn cannot change Name, Current or LastNumber. A domain of another stack is
	// a Conflict.
	UpdateStack(ctx context.Context, name mesh.StackName, fn func(*mesh.Stack) error) (mesh.Stack, error)
	DestroyStack(ctx context.Context, name mesh.StackName) error
	// RenameStack renames the stack of d, with everything recorded of it, and makes d
	// live in the same transaction. The stack's Was is its old name until FinishRename
	// has moved its recorded output. FinishRename may be called again.
	RenameStack(ctx context.Context, d mesh.Deployment, to mesh.StackName, change func(*mesh.Stack) error) (mesh.Stack, error)
	FinishRename(ctx context.Context, name mesh.StackName) (mesh.Stack, error)
}

// DeploymentStore records deployments and the releases they make.
type DeploymentStore interface {
	// BeginDeployment gives d the stack's next number and records it.
	BeginDeployment(ctx context.Context, d mesh.Deployment) (mesh.Deployment, error)
	// UpdateDeployment changes a deployment that is not final.
	UpdateDeployment(ctx context.Context, d mesh.Deployment) error
	// Commit makes d live. If r is not nil, it also gives r the stack's next release
	// number, which must equal r.Number, and makes it current. change is applied to the
	// stack in the same transaction.
	Commit(ctx context.Context, d mesh.Deployment, r *mesh.Release, change func(*mesh.Stack) error) (mesh.Stack, error)
	// Stage records r like Commit, as the stack's staged release: the current one stays.
	// Commit of a staged release makes it current; of another one, nothing is staged.
	Stage(ctx context.Context, d mesh.Deployment, r *mesh.Release, change func(*mesh.Stack) error) (mesh.Stack, error)
	// Output opens the recorded output of a deployment for writing. Write whole lines;
	// readers see them at once.
	Output(stack mesh.StackName, n mesh.DeploymentNumber) (io.WriteCloser, error)
}

// Remains records the names that may have something left outside the store.
type Remains interface {
	// Provisional records a name before something is made for a stack that is not
	// recorded yet.
	Provisional(ctx context.Context, name mesh.StackName) error
	// Destroyed returns the stacks that were destroyed or renamed and may have left
	// something, until Gone reports that nothing is left.
	Destroyed(ctx context.Context) ([]mesh.StackName, error)
	Gone(ctx context.Context, name mesh.StackName) error
}

// Health reports damaged records.
type Health interface {
	// Damaged returns the records that are not what was written. A stack with one
	// cannot be changed. A stack that cannot be read is missing from Stacks, but
	// DomainsOf still returns its hosts.
	Damaged() []mesh.Damage
	DomainsOf(name mesh.StackName) ([]mesh.Host, error)
	// Guarded reports whether its access rules keep some people out.
	Guarded(name mesh.StackName) (bool, error)
}

// Access holds the keys, the registry sign-ins and the audit log.
type Access interface {
	Keys(ctx context.Context) ([]mesh.Key, error)
	AddKey(ctx context.Context, k mesh.Key) error
	RemoveKey(ctx context.Context, name mesh.KeyName) error
	// PutRegistry records how to sign in to a registry, and replaces any earlier
	// sign-in for its host. RemoveRegistry removes it.
	PutRegistry(ctx context.Context, r mesh.Registry) error
	RemoveRegistry(ctx context.Context, host string) error

	// AddDrain returns NoStack for a stack that does not exist. Destroying and renaming a
	// stack keep its drains in step.
	AddDrain(ctx context.Context, d mesh.Drain) error
	RemoveDrain(ctx context.Context, id string) error
	// AddAudit records an action.
	AddAudit(ctx context.Context, e mesh.AuditEntry) error
}

// ServerStore holds the settings of the server, and the config vars of all stacks.
type ServerStore interface {
	ServerSettings(ctx context.Context) (mesh.ServerSettings, error)
	// UpdateServerSettings changes them with fn, which may run more than once, and
	// returns them. A default stack that does not exist is an error of kind NoStack.
	// Destroying and renaming a stack keep them in step.
	UpdateServerSettings(ctx context.Context, fn func(*mesh.ServerSettings) error) (mesh.ServerSettings, error)
	// GlobalConfig returns the config vars of all stacks, or an error of kind Damaged.
	GlobalConfig(ctx context.Context) (mesh.Config, error)
	// UpdateGlobalConfig replaces them with what fn returns, and returns it. fn gets an
	// error if they cannot be read.
	UpdateGlobalConfig(ctx context.Context, fn func(mesh.Config, error) (mesh.Config, error)) (mesh.Config, error)
}

// AlertStore holds alerts, the messages about them, and who gets those. Destroying and
// renaming a stack keep them in step.
type AlertStore interface {
	// RecordAlert records an alert and the messages about it, gives each its number, and
	// returns them. It is NotFound if the alert has a number and its record is gone. The
	// stack of an alert with a number is that of its record: it may have a new name.
	RecordAlert(ctx context.Context, a mesh.Alert, notices []mesh.Notice) (mesh.Alert, []mesh.Notice, error)
	// Delivered removes messages.
	Delivered(ctx context.Context, notices []uint64) error
	// AddRecipient returns a Conflict if the name is taken, and NoStack for a stack that
	// does not exist. RemoveRecipient also removes the messages that wait for it.
	AddRecipient(ctx context.Context, r mesh.Recipient) error
	RemoveRecipient(ctx context.Context, name mesh.RecipientName) error
}

// Times keeps the modification times of a stack's files between builds.
type Times interface {
	// FileTimes returns the recorded times of a stack's files, or the zero value if
	// there are none. KeepFileTimes replaces them.
	FileTimes(ctx context.Context, stack mesh.StackName) (mesh.FileTimes, error)
	KeepFileTimes(ctx context.Context, stack mesh.StackName, t mesh.FileTimes) error
}
