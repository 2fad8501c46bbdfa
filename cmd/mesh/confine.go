package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"

	"mesh"
	"mesh/builder"
	"mesh/engine"
)

// confineTime limits how long the engine and systemd may take to answer.
const confineTime = 20 * time.Second

// confineMain implements "mesh confine". It limits builds with the settings of the
// server that is about to start, which lacks the rights to do so itself.
func confineMain(args []string, stdout io.Writer) error {
	s, err := parseSettings(args, os.Getenv)
	if errors.Is(err, pflag.ErrHelp) {
		_, _ = fmt.Fprintln(stdout, "usage: mesh confine [FLAGS OF mesh serve]\n\nLimits the memory (--build-memory) and the processes of builds, until the machine\nrestarts. It needs root: run it before a server that does not run as root.")
		return nil
	}
	if err != nil {
		return err
	}
	docker, err := engine.New(s.DockerHost, 0)
	if err != nil {
		return err
	}
	defer func() { _ = docker.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), confineTime)
	defer cancel()
	if err := builder.New(docker, s.build).Confine(ctx); err != nil {
		return mesh.Errorf(mesh.Failed, "builds are not limited: %w", err)
	}
	return nil
}
