package main

import (
	"fmt"
	"io"

	"mesh/router"
)

// writeMetrics prints the router's state in the Prometheus text format.
func writeMetrics(w io.Writer, all []router.Status) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	p("# HELP mesh_stacks Stacks with a route.\n# TYPE mesh_stacks gauge\nmesh_stacks %d\n", len(all))
	p("# HELP mesh_requests_waiting Requests that wait for an instance.\n# TYPE mesh_requests_waiting gauge\n")
	for _, s := range all {
		p("mesh_requests_waiting{stack=%q} %d\n", s.Stack, s.Waiting)
	}
	p("# HELP mesh_requests_in_flight Requests and upgraded connections at an instance.\n# TYPE mesh_requests_in_flight gauge\n")
	for _, s := range all {
		for _, t := range s.Targets {
			p("mesh_requests_in_flight{stack=%q,instance=%q} %d\n", s.Stack, t.Name, t.InFlight)
		}
	}
}
