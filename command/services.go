package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"mesh"
)

// Services changes the settings of svc:update and stacks:set-release-command.
type Services interface {
	// UpdateService and DeleteService are deployments if the stack runs: they write
	// their output to out.
	UpdateService(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.ServiceName, change func(*mesh.ServiceSettings) error, out io.Writer) error
	DeleteService(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.ServiceName, out io.Writer) error
	// SetReleaseCommand takes effect with the next push. An empty line leaves it to the
	// Procfile.
	SetReleaseCommand(ctx context.Context, stack mesh.StackName, line string) error
}

var serviceCommands = []*definition{
	{
		topic: "svc", short: "List the services, their commands and who set them", stack: true, json: true, run: runServices,
	},
	{
		topic: "svc", verb: "update", args: "NAME",
		short: "Change or create a service, as one release",
		long: "The command overrides the Procfile's, which overrides the image's. It runs in the image's shell, so\n" +
			"config vars expand. An empty value clears a setting. --env sets config vars of this service alone, which win\n" +
			"over the stack's; --env NAME=- reads the value from standard input. `ssh mesh config -p NAME` lists them.",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runServiceUpdate,
		keeps: func(c *call) []string {
			if c.flags.Changed("env") && len(c.args) > 1 {
				return []string{"…"} // any of them may be part of a value that a shell has split
			}
			return c.args
		},
		flags: func(f *pflag.FlagSet) {
			f.String("command", "", "the `COMMAND` line")
			f.StringArray("on", nil, "place its instances on nodes with this `LABEL=VALUE` (nodes:label); also name=NODE; any: everywhere")
			f.String("memory", "", "memory limit of an instance, for example 512m or 2g")
			f.String("cpus", "", "CPU limit of an instance in cores, for example 0.5")
			f.String("stop-timeout", "", "time from SIGTERM to SIGKILL, for example 2m")
			f.StringArray("env", nil, "set a config var of this service: `NAME=VALUE`; repeatable")
			f.StringArray("unset-env", nil, "remove a config var of this service: `NAME`; repeatable")
		},
	},
	{
		topic: "svc", verb: "delete", args: "NAME", short: "Clear the svc:update settings of a service",
		stack: true, access: mesh.AccessDeploy, min: 1, max: 1, run: runServiceDelete,
	},
}

type serviceJSON struct {
	Name      string   `json:"name"`
	Instances int      `json:"instances"`
	Command   string   `json:"command,omitempty"`
	From      string   `json:"from"`
	Memory    int64    `json:"memory,omitempty"`
	CPUs      float64  `json:"cpus,omitempty"`
	On        []string `json:"on,omitempty"`
	Stop      string   `json:"stop_timeout,omitempty"`

	Endpoints []string   `json:"endpoints,omitempty"`
	Ports     []portJSON `json:"tcp_ports,omitempty"`
	Config    []string   `json:"config,omitempty"`             // names
	Stripped  []string   `json:"stripped_endpoints,omitempty"` // those of Endpoints whose path the app does not see
}

// endpoints is the column ENDPOINTS.
func (s serviceJSON) endpoints() string {
	all := slices.Clone(s.Endpoints)
	for i, e := range all {
		if slices.Contains(s.Stripped, e) {
			all[i] += " (stripped)"
		}
	}
	return strings.Join(all, " ")
}

func runServices(ctx context.Context, c *call) error {
	list := []serviceJSON{}
	if c.stack.Current > 0 {
		r, err := c.History.Release(ctx, c.stack.Name, c.stack.Current)
		if err != nil {
			return err
		}
		for _, name := range r.Formation.Services() {
			s := r.Services[name]
			list = append(list, serviceJSON{Name: string(name), Instances: r.Formation[name], Command: s.Command, From: s.From, Memory: s.Memory, CPUs: s.CPUs, On: s.On, Stop: stopText(s.StopTimeout), Config: s.Config.Names()})
		}
	} else {
		form := mesh.Formation{}
		for name := range c.stack.Services {
			form[name] = 1
		}
		for _, name := range form.Services() {
			s := c.stack.Services[name]
			list = append(list, serviceJSON{Name: string(name), Command: s.Command, From: "svc:update", Memory: s.Memory, CPUs: s.CPUs, On: s.On, Stop: stopText(s.StopTimeout), Config: s.Config.Names()})
		}
	}
	for i := range list {
		name := mesh.ServiceName(list[i].Name)
		list[i].Endpoints, list[i].Stripped = endpointsOf(c.stack, name)
		list[i].Ports = c.portsOf(name)
	}
	for _, name := range published(c.stack) { // that the release does not have
		if !slices.ContainsFunc(list, func(s serviceJSON) bool { return s.Name == string(name) }) {
			s := serviceJSON{Name: string(name), From: "svc:publish", Ports: c.portsOf(name)}
			s.Endpoints, s.Stripped = endpointsOf(c.stack, name)
			list = append(list, s)
		}
	}
	if c.json {
		return c.printJSON(list)
	}
	heads := []string{"SERVICE", "INSTANCES", "FROM", "MEMORY", "CPUS", "STOP", "COMMAND"}
	if len(c.stack.Endpoints) > 0 {
		heads = slices.Insert(heads, 6, "ENDPOINTS")
	}
	if len(c.stack.Ports) > 0 {
		heads = slices.Insert(heads, len(heads)-1, "PORTS")
	}
	config := slices.ContainsFunc(list, func(s serviceJSON) bool { return len(s.Config) > 0 })
	if config {
		heads = slices.Insert(heads, len(heads)-1, "CONFIG")
	}
	placed := slices.ContainsFunc(list, func(s serviceJSON) bool { return len(s.On) > 0 })
	if placed {
		heads = slices.Insert(heads, len(heads)-1, "ON")
	}
	var rows [][]string
	for _, s := range list {
		memory, cpus, stop, command := "-", "-", cmp.Or(s.Stop, "-"), s.Command
		if s.Memory > 0 {
			memory = units.BytesSize(float64(s.Memory))
		}
		if s.CPUs > 0 {
			cpus = strconv.FormatFloat(s.CPUs, 'g', -1, 64)
		}
		switch {
		case command != "":
		case s.From == "svc:publish":
			command = "(in no release yet)"
			if c.stack.Current > 0 {
				command = "(not in " + c.stack.Current.String() + ")"
			}
		default:
			command = "(the image's own)"
		}
		row := []string{s.Name, strconv.Itoa(s.Instances), s.From, memory, cpus, stop, command}
		if len(c.stack.Endpoints) > 0 {
			row = slices.Insert(row, 6, cmp.Or(s.endpoints(), "-"))
		}
		if len(c.stack.Ports) > 0 {
			row = slices.Insert(row, len(row)-1, cmp.Or(portsText(s.Ports), "-"))
		}
		if config {
			row = slices.Insert(row, len(row)-1, cmp.Or(strings.Join(s.Config, " "), "-"))
		}
		if placed {
			row = slices.Insert(row, len(row)-1, cmp.Or(strings.Join(s.On, " "), "-"))
		}
		rows = append(rows, row)
	}
	c.table(heads, rows)
	return nil
}

func stopText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// Limits of an instance. The engine refuses less memory than 6 MB.
const (
	leastMemory = 6 << 20
	leastCPUs   = 0.01
	mostCPUs    = 1024
)

func runServiceUpdate(ctx context.Context, c *call) error {
	name, err := mesh.ParseServiceName(c.args[0])
	if err != nil {
		return err
	}
	var set mesh.ServiceSettings
	set.Command, _ = c.flags.GetString("command")
	if strings.ContainsRune(set.Command, 0) {
		return c.usage("the command contains a NUL byte")
	}
	if v, _ := c.flags.GetString("memory"); v != "" {
		if set.Memory, err = c.memoryOf("--memory", v); err != nil {
			return err
		}
	}
	if v, _ := c.flags.GetString("cpus"); v != "" {
		if set.CPUs, err = c.cpusOf("--cpus", v); err != nil {
			return err
		}
	}
	if v, _ := c.flags.GetString("stop-timeout"); v != "" {
		if set.StopTimeout, err = time.ParseDuration(v); err != nil || set.StopTimeout < time.Second || set.StopTimeout > time.Hour {
			return c.usage("--stop-timeout %q is not a time from 1s to 1h; use 45s or 2m, for example", mesh.Clip(v, 40))
		}
	}
	changed := func(flag string) bool { return c.flags.Changed(flag) }
	if !slices.ContainsFunc([]string{"command", "memory", "cpus", "stop-timeout", "env", "unset-env", "on"}, changed) {
		return c.usage("name what to change: --command, --memory, --cpus, --stop-timeout, --on, --env or --unset-env")
	}
	if set.On, err = c.placedOn(); err != nil {
		return err
	}
	vars, err := c.serviceVars(name)
	if err != nil {
		return err
	}
	err = c.Services.UpdateService(ctx, c.stack.Name, c.Key.Name, name, func(s *mesh.ServiceSettings) error {
		if changed("command") {
			s.Command = set.Command
		}
		if changed("memory") {
			s.Memory = set.Memory
		}
		if changed("cpus") {
			s.CPUs = set.CPUs
		}
		if changed("stop-timeout") {
			s.StopTimeout = set.StopTimeout
		}
		if changed("on") {
			s.On = set.On
		}
		s.Config = vars.Set.Over(s.Config)
		for _, n := range vars.Unset {
			if _, had := s.Config[n]; !had {
				return mesh.Errorf(mesh.NotFound, "%s has no config var %s of its own", name, n).WithHint("list them with: ssh mesh config -a %s -p %s", c.stack.Name, name)
			}
			delete(s.Config, n)
		}
		return nil
	}, c.Stderr)
	if err != nil {
		return err
	}
	return c.releaseLine(ctx, "updated "+string(name))
}

// placedOn returns the labels of --on; "" and "any" are none.
func (c *call) placedOn() (on []string, err error) {
	all, _ := c.flags.GetStringArray("on")
	for _, l := range all {
		if (l == "" || l == "any") && len(all) == 1 {
			return nil, nil
		}
		if _, v, err := mesh.ParseNodeLabel(l); err != nil || v == "" {
			return nil, c.usage("--on %q is not LABEL=VALUE; --on any takes the labels away", mesh.Clip(l, 80))
		}
		on = append(on, l)
		c.audited = append(c.audited, "--on "+l)
	}
	slices.Sort(on)
	return slices.Compact(on), nil
}

// serviceVars returns the changes of --env and --unset-env. The audit log keeps the names.
func (c *call) serviceVars(svc mesh.ServiceName) (change mesh.ConfigChange, err error) {
	set, _ := c.flags.GetStringArray("env")
	change.Unset, _ = c.flags.GetStringArray("unset-env")
	change.Set, err = c.assignments(set, "--env", fmt.Sprintf("svc:update -a %s %s --env ", c.stack.Name, svc))
	if err != nil {
		return change, err
	}
	for _, name := range change.Set.Names() {
		c.audited = append(c.audited, "--env "+name)
	}
	for i, name := range change.Unset {
		if _, err := mesh.ParseVarName(name); err != nil {
			return change, err
		}
		if _, both := change.Set[name]; both || slices.Contains(change.Unset[:i], name) {
			return change, c.usage("%s is given twice", name)
		}
		c.audited = append(c.audited, "--unset-env "+name)
	}
	return change, nil
}

func runServiceDelete(ctx context.Context, c *call) error {
	name, err := mesh.ParseServiceName(c.args[0])
	if err != nil {
		return err
	}
	if err := c.Services.DeleteService(ctx, c.stack.Name, c.Key.Name, name, c.Stderr); err != nil {
		return err
	}
	return c.releaseLine(ctx, "cleared the svc:update settings of "+string(name))
}

// releaseLine prints the result of a command that made a release, or recorded something
// for the first one.
func (c *call) releaseLine(ctx context.Context, did string) error {
	st, err := c.Stacks.Stack(ctx, c.stack.Name)
	if err != nil {
		return err
	}
	if st.Current == 0 {
		c.say("%s: %s; takes effect with the first release\n", st.Name, did)
		return nil
	}
	c.say("%s %s: %s\n", st.Name, st.Current, did)
	return nil
}

func runSetReleaseCommand(ctx context.Context, c *call) error {
	line := strings.TrimSpace(c.rest)
	if err := c.Services.SetReleaseCommand(ctx, c.stack.Name, line); err != nil {
		return err
	}
	if line == "" {
		c.say("%s: the release command is the Procfile's\n", c.stack.Name)
		return nil
	}
	c.say("%s: the release command is: %s\n", c.stack.Name, line)
	return nil
}
