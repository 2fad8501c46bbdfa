package receiver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"mesh"
)

// pushes is a Deployer that deploys by saying so.
type pushes struct {
	admit func(mesh.RefUpdate) error
	push  func(ctx context.Context, p mesh.Push, out io.Writer) error

	mu    sync.Mutex
	made  bool
	state mesh.RepoState
	got   []mesh.Push
	tags  []string
}

func (d *pushes) AdmitPush(context.Context, mesh.Key, mesh.StackName) error { return nil }

func (d *pushes) AdmitRef(_ context.Context, _ mesh.Key, _ mesh.StackName, ref mesh.RefUpdate) error {
	if d.admit != nil {
		return d.admit(ref)
	}
	return nil
}

func (d *pushes) Push(ctx context.Context, p mesh.Push, out io.Writer) error {
	d.mu.Lock()
	d.got, d.made = append(d.got, p), true
	d.mu.Unlock()
	fmt.Fprintf(out, "-----> deploying %s\n", p.Branch)
	if d.push != nil {
		if err := d.push(ctx, p, out); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !p.DryRun {
		d.state = mesh.RepoState{Branch: p.Branch, Commit: p.Commit}
	}
	return nil
}

func (d *pushes) TagImage(_ context.Context, _ mesh.StackName, c mesh.Commit, tag string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tags = append(d.tags, tag+" "+string(c))
	return "tag " + tag + " named"
}

func (d *pushes) RepoState(context.Context, mesh.StackName) (mesh.RepoState, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.made {
		return mesh.RepoState{}, mesh.Errorf(mesh.NoStack, "no stack")
	}
	return d.state, nil
}

func (d *pushes) Follow(context.Context, mesh.StackName, mesh.Commit, io.Writer) (bool, error) {
	return false, nil
}

// remote is a checkout whose remote is a server of its own.
type remote struct {
	*work
	d     *pushes
	repos *Repos
	env   []string
}

func newRemote(t *testing.T) *remote {
	t.Helper()
	d := &pushes{}
	repos := openRepos(t)
	s := serve(t, func(o *Options) {
		o.Repos, o.Deployer = repos, d
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	})
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	s.keys.add("laptop", mesh.RoleDeploy, k)
	host, port, _ := net.SplitHostPort(s.addr)
	w := newWork(t)
	w.git("remote", "add", "mesh", "ssh://mesh@"+net.JoinHostPort(host, port)+"/blog")
	return &remote{w, d, repos, []string{
		"GIT_SSH_COMMAND=ssh -F none -i " + key + " -o IdentitiesOnly=yes -o IdentityAgent=none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "PATH=" + os.Getenv("PATH"), "HOME=" + w.dir,
	}}
}

func (r *remote) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = r.dir, r.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestPush_LiveAndRejected(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	one := r.commit("one")
	if out, err := r.try("push", "mesh", "main"); err != nil || !strings.Contains(out, "remote: -----> deploying main") {
		t.Fatalf("%v\n%s", err, out)
	}
	two := r.commit("two")
	r.d.push = func(context.Context, mesh.Push, io.Writer) error { return mesh.Errorf(mesh.Failed, "build failed: oh") }
	out, err := r.try("push", "mesh", "main")
	if err == nil || !strings.Contains(out, "! [remote rejected] main -> main (build failed: oh)") {
		t.Errorf("%v\n%s", err, out)
	}
	if got := refs(t, r.repos); got["refs/heads/main"] != one || got[keptRefs+string(two)] != two {
		t.Errorf("refs are %v", got)
	}
	if out, err := r.try("ls-remote", "mesh"); err != nil || strings.Contains(out, "refs/mesh") || !strings.Contains(out, string(one)+"\trefs/heads/main") {
		t.Errorf("%v\n%s", err, out)
	}
	r.d.push = nil
	if out, err := r.try("push", "mesh", "main"); err != nil {
		t.Errorf("the same again: %v\n%s", err, out)
	}
	if len(r.d.got) != 3 || r.d.got[2].Commit != two || r.d.got[2].By != "laptop" {
		t.Errorf("deployed %+v", r.d.got)
	}
}

func TestPush_Options(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.commit("one")
	if out, err := r.try("push", "-o", "no-cache", "-o", "dry-run", "mesh", "main"); err != nil || !r.d.got[0].NoCache || !r.d.got[0].DryRun {
		t.Errorf("%v\n%s", err, out)
	}
	if got := refs(t, r.repos); got["refs/heads/main"] != "" {
		t.Errorf("a dry run moved the branch: %v", got)
	}
	if out, err := r.try("push", "-o", "nonsense", "mesh", "main"); err == nil || !strings.Contains(out, `there is no push option "nonsense"`) || len(r.d.got) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	// It failed the hook and left the push waiting for ever.
	if out, err := r.try("push", "-o", strings.Repeat("x", 20_000), "mesh", "main"); err == nil || !strings.Contains(out, "remote rejected") || len(r.d.got) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPush_RefusedBranchIsNotDeployed(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.commit("one")
	r.d.admit = func(ref mesh.RefUpdate) error {
		if ref.Branch() == "feat" {
			return mesh.Errorf(mesh.Denied, "blog deploys main only").WithHint("git push mesh feat:main")
		}
		return nil
	}
	out, err := r.try("push", "mesh", "main:feat", "main:main")
	if err == nil || !strings.Contains(out, "main -> feat (blog deploys main only)") || !strings.Contains(out, "git push mesh feat:main") || !strings.Contains(out, "[new branch]      main -> main") {
		t.Errorf("%v\n%s", err, out)
	}
	if len(r.d.got) != 1 || r.d.got[0].Branch != "main" {
		t.Errorf("deployed %+v", r.d.got)
	}
}

func TestPush_TagsFollowTheBranch(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	c := r.commit("one")
	r.git("tag", "-a", "-m", "x", "v1")
	if out, err := r.try("push", "--atomic", "mesh", "main", "v1"); err != nil || !strings.Contains(out, "tag v1 named") || len(r.d.tags) != 1 || r.d.tags[0] != "v1 "+string(c) {
		t.Errorf("%v, %v\n%s", err, r.d.tags, out)
	}
	r.commit("two")
	r.git("tag", "v2")
	r.d.push = func(context.Context, mesh.Push, io.Writer) error { return mesh.Errorf(mesh.Failed, "check failed") }
	if out, err := r.try("push", "--atomic", "mesh", "main", "v2"); err == nil || !strings.Contains(out, "v2 -> v2 (atomic push failure)") || refs(t, r.repos)["refs/tags/v2"] != "" {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := r.try("push", "mesh", "main", "v2"); err == nil || refs(t, r.repos)["refs/tags/v2"] == "" {
		t.Errorf("a tag by itself is stored: %v\n%s", err, out)
	}
}

// The first of two branches fails; with --atomic nothing may pass.
func TestPush_AtomicWithTwoBranches(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.commit("one")
	r.git("tag", "v1")
	r.d.push = func(_ context.Context, p mesh.Push, _ io.Writer) error {
		if p.Branch == "a" {
			return mesh.Errorf(mesh.Failed, "build failed")
		}
		return nil
	}
	out, err := r.try("push", "--atomic", "mesh", "main:a", "main:b", "v1")
	if err == nil || strings.Contains(out, "[new") || len(r.d.got) != 1 {
		t.Errorf("%v, deployed %+v\n%s", err, r.d.got, out)
	}
	if got := refs(t, r.repos); got["refs/heads/a"]+got["refs/heads/b"]+got["refs/tags/v1"] != "" {
		t.Errorf("refs are %v", got)
	}
}

func TestPush_HangUpCancels(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.commit("one")
	began, ended := make(chan struct{}), make(chan error, 1)
	r.d.push = func(ctx context.Context, _ mesh.Push, _ io.Writer) error {
		close(began)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return context.Cause(ctx)
	}
	cmd := exec.CommandContext(t.Context(), "git", "push", "mesh", "main")
	cmd.Dir, cmd.Env = r.dir, r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	within(t, began, "the deployment")
	// As a Ctrl-C does: git and its ssh.
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	within(t, ended, "the deployment's end")
	// What is left is as if nothing had been pushed, and the next push works.
	r.d.push = nil
	if out, err := r.try("push", "mesh", "main"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
