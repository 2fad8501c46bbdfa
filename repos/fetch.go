package repos

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"mesh"
)

// fetchTime limits how long a fetch may take.
const fetchTime = 10 * time.Minute

// Fetch fetches a branch of another repository, with the stack's deploy key, and returns its
// commit; empty: there is no such branch. The commit is kept for the next pushes and
// fetches, but no branch moves. It returns a *mesh.Error if the other end refuses.
func (r *Repos) Fetch(ctx context.Context, stack mesh.StackName, url, branch string) (mesh.Commit, error) {
	if err := mesh.CheckBranch(branch); err != nil {
		return "", err // git would read it as something else
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	if err := r.Ensure(stack); err != nil {
		return "", err
	}
	to, stop, err := r.reach(ctx, stack, url)
	if err != nil {
		return "", err
	}
	defer stop()
	to.set = append(to.set, "remote.forge.url="+to.url)
	ref := "refs/heads/" + branch
	out, err := r.elsewhere(ctx, stack, to, "ls-remote", "--quiet", "forge", ref)
	if err != nil {
		return "", fetchFault(ctx, stack, url, out, err)
	}
	at := ""
	for line := range strings.Lines(string(out)) {
		if id, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && name == ref { // ls-remote matches the ends of names
			at = id
		}
	}
	if at == "" {
		return "", nil
	}
	commit, err := mesh.ParseCommit(at)
	if err != nil {
		return "", fmt.Errorf("fetch %s of %s: %w", branch, stack, err)
	}
	out, err = r.fetch(ctx, stack, to, "forge", ref)
	if err != nil {
		return "", fetchFault(ctx, stack, url, out, err)
	}
	st := r.storage(stack)
	defer st.Close()
	here, err := st.has(commit)
	if err == nil && !here {
		err = mesh.Errorf(mesh.Unavailable, "%s of %s has moved while it was fetched", branch, shownURL(url))
	}
	if err != nil {
		return "", err
	}
	if err := r.Weigh(ctx, stack, commit); err != nil {
		return "", err
	}
	return commit, r.keep(ctx, stack, commit)
}

// fetch fetches from another repository, and returns what git says if that fails.
func (r *Repos) fetch(ctx context.Context, stack mesh.StackName, to origin, args ...string) ([]byte, error) {
	return r.elsewhere(ctx, stack, to, "fetch", append([]string{"--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"}, args...)...)
}

// elsewhere runs a git command that speaks with another repository, and returns its output.
func (r *Repos) elsewhere(ctx context.Context, stack mesh.StackName, to origin, service string, args ...string) ([]byte, error) {
	to.set = append(to.set, "fetch.fsckObjects=true")
	for _, s := range settings {
		if rest, ok := strings.CutPrefix(s, "receive.fsck."); ok {
			to.set = append(to.set, "fetch.fsck."+rest)
		}
	}
	cmd := r.Git(ctx, stack, nil, service, args...)
	limitFiles(cmd, r.MaxInput)
	cmd.Env = append(cmd.Env, to.env...)
	cmd.Env = append(cmd.Env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(to.set)))
	for i, s := range to.set {
		k, v, _ := strings.Cut(s, "=")
		cmd.Env = append(cmd.Env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, k), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, v))
	}
	return output(cmd)
}

// output returns what a command prints, with its messages if it fails.
func output(cmd *exec.Cmd) ([]byte, error) {
	var messages strings.Builder
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		out = []byte(messages.String())
	}
	return out, err
}

// fetchFault explains why a repository cannot be fetched.
func fetchFault(ctx context.Context, stack mesh.StackName, url string, out []byte, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch text := string(out); {
	case strings.Contains(text, "fsck error"): // git's own words, in index-pack and unpack-objects
		return &mesh.Error{Kind: mesh.Invalid, Text: "git refuses an object of " + shownURL(url), Output: strings.Split(printableLines(text), "\n"), Err: err, Hint: "find it with: git fsck --strict"}
	case strings.Contains(text, "File too large"), strings.Contains(text, "signal 25"), strings.Contains(text, "File size limit exceeded"): // limitFiles: SIGXFSZ
		return mesh.Errorf(mesh.Invalid, "%s is larger than a push may be: %w", shownURL(url), err)
	}
	return &mesh.Error{
		Kind: mesh.Unavailable, Text: "the repository cannot be fetched from " + shownURL(url), Output: strings.Split(printableLines(string(out)), "\n"), Err: err,
		Hint: fmt.Sprintf("if it is private, use its ssh URL, and give this key read access there: ssh mesh git:deploy-key -a %s", stack),
	}
}
