package command

import (
	"context"
	"fmt"

	"mesh"
)

var upgradeCommands = []*definition{
	{
		topic: "upgrade", short: "Switch to the mesh binary on disk without losing requests",
		long:   "Running deployments finish first, and new sessions wait. If the new binary does not start, the old one\nkeeps serving.",
		access: mesh.AccessAdmin, quiet: true, json: true, parts: true, run: runUpgrade,
	},
}

func runUpgrade(ctx context.Context, c *call) error {
	_, _ = fmt.Fprintln(c.Stderr, "waiting for running deployments and the new process")
	// From now on, the audit log belongs to another process.
	c.Auditor.Audit(ctx, c.Key.Name, "", "upgrade", nil)
	next, err := c.Server.Upgrade(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]any{"from": c.Version, "version": next.Version, "pid": next.PID})
	}
	c.say("mesh %s (process %d) has taken over from %s\n", next.Version, next.PID, c.Version)
	return nil
}
