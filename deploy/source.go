package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mesh"
	"mesh/deploy/manifest"
)

// source is where a deployment gets its image from.
type source struct {
	repo        mesh.StackName // whose repository has the commit and its tree; empty: tree, from or image is given
	commit      mesh.Commit
	branch      string                 // of a push
	gitTag      string                 // of a push that deploys a tag
	tree        mesh.Tree              // nil: a prebuilt image
	from        mesh.From              // the prebuilt image
	image       *mesh.Image            // an existing image: nothing is built
	global      mesh.Config            // the config vars of all stacks
	declared    mesh.Declared          // by the tree, or by the release that has the image
	manifest    manifest.Manifest      // of the tree
	review      mesh.Config            // values that app.json has for a new preview, over those of the stack
	force       bool                   // build even if no watched file changed
	fresh       bool                   // build even what was built before
	dockerfile  string                 // overrides the stack's setting
	tag         string                 // the part of the image's name after the colon
	description string                 // of the release
	text        string                 // of the release: its origin, if not a push
	noCache     bool                   // build every step anew
	dryRun      bool                   // build, then stop
	canary      string                 // of a push option
	noSwitch    bool                   // leave it beside the current release
	admit       func(mesh.Stack) error // may refuse the deployment in its turn; may be nil
	change      func(*mesh.Stack)      // changes the stack with the release; may be nil
}

// deploySource makes a release from a source and rolls it out: build, release command,
// start, check, switch. It runs in an attempt.
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
	if src.noSwitch { // before anything is built
		if err := mayStage(st, true); err != nil {
			return err
		}
	}
	if st.Preview != nil && st.Current == 0 && !src.dryRun {
		if st, err = d.previewAddons(ctx, a, st); err != nil {
			return err
		}
	}
	if a.next, err = d.nextRelease(ctx, st.Name); err != nil {
		return err
	}
	if src.global, err = d.Store.GlobalConfig(ctx); err != nil {
		return err
	}
	a.out.mask(st.Configs(), []mesh.Config{src.global})
	if src.repo != "" {
		var closeTree func()
		if src.tree, closeTree, err = d.openTree(ctx, a, src.repo, src.commit); err != nil {
			return phaseFailed("build failed", err)
		}
		defer closeTree()
	}
	config := st.Config.Over(src.global)
	if st, err = d.declared(ctx, a, st, &src); err != nil {
		return err
	}
	if skip, err := d.skipped(ctx, st, src); err != nil {
		return err
	} else if skip {
		a.dep.Status, a.dep.Ended = mesh.StatusSkipped, d.Now().UTC()
		a.out.say(fmt.Sprintf("=====> Skipped: no file that watch=%s names has changed since %s", strings.Join(st.Effective().Watch, ","), st.Current))
		a.detail("build anyway with: git push -o deploy")
		return d.Store.UpdateDeployment(ctx, a.dep)
	}
	d.tellDeclared(a, st, src.manifest, config)
	img, err := d.image(ctx, a, st, src)
	if err != nil {
		return err
	}
	d.OnStep(StepBuilt, string(st.Name))
	svcs := services(st, src.declared)
	r := d.newRelease(a, mesh.Release{
		Description: src.description, Commit: src.commit, Elsewhere: src.image != nil, Source: src.text, Declared: src.declared,
		Image: img, Config: st.Config, Global: src.global, Services: svcs, Formation: formation(st, svcs),
	})
	if _, err := specs(st, r, a.dep.Number, nil); err != nil {
		return err
	}
	if src.image != nil {
		a.tellChanges(ctx, st, r) // a promotion
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
	if src.noSwitch {
		return d.stage(ctx, a, st, r, func(s *mesh.Stack) {
			if src.change != nil {
				src.change(s)
			}
		})
	}
	plan, err := canaryOf(a, st, src.canary, r)
	if err != nil {
		return err
	}
	st.Stopped = false
	st, err = d.roll(ctx, a, rollout{stack: st, release: r, canary: plan, anew: all, commit: func(ctx context.Context, _ mesh.Stack) (mesh.Stack, error) {
		return d.commit(ctx, a, &r, func(s *mesh.Stack) error {
			if s.Lock != nil {
				return locked(*s) // it was locked after this began
			}
			src.keep(s, r.Config)
			if src.change != nil {
				src.change(s)
			}
			s.Stopped = false
			return nil
		})
	}})
	if err != nil {
		return err
	}
	d.tagRelease(context.WithoutCancel(ctx), st, r)
	if err := d.runOnce(context.WithoutCancel(ctx), a, st, r, "postdeploy", src.manifest.Postdeploy); err != nil {
		var e *mesh.Error
		if errors.As(err, &e) { // internal errors are in the log
			for _, l := range e.Output {
				a.out.line("         " + l)
			}
		}
		a.out.line(" !     " + err.Error())
		a.detail("%s is live anyway", r.Number)
	}
	a.done(st)
	return nil
}

// nextRelease returns the number of the next release.
func (d *Deployer) nextRelease(ctx context.Context, stack mesh.StackName) (mesh.ReleaseNumber, error) {
	last, err := d.Store.Releases(ctx, stack, 1)
	if err != nil || len(last) == 0 {
		return 1, err
	}
	return last[0].Number + 1, nil
}

// commit records the attempt as live, with its release if it has one.
func (d *Deployer) commit(ctx context.Context, a *attempt, r *mesh.Release, change func(*mesh.Stack) error) (mesh.Stack, error) {
	a.dep.Ended = d.Now().UTC()
	if r != nil {
		a.dep.Release = r.Number
	}
	st, err := d.Store.Commit(ctx, a.dep, r, func(s *mesh.Stack) error {
		s.Asleep = time.Time{} // whatever was deployed runs
		if change == nil {
			return nil
		}
		return change(s)
	})
	if err != nil {
		return st, err
	}
	a.dep.Status = mesh.StatusLive
	d.Logger.Info("release recorded", "stack", st.Name, "release", st.Current.String(), "deployment", int(a.dep.Number), "key", string(a.dep.By))
	return st, nil
}

// openTree opens the tree of a commit in the repository of a stack, with its
// submodules, which it fetches if they are missing. It is for a deployment in its turn,
// which has one open tree at a time.
func (d *Deployer) openTree(ctx context.Context, a *attempt, repo mesh.StackName, commit mesh.Commit) (mesh.Tree, func(), error) {
	st, err := d.Store.Stack(ctx, a.dep.Stack)
	if err != nil {
		return nil, nil, err
	}
	tree, _, closeTree, err := d.Repos.Open(ctx, repo, commit)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s of %s: %w", commit.Short(), repo, err)
	}
	if repo != st.Repository() || !slices.ContainsFunc(tree.Entries(), func(e mesh.TreeEntry) bool { return e.Module != "" }) {
		return tree, closeTree, nil
	}
	closeTree()
	a.step("fetching submodules", "Fetching submodules")
	if _, err := d.Repos.FetchModules(ctx, repo, commit, func(s string) { a.out.line("       " + s) }); err != nil {
		return nil, nil, err
	}
	tree, _, closeTree, err = d.Repos.Open(ctx, repo, commit)
	return tree, closeTree, err
}
