package receiver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"mesh"
	"mesh/hooks"
	"mesh/repos"
	"mesh/repos/repostest"
)

// pushes is a Deployer that only prints what it deploys.
type pushes struct {
	admit func(mesh.RefUpdate) error
	push  func(ctx context.Context, p mesh.Push, out io.Writer) error

	follow func(mesh.Commit, io.Writer) (bool, error)

	mu    sync.Mutex
	made  bool
	fail  error // of RepoState
	state mesh.RepoState
	got   []mesh.Push
	tags  []string
}

// set changes what the deployer does: sessions of earlier pushes may still be ending.
func (d *pushes) set(change func(*pushes)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *pushes) AdmitPush(context.Context, mesh.Key, mesh.StackName) error { return nil }

func (d *pushes) AdmitRef(_ context.Context, _ mesh.Key, _ mesh.StackName, ref mesh.RefUpdate) error {
	d.mu.Lock()
	admit := d.admit
	d.mu.Unlock()
	if admit != nil {
		return admit(ref)
	}
	return nil
}

func (d *pushes) Push(ctx context.Context, p mesh.Push, out io.Writer) error {
	d.mu.Lock()
	d.got, d.made = append(d.got, p), true
	push := d.push
	d.mu.Unlock()
	fmt.Fprintf(out, "-----> deploying %s\n", p.Branch)
	if push != nil {
		if err := push(ctx, p, out); err != nil {
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

func (d *pushes) TagImages(_ context.Context, _ mesh.StackName, tags []mesh.Tag) (lines []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range tags {
		d.tags = append(d.tags, t.Name+" "+string(t.Commit))
		lines = append(lines, "tag "+t.Name+" named")
	}
	return lines
}

func (d *pushes) RepoState(context.Context, mesh.StackName) (mesh.RepoState, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return mesh.RepoState{}, d.fail
	}
	if !d.made {
		return mesh.RepoState{}, mesh.Errorf(mesh.NoStack, "no stack")
	}
	return d.state, nil
}

func (d *pushes) Follow(_ context.Context, _ mesh.StackName, _ string, c mesh.Commit, out io.Writer) (bool, error) {
	d.mu.Lock()
	follow := d.follow
	d.mu.Unlock()
	if follow != nil {
		return follow(c, out)
	}
	return false, nil
}

func (d *pushes) RepositoryOf(_ context.Context, stack mesh.StackName) (mesh.StackName, error) {
	return stack, nil
}

func (d *pushes) EndPreview(_ context.Context, _ mesh.StackName, branch string, _ mesh.KeyName, out io.Writer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.state.Previews, branch)
	_, err := fmt.Fprintf(out, "=====> Destroyed the preview %s\n", branch)
	return err
}

// remote is a checkout with a remote on its own server.
type remote struct {
	*repostest.Checkout
	d     *pushes
	repos *repos.Repos
	env   []string
	recv  *Receiver
	port  string

	fingerprint string // of the pusher's key
}

// openRepos opens repositories with git's hooks, as a server does.
func openRepos(t *testing.T, deployed func(context.Context, mesh.StackName) (mesh.RepoState, error)) *repos.Repos {
	t.Helper()
	dir := t.TempDir()
	if err := hooks.Install(filepath.Join(dir, "hooks")); err != nil {
		t.Fatal(err)
	}
	r, err := repos.Open(repos.Options{Dir: dir, Deployed: deployed, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// keptRefs is where repos keeps refused commits.
const keptRefs = "refs/mesh/kept/"

func refs(t *testing.T, r *repos.Repos) map[string]mesh.Commit {
	t.Helper()
	out, err := r.Git(t.Context(), "blog", nil, "for-each-ref", "--format=%(refname) %(objectname)").Output()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]mesh.Commit{}
	for l := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), " ")
		m[k] = mesh.Commit(v)
	}
	return m
}

func newRemote(t *testing.T) *remote {
	t.Helper()
	d := &pushes{}
	bare := openRepos(t, d.RepoState)
	s := serve(t, func(o *Options) {
		o.Repos, o.Deployer = bare, d
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
	w := repostest.New(t)
	w.Git("remote", "add", "mesh", "ssh://mesh@"+net.JoinHostPort(host, port)+"/blog")
	return &remote{w, d, bare, []string{
		"GIT_SSH_COMMAND=ssh -F none -i " + key + " -o IdentitiesOnly=yes -o IdentityAgent=none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "PATH=" + os.Getenv("PATH"), "HOME=" + w.Dir,
	}, s.r, port, ssh.FingerprintSHA256(k.PublicKey())}
}

func (r *remote) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(r.T.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = r.Dir, r.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestPush_LiveAndRejected(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	one := r.Commit("one")
	if out, err := r.try("push", "mesh", "main"); err != nil || !strings.Contains(out, "remote: -----> deploying main") {
		t.Fatalf("%v\n%s", err, out)
	}
	two := r.Commit("two")
	r.d.set(func(d *pushes) {
		d.push = func(context.Context, mesh.Push, io.Writer) error { return mesh.Errorf(mesh.Failed, "build failed: oh") }
	})
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
	r.d.set(func(d *pushes) { d.push = nil })
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
	r.Commit("one")
	if out, err := r.try("push", "-o", "no-cache", "-o", "dry-run", "mesh", "main"); err != nil || !r.d.got[0].NoCache || !r.d.got[0].DryRun {
		t.Errorf("%v\n%s", err, out)
	}
	if got := refs(t, r.repos); got["refs/heads/main"] != "" {
		t.Errorf("a dry run moved the branch: %v", got)
	}
	if out, err := r.try("push", "-o", "nonsense", "mesh", "main"); err == nil || !strings.Contains(out, `there is no push option "nonsense"`) || len(r.d.got) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	// Such an option made the hook fail and left the push waiting forever.
	if out, err := r.try("push", "-o", strings.Repeat("x", 20_000), "mesh", "main"); err == nil || !strings.Contains(out, "remote rejected") || len(r.d.got) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPush_RefusedBranchIsNotDeployed(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.Commit("one")
	admitFunc := func(ref mesh.RefUpdate) error {
		if ref.Branch() == "feat" {
			return mesh.Errorf(mesh.Denied, "blog deploys main only").WithHint("git push mesh feat:main")
		}
		return nil
	}
	r.d.set(func(d *pushes) { d.admit = admitFunc })
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
	c := r.Commit("one")
	r.Git("tag", "-a", "-m", "x", "v1")
	if out, err := r.try("push", "--atomic", "mesh", "main", "v1"); err != nil || !strings.Contains(out, "tag v1 named") || len(r.d.tags) != 1 || r.d.tags[0] != "v1 "+string(c) {
		t.Errorf("%v, %v\n%s", err, r.d.tags, out)
	}
	r.Commit("two")
	r.Git("tag", "v2")
	r.d.set(func(d *pushes) {
		d.push = func(context.Context, mesh.Push, io.Writer) error { return mesh.Errorf(mesh.Failed, "check failed") }
	})
	if out, err := r.try("push", "--atomic", "mesh", "main", "v2"); err == nil || !strings.Contains(out, "v2 -> v2 (atomic push failure)") || refs(t, r.repos)["refs/tags/v2"] != "" {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := r.try("push", "mesh", "main", "v2"); err == nil || refs(t, r.repos)["refs/tags/v2"] == "" {
		t.Errorf("a tag by itself is stored: %v\n%s", err, out)
	}
}

// The first of two branches fails; with --atomic neither may be accepted.
func TestPush_AtomicWithTwoBranches(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.Commit("one")
	r.Git("tag", "v1")
	pushFunc := func(_ context.Context, p mesh.Push, _ io.Writer) error {
		if p.Branch == "a" {
			return mesh.Errorf(mesh.Failed, "build failed")
		}
		return nil
	}
	r.d.set(func(d *pushes) { d.push = pushFunc })
	out, err := r.try("push", "--atomic", "mesh", "main:a", "main:b", "v1")
	if err == nil || strings.Contains(out, "[new") || len(r.d.got) != 1 {
		t.Errorf("%v, deployed %+v\n%s", err, r.d.got, out)
	}
	if got := refs(t, r.repos); got["refs/heads/a"]+got["refs/heads/b"]+got["refs/tags/v1"] != "" {
		t.Errorf("refs are %v", got)
	}
}

// A cancelled deployment ends when the engine lets it. Its verdict reaches the pusher,
// who is still connected, however long that takes.
func TestPush_SlowEndHasItsVerdict(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.Commit("one")
	began := make(chan struct{})
	r.d.set(func(d *pushes) {
		d.push = func(ctx context.Context, _ mesh.Push, _ io.Writer) error {
			close(began)
			<-ctx.Done()
			slow := time.NewTimer(closeGrace + 2*time.Second) // longer than git has without a hook
			defer slow.Stop()
			<-slow.C
			return mesh.Errorf(mesh.Cancelled, "%v", context.Cause(ctx))
		}
	})
	pushed := make(chan string, 1)
	go func() {
		out, _ := r.try("push", "mesh", "main")
		pushed <- out
	}()
	within(t, began, "the deployment")
	r.recv.EndSessions(r.fingerprint)
	if out := within(t, pushed, "the end of the push"); !strings.Contains(out, "main -> main (the key has been removed)") {
		t.Errorf("the pusher was told:\n%s", out)
	}
}

func TestPush_HangUpCancels(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.Commit("one")
	began, ended := make(chan struct{}), make(chan error, 1)
	pushFunc := func(ctx context.Context, _ mesh.Push, _ io.Writer) error {
		close(began)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return context.Cause(ctx)
	}
	r.d.set(func(d *pushes) { d.push = pushFunc })
	cmd := exec.CommandContext(t.Context(), "git", "push", "mesh", "main")
	cmd.Dir, cmd.Env = r.Dir, r.env
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
	r.d.set(func(d *pushes) { d.push = nil })
	if out, err := r.try("push", "mesh", "main"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Every push has read the list of refs before any push has moved one: git alone would
// refuse all but the first ("cannot lock ref").
func TestPush_ManyAtOnceWithTheSameOldRefs(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	base := r.Commit("base")
	if out, err := r.try("push", "mesh", "main"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const people = 6
	var commits []string
	for i := range people {
		r.Git("checkout", "-q", "--detach", string(base))
		commits = append(commits, string(r.Commit(fmt.Sprintf("of %d", i))))
	}
	// No deployment ends before all have begun: all pushes run at once.
	var begun atomic.Int32
	together := make(chan struct{})
	meet := sync.OnceFunc(func() { close(together) })
	pushFunc := func(ctx context.Context, _ mesh.Push, _ io.Writer) error {
		if begun.Add(1) == people {
			meet()
		}
		select {
		case <-together:
			return nil
		case <-ctx.Done(): // a busy machine may end a client
			return context.Cause(ctx)
		}
	}
	r.d.set(func(d *pushes) { d.push = pushFunc })
	var all sync.WaitGroup
	for _, c := range commits {
		all.Go(func() {
			if out, err := r.try("push", "-f", "mesh", c+":main"); err != nil {
				t.Errorf("%v\n%s", err, out)
				meet() // or the others would wait for it
			}
		})
	}
	all.Wait()
	if len(r.d.got) != 1+people {
		t.Errorf("%d deployments", len(r.d.got))
	}
	if got := refs(t, r.repos)["refs/heads/main"]; got != r.d.state.Commit {
		t.Errorf("the branch is at %s, deployed is %s", got, r.d.state.Commit)
	}
}

// During a push, git has its commit on the branch. Other pushers see the deployed
// commit: their pushes are computed against that, and are not "up to date" by mistake.
func TestPush_OthersSeeWhatIsDeployed(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.Commit("one")
	if out, err := r.try("push", "mesh", "main"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	two := r.Commit("two")
	began, end := make(chan struct{}), make(chan struct{})
	pushFunc := func(context.Context, mesh.Push, io.Writer) error {
		close(began)
		<-end
		return mesh.Errorf(mesh.Failed, "build failed: oh")
	}
	r.d.set(func(d *pushes) { d.push = pushFunc })
	first := make(chan string)
	go func() {
		out, _ := r.try("push", "mesh", "main")
		first <- out
	}()
	within(t, began, "the first push")
	r.d.set(func(d *pushes) { d.push = nil })
	r.Git("checkout", "-q", "--detach", "HEAD^")
	r.Commit("sibling")
	if out, err := r.try("push", "mesh", "HEAD:main"); err != nil {
		t.Errorf("a push without -f beside one that is not live yet: %v\n%s", err, out)
	}
	if out, err := r.try("push", "-f", "--dry-run", "mesh", string(two)+":main"); err != nil || strings.Contains(out, "up-to-date") {
		t.Errorf("the commit that is under way: %v\n%s", err, out)
	}
	close(end)
	if out := within(t, first, "the first push's end"); !strings.Contains(out, "build failed: oh") {
		t.Errorf("the first push: %s", out)
	}
	if got := refs(t, r.repos)["refs/heads/main"]; got != r.d.state.Commit || got == two {
		t.Errorf("the branch is at %s, deployed is %s", got, r.d.state.Commit)
	}
}

// The running release is not from this repository, or its image is missing: the same
// commit is pushed again.
func TestPush_IsNoNoOpWhenSomethingElseServes(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	one := r.Commit("one")
	if out, err := r.try("push", "mesh", "main"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := r.try("push", "mesh", "main"); err != nil || !strings.Contains(out, "up-to-date") || len(r.d.got) != 1 {
		t.Errorf("what serves already: %v\n%s", err, out)
	}
	r.d.set(func(d *pushes) { d.state.Commit = "" })
	if out, err := r.try("push", "mesh", "main"); err != nil || len(r.d.got) != 2 || r.d.got[1].Commit != one {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPush_SameCommitUnderWayGetsItsVerdict(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	c := r.Commit("one")
	followFunc := func(commit mesh.Commit, out io.Writer) (bool, error) {
		if commit != c {
			t.Errorf("followed %s", commit)
		}
		fmt.Fprintf(out, "waiting for its verdict\n")
		return true, mesh.Errorf(mesh.Failed, "check failed: oh")
	}
	r.d.set(func(d *pushes) { d.follow = followFunc })
	if out, err := r.try("push", "mesh", "main"); err == nil || !strings.Contains(out, "waiting for its verdict") || !strings.Contains(out, "(check failed: oh)") || len(r.d.got) != 0 {
		t.Errorf("%v\n%s", err, out)
	}
	followFunc = func(mesh.Commit, io.Writer) (bool, error) {
		return true, mesh.Errorf(mesh.Conflict, "deployment #1 was a dry run")
	}
	r.d.set(func(d *pushes) { d.follow = followFunc })
	if out, err := r.try("push", "mesh", "main"); err != nil || len(r.d.got) != 1 {
		t.Errorf("a dry run of the commit is under way: %v\n%s", err, out)
	}
}

func TestPush_TagBeforeAnyBranch(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	c := r.Commit("one")
	r.Git("tag", "-a", "-m", "x", "v1")
	out, err := r.try("push", "mesh", "v1")
	if err == nil || !strings.Contains(out, "! [remote rejected] v1 -> v1 (the stack blog does not exist yet") || !strings.Contains(out, "git push -o deploy mesh v1") || r.repos.Exists("blog") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := r.try("push", "-o", "deploy", "mesh", "v1"); err != nil || len(r.d.got) != 1 || r.d.got[0].Commit != c || r.d.got[0].Branch != "" {
		t.Errorf("%v, deployed %+v\n%s", err, r.d.got, out)
	}
	blob := r.Object("blob", "x")
	if out, err := r.try("push", "-o", "deploy", "mesh", blob+":refs/tags/blob"); err == nil || !strings.Contains(out, "the tag blob does not point to a commit") {
		t.Errorf("%v\n%s", err, out)
	}
	r.Commit("two")
	r.Git("tag", "v2")
	r.d.set(func(d *pushes) { d.fail = errors.New("disk") })
	if out, err := r.try("push", "-o", "deploy", "mesh", "v2"); err == nil {
		t.Errorf("a state that cannot be read is no success: %v\n%s", err, out)
	}
}

func TestPush_LimitsOfRefs(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.Commit("one")
	commit := r.Git("rev-parse", "HEAD")
	var lines []string
	for i := range maxPushRefs {
		lines = append(lines, fmt.Sprintf("%s refs/tags/t%04d", commit, i))
	}
	r.Write(".git/packed-refs", []byte("# pack-refs with: peeled fully-peeled sorted \n"+strings.Join(lines, "\n")+"\n"), 0o644)
	out, err := r.try("push", "mesh", "main", "--tags")
	if err == nil || !strings.Contains(out, "the push moves more than 1000 branches and tags") || strings.Count(out, "remote:  !") != 1 {
		t.Errorf("%v\n%s", err, out[:min(len(out), 3000)])
	}
}

// Old histories have commits with malformed authors and dates, which do no harm.
func TestPush_OldAuthorLines(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.Commit("sound")
	tree := r.Git("rev-parse", "HEAD^{tree}")
	for name, who := range map[string]string{
		"missingSpaceBeforeEmail":  "A<a@example.com> 1 +0000",
		"missingNameBeforeEmail":   "<a@example.com> 1 +0000",
		"missingEmail":             "A 1 +0000",
		"badName":                  "A > <a@example.com> 1 +0000",
		"badEmail":                 "A <a<b@example.com> 1 +0000",
		"badDate":                  "A <a@example.com> <b@example.com> 1 +0000",
		"badDateOverflow":          "A <a@example.com> 99999999999999999999 +0000",
		"zeroPaddedDate":           "A <a@example.com> 01 +0000",
		"badTimezone":              "A <a@example.com> 1 +00",
		"missingSpaceBeforeDate":   "A <a@example.com>1 +0000",
		"no date":                  "A <a@example.com>",
		"a date before everything": "A <a@example.com> -1 +0000",
	} {
		for _, head := range []string{"author " + who + "\ncommitter A <a@example.com> 1 +0000", "author A <a@example.com> 1 +0000\ncommitter " + who} {
			old := r.Object("commit", fmt.Sprintf("tree %s\n%s\n\nold\n", tree, head))
			top := r.Object("commit", fmt.Sprintf("tree %s\nparent %s\nauthor A <a@example.com> 1 +0000\ncommitter A <a@example.com> 1 +0000\n\n%s\n", tree, old, name))
			for _, c := range []string{old, top} {
				if out, err := r.try("push", "-f", "mesh", c+":refs/heads/main"); err != nil {
					t.Errorf("%s: %v\n%s", name, err, out)
				}
				if _, _, release, err := r.repos.Open(t.Context(), "blog", mesh.Commit(c)); err != nil {
					t.Errorf("%s cannot be opened: %v", name, err)
				} else {
					release()
				}
			}
		}
	}
	two := r.Object("commit", fmt.Sprintf("tree %s\nauthor A <a@example.com> 1 +0000\nauthor B <b@example.com> 1 +0000\ncommitter A <a@example.com> 1 +0000\n\nx\n", tree))
	untagged := r.Object("tag", fmt.Sprintf("object %s\ntype commit\ntag old\n\nx\n", r.Git("rev-parse", "HEAD")))
	for ref, id := range map[string]string{"refs/heads/main": two, "refs/tags/old": untagged} {
		if out, err := r.try("push", "-f", "mesh", id+":"+ref); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// Harmful objects are still refused, with a remedy that works.
func TestPush_RefusedObjectsHaveAWayOut(t *testing.T) {
	t.Parallel()
	r := newRemote(t)
	r.Commit("sound")
	blob := r.Object("blob", "x")
	raw, err := hex.DecodeString(blob)
	if err != nil {
		t.Fatal(err)
	}
	bad := r.Object("tree", "100644 .git\x00"+string(raw))
	old := r.Object("commit", fmt.Sprintf("tree %s\nauthor A <a@example.com> 1 +0000\ncommitter A <a@example.com> 1 +0000\n\nold\n", bad))
	top := r.Git("commit-tree", "-m", "top", "-p", old, "HEAD^{tree}")
	r.Git("reset", "-q", "--hard", top)
	out, err := r.try("push", "mesh", "HEAD:main")
	const hint = `git push -f mesh $(git commit-tree -m deploy 'HEAD^{tree}'):refs/heads/main`
	if err == nil || !strings.Contains(out, "(git object "+bad[:7]+" is refused: ") || !strings.Contains(out, hint) {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", hint)
	cmd.Dir, cmd.Env = r.Dir, append(r.env, "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the hint does not work: %v\n%s", err, out)
	}
}
