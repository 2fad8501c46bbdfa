package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"mesh/deploy/manifest"

	"mesh"
)

// keepReleases is of how many releases before the current one the images stay,
// so that a rollback needs no build.
const keepReleases = 5

// Push deploys a commit that is in the stack's repository: build, release
// command, start, check, switch. The stack is made when there is none. It returns
// nil when the commit is live, or, with Detach, when it has begun. When ctx ends
// before the release is recorded, everything is undone; after that the rollout is
// finished.
func (d *Deployer) Push(ctx context.Context, p mesh.Push, out io.Writer) error {
	if err := d.ensureStack(ctx, p.Stack, p.By); err != nil {
		return err
	}
	subject, err := d.Repos.Subject(ctx, p.Stack, p.Commit)
	if err != nil {
		return err
	}
	dep := mesh.Deployment{Stack: p.Stack, Kind: mesh.DeployPush, By: p.By, Commit: p.Commit, Subject: subject}
	run := func(ctx context.Context, out io.Writer) (err error) {
		defer func() { d.Audit(ctx, p.By, p.Stack, "push "+p.Commit.Short(), err) }()
		return d.attempt(ctx, dep, out, func(ctx context.Context, a *attempt) error {
			return d.deploySource(ctx, a, source{
				repo: p.Stack, commit: p.Commit, branch: p.Branch, tag: p.Commit.Short(), description: "Deploy " + p.Commit.Short(),
				noCache: p.NoCache, dryRun: p.DryRun, force: p.Force,
				admit: func(st mesh.Stack) error {
					// Another first push may have settled the branch while this one waited.
					if b := st.Settings.Branch; b != "" && p.Branch != "" && b != p.Branch {
						return mesh.Errorf(mesh.Denied, "%s deploys %s only: git push mesh %s:%s", p.Stack, b, p.Branch, b)
					}
					return nil
				},
				change: func(s *mesh.Stack) {
					if s.Settings.Branch == "" {
						s.Settings.Branch = p.Branch
					}
				},
			})
		})
	}
	if !p.Detach {
		return run(ctx, out)
	}
	d.background(func(ctx context.Context) { _ = run(ctx, nil) }) // the deployment's record has the verdict
	_, _ = fmt.Fprintf(out, "-----> %s: %s is being deployed in the background\n       follow it with: ssh mesh deployments:show -a %s --follow\n", p.Stack, p.Commit.Short(), p.Stack)
	return nil
}

// source is what a deployment takes its image from.
type source struct {
	repo        mesh.StackName // whose repository has the commit, and so the tree; empty: tree, from or image is given
	commit      mesh.Commit
	branch      string                 // of a push
	tree        mesh.Tree              // nil: a prebuilt image
	from        mesh.From              // the prebuilt image
	image       *mesh.Image            // one that is there already: nothing is built
	declared    mesh.Declared          // by the tree, or by the release that the image is from
	manifest    manifest.Manifest      // of the tree
	force       bool                   // build also what touches nothing that is watched
	fresh       bool                   // build also what was built before
	dockerfile  string                 // instead of the stack's setting
	tag         string                 // the image's name behind the colon
	description string                 // of the release
	text        string                 // of the release: what it was made from, when not from a push
	noCache     bool                   // build every step anew
	dryRun      bool                   // build, then stop
	admit       func(mesh.Stack) error // may refuse, in the deployment's turn; may be nil
	change      func(*mesh.Stack)      // to the stack, with the release; may be nil
}

// deploySource makes a release out of a source and rolls it out: build, release
// command, start, check, switch. It is what an attempt does.
func (d *Deployer) deploySource(ctx context.Context, a *attempt, src source) error {
	st, err := d.Store.Stack(ctx, a.dep.Stack)
	if err != nil {
		return err
	}
	if st.Lock != nil {
		return locked(st)
	}
	if src.admit != nil {
		if err := src.admit(st); err != nil {
			return err
		}
	}
	if a.next, err = d.nextRelease(ctx, st.Name); err != nil {
		return err
	}
	a.out.mask(st.Config)
	if src.repo != "" {
		var closeTree func()
		if src.tree, closeTree, err = d.openTree(ctx, a, src.repo, src.commit); err != nil {
			return phaseFailed("build failed", err)
		}
		defer closeTree()
	}
	config := st.Config
	if st, err = d.declared(a, st, &src); err != nil {
		return err
	}
	if skip, err := d.skipped(ctx, st, src); err != nil {
		return err
	} else if skip {
		a.dep.Status, a.dep.Ended = mesh.StatusSkipped, d.Now().UTC()
		a.out.say(fmt.Sprintf("=====> Skipped: nothing that watch=%s names has changed since %s, which stays", strings.Join(st.Effective().Watch, ","), st.Current))
		a.detail("build it all the same with: git push -o deploy")
		return d.Store.UpdateDeployment(ctx, a.dep)
	}
	d.tellDeclared(a, st, src.manifest, config)
	img, err := d.image(ctx, a, st, src)
	if err != nil {
		return err
	}
	d.Reached(StepBuilt, string(st.Name))
	svcs := services(st, src.declared)
	r := d.release(a, st, img, src.commit, st.Config, svcs, formation(st, svcs), src.description)
	r.Source, r.Declared, r.Elsewhere = src.text, src.declared, src.image != nil
	if _, err := specs(st, r, a.dep.Number); err != nil {
		return err
	}
	if src.dryRun {
		a.dep.Status, a.dep.Ended = mesh.StatusDryRun, d.Now().UTC()
		a.out.say("=====> Dry run: the build succeeded, and nothing has changed")
		return d.Store.UpdateDeployment(ctx, a.dep)
	}
	if err := d.runOnce(ctx, a, st, r, "predeploy", src.manifest.Predeploy); err != nil {
		return err
	}
	if err := d.releaseCommand(ctx, a, st, r); err != nil {
		return err
	}
	st.Stopped = false
	st, err = d.roll(ctx, a, st, r, all, func(ctx context.Context, _ mesh.Stack) (mesh.Stack, error) {
		return d.commit(ctx, a, &r, func(s *mesh.Stack) error {
			if s.Lock != nil {
				return locked(*s) // since this began
			}
			src.keep(s, r.Config)
			if src.change != nil {
				src.change(s)
			}
			s.Stopped = false
			return nil
		})
	})
	if err != nil {
		return err
	}
	d.tagRelease(context.WithoutCancel(ctx), st, r)
	if err := d.runOnce(context.WithoutCancel(ctx), a, st, r, "postdeploy", src.manifest.Postdeploy); err != nil {
		var e *mesh.Error
		if errors.As(err, &e) { // what is ours is in the log
			for _, l := range e.Output {
				a.out.line("         " + l)
			}
		}
		a.out.line(" !     " + err.Error())
		a.detail("%s is live all the same", r.Number)
	}
	a.done(st)
	return nil
}

// nextRelease is the number that the next release will have.
func (d *Deployer) nextRelease(ctx context.Context, stack mesh.StackName) (mesh.ReleaseNumber, error) {
	last, err := d.Store.Releases(ctx, stack, 1)
	if err != nil || len(last) == 0 {
		return 1, err
	}
	return last[0].Number + 1, nil
}

// commit records the attempt as live, with its release when there is one.
func (d *Deployer) commit(ctx context.Context, a *attempt, r *mesh.Release, change func(*mesh.Stack) error) (mesh.Stack, error) {
	a.dep.Ended = d.Now().UTC()
	if r != nil {
		a.dep.Release = r.Number
	}
	st, err := d.Store.Commit(ctx, a.dep, r, change)
	if err != nil {
		return st, err
	}
	a.dep.Status = mesh.StatusLive
	d.Logger.Info("release recorded", "stack", st.Name, "release", st.Current.String(), "deployment", int(a.dep.Number), "key", string(a.dep.By))
	return st, nil
}

// mayRead tells whose images a key may build from; nil: everybody's. The keys that are
// limited to stacks have the limit; whoever uses the socket has none.
func (d *Deployer) mayRead(ctx context.Context, by mesh.KeyName) (func(mesh.StackName) bool, error) {
	keys, err := d.Store.Keys(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(keys, func(k mesh.Key) bool { return k.Name == by })
	if i < 0 || len(keys[i].Stacks) == 0 {
		return nil, nil
	}
	return func(stack mesh.StackName) bool { return keys[i].May(mesh.AccessRead, stack) }, nil
}

// image makes the image of a source, or takes the one that is there.
func (d *Deployer) image(ctx context.Context, a *attempt, st mesh.Stack, src source) (mesh.Image, error) {
	began := d.Now()
	if src.tag == "" {
		src.tag = fmt.Sprintf("deployment-%d", int(a.dep.Number))
	}
	b := mesh.Build{
		Stack: st.Name, Deployment: a.dep.Number, Commit: src.commit, Tree: src.tree, Settings: st.Effective(), From: src.from, Config: st.Config, NoCache: src.noCache,
		Tags: []string{fmt.Sprintf("mesh/%s:%s", st.Name, src.tag)},
		Labels: map[string]string{
			"mesh.stack": string(st.Name), "mesh.commit": string(src.commit), "mesh.deployment": fmt.Sprint(int(a.dep.Number)),
		},
	}
	var err error
	if b.May, err = d.mayRead(ctx, a.dep.By); err != nil {
		return mesh.Image{}, err
	}
	switch {
	case src.image != nil:
		img := *src.image
		img.Ref = b.Tags[0]
		if err := d.Builder.Tag(ctx, img.ID, img.Ref); err != nil {
			return img, err
		}
		a.detail("%s  %s", img.Ref, megabytes(img.Size))
		return img, nil
	case src.tree == nil:
		b.Config = nil
		a.step("getting the image", "Image %s", src.from.Ref)
	default:
		if src.dockerfile != "" {
			b.Settings.Dockerfile = src.dockerfile
		}
		if err := d.room(ctx, a); err != nil {
			return mesh.Image{}, phaseFailed("build failed", err)
		}
		b.Fresh, b.Times = src.fresh, timeKeeper{d.Store, st.Name}
		a.enter("building") // the builder says with what
	}
	img, err := d.Builder.Build(ctx, b, a.out)
	if src.tree != nil {
		d.Built(d.Now().Sub(began), err)
	}
	if err != nil {
		return img, phaseFailed("build failed", err)
	}
	if img.Digest != "" {
		a.detail("digest %s", img.Digest)
	}
	a.timed(began, "%s", d.report(ctx, st, img))
	return img, nil
}

// timeKeeper keeps the times of a stack's files in the store.
type timeKeeper struct {
	store Store
	stack mesh.StackName
}

// FileTimes reads them.
func (k timeKeeper) FileTimes(ctx context.Context) (mesh.FileTimes, error) {
	return k.store.FileTimes(ctx, k.stack)
}

// KeepFileTimes writes them.
func (k timeKeeper) KeepFileTimes(ctx context.Context, t mesh.FileTimes) error {
	return k.store.KeepFileTimes(ctx, k.stack, t)
}

// report is the line at the end of a build: the image, its size and how that has
// changed, and where the time went.
func (d *Deployer) report(ctx context.Context, st mesh.Stack, img mesh.Image) string {
	line := img.Ref + "  " + megabytes(img.Size)
	if last, err := d.Store.Release(ctx, st.Name, st.Current); st.Current > 0 && err == nil && last.Image.Size > 0 {
		switch change := img.Size - last.Image.Size; {
		case change >= 50_000:
			line += " (+" + megabytes(change) + ")"
		case change <= -50_000:
			line += " (-" + megabytes(-change) + ")"
		}
	}
	w := img.Work
	if w.Steps > 0 {
		line += fmt.Sprintf(", %d of %d steps cached", w.Cached, w.Steps)
	}
	if w.Slowest != "" {
		line += fmt.Sprintf(", slowest: %s %s", w.Slowest, seconds(w.Took))
	}
	return line
}

func megabytes(n int64) string {
	if n < 10e6 {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.0f MB", float64(n)/1e6)
}

// releaseCommand runs what has to be done once before the new release gets
// traffic, with its image and config: migrations, say.
func (d *Deployer) releaseCommand(ctx context.Context, a *attempt, st mesh.Stack, r mesh.Release) error {
	command := r.Declared.Commands[mesh.ReleaseCommand]
	if len(st.Release) > 0 {
		command = strings.Join(st.Release, " ")
	}
	return d.runOnce(ctx, a, st, r, "release command", command)
}

// runOnce runs a command in a container of its own with a release's image and
// config, and shows what it prints. The empty command is none.
func (d *Deployer) runOnce(ctx context.Context, a *attempt, st mesh.Stack, r mesh.Release, what, command string) error {
	if command == "" {
		return nil
	}
	began := d.Now()
	a.step(what, "%s: %s", strings.ToUpper(what[:1])+what[1:], command)
	name := mesh.InstanceName{Service: mesh.ReleaseCommand, Slot: 1}
	e := env(r, name)
	p, err := manifest.Process(command, r.Image, e)
	if err != nil {
		return phaseFailed(what+" failed", err)
	}
	timeout := st.Effective().ReleaseTime
	if timeout == 0 {
		timeout = mesh.DefaultReleaseTime
	}
	rctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tail := newTail(a.out)
	code := 0
	_, err = d.withSubnet(rctx, st, func(st mesh.Stack) (err error) {
		code, err = d.Runner.RunOneOff(rctx, mesh.OneOff{
			Stack: st.Name, Name: "release", Image: r.Image.ID, Process: p, Env: e, Subnet: st.Subnet, Stdout: tail, Stderr: tail,
		})
		return err
	})
	tail.flush()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case rctx.Err() != nil:
		e := mesh.Errorf(mesh.Failed, "%s failed: %q took longer than %s", what, mesh.Clip(command, 60), timeout)
		e.Output = tail.last
		return e.WithHint("it has been ended; give it longer with: ssh mesh build:set -a %s release-timeout=%s", st.Name, 2*timeout)
	case err != nil:
		return phaseFailed(what+" failed", err)
	case code != 0:
		return &mesh.Error{
			Kind: mesh.Failed, Text: fmt.Sprintf("%s failed: %q exited %d", what, mesh.Clip(command, 60), code), Output: tail.last,
			Hint: "it must succeed, and may run again: nothing has been switched",
		}
	}
	a.timed(began, "%s done", what)
	return nil
}

// tail indents what a command prints and remembers its last lines.
type tail struct {
	to   io.Writer
	part []byte
	last []string
}

const tailLines = 30

func newTail(to io.Writer) *tail { return &tail{to: to} }

func (t *tail) Write(b []byte) (int, error) {
	for _, c := range b {
		if c == '\n' {
			t.flush()
		} else if c != '\r' {
			t.part = append(t.part, c)
		}
	}
	return len(b), nil
}

func (t *tail) flush() {
	if len(t.part) == 0 {
		return
	}
	line := string(t.part)
	t.part = t.part[:0]
	if t.last = append(t.last, line); len(t.last) > tailLines {
		t.last = t.last[1:]
	}
	_, _ = io.WriteString(t.to, "       "+line+"\n")
}

// tagRelease names the image after its release and lets go of the images that no
// rollback will need. Neither can fail a deployment that is live.
func (d *Deployer) tagRelease(ctx context.Context, st mesh.Stack, r mesh.Release) {
	if err := d.Builder.Tag(ctx, r.Image.ID, fmt.Sprintf("mesh/%s:%s", st.Name, r.Number)); err != nil {
		d.Logger.Warn("image not tagged", "stack", st.Name, "release", r.Number.String(), "err", err)
	}
	d.collect(st.Name, r.Deployment)
}

// imageTag is the rule for the part of an image name behind the colon, of the
// distribution specification.
var imageTag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// ownTag is what images are called by their release, their commit and their
// deployment.
var ownTag = regexp.MustCompile(`^(v\d+|[0-9a-f]{7,40}|(deployment|from|upload)-.*)$`)

// maxImageTags is how many images a push names after its tags, and how many lines it
// prints about them: a repository may have thousands.
const maxImageTags = 20

// TagImages names the images of releases made from the tags' commits after the git
// tags, and returns a line for each of the first tags, and one about the rest.
func (d *Deployer) TagImages(ctx context.Context, stack mesh.StackName, tags []mesh.Tag) (lines []string) {
	releases, err := d.Store.Releases(ctx, stack, 50)
	if err != nil {
		d.Logger.Warn("images not tagged", "stack", stack, "err", err)
		return nil
	}
	// Those that name an image come first: a line about it is worth more.
	built := func(t mesh.Tag) bool {
		return slices.ContainsFunc(releases, func(r mesh.Release) bool { return r.Commit == t.Commit })
	}
	tags = slices.Clone(tags)
	slices.SortStableFunc(tags, func(a, b mesh.Tag) int {
		switch x, y := built(a), built(b); {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
	branch := "main"
	if st, err := d.Store.Stack(ctx, stack); err == nil && st.Settings.Branch != "" {
		branch = st.Settings.Branch
	}
	for i, t := range tags {
		if i == maxImageTags {
			return append(lines, fmt.Sprintf("%d more tags are stored", len(tags)-i))
		}
		lines = append(lines, d.tagImage(ctx, stack, t, releases, branch))
	}
	return lines
}

func (d *Deployer) tagImage(ctx context.Context, stack mesh.StackName, t mesh.Tag, releases []mesh.Release, branch string) string {
	tag := mesh.Visible(t.Name) // git lets anything but control characters into a name
	if !imageTag.MatchString(tag) || tag == "latest" {
		return fmt.Sprintf("tag %s is stored; it cannot name an image", mesh.Clip(tag, 60))
	}
	if ownTag.MatchString(tag) {
		return fmt.Sprintf("tag %s is stored; it names no image, for that is how mesh names its own", tag)
	}
	for _, r := range releases {
		if r.Commit != t.Commit {
			continue
		}
		ref := fmt.Sprintf("mesh/%s:%s", stack, tag)
		if err := d.Builder.Tag(ctx, r.Image.ID, ref); err != nil {
			d.Logger.Warn("image not tagged", "stack", stack, "err", err)
			return fmt.Sprintf("tag %s is stored; the image of %s is gone", tag, r.Number)
		}
		return fmt.Sprintf("tag %s: the image of %s is also called %s", tag, r.Number, ref)
	}
	return fmt.Sprintf("tag %s is stored; its commit %s was never deployed here. Deploy it with: git push -f mesh %s:refs/heads/%s", tag, t.Commit.Short(), t.Commit.Short(), branch)
}

// Follow writes the output of the deployment of a commit that waits or runs, and
// returns its verdict.
func (d *Deployer) Follow(ctx context.Context, stack mesh.StackName, commit mesh.Commit, out io.Writer) (found bool, err error) {
	for _, t := range d.tickets(stack) {
		if t.deployment.Commit != commit {
			continue
		}
		_, _ = fmt.Fprintf(out, "-----> %s is being deployed already, as %s; waiting for its verdict\n", commit.Short(), describe(t.deployment))
		select {
		case <-t.done:
		case <-ctx.Done():
			return true, context.Cause(ctx)
		}
		if t.err != nil {
			_, _ = fmt.Fprintf(out, "       its output: ssh mesh deployments:show -a %s %d\n", stack, t.deployment.Number)
			return true, t.err
		}
		if dep, err := d.Store.Deployment(ctx, stack, t.deployment.Number); err != nil || dep.Status != mesh.StatusLive {
			return true, errors.Join(err, mesh.Errorf(mesh.Conflict, "deployment %s was a dry run: %s is not live", t.deployment.Number, commit.Short()).WithHint("push again"))
		}
		_, _ = fmt.Fprintf(out, "=====> %s is live\n", commit.Short())
		return true, nil
	}
	return false, nil
}

// Done returns a channel that is closed when the deployment has ended; closed
// already when it does not wait or run.
func (d *Deployer) Done(stack mesh.StackName, n mesh.DeploymentNumber) <-chan struct{} {
	for _, t := range d.tickets(stack) {
		if t.deployment.Number == n {
			return t.done
		}
	}
	ch := make(chan struct{})
	close(ch)
	return ch
}
