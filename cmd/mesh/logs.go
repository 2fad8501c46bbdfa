package main

import (
	"context"
	"log/slog"

	"mesh"
	"mesh/journal"
	"mesh/metrics"
	"mesh/router/certs"
	"mesh/runner"
)

// logs reads the lines of stacks, wherever they are kept.
type logs struct {
	runner         *runner.Runner
	router, events *journal.Journal
}

// Logs reads the lines of one source; without one, those of instances.
func (l logs) Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	switch q.Source {
	case "router":
		return l.router.Logs(ctx, q, fn)
	case "mesh":
		return l.events.Logs(ctx, q, fn)
	}
	return l.runner.Logs(ctx, q, fn)
}

// events keeps mesh's own lines. Its Rename also renames a stack's request logs, metrics
// and certificates.
type events struct {
	own, requests *journal.Journal
	metrics       *metrics.Store
	certs         *certs.Certs // nil without TLS
	log           *slog.Logger
}

// Event keeps a line.
func (e events) Event(stack mesh.StackName, l mesh.LogLine) {
	e.own.Add(stack, func(b []byte) []byte { return append(journal.AppendStart(b, l.At, l.Name), l.Text...) })
}

// Rename renames a stack's logs.
func (e events) Rename(from, to mesh.StackName) {
	e.own.Rename(from, to)
	e.requests.Rename(from, to)
	e.metrics.Rename(from, to)
	if e.certs == nil {
		return
	}
	if err := e.certs.Rename(from, to); err != nil {
		e.log.Warn("uploaded certificates not renamed", "stack", to, "err", err)
	}
}
