package command

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

// Builds shows how a stack is built, and changes that.
type Builds interface {
	// Dockerfile returns the Dockerfile of the last commit, and whether mesh generated
	// it.
	Dockerfile(ctx context.Context, stack mesh.StackName) (text string, managed bool, err error)
	// SetSettings changes the settings with fn, for the next push.
	SetSettings(ctx context.Context, stack mesh.StackName, fn func(*mesh.Settings) error) (mesh.Stack, error)
}

var buildCommands = []*definition{
	{
		topic: "build", short: "Show the build and check settings", stack: true, json: true, run: runBuild,
		long: "\"mesh build DIR\" builds a folder on your machine, with its Docker Engine, exactly as a server would. It\n" +
			"needs no server. --explain says which file decided what. -e NAME=VALUE and --env-file FILE are config\n" +
			"vars, --set NAME=VALUE are build settings, -t NAME names the image, --no-cache builds everything again.",
	},
	{
		topic: "build", verb: "set", args: "NAME=VALUE…", short: "Change build and check settings for the next push",
		list:  settingsHelp(),
		long:  "mesh.toml in the repository takes the same names, except branch. A value set here wins.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: maxArgs, run: runBuildSet,
	},
	{
		topic: "build", verb: "dockerfile", args: "[DIR] [--eject]", short: "Print the Dockerfile of the last commit, or a generated one",
		long: "Prints the repository's own Dockerfile, or the one that mesh generates if there is none. In a checkout,\n" +
			"\"mesh build:dockerfile --eject\" generates it from the files there and writes it to ./Dockerfile, with a\n" +
			".dockerignore if there is none. From then on it belongs to the repository: change it and commit it.\n" +
			"\"mesh build:dockerfile DIR\" prints it for a folder on your machine; --explain says which file decided\n" +
			"what. Neither needs a server.",
		stack: true, access: mesh.AccessRead, max: 1, quiet: true, exact: true, run: runBuildDockerfile,
		flags: func(fs *pflag.FlagSet) {
			fs.Bool("eject", false, "write ./Dockerfile, in a checkout")
			fs.Bool("force", false, "with --eject: replace an existing Dockerfile")
			fs.Bool("explain", false, "say which file decided what, in a checkout")
		},
	},
	{
		topic: "build", verb: "unset", args: "NAME…", short: "Restore settings to their defaults",
		stack: true, access: mesh.AccessDeploy, min: 1, max: maxArgs, run: runBuildUnset,
	},
}

// settingsHelp returns a line for each setting, with its default.
func settingsHelp() string {
	var b strings.Builder
	for _, s := range mesh.BuildSettings() {
		_, _ = fmt.Fprintf(&b, "%-21s %s (%s)\n", s.Name+"="+s.Value, s.Help, s.Default)
	}
	return b.String()
}

// setting returns an error for an unknown setting, with the nearest name as its hint.
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
	e.Hint = "use one of " + strings.Join(mesh.SettingNames(), ", ")
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
		return mesh.Errorf(mesh.Invalid, "--eject writes a file on your machine: only the client can do that").WithHint("in a checkout: mesh build:dockerfile --eject")
	}
	if explain, _ := c.flags.GetBool("explain"); explain || len(c.args) > 0 {
		return mesh.Errorf(mesh.Invalid, "a folder is on your machine: only the client can look at it").WithHint("in a checkout: mesh build:dockerfile . --explain")
	}
	text, managed, err := c.Builds.Dockerfile(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	if !managed {
		_, _ = fmt.Fprintln(c.Stderr, "from the repository:")
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
		return c.eachValue("NAME", func(name, value string) error {
			if err := setting(name); err != nil {
				return err
			}
			return set.Set(name, value)
		})
	})
}

// eachValue calls set with each argument, which is NAME=VALUE and has a value, until it
// fails. what stands for the name in an error.
func (c *call) eachValue(what string, set func(name, value string) error) error {
	for _, a := range c.args {
		name, value, ok := strings.Cut(a, "=")
		if !ok || value == "" {
			return c.usage("%q is not %s=VALUE", mesh.Clip(a, 60), what)
		}
		if err := set(name, value); err != nil {
			return err
		}
	}
	return nil
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
