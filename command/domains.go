package command

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"mesh"
)

var domainCommands = []*definition{
	{
		topic: "domains", short: "List the host names that lead to a stack", stack: true, json: true, run: runDomains,
	},
	{
		topic: "domains", verb: "add", args: "HOST", short: "Route a host name to a stack; one host belongs to one stack",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runDomainsAdd,
		flags: func(f *pflag.FlagSet) {
			f.String("redirect-to", "", "tell who asks for it to go to this other `HOST` of the stack")
		},
	},
	{
		topic: "domains", verb: "remove", args: "HOST", short: "Take a host name from a stack",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runDomainsRemove,
	},
}

func runDomains(_ context.Context, c *call) error {
	hosts := c.Deployer.Domains(c.stack)
	if c.json {
		out := map[string]any{"stack": c.stack.Name, "domains": hosts}
		if len(c.stack.Redirects) > 0 {
			out["redirects"] = c.stack.Redirects
		}
		return c.printJSON(out)
	}
	for _, h := range hosts {
		if to := c.stack.Redirects[h]; to != "" {
			c.say("%s -> %s\n", h, to)
			continue
		}
		_, _ = fmt.Fprintln(c.Stdout, h)
	}
	return nil
}

func runDomainsAdd(ctx context.Context, c *call) error {
	host, err := mesh.ParseHost(c.args[0])
	if err != nil {
		return err
	}
	var to mesh.Host
	if s, _ := c.flags.GetString("redirect-to"); s != "" {
		if to, err = mesh.ParseHost(s); err != nil {
			return err
		}
	}
	if err := c.Deployer.AddDomain(ctx, c.stack.Name, host, to, c.Key); err != nil {
		return err
	}
	if to != "" {
		c.say("%s is redirected to %s\n", host, to)
		return nil
	}
	c.say("%s leads to %s: %s\n", host, c.stack.Name, c.URL(host))
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
	c.say("%s leads to %s no more\n", host, c.stack.Name)
	return nil
}
