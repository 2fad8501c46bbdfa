// Package repos keeps the bare git repositories, one for each stack: the branches,
// tags and objects that pushes bring, and what is read out of them again: the tree of a
// commit, submodules, the objects of Git LFS, uploaded archives.
//
// It is the one home of a rule: the deploy branch is derived. It points to the commit
// that is deployed, which Options.Deployed tells, and is put back there whenever no push
// is under way. Who may push, and what a push sets in motion, is decided elsewhere.
//
//	r, err := repos.Open(repos.Options{Dir: dir, Deployed: deployer.RepoState, …})
//	leave, err := r.Enter("shop", false) // around a push
//	tree, subject, release, err := r.Open(ctx, "shop", commit)
package repos

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sync/semaphore"

	"mesh"
)

// Repos are the bare repositories of all stacks. They may be used from several
// goroutines. Make them with Open.
type Repos struct {
	Options
	dir, home string

	names  sync.Mutex // held while a repository gets another name, and by Freeze; before mu
	mu     sync.Mutex
	pushes map[mesh.StackName]int // pushes and transfers under way

	open    *semaphore.Weighted // entries of trees that are open
	uploads *semaphore.Weighted // uploads of many files

	turns sync.Mutex
	turn  map[mesh.StackName]chan struct{} // holds one while somebody moves refs
}

// Options is what Repos need. Dir and Key must be set, and Deployed before the first use.
type Options struct {
	Dir      string // the data directory; the repositories are in its folder repos
	Hooks    string // the folder of git's hooks; empty: Dir/hooks
	MaxInput int64  // bytes of a push, an upload, a submodule or an object of Git LFS; 0: 2 GiB
	Logger   *slog.Logger
	Egress   Egress // limits where submodules are fetched from; nil: no limit

	// Deployed returns what the deploy branch of a stack must point to, or an error that
	// is mesh.NoStack. It is called with locks of Repos held and must not call Repos.
	Deployed func(ctx context.Context, stack mesh.StackName) (mesh.RepoState, error)

	// Needed returns the commits that the releases of a stack were built from; nil:
	// nothing is cleaned. It is called as Deployed is.
	Needed func(ctx context.Context, stack mesh.StackName) ([]mesh.Commit, error)

	// Key reads the private key in a file, which it creates when it is missing.
	Key func(path string) (gossh.Signer, error)
}

// maxPacks is how many packs a repository may have before they are put together:
// each push adds one, and reading gets slower with their number (0.45 s with one,
// 0.56 s with 400).
const maxPacks = 50

// Open prepares the folder of the repositories and removes what a killed git may have
// left in it. It fails when git is not installed.
func Open(o Options) (*Repos, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, mesh.Errorf(mesh.Unavailable, "git is not installed: %w", err).WithHint("install it, for example with: apt-get install git")
	}
	abs, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	o.MaxInput = cmp.Or(o.MaxInput, 2<<30)
	o.Hooks = cmp.Or(o.Hooks, filepath.Join(abs, "hooks"))
	r := &Repos{
		Options: o, dir: filepath.Join(abs, "repos"), home: filepath.Join(o.Hooks, ".home"),
		open: semaphore.NewWeighted(maxOpen), uploads: semaphore.NewWeighted(maxUploads),
		pushes: map[mesh.StackName]int{}, turn: map[mesh.StackName]chan struct{}{},
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, err
	}
	// On a disk that is full or read-only nothing can be pushed; what runs is served.
	if err := os.MkdirAll(r.home, 0o700); err != nil && !mesh.NoRoom(err) {
		return nil, err
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

// Enter makes sure that the stack has a repository, and counts one more push or
// transfer in it. leave must be called when that is over: the last one out puts the
// deploy branch back to what is deployed, and removes the repository when there is no
// such stack, unless keep says that a push which creates it may follow.
func (r *Repos) Enter(stack mesh.StackName, keep bool) (leave func(context.Context) error, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.Exists(stack) {
		if err := r.init(stack); err != nil {
			return nil, fmt.Errorf("create the repository of %s: %w", stack, err)
		}
	}
	r.pushes[stack]++
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.pushes[stack]--; r.pushes[stack] > 0 {
			return nil
		}
		delete(r.pushes, stack)
		return r.tidy(ctx, stack, keep)
	}, nil
}

// tidy leaves a repository as it has to be while nobody pushes. r.mu is held.
func (r *Repos) tidy(ctx context.Context, stack mesh.StackName, keep bool) error {
	err := r.ResetBranch(ctx, stack)
	if errors.Is(err, mesh.NoStack) {
		if keep {
			return nil
		}
		return os.RemoveAll(r.path(stack))
	}
	if err != nil {
		return err
	}
	if packs, _ := filepath.Glob(filepath.Join(r.path(stack), "objects", "pack", "*.pack")); len(packs) > maxPacks {
		if _, err := r.run(ctx, stack, "repack", "-d", "-q", "--geometric=2"); err != nil {
			return err
		}
	}
	if err := r.clean(ctx, stack, cleanSlack); err != nil {
		r.Logger.Warn("repository not cleaned of unused objects", "stack", stack, "err", err)
	}
	return nil
}

// Ensure creates the repository of a stack that has none yet.
func (r *Repos) Ensure(stack mesh.StackName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Exists(stack) {
		return nil
	}
	return r.init(stack)
}

// init creates a bare repository under another name and renames it, so that there
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
			r.Logger.Info("removing the repository of a destroyed stack", "stack", name)
			all = append(all, os.RemoveAll(path))
		default:
			all = append(all, aside(path))
		}
	}
	return errors.Join(all...)
}
