package command

import (
	"context"
	"fmt"
	"io"

	"mesh"
)

// Stages switches to releases that wait beside the current one.
type Stages interface {
	// Switch makes a staged release current; it returns NotFound for another one.
	Switch(ctx context.Context, stack mesh.StackName, n mesh.ReleaseNumber, by mesh.KeyName, out io.Writer) error
	// StagedLink returns the link to the staged release, or NotFound.
	StagedLink(st mesh.Stack) (string, error)
	// DiscardStaged removes the staged release, and returns its number.
	DiscardStaged(ctx context.Context, stack mesh.StackName) (mesh.ReleaseNumber, error)
}

var switchCommands = []*definition{
	{
		topic: "switch", args: "vN", short: "Make a release live that was pushed with -o no-switch", stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runSwitch,
		long: "`git push -o no-switch mesh BRANCH` builds, starts and checks a release, and leaves it beside the current one. The push\n" +
			"prints a link to it. The release waits for a day, or until another one is made.",
	},
	{
		topic: "switch", verb: "link", short: "Print the link to the release that waits for switch", stack: true, access: mesh.AccessDeploy, prints: true, json: true, run: runSwitchLink,
	},
	{
		topic: "switch", verb: "discard", short: "Remove the release that waits for switch", stack: true, access: mesh.AccessDeploy, run: runSwitchDiscard,
	},
}

func runSwitch(ctx context.Context, c *call) error {
	n, err := mesh.ParseReleaseNumber(c.args[0])
	if err != nil {
		return err
	}
	if err := c.Stages.Switch(ctx, c.stack.Name, n, c.Key.Name, c.Stderr); err != nil {
		return err
	}
	return c.releaseLine(ctx, "switched")
}

func runSwitchLink(_ context.Context, c *call) error {
	link, err := c.Stages.StagedLink(c.stack)
	if err != nil {
		return err
	}
	if c.json {
		s := c.stack.Staged
		return c.printJSON(map[string]any{"release": s.Release.String(), "url": link, "by": s.By, "since": s.Since, "until": s.Until})
	}
	_, _ = fmt.Fprintln(c.Stdout, link)
	return nil
}

func runSwitchDiscard(ctx context.Context, c *call) error {
	n, err := c.Stages.DiscardStaged(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	c.say("%s: discarded %s\n", c.stack.Name, n)
	return nil
}
