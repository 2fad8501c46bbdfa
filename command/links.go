package command

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

// Links lets stacks reach each other.
type Links interface {
	// Link is a deployment if the stack runs: it writes its output to out.
	Link(ctx context.Context, stack mesh.StackName, by mesh.KeyName, l mesh.Link, out io.Writer) error
	// Unlink removes the links to a service of another stack, and returns them. Like Link
	// it is a deployment if the stack runs.
	Unlink(ctx context.Context, stack mesh.StackName, by mesh.KeyName, to mesh.StackName, service mesh.ServiceName, out io.Writer) ([]mesh.Link, error)
}

var linkCommands = []*definition{
	{
		topic: "stacks", verb: "link", args: "OTHER", short: "Let this stack (-a) reach another one",
		long: fmt.Sprintf("`ssh mesh stacks:link blog -a api` makes blog's web reachable for api's instances at http://blog:%d, and sets\n", mesh.LinkPort) +
			"BLOG_URL, as one release. Nothing else of blog is reachable, and nothing of api. Requests go to healthy instances\n" +
			"of blog's current release and are not lost when blog is deployed; its access rules do not apply to them. blog may\n" +
			"also be on the way: requests wait for its first instance. The key needs the role deploy for both stacks.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runLink,
		flags: func(f *pflag.FlagSet) {
			linkService(f)
			f.String("as", "", "the host `NAME`; by default OTHER, or OTHER-SERVICE")
		},
	},
	{
		topic: "stacks", verb: "unlink", args: "OTHER", short: "Remove a link to another stack",
		long:  "Also removes its config var, unless somebody has changed the value. Makes one release.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runUnlink,
		flags: linkService,
	},
}

func linkService(f *pflag.FlagSet) {
	f.StringP("service", "p", string(mesh.Web), "the `SERVICE` of OTHER, which listens on $PORT and speaks HTTP")
}

// linkEnd returns the stack and the service that a command line names.
func (c *call) linkEnd() (mesh.StackName, mesh.ServiceName, error) {
	to, err := mesh.ParseStackName(c.args[0])
	if err != nil {
		return "", "", err
	}
	name, _ := c.flags.GetString("service")
	svc, err := mesh.ParseServiceName(name)
	return to, svc, err
}

func runLink(ctx context.Context, c *call) error {
	to, svc, err := c.linkEnd()
	if err != nil {
		return err
	}
	if !c.Key.May(mesh.AccessRead, to) {
		return noStack(string(to), nil)
	}
	if !c.Key.May(mesh.AccessDeploy, to) {
		return mesh.Errorf(mesh.Denied, "the key %q may not open %s to other stacks", c.Key.Name, to).WithHint("it has the role %s; ask an admin for deploy", c.Key.Role)
	}
	l := mesh.NewLink(to, svc)
	if c.flags.Changed("as") {
		as, _ := c.flags.GetString("as")
		if l.As, err = mesh.ParseLinkName(as); err != nil {
			return err
		}
	}
	c.auditLink(l)
	if err := c.Links.Link(ctx, c.stack.Name, c.Key.Name, l, c.Stderr); err != nil {
		return err
	}
	return c.sayLinked(ctx, fmt.Sprintf("linked to %s: %s=%s", l, l.Var(), l.URL()))
}

func runUnlink(ctx context.Context, c *call) error {
	to, svc, err := c.linkEnd()
	if err != nil {
		return err
	}
	c.auditLink(mesh.Link{To: to, Service: svc})
	gone, err := c.Links.Unlink(ctx, c.stack.Name, c.Key.Name, to, svc, c.Stderr)
	if err != nil {
		return err
	}
	var names []string
	for _, l := range gone {
		names = append(names, l.As)
	}
	return c.sayLinked(ctx, fmt.Sprintf("removed the link %s", strings.Join(names, ", ")))
}

// auditLink keeps what the link is for the audit log.
func (c *call) auditLink(l mesh.Link) {
	if l.Service != mesh.Web {
		c.audited = append(c.audited, "--service "+string(l.Service))
	}
	if l.As != "" && c.flags.Changed("as") {
		c.audited = append(c.audited, "--as "+l.As)
	}
}

func (c *call) sayLinked(ctx context.Context, what string) error {
	st, err := c.Stacks.Stack(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	if st.Current == 0 {
		c.say("%s: %s; takes effect with the first release\n", st.Name, what)
		return nil
	}
	c.say("%s %s: %s\n", st.Name, st.Current, what)
	return nil
}

type linkJSON struct {
	Stack   string `json:"stack"`
	Service string `json:"service"`
	As      string `json:"as"`
	URL     string `json:"url"`
}

// linksOf returns the links of a stack, and the names of those stacks that are linked to
// it that the key may see.
func (c *call) linksOf(ctx context.Context, st mesh.Stack) (links []linkJSON, from []string, err error) {
	for _, l := range st.Links {
		links = append(links, linkJSON{string(l.To), string(l.Service), l.As, l.URL()})
	}
	all, err := c.Stacks.Stacks(ctx)
	for _, o := range all {
		for _, l := range o.Links {
			if l.To == st.Name && c.Key.May(mesh.AccessRead, o.Name) {
				from = append(from, string(o.Name))
				break
			}
		}
	}
	return links, from, err
}
