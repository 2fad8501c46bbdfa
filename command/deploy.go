package command

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"mesh"
)

// Deploys deploys sources that do not come by git. A method with an out parameter is a
// deployment.
type Deploys interface {
	// AdmitPush reports whether the key may deploy to the stack, which need not exist,
	// and whether that could succeed, before anything is received.
	AdmitPush(ctx context.Context, key mesh.Key, stack mesh.StackName) error
	Upload(ctx context.Context, u mesh.Upload, out io.Writer) error
	Promote(ctx context.Context, from, to mesh.StackName, by mesh.KeyName, out io.Writer) error
}

// Uploads opens source trees that come as a tar.
type Uploads interface {
	// Unpack reads a tar, or a gzip of one, to its end, and returns its tree and a hex
	// ID of its content. Call release when nothing reads the tree any more. If Unpack
	// fails, nothing is left. A faulty tar gives a *mesh.Error.
	Unpack(ctx context.Context, r io.Reader) (tree mesh.Tree, id string, release func(), err error)
}

var deployCommands = []*definition{
	{
		topic: "deploy", args: "[PATH]", short: "Deploy the working directory or an image, without git",
		long: "In a checkout, `mesh deploy` uploads the working directory, committed or not, except what .gitignore\n" +
			"and .dockerignore exclude. If there is no Dockerfile, an uncommitted .env is excluded as well. Over\n" +
			"plain ssh, a tar is read from standard input:\n" +
			"`tar cz . | ssh mesh deploy -a blog`. With --image the server pulls an image and records its digest.\n" +
			"`docker save IMG | ssh mesh deploy -a blog --load IMG` needs no registry.",
		stack: true, creates: true, access: mesh.AccessDeploy, max: 1, run: runDeploy,
		flags: func(f *pflag.FlagSet) {
			f.String("dockerfile", "", "build with the Dockerfile at `PATH` in the tree")
			f.Lookup("dockerfile").NoOptDefVal = mesh.DefaultDockerfile
			f.String("image", "", "deploy the prebuilt image `REF`, pulled by the server")
			f.String("load", "", "deploy the image `REF` from a docker save on standard input")
			f.Bool("no-pull", false, "with --image: use the engine's copy, without a registry")
			f.Bool("no-cache", false, "run every build step")
			f.Bool("dry-run", false, "build, then stop")
			f.String("source", "", "`TEXT` that describes the deployment")
		},
	},
	{
		topic: "promote", args: "TO", short: "Deploy the image that one stack (-a FROM) runs to another",
		long:  "TO gets the same image, with its own config and release command: `ssh mesh promote live -a staging`",
		stack: true, ownCheck: true, changes: true, min: 1, max: 1, run: runPromote,
	},
}

func runDeploy(ctx context.Context, c *call) error {
	u := mesh.Upload{Stack: c.stack.Name, By: c.Key.Name}
	u.NoCache, _ = c.flags.GetBool("no-cache")
	u.DryRun, _ = c.flags.GetBool("dry-run")
	u.Dockerfile, _ = c.flags.GetString("dockerfile")
	what, _ := c.flags.GetString("source")
	img, _ := c.flags.GetString("image")
	load, _ := c.flags.GetString("load")
	local, _ := c.flags.GetBool("no-pull")
	for _, name := range []string{"image", "load"} {
		v, _ := c.flags.GetString(name)
		if v == "" && c.flags.Changed(name) {
			return c.usage("--%s needs the name of an image", name)
		}
		if v != mesh.Visible(v) || strings.ContainsAny(v, " \t") {
			return c.usage("%q is not the name of an image", mesh.Clip(v, 80))
		}
		if v != "" {
			c.audited = append(c.audited, "--"+name, v)
		}
	}
	if what != "" {
		c.audited = append(c.audited, "--source", what)
	}
	switch {
	case img != "" && load != "":
		return c.usage("--image and --load cannot be combined")
	case (img != "" || load != "") && (c.flags.Changed("dockerfile") || u.NoCache):
		return c.usage("--dockerfile and --no-cache do not apply to a prebuilt image")
	case local && img == "":
		return c.usage("--no-pull needs --image")
	case len(c.args) > 0 && !c.flags.Changed("dockerfile"):
		return c.usage("deploy does not take the argument %q", mesh.Clip(c.args[0], 60))
	case len(c.args) > 0:
		u.Dockerfile = c.args[0] // --dockerfile PATH; PATH may be omitted
	}
	if u.Dockerfile != "" {
		if err := new(mesh.Settings).Set("dockerfile", u.Dockerfile); err != nil {
			return err
		}
	}
	if err := c.admitImage(img); err != nil {
		return err
	}
	if err := c.Deploys.AdmitPush(ctx, c.Key, c.stack.Name); err != nil {
		return err
	}
	switch {
	case img != "":
		u.From, u.Subject = mesh.From{Ref: img, Local: local, Public: len(c.Key.Stacks) > 0}, "Image "+img
	case c.TTY:
		return mesh.Errorf(mesh.Invalid, "the source must come from standard input, which is a terminal").
			WithHint("in a checkout: mesh deploy; elsewhere: tar cz . | ssh mesh deploy -a %s", c.stack.Name)
	case load != "":
		u.From, u.Subject = mesh.From{Ref: load, Archive: c.Upload}, "Image "+load+", loaded"
	default:
		began := c.Now()
		c.tell("-----> Receiving the tree\n")
		tree, id, release, err := c.Uploads.Unpack(ctx, c.Upload)
		if err != nil {
			return err
		}
		defer release()
		files, size := 0, int64(0)
		for _, e := range tree.Entries() {
			if !e.Mode.IsDir() {
				files++
				size += e.Size
			}
		}
		c.tell("       %d files, %s, in %.1fs\n", files, units.HumanSize(float64(size)), c.Now().Sub(began).Round(time.Millisecond).Seconds())
		u.Tree, u.ID, u.Subject = tree, id, "Upload"
	}
	if what = mesh.Clip(mesh.Visible(what), 72); what != "" {
		u.Subject += ": " + what
	}
	if err := c.Deploys.Upload(ctx, u, c.Stderr); err != nil {
		return err
	}
	return c.deployed(ctx, u.Stack, u.DryRun)
}

// admitImage returns an error if an image belongs to a stack that the key may not see:
// the engine has those images as well.
func (c *call) admitImage(ref string) error {
	ref = strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(ref), "docker.io/"), "index.docker.io/")
	name, ours := strings.CutPrefix(ref, "mesh/")
	if i := strings.IndexAny(name, ":@"); i >= 0 {
		name = name[:i]
	}
	if ours && !c.Key.May(mesh.AccessRead, mesh.StackName(name)) {
		return mesh.Errorf(mesh.NotFound, "the image %s does not exist, or it is private", mesh.Clip(ref, 80))
	}
	if len(c.Key.Stacks) > 0 && !ours {
		// An image in the engine that belongs to no stack may be anyone's.
		if local, _ := c.flags.GetBool("no-pull"); local {
			return mesh.Errorf(mesh.Denied, "the key %q is limited to stacks and may not use other images of the engine", c.Key.Name).WithHint("deploy it from a registry, without --no-pull")
		}
	}
	return nil
}

// deployed prints the result of a command that has deployed something new.
func (c *call) deployed(ctx context.Context, name mesh.StackName, dry bool) error {
	st, err := c.Stacks.Stack(ctx, name)
	if err != nil {
		return err
	}
	if dry {
		c.say("built %s; nothing has changed\n", name)
		return nil
	}
	c.say("%s %s: %s\n", name, st.Current, c.URL(c.Hosts.Domains(st)[0]))
	return nil
}

func runPromote(ctx context.Context, c *call) error {
	to, err := mesh.ParseStackName(c.args[0])
	if err != nil {
		return err
	}
	if !c.Key.May(mesh.AccessRead, to) {
		return noStack(string(to), nil)
	}
	if !c.Key.May(mesh.AccessDeploy, to) {
		return mesh.Errorf(mesh.Denied, "the key %q may not deploy to %s", c.Key.Name, to).WithHint("it has the role %s; ask an admin for deploy", c.Key.Role)
	}
	from := c.stack.Name
	c.stack.Name, c.args = to, []string{string(to), "-a", string(from)} // for the audit log: TO is the stack that changes
	if err := c.Deploys.Promote(ctx, from, to, c.Key.Name, c.Stderr); err != nil {
		return err
	}
	return c.deployed(ctx, to, false)
}
