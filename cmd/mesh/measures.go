package main

import (
	"context"

	"mesh"
	"mesh/metrics"
)

// measures are the measures of stacks: those that are kept, and the last ones.
type measures struct {
	kept    *metrics.Store
	sampler *metrics.Sampler
}

// Measures implements command.Measures.
func (m measures) Measures(ctx context.Context, q mesh.MeasureQuery) (mesh.Measures, error) {
	return m.kept.Measures(ctx, q)
}

// Latest implements command.Measures.
func (m measures) Latest(stack mesh.StackName) map[mesh.InstanceName]mesh.Measure {
	return m.sampler.Latest(stack)
}
