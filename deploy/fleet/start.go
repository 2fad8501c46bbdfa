package fleet

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"mesh"
)

// settle is how long a service without HTTP must stay up to count as started.
const settle = time.Second

// CheckOf returns the health check of a service. The path of build:set health= applies
// to web only.
func CheckOf(st mesh.Stack, svc mesh.ServiceName) mesh.Check {
	set := st.Effective()
	c := mesh.Check{Timeout: cmp.Or(set.CheckTimeout, mesh.DefaultCheckTimeout), Settle: settle}
	switch {
	case svc == mesh.Web:
		c.HTTP, c.Path, c.Strict = true, set.Health, set.Health != ""
	case st.Published(svc):
		c.HTTP = true
	case st.OnPort(svc):
		c.TCP = true
	}
	return c
}

// Progress receives how instances come up, from several goroutines.
type Progress struct {
	Healthy func(name mesh.InstanceName, saw string) // saw: "GET / 200"
	Detail  func(line string)                        // anything to report meanwhile
}

// StartAll starts instances of a stack beside the running ones, all at once, and waits
// until all are healthy. It returns the started instances even if it fails: the caller
// must Install or StopAll them. The first failure ends the others.
func (f *Fleet) StartAll(ctx context.Context, st mesh.Stack, specs []mesh.InstanceSpec, p Progress) ([]mesh.Instance, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		mu      sync.Mutex
		started []mesh.Instance
		first   error
		all     sync.WaitGroup
	)
	for _, spec := range specs {
		all.Go(func() {
			err := f.startOne(ctx, spec, CheckOf(st, spec.Name.Service), p, func(in mesh.Instance) {
				mu.Lock()
				defer mu.Unlock()
				started = append(started, in)
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	return started, first
}

func (f *Fleet) startOne(ctx context.Context, spec mesh.InstanceSpec, c mesh.Check, p Progress, started func(mesh.Instance)) error {
	in, err := f.Runner.Start(ctx, spec)
	if err != nil {
		return fmt.Errorf("start %s: %w", spec.Name, err)
	}
	f.mu.Lock()
	f.starting[in.ID] = nil
	f.mu.Unlock()
	started(in)
	saw, err := f.Runner.Check(ctx, in, c, p.Detail)
	if err != nil {
		return fmt.Errorf("check %s: %w", spec.Name, err)
	}
	p.Healthy(spec.Name, saw)
	return nil
}

// StopAll stops instances and waits until they are removed. It logs those that cannot
// be stopped: they have no route, and the next start removes them.
func (f *Fleet) StopAll(ctx context.Context, ins []mesh.Instance, grace time.Duration) {
	var all sync.WaitGroup
	for _, in := range ins {
		all.Go(func() { f.stop(ctx, in, grace) })
	}
	all.Wait()
}

func (f *Fleet) stop(ctx context.Context, in mesh.Instance, grace time.Duration) {
	if err := f.Runner.Stop(ctx, in.ID, grace); err != nil && ctx.Err() == nil {
		f.Logger.Warn("instance not stopped", "stack", in.Stack, "instance", in.Name.String(), "err", err)
	}
	f.forget(in.ID)
}
