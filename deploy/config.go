package deploy

import (
	"context"
	"io"
	"slices"
	"strings"

	"mesh"
)

// maxConfig limits the total size of a stack's config vars, names and values. On most
// machines the kernel gives a process 2 MB for arguments and environment.
const maxConfig = 1 << 20

// applied returns the changed config, and the names that have changed, in order.
func applied(c mesh.ConfigChange, stack mesh.StackName, old mesh.Config) (mesh.Config, []string, error) {
	cfg, changed := old.Clone(), []string{}
	for name, v := range c.Set {
		if was, had := cfg[name]; !had || !was.Equal(v) {
			changed = append(changed, name)
		}
		cfg[name] = v
	}
	for _, name := range c.Unset {
		if _, had := cfg[name]; !had {
			return nil, nil, mesh.Errorf(mesh.NotFound, "%s has no config var %s", stack, mesh.Clip(name, 60)).WithHint("list them with: ssh mesh config -a %s", stack)
		}
		delete(cfg, name)
		changed = append(changed, name)
	}
	size := 0
	for name, v := range cfg {
		size += len(name) + len(v.Reveal())
	}
	if size > maxConfig {
		return nil, nil, mesh.Errorf(mesh.Invalid, "the config vars of %s would be %d bytes long; the limit is %d", stack, size, maxConfig).
			WithHint("keep large values in a file of the image, or in a data store")
	}
	slices.Sort(changed)
	return cfg, changed, nil
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
	_, changed, err := applied(c, stack, st.Config)
	// A deployment in progress may change the config before this one has its turn.
	if err != nil || len(changed) == 0 && len(d.lanes.tickets(stack)) == 0 {
		return changed, err
	}
	record := func() error {
		_, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) (err error) {
			s.Config, changed, err = applied(c, stack, s.Config)
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
	err = d.rerelease(ctx, dep, out, subject, func(_ context.Context, a *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		// Start from the stack's vars, not the release's: vars recorded with
		// --no-restart take effect now.
		cfg, ch, err := applied(c, stack, st.Config)
		if err != nil {
			return nil, err
		}
		changed = ch
		r.Config = cfg
		a.out.mask(st.Config, cfg)
		return func(s *mesh.Stack) {
			// Apply the change again: something may have been recorded with
			// --no-restart meanwhile.
			if again, _, err := applied(c, stack, s.Config); err == nil {
				s.Config = again
			} else {
				s.Config = cfg
			}
		}, nil
	})
	return changed, err
}
