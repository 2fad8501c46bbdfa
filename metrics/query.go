package metrics

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"mesh"
)

// roundStep returns the next longer interval that is a round number and a multiple of the
// step of a tier.
func roundStep(step, of time.Duration) time.Duration {
	for _, r := range []struct{ upTo, unit time.Duration }{
		{time.Minute, 10 * time.Second},
		{15 * time.Minute, time.Minute},
		{time.Hour, 5 * time.Minute},
		{6 * time.Hour, 15 * time.Minute},
	} {
		if step <= r.upTo {
			unit := max(r.unit, of)
			return max((step+unit-1)/unit*unit, unit)
		}
	}
	return (step + time.Hour - 1) / time.Hour * time.Hour
}

// defaultPoints is how many intervals an answer has at most if the query does not tell.
const defaultPoints = 120

// Measures answers a query from the finest resolution that has all of its time, and
// from coarser ones for times that the finer one has dropped. What cannot be read
// is a gap: the only errors are those of ctx. It needs memory for each row and
// interval of the answer.
func (s *Store) Measures(ctx context.Context, q mesh.MeasureQuery) (mesh.Measures, error) {
	if err := ctx.Err(); err != nil {
		return mesh.Measures{}, context.Cause(ctx)
	}
	if q.Points <= 0 {
		q.Points = defaultPoints
	}
	parts := s.points(q)
	coarsest := tiers[0].step
	for _, p := range parts {
		coarsest = max(coarsest, tiers[p.tier].step)
	}
	step := roundStep(q.Until.Sub(q.Since)/time.Duration(q.Points), coarsest)
	out := mesh.Measures{Start: time.Unix(q.Since.Unix()/int64(step.Seconds())*int64(step.Seconds()), 0).UTC(), Step: step}
	n := int((q.Until.Sub(out.Start) + step - 1) / step)
	rows := map[mesh.InstanceName][]mesh.Measure{}
	for _, part := range parts {
		for _, p := range part.points {
			at := time.Unix(p.slot*int64(tiers[part.tier].step/time.Second), 0)
			i := int(at.Sub(out.Start) / step)
			if at.Before(out.Start) || i >= n {
				continue
			}
			for name, m := range group(p.rows, q.By) {
				if rows[name] == nil {
					rows[name] = make([]mesh.Measure, n)
				}
				rows[name][i].Then(m)
			}
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(rows), mesh.InstanceName.Compare) {
		out.Rows = append(out.Rows, mesh.MeasureRow{Name: name, Points: rows[name]})
	}
	return out, context.Cause(ctx)
}

// part is what one tier has of an answer.
type part struct {
	tier   int
	points []point
}

// points returns the points of an answer.
func (s *Store) points(q mesh.MeasureQuery) (parts []part) {
	s.mu.Lock()
	st := s.stacks[q.Stack]
	s.mu.Unlock()
	if st == nil { // of a process that does not keep it: as it is on the disk
		st = &stack{dir: filepath.Join(s.dir, string(q.Stack))}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	from, to := q.Since, q.Until
	for k, ti := range tiers {
		if k < len(tiers)-1 && s.now().Sub(from) > time.Duration(ti.keep)*ti.step+time.Minute {
			continue
		}
		step := int64(ti.step / time.Second)
		if len(parts) > 0 {
			to = to.Truncate(ti.step) // a longer step that is in part in a finer tier would be counted twice
		}
		first, end := from.Unix()/step, (to.Unix()+step-1)/step
		points := st.read(k, first, end)
		if o := st.open[k]; k > 0 && o.rows != nil && o.slot >= first && o.slot < end {
			points = join(append(points, o.clone()), ti)
		}
		if len(points) == 0 {
			continue
		}
		parts = append(parts, part{k, points})
		// What is older may be in the coarser tiers.
		to = time.Unix(points[0].slot*step, 0)
		if k+1 < len(tiers) && to.Sub(from) < tiers[k+1].step {
			break
		}
	}
	return parts
}

func (p point) clone() point { return point{p.slot, maps.Clone(p.rows)} }

// group adds rows up.
func group(rows map[mesh.InstanceName]mesh.Measure, by mesh.MeasureBy) map[mesh.InstanceName]mesh.Measure {
	switch by {
	case mesh.ByInstance:
		return rows
	case mesh.ByService:
		return services(rows, true)
	default:
		var all mesh.Measure
		for _, m := range rows {
			all.Beside(m)
		}
		return map[mesh.InstanceName]mesh.Measure{{}: all}
	}
}
