package deploy

import (
	"context"
	"io"
	"slices"

	"mesh"
)

// maxLinks limits the links of a stack.
const maxLinks = 100

// Resolve returns what a name means to the instances of a stack.
func (d *Deployer) Resolve(stack mesh.StackName, name string) (r mesh.Resolution, known bool) {
	return d.fleet.Resolve(stack, name)
}

// Link lets a stack reach a service of another one under a name, and tells its app the
// URL in a config var. If the stack runs, that is a new release, whose instances can use
// the link from their start; if it fails, nothing changes.
func (d *Deployer) Link(ctx context.Context, stack mesh.StackName, by mesh.KeyName, l mesh.Link, out io.Writer) error {
	if _, err := mesh.ParseLinkName(l.As); err != nil {
		return err
	}
	if l.To == stack {
		return mesh.Errorf(mesh.Invalid, "%s cannot be linked to itself", stack).WithHint("its instances reach each service by its name, such as %s", l.Service)
	}
	to, err := d.Store.Stack(ctx, l.To)
	if err != nil {
		return err
	}
	if to.Current > 0 {
		r, err := d.Store.Release(ctx, l.To, to.Current)
		if err != nil {
			return err
		}
		if _, ok := r.Services[l.Service]; !ok {
			return noService(l.To, l.Service, r)
		}
	}
	cfg := mesh.ConfigChange{Set: mesh.Config{l.Var(): mesh.NewSecret(l.URL())}}
	return d.relink(ctx, stack, by, "Link "+l.String(), cfg, out, func(s mesh.Stack, r mesh.Release) (mesh.Stack, error) {
		return linked(s, r, l)
	}, &l)
}

// linked returns the stack with another link; r is its current release, or zero.
func linked(s mesh.Stack, r mesh.Release, l mesh.Link) (mesh.Stack, error) {
	if o, ok := s.Link(l.As); ok {
		if o == l {
			return s, mesh.Errorf(mesh.Conflict, "%s is already linked to %s, at %s", s.Name, l, l.URL())
		}
		return s, mesh.Errorf(mesh.Conflict, "%s already has a link named %s, to %s", s.Name, l.As, o).WithHint("choose another name with --as NAME")
	}
	for svc := range r.Services {
		if l.As == string(svc) || l.As == string(s.Name)+"-"+string(svc) {
			return s, mesh.Errorf(mesh.Conflict, "%s is the name of a service of %s", l.As, s.Name).WithHint("choose another name with --as NAME")
		}
	}
	if l.As == string(s.Name) {
		return s, mesh.Errorf(mesh.Conflict, "%s is the name of web in %s itself", l.As, s.Name).WithHint("choose another name with --as NAME")
	}
	if was, had := s.Config[l.Var()]; had && was.Reveal() != l.URL() {
		return s, mesh.Errorf(mesh.Conflict, "%s already has a config var %s, which the link would replace", s.Name, l.Var()).
			WithHint("unset it with: ssh mesh config:unset -a %s %s; or choose another name with --as NAME", s.Name, l.Var())
	}
	if len(s.Links) >= maxLinks {
		return s, mesh.Errorf(mesh.Invalid, "%s has %d links, which is the limit", s.Name, maxLinks)
	}
	s.Links = append(slices.Clone(s.Links), l)
	slices.SortFunc(s.Links, mesh.Link.Compare)
	return s, nil
}

// Unlink removes the links of a stack to a service of another one, and their config vars
// unless somebody has changed them. It returns the links. If the stack runs, that is a
// new release.
func (d *Deployer) Unlink(ctx context.Context, stack mesh.StackName, by mesh.KeyName, to mesh.StackName, service mesh.ServiceName, out io.Writer) (gone []mesh.Link, err error) {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return nil, err
	}
	var cfg mesh.ConfigChange
	for _, l := range st.Links {
		if l.To != to || l.Service != service {
			continue
		}
		gone = append(gone, l)
		if v, had := st.Config[l.Var()]; had && v.Reveal() == l.URL() {
			cfg.Unset = append(cfg.Unset, l.Var())
		}
	}
	l := mesh.Link{To: to, Service: service}
	if len(gone) == 0 {
		return nil, mesh.Errorf(mesh.NotFound, "%s is not linked to %s", stack, l).WithHint("list its links with: ssh mesh stacks:info -a %s", stack)
	}
	return gone, d.relink(ctx, stack, by, "Unlink "+l.String(), cfg, out, func(s mesh.Stack, _ mesh.Release) (mesh.Stack, error) {
		s.Links = slices.DeleteFunc(slices.Clone(s.Links), func(o mesh.Link) bool { return slices.Contains(gone, o) })
		return s, nil
	}, nil)
}

// relink changes the links and config vars of a stack together. lend is a link that new
// instances need before the change is recorded; it may be nil.
func (d *Deployer) relink(ctx context.Context, stack mesh.StackName, by mesh.KeyName, subject string, cfg mesh.ConfigChange, out io.Writer,
	change func(mesh.Stack, mesh.Release) (mesh.Stack, error), lend *mesh.Link,
) error {
	return d.relinked(ctx, stack, by, subject, cfg, out, change, func(s *mesh.Stack, next mesh.Stack) { s.Links = next.Links }, lend)
}

// relinked changes what a stack reaches and its config vars together. take copies what
// change has changed, and nothing else changes.
func (d *Deployer) relinked(ctx context.Context, stack mesh.StackName, by mesh.KeyName, subject string, cfg mesh.ConfigChange, out io.Writer,
	change func(mesh.Stack, mesh.Release) (mesh.Stack, error), take func(s *mesh.Stack, next mesh.Stack), lend *mesh.Link,
) error {
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	var r mesh.Release
	if st.Current > 0 {
		if r, err = d.Store.Release(ctx, stack, st.Current); err != nil {
			return err
		}
	}
	if _, err := change(st, r); err != nil {
		return err // before anything is started for it
	}
	record := func(s *mesh.Stack) error {
		next, err := change(*s, r)
		if err != nil {
			return err
		}
		take(s, next)
		changed, _, err := applied(present(cfg, s.Config), *s)
		if err == nil {
			s.Config = changed
		}
		return err
	}
	if st.Current == 0 {
		return d.changeDomains(ctx, stack, record)
	}
	back := func() {}
	defer func() { back() }()
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployConfig, By: by, Subject: subject}
	return d.rerelease(ctx, dep, out, subject, func(_ context.Context, a *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		next, err := change(st, *r)
		if err != nil {
			return nil, err // it was changed after this began
		}
		changed, _, err := applied(present(cfg, st.Config), st)
		if err != nil {
			return nil, err
		}
		r.Config = changed
		a.out.mask(st.Configs(), r.Configs())
		if lend != nil {
			back = d.fleet.Lend(stack, *lend)
		}
		return func(s *mesh.Stack) {
			take(s, next)
			s.Config = reapplied(cfg, *s, changed)
		}, nil
	})
}

// present is a change without those removals of vars that do not exist.
func present(c mesh.ConfigChange, cfg mesh.Config) mesh.ConfigChange {
	c.Unset = slices.DeleteFunc(slices.Clone(c.Unset), func(name string) bool { _, had := cfg[name]; return !had })
	return c
}

// refreshUsers tells the fleet of the links to a stack, which has a new name.
func (d *Deployer) refreshUsers(ctx context.Context, to mesh.StackName) {
	users, err := d.users(ctx, to)
	if err != nil {
		d.Logger.Warn("links not renewed; the next start does it", "stack", to, "err", err)
	}
	for _, u := range users {
		d.refresh(ctx, u)
	}
}

// users returns the stacks that are linked to one.
func (d *Deployer) users(ctx context.Context, to mesh.StackName) (out []mesh.StackName, err error) {
	stacks, err := d.Store.Stacks(ctx)
	for _, s := range stacks {
		if slices.ContainsFunc(s.Links, func(l mesh.Link) bool { return l.To == to }) {
			out = append(out, s.Name)
		}
	}
	return out, err
}
