package command

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

var tokenCommands = []*definition{
	{
		topic: "tokens", short: "List the access tokens and what they may do", access: mesh.AccessAdmin, quiet: true, json: true, run: runTokens,
	},
	{
		topic: "tokens", verb: "add", args: "NAME", short: "Make an access token, for git over HTTPS",
		long: "For machines that cannot use SSH, such as some CI services. Prints the token, once: mesh keeps only its hash. It is the\n" +
			"password for any user name: `git push https://x:$TOKEN@mesh.apps.example.com/blog main`. It pushes, clones and fetches,\n" +
			"and can do nothing else.",
		access: mesh.AccessAdmin, min: 1, max: 1, run: runTokensAdd,
		flags: func(f *pflag.FlagSet) {
			f.String("role", "deploy", "the `ROLE`: deploy, or read to clone and fetch only")
			f.StringArray("stack", nil, "limit the token to this `STACK`; may be repeated")
			f.String("expires", "", "after this `TIME`, such as 12h or 90d; by default never")
		},
	},
	{
		topic: "tokens", verb: "remove", args: "NAME", short: "Remove an access token", access: mesh.AccessAdmin, min: 1, max: 1, run: runTokensRemove,
	},
}

type tokenJSON struct {
	Name    string     `json:"name"`
	Role    string     `json:"role"`
	Stacks  []string   `json:"stacks"`
	Expires *time.Time `json:"expires,omitempty"`
	Added   time.Time  `json:"added"`
	AddedBy string     `json:"added_by,omitempty"`
}

func runTokens(ctx context.Context, c *call) error {
	keys, err := c.Keys.Keys(ctx)
	if err != nil {
		return err
	}
	list := []tokenJSON{}
	var rows [][]string
	for _, k := range keys {
		if k.Token == "" {
			continue
		}
		j := tokenJSON{Name: string(k.Name), Role: string(k.Role), Stacks: stackNames(k.Stacks), Added: k.Added, AddedBy: string(k.AddedBy)}
		stacks, expires := cmp.Or(strings.Join(j.Stacks, " "), "all"), "never"
		if !k.Expires.IsZero() {
			j.Expires, expires = &k.Expires, c.when(k.Expires)
			if !c.Now().Before(k.Expires) {
				expires = "expired " + expires
			}
		}
		list = append(list, j)
		rows = append(rows, []string{j.Name, j.Role, stacks, expires, c.when(j.Added)})
	}
	return c.list(list, []string{"TOKEN", "ROLE", "STACKS", "EXPIRES", "ADDED"}, rows)
}

// tokenPrefix lets people, and programs that look for secrets, recognise a token.
const tokenPrefix = "mesh_"

func runTokensAdd(ctx context.Context, c *call) error {
	name, err := mesh.ParseKeyName(c.args[0])
	if err != nil {
		return err
	}
	k := mesh.Key{Name: name, AddedBy: c.Key.Name}
	if err := c.limitKey(&k); err != nil {
		return err
	}
	if k.Role == mesh.RoleAdmin {
		return mesh.Errorf(mesh.Invalid, "a token cannot have the role admin: it can only push and fetch").WithHint("choose deploy or read")
	}
	if text, _ := c.flags.GetString("expires"); c.flags.Changed("expires") {
		d, err := parseExpiry(text)
		if err != nil {
			return err
		}
		k.Expires = c.Now().Add(d).UTC().Truncate(time.Second)
	}
	token := tokenPrefix + strings.ToLower(rand.Text()+rand.Text())
	k.Token = mesh.HashToken(token)
	if err := c.Keyring.AddKey(ctx, k); err != nil {
		return err
	}
	until := ""
	if !k.Expires.IsZero() {
		until = ", until " + k.Expires.Format(time.RFC3339)
	}
	c.tell("added token %s (%s%s); it is shown only now:\n", k.Name, k.Role, until)
	c.say("%s\n", token)
	return nil
}

// maxExpiry is ten years.
const maxExpiry = 10 * 365 * 24 * time.Hour

// parseExpiry reads a duration, also in days.
func parseExpiry(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); err == nil {
			d = time.Duration(min(max(n, 0), 100_000)) * 24 * time.Hour
		}
	}
	if err != nil || d < time.Minute || d > maxExpiry {
		return 0, mesh.Errorf(mesh.Invalid, "%q is not a time from a minute to 3650 days", mesh.Clip(s, 40)).WithHint("for example --expires 12h or --expires 90d")
	}
	return d, nil
}

func runTokensRemove(ctx context.Context, c *call) error {
	name := mesh.KeyName(c.args[0])
	keys, err := c.Keys.Keys(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(keys, func(k mesh.Key) bool { return k.Name == name && k.Token != "" }) {
		return mesh.Errorf(mesh.NotFound, "no token is named %q", mesh.Clip(string(name), 60)).WithHint("list them with: ssh mesh tokens")
	}
	if err := c.Keyring.RemoveKey(ctx, name, c.Key.Name); err != nil {
		return err
	}
	c.say("removed token %s\n", name)
	return nil
}
