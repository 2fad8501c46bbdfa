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
}

// ServiceSettings are the settings of svc:update for a service. Zero fields are
// unset.
type ServiceSettings struct {
	Command     string
	Memory      int64         // bytes
	CPUs        float64       // cores
	StopTimeout time.Duration // from SIGTERM to SIGKILL
}
