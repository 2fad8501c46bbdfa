package command

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"mesh"
)

// Hosts reads and changes the host names of a stack. Changes take effect at once.
type Hosts interface {
	// Domains returns all host names of a stack, the one below the base domain first.
	Domains(st mesh.Stack) []mesh.Host
	// AddDomain routes a host to a stack if the key may give it away. If to, another
	// host of the stack, is given, requests are redirected there.
	AddDomain(ctx context.Context, name mesh.StackName, host, to mesh.Host, key mesh.Key) error
	RemoveDomain(ctx context.Context, name mesh.StackName, host mesh.Host) error
}

var domainCommands = []*definition{
	{
		topic: "domains", short: "List the host names of a stack", stack: true, json: true, run: runDomains,
	},
	{
		topic: "domains", verb: "add", args: "HOST", short: "Add a host name to a stack",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runDomainsAdd,
		flags: func(f *pflag.FlagSet) {
			f.String("redirect-to", "", "redirect requests to this other `HOST` of the stack")
		},
	},
	{
		topic: "domains", verb: "remove", args: "HOST", short: "Remove a host name from a stack",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runDomainsRemove,
	},
	{
		topic: "urls", short: "Print the URLs of a stack, its own host first", stack: true, json: true, exact: true, run: runURLs,
	},
}

func runDomains(_ context.Context, c *call) error {
	hosts := c.Hosts.Domains(c.stack)
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
	if err := c.Hosts.AddDomain(ctx, c.stack.Name, host, to, c.Key); err != nil {
		return err
	}
	if to != "" {
		c.say("redirected %s to %s\n", host, to)
		return nil
	}
	c.say("added %s to %s: %s\n", host, c.stack.Name, c.URL(host))
	return nil
}

func runDomainsRemove(ctx context.Context, c *call) error {
	host, err := mesh.ParseHost(c.args[0])
	if err != nil {
		return err
	}
	if err := c.Hosts.RemoveDomain(ctx, c.stack.Name, host); err != nil {
		return err
	}
	c.say("removed %s from %s\n", host, c.stack.Name)
	return nil
}
