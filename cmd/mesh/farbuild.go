package main

import (
	"context"
	"fmt"
	"io"

	"mesh"
	"mesh/builder"
)

// farBuilder builds on the node that a stack's settings name, and brings the image here: run,
// release commands and other nodes need it.
type farBuilder struct {
	*builder.Builder
	m *machines
}

// Build implements deploy.Builder.
func (f farBuilder) Build(ctx context.Context, b mesh.Build, w io.Writer) (mesh.Image, error) {
	if b.Settings.BuildNode == "" || b.From.Ref != "" {
		return f.Builder.Build(ctx, b, w)
	}
	n, err := f.m.buildNode(b.Settings.BuildNode)
	if err != nil {
		return mesh.Image{}, err
	}
	if n.Self {
		return f.Builder.Build(ctx, b, w)
	}
	x := f.m.machine(n)
	reg := f.m.c.wires.images()
	if reg == nil {
		return mesh.Image{}, mesh.Errorf(mesh.Unavailable, "the nodes are not used")
	}
	_, _ = fmt.Fprintf(w, "       on %s\n", n.Name)
	img, err := x.builds.Build(ctx, b, w)
	if err != nil {
		return img, err
	}
	a := f.m.c.wires.agents()[n.ID] // it may be another one than before the build
	if img.ID, err = reg.Fetch(ctx, x.engine, a.Registry, img.ID, b.Tags); err != nil {
		return img, mesh.Errorf(mesh.Unavailable, "the image that %s has built did not come here: %w", n.Name, err).WithHint("push again; to build here: ssh mesh build:set -a %s node=", b.Stack)
	}
	go f.prune(context.WithoutCancel(ctx), x, n)
	return img, nil
}

// prune keeps the build cache of a node within its limit, as it is done here.
func (f farBuilder) prune(ctx context.Context, x *machine, n mesh.Node) {
	if _, err := x.builds.PruneCache(ctx, false); err != nil {
		f.m.c.log.Warn("the build cache of a node was not pruned", "node", string(n.Name), "err", err)
	}
}

// buildNode returns a node with a label, this machine if it has it.
func (m *machines) buildNode(label string) (mesh.Node, error) {
	k, v, err := mesh.ParseNodeLabel(label)
	if err != nil {
		return mesh.Node{}, err
	}
	all, _ := m.c.cluster.Members()
	var why string
	for _, n := range all {
		switch {
		case n.Label(k) != v:
		case n.Self, n.Fault == "":
			return n, nil
		default:
			why = fmt.Sprintf(": %s is not used: %s", n.Name, n.Fault)
		}
	}
	if why == "" {
		why = ": no node has that label"
	}
	return mesh.Node{}, mesh.Errorf(mesh.Unavailable, "the build needs a node with %s%s", label, why).
		WithHint("see the nodes: ssh mesh nodes; to build on the server: ssh mesh build:set -a STACK node=")
}
