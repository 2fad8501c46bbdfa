package deploy

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"

	"mesh"
)

// maxConfig limits the total size of a stack's config vars, names and values. On most
// machines the kernel gives a process 2 MB for arguments and environment.
const maxConfig = 1 << 20

// applied returns the changed config of a stack, and the names that have changed, in order.
func applied(c mesh.ConfigChange, st mesh.Stack) (mesh.Config, []string, error) {
	if c.If != "" && st.Config.Fingerprint() != c.If {
		return nil, nil, mesh.Errorf(mesh.Conflict, "the config vars of %s have been changed meanwhile", st.Name).WithHint("see what and by whom: ssh mesh config:history -a %[1]s; begin again from the config vars of now: mesh config:edit -a %[1]s", st.Name)
	}
	cfg, changed, err := altered(c, st.Config, func(name string) error {
		return mesh.Errorf(mesh.NotFound, "%s has no config var %s", st.Name, mesh.Clip(name, 60)).WithHint("list them with: ssh mesh config -a %s", st.Name)
	})
	if err != nil {
		return nil, nil, err
	}
	st.Config = cfg
	return cfg, changed, fits(st)
}

// altered returns the changed config, and the names that have changed, in order. missing
// makes the error for a var that is to be unset and does not exist.
func altered(c mesh.ConfigChange, old mesh.Config, missing func(name string) error) (mesh.Config, []string, error) {
	cfg, changed := old.Clone(), []string{}
	if c.Replace {
		c.Unset = nil
		for name := range old {
			if _, stays := c.Set[name]; !stays {
				c.Unset = append(c.Unset, name)
			}
		}
	}
	for name, v := range c.Set {
		if was, had := cfg[name]; !had || !was.Equal(v) {
			changed = append(changed, name)
		}
		cfg[name] = v
	}
	for _, name := range c.Unset {
		if _, had := cfg[name]; !had {
			return nil, nil, missing(name)
		}
		delete(cfg, name)
		changed = append(changed, name)
	}
	slices.Sort(changed)
	return cfg, changed, nil
}

// fits returns an error if an instance of the stack would get more config vars than
// maxConfig.
func fits(st mesh.Stack) error {
	for _, name := range append([]mesh.ServiceName{""}, slices.Sorted(maps.Keys(st.Services))...) {
		size, whose := st.ConfigOf(name).Size(), string(st.Name)
		if name != "" {
			whose = string(name) + " of " + whose
		}
		if size > maxConfig {
			return mesh.Errorf(mesh.Invalid, "the config vars of %s would be %d bytes long; the limit is %d", whose, size, maxConfig).
				WithHint("keep large values in a file of the image, or in a data store")
		}
	}
	return nil
}

// reapplied makes a change again at the end of its deployment, to what the stack has by
// then: something may have been recorded with --no-restart meanwhile. If that is
// impossible, the config is the one that was released.
func reapplied(c mesh.ConfigChange, st mesh.Stack, released mesh.Config) mesh.Config {
	if again, _, err := applied(present(c, st.Config), st); err == nil {
		return again
	}
	return released
}

// SetConfig changes config vars as one batch: set first, then unset. If the stack runs,
// they become a new release, rolled out like a push, and nothing changes if that fails.
// With RecordOnly they take effect with the next release. SetConfig returns the names
// that have changed.
func (d *Deployer) SetConfig(ctx context.Context, stack mesh.StackName, by mesh.KeyName, c mesh.ConfigChange, out io.Writer) ([]string, error) {
	for name, v := range c.Set {
		if err := mesh.CheckVar(name, v); err != nil {
			return nil, err
		}
	}
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return nil, err
	}
	if err := d.guardAddonVars(ctx, st, c); err != nil {
		return nil, err
	}
	_, changed, err := applied(c, st)
	// A deployment in progress may change the config before this one has its turn.
	if err != nil || len(changed) == 0 && len(d.lanes.tickets(stack)) == 0 {
		return changed, err
	}
	record := func() error {
		_, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) (err error) {
			s.Config, changed, err = applied(c, *s)
			return err
		})
		return err
	}
	if c.RecordOnly || st.Current == 0 {
		return changed, record()
	}
	verb := "Set "
	if len(c.Set) == 0 {
		verb = "Unset "
	}
	subject := verb + mesh.Clip(strings.Join(changed, ", "), 120)
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployConfig, By: by, Subject: subject}
	err = d.rerelease(ctx, dep, out, subject, func(ctx context.Context, a *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		if err := d.guardAddonVars(ctx, st, c); err != nil {
			return nil, err // attached after this began
		}
		// Start from the stack's vars, not the release's: vars recorded with
		// --no-restart take effect now.
		cfg, ch, err := applied(c, st)
		if err != nil {
			return nil, err
		}
		changed = ch
		r.Config = cfg
		a.out.mask(st.Configs(), r.Configs())
		return func(s *mesh.Stack) {
			// Apply the change again: something may have been recorded with
			// --no-restart meanwhile, which a change of all vars must not take away.
			again := c
			if again.If = ""; c.Replace {
				d := st.Config.Changes(cfg)
				again = mesh.ConfigChange{Set: mesh.Config{}, Unset: d.Removed}
				for _, name := range append(d.Added, d.Changed...) {
					again.Set[name] = cfg[name]
				}
			}
			s.Config = reapplied(again, *s, cfg)
		}, nil
	})
	return changed, err
}
