package deploytest

import (
	"context" //nolint:gosec // ids as git has them
	"fmt"
	"sync"

	"mesh"
)

// Repos are repositories in memory.
type Repos struct {
	mu       sync.Mutex
	deployed func(context.Context, mesh.StackName) (mesh.RepoState, error)
	n        int
	trees    map[mesh.Commit]map[string]string
	heads    map[mesh.StackName]mesh.RepoState
	open     int
	forge    map[string]mesh.Commit // by branch

	Fetched  []string // the branches that Fetch was called for
	FetchErr error    // what Fetch and MayFetch fail with
	// FetchFunc is called when a branch has been fetched; its error is Fetch's.
	FetchFunc func(branch string) error
}

// NewRepos returns an empty Repos.
func NewRepos() *Repos {
	return &Repos{trees: map[mesh.Commit]map[string]string{}, heads: map[mesh.StackName]mesh.RepoState{}}
}

// Commit adds a commit and moves main to it.
func (r *Repos) Commit(stack mesh.StackName, files map[string]string) mesh.Push {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	c := mesh.Commit(fmt.Sprintf("%040x", 0xa000000000000000+uint64(r.n)<<8))
	c = mesh.Commit(fmt.Sprintf("%07d", r.n) + string(c)[7:])
	r.trees[c] = files
	r.heads[stack] = mesh.RepoState{Branch: "main", Commit: c}
	return mesh.Push{Stack: stack, By: "laptop", Branch: "main", Commit: c}
}

// Subject returns the number of the commit.
func (r *Repos) Subject(_ context.Context, stack mesh.StackName, c mesh.Commit) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.trees[c]; !ok {
		return "", fmt.Errorf("no commit %s in %s", c, stack)
	}
	return "Commit " + c.Short(), nil
}

// Open opens a commit. The first line of its message is its number.
func (r *Repos) Open(_ context.Context, stack mesh.StackName, c mesh.Commit) (mesh.Tree, string, func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	files, ok := r.trees[c]
	if !ok {
		return nil, "", nil, fmt.Errorf("no commit %s in %s", c, stack)
	}
	r.open++
	release := sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.open--
	})
	return Tree(files), "Commit " + c.Short(), release, nil
}

// FetchModules finds no submodules.
func (r *Repos) FetchModules(context.Context, mesh.StackName, mesh.Commit, func(string)) (bool, error) {
	return false, nil
}

// Fetch returns what Elsewhere has set.
func (r *Repos) Fetch(_ context.Context, stack mesh.StackName, _, branch string) (mesh.Commit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Fetched = append(r.Fetched, branch)
	if r.FetchErr != nil {
		return "", r.FetchErr
	}
	if _, ok := r.heads[stack]; !ok {
		r.heads[stack] = mesh.RepoState{}
	}
	c := r.forge[branch]
	if fn := r.FetchFunc; fn != nil {
		r.mu.Unlock()
		err := fn(branch)
		r.mu.Lock()
		return c, err
	}
	return c, nil
}

// MayFetch returns FetchErr.
func (r *Repos) MayFetch(context.Context, string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.FetchErr
}

// Elsewhere adds a commit to a branch of the repository that stacks follow; without files
// it deletes the branch.
func (r *Repos) Elsewhere(branch string, files map[string]string) mesh.Commit {
	r.mu.Lock()
	defer r.mu.Unlock()
	if files == nil {
		delete(r.forge, branch)
		return ""
	}
	r.n++
	c := mesh.Commit(fmt.Sprintf("%07d", r.n) + fmt.Sprintf("%040x", uint64(0xb000000000000000)+uint64(r.n)<<8)[7:])
	r.trees[c] = files
	if r.forge == nil {
		r.forge = map[string]mesh.Commit{}
	}
	r.forge[branch] = c
	return c
}

// Derive sets the function that returns where the deploy branch must point.
func (r *Repos) Derive(deployed func(context.Context, mesh.StackName) (mesh.RepoState, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deployed = deployed
}

// ResetBranch moves the deploy branch to where the latest Deployer says.
func (r *Repos) ResetBranch(ctx context.Context, stack mesh.StackName) error {
	r.mu.Lock()
	deployed := r.deployed
	r.mu.Unlock()
	state, err := deployed(ctx, stack)
	if err == nil {
		r.Move(stack, state)
	}
	return err
}

// Move moves the deploy branch of a stack that has a repository.
func (r *Repos) Move(stack mesh.StackName, state mesh.RepoState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.heads[stack]; ok {
		r.heads[stack] = state
	}
}

// Rename moves a repository.
func (r *Repos) Rename(_ context.Context, from, to mesh.StackName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, done := r.heads[to]; done {
		return nil
	}
	if h, ok := r.heads[from]; ok {
		r.heads[to] = h
		delete(r.heads, from)
	}
	return nil
}

// Remove removes a repository.
func (r *Repos) Remove(_ context.Context, stack mesh.StackName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.heads, stack)
	return nil
}

// Head returns the commit of the deploy branch.
func (r *Repos) Head(stack mesh.StackName) mesh.Commit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heads[stack].Commit
}

// Heads returns the commits of the branches.
func (r *Repos) Heads(stack mesh.StackName) map[string]mesh.Commit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heads[stack].Heads()
}

// Left returns the number of trees that nobody has closed.
func (r *Repos) Left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}
