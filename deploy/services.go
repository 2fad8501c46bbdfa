package deploy

import (
	"context"
	"io"
	"maps"

	"mesh"
)

// UpdateService changes the svc:update settings of a service, and rolls them out as a
// release if the stack runs. It creates a service that the Procfile does not name.
func (d *Deployer) UpdateService(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.ServiceName, change func(*mesh.ServiceSettings) error, out io.Writer) error {
	if name == mesh.ReleaseCommand {
		return mesh.Errorf(mesh.Invalid, "the release command is not a service").WithHint("set it with: ssh mesh stacks:set-release-command -a %s -- COMMAND", stack)
	}
	return d.changeServices(ctx, stack, by, "Update "+string(name), func(s map[mesh.ServiceName]mesh.ServiceSettings) error {
		v := s[name]
		if err := change(&v); err != nil {
			return err
		}
		for name, value := range v.Config {
			if err := mesh.CheckVar(name, value); err != nil {
				return err
			}
		}
		s[name] = v
		return mesh.CheckCommand(v.Command)
	}, out)
}

// DeleteService clears the svc:update settings of a service. Its command is the
// Procfile's or the image's again; a service with neither is removed.
func (d *Deployer) DeleteService(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.ServiceName, out io.Writer) error {
	return d.changeServices(ctx, stack, by, "Delete "+string(name), func(s map[mesh.ServiceName]mesh.ServiceSettings) error {
		if _, ok := s[name]; !ok {
			return mesh.Errorf(mesh.NotFound, "%s has no svc:update settings", name).WithHint("list the services: ssh mesh svc -a %s", stack)
		}
		delete(s, name)
		return nil
	}, out)
}

func (d *Deployer) changeServices(ctx context.Context, stack mesh.StackName, by mesh.KeyName, subject string, change func(map[mesh.ServiceName]mesh.ServiceSettings) error, out io.Writer) error {
	apply := func(st mesh.Stack) (map[mesh.ServiceName]mesh.ServiceSettings, error) {
		s := maps.Clone(st.Services)
		if s == nil {
			s = map[mesh.ServiceName]mesh.ServiceSettings{}
		}
		if err := change(s); err != nil {
			return nil, err
		}
		st.Services = s
		return s, fits(st)
	}
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return err
	}
	if _, err := apply(st); err != nil {
		return err
	}
	if st.Current == 0 {
		_, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) (err error) {
			s.Services, err = apply(*s)
			return err
		})
		return err
	}
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployServices, By: by, Subject: subject}
	return d.rerelease(ctx, dep, out, subject, func(_ context.Context, a *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		set, err := apply(st)
		if err != nil {
			return nil, err
		}
		was := st
		st.Services = set
		a.out.mask(was.Configs(), st.Configs(), r.Configs())
		r.Services = services(st, r.Declared)
		r.Formation = formation(st, r.Services)
		return func(s *mesh.Stack) { s.Services = set }, nil
	})
}
