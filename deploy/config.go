package deploy

import (
	"context"
	"io"
	"slices"
	"strings"

	"mesh"
)

// maxConfig bounds a stack's config vars, names and values together: the kernel
// gives a process 2 MB for arguments and environment on most machines.
const maxConfig = 1 << 20

// SetConfig changes config vars as one batch: set first, then unset. When the
// stack runs, they become a new release, rolled out like a push, and nothing is
// changed when that fails. With recordOnly they wait for the next release. It
// returns the names that have changed.
func (d *Deployer) SetConfig(ctx context.Context, stack mesh.StackName, by mesh.KeyName, set mesh.Config, unset []string, recordOnly bool, out io.Writer) ([]string, error) {
	for name, v := range set {
		if err := mesh.CheckVar(name, v); err != nil {
			return nil, err
		}
	}
	change := func(old mesh.Config) (mesh.Config, []string, error) {
		cfg, changed := old.Clone(), []string{}
		for name, v := range set {
			if was, had := cfg[name]; !had || !was.Equal(v) {
				changed = append(changed, name)
			}
			cfg[name] = v
		}
		for _, name := range unset {
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
			return nil, nil, mesh.Errorf(mesh.Invalid, "the config vars of %s would take %d bytes; the limit is %d", stack, size, maxConfig).
				WithHint("keep large values in a file of the image or in a store of their own")
		}
		slices.Sort(changed)
		return cfg, changed, nil
	}
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return nil, err
	}
	_, changed, err := change(st.Config)
	// What is under way may change it before this has its turn.
	if err != nil || len(changed) == 0 && len(d.tickets(stack)) == 0 {
		return changed, err
	}
	record := func() error {
		_, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) (err error) {
			s.Config, changed, err = change(s.Config)
			return err
		})
		return err
	}
	if recordOnly || st.Current == 0 {
		return changed, record()
	}
	verb := "Set "
	if len(set) == 0 {
		verb = "Unset "
	}
	subject := verb + mesh.Clip(strings.Join(changed, ", "), 120)
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployConfig, By: by, Subject: subject}
	err = d.rerelease(ctx, dep, out, subject, func(_ context.Context, a *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		// The stack's vars, not the release's: what was recorded with --no-restart
		// comes into force now.
		cfg, ch, err := change(st.Config)
		if err != nil {
			return nil, err
		}
		changed = ch
		r.Config = cfg
		a.out.mask(st.Config, cfg)
		return func(s *mesh.Stack) {
			// Once more: something may have been recorded with --no-restart meanwhile.
			if again, _, err := change(s.Config); err == nil {
				s.Config = again
			} else {
				s.Config = cfg
			}
		}, nil
	})
	return changed, err
}
