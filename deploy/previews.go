package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"mesh"
	"mesh/deploy/fleet"
)

// A preview is a stack that a push to a branch creates, and that goes with the branch. It
// has no repository: its commits are in the one of the stack that it belongs to, where its
// branch is at the commit of its current release.

// pushTarget returns the stack that a push to a branch of a stack deploys, and whether it
// exists: the stack itself, or the preview of the branch.
func (d *Deployer) pushTarget(ctx context.Context, stack mesh.StackName, branch string) (target mesh.StackName, exists bool, err error) {
	st, err := d.Store.Stack(ctx, stack)
	if errors.Is(err, mesh.NoStack) {
		return stack, false, nil
	}
	if err != nil || branch == "" || st.Settings.Branch == "" || st.Settings.Branch == branch {
		return stack, true, err
	}
	p, ok, err := d.preview(ctx, stack, branch)
	return p.Name, ok, err
}

// preview returns the preview of a branch.
func (d *Deployer) preview(ctx context.Context, of mesh.StackName, branch string) (st mesh.Stack, ok bool, err error) {
	all, err := d.Store.Previews(ctx, of)
	if i := slices.IndexFunc(all, func(s mesh.Stack) bool { return s.Preview.Branch == branch }); i >= 0 {
		return all[i], true, err
	}
	return mesh.Stack{}, false, err
}

// pushedPreview returns the preview that a push deploys, and records the push. It creates
// the preview if it does not exist. It returns no name for a push that deploys the stack
// itself.
func (d *Deployer) pushedPreview(ctx context.Context, p mesh.Push, out io.Writer) (mesh.StackName, error) {
	name, exists, err := d.pushTarget(ctx, p.Stack, p.Branch)
	if err != nil || name == p.Stack {
		return "", err
	}
	if exists && p.DryRun {
		return name, nil
	}
	if exists {
		st, err := d.Store.UpdateStack(ctx, name, func(s *mesh.Stack) error {
			if s.Preview == nil {
				return mesh.Errorf(mesh.Conflict, "%s is not a preview any more", name)
			}
			next := *s.Preview
			next.Pushed = d.Now().UTC()
			s.Preview = &next
			return nil
		})
		return st.Name, err
	}
	st, err := d.createPreview(ctx, p, out)
	return st.Name, err
}

// mayTry refuses a push that changes nothing, or nothing yet, if it would create a preview, and perhaps
// destroy another one for it.
func (d *Deployer) mayTry(ctx context.Context, p mesh.Push) error {
	if !p.DryRun && !p.NoSwitch {
		return nil
	}
	name, exists, err := d.pushTarget(ctx, p.Stack, p.Branch)
	if err != nil || exists || name == p.Stack {
		return err
	}
	option := "no-switch"
	if p.DryRun {
		option = "dry-run"
	}
	return mesh.Errorf(mesh.Invalid, "%s has no preview of %s yet, and -o %s does not create one", p.Stack, mesh.Clip(p.Branch, 60), option).WithHint("push without the option first")
}

// createPreview creates the preview of a branch, and makes room for it.
func (d *Deployer) createPreview(ctx context.Context, p mesh.Push, out io.Writer) (st mesh.Stack, err error) {
	parent, err := d.Store.Stack(ctx, p.Stack)
	if err != nil {
		return st, err
	}
	vars, err := d.addonVars(ctx, parent)
	if err != nil {
		return st, err
	}
	next := newPreview(parent, p, vars, d.Now().UTC())
	for _, next.Name = range mesh.PreviewNames(parent.Name, p.Branch) {
		for {
			st, err = d.createBelow(ctx, parent, next)
			if !errors.Is(err, errNoRoom) {
				break
			}
			gone, rerr := d.makeRoom(ctx, parent)
			if rerr != nil {
				return st, rerr
			}
			_, _ = fmt.Fprintf(out, "-----> Destroyed the preview %s: it was unused for longest, and previews-max is %d\n", gone, parent.Effective().PreviewsMost())
		}
		if err == nil {
			d.Audit(ctx, p.By, st.Name, fmt.Sprintf("preview of %s, branch %s", parent.Name, p.Branch), nil)
			return st, nil
		}
		if !errors.Is(err, mesh.Conflict) {
			return st, err
		}
		// The name is taken: perhaps by the same branch, a moment ago.
		if other, ok, perr := d.preview(ctx, parent.Name, p.Branch); perr != nil || ok {
			return other, perr
		}
	}
	return st, err
}

// errNoRoom is returned when a stack has all the previews that it may have.
var errNoRoom = errors.New("there are previews-max previews")

// createBelow creates a preview unless the stack that it belongs to is gone, or has all the
// previews that it may have.
func (d *Deployer) createBelow(ctx context.Context, parent, next mesh.Stack) (mesh.Stack, error) {
	return d.createIf(ctx, next, func(taken []mesh.Stack) error {
		have, there := 0, false
		for _, o := range taken {
			there = there || o.Name == parent.Name
			if o.Preview != nil && o.Preview.Of == parent.Name {
				have++
			}
		}
		switch {
		case !there:
			return mesh.Errorf(mesh.NoStack, "%s was destroyed or renamed in the meantime", parent.Name).WithHint("push again")
		case have >= parent.Effective().PreviewsMost():
			return errNoRoom
		}
		return nil
	})
}

// newPreview returns the record of a new preview, without its name: the settings, the
// services, the access rules and the links of the stack that it belongs to; its config vars
// without those for production only and without those of its add-ons, below those for
// previews. Alerts are off: whoever pushes sees what fails.
func newPreview(parent mesh.Stack, p mesh.Push, addons mesh.Config, now time.Time) mesh.Stack {
	config := func(c mesh.Config) mesh.Config {
		c = c.Clone()
		maps.DeleteFunc(c, func(name string, _ mesh.Secret) bool { return slices.Contains(parent.ProductionOnly, name) })
		return c
	}
	next := mesh.Stack{
		CreatedBy: p.By, Settings: parent.Settings, ReleaseCommand: slices.Clone(parent.ReleaseCommand),
		Config: parent.PreviewConfig.Over(config(parent.Config).Without(addons)),
		Access: parent.Access.Clone(), Links: slices.Clone(parent.Links), Alerts: mesh.NoAlerts(),
		Preview: &mesh.Preview{Of: parent.Name, Branch: p.Branch, Pushed: now},
	}
	for name, set := range parent.Services {
		if next.Services == nil {
			next.Services = map[mesh.ServiceName]mesh.ServiceSettings{}
		}
		set.Config = config(set.Config).Without(parent.PreviewConfig) // it wins over everything
		next.Services[name] = set
	}
	_ = next.Settings.Set("canary", "off") // nobody else uses it, whatever the tree declares
	next.Settings.Branch, next.Settings.Previews, next.Settings.PreviewsTTL, next.Settings.PreviewsMax, next.Settings.PreviewsAddons = p.Branch, nil, 0, 0, ""
	return next
}

// makeRoom destroys the preview of a stack that has not been used for longest.
func (d *Deployer) makeRoom(ctx context.Context, parent mesh.Stack) (mesh.StackName, error) {
	all, err := d.Store.Previews(ctx, parent.Name)
	if err != nil {
		return "", err
	}
	all = slices.DeleteFunc(all, func(s mesh.Stack) bool { return s.Preview.Kept || len(d.lanes.tickets(s.Name)) > 0 })
	if len(all) == 0 {
		return "", mesh.Errorf(mesh.Conflict, "%s has %d previews, which is the limit, and all of them are kept or in use", parent.Name, parent.Effective().PreviewsMost()).
			WithHint("destroy one: ssh mesh previews:destroy BRANCH -a %[1]s; or allow more: ssh mesh build:set previews-max=20 -a %[1]s", parent.Name)
	}
	used := func(s mesh.Stack) time.Time {
		if d.LastUse == nil {
			return s.Preview.Pushed
		}
		last, _ := d.LastUse(s.Name)
		return laterOf(last, s.Preview.Pushed)
	}
	oldest := slices.MinFunc(all, func(a, b mesh.Stack) int { return used(a).Compare(used(b)) })
	return oldest.Name, d.DestroyStack(ctx, oldest.Name, self)
}

// EndPreview destroys the preview of a branch that was deleted. There may be none.
func (d *Deployer) EndPreview(ctx context.Context, of mesh.StackName, branch string, by mesh.KeyName, out io.Writer) error {
	st, ok, err := d.preview(ctx, of, branch)
	if err != nil || !ok {
		return err
	}
	err = d.DestroyStack(ctx, st.Name, by)
	d.Audit(ctx, by, st.Name, "previews:destroy "+branch, err)
	if err == nil {
		_, _ = fmt.Fprintf(out, "=====> Destroyed the preview %s\n", st.Name)
	}
	return err
}

// KeepPreview keeps a preview from expiring and from making room for another one, or no
// longer does.
func (d *Deployer) KeepPreview(ctx context.Context, name mesh.StackName, keep bool) (mesh.Stack, error) {
	return d.Store.UpdateStack(ctx, name, func(s *mesh.Stack) error {
		if s.Preview == nil {
			return mesh.Errorf(mesh.Invalid, "%s is not a preview", name)
		}
		next := *s.Preview
		next.Kept = keep
		if !keep {
			next.Pushed = d.Now().UTC() // it would otherwise often be gone at once
		}
		s.Preview = &next
		return nil
	})
}

// previewTick is how often mesh looks for previews whose time is over.
const previewTick = time.Minute

// expirePreviews destroys previews whose time is over, and those of destroyed stacks, until
// ctx ends.
func (d *Deployer) expirePreviews(ctx context.Context) {
	for {
		if err := d.expirePreviewsOnce(ctx); err != nil && ctx.Err() == nil {
			d.Logger.Warn("previews not looked through; the next try is in a minute", "err", err)
		}
		if !fleet.Wait(ctx, previewTick, nil) {
			return
		}
	}
}

func (d *Deployer) expirePreviewsOnce(ctx context.Context) error {
	all, err := d.Store.Previews(ctx, "")
	if err != nil {
		return err
	}
	for _, st := range all {
		parent, perr := d.Store.Stack(ctx, st.Preview.Of)
		var why string
		switch {
		case errors.Is(perr, mesh.NoStack):
			why = fmt.Sprintf("%s does not exist any more", st.Preview.Of)
		case perr != nil: // its record is damaged, and may be mended
			continue
		case st.Preview.Kept, d.Now().Sub(st.Preview.Pushed) < parent.Effective().PreviewsLive(), len(d.lanes.tickets(st.Name)) > 0:
			continue
		default:
			why = fmt.Sprintf("nobody pushed to %s for %s", mesh.Clip(mesh.Visible(st.Preview.Branch), 60), mesh.FormatAge(parent.Effective().PreviewsLive()))
		}
		derr := d.DestroyStack(ctx, st.Name, self)
		d.Audit(ctx, self, st.Name, "preview expired: "+why, derr)
		d.note(st.Preview.Of, "preview", "%s is destroyed: %s", st.Name, why)
		err = errors.Join(err, derr)
	}
	return errors.Join(err, d.dropPreviewAddons(ctx), d.expireStaged(ctx))
}

// destroyPreviews destroys the previews of a stack that is being destroyed.
func (d *Deployer) destroyPreviews(ctx context.Context, of mesh.StackName, by mesh.KeyName) error {
	all, err := d.Store.Previews(ctx, of)
	for _, st := range all {
		if derr := d.DestroyStack(ctx, st.Name, by); !errors.Is(derr, mesh.NoStack) {
			err = errors.Join(err, derr)
		}
	}
	return err
}

// reviewed applies what app.json declares for previews (environments.review). Its values
// win over inherited config vars when the preview is new, and lose against those of
// config:set --previews. A preview has one instance of each service, and its postdeploy
// command runs once.
func (d *Deployer) reviewed(ctx context.Context, st mesh.Stack, src *source) (mesh.Stack, error) {
	m := &src.manifest
	m.Formation = nil
	if st.Current > 0 {
		m.Postdeploy = ""
		return st, nil
	}
	if m.Review.Postdeploy != "" {
		m.Postdeploy = m.Review.Postdeploy
	}
	if len(m.Review.Vars) == 0 {
		return st, nil
	}
	parent, err := d.Store.Stack(ctx, st.Preview.Of)
	if err != nil {
		return st, err
	}
	vars := maps.Clone(m.Vars)
	src.review = mesh.Config{}
	for name, v := range m.Review.Vars {
		vars[name] = v
		if _, said := parent.PreviewConfig[name]; said || v.Value == "" {
			continue
		}
		value := mesh.NewSecret(v.Value)
		if err := mesh.CheckVar(name, value); err != nil {
			return st, fmt.Errorf("app.json: environments.review: %w", err)
		}
		src.review[name] = value
	}
	m.Vars = vars
	st.Config = src.review.Over(st.Config)
	st.Services = servicesWithout(st.Services, src.review)
	return st, nil
}

// servicesWithout returns services without their own values of some config vars, which would win.
func servicesWithout(services map[mesh.ServiceName]mesh.ServiceSettings, c mesh.Config) map[mesh.ServiceName]mesh.ServiceSettings {
	out := maps.Clone(services)
	for name, set := range out {
		set.Config = set.Config.Without(c)
		out[name] = set
	}
	return out
}

// SetPreviewConfig changes the config vars that new previews of a stack get, over those of
// the stack. It returns the names that have changed.
func (d *Deployer) SetPreviewConfig(ctx context.Context, stack mesh.StackName, c mesh.ConfigChange) (changed []string, err error) {
	for name, v := range c.Set {
		if err := mesh.CheckVar(name, v); err != nil {
			return nil, err
		}
	}
	_, err = d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) (err error) {
		s.PreviewConfig, changed, err = altered(c, s.PreviewConfig, func(name string) error {
			return mesh.Errorf(mesh.NotFound, "%s has no config var %s for previews", s.Name, mesh.Clip(name, 60)).WithHint("list them with: ssh mesh config -a %s --previews", s.Name)
		})
		if size := s.PreviewConfig.Over(s.Config).Size(); err == nil && size > maxConfig {
			err = mesh.Errorf(mesh.Invalid, "the config vars of previews of %s would be %d bytes long; the limit is %d", s.Name, size, maxConfig).
				WithHint("keep large values in a file of the image, or in a data store")
		}
		return err
	})
	return changed, err
}

// MarkProduction marks config vars that previews do not get, or removes the marks. undo
// takes back what it has changed.
func (d *Deployer) MarkProduction(ctx context.Context, stack mesh.StackName, names []string, only bool) (undo func(context.Context), err error) {
	var changed []string
	mark := func(s *mesh.Stack, names []string, only bool) {
		marks := slices.DeleteFunc(slices.Clone(s.ProductionOnly), func(n string) bool { return slices.Contains(names, n) })
		if only {
			marks = append(marks, names...)
			slices.Sort(marks)
			marks = slices.Compact(marks)
		}
		s.ProductionOnly = marks
	}
	_, err = d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error {
		changed = nil
		for _, n := range names {
			if _, err := mesh.ParseVarName(n); err != nil {
				return err
			}
			if slices.Contains(s.ProductionOnly, n) != only {
				changed = append(changed, n)
			}
		}
		mark(s, names, only)
		return nil
	})
	return func(ctx context.Context) {
		if len(changed) == 0 {
			return
		}
		if _, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error { mark(s, changed, !only); return nil }); err != nil {
			d.Logger.Warn("marks of config vars not taken back", "stack", stack, "err", err)
		}
	}, err
}

// kin returns the stacks whose images a build of st may use: its previews, or those with
// which it shares a repository.
func (d *Deployer) kin(ctx context.Context, st mesh.Stack) (kin []mesh.Kin, err error) {
	previews, err := d.Store.Previews(ctx, st.Repository())
	if err != nil {
		return nil, err
	}
	for _, o := range append(previews, mesh.Stack{Name: st.Repository()}) {
		if o.Name != st.Name {
			kin = append(kin, mesh.Kin{Stack: o.Name, Times: timeKeeper{d.Store, o.Name}})
		}
	}
	return kin, nil
}
