package command

import (
	"context"
	"io"
	"slices"

	"github.com/spf13/pflag"

	"mesh"
)

// Endpoints publishes services other than web.
type Endpoints interface {
	// Publish is a deployment: it writes its lines to out.
	Publish(ctx context.Context, stack mesh.StackName, by mesh.KeyName, e mesh.Endpoint, out io.Writer) error
	// Unpublish takes one endpoint from a service, or all when at is nil, and returns those.
	Unpublish(ctx context.Context, stack mesh.StackName, service mesh.ServiceName, at *mesh.Endpoint) ([]mesh.Endpoint, error)
}

var publishCommands = []*definition{
	{
		topic: "svc", verb: "publish", args: "NAME", short: "Give a service other than web a part of a host's requests",
		long: "The service gets the requests for the endpoint's host whose path is the endpoint's or below it; of several\n" +
			"endpoints the one with the longest path counts, and what no endpoint takes is web's. The path is compared decoded,\n" +
			"with case, part by part: /api covers /api/v2 and not /apis. The app sees it whole; nothing is cut off. A host that no\n" +
			"stack has becomes one of this stack's. The service listens on $PORT like web, must answer GET / with anything but a\n" +
			"5xx to count as healthy, and is started anew for that.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runPublish,
		flags: func(f *pflag.FlagSet) {
			f.String("endpoint", "", "the `URL`, such as https://www.example.com/api")
		},
	},
	{
		topic: "svc", verb: "unpublish", args: "NAME", short: "Give a service's endpoints, or one of them, back to web",
		long:  "Its instances go on running, and the hosts stay the stack's.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runUnpublish,
		flags: func(f *pflag.FlagSet) {
			f.String("endpoint", "", "this `URL` only")
		},
	},
}

func runPublish(ctx context.Context, c *call) error {
	name, err := mesh.ParseServiceName(c.args[0])
	if err != nil {
		return err
	}
	at, _ := c.flags.GetString("endpoint")
	if at == "" {
		return c.usage("say where: --endpoint https://HOST/PATH")
	}
	e, err := mesh.ParseEndpoint(at)
	if err != nil {
		return err
	}
	e.Service = name
	if err := c.Endpoints.Publish(ctx, c.stack.Name, c.Key.Name, e, c.Stderr); err != nil {
		return err
	}
	c.say("%s: %s is published at %s\n", c.stack.Name, name, e)
	if !slices.Contains(c.Hosts.Domains(c.stack), e.Host) {
		c.say("%s leads to %s now\n", e.Host, c.stack.Name)
	}
	return nil
}

func runUnpublish(ctx context.Context, c *call) error {
	name, err := mesh.ParseServiceName(c.args[0])
	if err != nil {
		return err
	}
	var at *mesh.Endpoint
	if s, _ := c.flags.GetString("endpoint"); s != "" {
		e, err := mesh.ParseEndpoint(s)
		if err != nil {
			return err
		}
		at = &e
	}
	taken, err := c.Endpoints.Unpublish(ctx, c.stack.Name, name, at)
	if err != nil {
		return err
	}
	for _, e := range taken {
		c.say("%s: %s is not published at %s any more\n", c.stack.Name, name, e)
	}
	return nil
}

// endpointsOf lists where a service is published.
func endpointsOf(st mesh.Stack, name mesh.ServiceName) (out []string) {
	for _, e := range st.Endpoints {
		if e.Service == name {
			out = append(out, e.String())
		}
	}
	return out
}
