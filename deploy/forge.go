package deploy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// A stack can follow a repository at a forge. A webhook only says which branch to look at:
// what is there now counts, however many events came, in whatever order, and whoever sent an
// old one again. The branch is recorded before the webhook is answered, and until it was
// looked at, so that a crash loses none.

// forgeKey is who deploys what a forge has told of.
const forgeKey mesh.KeyName = "forge"

// Reporter shows at a forge how deployments fare.
type Reporter interface {
	// Report does nothing without a token. It returns a *mesh.Error if the forge refuses.
	Report(ctx context.Context, f mesh.Forge, s mesh.ForgeStatus) error
}

// forges are the stacks with branches to look at. It may be used from several goroutines.
type forges struct {
	mu   sync.Mutex
	busy map[mesh.StackName]bool
	wake map[mesh.StackName]chan struct{}
	turn map[mesh.StackName]chan struct{} // holds a value while somebody looks at a branch
	told map[forgeBranch]uint64           // when somebody last asked to look, by seq
	seq  uint64
}

// forgeBranch is a branch of the repository that a stack follows.
type forgeBranch struct {
	stack mesh.StackName
	name  string
}

// tell says that a branch may have changed. Call it before that is recorded: who settles the branch
// looks at asked after it has read what is there, and forgets the branch only if that is the same.
func (f *forges) tell(stack mesh.StackName, branch string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.told == nil {
		f.told = map[forgeBranch]uint64{}
	}
	f.seq++
	f.told[forgeBranch{stack, branch}] = f.seq
}

// asked returns a number that is another one after each call of tell.
func (f *forges) asked(stack mesh.StackName, branch string) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.told[forgeBranch{stack, branch}]
}

// alone waits until nobody else looks at a branch of a stack. Call done afterwards.
func (f *forges) alone(ctx context.Context, stack mesh.StackName) (done func(), err error) {
	f.mu.Lock()
	if f.turn == nil {
		f.turn = map[mesh.StackName]chan struct{}{}
	}
	turn := f.turn[stack]
	if turn == nil {
		turn = make(chan struct{}, 1)
		f.turn[stack] = turn
	}
	f.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// claim returns false if somebody looks at a stack's branches already, and will look again.
func (f *forges) claim(stack mesh.StackName) (wake chan struct{}, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy == nil {
		f.busy, f.wake = map[mesh.StackName]bool{}, map[mesh.StackName]chan struct{}{}
	}
	if f.busy[stack] {
		select {
		case f.wake[stack] <- struct{}{}:
		default:
		}
		return nil, false
	}
	f.busy[stack], f.wake[stack] = true, make(chan struct{}, 1)
	return f.wake[stack], true
}

// leave reports whether nothing has come since; otherwise the caller goes on.
func (f *forges) leave(stack mesh.StackName) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.wake[stack]:
		return false
	default:
	}
	delete(f.busy, stack)
	delete(f.wake, stack)
	return true
}

// FollowForge makes a stack follow a repository, which it looks at now. An empty branch is
// the deploy branch, or main. The secret of its webhooks stays if it follows one already.
func (d *Deployer) FollowForge(ctx context.Context, stack mesh.StackName, url, branch string) (mesh.Stack, error) {
	url, err := mesh.ParseForgeURL(url)
	if err != nil {
		return mesh.Stack{}, err
	}
	if branch != "" {
		if err := new(mesh.Settings).Set("branch", branch); err != nil {
			return mesh.Stack{}, err
		}
	}
	// A host that is away may be there later; one that is refused will not be allowed.
	if err := d.Repos.MayFetch(ctx, url); errors.Is(err, mesh.Denied) || errors.Is(err, mesh.Invalid) {
		return mesh.Stack{}, err
	}
	st, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error {
		if s.Preview != nil {
			return mesh.Errorf(mesh.Invalid, "%s is a preview: the stack that it belongs to follows a repository", stack)
		}
		next := mesh.Forge{URL: url, Branch: branch}
		if was := s.Forge; was != nil {
			next.Secret = was.Secret
			if was.URL == url {
				next.Token, next.Kind, next.Event = was.Token, was.Kind, was.Event
			}
		} else {
			next.Secret = newForgeSecret()
		}
		s.Forge = next.With(followed(*s, next))
		d.forges.tell(stack, followed(*s, next))
		return nil
	})
	if err == nil {
		d.toldKeys(ctx) // mesh's own host needs a certificate
		d.lookAtForge(stack)
	}
	return st, err
}

func newForgeSecret() mesh.Secret { return mesh.NewSecret(strings.ToLower(rand.Text() + rand.Text())) }

// followed is the branch that a stack deploys.
func followed(s mesh.Stack, f mesh.Forge) string {
	switch {
	case f.Branch != "":
		return f.Branch
	case s.Settings.Branch != "":
		return s.Settings.Branch
	}
	return "main"
}

func followsNone(stack mesh.StackName) error {
	return mesh.Errorf(mesh.NotFound, "%s follows no repository", stack).WithHint("ssh mesh git:follow -a %s URL", stack)
}

// changeForge changes what a stack follows.
func (d *Deployer) changeForge(ctx context.Context, stack mesh.StackName, change func(*mesh.Stack, mesh.Forge) *mesh.Forge) (mesh.Stack, error) {
	return d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error {
		if s.Forge == nil {
			return followsNone(stack)
		}
		s.Forge = change(s, *s.Forge)
		return nil
	})
}

// UnfollowForge ends that.
func (d *Deployer) UnfollowForge(ctx context.Context, stack mesh.StackName) error {
	_, err := d.changeForge(ctx, stack, func(*mesh.Stack, mesh.Forge) *mesh.Forge { return nil })
	return err
}

// SetForgeToken sets the token for commit statuses; an empty one removes it.
func (d *Deployer) SetForgeToken(ctx context.Context, stack mesh.StackName, token mesh.Secret) error {
	_, err := d.changeForge(ctx, stack, func(_ *mesh.Stack, f mesh.Forge) *mesh.Forge { f.Token = token; return &f })
	return err
}

// RotateForgeSecret replaces the secret of a stack's webhooks.
func (d *Deployer) RotateForgeSecret(ctx context.Context, stack mesh.StackName) (mesh.Stack, error) {
	return d.changeForge(ctx, stack, func(_ *mesh.Stack, f mesh.Forge) *mesh.Forge { f.Secret = newForgeSecret(); return &f })
}

// ForgeSecret returns the secret of a stack's webhooks; ok is false if it follows none, or does
// not exist.
func (d *Deployer) ForgeSecret(ctx context.Context, stack mesh.StackName) (secret mesh.Secret, ok bool, err error) {
	st, err := d.Store.Stack(ctx, stack)
	switch {
	case errors.Is(err, mesh.NoStack):
		return mesh.Secret{}, false, nil
	case err != nil || st.Forge == nil:
		return mesh.Secret{}, false, err
	}
	return st.Forge.Secret, true, nil
}

// maxForgePending limits the branches that wait to be looked at. It is more than a forge
// tells of between two looks.
const maxForgePending = 1000

// ForgeEvent records what a webhook reports. Once it has returned, a crash cannot lose it. The
// work follows in the background.
func (d *Deployer) ForgeEvent(ctx context.Context, stack mesh.StackName, e mesh.ForgeEvent) error {
	if e.Branch != "" {
		d.forges.tell(stack, e.Branch)
	}
	_, err := d.changeForge(ctx, stack, func(s *mesh.Stack, f mesh.Forge) *mesh.Forge {
		f.Kind, f.Event = e.Kind, d.Now().UTC()
		if e.Branch == "" || len(f.Pending) >= maxForgePending || !d.concerns(*s, f, e.Branch) {
			return &f
		}
		return f.With(e.Branch)
	})
	if err == nil && e.Branch != "" {
		d.lookAtForge(stack)
	}
	return err
}

// concerns reports whether a branch of the followed repository matters. One with the name of the
// deploy branch has no preview, though another one may be followed.
func (d *Deployer) concerns(s mesh.Stack, f mesh.Forge, branch string) bool {
	return branch == followed(s, f) || branch != s.Settings.Branch && s.Effective().Previewed(branch)
}

// resumeForges looks at what stacks follow when the server starts: webhooks may have been
// missed.
func (d *Deployer) resumeForges(ctx context.Context) {
	stacks, err := d.Store.Stacks(ctx)
	if err != nil {
		d.Logger.Warn("followed repositories not looked at", "err", err)
		return
	}
	for _, st := range stacks {
		if st.Forge == nil {
			continue
		}
		previews, err := d.Store.Previews(ctx, st.Name)
		if err != nil {
			continue
		}
		_, err = d.changeForge(ctx, st.Name, func(s *mesh.Stack, f mesh.Forge) *mesh.Forge {
			next := f.With(followed(*s, f))
			for _, p := range previews {
				if p.CreatedBy == forgeKey { // the forge may never have had the branches of the others
					next = next.With(p.Preview.Branch)
				}
			}
			return next
		})
		if err == nil {
			d.lookAtForge(st.Name)
		}
	}
}

// lookAtForge looks at the pending branches of a stack in the background, one at a time.
func (d *Deployer) lookAtForge(stack mesh.StackName) {
	wake, ok := d.forges.claim(stack)
	if !ok {
		return
	}
	d.background(func(ctx context.Context) {
		tries, deployed := forgeTries{}, false
		for {
			st, err := d.Store.Stack(ctx, stack)
			if err != nil || st.Forge == nil || len(st.Forge.Pending) == 0 {
				if d.forges.leave(stack) {
					return
				}
				continue
			}
			if !deployed && st.Settings.Branch != "" { // the others may have waited for it
				tries.now()
				deployed = true
			}
			branch, wait := tries.next(st.Forge.Pending, d.Now())
			if wait > 0 {
				if !fleet.Wait(ctx, wait, wake) {
					return
				}
				if _, wait = tries.next(st.Forge.Pending, d.Now()); wait > 0 { // something has come
					tries.now()
				}
				continue
			}
			asked := d.forges.asked(stack, branch)
			_ = d.lookAtBranch(ctx, stack, branch, nil) // the deployment and the stack's log have the error
			if ctx.Err() != nil {
				return
			}
			if st, err = d.Store.Stack(ctx, stack); err != nil || st.Forge == nil || !slices.Contains(st.Forge.Pending, branch) {
				delete(tries, branch)
			} else if d.forges.asked(stack, branch) == asked {
				// The forge or the engine is away, or somebody else's deployment is in the way. Other
				// branches do not wait for it.
				tries.failed(branch, d.Now())
			}
		}
	})
}

// forgeTries are the branches that could not be settled, and when the next try is.
type forgeTries map[string]forgeTry

type forgeTry struct {
	fails int
	at    time.Time
}

// next returns the branch to look at, and how long to wait before that.
func (t forgeTries) next(pending []string, now time.Time) (branch string, wait time.Duration) {
	branch = slices.MinFunc(pending, func(a, b string) int { return t[a].at.Compare(t[b].at) })
	return branch, t[branch].at.Sub(now)
}

func (t forgeTries) failed(branch string, now time.Time) {
	fails := t[branch].fails + 1
	t[branch] = forgeTry{fails, now.Add(fleet.Backoff(fails))}
}

// now makes all tries due.
func (t forgeTries) now() {
	for branch, try := range t {
		t[branch] = forgeTry{fails: try.fails}
	}
}

// lookAtBranch deploys what is in a branch of the followed repository now, or destroys the
// preview of one that is gone, and then forgets the branch. An error of kind Unavailable or
// Conflict leaves it to be looked at again.
func (d *Deployer) lookAtBranch(ctx context.Context, stack mesh.StackName, branch string, out io.Writer) (err error) {
	if out == nil {
		out = io.Discard
	}
	release, err := d.forges.alone(ctx, stack)
	if err != nil {
		return err
	}
	defer release()
	asked := d.forges.asked(stack, branch)
	st, err := d.following(ctx, stack, "")
	if err != nil {
		return err
	}
	f := *st.Forge
	done := func(fault string) {
		_, uerr := d.changeForge(context.WithoutCancel(ctx), st.Name, func(_ *mesh.Stack, now mesh.Forge) *mesh.Forge {
			if now.URL != f.URL {
				return &now // what is to be looked at is elsewhere
			}
			next := now.Without(branch)
			if d.forges.asked(stack, branch) != asked { // it may have changed since it was fetched
				next = now.With(branch)
			}
			next.Fault = mesh.ForgeFault{}
			if fault != "" {
				next.Fault = d.forgeFault(fault)
			}
			return next
		})
		if uerr != nil && !errors.Is(uerr, mesh.NotFound) && !errors.Is(uerr, mesh.NoStack) {
			d.Logger.Warn("a branch that was looked at is not forgotten", "stack", st.Name, "err", uerr)
		}
	}
	if branch != followed(st, f) && st.Settings.Branch == "" {
		return mesh.Errorf(mesh.Conflict, "%s has not deployed %s yet: previews come after that", stack, followed(st, f))
	}
	commit, err := d.Repos.Fetch(ctx, st.Name, f.URL, branch)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, mesh.Unavailable):
		if f.Fault.Why == "" {
			d.note(st.Name, noteDeploy, "%s", fleet.Reason(err))
		}
		_, _ = d.changeForge(ctx, st.Name, func(_ *mesh.Stack, now mesh.Forge) *mesh.Forge {
			now.Fault = d.forgeFault(fleet.Reason(err))
			return &now
		})
		return err
	case err != nil:
		d.note(st.Name, noteDeploy, "%s of %s is not deployed: %s", branch, f.URL, fleet.Reason(err))
		done(fleet.Reason(err))
		return err
	}
	if st, err = d.following(ctx, stack, f.URL); err != nil { // fetching may take long
		return err
	}
	own := branch == followed(st, f)
	if commit == "" {
		if !own {
			err = d.EndPreview(ctx, st.Name, branch, forgeKey, out)
		} else {
			err = mesh.Errorf(mesh.NotFound, "%s has no branch %s", f.URL, branch).WithHint("follow another one: ssh mesh git:follow -a %s %s --branch NAME", st.Name, f.URL)
		}
		done(reasonOf(err))
		return err
	}
	to := branch
	if own && st.Settings.Branch != "" {
		to = st.Settings.Branch
	}
	if !own && (branch == st.Settings.Branch || !st.Effective().Previewed(branch)) {
		done("")
		return nil
	}
	if state, serr := d.RepoState(ctx, st.Name); serr == nil && state.Head(to) == commit {
		_, _ = fmt.Fprintf(out, "%s is at %s already\n", branch, commit.Short())
		done("")
		return nil
	}
	if found, ferr := d.Follow(ctx, st.Name, to, commit, out); found && !errors.Is(ferr, mesh.Conflict) {
		return ferr // whoever deploys it sees to the rest
	}
	status := mesh.ForgeStatus{Context: "mesh/" + string(st.Name), Stack: st.Name, Commit: commit, Branch: branch, Preview: !own, State: mesh.ForgePending, Text: "is being deployed"}
	if !own {
		status.Context += "/preview"
	}
	if own && st.Lock != nil {
		return locked(st) // without a deployment that fails, again and again; unlock looks
	}
	d.reportForge(ctx, f, status)
	if _, err := d.following(ctx, stack, f.URL); err != nil { // it may have been destroyed: a push would create it
		return err
	}
	err = d.Push(ctx, mesh.Push{Stack: st.Name, By: forgeKey, Branch: to, Commit: commit}, out)
	_, there, terr := d.pushTarget(ctx, st.Name, to)
	refused := errors.Is(err, mesh.Conflict) && terr == nil && !there // a preview that may not be
	if ctx.Err() != nil || errors.Is(err, mesh.Conflict) && !refused || errors.Is(err, mesh.Unavailable) {
		return err // not judged: it is tried again
	}
	d.resetBranch(ctx, st.Name)
	if target, _, terr := d.pushTarget(ctx, st.Name, to); terr == nil && target != "" {
		status.Stack = target
	}
	if status.State, status.Text = mesh.ForgeSuccess, "is live"; err != nil {
		status.State, status.Text = mesh.ForgeFailure, fleet.Reason(err)
	} else {
		status.URL = d.url(status.Stack)
	}
	d.reportForge(ctx, f, status)
	if refused {
		done(fleet.Reason(err))
		return err
	}
	done("")
	return err
}

// following returns a stack that follows a repository: the one with a URL, or with an empty one any.
func (d *Deployer) following(ctx context.Context, stack mesh.StackName, url string) (mesh.Stack, error) {
	st, err := d.Store.Stack(ctx, stack)
	switch {
	case err != nil:
		return st, err
	case st.Forge == nil:
		return st, followsNone(stack)
	case url != "" && st.Forge.URL != url:
		return st, mesh.Errorf(mesh.Conflict, "%s follows another repository meanwhile", stack)
	}
	return st, nil
}

func (d *Deployer) forgeFault(why string) mesh.ForgeFault {
	return mesh.ForgeFault{At: d.Now().UTC(), Why: mesh.Clip(why, 300)}
}

func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	return fleet.Reason(err)
}

// reportForge shows a status at the forge. That it cannot is no reason to fail.
func (d *Deployer) reportForge(ctx context.Context, f mesh.Forge, s mesh.ForgeStatus) {
	if d.Reporter == nil {
		return
	}
	if err := d.Reporter.Report(ctx, f, s); err != nil && ctx.Err() == nil {
		d.note(s.Stack, noteDeploy, "the status of %s is not shown at its forge: %s", s.Commit.Short(), fleet.Reason(err))
		d.Logger.Warn("commit status not set", "stack", s.Stack, "commit", s.Commit.Short(), "err", err)
	}
}

// SyncForge looks at a branch of the followed repository now, and waits for what comes of
// it. An empty branch is the one that the stack deploys.
func (d *Deployer) SyncForge(ctx context.Context, stack mesh.StackName, branch string, out io.Writer) error {
	st, err := d.following(ctx, stack, "")
	if err != nil {
		return err
	}
	if branch == "" {
		branch = followed(st, *st.Forge)
	}
	if !d.concerns(st, *st.Forge, branch) && !slices.Contains(st.Forge.Pending, branch) {
		return mesh.Errorf(mesh.Invalid, "%s neither deploys %s nor has previews of it", stack, mesh.Clip(mesh.Visible(branch), 60)).WithHint("for previews: ssh mesh build:set -a %s previews=true", stack)
	}
	err = d.lookAtBranch(ctx, stack, branch, out)
	if now, serr := d.Store.Stack(ctx, stack); serr == nil && now.Forge != nil && slices.Contains(now.Forge.Pending, branch) {
		d.lookAtForge(stack) // it may have changed meanwhile
	}
	return err
}
