package command

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/crypto/bcrypt"

	"mesh"
)

// AccessRules changes which requests reach a stack.
type AccessRules interface {
	// SetAccess changes the rules with fn, which may run more than once. They are in
	// force when it returns.
	SetAccess(ctx context.Context, stack mesh.StackName, fn func(*mesh.AccessRules) error) error
}

var accessCommands = []*definition{
	{
		topic: "access", short: "List the rules that requests to a stack must meet", stack: true, json: true, run: runAccess,
		long: "Rules are in force at once, without a release. Addresses are checked first, then the password, then the limit.\n" +
			"ssh-keys lists who may use mesh itself.",
	},
	{
		topic: "access", verb: "set", args: "< PASSWORD", short: "Add a user, or give a user another password",
		long: "Requests then need the password of one of at most 20 users (HTTP Basic authentication). The password is read from\n" +
			"standard input and kept as a bcrypt hash, encrypted. The app does not see it.",
		stack: true, access: mesh.AccessDeploy, max: maxArgs, run: runAccessSet,
		keeps: func(*call) []string { return nil }, // whatever it is, it may be a password
		flags: func(f *pflag.FlagSet) {
			f.String("user", "", "the `NAME` of the user")
			f.String("password-from", "", "`-` for standard input")
			for _, name := range []string{"user", "password-from"} {
				_ = f.SetAnnotation(name, required, nil)
			}
		},
	},
	{
		topic: "access", verb: "allow", args: "CIDR…", short: "Refuse all addresses that are not allowed",
		long:  "A CIDR such as 192.0.2.0/24, or one address. Allowed addresses still need a password if there are users.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: maxArgs,
		run: func(ctx context.Context, c *call) error { return c.addPrefixes(ctx, "allow") },
	},
	{
		topic: "access", verb: "deny", args: "CIDR…", short: "Refuse addresses, even if they are allowed",
		long:  "A CIDR such as 192.0.2.0/24, or one address.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: maxArgs,
		run: func(ctx context.Context, c *call) error { return c.addPrefixes(ctx, "deny") },
	},
	{
		topic: "access", verb: "except", args: "PATH…", short: "Except paths from all rules, with everything below them",
		long: "Several paths can also be joined with commas. Paths are compared decoded, with case, part by part: /health covers\n" +
			"/health/db but not /healthy. A path that programs could read differently is never excepted: with \"..\", an empty\n" +
			"part, an encoded slash, a backslash, a semicolon or a blank.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: maxArgs, run: runAccessExcept,
	},
	{
		topic: "access", verb: "limit", args: "RATE", short: "Limit the rate of requests, such as 10r/s or 30r/m",
		long: "More requests get 429 and Retry-After. As many as the rate names may come at once. Refused requests do not count.\n" +
			"One client is an IPv4 address or an IPv6 network of 64 bits.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runAccessLimit,
		flags: func(f *pflag.FlagSet) { f.String("per", "", "`client`: count each client by itself") },
	},
	{
		topic: "access", verb: "clear", args: "[users | addresses | except | limit [ITEM…]]", short: "Remove all rules, those of one kind, or some of them",
		long:  "Items are users, CIDRs or paths as access lists them: access:clear users ann",
		stack: true, access: mesh.AccessDeploy, max: maxArgs, run: runAccessClear,
	},
}

type accessJSON struct {
	Stack     mesh.StackName `json:"stack"`
	Users     []string       `json:"users"`
	Allow     []string       `json:"allow"`
	Deny      []string       `json:"deny"`
	Except    []string       `json:"except"`
	Limit     string         `json:"limit,omitempty"`
	PerClient bool           `json:"limit_per_client,omitempty"`
}

func runAccess(_ context.Context, c *call) error {
	rules := c.stack.Access
	out := accessJSON{
		Stack: c.stack.Name, Users: []string{}, Allow: []string{}, Deny: []string{}, Except: append([]string{}, rules.Except...),
		Limit: rules.Limit.String(), PerClient: rules.Limit.PerClient,
	}
	for _, u := range rules.Users {
		out.Users = append(out.Users, u.Name)
	}
	out.Allow = append(out.Allow, texts(rules.Allow)...)
	out.Deny = append(out.Deny, texts(rules.Deny)...)
	if rules.IsZero() && !c.json {
		c.tell("%s has no access rules: all requests are served\nthe keys that may use mesh are in: ssh mesh ssh-keys\n", c.stack.Name)
		return nil
	}
	var rows [][]string
	add := func(kind string, items ...string) {
		for _, item := range items {
			rows = append(rows, []string{kind, item})
		}
	}
	add("user", out.Users...)
	add("allow", out.Allow...)
	add("deny", out.Deny...)
	add("except", out.Except...)
	if out.PerClient {
		add("limit", out.Limit+" per client")
	} else if out.Limit != "" {
		add("limit", out.Limit)
	}
	return c.list(out, []string{"RULE", "VALUE"}, rows)
}

func runAccessSet(ctx context.Context, c *call) error {
	if len(c.args) > 0 { // not quoted: it may be a password
		return c.usage("access:set takes no arguments; the password comes from standard input")
	}
	name, _ := c.flags.GetString("user")
	if err := mesh.CheckAccessUser(name); err != nil {
		return err
	}
	c.audited = append(c.audited, "--user "+name)
	if from, _ := c.flags.GetString("password-from"); from != "-" {
		return c.usage("say where the password comes from: --password-from - is standard input, and there is no other source")
	}
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "the password must come from standard input, which is a terminal").
			WithHint("ssh mesh access:set -a %s --user %s --password-from - < password", c.stack.Name, name)
	}
	data, err := c.text("the bytes of the password", maxPassword)
	if err != nil {
		return err
	}
	password := strings.TrimRight(strings.TrimPrefix(data, "\ufeff"), "\r\n")
	if err := mesh.CheckAccessPassword(password); err != nil {
		return err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return err
	}
	user, had := mesh.AccessUser{Name: name, Hash: mesh.NewSecret(string(hash))}, false
	err = c.AccessRules.SetAccess(ctx, c.stack.Name, func(r *mesh.AccessRules) error {
		i, found := slices.BinarySearchFunc(r.Users, name, func(u mesh.AccessUser, name string) int { return strings.Compare(u.Name, name) })
		if had = found; found {
			r.Users[i] = user
			return nil
		}
		r.Users = slices.Insert(r.Users, i, user)
		return atMost(len(r.Users), mesh.MaxAccessUsers, "users", "users NAME")
	})
	if err != nil {
		return err
	}
	if had {
		c.say("changed the password of %s for %s\n", name, c.stack.Name)
	} else {
		c.say("added user %s: requests to %s need a password\n", name, c.stack.Name)
	}
	return nil
}

// atMost returns an error if there would be more than a limit of something.
func atMost(n, limit int, what, clearing string) error {
	if n <= limit {
		return nil
	}
	return mesh.Errorf(mesh.Conflict, "a stack can have at most %d %s, and this would make %d", limit, what, n).
		WithHint("remove some first: ssh mesh access:clear %s", clearing)
}

// addPrefixes adds the arguments to the allowed or denied addresses.
func (c *call) addPrefixes(ctx context.Context, kind string) error {
	var list []string
	err := c.AccessRules.SetAccess(ctx, c.stack.Name, func(r *mesh.AccessRules) error {
		to := &r.Allow
		if kind == "deny" {
			to = &r.Deny
		}
		list = nil
		for _, a := range c.args {
			p, err := mesh.ParsePrefix(a)
			if err != nil {
				return err
			}
			list = append(list, p.String())
			if !slices.Contains(*to, p) {
				*to = append(*to, p)
			}
		}
		slices.SortFunc(*to, netip.Prefix.Compare)
		return atMost(len(r.Allow)+len(r.Deny), mesh.MaxAccessPrefixes, "addresses", "addresses CIDR")
	})
	if err != nil {
		return err
	}
	if kind == "deny" {
		c.say("%s refuses requests from %s\n", c.stack.Name, strings.Join(list, ", "))
	} else {
		c.say("%s accepts requests from %s\n", c.stack.Name, strings.Join(list, ", "))
	}
	return nil
}

func runAccessExcept(ctx context.Context, c *call) error {
	var list []string
	for _, a := range c.args {
		for s := range strings.SplitSeq(a, ",") {
			if s == "" && len(c.args) > 1 {
				continue // "/a, /b"
			}
			path, err := mesh.ParseAccessPath(s)
			if err != nil {
				return err
			}
			list = append(list, path)
		}
	}
	err := c.AccessRules.SetAccess(ctx, c.stack.Name, func(r *mesh.AccessRules) error {
		for _, path := range list {
			if !slices.Contains(r.Except, path) {
				r.Except = append(r.Except, path)
			}
		}
		slices.Sort(r.Except)
		return atMost(len(r.Except), mesh.MaxAccessExcept, "excepted paths", "except PATH")
	})
	if err != nil {
		return err
	}
	c.say("no rule of %s applies to %s, and to what is below\n", c.stack.Name, strings.Join(list, ", "))
	return nil
}

func runAccessLimit(ctx context.Context, c *call) error {
	rate, err := mesh.ParseRate(c.args[0])
	if err != nil {
		return err
	}
	what := "all requests together"
	switch per, _ := c.flags.GetString("per"); per {
	case "":
	case "client":
		rate.PerClient, what = true, "each client"
		c.audited = append(c.audited, "--per client")
	default:
		return c.usage("--per takes client, not %q", mesh.Clip(per, 60))
	}
	err = c.AccessRules.SetAccess(ctx, c.stack.Name, func(r *mesh.AccessRules) error { r.Limit = rate; return nil })
	if err != nil {
		return err
	}
	c.say("%s is limited to %s for %s\n", c.stack.Name, rate, what)
	return nil
}

func runAccessClear(ctx context.Context, c *call) error {
	kind, items := "", []string(nil)
	if len(c.args) > 0 {
		kind, items = c.args[0], c.args[1:]
	}
	if !slices.Contains([]string{"", "users", "addresses", "except", "limit"}, kind) {
		return c.usage("there is no kind of rule %q: name users, addresses, except or limit", mesh.Clip(kind, 60))
	}
	var done mesh.AccessRules
	err := c.AccessRules.SetAccess(ctx, c.stack.Name, func(r *mesh.AccessRules) error {
		if len(items) > 0 {
			return removeRules(r, kind, items)
		}
		if kind == "" || kind == "users" {
			r.Users = nil
		}
		if kind == "" || kind == "addresses" {
			r.Allow, r.Deny = nil, nil
		}
		if kind == "" || kind == "except" {
			r.Except = nil
		}
		if kind == "" || kind == "limit" {
			r.Limit = mesh.Rate{}
		}
		done = *r
		return nil
	})
	switch {
	case err != nil:
		return err
	case len(items) > 0:
		c.say("removed %s from the rules of %s\n", strings.Join(items, ", "), c.stack.Name)
	case done.IsZero():
		c.say("%s has no access rules: all requests are served\n", c.stack.Name)
	default:
		c.say("removed the rules of %s for %s; others are left: ssh mesh access -a %s\n", c.stack.Name, kind, c.stack.Name)
	}
	return nil
}

// removeRules removes single items of a kind.
func removeRules(r *mesh.AccessRules, kind string, items []string) error {
	for _, item := range items {
		n := len(r.Users) + len(r.Allow) + len(r.Deny) + len(r.Except)
		switch kind {
		case "users":
			r.Users = slices.DeleteFunc(r.Users, func(u mesh.AccessUser) bool { return u.Name == item })
		case "addresses":
			p, err := mesh.ParsePrefix(item)
			if err != nil {
				return err
			}
			for _, list := range []*[]netip.Prefix{&r.Allow, &r.Deny} {
				*list = slices.DeleteFunc(*list, func(o netip.Prefix) bool { return o == p })
			}
		case "except":
			r.Except = slices.DeleteFunc(r.Except, func(path string) bool { return path == item })
		default:
			return mesh.Errorf(mesh.Invalid, "there is only one limit, so access:clear limit takes no more arguments")
		}
		if len(r.Users)+len(r.Allow)+len(r.Deny)+len(r.Except) == n {
			return mesh.Errorf(mesh.NotFound, "no rule of that kind has %q", mesh.Clip(item, 60)).WithHint("list them with: ssh mesh access")
		}
	}
	return nil
}
