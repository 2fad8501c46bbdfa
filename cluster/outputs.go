package cluster

import (
	"context"
	"maps"
	"sync"

	"mesh"
)

// outputs is one call of Outputs.
type outputs struct {
	c      *Cluster
	found  func(mesh.OutputSource)
	listed func(map[string]bool)

	mu sync.Mutex
	by map[*member]map[string]bool // what each node has, once that is known
}

// Outputs calls found for the containers of all nodes: see logs.Outputs. What a node has that is
// away is not taken for gone.
func (c *Cluster) Outputs(ctx context.Context, found func(mesh.OutputSource), listed func(ids map[string]bool)) error {
	o := &outputs{c: c, found: found, listed: listed, by: map[*member]map[string]bool{}}
	c.mu.Lock()
	c.outputs = o
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.outputs == o {
			c.outputs = nil
		}
	}()
	var all sync.WaitGroup
	defer all.Wait()
	for _, m := range c.ready() {
		if !m.self {
			octx, end := context.WithCancel(ctx)
			defer end()
			o.follow(octx, m)
		}
	}
	return c.Local.Outputs(ctx, func(src mesh.OutputSource) { o.add(nil, src.ID); found(src) }, func(ids map[string]bool) { o.list(nil, ids) })
}

// follow finds the containers of another node until ctx ends.
func (o *outputs) follow(ctx context.Context, m *member) {
	go func() {
		_ = m.Outputs(ctx, func(src mesh.OutputSource) {
			o.c.mu.Lock()
			o.c.where[src.ID] = m
			o.c.mu.Unlock()
			o.add(m, src.ID)
			o.found(src)
		}, func(ids map[string]bool) { o.list(m, ids) })
	}()
}

// add records a container that has begun since its node was listed: another node's list must not
// take it for gone.
func (o *outputs) add(of *member, id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ids := o.by[of]; ids != nil {
		ids[id] = true
	}
}

// list passes on what all nodes have, once each has been listed.
func (o *outputs) list(of *member, ids map[string]bool) {
	o.c.mu.Lock()
	members := maps.Clone(o.c.members)
	o.c.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.by[of] = maps.Clone(ids)
	all := maps.Clone(o.by[nil])
	if all == nil {
		return
	}
	for _, m := range members {
		if m.self {
			continue
		}
		some, known := o.by[m]
		if !known {
			return
		}
		maps.Copy(all, some)
	}
	o.listed(all)
}
