package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	gossh "golang.org/x/crypto/ssh"

	"mesh"
)

const (
	// moduleRefs keep the commits of submodules, which lie in the repository of the
	// stack. Clients do not see them.
	moduleRefs = "refs/mesh/modules/"
	// deployKey is what a stack's repository is known by elsewhere.
	deployKey = "deploy_key"

	moduleDepth   = 5 // of submodules in submodules
	moduleTimeout = 10 * time.Minute
)

// moduleURL is a URL that submodules are fetched from. Others, a path of the server's
// own disk among them, are refused, and so is what git could take for an option.
var moduleURL = regexp.MustCompile(`^(?:https?|ssh|git)://[A-Za-z0-9_@\[][^\s]*$|^[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9_][A-Za-z0-9._-]*:[^\s-][^\s]*$`)

// FetchModules brings the submodules of a commit into the stack's repository, where
// Open finds them, and calls say for each that has to be fetched. It returns whether
// there was any: the tree has to be opened anew then.
func (r *Repos) FetchModules(ctx context.Context, stack mesh.StackName, commit mesh.Commit, say func(string)) (fetched bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, moduleTimeout)
	defer cancel()
	for range moduleDepth {
		t, _, release, err := r.Open(ctx, stack, commit)
		if err != nil {
			return fetched, err
		}
		missing := missingModules(t)
		urls := moduleURLs(t)
		release()
		if len(missing) == 0 {
			return fetched, nil
		}
		for _, e := range missing {
			url := urls[e.Path]
			if url == "" {
				return fetched, mesh.Errorf(mesh.Failed, "the submodule %s has no URL in .gitmodules", mesh.Clip(e.Path, 100)).
					WithHint("add it with: git submodule add URL %s, or remove it with: git rm --cached %s", mesh.Clip(e.Path, 100), mesh.Clip(e.Path, 100))
			}
			say(fmt.Sprintf("submodule %s from %s", mesh.Clip(e.Path, 100), mesh.Clip(withoutPassword(url), 200)))
			if err := r.fetchModule(ctx, stack, e, url); err != nil {
				return fetched, err
			}
			fetched = true
		}
	}
	return fetched, mesh.Errorf(mesh.Failed, "there are submodules in submodules, more than %d deep", moduleDepth)
}

// missingModules are the submodules of a tree whose commit is not here.
func missingModules(t mesh.Tree) (list []mesh.TreeEntry) {
	for _, e := range t.Entries() {
		if e.Module != "" {
			list = append(list, e)
		}
	}
	return list
}

// moduleURLs reads the .gitmodules of a tree, and of the submodules in it, by path.
func moduleURLs(t mesh.Tree) map[string]string {
	urls := map[string]string{}
	for _, e := range t.Entries() {
		if path.Base(e.Path) != ".gitmodules" || !e.Mode.IsRegular() || e.Size > 1<<20 {
			continue
		}
		f, err := t.Open(e)
		if err != nil {
			continue
		}
		var b bytes.Buffer
		_, err = b.ReadFrom(f)
		_ = f.Close()
		m := config.NewModules()
		if err != nil || m.Unmarshal(b.Bytes()) != nil {
			continue
		}
		for _, s := range m.Submodules {
			urls[path.Join(path.Dir(e.Path), s.Path)] = s.URL
		}
	}
	return urls
}

var password = regexp.MustCompile(`^([a-z]+://[^/@:]*):[^/@]*@`)

func withoutPassword(url string) string {
	return password.ReplaceAllString(url, "$1:••••••@")
}

// fetchModule gets one commit. A server that gives no commit by its id gives its
// branches and tags.
func (r *Repos) fetchModule(ctx context.Context, stack mesh.StackName, e mesh.TreeEntry, url string) error {
	shown := mesh.Clip(withoutPassword(url), 200)
	if !moduleURL.MatchString(url) {
		return mesh.Errorf(mesh.Failed, "the submodule %s cannot be fetched from %q", mesh.Clip(e.Path, 100), shown).
			WithHint("give a URL with https:// or ssh:// in .gitmodules: relative ones and files lead nowhere from here")
	}
	ref := moduleRefs + e.Module
	try := func(args ...string) ([]byte, error) {
		cmd := r.git(ctx, stack, nil, "fetch", append([]string{"--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"}, args...)...)
		key := filepath.Join(r.path(stack), deployKey)
		if _, err := os.Stat(key); err != nil {
			key = "none"
		}
		cmd.Env = append(cmd.Env, "GIT_ALLOW_PROTOCOL=http:https:ssh:git", fmt.Sprintf(
			"GIT_SSH_COMMAND=ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o IdentityFile='%s' -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile='%s' -o LogLevel=ERROR",
			key, filepath.Join(r.path(stack), "known_hosts")))
		return cmd.CombinedOutput()
	}
	out, err := try("--depth=1", "--", url, e.Module+":"+ref)
	if err != nil && ctx.Err() == nil {
		if all, aerr := try("--", url, "+refs/*:"+moduleRefs+"all/*"); aerr == nil {
			if _, err = r.run(ctx, stack, "update-ref", ref, e.Module); err != nil {
				return mesh.Errorf(mesh.Failed, "the submodule %s is at the commit %s, which %s does not have", mesh.Clip(e.Path, 100), mesh.Commit(e.Module).Short(), shown).
					WithHint("push it there first")
			}
		} else {
			out = all
		}
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	lines := strings.Split(printableLines(string(out)), "\n")
	return &mesh.Error{
		Kind: mesh.Failed, Text: fmt.Sprintf("the submodule %s cannot be fetched from %s", mesh.Clip(e.Path, 100), shown), Output: lines, Err: err,
		Hint: fmt.Sprintf("if it is private, let this key read it, and give an ssh:// URL in .gitmodules: ssh mesh git:deploy-key -a %s", stack),
	}
}

// printableLines are the last lines of what git has said.
func printableLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for i, l := range lines {
		lines[i] = printable(withoutPassword(l))
	}
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// DeployKey returns the public key that a stack's repository shows where submodules
// are fetched from, and makes it when there is none.
func (r *Repos) DeployKey(_ context.Context, stack mesh.StackName) (string, error) {
	if err := r.ensure(stack); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key, err := HostKey(filepath.Join(r.path(stack), deployKey))
	if err != nil {
		return "", fmt.Errorf("the deploy key of %s: %w", stack, err)
	}
	return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(key.PublicKey()))) + " mesh-" + string(stack), nil
}

// moduleTree is the tree of a submodule's commit, when that is here.
func (s *storage) moduleTree(id plumbing.Hash) (plumbing.Hash, bool, error) {
	c, err := s.commit(id)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return plumbing.ZeroHash, false, nil
	}
	if err != nil {
		return plumbing.ZeroHash, false, err
	}
	return c.TreeHash, true, nil
}
