package command

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/crypto/ssh"

	"mesh"
)

// KeyList reads the keys.
type KeyList interface {
	Keys(ctx context.Context) ([]mesh.Key, error)
}

// Keyring adds and removes keys.
type Keyring interface {
	// AddKey returns a Conflict if the name or the key exists.
	AddKey(ctx context.Context, k mesh.Key) error
	// RemoveKey also ends the sessions of the key.
	RemoveKey(ctx context.Context, name, by mesh.KeyName) error
}

var keyCommands = []*definition{
	{
		topic: "ssh-keys", short: "List the keys and what they may do", access: mesh.AccessAdmin, quiet: true, json: true, run: runKeys,
	},
	{
		topic: "ssh-keys", verb: "add", args: "NAME < KEY.pub", short: "Add a public key, from standard input or after the name",
		long:   "The first key gets the role admin, later ones deploy, unless --role says otherwise. With --stack, the key\ncan see and use only those stacks.",
		access: mesh.AccessAdmin, min: 1, max: maxArgs, run: runKeysAdd,
		flags: func(f *pflag.FlagSet) {
			f.String("role", "", "the `ROLE`: admin, deploy or read")
			f.StringArray("stack", nil, "limit the key to this `STACK`; may be repeated")
		},
	},
	{
		topic: "ssh-keys", verb: "remove", args: "NAME", short: "Remove a key", access: mesh.AccessAdmin, min: 1, max: 1, run: runKeysRemove,
	},
	{
		topic: "whoami", short: "Show your key, its role and its stacks", quiet: true, json: true, run: runWhoami,
	},
}

type keyJSON struct {
	Name        string    `json:"name"`
	Role        string    `json:"role"`
	Stacks      []string  `json:"stacks"`
	Fingerprint string    `json:"fingerprint"`
	Public      string    `json:"public"`
	Added       time.Time `json:"added"`
	AddedBy     string    `json:"added_by,omitempty"`
}

func runKeys(ctx context.Context, c *call) error {
	keys, err := c.Keys.Keys(ctx)
	if err != nil {
		return err
	}
	list := make([]keyJSON, 0, len(keys))
	var rows [][]string
	for _, k := range keys {
		j := keyJSON{Name: string(k.Name), Role: string(k.Role), Stacks: []string{}, Fingerprint: k.Fingerprint, Public: k.Public, Added: k.Added, AddedBy: string(k.AddedBy)}
		for _, s := range k.Stacks {
			j.Stacks = append(j.Stacks, string(s))
		}
		list = append(list, j)
		stacks := strings.Join(j.Stacks, " ")
		if stacks == "" {
			stacks = "all"
		}
		rows = append(rows, []string{j.Name, j.Role, stacks, j.Fingerprint, c.when(j.Added)})
	}
	return c.list(list, []string{"KEY", "ROLE", "STACKS", "FINGERPRINT", "ADDED"}, rows)
}

// maxKeyText is more than the longest public key takes (RSA with 16384 bits).
const maxKeyText = 16 << 10

func runKeysAdd(ctx context.Context, c *call) error {
	name, err := mesh.ParseKeyName(c.args[0])
	if err != nil {
		return err
	}
	text := strings.Join(c.args[1:], " ")
	if text == "" {
		if c.TTY {
			return mesh.Errorf(mesh.Invalid, "the key must come from standard input, which is a terminal").WithHint("ssh mesh ssh-keys:add %s < ~/.ssh/id_ed25519.pub", name)
		}
		if text, err = c.text("the bytes of the key", maxKeyText); err != nil {
			return err
		}
		if text, err = plainText(text); err != nil {
			return err
		}
	}
	pub, err := parsePublicKey(text)
	if err != nil {
		return err
	}
	k := mesh.Key{
		Name: name, Role: mesh.RoleDeploy, AddedBy: c.Key.Name,
		Public:      strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))),
		Fingerprint: ssh.FingerprintSHA256(pub),
	}
	have, err := c.Keys.Keys(ctx)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		k.Role = mesh.RoleAdmin
	}
	if role, _ := c.flags.GetString("role"); role != "" {
		if k.Role, err = mesh.ParseRole(role); err != nil {
			return err
		}
	}
	stacks, _ := c.flags.GetStringArray("stack")
	for _, s := range stacks {
		n, err := mesh.ParseStackName(s)
		if err != nil {
			return err
		}
		k.Stacks = append(k.Stacks, n)
	}
	if err := c.Keyring.AddKey(ctx, k); err != nil {
		return err
	}
	c.say("added key %s (%s): %s\n", k.Name, k.Role, k.Fingerprint)
	return nil
}

func parsePublicKey(text string) (ssh.PublicKey, error) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, mesh.Errorf(mesh.Invalid, "no key on standard input").WithHint("ssh mesh ssh-keys:add NAME < ~/.ssh/id_ed25519.pub")
	case strings.Contains(text, "PRIVATE KEY"):
		return nil, mesh.Errorf(mesh.Invalid, "this is a private key; never send it to anyone").WithHint("send the public key, from the file that ends in .pub; if others have seen the private key, create a new pair")
	}
	pub, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	switch {
	case err != nil:
		return nil, mesh.Errorf(mesh.Invalid, "this is not a public key: %q", mesh.Clip(strings.TrimSpace(text), 40)).WithHint(`it must be one line like "ssh-ed25519 AAAA… name"`)
	case len(options) > 0:
		return nil, mesh.Errorf(mesh.Invalid, "options before the key (%s) are not supported", mesh.Clip(strings.Join(options, ","), 60)).WithHint("remove them; limit the key with --role and --stack")
	case strings.TrimSpace(string(rest)) != "":
		return nil, mesh.Errorf(mesh.Invalid, "standard input has more than one key").WithHint("add them one at a time, each with its own name")
	case pub.Type() == "ssh-dss":
		return nil, mesh.Errorf(mesh.Invalid, "DSA keys are too weak").WithHint("create an ed25519 key: ssh-keygen -t ed25519")
	}
	return pub, nil
}

func runKeysRemove(ctx context.Context, c *call) error {
	name := mesh.KeyName(c.args[0])
	if err := c.Keyring.RemoveKey(ctx, name, c.Key.Name); err != nil {
		return err
	}
	c.say("removed key %s\n", name)
	return nil
}

func runWhoami(_ context.Context, c *call) error {
	stacks := []string{}
	for _, s := range c.Key.Stacks {
		stacks = append(stacks, string(s))
	}
	if c.json {
		return c.printJSON(map[string]any{"key": c.Key.Name, "role": c.Key.Role, "stacks": stacks})
	}
	c.say("%s (%s): %s\n", c.Key.Name, c.Key.Role, cmp.Or(strings.Join(stacks, ", "), "all stacks"))
	return nil
}
