package command

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

// Endpoints publishes services other than web.
type Endpoints interface {
	// Publish is a deployment: it writes its output to out. The key must be allowed to
	// add the host.
	Publish(ctx context.Context, stack mesh.StackName, key mesh.Key, e mesh.Endpoint, out io.Writer) error
	// Unpublish removes one endpoint from a service, or all and its TCP ports if at is
	// nil, and returns those removed.
	Unpublish(ctx context.Context, stack mesh.StackName, service mesh.ServiceName, at *mesh.Endpoint) ([]mesh.Endpoint, []mesh.TCPPort, error)
	// PublishPort is a deployment: it writes its output to out. The server's settings
	// must allow the port, and no other stack may have it.
	PublishPort(ctx context.Context, stack mesh.StackName, key mesh.Key, p mesh.TCPPort, out io.Writer) error
	UnpublishPort(ctx context.Context, stack mesh.StackName, p mesh.TCPPort) error
}

// Ports reports on TCP ports of the machine.
type Ports interface {
	// PortFault returns why a published port is not open, or "".
	PortFault(port uint16) string
}

var publishCommands = []*definition{
	{
		topic: "svc", verb: "publish", args: "NAME [URL]", short: "Route part of a host's requests, or a TCP port, to a service",
		long: "The service gets the requests for the endpoint's host whose path is the endpoint's path or below it. If several\n" +
			"endpoints match, the longest path wins; web gets all other requests. Paths are compared decoded, with case, part by\n" +
			"part: /api covers /api/v2 but not /apis. The app sees the whole path, or with --strip-prefix what follows the\n" +
			"endpoint's path: / for /api, /v2 for /api/v2; /api is in X-Forwarded-Prefix. Its redirects are passed on unchanged.\n" +
			"Repeat the command to change that. A host that belongs to no stack is added to this stack. The service listens on\n" +
			"$PORT like web, must answer GET / with anything but a 5xx to be healthy, and is restarted for this.\n" +
			"With --tcp the service gets the connections to a port of the server, as they are. The server's MESH_TCP_PORTS\n" +
			"must allow the port, and no other stack may have it. To be healthy, the service must accept a connection on $PORT.\n" +
			"Of the access rules only those about addresses apply. The app sees the server's address, not the client's.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 2, run: runPublish,
		flags: func(f *pflag.FlagSet) {
			f.String("endpoint", "", "the `URL`, for example https://www.example.com/api; can also be the second argument")
			f.Bool("strip-prefix", false, "the app sees paths without the endpoint's path")
			f.String("tcp", "", "the `PORT` of the server, for example 5432 or :5432, instead of a URL")
		},
	},
	{
		topic: "svc", verb: "unpublish", args: "NAME [URL]", short: "Remove one or all endpoints and TCP ports of a service",
		long: "web gets the requests again, and the ports close. The instances keep running, the hosts stay with the stack, and\n" +
			"open connections continue.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 2, run: runUnpublish,
		flags: func(f *pflag.FlagSet) {
			f.String("endpoint", "", "only this `URL`")
			f.String("tcp", "", "only this `PORT`")
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

// tcpPort reads --tcp; nil: it was not given. Nothing else may name what to publish then.
func (c *call) tcpPort(name mesh.ServiceName) (*mesh.TCPPort, error) {
	if !c.flags.Changed("tcp") {
		return nil, nil //nolint:nilnil // there is none, and that is no error
	}
	text, _ := c.flags.GetString("tcp")
	n, err := mesh.ParsePort(text)
	if err != nil {
		return nil, err
	}
	if c.flags.Changed("endpoint") || c.flags.Changed("strip-prefix") || len(c.args) > 1 {
		return nil, c.usage("--tcp stands alone: a port has no URL and no path")
	}
	p := &mesh.TCPPort{Number: n, Service: name}
	c.audited = append(c.audited, "--tcp "+p.String())
	return p, nil
}

func runPublish(ctx context.Context, c *call) error {
	name, err := mesh.ParseServiceName(c.args[0])
	if err != nil {
		return err
	}
	if p, err := c.tcpPort(name); err != nil {
		return err
	} else if p != nil {
		if err := c.Endpoints.PublishPort(ctx, c.stack.Name, c.Key, *p, c.Stderr); err != nil {
			return err
		}
		c.say("published %s of %s at %s\n", name, c.stack.Name, c.portURL(*p))
		return nil
	}
	at, err := c.endpoint()
	switch {
	case err != nil:
		return err
	case at == nil:
		return c.usage("name the endpoint: --endpoint https://HOST/PATH, or a port of the server: --tcp PORT")
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
	if p, err := c.tcpPort(name); err != nil {
		return err
	} else if p != nil {
		if err := c.Endpoints.UnpublishPort(ctx, c.stack.Name, *p); err != nil {
			return err
		}
		c.say("unpublished %s of %s from port %d\n", name, c.stack.Name, p.Number)
		return nil
	}
	at, err := c.endpoint()
	if err != nil {
		return err
	}
	taken, ports, err := c.Endpoints.Unpublish(ctx, c.stack.Name, name, at)
	if err != nil {
		return err
	}
	for _, p := range ports {
		c.say("unpublished %s of %s from port %d\n", name, c.stack.Name, p.Number)
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

// portURL is where clients find a port: on the stack's own host, which leads to the server.
func (c *call) portURL(p mesh.TCPPort) string {
	return "tcp://" + string(c.Hosts.Domains(c.stack)[0]) + p.String()
}

type portJSON struct {
	Port    uint16 `json:"port"`
	Service string `json:"service"`
	Fault   string `json:"fault,omitempty"` // why it is not open
}

// portsOf returns the TCP ports of a service, or of all if name is empty.
func (c *call) portsOf(name mesh.ServiceName) (out []portJSON) {
	for _, p := range c.stack.Ports {
		if name == "" || p.Service == name {
			out = append(out, portJSON{p.Number, string(p.Service), c.Ports.PortFault(p.Number)})
		}
	}
	return out
}

// portsText is the column PORTS.
func portsText(list []portJSON) string {
	var out []string
	for _, p := range list {
		text := mesh.PortText(p.Port)
		if p.Fault != "" {
			text += " (not open: " + p.Fault + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// published returns the services that have an endpoint or a TCP port.
func published(st mesh.Stack) (all []mesh.ServiceName) {
	for _, e := range st.Endpoints {
		all = append(all, e.Service)
	}
	for _, p := range st.Ports {
		all = append(all, p.Service)
	}
	return all
}
