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

	"github.com/spf13/pflag"

	"mesh"
)

// Processes shows what runs of a stack, and changes that. A method with an out
// parameter is a deployment and writes its output line by line.
type Processes interface {
	Status(stack mesh.StackName) []mesh.InstanceStatus
	// Probe asks a running instance what a new one is asked, and returns what it saw, or
	// a *mesh.Error that says what is wrong. It takes a few seconds at most.
	Probe(ctx context.Context, stack mesh.StackName, name mesh.InstanceName) (string, error)
	// Loss describes the missing image of the current release, or returns "" if the
	// image is present.
	Loss(stack mesh.StackName) string
	Scale(ctx context.Context, stack mesh.StackName, by mesh.KeyName, changes []mesh.Scale, out io.Writer) (mesh.Formation, error)
	// Restart replaces an instance, all instances of a service if what has no slot, or
	// all of the stack if it is zero.
	Restart(ctx context.Context, stack mesh.StackName, by mesh.KeyName, what mesh.InstanceName, out io.Writer) error
	Start(ctx context.Context, stack mesh.StackName, by mesh.KeyName, out io.Writer) error
	Stop(ctx context.Context, stack mesh.StackName, by mesh.KeyName, out io.Writer) error
	// Rebuild builds the current commit again, with today's base images.
	Rebuild(ctx context.Context, stack mesh.StackName, by mesh.KeyName, noCache bool, out io.Writer) error
}

// Traffic returns how busy services are.
type Traffic interface {
	// Minute returns zero for a service that gets no requests.
	Minute(stack mesh.StackName, service mesh.ServiceName) mesh.Traffic
}

var psCommands = []*definition{
	{
		topic: "ps", short: "List instances, their state, use and requests", stack: true, json: true, run: runPS,
	},
	{
		topic: "ps", verb: "scale", args: "[SERVICE=N | SERVICE+N | SERVICE-N …]",
		short: "Set the number of instances; without arguments, print it",
		stack: true, access: mesh.AccessRead, changes: true, max: maxArgs, json: true, run: runScale,
	},
	{
		topic: "ps", verb: "rebuild", short: "Build the current commit again with current base images",
		stack: true, access: mesh.AccessDeploy, run: runRebuild,
		flags: func(fs *pflag.FlagSet) { fs.Bool("no-cache", false, "run every step") },
	},
	{
		topic: "ps", verb: "restart", args: "[SERVICE | INSTANCE]", short: "Replace the instances with new ones, without downtime",
		stack: true, access: mesh.AccessDeploy, max: 1, run: runRestart,
	},
	{
		topic: "ps", verb: "stop", short: "Stop all instances; requests get 503", stack: true, access: mesh.AccessDeploy, run: runStop,
	},
	{
		topic: "ps", verb: "start", short: "Start a stopped stack", stack: true, access: mesh.AccessDeploy, run: runStart,
	},
}

type instanceJSON struct {
	Name     string     `json:"name"`
	State    string     `json:"state"`
	Why      string     `json:"why,omitempty"`
	Node     string     `json:"node,omitempty"`
	Release  string     `json:"release"`
	Since    time.Time  `json:"since"`
	Command  string     `json:"command,omitempty"`
	Crashes  int        `json:"crashes,omitempty"`
	ExitCode *int       `json:"exit_code,omitempty"`
	OOM      bool       `json:"oom,omitempty"`
	Next     *time.Time `json:"next_try,omitempty"`

	CPU    *float64 `json:"cpu_cores,omitempty"`    // of the last 10 s
	Memory *int64   `json:"memory_bytes,omitempty"` // without the file cache that the kernel can drop

	Traffic *trafficJSON `json:"service_last_minute,omitempty"`
	TCP     *tcpJSON     `json:"service_tcp,omitempty"`
}

// tcpJSON is about the TCP ports of the instance's service.
type tcpJSON struct {
	Ports       []portJSON `json:"ports"`
	Connections int        `json:"connections"` // open now
}

// trafficJSON is the traffic of the instance's service.
type trafficJSON struct {
	RPS    float64 `json:"rps"`
	P50    float64 `json:"p50_ms"`
	P95    float64 `json:"p95_ms"`
	Errors int     `json:"status_5xx"`

	Refused *int `json:"refused,omitempty"` // by access rules, if there are any
}

// traffic returns the last minute of a service's traffic, in JSON and in columns, the
// columns once per service; nil if it had no requests. The requests that access rules
// have refused are in neither if there are no rules.
func (c *call) traffic(svc mesh.ServiceName) (*trafficJSON, []string) {
	m := c.Traffic.Minute(c.stack.Name, svc)
	ruled := !c.stack.Access.IsZero()
	if m.Requests == 0 && (!ruled || m.Refused == 0) {
		none := []string{"-", "-", "-", "-"}
		if ruled {
			none = append(none, "-")
		}
		return nil, none
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	t := &trafficJSON{RPS: float64(m.Requests) / 60, P50: ms(m.P50), P95: ms(m.P95), Errors: m.Errors}
	columns := []string{fmt.Sprintf("%.1f", t.RPS), fmt.Sprintf("%gms", t.P50), fmt.Sprintf("%gms", t.P95), strconv.Itoa(t.Errors)}
	if ruled {
		t.Refused = &m.Refused
		columns = append(columns, strconv.Itoa(m.Refused))
	}
	return t, columns
}

// sleeping returns the instances that a stack would run if it were awake.
func (c *call) sleeping(ctx context.Context) []instanceJSON {
	list := []instanceJSON{}
	if c.stack.Asleep.IsZero() || c.stack.Stopped {
		return list
	}
	r, err := c.History.Release(ctx, c.stack.Name, c.stack.Current)
	if err != nil {
		return list
	}
	for _, svc := range r.Formation.Services() {
		for slot := 1; slot <= r.Formation[svc] && c.stack.Sleeps(svc); slot++ {
			name := mesh.InstanceName{Service: svc, Slot: slot}
			list = append(list, instanceJSON{Name: name.String(), State: "asleep", Release: r.Number.String(), Since: c.stack.Asleep, Command: r.Services[svc].Command})
		}
	}
	return list
}

func runPS(ctx context.Context, c *call) error {
	list := c.sleeping(ctx)
	var rows [][]string
	spread := false // over nodes
	latest := c.Measures.Latest(c.stack.Name)
	for _, in := range c.Processes.Status(c.stack.Name) {
		j := instanceJSON{Name: in.Name.String(), State: string(in.State), Why: in.Why, Node: string(in.Node), Release: in.Release.String(), Since: in.Since, Command: in.Command, Crashes: in.Crashes, OOM: in.OOM}
		if in.State == mesh.Crashed {
			j.ExitCode = &in.ExitCode
		}
		if in.State != mesh.Up {
			j.Next = &in.Next
		}
		use := []string{"-", "-"}
		if m := latest[in.Name]; m.Memory > 0 {
			cores := round(m.Cores(), 4)
			j.CPU, j.Memory = &cores, &m.Memory
			use = []string{percent(cores), shortBytes(m.Memory)}
		}
		var seen []string
		j.Traffic, seen = c.traffic(in.Name.Service)
		if len(c.stack.Ports) > 0 {
			tcp := "-"
			if ports := c.portsOf(in.Name.Service); len(ports) > 0 {
				j.TCP = &tcpJSON{ports, c.Traffic.Minute(c.stack.Name, in.Name.Service).Open}
				tcp = fmt.Sprintf("%s, %d open", portsText(ports), j.TCP.Connections)
			}
			seen = append(seen, tcp)
		}
		list = append(list, j)
		command := in.Command
		if command == "" {
			command = "(image)"
		}
		spread = spread || in.Node != ""
		rows = append(rows, append(append([]string{j.Name, condition(in), cmp.Or(j.Node, "-"), j.Release, c.when(in.Since), use[0], use[1]}, seen...), mesh.Clip(command, 60)))
	}
	if c.json {
		return c.printJSON(list)
	}
	defer c.tellAlerts(ctx)
	if at := c.stack.Asleep; !at.IsZero() && !c.stack.Stopped {
		c.tell("%s is asleep since %s: the next request wakes it, or: ssh mesh ps:start -a %[1]s\n", c.stack.Name, c.when(at))
		c.loss()
		if len(rows) == 0 {
			return nil
		}
	}
	if len(rows) == 0 {
		switch {
		case c.stack.Current == 0:
			c.tell("%s has not been deployed yet\n", c.stack.Name)
		case c.stack.Stopped:
			c.tell("%s is stopped; start it with: ssh mesh ps:start -a %s\n", c.stack.Name, c.stack.Name)
			c.loss()
		default:
			c.tell("%s is scaled to zero\n", c.stack.Name)
		}
		return nil
	}
	defer c.loss()
	heading := []string{"INSTANCE", "STATE", "NODE", "RELEASE", "SINCE", "CPU", "MEM", "RPS", "P50", "P95", "5XX"}
	if !c.stack.Access.IsZero() {
		heading = append(heading, "REFUSED")
	}
	if len(c.stack.Ports) > 0 {
		heading = append(heading, "TCP")
	}
	heading = append(heading, "COMMAND")
	leaveOut := func(column string) {
		i := slices.Index(heading, column)
		heading = slices.Delete(heading, i, i+1)
		for k := range rows {
			rows[k] = slices.Delete(rows[k], i, i+1)
		}
	}
	if !spread {
		leaveOut("NODE")
	}
	for _, n := range narrow {
		if c.view.width > 0 && c.view.width < n.below {
			leaveOut(n.column)
		}
	}
	c.table(heading, rows)
	return nil
}

// narrow lists the columns that ps leaves out on a screen narrower than so many
// characters.
var narrow = []struct {
	below  int
	column string
}{{100, "P50"}, {80, "P95"}}

// loss prints that the image of the current release is missing.
func (c *call) loss() {
	if l := c.Processes.Loss(c.stack.Name); l != "" {
		c.tell("%s: %s\n", c.stack.Name, l)
	}
}

// condition formats the state of an instance for people.
func condition(in mesh.InstanceStatus) string {
	switch {
	case in.State == mesh.Crashed && in.OOM:
		return fmt.Sprintf("crashed (exit %d, OOM) %d×", in.ExitCode, in.Crashes)
	case in.State == mesh.Crashed:
		return fmt.Sprintf("crashed (exit %d) %d×", in.ExitCode, in.Crashes)
	case in.Why != "":
		return fmt.Sprintf("%s: %s", in.State, mesh.Clip(in.Why, 80))
	}
	return string(in.State)
}

// parseScale parses "web=2", "web+1" or "web-1".
func parseScale(s string) (mesh.Scale, bool) {
	// A service name may contain a '-': the operator is the last one before the number.
	i := strings.LastIndexAny(s, "=+-")
	if i <= 0 {
		return mesh.Scale{}, false
	}
	svc, err := mesh.ParseServiceName(s[:i])
	n, nerr := strconv.Atoi(s[i+1:])
	if err != nil || nerr != nil || s[i+1] < '0' || s[i+1] > '9' {
		return mesh.Scale{}, false
	}
	switch s[i] {
	case '+':
		return mesh.Scale{Service: svc, To: n, Relative: true}, true
	case '-':
		return mesh.Scale{Service: svc, To: -n, Relative: true}, true
	}
	return mesh.Scale{Service: svc, To: n}, true
}

func runScale(ctx context.Context, c *call) error {
	form := c.stack.Formation
	if len(c.args) == 0 {
		if c.stack.Current > 0 {
			r, err := c.History.Release(ctx, c.stack.Name, c.stack.Current)
			if err != nil {
				return err
			}
			form = r.Formation
		}
	} else {
		if !c.Key.May(mesh.AccessDeploy, c.stack.Name) {
			return c.denied(mesh.AccessDeploy)
		}
		var changes []mesh.Scale
		for _, a := range c.args {
			s, ok := parseScale(a)
			if !ok {
				return c.usage("%q is not SERVICE=N, SERVICE+N or SERVICE-N", mesh.Clip(a, 60))
			}
			changes = append(changes, s)
		}
		var err error
		if form, err = c.Processes.Scale(ctx, c.stack.Name, c.Key.Name, changes, c.Stderr); err != nil {
			return err
		}
	}
	if c.json {
		return c.printJSON(form.Clone())
	}
	_, _ = fmt.Fprintln(c.Stdout, form)
	return nil
}

func runRebuild(ctx context.Context, c *call) error {
	noCache, _ := c.flags.GetBool("no-cache")
	return c.Processes.Rebuild(ctx, c.stack.Name, c.Key.Name, noCache, c.Stderr)
}

func runRestart(ctx context.Context, c *call) error {
	var what mesh.InstanceName
	told := "all instances"
	if len(c.args) > 0 {
		var err error
		if what, err = mesh.ParseInstanceName(c.args[0]); err != nil {
			if what.Service, err = mesh.ParseServiceName(c.args[0]); err != nil {
				return err
			}
		}
		told = c.args[0]
	}
	if err := c.Processes.Restart(ctx, c.stack.Name, c.Key.Name, what, c.Stderr); err != nil {
		return err
	}
	c.say("restarted %s: %s\n", c.stack.Name, told)
	return nil
}

func runStop(ctx context.Context, c *call) error {
	if err := c.Processes.Stop(ctx, c.stack.Name, c.Key.Name, c.Stderr); err != nil {
		return err
	}
	c.say("%s is stopped\n", c.stack.Name)
	return nil
}

func runStart(ctx context.Context, c *call) error {
	if err := c.Processes.Start(ctx, c.stack.Name, c.Key.Name, c.Stderr); err != nil {
		return err
	}
	c.say("started %s\n", c.stack.Name)
	return nil
}
