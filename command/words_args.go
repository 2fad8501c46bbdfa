package command

import (
	"fmt"
	"slices"
	"strings"

	"mesh"
)

// operands returns the words that are neither options nor the value of one that names a
// stack.
func operands(words []string) (ops []string) {
	for i := 0; i < len(words); i++ {
		_, n := StackOption(words[i:])
		switch w := words[i]; {
		case w == "--":
			return append(ops, words[i+1:]...)
		case n > 0:
			i += n - 1
		case !strings.HasPrefix(w, "-"):
			ops = append(ops, w)
		}
	}
	return ops
}

// stackOf returns the options that name a stack among words, or those for the first of
// the operands if there are more than n: Dokku's commands begin with the app.
func stackOf(words []string, n int) (stack, ops []string) {
	ops = operands(words)
	if len(ops) > n {
		return []string{"-a", ops[0]}, ops[1:]
	}
	for i := range words {
		if name, n := StackOption(words[i:]); name != "" {
			return words[i : i+n], ops
		}
	}
	return nil, ops
}

// take removes an option with its value from words, whatever it is called.
func take(words []string, names ...string) (value string, rest []string, found bool) {
	for i, w := range words {
		name, value, joined := strings.Cut(w, "=")
		if w == "--" {
			break
		}
		if !slices.Contains(names, name) {
			continue
		}
		if joined {
			return value, slices.Delete(slices.Clone(words), i, i+1), true
		}
		if i+1 < len(words) {
			return words[i+1], slices.Delete(slices.Clone(words), i, i+2), true
		}
	}
	return "", words, false
}

// property translates "git:set APP deploy-branch main". properties are pairs of their
// name and our setting, with %s for the value; empty: it has no effect here.
func property(command string, properties ...string) func([]string) ([]string, error) {
	return func(words []string) ([]string, error) {
		if slices.Contains(words, "--global") {
			return nil, mesh.Errorf(mesh.Invalid, "mesh has no settings for all stacks").WithHint(sayAllStacks)
		}
		stack, ops := stackOf(words, 2)
		if len(ops) == 2 && !slices.Contains(properties, ops[0]) { // without a value: APP PROPERTY
			stack, ops = stackOf(words, 1)
		}
		if len(ops) == 0 {
			return append([]string{"build"}, stack...), nil
		}
		i := slices.Index(properties, ops[0])
		switch {
		case i < 0 || i%2 == 1:
			return nil, mesh.Errorf(mesh.Invalid, "%s has no property %q here", command, mesh.Clip(ops[0], 40)).WithHint("the settings of a stack are: ssh mesh build -a STACK")
		case properties[i+1] == "":
			return append([]string{"build"}, stack...), nil
		}
		name, _, _ := strings.Cut(properties[i+1], "=")
		if len(ops) < 2 || ops[1] == "" {
			return slices.Concat([]string{"build:unset"}, stack, []string{name}), nil
		}
		return slices.Concat([]string{"build:set"}, stack, []string{fmt.Sprintf(properties[i+1], ops[1])}), nil
	}
}

// imageArgs translates "git:from-image APP IMAGE": option is ours for the image.
func imageArgs(option string) func([]string) ([]string, error) {
	return func(words []string) ([]string, error) {
		stack, ops := stackOf(words, 1)
		if len(ops) == 0 {
			return nil, mesh.Errorf(mesh.Invalid, "the name of the image is missing").WithHint("ssh mesh deploy -a STACK %s IMAGE", option)
		}
		return slices.Concat([]string{"deploy"}, stack, []string{option, ops[0]}), nil
	}
}

// limitArgs translates "resource:limit --memory 512 --process-type worker APP".
func limitArgs(clear bool) func([]string) ([]string, error) {
	return func(words []string) ([]string, error) {
		service, rest, named := take(words, "--process-type")
		memory, rest, hasMemory := take(rest, "--memory")
		cpus, rest, hasCPUs := take(rest, "--cpu", "--cpus")
		stack, _ := stackOf(rest, 0)
		if !named {
			return nil, mesh.Errorf(mesh.Invalid, "name the service with --process-type").WithHint("ssh mesh svc:update -a STACK --memory 512m --cpus 0.5 web")
		}
		if strings.Trim(memory, "0123456789") == "" && memory != "" {
			memory += "m" // Dokku's unit
		}
		if clear {
			memory, cpus, hasMemory, hasCPUs = "", "", true, true
		}
		ours := append([]string{"svc:update"}, stack...)
		if hasMemory {
			ours = append(ours, "--memory", memory)
		}
		if hasCPUs {
			ours = append(ours, "--cpus", cpus)
		}
		return append(ours, service), nil
	}
}

// redirectArgs translates "redirect:set APP FROM TO [STATUS]".
func redirectArgs(words []string) ([]string, error) {
	stack, ops := stackOf(words, 2)
	if len(ops) > 2 && strings.Trim(ops[2], "0123456789") == "" {
		ops = ops[:2] // mesh chooses the status
	}
	if len(ops) != 2 {
		return nil, mesh.Errorf(mesh.Invalid, "name the host to redirect, and where to").WithHint("ssh mesh domains:add -a STACK --redirect-to www.example.com example.com")
	}
	return slices.Concat([]string{"domains:add"}, stack, []string{"--redirect-to", ops[1], ops[0]}), nil
}

// execArgs translates Kamal's "app exec [--reuse] [-i] COMMAND".
func execArgs(words []string) ([]string, error) {
	var stack []string
	reuse := false
	for len(words) > 0 && strings.HasPrefix(words[0], "-") && words[0] != "--" {
		if _, n := StackOption(words); n > 0 {
			stack, words = words[:n], words[n:]
			continue
		}
		reuse = reuse || words[0] == "--reuse"
		words = words[1:]
	}
	if !reuse {
		return slices.Concat([]string{"run"}, stack, words), nil
	}
	return slices.Concat([]string{"enter"}, stack, []string{"web.1"}, words), nil
}

// messageArgs translates "lock acquire -m REASON".
func messageArgs(words []string) ([]string, error) {
	why, rest, found := take(words, "-m", "--message")
	ours := append([]string{"lock"}, rest...)
	if found {
		ours = append(ours, why)
	}
	return ours, nil
}

// serviceArgs translates "svc create -n NAME [--schedule TIME] -- COMMAND".
func serviceArgs(words []string) ([]string, error) {
	if _, _, found := take(words, "--schedule"); found {
		return jobArgs(words)
	}
	var command []string
	if i := slices.Index(words, "--"); i >= 0 {
		words, command = words[:i], words[i+1:]
	}
	name, rest, found := take(words, "-n", "--name")
	ours := slices.Concat([]string{"svc:update"}, rest, commandOption(command))
	if found {
		ours = append(ours, name)
	}
	return ours, nil
}

// jobAdd is the command that adds a job.
const jobAdd = "cron:add"

// jobArgs translates "svc create -n NAME --schedule TIME [OPTION…] -- COMMAND". A schedule of
// five fields arrives as five words if no quotes were left of it.
func jobArgs(words []string) ([]string, error) {
	var command []string
	if i := slices.Index(words, "--"); i >= 0 {
		words, command = words[:i], words[i+1:]
	}
	i := slices.IndexFunc(words, func(w string) bool { return w == "--schedule" || strings.HasPrefix(w, "--schedule=") })
	_, first, joined := strings.Cut(words[i], "=")
	end := i + 1
	for end < len(words) && !strings.HasPrefix(words[end], "-") {
		end++
	}
	schedule := words[i+1 : end]
	if joined {
		schedule = append([]string{first}, schedule...)
	}
	name, rest, _ := take(slices.Concat(words[:i], words[end:]), "-n", "--name")
	if name == "" || len(command) == 0 || len(schedule) == 0 {
		return nil, mesh.Errorf(mesh.Invalid, "a job needs a name, a schedule and a command").WithHint(`ssh mesh svc create -a STACK -n cleanup --schedule "@hourly" -- COMMAND`)
	}
	return slices.Concat([]string{jobAdd}, rest, []string{name, strings.Join(schedule, " "), "--"}, command), nil
}

func commandOption(words []string) []string {
	if len(words) == 0 {
		return nil
	}
	if len(words) == 1 {
		return []string{"--command", words[0]}
	}
	return []string{"--command", Join(words)}
}

// only leaves out what follows: the command is about the whole server.
func only(words ...string) func([]string) ([]string, error) {
	return func([]string) ([]string, error) { return words, nil }
}

// volumesArgs is volumes for Dokku's storage:list APP.
func volumesArgs(words []string) ([]string, error) {
	stack, _ := stackOf(words, 0)
	ours := append([]string{"volumes"}, stack...)
	if slices.Contains(words, "--json") {
		ours = append(ours, "--json")
	}
	return ours, nil
}
