package command

import (
	"context"
	"strings"
	"time"

	"mesh"
)

// RegistryList reads the registries that the server signs in to.
type RegistryList interface {
	Registries(ctx context.Context) ([]mesh.Registry, error)
}

// SignIns adds and removes sign-ins.
type SignIns interface {
	// SignIn returns Denied if the registry refuses r.
	SignIn(ctx context.Context, r mesh.Registry) error
	SignOut(ctx context.Context, host string, by mesh.KeyName) error
}

var registryCommands = []*definition{
	{
		topic: "registry", short: "List the registries the server is signed in to", access: mesh.AccessAdmin, quiet: true, json: true, run: runRegistries,
	},
	{
		topic: "registry", verb: "login", args: "HOST USER < PASSWORD", short: "Sign the server in to a registry",
		long: "All stacks can then deploy its private images with `deploy --image` and use them in FROM. The password or token is\n" +
			"read from standard input, checked, and stored encrypted. No command prints it.",
		access: mesh.AccessAdmin, min: 2, max: 2, run: runRegistryLogin,
	},
	{
		topic: "registry", verb: "logout", args: "HOST", short: "Sign the server out of a registry", access: mesh.AccessAdmin, min: 1, max: 1, run: runRegistryLogout,
	},
}

type registryJSON struct {
	Host    string    `json:"host"`
	User    string    `json:"user"`
	Added   time.Time `json:"added"`
	AddedBy string    `json:"added_by,omitempty"`
}

func runRegistries(ctx context.Context, c *call) error {
	all, err := c.Registries.Registries(ctx)
	if err != nil {
		return err
	}
	list := []registryJSON{}
	var rows [][]string
	for _, r := range all {
		list = append(list, registryJSON{r.Host, r.User, r.Added, string(r.AddedBy)})
		rows = append(rows, []string{r.Host, r.User, string(r.AddedBy), c.when(r.Added)})
	}
	return c.list(list, []string{"REGISTRY", "USER", "BY", "SINCE"}, rows)
}

// maxPassword is more than the longest token of a registry (Google's access with a JSON
// key takes about 2,400 bytes).
const maxPassword = 16 << 10

func runRegistryLogin(ctx context.Context, c *call) error {
	host, err := mesh.ParseRegistryHost(c.args[0])
	if err != nil {
		return err
	}
	user := c.args[1]
	if user == "" || len(user) > 255 || strings.ContainsAny(user, ":\x00\r\n") {
		return c.usage("%q is not a user name", mesh.Clip(user, 60))
	}
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "the password must come from standard input, which is a terminal").WithHint("ssh mesh registry:login %s %s < password", host, user)
	}
	data, err := c.text("the bytes of the password", maxPassword)
	if err != nil {
		return err
	}
	password := strings.TrimRight(strings.TrimPrefix(data, "\ufeff"), "\r\n")
	if password == "" {
		return c.usage("no password on standard input")
	}
	err = c.SignIns.SignIn(ctx, mesh.Registry{Host: host, User: user, Password: mesh.NewSecret(password), AddedBy: c.Key.Name})
	if err != nil {
		return err
	}
	c.say("signed in to %s as %s\n", host, user)
	return nil
}

func runRegistryLogout(ctx context.Context, c *call) error {
	host, err := mesh.ParseRegistryHost(c.args[0])
	if err != nil {
		return err
	}
	if err := c.SignIns.SignOut(ctx, host, c.Key.Name); err != nil {
		return err
	}
	c.say("signed out of %s\n", host)
	return nil
}
