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
		topic: "svc", verb: "publish", args: "NAME [URL]", short: "Route part of a host's requests to a service",
		long: "The service gets the requests for the endpoint's host whose path is the endpoint's path or below it. If several\n" +
			"endpoints match, the longest path wins; web gets all other requests. Paths are compared decoded, with case, part by\n" +
			"part: /api covers /api/v2 but not /apis. The app sees the whole path, or with --strip-prefix what follows the\n" +
			"endpoint's path: / for /api, /v2 for /api/v2; /api is in X-Forwarded-Prefix. Its redirects are passed on unchanged.\n" +
			"Repeat the command to change that. A host that belongs to no stack is added to this stack. The service listens on\n" +
			"$PORT like web, must answer GET / with anything but a 5xx to be healthy, and is restarted for this.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 2, run: runPublish,
		flags: func(f *pflag.FlagSet) {
			f.String("endpoint", "", "the `URL`, for example https://www.example.com/api; can also be the second argument")
			f.Bool("strip-prefix", false, "the app sees paths without the endpoint's path")
		},
	},
	{
		topic: "svc", verb: "unpublish", args: "NAME [URL]", short: "Remove one or all endpoints of a service",
		long:  "web gets the requests again. The instances keep running, and the hosts stay with the stack.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 2, run: runUnpublish,
		flags: func(f *pflag.FlagSet) {
			f.String("endpoint", "", "only this `URL`")
		},
	},
}

// endpoint reads the endpoint that an option or the second argument names; nil: neither.
func (c *call) endpoint() (*mesh.Endpoint, error) {
	url, _ := c.flags.GetString("endpoint")
	if len(c.args) > 1 {
		if url != "" {
			return nil, c.usage("the endpoint is named twice: %q and --endpoint", mesh.Clip(c.args[1], 60))
		}
		url = c.args[1]
	} else if url == "" {
		return nil, nil //nolint:nilnil // there is none, and that is no error
	} else {
		c.audited = append(c.audited, "--endpoint", url)
	}
	e, err := mesh.ParseEndpoint(url)
	if err != nil {
		return nil, err
	}
	return &e, nil
}

func runPublish(ctx context.Context, c *call) error {
	name, err := mesh.ParseServiceName(c.args[0])
	if err != nil {
		return err
	}
	at, err := c.endpoint()
	switch {
	case err != nil:
		return err
	case at == nil:
		return c.usage("name the endpoint: --endpoint https://HOST/PATH")
	}
	e := *at
	e.Service = name
	if e.Strip, _ = c.flags.GetBool("strip-prefix"); e.Strip {
		c.audited = append(c.audited, "--strip-prefix")
		if e.Path == "/" {
			return c.usage("%s has no path that could be stripped", e)
		}
	}
	if err := c.Endpoints.Publish(ctx, c.stack.Name, c.Key, e, c.Stderr); err != nil {
		return err
	}
	if e.Strip {
		c.say("published %s of %s at %s; the app sees paths without %s\n", name, c.stack.Name, e, e.Prefix())
	} else {
		c.say("published %s of %s at %s\n", name, c.stack.Name, e)
	}
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
	at, err := c.endpoint()
	if err != nil {
		return err
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

// endpointsOf returns the endpoints of a service, and those of them that strip their path.
func endpointsOf(st mesh.Stack, name mesh.ServiceName) (all, stripped []string) {
	for _, e := range st.Endpoints {
		if e.Service != name {
			continue
		}
		all = append(all, e.String())
		if e.Strip {
			stripped = append(stripped, e.String())
		}
	}
	return all, stripped
}
