package deploy

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"

	"mesh"
)

// maxInstances limits the instances of a service. More on one machine is a slip of the
// finger.
const maxInstances = 100

// Scale changes the number of instances of services, all of them or none. Instances
// that stay are not restarted. Before the first release, it records the wanted numbers.
func (d *Deployer) Scale(ctx context.Context, stack mesh.StackName, by mesh.KeyName, changes []mesh.Scale, out io.Writer) (mesh.Formation, error) {
	apply := func(f mesh.Formation, known map[mesh.ServiceName]mesh.Service) (mesh.Formation, error) {
		f = f.Clone()
		for _, c := range changes {
			if _, ok := known[c.Service]; known != nil && !ok {
				return nil, mesh.Errorf(mesh.NotFound, "%s has no service %q", stack, c.Service).WithHint("it has %s", strings.Join(serviceNames(known), ", "))
			}
			n := c.To
			if c.Relative {
				was, said := f[c.Service]
				if !said {
					was = 1
				}
				n += was
			}
			if n < 0 || n > maxInstances {
				return nil, mesh.Errorf(mesh.Invalid, "%s cannot have %d instances: use 0 to %d", c.Service, n, maxInstances)
			}
			f[c.Service] = n
		}
		return f, nil
	}
	st, err := d.Store.Stack(ctx, stack)
	if err != nil {
		return nil, err
	}
	count := apply
	apply = func(f mesh.Formation, known map[mesh.ServiceName]mesh.Service) (mesh.Formation, error) {
		f, err := count(f, known)
		if err == nil {
			err = oneWriter(st, f)
		}
		return f, err
	}
	var result mesh.Formation
	if st.Current == 0 {
		_, err := d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) (err error) {
			s.Formation, err = apply(s.Formation, nil)
			result = s.Formation
			return err
		})
		return result, err
	}
	cur, err := d.Store.Release(ctx, stack, st.Current)
	if err != nil {
		return nil, err
	}
	next, err := apply(formation(st, cur.Services), cur.Services)
	if err != nil {
		return nil, err
	}
	if maps.Equal(next, cur.Formation) && len(d.lanes.tickets(stack)) == 0 {
		return next, nil
	}
	subject := "Scale " + next.String()
	dep := mesh.Deployment{Stack: stack, Kind: mesh.DeployScale, By: by, Subject: subject}
	err = d.rerelease(ctx, dep, out, subject, func(_ context.Context, _ *attempt, st mesh.Stack, r *mesh.Release) (func(*mesh.Stack), error) {
		f, err := apply(r.Formation, r.Services)
		if err != nil {
			return nil, err
		}
		// Scaling alone does not apply recorded config changes.
		cur, err := d.Store.Release(ctx, stack, st.Current)
		if err != nil {
			return nil, err
		}
		r.Formation, r.Config, r.Global, result = f, cur.Config, cur.Global, f
		return func(s *mesh.Stack) { s.Formation = f }, nil
	})
	return result, err
}

func noService(stack mesh.StackName, svc mesh.ServiceName, r mesh.Release) error {
	return mesh.Errorf(mesh.NotFound, "%s has no service %q", stack, svc).WithHint("it has %s", strings.Join(serviceNames(r.Services), ", "))
}

func serviceNames(m map[mesh.ServiceName]mesh.Service) []string {
	var out []string
	for n := range m {
		out = append(out, string(n))
	}
	slices.Sort(out)
	return out
}
