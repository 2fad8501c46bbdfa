package command

import (
	"cmp"
	"context"
	"slices"
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
		topic: "ssh-keys", verb: "trust-ca", args: "NAME --principal P < CA.pub", short: "Trust the certificates that an authority signs",
		long: "Whoever has a certificate that the authority signed for one of the principals has the role, as if their key had\n" +
			"been added: `ssh-keygen -s CA -I ann -n deployers -V +8h id_ed25519.pub`. The same authority can be trusted again,\n" +
			"under another name, for other principals. A certificate with several gets the most rights. What it does is logged\n" +
			"as ID@NAME. ssh-keys:remove NAME ends the sessions of all its certificates.",
		access: mesh.AccessAdmin, min: 1, max: maxArgs, run: runTrustCA,
		flags: func(f *pflag.FlagSet) {
			f.StringSlice("principal", nil, "a `NAME` that certificates are signed for; may be repeated")
			_ = f.SetAnnotation("principal", required, nil)
			f.String("role", "", "the `ROLE`: admin, deploy (the default) or read")
			f.StringArray("stack", nil, "limit the certificates to this `STACK`; may be repeated")
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
	Principals  []string  `json:"principals,omitempty"` // of a certificate authority
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
		if k.Token != "" {
			continue // see: tokens
		}
		j := keyJSON{Name: string(k.Name), Role: string(k.Role), Stacks: stackNames(k.Stacks), Fingerprint: k.Fingerprint, Public: k.Public, Principals: k.Principals, Added: k.Added, AddedBy: string(k.AddedBy)}
		list = append(list, j)
		stacks := cmp.Or(strings.Join(j.Stacks, " "), "all")
		of := j.Fingerprint
		if k.Authority() {
			of += " signs for " + strings.Join(j.Principals, ", ")
		}
		rows = append(rows, []string{j.Name, j.Role, stacks, of, c.when(j.Added)})
	}
	return c.list(list, []string{"KEY", "ROLE", "STACKS", "FINGERPRINT", "ADDED"}, rows)
}

// stackNames returns the stacks that a key is limited to, not nil.
func stackNames(stacks []mesh.StackName) []string {
	out := []string{}
	for _, s := range stacks {
		out = append(out, string(s))
	}
	return out
}

// maxKeyText is more than the longest public key takes (RSA with 16384 bits).
const maxKeyText = 16 << 10

func runKeysAdd(ctx context.Context, c *call) error {
	k, err := c.givenKey("ssh-keys:add NAME < ~/.ssh/id_ed25519.pub")
	if err != nil {
		return err
	}
	have, err := c.Keys.Keys(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(have, func(k mesh.Key) bool { return k.Token == "" }) {
		k.Role = mesh.RoleAdmin
	}
	if err := c.limitKey(&k); err != nil {
		return err
	}
	if err := c.Keyring.AddKey(ctx, k); err != nil {
		return err
	}
	c.say("added key %s (%s): %s\n", k.Name, k.Role, k.Fingerprint)
	return nil
}

func runTrustCA(ctx context.Context, c *call) error {
	k, err := c.givenKey("ssh-keys:trust-ca NAME --principal PRINCIPAL < CA.pub")
	if err != nil {
		return err
	}
	k.Principals, _ = c.flags.GetStringSlice("principal")
	for _, p := range k.Principals {
		if err := mesh.CheckPrincipal(p); err != nil {
			return err
		}
	}
	if len(k.Principals) == 0 {
		return c.usage("name the principals that certificates are signed for: --principal NAME")
	}
	if len(k.Principals) > maxPrincipals {
		return c.usage("an authority can have %d principals, not %d", maxPrincipals, len(k.Principals))
	}
	slices.Sort(k.Principals)
	k.Principals = slices.Compact(k.Principals)
	if err := c.limitKey(&k); err != nil {
		return err
	}
	c.audited = append(c.audited, "--principal "+strings.Join(k.Principals, ","), "--role "+string(k.Role))
	if err := c.Keyring.AddKey(ctx, k); err != nil {
		return err
	}
	c.say("certificates of %s for %s have the role %s: %s\n", k.Name, strings.Join(k.Principals, ", "), k.Role, k.Fingerprint)
	return nil
}

// maxPrincipals limits the principals of an authority.
const maxPrincipals = 50

// givenKey returns the key of the command line or of standard input, with the role
// deploy. usage is the command to type instead of what cannot be read.
func (c *call) givenKey(usage string) (mesh.Key, error) {
	name, err := mesh.ParseKeyName(c.args[0])
	if err != nil {
		return mesh.Key{}, err
	}
	text := strings.Join(c.args[1:], " ")
	if text == "" {
		if c.TTY {
			return mesh.Key{}, mesh.Errorf(mesh.Invalid, "the key must come from standard input, which is a terminal").WithHint("ssh mesh %s", strings.Replace(usage, "NAME", string(name), 1))
		}
		if text, err = c.text("the bytes of the key", maxKeyText); err != nil {
			return mesh.Key{}, err
		}
		if text, err = plainText(text); err != nil {
			return mesh.Key{}, err
		}
	}
	pub, err := parsePublicKey(text)
	if err != nil {
		return mesh.Key{}, err
	}
	return mesh.Key{
		Name: name, Role: mesh.RoleDeploy, AddedBy: c.Key.Name,
		Public:      strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))),
		Fingerprint: ssh.FingerprintSHA256(pub),
	}, nil
}

// limitKey applies --role and --stack.
func (c *call) limitKey(k *mesh.Key) (err error) {
	if role, _ := c.flags.GetString("role"); role != "" {
		if k.Role, err = mesh.ParseRole(role); err != nil {
			return err
		}
	}
	for _, s := range c.values("stack") {
		n, err := mesh.ParseStackName(s)
		if err != nil {
			return err
		}
		k.Stacks = append(k.Stacks, n)
	}
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
	case slices.Contains(options, "cert-authority"):
		return nil, mesh.Errorf(mesh.Invalid, "options before the key (%s) are not supported", mesh.Clip(strings.Join(options, ","), 60)).
			WithHint("remove them, and trust the authority with: ssh mesh ssh-keys:trust-ca NAME --principal PRINCIPAL < CA.pub")
	case len(options) > 0:
		return nil, mesh.Errorf(mesh.Invalid, "options before the key (%s) are not supported", mesh.Clip(strings.Join(options, ","), 60)).WithHint("remove them; limit the key with --role and --stack")
	case strings.TrimSpace(string(rest)) != "":
		return nil, mesh.Errorf(mesh.Invalid, "standard input has more than one key").WithHint("add them one at a time, each with its own name")
	case strings.Contains(pub.Type(), "-cert-v01@"):
		return nil, mesh.Errorf(mesh.Invalid, "this is a certificate, not a key").
			WithHint("trust the authority that signed it: ssh mesh ssh-keys:trust-ca NAME --principal PRINCIPAL < CA.pub")
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
	stacks := stackNames(c.Key.Stacks)
	if c.json {
		return c.printJSON(map[string]any{"key": c.Key.Name, "role": c.Key.Role, "stacks": stacks})
	}
	c.say("%s (%s): %s\n", c.Key.Name, c.Key.Role, cmp.Or(strings.Join(stacks, ", "), "all stacks"))
	return nil
}
