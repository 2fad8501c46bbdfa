package command

import (
	"context"
	"fmt"

	"mesh"
)

var upgradeCommands = []*definition{
	{
		topic: "upgrade", short: "Hand over to the binary on the server's disk; no request is lost",
		long:   "Deployments under way end first; sessions that begin meanwhile wait. If the new binary does not come\nup, the old one serves on.",
		access: mesh.AccessAdmin, quiet: true, json: true, parts: true, run: runUpgrade,
	},
}

func runUpgrade(ctx context.Context, c *call) error {
	_, _ = fmt.Fprintln(c.Stderr, "waiting for what is under way, then for the new process")
	// Afterwards the audit log is another process's.
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
