package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	docker "github.com/docker/docker/client"
	"github.com/spf13/pflag"

	"mesh"
	"mesh/builder"
)

// confineTime is for the engine to answer, and systemd.
const confineTime = 20 * time.Second

// confineMain is "mesh confine": it limits builds with the settings of the server that
// is about to start, which has not the rights for that.
func confineMain(args []string, stdout io.Writer) error {
	s, err := parseSettings(args, os.Getenv)
	if errors.Is(err, pflag.ErrHelp) {
		_, _ = fmt.Fprintln(stdout, "usage: mesh confine [FLAGS OF mesh serve]\n\nLimits the memory (--build-memory) and the processes of builds, until the machine is\nstarted anew. It takes the rights of root: a server without them needs it before.")
		return nil
	}
	if err != nil {
		return err
	}
	engine, err := s.engine()
	if err != nil {
		return err
	}
	defer func() { _ = engine.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), confineTime)
	defer cancel()
	if err := builder.New(engine, s.build).Confine(ctx); err != nil {
		return mesh.Errorf(mesh.Failed, "builds are not limited: %w", err)
	}
	return nil
}

// engine is a client of the Docker Engine; nothing has been asked of it.
func (s settings) engine() (*docker.Client, error) {
	opts := []docker.Opt{docker.FromEnv, docker.WithAPIVersionNegotiation()}
	if s.DockerHost != "" {
		opts = append(opts, docker.WithHost(s.DockerHost))
	}
	c, err := docker.NewClientWithOpts(opts...)
	if err != nil {
		return nil, mesh.Errorf(mesh.Invalid, "the Docker Engine's address cannot be used: %w", err).WithHint("give one such as unix:///var/run/docker.sock with --docker-host")
	}
	return c, nil
}
