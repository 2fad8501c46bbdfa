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
	// Publish is a deployment: it writes its output to out. The key must be allowed to
	// add the host.
	Publish(ctx context.Context, stack mesh.StackName, key mesh.Key, e mesh.Endpoint, out io.Writer) error
	// Unpublish removes one endpoint from a service, or all if at is nil, and returns
	// those removed.
	Unpublish(ctx context.Context, stack mesh.StackName, service mesh.ServiceName, at *mesh.Endpoint) ([]mesh.Endpoint, error)
}

var publishCommands = []*definition{
	{
		topic: "svc", verb: "publish", args: "NAME", short: "Route part of a host's requests to a service",
		long: "The service gets the requests for the endpoint's host whose path is the endpoint's path or below it. If several\n" +
			"endpoints match, the longest path wins; web gets all other requests. Paths are compared decoded, with case, part by\n" +
			"part: /api covers /api/v2 but not /apis. The app sees the whole path. A host that belongs to no stack is added to\n" +
			"this stack. The service listens on $PORT like web, must answer GET / with anything but a 5xx to be healthy, and is\n" +
			"restarted for this.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runPublish,
		flags: func(f *pflag.FlagSet) {
			f.String("endpoint", "", "the `URL`, for example https://www.example.com/api")
		},
	},
	{
		topic: "svc", verb: "unpublish", args: "NAME", short: "Remove one or all endpoints of a service",
		long:  "web gets the requests again. The instances keep running, and the hosts stay with the stack.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runUnpublish,
		flags: func(f *pflag.FlagSet) {
			f.String("endpoint", "", "only this `URL`")
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
		return c.usage("name the endpoint: --endpoint https://HOST/PATH")
	}
	e, err := mesh.ParseEndpoint(at)
	if err != nil {
		return err
	}
	e.Service = name
	if err := c.Endpoints.Publish(ctx, c.stack.Name, c.Key, e, c.Stderr); err != nil {
		return err
	}
	c.say("published %s of %s at %s\n", name, c.stack.Name, e)
	if !slices.Contains(c.Hosts.Domains(c.stack), e.Host) {
		c.say("added %s to %s\n", e.Host, c.stack.Name)
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
		c.say("unpublished %s of %s from %s\n", name, c.stack.Name, e)
	}
	return nil
}

// endpointsOf returns the endpoints of a service.
func endpointsOf(st mesh.Stack, name mesh.ServiceName) (out []string) {
	for _, e := range st.Endpoints {
		if e.Service == name {
			out = append(out, e.String())
		}
	}
	return out
}
