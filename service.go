package mesh

import (
	"time"
)

// Service is how a release runs one kind of process.
type Service struct {
	Command string  // as written; empty: the image's own ENTRYPOINT and CMD
	From    string  // where the command comes from: "image", "svc:update", "start-command", or a file: "Procfile"
	Memory  int64   // bytes; 0: no limit
	CPUs    float64 // cores; 0: no limit

	StopTimeout time.Duration // from SIGTERM to SIGKILL; 0: the stack's
	Config      Config        // its own config vars, which win over the release's
	On          []string      // labels that the nodes of its instances must have: "zone=a", sorted
}

// ServiceSettings are the settings of svc:update for a service. Zero fields are
// unset.
type ServiceSettings struct {
	Command     string
	Memory      int64         // bytes
	CPUs        float64       // cores
	StopTimeout time.Duration // from SIGTERM to SIGKILL
	Config      Config        // its own config vars, which win over the stack's
	On          []string      // as in Service
}

// IsZero reports whether nothing is set.
func (s ServiceSettings) IsZero() bool {
	return s.Command == "" && s.Memory == 0 && s.CPUs == 0 && s.StopTimeout == 0 && len(s.Config) == 0 && len(s.On) == 0
}
