package command

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

// Builds tells how a stack is built, and changes that.
type Builds interface {
	// Dockerfile returns the one that the last commit is built with, and whether mesh has
	// written it.
	Dockerfile(ctx context.Context, stack mesh.StackName) (text string, managed bool, err error)
	// SetSettings changes the settings by fn, for the next push.
	SetSettings(ctx context.Context, stack mesh.StackName, fn func(*mesh.Settings) error) (mesh.Stack, error)
}

var buildCommands = []*definition{
	{
		topic: "build", short: "Show the build and check settings", stack: true, json: true, run: runBuild,
	},
	{
		topic: "build", verb: "set", args: "NAME=VALUE…", short: "Change build and check settings, for the next push",
		long: "branch=NAME           the branch that is deployed\n" +
			"root=DIR              the folder that is built (the whole repository)\n" +
			"context=DIR           the folder that COPY sees (the whole repository; without a Dockerfile what root belongs to)\n" +
			"dockerfile=PATH       the Dockerfile, below root (Dockerfile, or none: what is detected)\n" +
			"target=STAGE          the stage of the Dockerfile (the last)\n" +
			"packages=A,B          Debian packages for the program; without a Dockerfile\n" +
			"build-packages=A,B    Debian packages for the build; without a Dockerfile\n" +
			"base-image=REF        in place of the language's own; without a Dockerfile\n" +
			"build-command=LINE    in place of the detected one; without a Dockerfile\n" +
			"start-command=LINE    of web; wins over the Procfile\n" +
			"user=NAME             who runs the program (as the image says)\n" +
			"pull=true             ask the registries for newer base images\n" +
			"watch=GLOB,GLOB       skip pushes that touch no such file, such as web/**\n" +
			"show-command=true     print the docker build that does the same\n" +
			"health=/PATH          what has to answer 2xx or 3xx (any answer but 5xx at /)\n" +
			"check-timeout=1m      how long an instance may take to become healthy (1m)\n" +
			"drain=30s             how long requests in flight may take when an instance retires (30s)\n" +
			"websocket-drain=30s   how long WebSockets may go on then (30s)\n" +
			"stop-timeout=30s      from SIGTERM to SIGKILL (30s)\n" +
			"first-byte=60s        how long the app may take to begin an answer (60s); at once, without a push\n" +
			"release-timeout=1h    how long the release command may take (1h)\n\n" +
			"The repository may say the same in mesh.toml; what is set here wins.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: many, run: runBuildSet,
	},
	{
		topic: "build", verb: "dockerfile", args: "[--eject]", short: "Print the Dockerfile that the last commit is built with: the repository's, or the one that mesh writes",
		long: "In a checkout, \"mesh build:dockerfile --eject\" writes it to ./Dockerfile, with a .dockerignore where there is\n" +
			"none, from the files that lie there. From then on it is the repository's own, to change and to commit.",
		stack: true, access: mesh.AccessRead, quiet: true, exact: true, run: runBuildDockerfile,
		flags: func(fs *pflag.FlagSet) {
			fs.Bool("eject", false, "write ./Dockerfile, in a checkout")
			fs.Bool("force", false, "with --eject: write over one that is there")
		},
	},
	{
		topic: "build", verb: "unset", args: "NAME…", short: "Put settings back to their defaults",
		stack: true, access: mesh.AccessDeploy, min: 1, max: many, run: runBuildUnset,
	},
}

// setting tells whether there is a setting of that name, and what else may be meant.
func setting(name string) error {
	best, dist := "", 3
	for _, s := range mesh.SettingNames() {
		if s == name {
			return nil
		}
		if d := distance(s, name); d < dist {
			best, dist = s, d
		}
	}
	e := mesh.Errorf(mesh.Invalid, "there is no build setting %q", mesh.Clip(name, 60))
	e.Hint = "there are " + strings.Join(mesh.SettingNames(), ", ")
	if best != "" {
		e.Hint = fmt.Sprintf("did you mean %s?", best)
	}
	return e
}

func runBuild(_ context.Context, c *call) error {
	if c.json {
		out := map[string]string{}
		for _, name := range mesh.SettingNames() {
			if v := c.stack.Settings.Get(name); v != "" {
				out[name] = v
			}
		}
		return c.printJSON(out)
	}
	for _, name := range mesh.SettingNames() {
		if v := c.stack.Settings.Get(name); v != "" {
			c.say("%s=%s\n", name, v)
		}
	}
	return nil
}

func runBuildDockerfile(ctx context.Context, c *call) error {
	if eject, _ := c.flags.GetBool("eject"); eject {
		return mesh.Errorf(mesh.Invalid, "--eject writes a file on your machine, which only the client can").WithHint("in a checkout: mesh build:dockerfile --eject")
	}
	text, managed, err := c.Builds.Dockerfile(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	if !managed {
		_, _ = fmt.Fprintln(c.Stderr, "the repository's own:")
	}
	_, err = io.WriteString(c.Stdout, text)
	return err
}

func (c *call) changeSettings(ctx context.Context, change func(*mesh.Settings) error) error {
	st, err := c.Builds.SetSettings(ctx, c.stack.Name, change)
	if err != nil {
		return err
	}
	c.stack = st
	return runBuild(ctx, c)
}

func runBuildSet(ctx context.Context, c *call) error {
	return c.changeSettings(ctx, func(set *mesh.Settings) error {
		for _, a := range c.args {
			name, value, ok := strings.Cut(a, "=")
			if !ok || value == "" {
				return c.usage("%q is not NAME=VALUE", mesh.Clip(a, 60))
			}
			if err := setting(name); err != nil {
				return err
			}
			if err := set.Set(name, value); err != nil {
				return err
			}
		}
		return nil
	})
}

func runBuildUnset(ctx context.Context, c *call) error {
	return c.changeSettings(ctx, func(set *mesh.Settings) error {
		for _, name := range c.args {
			if err := setting(name); err != nil {
				return err
			}
			if err := set.Set(name, ""); err != nil {
				return err
			}
		}
		return nil
	})
}
