// Package engine is the connection to the Docker Engine: a client with time limits,
// and errors of the engine in terms that people understand.
//
// builder and runner decide what to ask the engine.
package engine

import (
	"time"

	docker "github.com/docker/docker/client"

	"mesh"
)

// New returns a client of the engine at address, or where Docker's own variables
// point if that is empty. It does not talk to the engine yet. read is how long the
// engine may take to answer a query; a change may take four times as long. 0: 30 s.
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
		return nil, mesh.Errorf(mesh.Invalid, "the Docker Engine's address cannot be used: %w", err).WithHint("set a URL such as unix:///var/run/docker.sock with --docker-host")
	}
	return c, nil
}

// limit gives the requests of a client time limits. Hijacked connections (an
// attached terminal, BuildKit) do not pass through here.
func limit(c *docker.Client, read time.Duration) error {
	if read == 0 {
		read = readLimit
	}
	hc := c.HTTPClient()
	hc.Transport = limits{next: hc.Transport, read: read, change: read * (changeLimit / readLimit)}
	// As an option, it keeps the client's connection settings.
	return docker.WithHTTPClient(hc)(c)
}
