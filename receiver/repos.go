package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"mesh"
	"mesh/hooks"
)

// Repos are the bare repositories, one per stack, below one folder. The deploy
// branch of each is derived state: it points to what is deployed, and is put back
// to that whenever no push is under way. Repos may be used from several
// goroutines.
type Repos struct {
	// Egress says from where submodules may be fetched; nil: from everywhere. It is set
	// before the first use.
	Egress Egress

	// Needed tells which commits the releases of a stack were built from; nil: nothing is
	// cleaned. It is set before the first use, and called with a lock held.
	Needed func(ctx context.Context, stack mesh.StackName) ([]mesh.Commit, error)

	dir, hooks, home string
	maxInput         int64
	log              *slog.Logger

	names  sync.Mutex // held while a repository gets another name, and by Freeze; before mu
	mu     sync.Mutex
	pushes map[mesh.StackName]int // receive-packs under way

	open    *semaphore.Weighted // entries of trees that are open
	uploads *semaphore.Weighted // uploads of many files

	turns sync.Mutex
	turn  map[mesh.StackName]chan struct{} // holds one while somebody moves refs
}

// keptRefs are commits whose deployment failed or has yet to end: their objects
// stay, so that a retry sends nothing. Clients do not see them.
const (
	keptRefs  = "refs/mesh/kept/"
	keepCount = 5
)

// maxPacks is how many packs a repository may have before they are put together:
// each push adds one, and reading gets slower with their number (0.45 s with one,
// 0.56 s with 400).
const maxPacks = 50

// OpenRepos prepares dir/repos and dir/hooks, and removes what a killed git may
// have left. It fails when there is no git.
func OpenRepos(dir string, maxInput int64, log *slog.Logger) (*Repos, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, mesh.Errorf(mesh.Unavailable, "git is not installed: %w", err).WithHint("install it, for example with: apt-get install git")
	}
	if maxInput == 0 {
		maxInput = 2 << 30
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &Repos{
		dir: filepath.Join(abs, "repos"), hooks: filepath.Join(abs, "hooks"), home: filepath.Join(abs, "hooks", ".home"),
		maxInput: maxInput, log: log, open: semaphore.NewWeighted(maxOpen), uploads: semaphore.NewWeighted(maxUploads), pushes: map[mesh.StackName]int{}, turn: map[mesh.StackName]chan struct{}{},
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, err
	}
	// Without room or on a read-only disk nothing can be pushed; what runs is served.
	err = errors.Join(hooks.Install(r.hooks), os.MkdirAll(r.home, 0o700))
	if err != nil && !mesh.NoRoom(err) {
		return nil, fmt.Errorf("install the hooks: %w", err)
	} else if err != nil {
		log.Warn("hooks not installed: pushes will fail", "err", err)
	}
	for _, glob := range []string{"*.git/objects/tmp_objdir-*", "*.git/objects/pack/tmp_*", "*.git/refs/heads/*.lock", "*.git/*.lock", "*.git/lfs/tmp/*", "*.new"} {
		left, _ := filepath.Glob(filepath.Join(r.dir, glob))
		for _, p := range left {
			if err := os.RemoveAll(p); err != nil && !mesh.NoRoom(err) {
				return nil, err
			}
		}
	}
	return r, nil
}

func (r *Repos) path(stack mesh.StackName) string {
	return filepath.Join(r.dir, string(stack)+".git")
}

// Exists tells whether the stack has a repository.
func (r *Repos) Exists(stack mesh.StackName) bool {
	st, err := os.Stat(r.path(stack))
	return err == nil && st.IsDir()
}

var gitProtocol = regexp.MustCompile(`^version=[012]$`)

// settings are given with every git, so that no file in a repository decides.
var settings = []string{
	"receive.fsckObjects=true",
	// What old histories have in them, nobody can mend, and does no harm: who and when.
	"receive.fsck.zeroPaddedFilemode=ignore",
	"receive.fsck.missingSpaceBeforeDate=ignore",
	"receive.fsck.missingSpaceBeforeEmail=ignore",
	"receive.fsck.badTimezone=ignore",
	"receive.fsck.badDate=ignore",
	"receive.fsck.badDateOverflow=ignore",
	"receive.fsck.zeroPaddedDate=ignore",
	"receive.fsck.badName=ignore",
	"receive.fsck.badEmail=ignore",
	"receive.fsck.missingEmail=ignore",
	"receive.fsck.missingNameBeforeEmail=ignore",
	"receive.fsck.missingAuthor=ignore",
	"receive.fsck.multipleAuthors=ignore",
	"receive.fsck.missingCommitter=ignore",
	"receive.fsck.missingTaggerEntry=ignore",
	"receive.fsck.badTagName=ignore",
	// A pack stays a pack: exploding one costs three times as much for large blobs.
	"receive.unpackLimit=1",
	"core.bigFileThreshold=1m",
	"receive.shallowUpdate=true",
	"receive.advertisePushOptions=true",
	"receive.autogc=false",
	"gc.auto=0",
	"transfer.hideRefs=refs/mesh",
	"receive.denyDeleteCurrent=ignore", // the update hook refuses it, in fewer words
	"receive.denyCurrentBranch=ignore",
	"uploadpack.allowAnySHA1InWant=false",
	"uploadpack.allowFilter=true", // git clone --filter=blob:none
}

// git prepares a git of the given service in the stack's repository, with an
// environment from scratch. Of what the client sent only the protocol version
// gets through: GIT_CONFIG_* and their like would run code.
func (r *Repos) git(ctx context.Context, stack mesh.StackName, client []string, service string, args ...string) *exec.Cmd {
	dir := r.path(stack)
	argv := []string{"-c", "safe.directory=" + dir, "-c", "core.hooksPath=" + r.hooks, "-c", "receive.maxInputSize=" + strconv.FormatInt(r.maxInput, 10)}
	for _, s := range settings {
		argv = append(argv, "-c", s)
	}
	switch service {
	case "receive-pack", "upload-pack":
		argv = append(argv, service, "--", dir)
	default:
		argv = append(argv, "-C", dir, service)
	}
	cmd := exec.CommandContext(ctx, "git", append(argv, args...)...)
	cmd.Dir = r.home
	cmd.Env = r.env()
	for _, kv := range client {
		if k, v, _ := strings.Cut(kv, "="); k == "GIT_PROTOCOL" && gitProtocol.MatchString(v) {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	return cmd
}

// run runs a git command to its end and returns what it printed.
func (r *Repos) run(ctx context.Context, stack mesh.StackName, args ...string) (string, error) {
	cmd := r.git(ctx, stack, nil, args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s in %s: %w: %s", args[0], stack, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// env is the whole environment of a git.
func (r *Repos) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "HOME=" + r.home,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		// What is streamed takes no memory; a commit, a tree or a delta that unpacks to
		// more is no source. git stops at it by itself (wrapper.c, memory_limit_check).
		"GIT_ALLOC_LIMIT=512m",
	}
}

// pipes opens both ends of a git that is about to be started.
func pipes(g *exec.Cmd) (stdin io.WriteCloser, stdout io.ReadCloser, err error) {
	if stdin, err = g.StdinPipe(); err != nil {
		return nil, nil, err
	}
	stdout, err = g.StdoutPipe()
	return stdin, stdout, err
}

// widen gives a pipe to git the largest buffer an unprivileged process may ask
// for: 15 % off the time of a large push.
func widen(pipe any) {
	f, ok := pipe.(interface{ Fd() uintptr })
	if !ok {
		return
	}
	_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, 1<<20)
}

// enter makes sure of the repository and counts one more push in it. leave counts
// it out; the last one resets the repository to state, or removes it when there
// is no such stack: the push that would have made it did not get that far.
func (r *Repos) enter(stack mesh.StackName) (leave func(state func() (mesh.RepoState, error)) error, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.Exists(stack) {
		if err := r.init(stack); err != nil {
			return nil, fmt.Errorf("make the repository of %s: %w", stack, err)
		}
	}
	r.pushes[stack]++
	return func(state func() (mesh.RepoState, error)) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.pushes[stack]--; r.pushes[stack] > 0 {
			return nil
		}
		delete(r.pushes, stack)
		want, err := state()
		if errors.Is(err, mesh.NoStack) {
			return os.RemoveAll(r.path(stack))
		}
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := r.Reset(ctx, stack, want); err != nil {
			return err
		}
		if packs, _ := filepath.Glob(filepath.Join(r.path(stack), "objects", "pack", "*.pack")); len(packs) > maxPacks {
			if _, err := r.run(ctx, stack, "repack", "-d", "-q", "--geometric=2"); err != nil {
				return err
			}
		}
		if err := r.clean(ctx, stack, cleanSlack); err != nil {
			r.log.Warn("a repository was not cleaned of what nothing needs", "stack", stack, "err", err)
		}
		return nil
	}, nil
}

// ensure makes the repository of a stack that has none yet.
func (r *Repos) ensure(stack mesh.StackName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Exists(stack) {
		return nil
	}
	return r.init(stack)
}

// init makes a bare repository under another name and renames it, so that there
// is none or a whole one.
func (r *Repos) init(stack mesh.StackName) error {
	dir := r.path(stack)
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	cmd := exec.CommandContext(context.Background(), "git", "init", "-q", "--bare", "--template=", "-b", "main", tmp)
	cmd.Env = r.env()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git init: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.Rename(tmp, dir)
}

// Remove deletes the repository of a stack. There may be none.
func (r *Repos) Remove(_ context.Context, stack mesh.StackName) error {
	return os.RemoveAll(r.path(stack))
}

// Rename moves the repository of a stack to its new name. Without one it does
// nothing, and neither when the new name has one: it was called before.
func (r *Repos) Rename(_ context.Context, from, to mesh.StackName) error {
	r.names.Lock()
	defer r.names.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.Exists(from) || r.Exists(to) {
		return nil
	}
	return os.Rename(r.path(from), r.path(to))
}

// Freeze makes a copy of all repositories as they are, for a backup, in a folder
// that thaw removes. It takes no room: the files are hard links. git never writes
// into a file that is there, so they stay what they are; no repository is packed
// anew meanwhile, so nothing is missing.
//
// first is called before, and no repository is renamed from then on: what it has
// seen is there.
func (r *Repos) Freeze(ctx context.Context, first func() error) (dir string, thaw func(), err error) {
	r.names.Lock()
	defer r.names.Unlock()
	if err := first(); err != nil {
		return "", nil, err
	}
	dir, err = os.MkdirTemp(r.dir, "freeze-*.new") // what a kill leaves is removed at the start
	if err != nil {
		return "", nil, full(err)
	}
	thaw = func() { _ = os.RemoveAll(dir) }
	found, err := filepath.Glob(filepath.Join(r.dir, "*.git"))
	for _, repo := range found {
		if err == nil {
			err = r.freeze(ctx, repo, filepath.Join(dir, filepath.Base(repo)))
		}
	}
	if err != nil {
		thaw()
		return "", nil, full(err)
	}
	return dir, thaw, nil
}

func (r *Repos) freeze(ctx context.Context, from, to string) error {
	r.mu.Lock() // as packing has it
	defer r.mu.Unlock()
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a push has just ended
		}
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && strings.HasPrefix(name, "tmp_objdir-"):
			return filepath.SkipDir // a push under way
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case !d.Type().IsRegular() || strings.HasSuffix(name, ".lock") || strings.HasPrefix(name, "tmp_"):
			return nil
		}
		if err := os.Link(p, filepath.Join(to, rel)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// Prune clears away the repositories of stacks that are no more. Those of destroyed
// ones are deleted: a killed server did not get to it. What nothing is known of is given
// to aside, which moves it out of the way: what is missing may be the record. It is for
// the start, before anything is pushed.
func (r *Repos) Prune(stacks []mesh.Stack, destroyed []mesh.StackName, aside func(path string) error) error {
	found, err := filepath.Glob(filepath.Join(r.dir, "*.git"))
	if err != nil {
		return err
	}
	var all []error
	for _, path := range found {
		name := mesh.StackName(strings.TrimSuffix(filepath.Base(path), ".git"))
		switch {
		case slices.ContainsFunc(stacks, func(s mesh.Stack) bool { return s.Name == name || s.Was == name }):
		case slices.Contains(destroyed, name):
			r.log.Info("removing the repository of a destroyed stack", "stack", name)
			all = append(all, os.RemoveAll(path))
		default:
			all = append(all, aside(path))
		}
	}
	return errors.Join(all...)
}

// takeTurn lets its caller move refs of a stack, alone, until it calls release. git
// moves a ref only when it stands where the pusher has seen it.
func (r *Repos) takeTurn(ctx context.Context, stack mesh.StackName) (release func(), err error) {
	r.turns.Lock()
	turn := r.turn[stack]
	if turn == nil {
		turn = make(chan struct{}, 1)
		r.turn[stack] = turn
	}
	r.turns.Unlock()
	select {
	case turn <- struct{}{}:
		return sync.OnceFunc(func() { <-turn }), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// advertised is what a pusher is shown of a repository's branches.
type advertised struct {
	state mesh.RepoState // what is deployed
	have  []mesh.Commit  // commits that clients need not send again
}

// shown is what a pusher of a stack is shown: the deploy branch at what is deployed,
// whatever git has there while pushes are under way, and no other branch. So git's
// own "up to date" is true, and a push is computed against what serves.
func (r *Repos) shown(stack mesh.StackName, state mesh.RepoState) advertised {
	have := r.kept(stack)
	if state.Commit != "" {
		st := r.storage(stack)
		defer st.Close()
		if st.HasEncodedObject(plumbing.NewHash(string(state.Commit))) != nil {
			state.Commit = "" // a repository that was emptied: everything has to be sent
		}
	}
	return advertised{state, have}
}

// countTags is how many tags a stack's repository has.
func (r *Repos) countTags(stack mesh.StackName) (n int, err error) {
	st := r.storage(stack)
	defer st.Close()
	refs, err := st.IterReferences()
	if err != nil {
		return 0, fmt.Errorf("count the tags of %s: %w", stack, err)
	}
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		if ref.Name().IsTag() {
			n++
		}
		return nil
	})
	return n, err
}

// kept returns the commits that clients need not send again.
func (r *Repos) kept(stack mesh.StackName) []mesh.Commit {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if !dirHasEntries(filepath.Join(r.path(stack), keptRefs)) {
		return nil // the usual case, without a process
	}
	out, err := r.run(ctx, stack, "for-each-ref", "--format=%(objectname)", "--sort=-committerdate", "--count="+strconv.Itoa(keepCount), keptRefs)
	if err != nil {
		r.log.Warn("kept commits not listed", "stack", stack, "err", err)
		return nil
	}
	var commits []mesh.Commit
	for id := range strings.FieldsSeq(out) {
		if c, err := mesh.ParseCommit(id); err == nil {
			commits = append(commits, c)
		}
	}
	return commits
}

func dirHasEntries(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return err == nil
}

// keep holds on to a commit that no branch will point to.
func (r *Repos) keep(ctx context.Context, stack mesh.StackName, c mesh.Commit) error {
	if _, err := r.run(ctx, stack, "update-ref", keptRefs+string(c), string(c)); err != nil {
		return err
	}
	out, err := r.run(ctx, stack, "for-each-ref", "--format=%(refname)", "--sort=-committerdate", keptRefs)
	if err != nil {
		return err
	}
	for i, ref := range strings.Fields(out) {
		if i >= keepCount && ref != keptRefs+string(c) {
			if _, err := r.run(ctx, stack, "update-ref", "-d", ref); err != nil {
				return err
			}
		}
	}
	return nil
}

// move changes a ref from old to new; either may be empty.
func (r *Repos) move(ctx context.Context, stack mesh.StackName, ref string, old, to mesh.Commit) error {
	zero := strings.Repeat("0", 40)
	was := string(old)
	if was == "" {
		was = zero
	}
	if to == "" {
		_, err := r.run(ctx, stack, "update-ref", "-d", ref, was)
		return err
	}
	_, err := r.run(ctx, stack, "update-ref", ref, string(to), was)
	return err
}

// refuse takes a commit that is not deployed off its branch again, unless
// somebody has pushed since, and keeps its objects.
func (r *Repos) refuse(ctx context.Context, stack mesh.StackName, ref mesh.RefUpdate, state mesh.RepoState) error {
	release, err := r.takeTurn(ctx, stack)
	if err != nil {
		return err
	}
	defer release()
	back := mesh.Commit("")
	if ref.Branch() == state.Branch {
		back = state.Commit
	}
	if ref.New != "" && ref.New != back {
		if err := r.keep(ctx, stack, ref.New); err != nil {
			return err
		}
	}
	head, err := r.branch(stack, ref.Branch())
	if err != nil || head != ref.New || head == back {
		return err
	}
	return r.move(ctx, stack, ref.Ref, ref.New, back)
}

// branch returns what a branch points to; empty when there is none.
func (r *Repos) branch(stack mesh.StackName, name string) (mesh.Commit, error) {
	if name == "" {
		return "", nil
	}
	heads, err := r.heads(stack)
	return heads[name], err
}

// heads reads the branches, without a process: it is done for every stack at
// start.
func (r *Repos) heads(stack mesh.StackName) (map[string]mesh.Commit, error) {
	st := r.storage(stack)
	defer st.Close()
	out := map[string]mesh.Commit{}
	refs, err := st.IterReferences()
	if err != nil {
		return nil, fmt.Errorf("read the refs of %s: %w", stack, err)
	}
	defer refs.Close()
	for {
		ref, err := refs.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the refs of %s: %w", stack, err)
		}
		if ref.Name().IsBranch() {
			out[ref.Name().Short()] = mesh.Commit(ref.Hash().String())
		}
	}
}

// Reset makes the deploy branch point to what is deployed, removes all other
// branches, and makes HEAD name the deploy branch. A stack without a repository
// is no error.
func (r *Repos) Reset(ctx context.Context, stack mesh.StackName, state mesh.RepoState) error {
	if !r.Exists(stack) {
		return nil
	}
	release, err := r.takeTurn(ctx, stack)
	if err != nil {
		return err
	}
	defer release()
	heads, err := r.heads(stack)
	if err != nil {
		return err
	}
	if state.Branch != "" {
		heads[state.Branch] += "" // the branch is looked at even when it does not exist
	}
	for name, at := range heads {
		want := mesh.Commit("")
		if name == state.Branch {
			want = state.Commit
		}
		if at == want {
			continue
		}
		if at != "" {
			if err := r.keep(ctx, stack, at); err != nil {
				return err
			}
		}
		if err := r.move(ctx, stack, "refs/heads/"+name, at, want); err != nil {
			return err
		}
	}
	if state.Branch == "" {
		return nil
	}
	want := "ref: refs/heads/" + state.Branch + "\n"
	path := filepath.Join(r.path(stack), "HEAD")
	if have, err := os.ReadFile(path); err == nil && string(have) == want {
		return nil
	}
	_, err = r.run(ctx, stack, "symbolic-ref", "HEAD", "refs/heads/"+state.Branch)
	return err
}
