package fleet

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mesh"
)

// Memory keeps where instances were last seen, for a server that starts while the
// engine is away: with live-restore they keep serving. Its content may be old or lost;
// the engine is asked as soon as it answers.
type Memory interface {
	// Load returns what was last saved since this machine booted, or nothing.
	Load() ([]mesh.Instance, error)
	Save([]mesh.Instance) error
}

// saveEvery is the shortest time between two saves: a crash loop cannot write a file
// faster than that. Requests write nothing.
const saveEvery = time.Second

// probeTime is how long an instance on this machine may take to accept a connection.
const probeTime = time.Second

// connect is the default Probe.
func connect(ctx context.Context, at netip.AddrPort) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	return c.Close()
}

// keepMemory saves where instances are whenever that has changed, until ctx ends, and
// then once more.
func (f *Fleet) keepMemory(ctx context.Context) {
	if f.Memory == nil {
		return
	}
	var last []mesh.Instance
	save := func() {
		now := f.seen()
		if slices.Equal(now, last) {
			return
		}
		if err := f.Memory.Save(now); err != nil {
			f.Logger.Warn("instance addresses not saved", "err", err)
			return
		}
		last = now
	}
	for {
		select {
		case <-f.moved:
			save()
			Wait(ctx, saveEvery, nil)
		case <-ctx.Done():
			save()
			return
		}
	}
}

// seen returns the instances that serve, as far as a probe can find out.
func (f *Fleet) seen() []mesh.Instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []mesh.Instance
	for _, g := range f.groups {
		for _, m := range g.members {
			if m.healthy && m.instance.Addr.IsValid() {
				in := m.instance
				in.State = mesh.InstanceRunning
				out = append(out, in)
			}
		}
	}
	for _, held := range f.held {
		out = append(out, held.instances...)
	}
	slices.SortFunc(out, func(a, b mesh.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// remembered returns the instances that were last seen.
func (f *Fleet) remembered() []mesh.Instance {
	if f.Memory == nil {
		return nil
	}
	last, err := f.Memory.Load()
	if err != nil {
		f.Logger.Warn("last known instance addresses not read", "err", err)
	}
	return last
}

// Recall returns the instances that were last seen and still accept connections, by
// stack. An address counts only inside the stack's own subnet, where no container of
// another stack can be; the engine confirms later that it is the same container. The
// subnet of a stack in held cannot be read, so its addresses count outside the subnets
// of the others.
func (f *Fleet) Recall(ctx context.Context, stacks []mesh.Stack, held map[mesh.StackName]bool) map[mesh.StackName][]mesh.Instance {
	last := f.remembered()
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	var (
		mu  sync.Mutex
		out = map[mesh.StackName][]mesh.Instance{}
		all sync.WaitGroup
	)
	for _, in := range last {
		i := slices.IndexFunc(stacks, func(s mesh.Stack) bool { return s.Name == in.Stack })
		within := func(s mesh.Stack) bool { return s.Subnet.IsValid() && s.Subnet.Contains(in.Addr.Addr()) }
		switch {
		case held[in.Stack] && !slices.ContainsFunc(stacks, func(s mesh.Stack) bool { return s.Name != in.Stack && within(s) }):
		case i < 0 || !within(stacks[i]):
			continue
		}
		all.Go(func() {
			if f.Probe(ctx, in.Addr) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[in.Stack] = append(out[in.Stack], in)
		})
	}
	all.Wait()
	return out
}
