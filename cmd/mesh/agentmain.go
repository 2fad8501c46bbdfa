package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	charm "github.com/charmbracelet/log"

	"mesh"
	"mesh/agent"
	"mesh/nodes"
)

// agentMain runs the agent of a node until it is told to end. mesh starts it, as a service of the
// swarm: nobody types it.
func (p program) agentMain(stderr io.Writer) error {
	node, servers := os.Getenv(nodes.EnvNode), os.Getenv(nodes.EnvServers)
	if node == "" || servers == "" {
		return mesh.Errorf(mesh.Invalid, "mesh starts the agents itself").WithHint("add a machine with: ssh mesh nodes:join")
	}
	pass, err := os.ReadFile(nodes.SecretFile)
	if err != nil {
		return err
	}
	conf, err := agent.ParsePass(pass)
	if err != nil {
		return err
	}
	debug.SetMemoryLimit(64 << 20)
	debug.SetGCPercent(50)
	debug.FreeOSMemory() // what the packages of the server have left behind at their start
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	log := slog.New(charm.NewWithOptions(stderr, charm.Options{ReportTimestamp: true}))
	return agent.Run(ctx, agent.Options{Node: node, Version: p.version, Servers: strings.Split(servers, ","), TLS: conf, Logger: log})
}
