package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"mesh"
)

// self is who deployments are by that nobody asked for.
const self mesh.KeyName = "mesh"

// The image of a release may be gone: pruned, or never there after a restore on another
// machine. What is made again from the same source is another image: base images and
// packages have moved on. So it becomes a new release, made by mesh, with the config,
// the formation and the commands of the one that it stands in for; a release stays what
// it was. The release command does not run again: it did for that release. A lock does
// not stop it: nothing new is released.

// againText describes the release that stands in for r.
func againText(r mesh.Release) string {
	if r.Commit != "" {
		return fmt.Sprintf("Build %s again: the image of %s was gone", r.Commit.Short(), r.Number)
	}
	return fmt.Sprintf("Get the image of %s again: it was gone", r.Number)
}

// imagePresent refuses what needs the image of a release that is gone, and says what
// brings it back.
func (d *Deployer) imagePresent(ctx context.Context, r mesh.Release) error {
	ok, err := d.Builder.Present(ctx, r.Image.ID)
	if err != nil || ok {
		return err
	}
	return d.goneError(ctx, r)
}

func (d *Deployer) goneError(ctx context.Context, r mesh.Release) *mesh.Error {
	return mesh.Errorf(mesh.NotFound, "the image of %s of %s (%s) is gone from the engine", r.Number, r.Stack, r.Image.Ref).
		WithHint("%s", d.remedy(ctx, r))
}

// remedy is what to type to bring the image of a release back.
func (d *Deployer) remedy(ctx context.Context, r mesh.Release) string {
	if _, ok := d.origin(ctx, r); ok || r.Image.Digest != "" {
		if st, err := d.Store.Stack(ctx, r.Stack); err == nil && st.Current != r.Number {
			return fmt.Sprintf("have it made again: ssh mesh rollback -a %s %s", r.Stack, r.Number)
		}
		return fmt.Sprintf("have it made again: ssh mesh ps:rebuild -a %s", r.Stack)
	}
	return anew(r)
}

// anew is what to type to deploy something again the way it came.
func anew(r mesh.Release) string {
	what := strings.TrimPrefix(r.Source, "Image ")
	switch from, _, _ := strings.Cut(r.Source, " "); {
	case what != r.Source && r.Image.Digest != "":
		return fmt.Sprintf("deploy it again: ssh mesh deploy -a %s --image %s", r.Stack, what)
	case what != r.Source:
		ref := strings.TrimSuffix(what, ", loaded")
		return fmt.Sprintf("bring it back from where it is: docker save %s | ssh mesh deploy -a %s --load %s", ref, r.Stack, ref)
	case r.Elsewhere && from != "":
		return fmt.Sprintf("promote it again: ssh mesh promote %s -a %s", r.Stack, from)
	}
	return fmt.Sprintf("upload it again, in the folder that it came from: tar c . | ssh mesh deploy -a %s", r.Stack)
}

// origin is the stack in whose repository the commit of a release is: its own, or the
// one that it was promoted from. A commit names its tree, so any repository that has
// deployed it gives the same one.
func (d *Deployer) origin(ctx context.Context, r mesh.Release) (mesh.StackName, bool) {
	if r.Commit == "" {
		return "", false
	}
	if !r.Elsewhere {
		return r.Stack, true
	}
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return "", false
	}
	for _, st := range stacks {
		releases, err := d.Store.Releases(ctx, st.Name, 0)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(releases, func(o mesh.Release) bool { return o.Here() && o.Commit == r.Commit }) {
			return st.Name, true
		}
	}
	return "", false
}

// ensureImage makes the image of a release in the making again when it is gone.
func (d *Deployer) ensureImage(ctx context.Context, a *attempt, st mesh.Stack, r *mesh.Release) error {
	ok, err := d.Builder.Present(ctx, r.Image.ID)
	if err != nil || ok {
		return err
	}
	img, err := d.again(ctx, a, st, *r)
	if err != nil {
		return err
	}
	r.Image = img
	return nil
}

// again makes the image of a release from the same source: the commit, or the digest of
// a prebuilt image.
func (d *Deployer) again(ctx context.Context, a *attempt, st mesh.Stack, r mesh.Release) (mesh.Image, error) {
	st.Declared, st.Config = r.Declared.Settings, r.Config
	origin, ok := d.origin(ctx, r)
	switch {
	case ok:
		a.step("building", "The image %s is gone from the engine: building %s again", r.Image.Ref, r.Commit.Short())
		tree, closeTree, err := d.openTree(ctx, a, origin, r.Commit)
		if err != nil {
			return mesh.Image{}, phaseFailed("build failed", err)
		}
		defer closeTree()
		src := source{commit: r.Commit, tree: tree, tag: r.Commit.Short()}
		return d.image(ctx, a, st, src)
	case r.Image.Digest != "":
		a.detail("the image %s is gone from the engine: getting it again", r.Image.Ref)
		return d.image(ctx, a, st, source{from: mesh.From{Ref: r.Image.Digest}})
	}
	return mesh.Image{}, d.goneError(ctx, r)
}

// loss is a current release whose image is gone. Guarded by Deployer.mu.
type loss struct {
	release  mesh.ReleaseNumber
	down     bool      // instances need it: it is made again
	busy     bool      // that is under way
	fails    int       // tries that failed, in a row
	hopeless bool      // there is no source to make it from
	why      string    // why the last try failed, or what to do
	next     time.Time // of the next try
}

// Making images again: the next try after 10 s, doubling up to an hour: each is a deployment.
const (
	firstAgain = 10 * time.Second
	mostAgain  = time.Hour
)

// text says of a loss what people have to know.
func (l *loss) text(now time.Time) string {
	switch {
	case l.busy:
		return "the image is gone; mesh is making it again"
	case l.hopeless:
		return "the image is gone, and mesh cannot make it again: " + l.why
	case l.fails > 0:
		return fmt.Sprintf("the image is gone, and could not be made again: %s; the next try is in %s", l.why, l.next.Sub(now).Round(time.Second))
	case l.down:
		return "the image is gone; mesh makes it again"
	}
	return "the image is gone; mesh makes it again when it is needed"
}

// Loss says what is to be known of the image of a stack's current release when it is
// gone; empty: it is there, as far as mesh has looked.
func (d *Deployer) Loss(stack mesh.StackName) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.losses[stack]; l != nil {
		return l.text(d.Now())
	}
	return ""
}

// lostLocked notes that the image of a stack's current release is gone, and has it made
// again when instances need it. It tells whether that is news.
func (d *Deployer) lostLocked(stack mesh.StackName, n mesh.ReleaseNumber, down bool) bool {
	l := d.losses[stack]
	news := l == nil || l.release != n
	if news {
		l = &loss{release: n}
		d.losses[stack] = l
	}
	if down && !l.down {
		news = true
		l.down, l.next = true, d.Now()
		select {
		case d.remakes <- struct{}{}:
		default:
		}
	}
	return news
}

// unavailable tells whether the deploy branch must not name the commit of a stack's
// current release: its image is gone, and it does not serve. A push of that commit is
// what a person tries first, and must not be called up to date.
func (d *Deployer) unavailable(stack mesh.StackName, n mesh.ReleaseNumber) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.losses[stack]
	return l != nil && l.release == n && l.down
}

// lookImages looks whether the images of the current releases are there.
func (d *Deployer) lookImages(ctx context.Context) {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		return
	}
	for _, st := range stacks {
		if st.Current == 0 || len(d.tickets(st.Name)) > 0 {
			continue
		}
		r, err := d.Store.Release(ctx, st.Name, st.Current)
		if err != nil {
			continue
		}
		ok, err := d.Builder.Present(ctx, r.Image.ID)
		if err != nil {
			return // the engine is away
		}
		d.mu.Lock()
		fl := d.fleets[st.Name]
		if fl == nil || fl.release.Number != st.Current {
			d.mu.Unlock()
			continue
		}
		changed := false
		if !ok {
			if changed = d.lostLocked(st.Name, st.Current, false); changed {
				d.note(st.Name, "image", "%s", d.losses[st.Name].text(d.Now()))
				d.Logger.Warn("the image of a release is gone", "stack", st.Name, "release", st.Current.String())
			}
		} else if l := d.losses[st.Name]; l != nil && !l.busy {
			changed = l.down
			d.foundLocked(st.Name)
		}
		d.mu.Unlock()
		if changed {
			d.resetBranch(ctx, st.Name)
		}
	}
}

// foundLocked notes that the image of a stack's current release is there again, and has
// started what waits for it.
func (d *Deployer) foundLocked(stack mesh.StackName) {
	delete(d.losses, stack)
	fl := d.fleets[stack]
	if fl == nil {
		return
	}
	for _, m := range fl.members {
		if m.ails == mesh.NoImage {
			d.bringBack(fl, m, 0)
		}
	}
}

// keepImages makes images again that are gone and needed, one at a time over all
// stacks, until ctx ends: after a restore all of them are.
func (d *Deployer) keepImages(ctx context.Context) {
	for ctx.Err() == nil {
		stack, wait := d.nextLoss()
		if stack != "" {
			d.remake(ctx, stack)
			continue
		}
		if !pause(ctx, wait, d.remakes) {
			return
		}
	}
}

// nextLoss is the stack whose image is to be made again now, the one that has waited
// longest; without one, how long to wait.
func (d *Deployer) nextLoss() (due mesh.StackName, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.Now()
	wait = mostAgain
	var first time.Time
	for name, l := range d.losses {
		fl := d.fleets[name]
		switch {
		case fl == nil || fl.release.Number != l.release:
			delete(d.losses, name) // destroyed, or deployed anew
			continue
		case fl.stack.Stopped:
			l.down = false // its start makes it
		}
		if !l.down || l.hopeless {
			continue
		}
		if left := l.next.Sub(now); left > 0 {
			wait = min(wait, left)
		} else if due == "" || l.next.Before(first) || l.next.Equal(first) && name < due {
			due, first = name, l.next
		}
	}
	return due, wait
}

// remake makes the image of a stack's current release again, and a release of it.
func (d *Deployer) remake(ctx context.Context, stack mesh.StackName) {
	d.mu.Lock()
	l := d.losses[stack]
	if l == nil {
		d.mu.Unlock()
		return
	}
	l.busy = true
	d.mu.Unlock()
	d.resetBranch(ctx, stack)
	var err error
	if len(d.tickets(stack)) > 0 {
		err = errBusyStack // what is under way may bring another release
	} else {
		err = d.restore(ctx, stack, self, nil)
	}
	if errors.Is(err, errImageBack) { // another stack's build made the same one, or somebody loaded it
		d.mu.Lock()
		d.foundLocked(stack)
		d.mu.Unlock()
		d.resetBranch(ctx, stack)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l.busy = false
	if d.losses[stack] != l || err == nil {
		if d.losses[stack] == l {
			delete(d.losses, stack)
		}
		return
	}
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, errBusyStack) || errors.Is(err, mesh.Unavailable) {
		l.next = d.Now().Add(firstAgain)
		l.why = reason(err)
		return
	}
	l.fails++
	wait := min(firstAgain<<min(l.fails-1, 10), mostAgain)
	l.next, l.why = d.Now().Add(wait), reason(err)
	var e *mesh.Error
	if errors.As(err, &e) && e.Kind == mesh.NotFound {
		l.hopeless, l.why = true, cmp.Or(e.Hint, e.Text)
	}
	d.note(stack, "image", "%s", l.text(d.Now()))
}

var (
	errBusyStack = mesh.Errorf(mesh.Conflict, "another deployment is under way")
	errImageBack = mesh.Errorf(mesh.Conflict, "the image is there again")
)

// restore makes a release that stands in for the current one, whose image is gone.
func (d *Deployer) restore(ctx context.Context, stack mesh.StackName, by mesh.KeyName, out io.Writer) error {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	lost, err := d.Store.Release(ctx, stack, st.Current)
	if err != nil {
		return err
	}
	if ok, err := d.Builder.Present(ctx, lost.Image.ID); err != nil {
		return err
	} else if ok {
		return errImageBack
	}
	if _, ok := d.origin(ctx, lost); !ok && lost.Image.Digest == "" {
		return d.goneError(ctx, lost) // no deployment that could only fail
	}
	text := againText(lost)
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployRebuild, By: by, Subject: text}
	return d.rerelease(ctx, dep, out, text, func(ctx context.Context, _ *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		cur, err := d.Store.Release(ctx, stack, st.Current)
		if err != nil {
			return nil, err
		}
		// What was recorded and not released yet stays so.
		r.Config, r.Formation, r.Services = cur.Config, cur.Formation, cur.Services
		return nil, nil
	})
}
