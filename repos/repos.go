// Package repos keeps the bare git repositories, one for each stack: it stores the
// branches, tags and objects that pushes bring, and reads trees, submodules, Git LFS
// objects and uploaded archives.
//
// It enforces one rule: the deploy branch is derived. It points to the deployed commit,
// as returned by Options.Deployed, and is moved back there when no push is in progress.
// Other packages decide who may push and what a push does.
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

// Repos holds the bare repositories of all stacks. It may be used from several
// goroutines. Create one with Open.
type Repos struct {
	Options
	dir, home string

	names  sync.Mutex // held while a repository is renamed, and by Freeze; lock it before mu
	mu     sync.Mutex
	pushes map[mesh.StackName]int // pushes and transfers in progress

	open    *semaphore.Weighted // entries of open trees
	uploads *semaphore.Weighted // uploads of many files

	turns sync.Mutex
	turn  map[mesh.StackName]chan struct{} // holds a value while someone moves refs
}

// Options holds what Repos needs. Dir and Key are required; set Deployed before the
// first use.
type Options struct {
	Dir      string // the data directory; the repositories are in its folder repos
	Hooks    string // the folder of git's hooks; empty: Dir/hooks
	MaxInput int64  // bytes of a push, an upload, a submodule or an object of Git LFS; 0: 2 GiB
	Logger   *slog.Logger
	Egress   Egress // limits where submodules are fetched from; nil: no limit

	// Deployed returns where the deploy branch of a stack must point, or mesh.NoStack.
	// It is called with locks of Repos held and must not call Repos.
	Deployed func(ctx context.Context, stack mesh.StackName) (mesh.RepoState, error)

	// Needed returns the commits that the releases of a stack were built from; nil:
	// nothing is cleaned. The rules of Deployed apply.
	Needed func(ctx context.Context, stack mesh.StackName) ([]mesh.Commit, error)

	// Key reads the private key in a file, and creates it if it is missing.
	Key func(path string) (gossh.Signer, error)
}

// maxPacks is how many packs a repository may have before it is repacked. Each push
// adds one, and reading gets slower with their number (0.45 s with one, 0.56 s with
// 400).
const maxPacks = 50

// Open prepares the folder of the repositories and removes what a killed git may have
// left in it. It fails if git is not installed.
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
	// On a full or read-only disk nothing can be pushed, but running stacks are served.
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
	// A copy of files alone, without empty folders, such as mesh standby's, lacks some without which
	// git takes a repository for none (gitrepository-layout(5)).
	all, _ := filepath.Glob(filepath.Join(r.dir, "*.git"))
	for _, p := range all {
		for _, folder := range []string{"objects", "refs"} {
			_ = os.MkdirAll(filepath.Join(p, folder), 0o700) // what uses the repository says what is wrong
		}
	}
	return r, nil
}

func (r *Repos) path(stack mesh.StackName) string {
	return filepath.Join(r.dir, string(stack)+".git")
}

// Exists reports whether the stack has a repository.
func (r *Repos) Exists(stack mesh.StackName) bool {
	st, err := os.Stat(r.path(stack))
	return err == nil && st.IsDir()
}

// Enter makes sure that the stack has a repository, and counts one more push or
// transfer in it. Call leave when that has ended. The last leave moves the deploy
// branch back to the deployed commit, and removes the repository if the stack does not
// exist, unless keep is set because a push that creates it may follow.
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

// tidy cleans up a repository when nobody pushes. The caller holds r.mu.
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

// Ensure creates the repository of a stack if it has none.
func (r *Repos) Ensure(stack mesh.StackName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Exists(stack) {
		return nil
	}
	return r.init(stack)
}

// init creates a bare repository under another name and renames it, so that it exists
// completely or not at all.
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

// Remove deletes the repository of a stack, if it has one.
func (r *Repos) Remove(_ context.Context, stack mesh.StackName) error {
	return os.RemoveAll(r.path(stack))
}

// Rename moves the repository of a stack to its new name. It does nothing if there is
// no repository, or if the new name already has one from an earlier call.
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

// Prune removes the repositories of stacks that no longer exist. It deletes those of
// destroyed stacks, which a killed server has left. It passes unknown repositories to
// aside, which moves them out of the way: the record may be what is missing. Call it at
// start, before any push.
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
