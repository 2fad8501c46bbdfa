// Package engine is the connection to the Docker Engine: a client whose questions have
// time limits, and what the engine's failures mean to people.
//
// What is asked of the engine is left to builder and runner.
package engine

import (
	"time"

	docker "github.com/docker/docker/client"

	"mesh"
)

// New returns a client of the engine at address, or where Docker's own variables say if
// that is empty. Nothing has been asked of the engine yet. read is how long it may take
// to answer a question, a change four times as long; 0: 30 s.
func New(address string, read time.Duration) (*docker.Client, error) {
	opts := []docker.Opt{docker.FromEnv, docker.WithAPIVersionNegotiation()}
	if address != "" {
		opts = append(opts, docker.WithHost(address))
	}
	c, err := docker.NewClientWithOpts(opts...)
	if err == nil {
		err = limit(c, read)
	}
	if err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "the Docker Engine's address cannot be used: %w", err).WithHint("give one such as unix:///var/run/docker.sock with --docker-host")
	}
	return c, nil
}

// limit gives the requests of a client time limits. Its hijacked connections (an
// attached terminal, BuildKit) do not pass through here.
func limit(c *docker.Client, read time.Duration) error {
	if read == 0 {
		read = readLimit
	}
	hc := c.HTTPClient()
	hc.Transport = limits{next: hc.Transport, read: read, change: read * (changeLimit / readLimit)}
	// As an option it keeps what the client knows of its connections.
	return docker.WithHTTPClient(hc)(c)
}
