package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"mesh"
)

// StackOption looks for an option that names the stack (-a, -s, --app, --stack) at the
// front of words, and returns the name and how many words it takes: 0 if there is none.
// The name is empty if it is missing.
func StackOption(words []string) (name string, n int) {
	if len(words) == 0 {
		return "", 0
	}
	switch option, value, joined := strings.Cut(words[0], "="); option {
	case "-a", "-s", "--app", "--stack":
		if joined || len(words) == 1 {
			return value, 1
		}
		return words[1], 2
	}
	return "", 0
}

// leading takes the stack off the front of a command line, where the client puts the
// stack of the checkout. The last one wins, because a person typed it.
func (c *call) leading(words []string) ([]string, error) {
	for {
		name, n := StackOption(words)
		switch {
		case n == 0:
			return words, nil
		case name == "" && n == len(words):
			return nil, mesh.Errorf(mesh.Invalid, "%s needs the name of a stack", words[0])
		}
		c.named, words = name, words[n:]
	}
}

// findStack finds the stack: by option, by SSH user, by the first argument, or because
// there is only one.
func (c *call) findStack(ctx context.Context, args []string) (mesh.Stack, []string, error) {
	app, _ := c.flags.GetString("app")
	if s, _ := c.flags.GetString("stack"); s != "" {
		if app != "" && app != s {
			return mesh.Stack{}, nil, c.usage("-a %s and -s %s name different stacks", mesh.Clip(app, 60), mesh.Clip(s, 60))
		}
		app = s
	}
	typed := app != ""
	if !typed {
		app = c.named
	}
	// A client in a checkout names its stack. One that is typed as the first argument, as
	// Dokku's users do, wins if the command could not take it otherwise.
	first := !typed && app != "" && len(args) > c.def.max && !c.def.verbatim
	all, err := c.Stacks.Stacks(ctx)
	if err != nil {
		return mesh.Stack{}, nil, err
	}
	all = slices.DeleteFunc(all, func(s mesh.Stack) bool { return !c.Key.May(mesh.AccessRead, s.Name) })
	byName := func(name string) (mesh.Stack, bool) {
		i := slices.IndexFunc(all, func(s mesh.Stack) bool { return string(s.Name) == name })
		if i < 0 {
			return mesh.Stack{}, false
		}
		return all[i], true
	}
	c.typed = typed
	if first {
		if st, ok := byName(args[0]); ok {
			c.typed = true
			return st, args[1:], nil
		}
	}
	if app != "" {
		st, ok := byName(app)
		if name, err := mesh.ParseStackName(app); !ok && err == nil && c.def.creates && c.Key.May(mesh.AccessDeploy, name) {
			return mesh.Stack{Name: name}, args, nil
		}
		if st.Name = mesh.StackName(app); !ok && c.unreadable(st.Name) != "" {
			if c.def.topic == "stacks" && c.def.verb == "destroy" {
				return st, args, nil // it takes only the name
			}
			_, err := c.Stacks.Stack(ctx, st.Name)
			return st, nil, err
		}
		if !ok {
			return st, nil, noStack(app, all)
		}
		return st, args, nil
	}
	if st, ok := byName(c.User); ok {
		return st, args, nil
	}
	if len(args) > 0 && c.flags.ArgsLenAtDash() != 0 {
		if st, ok := byName(args[0]); ok {
			c.typed = true
			args = args[1:]
			if c.def.verbatim && len(args) > 0 && args[0] == "--" {
				args = args[1:]
			}
			return st, args, nil
		}
	}
	// Previews are reached by name, and are not a second stack to choose from.
	all = slices.DeleteFunc(all, func(s mesh.Stack) bool { return s.Preview != nil })
	switch len(all) {
	case 1:
		return all[0], args, nil
	case 0:
		return mesh.Stack{}, nil, &mesh.Error{Kind: mesh.NoStack, Text: "there are no stacks yet", Hint: "push one: git remote add mesh ssh://mesh@HOST:PORT/NAME && git push mesh main"}
	}
	var names []string
	for _, s := range all {
		names = append(names, string(s.Name))
	}
	if c.def.verbatim && slices.ContainsFunc(args, func(w string) bool { _, n := StackOption([]string{w}); return n > 0 }) {
		return mesh.Stack{}, nil, c.usage("which stack? what follows the command belongs to it: put -a STACK before it")
	}
	return mesh.Stack{}, nil, c.usage("which stack? choose one with -a: %s", mesh.Clip(strings.Join(names, ", "), 400))
}

// orStack adds to the error for an unknown command that its first word is a stack.
func (c *call) orStack(ctx context.Context, words []string, err error) error {
	name, nerr := mesh.ParseStackName(words[0])
	if nerr != nil || c.Stacks == nil || !c.Key.May(mesh.AccessRead, name) {
		return err
	}
	if _, serr := c.Stacks.Stack(ctx, name); serr != nil {
		return err
	}
	if len(words) > 1 {
		if d, _, ferr := find(words[1:]); ferr == nil {
			return mesh.Errorf(mesh.Invalid, "%s is a stack, not a command", name).WithHint("put the command first: ssh mesh %s -a %s", d.name(), name)
		}
	}
	return mesh.Errorf(mesh.Invalid, "%s is a stack, not a command", name).WithHint("show it with: ssh mesh stacks:info -a %s", name)
}

// unreadable describes the damaged record that keeps a stack from being read, to those
// who may read the stack.
func (c *call) unreadable(name mesh.StackName) string {
	for _, d := range c.Stacks.Damaged() {
		if d.Whole && d.Stack == name && name != "" && c.Key.May(mesh.AccessRead, name) {
			return d.What
		}
	}
	return ""
}

func noStack(name string, all []mesh.Stack) error {
	e := mesh.Errorf(mesh.NoStack, "no stack is named %q", mesh.Clip(name, 60)).WithHint("list all with: ssh mesh stacks")
	best, dist := "", 3
	for _, s := range all {
		if d := distance(name, string(s.Name)); d < dist {
			best, dist = string(s.Name), d
		}
	}
	if best != "" {
		e.Hint = fmt.Sprintf("there is %q; list all with: ssh mesh stacks", best)
	}
	return e
}

// anagrams reports whether two words have the same letters.
func anagrams(a, b string) bool {
	sorted := func(s string) string {
		letters := []byte(s)
		slices.Sort(letters)
		return string(letters)
	}
	return sorted(a) == sorted(b)
}

// distance returns the Levenshtein distance of two words.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
