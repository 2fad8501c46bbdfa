// Package repostest makes git repositories for tests, with the machine's git.
package repostest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mesh"
)

// Checkout is a working copy with its own repository. Use it from one goroutine at a time.
type Checkout struct {
	T    *testing.T
	Dir  string
	tick int
}

// New returns an empty checkout whose branch is main.
func New(t *testing.T) *Checkout {
	t.Helper()
	c := &Checkout{T: t, Dir: t.TempDir()}
	c.Git("init", "-q", "-b", "main")
	return c
}

// Git runs git in the checkout and returns what it printed. Each call is a second later
// than the one before: commits sort by their dates.
func (c *Checkout) Git(args ...string) string {
	c.T.Helper()
	cmd := exec.CommandContext(c.T.Context(), "git", args...)
	cmd.Dir = c.Dir
	c.tick++
	date := time.Date(2026, 1, 1, 0, 0, c.tick, 0, time.UTC).Format(time.RFC3339) // commits sort by it
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.Dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=file",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.T.Fatalf("git %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Write creates a file, with its folders.
func (c *Checkout) Write(name string, data []byte, mode fs.FileMode) {
	c.T.Helper()
	path := filepath.Join(c.Dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, mode)); err != nil {
		c.T.Fatal(err)
	}
}

// Commit commits all files and returns the commit.
func (c *Checkout) Commit(message string) mesh.Commit {
	c.T.Helper()
	c.Git("add", "-A")
	c.Git("commit", "-q", "--allow-empty", "--cleanup=verbatim", "-m", message)
	return mesh.Commit(c.Git("rev-parse", "HEAD"))
}

// Object writes one git object as it is, valid or not, and returns its id.
func (c *Checkout) Object(kind string, content string) string {
	c.T.Helper()
	cmd := exec.CommandContext(c.T.Context(), "git", "hash-object", "-t", kind, "-w", "--stdin", "--literally")
	cmd.Dir, cmd.Stdin = c.Dir, strings.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		c.T.Fatalf("hash-object: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// Tree writes a tree of n entries, prefix000000 and so on, that all are the same object.
func (c *Checkout) Tree(n int, mode, kind, id, prefix string) string {
	c.T.Helper()
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "%s %s %s\t%s%06d\n", mode, kind, id, prefix, i)
	}
	cmd := exec.CommandContext(c.T.Context(), "git", "mktree")
	cmd.Dir, cmd.Stdin = c.Dir, &b
	out, err := cmd.Output()
	if err != nil {
		c.T.Fatalf("mktree: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// Nest puts a tree into depth folders, one in the other.
func (c *Checkout) Nest(tree, name string, depth int) string {
	for range depth {
		tree = c.Tree(1, "040000", "tree", tree, name)
	}
	return tree
}
