package deploy

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"

	"mesh"
)

// maxAttachments limits the add-ons of a stack.
const maxAttachments = 50

// AttachAddon lets a stack reach an add-on, and tells its app the URL in config vars. If
// the stack runs, that is a new release, whose instances can use it from their start; if it
// fails, nothing changes. An empty name is the kind's own.
func (d *Deployer) AttachAddon(ctx context.Context, stack mesh.StackName, by mesh.KeyName, at mesh.Attachment, out io.Writer) (mesh.Attachment, error) {
	a, release, err := d.claimReady(ctx, at.Addon, "attached")
	if err != nil {
		return at, err
	}
	defer release()
	if at.As == "" {
		k, err := d.AddonServer.Kind(string(a.Kind))
		if err != nil {
			return at, err
		}
		at.As = k.As
	}
	vars, err := d.AddonServer.Vars(a, at)
	if err != nil {
		return at, err
	}
	change := func(s mesh.Stack, _ mesh.Release) (mesh.Stack, error) { return attached(s, at, vars) }
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return at, err
	}
	if _, err := change(st, mesh.Release{}); err != nil {
		return at, err
	}
	back := d.lend(stack, at.Addon)
	defer back()
	if err := d.AddonServer.Reach(ctx, a); err != nil {
		return at, err
	}
	err = d.reattach(ctx, stack, by, "Attach "+string(at.Addon), mesh.ConfigChange{Set: vars}, out, change)
	if err != nil {
		back()
		d.reachLater(ctx, a)
	}
	return at, err
}

// attached returns the stack with another attachment.
func attached(s mesh.Stack, at mesh.Attachment, vars mesh.Config) (mesh.Stack, error) {
	for _, o := range s.Addons {
		if o.Addon == at.Addon && o.As == at.As {
			return s, mesh.Errorf(mesh.Conflict, "%s is already attached to %s as %s", at.Addon, s.Name, at.As)
		}
		if o.As == at.As {
			return s, mesh.Errorf(mesh.Conflict, "%s already has an add-on attached as %s: %s", s.Name, at.As, o.Addon).WithHint("choose another name with --as NAME")
		}
	}
	for _, name := range vars.Names() {
		if was, had := s.Config[name]; had && !was.Equal(vars[name]) {
			return s, mesh.Errorf(mesh.Conflict, "%s already has a config var %s, which the add-on would replace", s.Name, name).
				WithHint("choose another name with --as NAME, or unset it first: ssh mesh config:unset -a %s %s", s.Name, name)
		}
	}
	if len(s.Addons) >= maxAttachments {
		return s, mesh.Errorf(mesh.Invalid, "%s has %d add-ons attached, which is the limit", s.Name, maxAttachments)
	}
	s.Addons = append(slices.Clone(s.Addons), at)
	slices.SortFunc(s.Addons, mesh.Attachment.Compare)
	return s, nil
}

// DetachAddon removes the attachments of a stack to an add-on, or the one with a name, and
// their config vars. If the stack runs, that is a new release. Old instances reach the
// add-on until they have retired.
func (d *Deployer) DetachAddon(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.AddonName, as string, out io.Writer) (gone []mesh.Attachment, err error) {
	release, err := d.claim(ctx, name, "detached")
	if err != nil {
		return nil, err
	}
	defer release()
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return nil, err
	}
	for _, at := range st.Attachment(name) {
		if as == "" || at.As == as {
			gone = append(gone, at)
		}
	}
	if len(gone) == 0 {
		return nil, mesh.Errorf(mesh.NotFound, "%s is not attached to %s", name, stack).WithHint("see what is: ssh mesh addons -a %s", stack)
	}
	a, err := d.Store.Addon(ctx, name)
	if err != nil {
		return nil, err
	}
	cfg := mesh.ConfigChange{}
	for _, at := range gone {
		vars, err := d.AddonServer.Vars(a, at)
		if err != nil {
			return nil, err
		}
		cfg.Unset = append(cfg.Unset, vars.Names()...)
	}
	slices.Sort(cfg.Unset)
	cfg.Unset = slices.Compact(cfg.Unset)
	back := d.lend(stack, name)
	err = d.reattach(ctx, stack, by, "Detach "+string(name), cfg, out, func(s mesh.Stack, _ mesh.Release) (mesh.Stack, error) {
		s.Addons = slices.DeleteFunc(slices.Clone(s.Addons), func(o mesh.Attachment) bool { return slices.Contains(gone, o) })
		return s, nil
	})
	if err != nil {
		back()
		return gone, err
	}
	d.background(func(ctx context.Context) {
		d.fleet.Left(ctx, stack)
		back()
		if ctx.Err() == nil { // otherwise the next start does it
			d.reachLater(ctx, a)
		}
	})
	return gone, nil
}

// reachLater connects an add-on with the networks of its stacks, and disconnects it from
// others. A failure is logged: the next start does it.
func (d *Deployer) reachLater(ctx context.Context, a mesh.Addon) {
	if err := d.AddonServer.Reach(context.WithoutCancel(ctx), a); err != nil {
		d.Logger.Warn("add-on not connected as recorded", "addon", a.Name, "err", err)
	}
}

// reattach changes the attachments and config vars of a stack together.
func (d *Deployer) reattach(ctx context.Context, stack mesh.StackName, by mesh.KeyName, subject string, cfg mesh.ConfigChange, out io.Writer, change func(mesh.Stack, mesh.Release) (mesh.Stack, error)) error {
	return d.relinked(ctx, stack, by, subject, cfg, out, change, func(s *mesh.Stack, next mesh.Stack) { s.Addons = next.Addons }, nil)
}

// addonVars returns the config vars that the attached add-ons of a stack give it.
func (d *Deployer) addonVars(ctx context.Context, st mesh.Stack) (mesh.Config, error) {
	all := mesh.Config{}
	for _, at := range st.Addons {
		a, err := d.Store.Addon(ctx, at.Addon)
		if err != nil {
			return nil, err
		}
		vars, err := d.AddonServer.Vars(a, at)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, vars)
	}
	return all, nil
}

// guardAddonVars refuses a change of config vars that attached add-ons give a stack.
func (d *Deployer) guardAddonVars(ctx context.Context, st mesh.Stack, c mesh.ConfigChange) error {
	if len(st.Addons) == 0 {
		return nil
	}
	vars, err := d.addonVars(ctx, st)
	if err != nil {
		return err
	}
	var touched []string
	for _, name := range vars.Names() {
		set, isSet := c.Set[name]
		if isSet && !set.Equal(st.Config[name]) || slices.Contains(c.Unset, name) || c.Replace && !isSet {
			touched = append(touched, name)
		}
	}
	if len(touched) == 0 {
		return nil
	}
	owner := st.Addons[0].Addon
	for _, at := range st.Addons {
		if strings.HasPrefix(touched[0], at.As+"_") {
			owner = at.Addon
		}
	}
	return mesh.Errorf(mesh.Conflict, "%s belongs to the add-on %s, which is attached to %s", strings.Join(touched, ", "), owner, st.Name).
		WithHint("detach it first: ssh mesh addons:detach %s -a %s; or give one service another value: ssh mesh svc:update -a %s SERVICE --env NAME=VALUE", owner, st.Name, st.Name)
}
