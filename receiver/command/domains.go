package command

import (
	"context"
	"fmt"

	"mesh"
)

var domainCommands = []*definition{
	{
		topic: "domains", short: "List the host names that lead to a stack", stack: true, json: true, run: runDomains,
	},
	{
		topic: "domains", verb: "add", args: "HOST", short: "Route a host name to a stack; one host belongs to one stack",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runDomainsAdd,
	},
	{
		topic: "domains", verb: "remove", args: "HOST", short: "Take a host name from a stack",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runDomainsRemove,
	},
}

func runDomains(_ context.Context, c *call) error {
	hosts := c.Deployer.Domains(c.stack)
	if c.json {
		return c.printJSON(map[string]any{"stack": c.stack.Name, "domains": hosts})
	}
	for _, h := range hosts {
		_, _ = fmt.Fprintln(c.Stdout, h)
	}
	return nil
}

func runDomainsAdd(ctx context.Context, c *call) error {
	host, err := mesh.ParseHost(c.args[0])
	if err != nil {
		return err
	}
	if err := c.Deployer.AddDomain(ctx, c.stack.Name, host); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(c.Stdout, "%s leads to %s: %s\n", host, c.stack.Name, c.URL(host))
	return nil
}

func runDomainsRemove(ctx context.Context, c *call) error {
	host, err := mesh.ParseHost(c.args[0])
	if err != nil {
		return err
	}
	if err := c.Deployer.RemoveDomain(ctx, c.stack.Name, host); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(c.Stdout, "%s leads to %s no more\n", host, c.stack.Name)
	return nil
}
